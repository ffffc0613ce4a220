//! Reading key files by the format that their name says.

use std::sync::Arc;

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{
    DecodingKey, EncodingKey,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};

use super::{
    Key, KeyAlgorithm, KeyError, KeyFormat,
    ed25519::ExpandedKey,
    material::{Material, recognise},
    rsa_numbers,
};
use crate::domain::guessable::why_guessable;

/// The shortest HS256 secret, in bytes: as long as the hash (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;

/// How many letters and digits of a secret must remain without dictionary words: 20 in base64 are 120 bits.
const MIN_REMAINING: usize = 20;

const MAKE_PEM: &str = "make one with `latchkey key generate`";
const MAKE_SECRET: &str = "make one with `latchkey key generate --algorithm HS256`";

/// Thumbprints of private keys that are printed in standards and documentation.
const PUBLISHED: [&str; 8] = [
    // RFC 8037 appendix A
    "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
    // RFC 7515 appendices A.2 and A.3
    "IsUn6_e04MaShXFIISMp4kG62LWzMIPy_MvSA5pJgX8",
    "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U",
    // RFC 7517 appendix A.2
    "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s",
    // RFC 7520 section 3.4
    "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI",
    // jwt.io, RS256 and ES256
    "oGDmHqCJ7yzMkWEkrlZVHkvrHIyQwtlDmeq5ForUHeY",
    "19J8y7Zprt2-QKLjF2I5pVk0OELX6cY2AfaAv1LC_w8",
];

impl Key {
    /// Reads the contents of a key file. The error says what the file holds instead and what to do.
    pub fn read(format: KeyFormat, contents: &[u8]) -> Result<Self, KeyError> {
        match format {
            KeyFormat::Pem => Self::read_pem(contents),
            KeyFormat::Secret => Self::read_secret(contents),
        }
    }

    fn new(
        kid: String,
        algorithm: KeyAlgorithm,
        signing: EncodingKey,
        verifying: DecodingKey,
        public: Option<Jwk>,
    ) -> Self {
        let jwt_algorithm = algorithm.jwt();
        let expanded = match algorithm {
            KeyAlgorithm::EdDSA => ExpandedKey::from_pkcs8(signing.as_bytes()),
            KeyAlgorithm::ES256 | KeyAlgorithm::RS256 | KeyAlgorithm::HS256 => None,
        };
        let needed_until = Arc::default();
        Self { kid, algorithm, jwt_algorithm, signing, verifying, public, expanded, needed_until }
    }

    fn read_pem(contents: &[u8]) -> Result<Self, KeyError> {
        let expected = |found: &str, remedy: &str| {
            Err(KeyError(format!(
                "holds {found}; a *.pem file must hold an unencrypted private key in PEM: {remedy}"
            )))
        };
        match recognise(contents) {
            Some(Material::PrivateKey) => {}
            Some(Material::Other(found, remedy)) => return expected(&found, remedy.unwrap_or(MAKE_PEM)),
            None => {
                return expected(
                    "nothing that begins with -----BEGIN",
                    "make one with `latchkey key generate`, or rename an HS256 secret so that its name ends with .secret",
                );
            }
        }
        let parsed = pem::parse(contents)
            .map_err(|_| KeyError(format!("holds a damaged private key in PEM: {MAKE_PEM}")))?;
        let parsed = zeroize::Zeroizing::new(parsed.into_contents());
        rsa_numbers::check_strength(&parsed).map_err(|error| KeyError(format!("{error}: {MAKE_PEM}")))?;
        let (algorithm, signing) = EncodingKey::from_ed_pem(contents)
            .map(|key| (KeyAlgorithm::EdDSA, key))
            .or_else(|_| EncodingKey::from_ec_pem(contents).map(|key| (KeyAlgorithm::ES256, key)))
            .or_else(|_| EncodingKey::from_rsa_pem(contents).map(|key| (KeyAlgorithm::RS256, key)))
            .map_err(|_| {
                KeyError(format!("holds a private key that is not for Ed25519, P-256 or RSA: {MAKE_PEM}"))
            })?;

        let unusable = |_| {
            KeyError(format!(
                "is not a usable {} key (EdDSA needs Ed25519, ES256 needs P-256): {MAKE_PEM}",
                algorithm.name()
            ))
        };
        let mut public = Jwk::from_encoding_key(&signing, algorithm.jwt()).map_err(unusable)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
        if PUBLISHED.contains(&kid.as_str()) {
            return Err(KeyError(format!("is the sample key of a standard and publicly known: {MAKE_PEM}")));
        }
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let verifying = DecodingKey::from_jwk(&public).map_err(unusable)?;
        Self::new(kid, algorithm, signing, verifying, Some(public)).self_test()
    }

    fn read_secret(contents: &[u8]) -> Result<Self, KeyError> {
        if let Some(material) = recognise(contents) {
            let found = match &material {
                Material::PrivateKey => "a private key in PEM",
                Material::Other(found, _) => found,
            };
            let remedy = match &material {
                Material::PrivateKey => "rename it so that its name ends with .pem",
                Material::Other(..) => MAKE_SECRET,
            };
            return Err(KeyError(format!(
                "holds {found}; a *.secret file must hold an HS256 secret of random bytes: {remedy}"
            )));
        }
        let secret = contents.trim_ascii_end();
        if secret.len() < MIN_SECRET {
            return Err(KeyError(format!(
                "holds an HS256 secret of {} bytes; at least {MIN_SECRET} random bytes are required: {MAKE_SECRET}",
                secret.len(),
            )));
        }
        if let Some(why) = why_guessable(secret, MIN_REMAINING) {
            return Err(KeyError(format!(
                "holds an HS256 secret that can be guessed, because {why}: {MAKE_SECRET}"
            )));
        }
        // Hashed twice and with a label, because others may use a single hash of the secret too.
        let inner = digest::digest(&digest::SHA256, secret);
        let labelled = [b"latchkey kid ".as_slice(), inner.as_ref()].concat();
        let kid = BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, &labelled).as_ref());
        let algorithm = KeyAlgorithm::HS256;
        let signing = EncodingKey::from_secret(secret);
        let verifying = DecodingKey::from_secret(secret);
        Self::new(kid, algorithm, signing, verifying, None).self_test()
    }
}

#[cfg(test)]
mod tests;
