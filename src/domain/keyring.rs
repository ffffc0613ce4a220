//! The keys that sign and verify tokens: one signs, all verify.
//!
//! A key is known by its RFC 7638 thumbprint, so a key id cannot name two keys. HS256 keys are secrets
//! on both sides; their id is a hash of the thumbprint, which itself would be a hash of the secret.

use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use zeroize::Zeroizing;

use super::types::random;

/// The shortest HS256 secret, in bytes: as long as the hash (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;

/// Keys that anybody can look up.
const KNOWN_SECRETS: [&str; 5] = [
    // jwt.io, old and new
    "your-256-bit-secret",
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    // RFC 7515 appendix A.1, in base64url and as bytes in base64
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ+EstJQLr/T+1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==",
];

/// Thumbprints of private keys that anybody can look up.
const KNOWN_KEYS: [&str; 1] = [
    // RFC 8037 appendix A
    "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
];

/// The algorithms that a key file can be for.
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

    pub(super) fn jwt(self) -> Algorithm {
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

    /// The contents of a new key file: PKCS#8 in PEM, or for HS256 a secret in base64.
    pub fn generate(self) -> Result<Zeroizing<String>, KeyError> {
        let failed = |_| KeyError("the cryptographic library could not make a key".into());
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

/// Why a key cannot be used: a sentence that can follow the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// A key.
#[derive(Clone)]
pub struct Key {
    /// Names it in the header of a token.
    pub kid: String,
    /// What it is for.
    pub algorithm: KeyAlgorithm,
    pub(super) jwt_algorithm: Algorithm,
    pub(super) signing: EncodingKey,
    pub(super) verifying: DecodingKey,
    /// The public half; none for HS256.
    public: Option<Jwk>,
}

impl Key {
    /// Reads the contents of a key file: a private key in PEM (PKCS#8, for RSA also PKCS#1), or
    /// otherwise an HS256 secret of at least 32 bytes.
    pub fn read(contents: &[u8]) -> Result<Self, KeyError> {
        if contents.starts_with(b"-----BEGIN") {
            Self::read_pem(contents)
        } else {
            Self::read_secret(contents)
        }
    }

    fn read_pem(contents: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, signing) = EncodingKey::from_ed_pem(contents)
            .map(|key| (KeyAlgorithm::EdDSA, key))
            .or_else(|_| EncodingKey::from_ec_pem(contents).map(|key| (KeyAlgorithm::ES256, key)))
            .or_else(|_| EncodingKey::from_rsa_pem(contents).map(|key| (KeyAlgorithm::RS256, key)))
            .map_err(|_| KeyError("is not an unencrypted Ed25519, P-256 or RSA private key in PEM".into()))?;

        let unusable = |_| {
            KeyError(format!(
                "is not a usable {} key: EdDSA needs Ed25519, ES256 needs P-256, RS256 2048 bits or more",
                algorithm.name()
            ))
        };
        let mut public = Jwk::from_encoding_key(&signing, algorithm.jwt()).map_err(unusable)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
        if KNOWN_KEYS.contains(&kid.as_str()) {
            return Err(KeyError("is the sample key of a standard, known to everybody".into()));
        }
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let verifying = DecodingKey::from_jwk(&public).map_err(unusable)?;
        Self { kid, algorithm, jwt_algorithm: algorithm.jwt(), signing, verifying, public: Some(public) }
            .proven()
    }

    fn read_secret(contents: &[u8]) -> Result<Self, KeyError> {
        let secret = contents.trim_ascii_end();
        if secret.len() < MIN_SECRET {
            return Err(KeyError(format!(
                "holds an HS256 secret of {} bytes; it takes at least {MIN_SECRET} random ones: `latchkey key generate --algorithm HS256`",
                secret.len(),
            )));
        }
        let known = KNOWN_SECRETS.iter().any(|known| known.as_bytes() == secret);
        let mut distinct = secret.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if known || distinct.len() < 8 {
            return Err(KeyError(
                "holds an HS256 secret that can be guessed: make one with `latchkey key generate --algorithm HS256`".into(),
            ));
        }
        // Twice hashed, under a label: a single hash of the secret is something others may use too.
        let inner = digest::digest(&digest::SHA256, secret);
        let labelled = [b"latchkey kid ".as_slice(), inner.as_ref()].concat();
        let kid = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, &labelled).as_ref());
        let algorithm = KeyAlgorithm::HS256;
        let signing = EncodingKey::from_secret(secret);
        let verifying = DecodingKey::from_secret(secret);
        Self { kid, algorithm, jwt_algorithm: algorithm.jwt(), signing, verifying, public: None }.proven()
    }

    /// The key, after it has signed and verified once: a crypto backend that is missing or ambiguous, or
    /// a key of the wrong curve, shows here and not at the first login.
    fn proven(self) -> Result<Self, KeyError> {
        let works = jsonwebtoken::crypto::sign(b"proof", &self.signing, self.jwt_algorithm)
            .and_then(|signature| {
                jsonwebtoken::crypto::verify(&signature, b"proof", &self.verifying, self.jwt_algorithm)
            })
            .unwrap_or(false);
        if works { Ok(self) } else { Err(KeyError(format!("cannot sign with {}", self.algorithm.name()))) }
    }
}

/// The keys in use.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<Key>,
    signing: usize,
}

impl Keyring {
    /// The key at index `signing` signs, all verify; `None` without such a key.
    pub fn new(keys: Vec<Key>, signing: usize) -> Option<Self> {
        (signing < keys.len()).then_some(Self { keys, signing })
    }

    /// The key that signs.
    pub fn signing(&self) -> &Key {
        &self.keys[self.signing]
    }

    /// The key with this id.
    pub fn find(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// Every key.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether another ring has the same keys and signs with the same one.
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
    fn every_algorithm_makes_keys_that_it_can_read() {
        for algorithm in KeyAlgorithm::ALL {
            let key = Key::read(algorithm.generate().unwrap().as_bytes()).unwrap();
            assert_eq!(key.algorithm, algorithm);
        }
    }

    #[test]
    fn an_hs256_secret_never_shows_in_the_public_keys() {
        let contents = KeyAlgorithm::HS256.generate().unwrap();
        let ring = Keyring::new(vec![Key::read(contents.as_bytes()).unwrap()], 0).unwrap();
        assert_eq!(serde_json::to_string(&ring.jwks()).unwrap(), r#"{"keys":[]}"#);
    }

    #[test]
    fn private_parts_never_show_in_the_public_keys() {
        for algorithm in [KeyAlgorithm::EdDSA, KeyAlgorithm::ES256, KeyAlgorithm::RS256] {
            let key = Key::read(algorithm.generate().unwrap().as_bytes()).unwrap();
            let json = serde_json::to_value(Keyring::new(vec![key], 0).unwrap().jwks()).unwrap();
            let members: Vec<_> = json["keys"][0].as_object().unwrap().keys().cloned().collect();
            let public = ["alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"];
            assert!(members.iter().all(|member| public.contains(&member.as_str())), "{members:?}");
        }
    }

    #[test]
    fn weak_secrets_are_refused() {
        for secret in ["", "short", &"x".repeat(31), &"x".repeat(64), KNOWN_SECRETS[1], KNOWN_SECRETS[3]] {
            assert!(Key::read(secret.as_bytes()).is_err(), "{secret}");
        }
    }

    #[test]
    fn the_sample_key_of_rfc_8037_is_refused() {
        let pem = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
            -----END PRIVATE KEY-----\n";
        assert_eq!(
            Key::read(pem.as_bytes()).err().unwrap().0,
            "is the sample key of a standard, known to everybody"
        );
    }
}
