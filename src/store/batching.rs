//! Loads that share round trips.
//!
//! The first load of a batch lets the tasks that are ready have their turn, and then asks the store for all that
//! has come together by then, each register once. Nobody waits for a clock, nor for an answer that is still
//! under way; a load that stays alone asks by itself.
//!
//! A load sees every commit that was answered before it began (promise P1): it only ever joins a batch
//! that has not been sent. Joining a batch and taking it away to send it happen under one lock, so the
//! store is asked after the last of them has begun, and reads later still. The answer to a question
//! that was sent is never shared with a load that came after, not even with one of the same register.

use std::{
    collections::HashMap,
    mem,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use foldhash::fast::RandomState;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use crate::domain::{
    ports::{Change, Commit, Registers, Revision, StoreError, Versioned},
    sessions::UserSessions,
    types::UserId,
};

type Read = Result<Versioned<UserSessions>, StoreError>;

/// The registers of sessions, where asking for many at once is cheaper than asking for each.
pub struct BatchingSessions {
    inner: Arc<dyn Registers<UserSessions>>,
    /// Where a batch is sent for those whose first has left.
    runtime: Handle,
    next: Mutex<ReadBatch>,
}

/// Loads that nobody has asked the store for yet.
#[derive(Default)]
struct ReadBatch {
    /// Tells it from those that were sent before.
    number: u64,
    /// What is to be read, one load after the other.
    keys: Vec<UserId>,
    loads: Vec<Waiting>,
}

/// A load, of one register or of many.
struct Waiting {
    /// Its part of the keys.
    part: Range<usize>,
    tell: oneshot::Sender<Arc<Reads>>,
}

/// What the store has said.
struct Reads {
    /// Of each register once.
    found: Vec<Read>,
    /// Where among these the answer to a key is, in the order of the keys.
    places: Vec<usize>,
}

/// The duty to send a batch, of the load that began it. That load may be given up at any moment, with
/// the request that it belongs to; the others must not wait for ever.
struct BatchTurn<'a> {
    sessions: &'a BatchingSessions,
    number: u64,
}

impl Drop for BatchTurn<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.sessions.take(self.number) {
            self.sessions.send(batch);
        }
    }
}

impl BatchingSessions {
    /// Gathers the loads from that store. To be made where tasks can be spawned.
    pub fn new(inner: Arc<dyn Registers<UserSessions>>) -> Self {
        Self { inner, runtime: Handle::current(), next: Mutex::default() }
    }

    /// What stands in these registers, read after this was called, and where the answers to these keys are.
    async fn read(&self, keys: &[&UserId]) -> Result<(Arc<Reads>, Range<usize>), StoreError> {
        // Given up in the middle, the load stops waiting for an answer before its turn is taken: nobody
        // asks on its behalf.
        let (turn, part, answer) = self.join(keys);
        if let Some(turn) = &turn {
            // Comes back once whoever is ready has been polled; where nobody is, at once.
            yield_now().await;
            if let Some(batch) = self.take(turn.number) {
                if batch.loads.len() == 1 {
                    // As it is asked for here, giving up the load gives up the question.
                    return Ok((Arc::new(batch.read(&*self.inner).await), part));
                }
                self.send(batch);
            }
        }
        let reads = answer.await.map_err(|_| {
            // It panicked, or the runtime is going down and has dropped it.
            StoreError::Unavailable { store: "session", cause: "the task that asked has ended".to_owned() }
        });
        Ok((reads?, part))
    }

    /// Joins the batch that is sent next. Who begins one has to send it.
    fn join(&self, keys: &[&UserId]) -> (Option<BatchTurn<'_>>, Range<usize>, oneshot::Receiver<Arc<Reads>>) {
        let (tell, answer) = oneshot::channel();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = next.loads.is_empty();
        let begin = next.keys.len();
        next.keys.extend(keys.iter().copied().cloned());
        let part = begin..next.keys.len();
        next.loads.push(Waiting { part: part.clone(), tell });
        // Not `then_some`: a turn that is made and dropped is taken, under this very lock.
        let turn = begins.then(|| BatchTurn { sessions: self, number: next.number });
        (turn, part, answer)
    }

    /// The batch of that number, unless it has been sent.
    fn take(&self, number: u64) -> Option<ReadBatch> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        (next.number == number).then(|| next.take())
    }

    /// In a task of its own: no load whose client hangs up takes the others with it.
    fn send(&self, mut batch: ReadBatch) {
        let inner = Arc::clone(&self.inner);
        self.runtime.spawn(async move {
            batch.loads.retain(|load| !load.tell.is_closed());
            let reads = Arc::new(batch.read(&*inner).await);
            for load in batch.loads {
                // Fails where nobody wants to know any more.
                let _ = load.tell.send(Arc::clone(&reads));
            }
        });
    }
}

impl ReadBatch {
    /// What is in it; whoever comes from now on is in the next.
    fn take(&mut self) -> Self {
        let next = Self { number: self.number + 1, ..Self::default() };
        mem::replace(self, next)
    }

    /// Asks for each register that somebody waits for.
    async fn read(&self, store: &dyn Registers<UserSessions>) -> Reads {
        let mut places = vec![0; self.keys.len()];
        let mut once = Vec::with_capacity(self.keys.len());
        {
            let mut known = HashMap::with_capacity_and_hasher(self.keys.len(), RandomState::default());
            for place in self.loads.iter().flat_map(|load| load.part.clone()) {
                let key = &self.keys[place];
                places[place] = *known.entry(key).or_insert_with(|| {
                    once.push(key);
                    once.len() - 1
                });
            }
        }
        Reads { found: store.load_many(&once).await, places }
    }
}

impl Reads {
    fn of(&self, place: usize) -> Read {
        self.found[self.places[place]].clone()
    }
}

#[async_trait]
impl Registers<UserSessions> for BatchingSessions {
    async fn load(&self, key: &UserId) -> Read {
        let (reads, part) = self.read(&[key]).await?;
        reads.of(part.start)
    }

    async fn load_many(&self, keys: &[&UserId]) -> Vec<Read> {
        match self.read(keys).await {
            Ok((reads, part)) => part.map(|place| reads.of(place)).collect(),
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn commit(
        &self,
        key: &UserId,
        expected: Revision,
        change: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        self.inner.commit(key, expected, change).await
    }
}
