//! Binds a value to the register that it was written to.
//!
//! An answer that belongs to another question, over a connection that is out of step, or a value that somebody has
//! copied, would otherwise pass for what the register holds. So every value says whose it is: a hash of the
//! register's name stands behind the format byte, as field 15 of the message, which no message uses. Versions that
//! do not know it skip it, and drop it with the next commit; a value without it is taken as it is.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The tag of field 15, fixed 32 bits.
const TAG: u8 = (15 << 3) | 5;

/// Binds encoded bytes, which begin with the format byte, to the register with this name.
pub fn bind(name: &str, bytes: &[u8]) -> Bytes {
    let (format, message) = bytes.split_at(bytes.len().min(1));
    let mut bound = BytesMut::with_capacity(bytes.len() + 5);
    bound.put_slice(format);
    bound.put_u8(TAG);
    bound.put_u32_le(hash(name));
    bound.put_slice(message);
    bound.freeze()
}

/// Whether bytes may be those of the register with this name: not where they are bound to another one.
pub fn belongs(name: &str, bytes: &[u8]) -> bool {
    bound_to(bytes).is_none_or(|bound| bound == hash(name))
}

/// Whether bytes are bound to the register with this name.
pub fn is_bound(name: &str, bytes: &[u8]) -> bool {
    bound_to(bytes) == Some(hash(name))
}

fn bound_to(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [_, TAG, a, b, c, d, ..] => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// The upper half of FNV-1a with 64 bits: part of the format.
fn hash(name: &str) -> u32 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u32::try_from(hash >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            sessions::UserSessions,
            types::{Generation, UserId},
        },
        store::codec::{decode_sessions, encode_sessions},
    };

    #[test]
    fn a_bound_value_belongs_to_its_register_alone_and_reads_as_before() {
        let state = UserSessions { generation: Generation(7), ..UserSessions::default() };
        let encoded = encode_sessions(&state);
        let bound = bind("alice", &encoded);
        assert_eq!(bound.len(), encoded.len() + 5);
        assert!(belongs("alice", &bound) && !belongs("bob", &bound));
        assert_eq!(decode_sessions(bound.clone()).unwrap(), state);
        // As older versions wrote it.
        assert!(belongs("alice", &encoded) && belongs("bob", &encoded) && belongs("bob", b""));
        assert!(is_bound("alice", &bound) && !is_bound("bob", &bound) && !is_bound("alice", &encoded));
        assert_eq!(bind("alice", b"").len(), 5);
    }

    #[test]
    fn the_hash_of_a_name_never_changes() {
        assert_eq!(hash("foobar"), 0x8594_4171, "the test vector of the FNV authors");
        let names: std::collections::HashSet<_> =
            (0..10_000).map(|_| hash(UserId::random().as_str())).collect();
        assert!(names.len() > 9_990, "{}", names.len());
    }
}
