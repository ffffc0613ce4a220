//! Any backend of bytes, as the registers and the event log that the domain asks for.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    codec,
    raw::{RawChange, RawCommit, RawRegisters, RawValue},
};
use crate::domain::{
    ports::{Change, Commit, Cursor, Event, EventLog, Registers, Revision, StoreError, Tail, Versioned},
    sessions::UserSessions,
    types::UserId,
};

/// A backend with the codec around it.
pub struct Encoded<R>(pub R);

impl<R: RawRegisters> Encoded<R> {
    fn decode(value: Option<RawValue>) -> Result<Versioned<UserSessions>, StoreError> {
        let Some(RawValue { revision, bytes }) = value else {
            return Ok(Versioned { revision: Revision::ABSENT, state: Arc::default() });
        };
        let state = codec::decode_sessions(&bytes).map_err(|error| Self::corrupt(&error))?;
        Ok(Versioned { revision: Revision(revision), state: Arc::new(state) })
    }

    fn corrupt(error: &codec::CodecError) -> StoreError {
        StoreError::Corrupt { store: R::NAME, cause: error.to_string() }
    }
}

#[async_trait]
impl<R: RawRegisters> Registers<UserSessions> for Encoded<R> {
    async fn load(&self, user: &UserId) -> Result<Versioned<UserSessions>, StoreError> {
        Self::decode(self.0.load(user.as_str()).await?)
    }

    async fn commit(
        &self,
        user: &UserId,
        expected: Revision,
        change: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        let Change { state, keep_until, events } = change;
        // Not simply one more than before: a register that was forgotten and made anew must not come by
        // a revision that a slow reader still holds. Generations are taken from the clock.
        let revision = state.generation.0.max(expected.0 + 1);
        let change = RawChange {
            expected: expected.0,
            value: RawValue { revision, bytes: codec::encode_sessions(&state) },
            keep_until,
            events: events.iter().map(|ended| codec::encode_event(user, ended)).collect(),
        };
        Ok(match self.0.commit(user.as_str(), change).await? {
            RawCommit::Committed => Commit::Committed,
            RawCommit::Conflict(stands) => Commit::Conflict(Self::decode(stands)?),
        })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.ping().await
    }
}

#[async_trait]
impl<R: RawRegisters> EventLog for Encoded<R> {
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError> {
        let raw = self.0.tail(after, limit).await?;
        let events: Result<Vec<Event>, _> =
            raw.events.iter().map(|bytes| codec::decode_event(bytes)).collect();
        Ok(Tail { events: events.map_err(|error| Self::corrupt(&error))?, next: raw.next, gap: raw.gap })
    }
}
