//! The secret that signs webhook batches, in the form of Standard Webhooks 1.0.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use zeroize::Zeroizing;

const PREFIX: &str = "whsec_";
/// Allowed sizes in bytes.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// A signing secret, shared with the receiver.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Parses `whsec_` and 24 to 64 bytes in base64. The error is a sentence without a subject, to be read after the
    /// name of the setting.
    pub fn parse(text: &str) -> Result<Self, String> {
        let decoded = text.strip_prefix(PREFIX).and_then(|body| BASE64.decode(body.as_bytes()).ok());
        decoded.map(Zeroizing::new).filter(|bytes| SIZES.contains(&bytes.len())).map(Self).ok_or_else(|| {
            "must be `whsec_` and 24 to 64 random bytes in base64: `echo whsec_$(openssl rand -base64 32)` makes one"
                .to_owned()
        })
    }

    /// Signs a body that is sent with this id at this time, in seconds since the Unix epoch.
    pub fn sign(&self, id: &str, time: u64, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let signature = hmac::sign(&key, format!("{id}.{time}.{body}").as_bytes());
        format!("v1,{}", BASE64.encode(signature.as_ref()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_body_is_signed_as_the_libraries_of_standard_webhooks_verify_it() {
        // The test vector of these libraries.
        let body = r#"{"test": 2432232314}"#;
        let signature =
            Secret::parse(TEXT).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn short_and_malformed_secrets_are_errors() {
        let of = |size: usize| format!("whsec_{}", BASE64.encode(&vec![7; size]));
        for good in [TEXT.to_owned(), of(24), of(64)] {
            assert!(Secret::parse(&good).is_ok(), "{good}");
        }
        for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64", &of(23), &of(65)] {
            let error = Secret::parse(bad).unwrap_err();
            assert!(error.starts_with("must be `whsec_`"), "{bad}: {error}");
            assert!(bad.len() < 10 || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Secret::parse(TEXT).unwrap()), "Secret([redacted])");
    }
}
