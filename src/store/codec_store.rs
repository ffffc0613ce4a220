//! Implements the ports for registers and the event log over any backend, with the codec.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    backend::{Backend, EncodedChange, EncodedCommit, EncodedTail, EncodedValue},
    binding,
    codec::{self, CodecError},
    decode_cache::DecodeCache,
};
use crate::domain::{
    epoch::EpochKey,
    health::{ProbeKey, ProbeMark},
    lease::{Delivery, DeliveryKey},
    ports::{
        Change, Commit, Cursor, Event, EventLog, Quiet, Registers, Revision, State, StoreError, Tail,
        Versioned,
    },
    sessions::{Epoch, SessionEvent, UserSessions},
    throttle::{Throttle, ThrottleKey},
    types::UserId,
};

/// The highest revision, because the integers of SQLite have a sign.
const MAX_REVISION: u64 = i64::MAX.cast_unsigned();

/// A state that can be stored by a backend.
pub trait StateCodec: State + Sized {
    /// Returns the name of the register.
    fn name(key: &Self::Key) -> &str;

    /// Returns a lower bound for the revision that grows with the state, taken from the clock. It keeps revisions
    /// growing when a register is deleted and created again.
    fn min_revision(&self) -> u64;

    /// Encodes the state.
    fn encode(&self) -> Bytes;

    /// Decodes a state.
    fn decode(bytes: Bytes) -> Result<Self, CodecError>;

    /// Decodes a state of a batch, with the help of the decode cache.
    fn decode_cached(bytes: Bytes, _: &DecodeCache) -> Result<Arc<Self>, CodecError> {
        Self::decode(bytes).map(Arc::new)
    }

    /// Encodes an event.
    fn encode_event(key: &Self::Key, event: &Self::Event) -> Bytes;
}

impl StateCodec for UserSessions {
    fn name(key: &UserId) -> &str {
        key.as_str()
    }

    fn min_revision(&self) -> u64 {
        self.generation.0
    }

    fn encode(&self) -> Bytes {
        codec::encode_sessions(self)
    }

    fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        codec::decode_sessions(bytes)
    }

    fn decode_cached(bytes: Bytes, cache: &DecodeCache) -> Result<Arc<Self>, CodecError> {
        cache.decode(bytes)
    }

    fn encode_event(key: &UserId, event: &SessionEvent) -> Bytes {
        match event {
            SessionEvent::Ended(ended) => codec::encode_event(key, ended),
            SessionEvent::Changed => codec::encode_changed(key),
        }
    }
}

impl StateCodec for Throttle {
    fn name(key: &ThrottleKey) -> &str {
        key.as_str()
    }

    fn min_revision(&self) -> u64 {
        self.changed_at.as_micros()
    }

    fn encode(&self) -> Bytes {
        codec::encode_throttle(self)
    }

    fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        codec::decode_throttle(&bytes)
    }

    fn encode_event(_: &ThrottleKey, event: &Infallible) -> Bytes {
        match *event {}
    }
}

impl StateCodec for Epoch {
    fn name(key: &EpochKey) -> &str {
        key.name()
    }

    fn min_revision(&self) -> u64 {
        self.number
    }

    fn encode(&self) -> Bytes {
        codec::encode_epoch(self)
    }

    fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        codec::decode_epoch(&bytes)
    }

    fn encode_event(_: &EpochKey, epoch: &Epoch) -> Bytes {
        codec::encode_epoch_event(epoch)
    }
}

impl StateCodec for ProbeMark {
    fn name(key: &ProbeKey) -> &str {
        key.as_str()
    }

    fn min_revision(&self) -> u64 {
        self.written_at.as_micros()
    }

    fn encode(&self) -> Bytes {
        codec::encode_probe(self)
    }

    fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        codec::decode_probe(&bytes)
    }

    fn encode_event(_: &ProbeKey, event: &Infallible) -> Bytes {
        match *event {}
    }
}

impl StateCodec for Delivery {
    fn name(key: &DeliveryKey) -> &str {
        key.as_str()
    }

    fn min_revision(&self) -> u64 {
        self.changed_at.as_micros()
    }

    fn encode(&self) -> Bytes {
        codec::encode_delivery(self)
    }

    fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        codec::decode_delivery(&bytes)
    }

    fn encode_event(_: &DeliveryKey, event: &Infallible) -> Bytes {
        match *event {}
    }
}

/// Registers and event log over a backend of bytes.
pub struct CodecStore<B> {
    /// The backend.
    pub backend: B,
    decode_cache: DecodeCache,
}

impl<B: Backend> CodecStore<B> {
    /// Wraps a backend.
    pub fn new(backend: B) -> Self {
        Self { backend, decode_cache: DecodeCache::default() }
    }

    fn decode<S: StateCodec>(key: &S::Key, value: Option<EncodedValue>) -> Result<Versioned<S>, StoreError> {
        Self::decode_with(key, value, |bytes| S::decode(bytes).map(Arc::new))
    }

    fn decode_with<S: StateCodec>(
        key: &S::Key,
        value: Option<EncodedValue>,
        decode: impl FnOnce(Bytes) -> Result<Arc<S>, CodecError>,
    ) -> Result<Versioned<S>, StoreError> {
        let Some(EncodedValue { revision, bytes }) = value else {
            return Ok(Versioned { revision: Revision::ABSENT, state: Arc::default() });
        };
        let corrupt = |cause: &str| Err(StoreError::Corrupt { store: B::NAME, cause: cause.to_owned() });
        if !binding::belongs(S::name(key), &bytes) {
            return corrupt("the value of a register belongs to another register");
        }
        // Revision 0 would pass for that of an empty register, and there is none after the highest.
        if !(1..=MAX_REVISION).contains(&revision) {
            return corrupt("the value of a register has an impossible revision");
        }
        let state = decode(bytes).map_err(|error| Self::corrupt(&error))?;
        Ok(Versioned { revision: Revision(revision), state })
    }

    /// Encodes a commit. Returns it with the new revision.
    fn encode<S: StateCodec>(
        key: &S::Key,
        expected: Revision,
        change: &Change<S>,
    ) -> Result<(u64, EncodedChange), StoreError> {
        let Change { state, keep_until, events } = change;
        // Not simply the next number: a register that was deleted and created again must not reach a revision that a
        // slow reader still holds.
        let revision = state.min_revision().max(expected.0.saturating_add(1));
        if revision > MAX_REVISION {
            let cause = "the state of a register would have an impossible revision".to_owned();
            return Err(StoreError::Corrupt { store: B::NAME, cause });
        }
        let change = EncodedChange {
            expected: expected.0,
            value: EncodedValue { revision, bytes: binding::bind(S::name(key), &state.encode()) },
            keep_until: *keep_until,
            events: events.iter().map(|event| S::encode_event(key, event)).collect(),
        };
        Ok((revision, change))
    }

    fn decode_commit<S: StateCodec>(
        key: &S::Key,
        revision: u64,
        commit: EncodedCommit,
    ) -> Result<Commit<S>, StoreError> {
        Ok(match commit {
            EncodedCommit::Committed => Commit::Committed(Revision(revision)),
            EncodedCommit::Conflict(current) => Commit::Conflict(Self::decode(key, current)?),
        })
    }

    fn decode_tail(tail: EncodedTail) -> Result<Tail, StoreError> {
        let EncodedTail { events, next, gap, complete } = tail;
        let events: Result<Vec<Event>, _> = events.iter().map(|bytes| codec::decode_event(bytes)).collect();
        Ok(Tail { events: events.map_err(|error| Self::corrupt(&error))?, next, gap, complete })
    }

    fn corrupt(error: &CodecError) -> StoreError {
        StoreError::Corrupt { store: B::NAME, cause: error.to_string() }
    }
}

#[async_trait]
impl<B: Backend, S: StateCodec> Registers<S> for CodecStore<B> {
    async fn load(&self, key: &S::Key) -> Result<Versioned<S>, StoreError> {
        Self::decode(key, self.backend.load(S::name(key)).await?)
    }

    async fn load_many(&self, keys: &[&S::Key]) -> Vec<Result<Versioned<S>, StoreError>> {
        let names: Vec<_> = keys.iter().map(|key| S::name(key)).collect();
        let reads = self.backend.load_many(&names).await;
        let decode = |(key, read): (&&S::Key, Result<_, _>)| {
            Self::decode_with(*key, read?, |bytes| S::decode_cached(bytes, &self.decode_cache))
        };
        keys.iter().zip(reads).map(decode).collect()
    }

    async fn confirm(&self, key: &S::Key) -> Result<(), StoreError> {
        self.backend.confirm(S::name(key)).await
    }

    fn shard(&self, key: &S::Key) -> usize {
        self.backend.shard(S::name(key))
    }

    async fn commit(
        &self,
        key: &S::Key,
        expected: Revision,
        change: Change<S>,
    ) -> Result<Commit<S>, StoreError> {
        let (revision, change) = Self::encode(key, expected, &change)?;
        Self::decode_commit(key, revision, self.backend.commit(S::name(key), change).await?)
    }

    async fn commit_many(
        &self,
        commits: Vec<(&S::Key, Revision, Change<S>)>,
    ) -> Vec<Result<Commit<S>, StoreError>> {
        let mut encoded = Vec::with_capacity(commits.len());
        let encode = |(key, expected, change): (_, _, Change<S>)| {
            let (revision, change) = Self::encode(key, expected, &change)?;
            encoded.push((S::name(key), change));
            Ok((key, revision))
        };
        let commits: Vec<Result<_, StoreError>> = commits.into_iter().map(encode).collect();
        let mut committed = self.backend.commit_many(encoded).await.into_iter();
        let decode = |commit: Result<(&S::Key, _), _>| {
            let (key, revision) = commit?;
            let stopped =
                || StoreError::Unavailable { store: B::NAME, cause: "a commit has no result".into() };
            Self::decode_commit(key, revision, committed.next().unwrap_or_else(|| Err(stopped()))?)
        };
        commits.into_iter().map(decode).collect()
    }
}

#[async_trait]
impl<B: Backend> EventLog for CodecStore<B> {
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError> {
        Self::decode_tail(self.backend.tail(after, limit).await?)
    }

    async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Result<Tail, StoreError> {
        Self::decode_tail(self.backend.follow(after, limit, patience).await?)
    }

    async fn follow_closely(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
        quiet: &Quiet<'_>,
    ) -> Result<Tail, StoreError> {
        Self::decode_tail(self.backend.follow_closely(after, limit, patience, quiet).await?)
    }
}
