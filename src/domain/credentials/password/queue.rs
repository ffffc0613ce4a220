//! The password queue: a bounded, fair queue in front of the hashing threads.
//!
//! A login takes a [`QueuePlace`] and then waits for its [`HashingTurn`]. If no place is free, the oldest request of
//! the address with the most waiting requests loses its place. In a turn the attempt is recorded and the hash begins.
//! There are two turns for each thread, so that the next attempts are recorded while a password is hashed.
//!
//! Turns are shared fairly between addresses (see `waiting`). A request that cannot be answered before its deadline,
//! judging by the recent duration of hashes, fails at once. A request whose client has gone is dropped together with
//! its place.

mod waiting;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::waiting::{Id, Lane, Waiting};
use super::refusal_delay::RefusalDelay;
use crate::domain::{
    Error,
    origin::{Origin, network},
};

/// When overload begins, and with it serving the newest first: when a request has waited for the longer of this time
/// and the duration of this many hashes.
const PATIENCE: (Duration, u32) = (Duration::from_millis(100), 4);
/// How many turns each thread has. Recording an attempt takes a moment, during which no thread should be idle.
const TURNS: usize = 2;
/// A wait that is too short for the limit per connection to apply.
const SHORT: Duration = Duration::from_millis(250);
/// The prefix length of the IPv6 networks that share turns: the network of one site.
const SITE: u32 = 48;
/// The shortest and the longest `retry_after`.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The client of a request for a hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requester {
    lane: Lane,
    connection: Option<SocketAddr>,
    deadline: Option<Instant>,
}

impl From<&Origin> for Requester {
    fn from(origin: &Origin) -> Self {
        // A proxy that does not name its clients is one client.
        let address = origin.address.or(origin.peer.map(|peer| peer.ip()));
        let lane = address.map(|address| network(address, if address.is_ipv4() { 32 } else { SITE }));
        Self { lane, connection: origin.peer, deadline: origin.deadline }
    }
}

/// The limits of the queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How many hashes are computed at the same time.
    pub(super) threads: usize,
    /// How many requests wait or are served.
    pub(super) places: usize,
    /// How many requests of one connection may wait if the last of them would wait for longer than [`SHORT`].
    pub(super) per_connection: usize,
}

pub(super) struct Queue {
    limits: Limits,
    refusal_delay: Arc<RefusalDelay>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: Id,
    places: HashMap<Id, Requester>,
    connections: HashMap<SocketAddr, BTreeSet<Id>>,
    waiting: Waiting<oneshot::Sender<TurnGuard>>,
    turns_taken: usize,
}

impl State {
    /// Frees a place and drops the request that waits in it.
    fn leave(&mut self, id: Id) {
        drop(self.waiting.remove(id));
        let Some(connection) = self.places.remove(&id).and_then(|requester| requester.connection) else {
            return;
        };
        if let Some(ids) = self.connections.get_mut(&connection) {
            ids.remove(&id);
            if ids.is_empty() {
                self.connections.remove(&connection);
            }
        }
    }
}

/// A place in the queue, for a request that waits or is served. Dropping it frees the place.
pub(crate) struct QueuePlace {
    queue: Arc<Queue>,
    id: Id,
    requester: Requester,
}

/// The permission to begin a hash.
pub(crate) struct HashingTurn {
    /// Held until the hash begins.
    turn: TurnGuard,
    /// Held until the hash is done.
    place: QueuePlace,
}

/// One of the turns. Dropping it passes the turn on.
pub(super) struct TurnGuard(Arc<Queue>);

impl Queue {
    pub(super) fn new(limits: Limits, refusal_delay: Arc<RefusalDelay>) -> Self {
        Self { limits, refusal_delay, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests wait or are served.
    pub(super) fn len(&self) -> usize {
        self.lock().places.len()
    }

    /// Returns the number of requests that wait for a turn.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes a place. If none is free, another request may lose its place.
    pub(super) fn admit(self: &Arc<Self>, requester: Requester) -> Result<QueuePlace, Error> {
        let mut state = self.lock();
        let connected = requester.connection.and_then(|connection| state.connections.get(&connection));
        let victim = match connected {
            // The oldest waiting request is the most likely to be abandoned.
            Some(ids) if ids.len() >= self.limits.per_connection && self.expected(&state) > SHORT => {
                Some(ids.iter().copied().find(|id| state.waiting.contains(*id)))
            }
            _ if state.places.len() >= self.limits.places => Some(state.waiting.victim(requester.lane)),
            _ => None,
        };
        match victim {
            Some(Some(victim)) => state.leave(victim),
            Some(None) => return Err(self.overloaded(&state)),
            None => {}
        }
        let id = state.next;
        state.next += 1;
        state.places.insert(id, requester);
        if let Some(connection) = requester.connection {
            state.connections.entry(connection).or_default().insert(id);
        }
        Ok(QueuePlace { queue: Arc::clone(self), id, requester })
    }

    /// Gives free turns to waiting requests.
    fn dispatch(self: &Arc<Self>) {
        let mut granted = Vec::new();
        {
            let mut state = self.lock();
            let now = Instant::now();
            while let Some(late) = state.waiting.overdue(now + self.needed(&state)) {
                state.leave(late);
            }
            while state.turns_taken < self.limits.threads.saturating_mul(TURNS) {
                let Some((_, notify)) = state.waiting.next(now, self.patience()) else { break };
                state.turns_taken += 1;
                granted.push(notify);
            }
        }
        for notify in granted {
            // If the request is gone, dropping the guard passes the turn on.
            drop(notify.send(TurnGuard(Arc::clone(self))));
        }
    }

    /// The minimum time from a turn to an answer. Hashes differ, so only half of the average counts for its own.
    fn needed(&self, state: &State) -> Duration {
        let average = self.refusal_delay.average();
        let before = u32::try_from(state.turns_taken).unwrap_or(u32::MAX);
        average / 2 + average.saturating_mul(before) / self.threads()
    }

    fn patience(&self) -> Duration {
        PATIENCE.0.max(self.refusal_delay.average() * PATIENCE.1)
    }

    /// The expected time until all waiting requests are served.
    fn expected(&self, state: &State) -> Duration {
        let waiting = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        self.refusal_delay.average().saturating_mul(waiting) / self.threads()
    }

    fn threads(&self) -> u32 {
        u32::try_from(self.limits.threads).unwrap_or(u32::MAX).max(1)
    }

    fn overloaded(&self, state: &State) -> Error {
        Error::Overloaded {
            what: "too many passwords are waiting to be checked",
            retry_after: self.expected(state).clamp(RETRY.0, RETRY.1),
        }
    }
}

impl QueuePlace {
    /// Waits for a turn. Fails if the place is lost to another request or the deadline cannot be met.
    pub(crate) async fn turn(self) -> Result<HashingTurn, Error> {
        let (notify, granted) = oneshot::channel();
        {
            let now = Instant::now();
            let mut state = self.queue.lock();
            let late = self.is_late(self.queue.needed(&state));
            // A later request may have taken this place.
            if late || !state.places.contains_key(&self.id) {
                return Err(self.queue.overloaded(&state));
            }
            state.waiting.push(self.id, self.requester.lane, now, self.requester.deadline, notify);
        }
        self.queue.dispatch();
        match granted.await {
            Ok(turn) => Ok(HashingTurn { turn, place: self }),
            Err(_) => Err(self.queue.overloaded(&self.queue.lock())),
        }
    }

    /// Whether an answer after this duration would miss the deadline.
    fn is_late(&self, takes: Duration) -> bool {
        self.requester.deadline.is_some_and(|deadline| Instant::now() + takes > deadline)
    }
}

impl HashingTurn {
    /// Passes the turn on, but keeps the place.
    pub(crate) fn release(self) -> QueuePlace {
        self.begin()
    }

    /// Whether the hash would probably miss the deadline.
    pub(super) fn is_late(&self) -> bool {
        self.place.is_late(self.place.queue.refusal_delay.average() / 2)
    }

    /// Begins the hash and passes the turn on. The place is free when the hash is done.
    pub(super) fn begin(self) -> QueuePlace {
        let Self { turn, place } = self;
        drop(turn);
        place
    }

    pub(super) fn overloaded(&self) -> Error {
        let queue = &self.place.queue;
        queue.overloaded(&queue.lock())
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.queue.lock().leave(self.id);
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        self.0.lock().turns_taken -= 1;
        self.0.dispatch();
    }
}
