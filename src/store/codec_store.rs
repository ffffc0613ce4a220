//! Any backend of bytes, as the registers and the event log that the domain asks for.

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
        Change, Commit, Cursor, Event, EventLog, Registers, Revision, State, StoreError, Tail, Versioned,
    },
    sessions::{Epoch, SessionEvent, UserSessions},
    throttle::{Throttle, ThrottleKey},
    types::UserId,
};

/// A state that can be bytes.
pub trait StateCodec: State + Sized {
    /// The name of the register.
    fn name(key: &Self::Key) -> &str;

    /// A number that grows with the state, through the register being forgotten and made anew: taken
    /// from the clock.
    fn floor(&self) -> u64;

    /// The state as bytes.
    fn encode(&self) -> Bytes;

    /// The state that these are the bytes of.
    fn decode(bytes: Bytes) -> Result<Self, CodecError>;

    /// The same, of one of many that are read at once; one that was decoded before may stand for it.
    fn decode_one_of_many(_: &Self::Key, bytes: Bytes, _: &DecodeCache) -> Result<Arc<Self>, CodecError> {
        Self::decode(bytes).map(Arc::new)
    }

    /// An event as bytes.
    fn encode_event(key: &Self::Key, event: &Self::Event) -> Bytes;
}

impl StateCodec for UserSessions {
    fn name(key: &UserId) -> &str {
        key.as_str()
    }

    fn floor(&self) -> u64 {
        self.generation.0
    }

    fn encode(&self) -> Bytes {
        codec::encode_sessions(self)
    }

    fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        codec::decode_sessions(bytes)
    }

    fn decode_one_of_many(key: &UserId, bytes: Bytes, before: &DecodeCache) -> Result<Arc<Self>, CodecError> {
        before.decode(key, bytes)
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

    fn floor(&self) -> u64 {
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
    fn name(_: &EpochKey) -> &str {
        EpochKey::NAME
    }

    fn floor(&self) -> u64 {
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

    fn floor(&self) -> u64 {
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

    fn floor(&self) -> u64 {
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

/// A backend with the codec around it.
pub struct CodecStore<R> {
    /// The backend.
    pub raw: R,
    decoded: DecodeCache,
}

impl<R: Backend> CodecStore<R> {
    /// With this backend.
    pub fn new(raw: R) -> Self {
        Self { raw, decoded: DecodeCache::default() }
    }

    fn decode<S: StateCodec>(key: &S::Key, value: Option<EncodedValue>) -> Result<Versioned<S>, StoreError> {
        Self::versioned(key, value, |bytes| S::decode(bytes).map(Arc::new))
    }

    fn versioned<S: StateCodec>(
        key: &S::Key,
        value: Option<EncodedValue>,
        decode: impl FnOnce(Bytes) -> Result<Arc<S>, CodecError>,
    ) -> Result<Versioned<S>, StoreError> {
        let Some(EncodedValue { revision, bytes }) = value else {
            return Ok(Versioned { revision: Revision::ABSENT, state: Arc::default() });
        };
        if !binding::belongs(S::name(key), &bytes) {
            let cause = "a register holds the value of another one".to_owned();
            return Err(StoreError::Corrupt { store: R::NAME, cause });
        }
        let state = decode(bytes).map_err(|error| Self::corrupt(&error))?;
        Ok(Versioned { revision: Revision(revision), state })
    }

    fn decode_tail(raw: EncodedTail) -> Result<Tail, StoreError> {
        let events: Result<Vec<Event>, _> =
            raw.events.iter().map(|bytes| codec::decode_event(bytes)).collect();
        Ok(Tail { events: events.map_err(|error| Self::corrupt(&error))?, next: raw.next, gap: raw.gap })
    }

    fn corrupt(error: &CodecError) -> StoreError {
        StoreError::Corrupt { store: R::NAME, cause: error.to_string() }
    }
}

#[async_trait]
impl<R: Backend, S: StateCodec> Registers<S> for CodecStore<R> {
    async fn load(&self, key: &S::Key) -> Result<Versioned<S>, StoreError> {
        Self::decode(key, self.raw.load(S::name(key)).await?)
    }

    async fn load_many(&self, keys: &[&S::Key]) -> Vec<Result<Versioned<S>, StoreError>> {
        let names: Vec<_> = keys.iter().map(|key| S::name(key)).collect();
        let reads = self.raw.load_many(&names).await;
        let decode = |(key, read): (&&S::Key, Result<_, _>)| {
            Self::versioned(*key, read?, |bytes| S::decode_one_of_many(key, bytes, &self.decoded))
        };
        keys.iter().zip(reads).map(decode).collect()
    }

    async fn commit(
        &self,
        key: &S::Key,
        expected: Revision,
        change: Change<S>,
    ) -> Result<Commit<S>, StoreError> {
        let Change { state, keep_until, events } = change;
        // Not simply one more than before: a register that was forgotten and made anew must not come by
        // a revision that a slow reader still holds.
        let revision = state.floor().max(expected.0 + 1);
        let change = EncodedChange {
            expected: expected.0,
            value: EncodedValue { revision, bytes: binding::bind(S::name(key), &state.encode()) },
            keep_until,
            events: events.iter().map(|event| S::encode_event(key, event)).collect(),
        };
        Ok(match self.raw.commit(S::name(key), change).await? {
            EncodedCommit::Committed => Commit::Committed(Revision(revision)),
            EncodedCommit::Conflict(stands) => Commit::Conflict(Self::decode(key, stands)?),
        })
    }
}

#[async_trait]
impl<R: Backend> EventLog for CodecStore<R> {
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError> {
        Self::decode_tail(self.raw.tail(after, limit).await?)
    }

    async fn follow(&self, after: &Cursor, limit: usize, patience: Duration) -> Result<Tail, StoreError> {
        Self::decode_tail(self.raw.follow(after, limit, patience).await?)
    }
}
