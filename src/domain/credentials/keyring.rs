//! The key ring: one key signs tokens, all keys verify them.
//!
//! The id of a key is its RFC 7638 thumbprint, so an id cannot name two keys. The thumbprint of an HS256 key would be a
//! hash of the secret, so its id is a hash of that thumbprint.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{Jwk, JwkSet},
};
use zeroize::Zeroizing;

use self::ed25519::ExpandedKey;
use crate::domain::types::{Timestamp, random};

mod ed25519;
mod material;
mod read;
mod rsa_numbers;

/// The signing algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// ECDSA with P-256 (RFC 7518 section 3.4).
    ES256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits or more (RFC 7518 section 3.3).
    RS256,
    /// HMAC with SHA-256 (RFC 7518 section 3.2): whoever can verify can also sign.
    HS256,
}

impl KeyAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::EdDSA, Self::ES256, Self::RS256, Self::HS256];

    /// The format of a key file for the algorithm.
    pub const fn format(self) -> KeyFormat {
        match self {
            Self::EdDSA | Self::ES256 | Self::RS256 => KeyFormat::Pem,
            Self::HS256 => KeyFormat::Secret,
        }
    }

    pub(in crate::domain) fn jwt(self) -> Algorithm {
        match self {
            Self::EdDSA => Algorithm::EdDSA,
            Self::ES256 => Algorithm::ES256,
            Self::RS256 => Algorithm::RS256,
            Self::HS256 => Algorithm::HS256,
        }
    }

    /// The `alg` of the tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDSA => "EdDSA",
            Self::ES256 => "ES256",
            Self::RS256 => "RS256",
            Self::HS256 => "HS256",
        }
    }

    /// Generates the contents of a new key file: PKCS#8 in PEM, or a secret in base64 for HS256.
    pub fn generate(self) -> Result<Zeroizing<String>, KeyError> {
        let failed = |_| KeyError("the cryptographic library failed to generate a key".into());
        let der = match self {
            Self::EdDSA => Ed25519KeyPair::generate()
                .and_then(|pair| pair.to_pkcs8v1())
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Self::ES256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                    .map_err(failed)?
                    .as_ref()
                    .to_vec()
            }
            Self::RS256 => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa3072).map_err(failed)?;
                AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?.as_ref().to_vec()
            }
            Self::HS256 => return Ok(Zeroizing::new(BASE64.encode(&random::<48>()) + "\n")),
        };
        Ok(Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", der))))
    }
}

/// The format of a key file. The file name decides it; the contents are never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyFormat {
    /// `*.pem`: one unencrypted private key in PEM, as PKCS#8 or, for RSA, PKCS#1.
    Pem,
    /// `*.secret`: an HS256 secret of at least 32 bytes.
    Secret,
}

impl KeyFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Pem, Self::Secret];

    /// The file name extension.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Secret => "secret",
        }
    }
}

/// Why a key file cannot be used, as a predicate whose subject is the file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// A signing key.
#[derive(Clone)]
pub struct Key {
    /// The id of the key, as in the header of a token.
    pub kid: String,
    /// The algorithm of the key.
    pub algorithm: KeyAlgorithm,
    pub(in crate::domain) jwt_algorithm: Algorithm,
    pub(in crate::domain) signing: EncodingKey,
    pub(in crate::domain) verifying: DecodingKey,
    /// The public key; `None` for HS256.
    public: Option<Jwk>,
    /// Recognises the signatures of the key; `None` unless it is for EdDSA.
    expanded: Option<ExpandedKey>,
    /// The latest known `exp` of a token of this key, in microseconds since the Unix epoch.
    needed_until: Arc<AtomicU64>,
}

impl Key {
    /// The latest `exp` of the tokens of this key that this process has issued or verified.
    pub fn needed_until(&self) -> Timestamp {
        Timestamp::from_micros(self.needed_until.load(Ordering::Relaxed))
    }

    /// Records the `exp` of a token of this key.
    pub(in crate::domain) fn extend_needed_until(&self, expires_at: Timestamp) {
        self.needed_until.fetch_max(expires_at.as_micros(), Ordering::Relaxed);
    }

    /// Whether this key has made this signature. `false` says nothing: the signature has to be verified.
    pub(in crate::domain) fn has_signed(&self, message: &str, signature: &str) -> bool {
        let mut decoded = [0; 64];
        let is_decoded = BASE64URL_NOPAD.decode_len(signature.len()) == Ok(decoded.len())
            && BASE64URL_NOPAD.decode_mut(signature.as_bytes(), &mut decoded).is_ok();
        is_decoded && self.expanded.as_ref().is_some_and(|key| key.has_signed(message.as_bytes(), &decoded))
    }

    /// Whether a secret is published with this key: its id or a part of its public key, in any encoding.
    pub fn publishes(&self, secret: &[u8]) -> bool {
        let secret = secret.trim_ascii();
        let decoders = [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE];
        let forms: Vec<_> = decoders.iter().filter_map(|decoder| decoder.decode(secret).ok()).collect();
        let members = self.public.iter().filter_map(|public| serde_json::to_value(public).ok());
        members.filter_map(|members| members.as_object().cloned()).flatten().any(|(_, member)| {
            let Some(member) = member.as_str().filter(|member| member.len() > 16) else { return false };
            let bytes = BASE64URL_NOPAD.decode(member.as_bytes());
            secret == member.as_bytes() || bytes.is_ok_and(|bytes| secret == bytes || forms.contains(&bytes))
        })
    }

    /// Signs and verifies once. A missing cryptographic backend or a key of the wrong curve is detected here and not at
    /// the first login.
    fn self_test(self) -> Result<Self, KeyError> {
        let works = jsonwebtoken::crypto::sign(b"proof", &self.signing, self.jwt_algorithm)
            .and_then(|signature| {
                jsonwebtoken::crypto::verify(&signature, b"proof", &self.verifying, self.jwt_algorithm)
            })
            .unwrap_or(false);
        if works { Ok(self) } else { Err(KeyError(format!("cannot sign with {}", self.algorithm.name()))) }
    }
}

/// The signing keys in memory.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<Key>,
    signing: usize,
}

impl Keyring {
    /// Creates a key ring in which the key at index `signing` signs. Returns `None` if there is no such key.
    pub fn new(keys: Vec<Key>, signing: usize) -> Option<Self> {
        (signing < keys.len()).then_some(Self { keys, signing })
    }

    /// The key that signs.
    pub fn signing(&self) -> &Key {
        &self.keys[self.signing]
    }

    /// Finds a key by its id.
    pub fn find(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// Shares the recorded `exp` of the keys that are also in another ring.
    pub(in crate::domain) fn inherit_needed_until(&mut self, other: &Self) {
        for key in &mut self.keys {
            if let Some(known) = other.find(&key.kid) {
                key.needed_until = Arc::clone(&known.needed_until);
            }
        }
    }

    /// Every key.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether both rings have the same keys and sign with the same one.
    pub fn is_same(&self, other: &Self) -> bool {
        let kids = |ring: &Self| ring.keys.iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
        self.signing == other.signing && kids(self) == kids(other)
    }

    /// The public keys as a JSON Web Key Set (RFC 7517 section 5).
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().filter_map(|key| key.public.clone()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_can_be_read_for_every_algorithm() {
        for algorithm in KeyAlgorithm::ALL {
            let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
            assert_eq!(key.algorithm, algorithm);
        }
    }

    #[test]
    fn an_hs256_secret_is_not_among_the_public_keys() {
        let contents = KeyAlgorithm::HS256.generate().unwrap();
        let ring = Keyring::new(vec![Key::read(KeyFormat::Secret, contents.as_bytes()).unwrap()], 0).unwrap();
        assert_eq!(serde_json::to_string(&ring.jwks()).unwrap(), r#"{"keys":[]}"#);
    }

    #[test]
    fn private_parts_are_not_among_the_public_keys() {
        for algorithm in [KeyAlgorithm::EdDSA, KeyAlgorithm::ES256, KeyAlgorithm::RS256] {
            let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
            let json = serde_json::to_value(Keyring::new(vec![key], 0).unwrap().jwks()).unwrap();
            let members: Vec<_> = json["keys"][0].as_object().unwrap().keys().cloned().collect();
            let public = ["alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"];
            assert!(members.iter().all(|member| public.contains(&member.as_str())), "{members:?}");
        }
    }
}
