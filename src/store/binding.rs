//! Binds a value to its register.
//!
//! A response that belongs to another command, over a connection that is out of sync, or a value that somebody has
//! copied would otherwise pass for the value of the register. So every value carries a hash of the name of its
//! register, behind the format byte, as field 15 of the message, which no message uses. Versions of Latchkey that do
//! not know the field skip it and drop it with the next commit; a value without it belongs to any register.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The tag of field 15, fixed 32 bits.
const TAG: u8 = (15 << 3) | 5;

/// Binds an encoded state, which begins with the format byte, to the register with this name.
pub fn bind(name: &str, bytes: &[u8]) -> Bytes {
    let (format, message) = bytes.split_at(bytes.len().min(1));
    let mut bound = BytesMut::with_capacity(bytes.len() + 5);
    bound.put_slice(format);
    bound.put_u8(TAG);
    bound.put_u32_le(hash(name));
    bound.put_slice(message);
    bound.freeze()
}

/// Whether the value is bound to the register with this name or to none.
pub fn belongs(name: &str, bytes: &[u8]) -> bool {
    bound_to(bytes).is_none_or(|bound| bound == hash(name))
}

/// Whether the value is bound to the register with this name.
pub fn is_bound(name: &str, bytes: &[u8]) -> bool {
    is_bound_by(fnv1a(name), bytes)
}

/// Whether the value is bound to a register whose name has this hash ([`fnv1a`]).
pub(super) fn is_bound_by(hash: u64, bytes: &[u8]) -> bool {
    bound_to(bytes) == Some(upper_half(hash))
}

/// The hash of the name of the register that the value is bound to.
pub fn bound_to(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [_, TAG, a, b, c, d, ..] => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// The upper half of the hash, which is part of the format.
fn hash(name: &str) -> u32 {
    upper_half(fnv1a(name))
}

fn upper_half(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// 64-bit FNV-1a, which is the same in all versions and on all machines, unlike the hashes of the standard library.
pub(super) fn fnv1a(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
    fn a_bound_value_belongs_to_one_register_and_decodes_as_before() {
        let state = UserSessions { generation: Generation(7), ..UserSessions::default() };
        let encoded = encode_sessions(&state);
        let bound = bind("alice", &encoded);
        assert_eq!(bound.len(), encoded.len() + 5);
        assert!(belongs("alice", &bound) && !belongs("bob", &bound));
        assert_eq!(decode_sessions(bound.clone()).unwrap(), state);
        // Older versions wrote values without a binding.
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
