//! Remembers the state that bytes were decoded to.
//!
//! Requests that always read the store load the same users again and again, and decoding is most of the cost. The
//! cache does not replace the read: the store has to return the same bytes each time.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use super::codec::{self, CodecError};
use crate::domain::{sessions::UserSessions, types::UserId};

/// The number of cached users: about 6 MiB if each has one session.
const MAX_USERS: usize = 8192;

/// The states of users, with the bytes that they were decoded from.
pub struct DecodeCache(Cache<UserId, (Bytes, Arc<UserSessions>), UnitWeighter, RandomState>);

impl DecodeCache {
    /// Decodes the state of a user, or returns the cached state if the bytes are the same.
    pub fn decode(&self, user_id: &UserId, bytes: Bytes) -> Result<Arc<UserSessions>, CodecError> {
        if let Some((cached, state)) = self.0.get(user_id)
            && cached == bytes
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
        Self(Cache::with(MAX_USERS, MAX_USERS as u64, UnitWeighter, hasher, lifecycle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::Generation;

    #[test]
    fn the_same_bytes_are_decoded_once_and_others_again() {
        let cache = DecodeCache::default();
        let [alice, bob] = ["alice", "bob"].map(|user| UserId::parse(user).unwrap());
        let state = |generation| UserSessions { generation: Generation(generation), ..Default::default() };
        let read = |user, generation| cache.decode(user, codec::encode_sessions(&state(generation))).unwrap();
        let first = read(&alice, 1);
        assert_eq!(*first, state(1));
        assert!(Arc::ptr_eq(&first, &read(&alice, 1)));
        assert_eq!(*read(&bob, 2), state(2));
        assert_eq!(*read(&alice, 3), state(3));
        assert_eq!(*read(&alice, 1), state(1), "an earlier value is decoded again");

        let corrupt = cache.decode(&alice, Bytes::from_static(&[0]));
        assert!(matches!(corrupt, Err(CodecError::Corrupt(_))));
        assert_eq!(*read(&alice, 1), state(1));
    }
}
