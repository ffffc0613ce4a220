//! Batches concurrent loads of sessions into one request to the store.
//!
//! The first load of a batch yields once, so that all tasks that are ready run, and then sends everything that has
//! joined by then, each register once: one MGET of at most 512 keys on Redis. A load that stays alone is sent alone.
//! Nobody waits for a timer or for a request under way.
//!
//! A load sees every commit that was answered before it began (promise P1), because it only joins a batch that has
//! not been sent. Each shard of the store has its own batch, so that a slow one delays no others. Joining a batch and
//! taking it to send it happen under one lock, so the store is read after the last load of the batch has begun. A
//! response is never shared with a load that came after the request was sent, not even with one of the same register.

use std::{
    collections::HashMap,
    mem,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use foldhash::fast::RandomState;
use futures_util::future::join_all;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};
use tracing::Instrument as _;

use crate::{
    domain::{
        ports::{Change, Commit, Moment, Registers, Revision, StoreError, Versioned},
        sessions::UserSessions,
        types::UserId,
    },
    trace,
};

type Read = Result<Versioned<UserSessions>, StoreError>;

/// Batches loads for a store that answers many at once faster than each alone.
pub struct BatchingSessions {
    inner: Arc<dyn Registers<UserSessions>>,
    /// Runs the requests of batches, so that they survive the load that sends them.
    runtime: Handle,
    /// The index is the shard modulo `SHARDS`.
    next: [Mutex<Batch>; SHARDS],
}

/// Shards with batches of their own.
const SHARDS: usize = 32;

/// Loads that have not been sent.
#[derive(Default)]
struct Batch {
    number: u64,
    /// The keys of all loads, one load after the other.
    keys: Vec<UserId>,
    waiters: Vec<Waiter>,
}

/// A load of one register or of several.
struct Waiter {
    /// The range of its keys.
    range: Range<usize>,
    sender: oneshot::Sender<Arc<BatchResult>>,
}

struct BatchResult {
    /// One read per distinct key.
    reads: Vec<Read>,
    /// The index into `reads` of each key.
    indices: Vec<usize>,
}

/// The duty of the first load to send its batch. That load can be cancelled at any await, with the request that it
/// belongs to; then dropping the guard sends the batch for the others.
struct SendGuard<'a> {
    sessions: &'a BatchingSessions,
    shard: usize,
    number: u64,
}

impl Drop for SendGuard<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.sessions.take(self.shard, self.number) {
            self.sessions.send(batch);
        }
    }
}

impl BatchingSessions {
    /// Needs a Tokio runtime.
    pub fn new(inner: Arc<dyn Registers<UserSessions>>) -> Self {
        Self { inner, runtime: Handle::current(), next: Default::default() }
    }

    /// Returns the result of the batch with these keys, which are of one shard, and their range in it.
    async fn read(
        &self,
        shard: usize,
        keys: &[&UserId],
    ) -> Result<(Arc<BatchResult>, Range<usize>), StoreError> {
        // If this is cancelled, `receiver` is dropped before `guard`, so that the batch is sent without this load.
        let (guard, range, receiver) = self.join(shard, keys);
        if let Some(guard) = &guard {
            // Returns once all tasks that are ready have been polled.
            yield_now().await;
            if let Some(batch) = self.take(shard, guard.number) {
                if batch.waiters.len() == 1 {
                    // Awaited in this task, so that cancelling the load cancels the request.
                    return Ok((Arc::new(batch.read(&*self.inner).await), range));
                }
                self.send(batch);
            }
        }
        let result = trace::step("batched load", receiver).await.map_err(|_| {
            // The task panicked, or the runtime is shutting down.
            let cause = "the task that sends a batch of loads has ended".to_owned();
            StoreError::Unavailable { store: "session", cause }
        });
        Ok((result?, range))
    }

    /// Joins the next batch. The load that begins a batch gets the duty to send it.
    fn join(
        &self,
        shard: usize,
        keys: &[&UserId],
    ) -> (Option<SendGuard<'_>>, Range<usize>, oneshot::Receiver<Arc<BatchResult>>) {
        let (sender, receiver) = oneshot::channel();
        let mut next = self.next[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = next.waiters.is_empty();
        let start = next.keys.len();
        next.keys.extend(keys.iter().copied().cloned());
        let range = start..next.keys.len();
        next.waiters.push(Waiter { range: range.clone(), sender });
        // Not `then_some`: it would drop an unneeded guard, which takes the lock that is held here.
        let guard = is_first.then(|| SendGuard { sessions: self, shard, number: next.number });
        (guard, range, receiver)
    }

    /// Takes the batch with this number, unless it has been sent.
    fn take(&self, shard: usize, number: u64) -> Option<Batch> {
        let mut next = self.next[shard].lock().unwrap_or_else(PoisonError::into_inner);
        (next.number == number).then(|| next.take())
    }

    /// Sends the batch in a task of its own, so that no client that hangs up cancels the loads of others.
    fn send(&self, mut batch: Batch) {
        let inner = Arc::clone(&self.inner);
        let send = async move {
            batch.waiters.retain(|waiter| !waiter.sender.is_closed());
            let result = Arc::new(batch.read(&*inner).await);
            for waiter in batch.waiters {
                // Fails if the load was cancelled.
                let _ = waiter.sender.send(Arc::clone(&result));
            }
        };
        self.runtime.spawn(send.in_current_span());
    }
}

impl Batch {
    /// Replaces the batch by an empty one with the next number.
    fn take(&mut self) -> Self {
        let next = Self { number: self.number + 1, ..Self::default() };
        mem::replace(self, next)
    }

    /// Loads each distinct register that a waiter needs.
    async fn read(&self, store: &dyn Registers<UserSessions>) -> BatchResult {
        let mut indices = vec![0; self.keys.len()];
        let mut distinct = Vec::with_capacity(self.keys.len());
        {
            let mut seen = HashMap::with_capacity_and_hasher(self.keys.len(), RandomState::default());
            for position in self.waiters.iter().flat_map(|waiter| waiter.range.clone()) {
                let key = &self.keys[position];
                indices[position] = *seen.entry(key).or_insert_with(|| {
                    distinct.push(key);
                    distinct.len() - 1
                });
            }
        }
        BatchResult { reads: store.load_many(&distinct).await, indices }
    }
}

impl BatchResult {
    fn get(&self, position: usize) -> Read {
        self.reads[self.indices[position]].clone()
    }
}

#[async_trait]
impl Registers<UserSessions> for BatchingSessions {
    async fn load(&self, key: &UserId) -> Read {
        let (result, range) = self.read(self.shard(key), &[key]).await?;
        result.get(range.start)
    }

    async fn load_many(&self, keys: &[&UserId]) -> Vec<Read> {
        let Some(first) = keys.first() else { return Vec::new() };
        let shard = self.shard(first);
        if keys.iter().all(|key| self.shard(key) == shard) {
            return match self.read(shard, keys).await {
                Ok((result, range)) => range.map(|position| result.get(position)).collect(),
                Err(error) => vec![Err(error); keys.len()],
            };
        }
        let mut by_shard: Vec<_> =
            keys.iter().enumerate().map(|(index, key)| (self.shard(key), index)).collect();
        by_shard.sort_unstable();
        let reads = by_shard.chunk_by(|a, b| a.0 == b.0).map(async |group| {
            let keys: Vec<_> = group.iter().map(|(_, index)| keys[*index]).collect();
            let reads = match self.read(group[0].0, &keys).await {
                Ok((result, range)) => range.map(|position| result.get(position)).collect(),
                Err(error) => vec![Err(error); keys.len()],
            };
            group.iter().map(|(_, index)| *index).zip(reads).collect::<Vec<_>>()
        });
        let mut reads: Vec<_> = join_all(reads.collect::<Vec<_>>()).await.into_iter().flatten().collect();
        reads.sort_unstable_by_key(|(index, _)| *index);
        reads.into_iter().map(|(_, read)| read).collect()
    }

    async fn confirm(&self, key: &UserId) -> Result<(), StoreError> {
        self.inner.confirm(key).await
    }

    fn shard(&self, key: &UserId) -> usize {
        self.inner.shard(key) % SHARDS
    }

    fn recall(&self, key: &UserId, max_staleness: Duration, now: &Moment) -> Option<Versioned<UserSessions>> {
        self.inner.recall(key, max_staleness, now)
    }

    async fn commit(
        &self,
        key: &UserId,
        expected: Revision,
        change: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        self.inner.commit(key, expected, change).await
    }

    async fn commit_many(
        &self,
        commits: Vec<(&UserId, Revision, Change<UserSessions>)>,
    ) -> Vec<Result<Commit<UserSessions>, StoreError>> {
        self.inner.commit_many(commits).await
    }
}
