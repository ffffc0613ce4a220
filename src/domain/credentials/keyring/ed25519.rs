//! Recognises the signatures of an Ed25519 key with its private half, which is an order of magnitude cheaper than
//! verifying them with the public one.
//!
//! A signature `(R, S)` of a message `M` has `S = r + ka mod L`, where `a` is the secret scalar, `r = H(prefix, M)` and
//! `k = H(R, A, M)` (RFC 8032 section 5.1.6). Whoever has the private key can compute `S` for the `R` of a presented
//! signature without a single operation on the curve. Nobody else can: for a message that was never signed, `r` is the
//! output of a pseudo-random function with an unknown key; and two different `S` for one message reveal `a`. So this is a
//! message authentication code, and what it accepts is what the key has signed, byte for byte. What it does not accept is
//! left to the library to judge.

use aws_lc_rs::{
    digest,
    encoding::{AsBigEndian as _, Curve25519SeedBin},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use curve25519_dalek::Scalar;
use zeroize::Zeroizing;

/// The longest message, in bytes: a longer one is left to the library.
const MAX_MESSAGE: usize = 4096;

/// An Ed25519 private key, as RFC 8032 section 5.1.5 expands it.
#[derive(Clone)]
pub(super) struct ExpandedKey {
    scalar: Zeroizing<Scalar>,
    prefix: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl ExpandedKey {
    /// Reads a private key in PKCS#8. Returns `None` if the library does not give its parts.
    pub(super) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
        let seed: Curve25519SeedBin<'_> = pair.seed().ok()?.as_be_bytes().ok()?;
        let expanded = digest::digest(&digest::SHA512, seed.as_ref());
        let (scalar, prefix) = expanded.as_ref().split_first_chunk::<32>()?;
        let mut scalar = Zeroizing::new(*scalar);
        scalar[0] &= 0b1111_1000;
        scalar[31] &= 0b0111_1111;
        scalar[31] |= 0b0100_0000;
        Some(Self {
            scalar: Zeroizing::new(Scalar::from_bytes_mod_order(*scalar)),
            prefix: Zeroizing::new(prefix.try_into().ok()?),
            public: pair.public_key().as_ref().try_into().ok()?,
        })
    }

    /// Whether this key has made this signature. `false` says nothing.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let (r, s) = signature.split_at(32);
        let Ok(s) = s.try_into() else { return false };
        let Some(s) = Scalar::from_canonical_bytes(s).into_option() else { return false };
        if message.len() > MAX_MESSAGE {
            return false;
        }
        // The message is copied once, behind the place of what each hash has before it.
        let mut hashed = [0; 64 + MAX_MESSAGE];
        let hashed = &mut hashed[..64 + message.len()];
        hashed[64..].copy_from_slice(message);
        hashed[32..64].copy_from_slice(&*self.prefix);
        let nonce = Zeroizing::new(hash_to_scalar(&hashed[32..]));
        hashed[..32].copy_from_slice(r);
        hashed[32..64].copy_from_slice(&self.public);
        let challenge = hash_to_scalar(hashed);
        s == challenge * *self.scalar + *nonce
    }
}

fn hash_to_scalar(message: &[u8]) -> Scalar {
    let mut hash = [0; 64];
    hash.copy_from_slice(digest::digest(&digest::SHA512, message).as_ref());
    Scalar::from_bytes_mod_order_wide(&hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::keyring::KeyAlgorithm;

    fn pair() -> (Ed25519KeyPair, ExpandedKey) {
        let pem = pem::parse(KeyAlgorithm::EdDSA.generate().unwrap().as_bytes()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents()).unwrap();
        (pair, ExpandedKey::from_pkcs8(pem.contents()).unwrap())
    }

    fn sign(pair: &Ed25519KeyPair, message: &[u8]) -> [u8; 64] {
        pair.sign(message).as_ref().try_into().unwrap()
    }

    proptest! {
        #[test]
        fn signatures_of_the_key_are_recognised(message in prop::collection::vec(any::<u8>(), 0..600)) {
            let (pair, key) = pair();
            prop_assert!(key.has_signed(&message, &sign(&pair, &message)));
        }

        #[test]
        fn any_other_signature_is_not(message in prop::collection::vec(any::<u8>(), 1..600), at: u16, bit in 0..8) {
            let (pair, key) = pair();
            let signature = sign(&pair, &message);
            let mut other = signature;
            other[usize::from(at) % 64] ^= 1_u8 << bit;
            prop_assert!(!key.has_signed(&message, &other));
            let mut changed = message.clone();
            changed[usize::from(at) % message.len()] ^= 1_u8 << bit;
            prop_assert!(!key.has_signed(&changed, &signature));
            let (_, stranger) = super::tests::pair();
            prop_assert!(!stranger.has_signed(&message, &signature));
        }
    }

    #[test]
    fn a_second_spelling_of_a_signature_is_not_recognised() {
        let (pair, key) = pair();
        let mut signature = sign(&pair, b"message");
        // S + L, with L the order of the group: RFC 8032 section 5.1.7 requires S < L.
        let order =
            [0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14];
        let order = order.into_iter().chain([0; 15]).chain([0x10]);
        let mut carry = 0;
        for (byte, addend) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + addend + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert!(!key.has_signed(b"message", &signature));
    }

    #[test]
    fn a_message_that_is_too_long_is_left_to_the_library() {
        let (pair, key) = pair();
        let message = [0; MAX_MESSAGE + 1];
        assert!(!key.has_signed(&message, &sign(&pair, &message)));
        assert!(key.has_signed(&message[1..], &sign(&pair, &message[1..])));
    }
}
