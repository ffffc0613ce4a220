//! The queue before the threads that hash: bounded, fair, and for those who still wait.
//!
//! A login takes a [`QueuePlace`], then waits for its [`HashingTurn`]. In a turn its attempt is written down and its hash begins.
//! There are two turns for each thread: while one password is hashed the next ones are prepared, and no more attempts
//! than that are under way. Whoever stops waiting leaves the queue; whose deadline cannot be met any more is told so.

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

/// Under overload the newest are served first: once somebody has waited for this long, or for so many hashes.
const PATIENCE: (Duration, u32) = (Duration::from_millis(100), 4);
/// Attempts that are prepared at a time, for each thread: writing one down takes a moment, and no thread should be idle.
const TURNS: usize = 2;
/// A wait that does not matter to others on the same connection.
const SHORT: Duration = Duration::from_millis(250);
/// Networks of IPv6 are served in turn by this prefix: what one site has all of.
const SITE: u32 = 48;
/// When to try again, at the least and at the most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Who waits for a hash.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requester {
    lane: Lane,
    connection: Option<SocketAddr>,
    deadline: Option<Instant>,
}

impl From<&Origin> for Requester {
    fn from(origin: &Origin) -> Self {
        // Whom a proxy does not name is one with all others that it does not name.
        let address = origin.address.or(origin.peer.map(|peer| peer.ip()));
        let lane = address.map(|address| network(address, if address.is_ipv4() { 32 } else { SITE }));
        Self { lane, connection: origin.peer, deadline: origin.deadline }
    }
}

/// Bounds on those who wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Hashes that are computed at a time.
    pub(super) threads: usize,
    /// Those who wait or are served, all together.
    pub(super) places: usize,
    /// Those of one connection, where the last of them would have to wait for longer than [`SHORT`].
    pub(super) per_connection: usize,
}

pub(super) struct Queue {
    limits: Limits,
    pace: Arc<RefusalDelay>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: Id,
    places: HashMap<Id, Requester>,
    connections: HashMap<SocketAddr, BTreeSet<Id>>,
    waiting: Waiting<oneshot::Sender<Slot>>,
    turns_taken: usize,
}

impl State {
    /// Gives up a place, and with it whatever waits in it.
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

/// A place among those who wait or are served. Dropped, it is free.
pub(crate) struct QueuePlace {
    queue: Arc<Queue>,
    id: Id,
    requester: Requester,
}

/// Leave to begin a hash.
pub(crate) struct HashingTurn {
    /// Until the hash begins.
    slot: Slot,
    /// Until it is done.
    place: QueuePlace,
}

/// One of the turns.
pub(super) struct Slot(Arc<Queue>);

impl Queue {
    pub(super) fn new(limits: Limits, pace: Arc<RefusalDelay>) -> Self {
        Self { limits, pace, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who wait or are served.
    pub(super) fn len(&self) -> usize {
        self.lock().places.len()
    }

    /// A place; where there is none, somebody else may have to go for it.
    pub(super) fn admit(self: &Arc<Self>, requester: Requester) -> Result<QueuePlace, Error> {
        let mut state = self.lock();
        let connected = requester.connection.and_then(|connection| state.connections.get(&connection));
        let victim = match connected {
            // The oldest that waits: the likeliest to give up.
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

    /// Gives free turns to those who wait.
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
            // Given back, where nobody waits any more.
            drop(notify.send(Slot(Arc::clone(self))));
        }
    }

    /// How long it takes at least from a turn to an answer: hashes differ, so of its own only a half is certain.
    fn needed(&self, state: &State) -> Duration {
        let average = self.pace.average();
        let before = u32::try_from(state.turns_taken).unwrap_or(u32::MAX);
        average / 2 + average.saturating_mul(before) / self.threads()
    }

    fn patience(&self) -> Duration {
        PATIENCE.0.max(self.pace.average() * PATIENCE.1)
    }

    /// How long it takes until all those who wait have been served.
    fn expected(&self, state: &State) -> Duration {
        let waiting = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        self.pace.average().saturating_mul(waiting) / self.threads()
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
    /// Waits for a turn. An error if this has to make room for others, or its deadline cannot be met any more.
    pub(crate) async fn turn(self) -> Result<HashingTurn, Error> {
        let (notify, granted) = oneshot::channel();
        {
            let now = Instant::now();
            let mut state = self.queue.lock();
            let late = self.is_late(self.queue.needed(&state));
            // Whoever came later may have taken this place.
            if late || !state.places.contains_key(&self.id) {
                return Err(self.queue.overloaded(&state));
            }
            state.waiting.push(self.id, self.requester.lane, now, self.requester.deadline, notify);
        }
        self.queue.dispatch();
        match granted.await {
            Ok(slot) => Ok(HashingTurn { slot, place: self }),
            Err(_) => Err(self.queue.overloaded(&self.queue.lock())),
        }
    }

    /// Whether what takes this long would come after the deadline.
    fn is_late(&self, takes: Duration) -> bool {
        self.requester.deadline.is_some_and(|deadline| Instant::now() + takes > deadline)
    }
}

impl HashingTurn {
    /// Gives the turn to somebody else, but not the place.
    pub(crate) fn put_off(self) -> QueuePlace {
        self.begin()
    }

    /// Whether the hash would come after the deadline, in all likelihood.
    pub(super) fn is_late(&self) -> bool {
        self.place.is_late(self.place.queue.pace.average() / 2)
    }

    /// The hash begins: the next one can be prepared. The place is free when the hash is done.
    pub(super) fn begin(self) -> QueuePlace {
        let Self { slot, place } = self;
        drop(slot);
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

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().turns_taken -= 1;
        self.0.dispatch();
    }
}
