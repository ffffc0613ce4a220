//! States that were decoded lately: from the same bytes comes the same state.
//!
//! Whoever wants the store's own answer to every question reads the same users again and again, and decoding is most
//! of what that takes. What is told is what the store has said, byte by byte, not what it has said before.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use super::codec::{self, CodecError};
use crate::domain::{sessions::UserSessions, types::UserId};

/// So many users are remembered: about 6 MiB, if each has one session.
const USERS: usize = 8192;

/// Users' states with the bytes that they were decoded from.
pub struct DecodeCache(Cache<UserId, (Bytes, Arc<UserSessions>), UnitWeighter, RandomState>);

impl DecodeCache {
    /// The state of a user that these are the bytes of.
    pub fn decode(&self, user_id: &UserId, bytes: Bytes) -> Result<Arc<UserSessions>, CodecError> {
        if let Some((known, state)) = self.0.get(user_id)
            && known == bytes
        {
            return Ok(state);
        }
        let state = Arc::new(codec::decode_sessions(bytes.clone())?);
        self.0.insert(user_id.clone(), (bytes, Arc::clone(&state)));
        Ok(state)
    }
}

impl Default for DecodeCache {
    fn default() -> Self {
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        Self(Cache::with(USERS, USERS as u64, UnitWeighter, hasher, lifecycle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::Generation;

    #[test]
    fn the_same_bytes_are_decoded_once_and_others_again() {
        let decoded = DecodeCache::default();
        let [alice, bob] = ["alice", "bob"].map(|user| UserId::parse(user).unwrap());
        let of = |generation| UserSessions { generation: Generation(generation), ..Default::default() };
        let read = |user, generation| decoded.decode(user, codec::encode_sessions(&of(generation))).unwrap();
        let first = read(&alice, 1);
        assert_eq!(*first, of(1));
        assert!(Arc::ptr_eq(&first, &read(&alice, 1)));
        assert_eq!(*read(&bob, 2), of(2));
        assert_eq!(*read(&alice, 3), of(3));
        assert_eq!(*read(&alice, 1), of(1), "also what the store had said before");

        let damaged = decoded.decode(&alice, Bytes::from_static(&[0]));
        assert!(matches!(damaged, Err(CodecError::Damaged(_))));
        assert_eq!(*read(&alice, 1), of(1));
    }
}
