//! Caller keys.

use std::fmt;

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::domain::{ports::CallerKeyHash, types};

/// The prefix by which people and secret scanners recognize a key.
const PREFIX: &str = "lkc_";
/// The number of random bytes.
const SIZE: usize = 32;

/// A caller's key: `lkc_` and 256 random bits in base64url.
///
/// It cannot be guessed, so the store holds a plain hash of it.
pub struct CallerKey(Zeroizing<String>);

impl CallerKey {
    /// Generates a key.
    pub fn random() -> Self {
        let random = Zeroizing::new(types::random::<SIZE>());
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + SIZE * 4 / 3 + 1));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&*random, &mut text);
        Self(text)
    }

    /// The key as text, to be shown once to its creator.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash that the store holds.
    pub fn hash(&self) -> CallerKeyHash {
        hash(self.0.as_bytes())
    }

    /// The hash of a presented key, or `None` if it does not have the form of a key.
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
    fn the_hash_of_a_presented_key_is_that_of_the_key_and_keys_are_unique() {
        let key = CallerKey::random();
        assert_eq!(key.reveal().len(), 47);
        assert_eq!(CallerKey::hash_of(key.reveal().as_bytes()), Some(key.hash()));
        assert_ne!(CallerKey::random().hash(), key.hash());
    }

    #[test]
    fn text_without_the_form_of_a_key_has_no_hash() {
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
            // Bits after the last whole byte would allow a second spelling.
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
