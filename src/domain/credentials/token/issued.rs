//! Reads tokens that are spelled exactly as this server issues them: the header and the claims in their order, without
//! white space and escapes. That takes no allocation but the values of the claims. Any other token is left to the
//! library, and so is every rejection.

use data_encoding::BASE64URL_NOPAD;

use super::{MAX_LEN, TokenSettings, header_of};
use crate::domain::{
    keyring::{Key, Keyring},
    types::{Claims, Generation, SessionId, Slot, Timestamp, UserId},
};

/// Tokens of this server begin like this.
pub(super) struct Spelling {
    /// The encoded header of each key, in the order of the ring, with the dot behind it.
    headers: Vec<String>,
    /// The claims up to the user id.
    claims: String,
}

/// A token as this server issues it. Its signature is not verified.
pub(super) struct IssuedToken<'a> {
    pub(super) key: &'a Key,
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
    pub(super) claims: Claims,
}

impl Spelling {
    pub(super) fn new(ring: &Keyring, settings: &TokenSettings) -> Self {
        let headers = ring.keys().iter().map(|key| {
            let header = serde_json::to_vec(&header_of(key)).unwrap_or_default();
            BASE64URL_NOPAD.encode(&header) + "."
        });
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let claims =
            format!("{{\"iss\":{},\"aud\":{},\"sub\":\"", text(&settings.issuer), text(&settings.audience));
        Self { headers: headers.collect(), claims }
    }

    /// Reads a token. `ring` must be the one of [`new`](Self::new).
    pub(super) fn parse<'a>(&self, ring: &'a Keyring, token: &'a str) -> Option<IssuedToken<'a>> {
        let mut candidates = ring.keys().iter().zip(&self.headers);
        let (key, header) = candidates.find(|(_, header)| token.starts_with(header.as_str()))?;
        let (payload, signature) = token[header.len()..].split_once('.')?;
        let message = &token[..header.len() + payload.len()];

        let mut decoded = [0; MAX_LEN];
        let length = BASE64URL_NOPAD.decode_len(payload.len()).ok()?;
        let decoded = decoded.get_mut(..length)?;
        BASE64URL_NOPAD.decode_mut(payload.as_bytes(), decoded).ok()?;
        let claims = self.parse_claims(decoded)?;
        Some(IssuedToken { key, message, signature, claims })
    }

    fn parse_claims(&self, json: &[u8]) -> Option<Claims> {
        let mut json = Reader(json);
        json.expect(self.claims.as_bytes())?;
        let user_id = UserId::parse(json.text()?).ok()?;
        json.expect(b",\"iat\":")?;
        let issued_at = json.number()?;
        json.expect(b",\"nbf\":")?;
        let not_before = json.number()?;
        json.expect(b",\"exp\":")?;
        let expires_at = json.number()?;
        json.expect(b",\"jti\":\"")?;
        let session_id = SessionId::parse(json.text()?)?;
        json.expect(b",\"gen\":")?;
        let generation = Generation(json.number()?);
        json.expect(b",\"slot\":\"")?;
        let slot = Slot::parse(json.text()?).ok()?;
        json.expect(b",\"roles\":[")?;
        json.skip_texts()?;
        json.expect(b"]}")?;
        json.0.is_empty().then_some(Claims {
            user_id,
            session_id,
            generation,
            slot,
            not_before: Timestamp::from_secs(issued_at.max(not_before)),
            expires_at: Timestamp::from_secs(expires_at),
        })
    }
}

/// The rest of a JSON text.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn expect(&mut self, literal: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(literal)?;
        Some(())
    }

    /// Reads a string of printable ASCII without escapes, behind its first quotation mark.
    fn text(&mut self) -> Option<&'a str> {
        let length = self.0.iter().position(|byte| *byte == b'"')?;
        let (text, rest) = self.0.split_at(length);
        self.0 = &rest[1..];
        let is_plain = text.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\');
        str::from_utf8(text).ok().filter(|_| is_plain)
    }

    /// Reads a whole number as JSON spells it.
    fn number(&mut self) -> Option<u64> {
        let length = self.0.iter().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at(length);
        self.0 = rest;
        let is_plain = digits == b"0" || digits.first().is_some_and(|first| *first != b'0');
        let add = |number: u64, digit: &u8| number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
        digits.iter().try_fold(0, add).filter(|_| is_plain)
    }

    /// Reads the strings of an array, behind its bracket.
    fn skip_texts(&mut self) -> Option<()> {
        if self.0.first() != Some(&b'"') {
            return Some(());
        }
        loop {
            self.expect(b"\"")?;
            self.text()?;
            if self.0.first() != Some(&b',') {
                return Some(());
            }
            self.expect(b",")?;
        }
    }
}
