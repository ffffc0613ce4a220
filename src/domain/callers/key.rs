//! The keys with which callers prove who they are.

use std::fmt;

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::domain::{ports::CallerKeyHash, types};

/// What every key begins with, so that people and secret scanners know one when they see it.
const PREFIX: &str = "lkc_";
/// Random bytes in a key.
const SIZE: usize = 32;

/// A caller's key: `lkc_` and 256 random bits in base64url.
///
/// With that much randomness a plain hash is enough to store it: there is nothing to guess.
pub struct CallerKey(Zeroizing<String>);

impl CallerKey {
    /// A new key.
    pub fn random() -> Self {
        let random = Zeroizing::new(types::random::<SIZE>());
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + SIZE * 4 / 3 + 1));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&*random, &mut text);
        Self(text)
    }

    /// To be shown once, to whoever made it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> CallerKeyHash {
        hash(self.0.as_bytes())
    }

    /// What would be stored of this key, if it has the shape of one. What has not is known to nobody, and no
    /// store is asked for it.
    pub fn hash_of(presented: &[u8]) -> Option<CallerKeyHash> {
        let body = presented.strip_prefix(PREFIX.as_bytes())?;
        let mut random = Zeroizing::new([0; SIZE]);
        let right_size = BASE64URL_NOPAD.decode_len(body.len()) == Ok(SIZE);
        let decoded = right_size && BASE64URL_NOPAD.decode_mut(body, &mut *random).is_ok();
        decoded.then(|| hash(presented))
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey([redacted])")
    }
}

fn hash(key: &[u8]) -> CallerKeyHash {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    CallerKeyHash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_hash_and_no_two_are_the_same() {
        let key = CallerKey::random();
        assert_eq!(key.reveal().len(), 47);
        assert_eq!(CallerKey::hash_of(key.reveal().as_bytes()), Some(key.hash()));
        assert_ne!(CallerKey::random().hash(), key.hash());
    }

    #[test]
    fn what_has_not_the_shape_of_a_key_is_none() {
        let key = CallerKey::random();
        let good = key.reveal();
        for wrong in [
            "",
            "lkc_",
            &good[4..],
            &good[..46],
            &format!("{good}A"),
            &format!("{good} "),
            &good.replace("lkc_", "lka_"),
            &good.replace("lkc_", "LKC_"),
            &format!("lkc_{}", "*".repeat(43)),
            // Bits after the last whole byte, which would make a second spelling.
            &format!("lkc_{}B", "A".repeat(42)),
        ] {
            assert!(CallerKey::hash_of(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(CallerKey::hash_of(format!("lkc_{}", "A".repeat(43)).as_bytes()).is_some());
    }

    #[test]
    fn debug_shows_no_key() {
        let key = CallerKey::random();
        assert_eq!(format!("{key:?}"), "CallerKey([redacted])");
        assert_eq!(format!("{:?}", key.hash()), "CallerKeyHash([redacted])");
    }
}
