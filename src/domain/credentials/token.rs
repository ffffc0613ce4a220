//! Access tokens: JWTs in the profile of RFC 9068, verified as strictly as RFC 8725 recommends.
//!
//! A token is valid if this module could have written it: for a key of the ring, with exactly its header, with claims
//! of exactly one type each, and at this time. The library verifies the signature, the issuer and the audience. It
//! accepts more than this module writes, so the rest is checked here and tried in the tests. The size is checked before
//! anything is parsed, and the signature and the claims before the store is read. See ADR 0004.
//!
//! Every service asks for a verdict on every request, so most tokens take a shorter way to the same result (ADR 0019): a
//! token that this server has verified before is known by a hash of all its bytes, and one that it sees for the first time
//! is recognised with the private key. Both only ever accept. What they do not accept is left to the library.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use highway::{HighwayHash as _, HighwayHasher, Key as HashKey};
use jsonwebtoken::{Header, Validation, errors::ErrorKind};
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use serde::{Deserialize, Serialize};

use self::{
    issued::Spelling,
    verified::{TokenHash, VerifiedTokens},
};
use crate::domain::{
    Error,
    keyring::{Key, KeyAlgorithm, Keyring},
    rejection::{Reason, Rejection},
    sessions::Session,
    types::{Claims, Generation, Role, SessionId, Slot, Timestamp, UserId, random},
};

/// The longest token, in bytes. The length is checked before anything is parsed.
pub const MAX_LEN: usize = 4096;

/// The `typ` of access tokens (RFC 9068 section 2.1), which no other JWT has.
const TYP: &str = "at+jwt";

/// At most this many tokens are kept with their claims.
const MEMO: usize = 32_768;
/// One in so many uses of a token puts its claims into the memo, so that tokens that are rarely used do not displace
/// those that are used all the time.
const MEMO_SAMPLE: u32 = 16;

/// Signs and verifies tokens.
pub struct Tokens {
    current: ArcSwap<ActiveKeys>,
    settings: TokenSettings,
}

/// The key ring, and the tokens that were verified with it.
struct ActiveKeys {
    ring: Arc<Keyring>,
    spelling: Arc<Spelling>,
    verified: Arc<Verified>,
}

/// Tokens by a hash of all their bytes, so that no token is kept, and none matches another by a part of it. Only valid
/// tokens are remembered, so invalid ones cannot displace them.
struct Verified {
    tokens: VerifiedTokens,
    /// The claims of those that are used most.
    memo: Cache<TokenHash, Arc<Claims>, UnitWeighter, BuildHasherDefault<PrehashedHasher>>,
    /// The key of the hash: `HighwayHash` with 128 bits, a pseudo-random function (Alakuijala, Cox and Wassenberg
    /// 2016). Nobody knows the key, so a forged token can match another only by chance.
    hash_key: HashKey,
}

impl Verified {
    fn new() -> Self {
        let hasher = BuildHasherDefault::default();
        Self {
            tokens: VerifiedTokens::new(),
            memo: Cache::with(MEMO, MEMO as u64, UnitWeighter, hasher, DefaultLifecycle::default()),
            hash_key: HashKey([(); 4].map(|()| u64::from_le_bytes(random()))),
        }
    }

    fn hash(&self, token: &str) -> TokenHash {
        TokenHash(HighwayHasher::new(self.hash_key).hash128(token.as_bytes()))
    }
}

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, to: &mut H) {
        // Both halves are equally random.
        to.write_u64(self.0[0]);
    }
}

/// Passes on a value that is a hash already.
#[derive(Default)]
struct PrehashedHasher(u64);

impl Hasher for PrehashedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The settings that all tokens share.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// How far in the future `iat` and `nbf` may lie, for clocks that differ.
    pub leeway: Duration,
}

/// The claims of a token in JSON, each of exactly one type.
#[derive(Serialize, Deserialize)]
struct JsonClaims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    #[serde(rename = "gen")]
    generation: u64,
    slot: String,
    roles: Vec<String>,
}

impl Tokens {
    /// Signs and verifies tokens with these keys.
    pub fn new(ring: Keyring, settings: TokenSettings) -> Self {
        let current = ActiveKeys {
            spelling: Arc::new(Spelling::new(&ring, &settings)),
            ring: Arc::new(ring),
            verified: Arc::new(Verified::new()),
        };
        Self { current: ArcSwap::from_pointee(current), settings }
    }

    /// Replaces the key ring. Returns the ids of the keys that were removed, whose tokens are no longer valid, each
    /// with the latest `exp` of its tokens that this process has issued or verified.
    pub fn rotate(&self, mut ring: Keyring) -> Vec<(String, Timestamp)> {
        let before = self.current.load();
        ring.inherit_needed_until(&before.ring);
        let gone = before.ring.keys().iter().filter(|key| ring.find(&key.kid).is_none());
        let gone: Vec<_> = gone.map(|key| (key.kid.clone(), key.needed_until())).collect();
        let next = ActiveKeys {
            spelling: Arc::new(Spelling::new(&ring, &self.settings)),
            ring: Arc::new(ring),
            // Tokens of a key that was removed are no longer valid.
            verified: if gone.is_empty() { Arc::clone(&before.verified) } else { Arc::new(Verified::new()) },
        };
        self.current.store(Arc::new(next));
        gone
    }

    /// Whether a token has a valid header that names an unknown key.
    pub fn names_unknown_key(&self, token: &str) -> bool {
        let ring = &self.current.load().ring;
        token.len() <= MAX_LEN && parse_header(token).is_ok_and(|header| ring.find(header.kid()).is_none())
    }

    /// The key ring in use.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.load().ring)
    }

    /// Issues the token of a session.
    pub fn issue(&self, user_id: &UserId, session: &Session, roles: &[Role]) -> Result<String, Error> {
        let current = self.current.load();
        let key = current.ring.signing();
        let issued_at = session.issued_at.as_secs();
        let claims = JsonClaims {
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
            sub: user_id.to_string(),
            iat: issued_at,
            nbf: issued_at,
            exp: session.expires_at.as_secs(),
            jti: session.id.to_string(),
            generation: session.generation.0,
            slot: session.slot.as_str().into(),
            roles: roles.iter().map(|role| role.as_str().to_owned()).collect(),
        };
        key.extend_needed_until(session.expires_at);
        jsonwebtoken::encode(&header_of(key), &claims, &key.signing)
            .map_err(|error| Error::Internal(format!("failed to sign a token: {error}")))
    }

    /// Verifies a token and returns its claims. Whether its session is live is not checked here, nor whether the token
    /// is valid already: if the session was displaced before, its end is the reason to report.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, Rejection> {
        self.verify_with(&self.current.load(), token, now)
    }

    /// The keys in use, to verify several tokens.
    pub fn keys(&self) -> Keys<'_> {
        Keys { tokens: self, current: self.current.load() }
    }

    fn verify_with(
        &self,
        current: &ActiveKeys,
        token: &str,
        now: Timestamp,
    ) -> Result<Arc<Claims>, Rejection> {
        if token.len() > MAX_LEN {
            return Err(Rejection::bare(Reason::Malformed));
        }
        let hash = current.verified.hash(token);
        let claims = match current.verified.memo.get(&hash) {
            Some(claims) => claims,
            None => self.verify_once(current, token, hash)?,
        };
        if now >= claims.expires_at {
            return Err(Rejection::at(Reason::Expired, claims.expires_at));
        }
        Ok(claims)
    }

    /// Verifies a token whose claims are not in the memo.
    fn verify_once(
        &self,
        current: &ActiveKeys,
        token: &str,
        hash: TokenHash,
    ) -> Result<Arc<Claims>, Rejection> {
        let ActiveKeys { ring, spelling, verified } = current;
        let Some(issued) = spelling.parse(ring, token) else {
            let claims = Arc::new(self.verify_by_library(ring, token)?);
            verified.memo.insert(hash, Arc::clone(&claims));
            return Ok(claims);
        };
        if verified.tokens.contains(hash) {
            let claims = Arc::new(issued.claims);
            if rand::random_ratio(1, MEMO_SAMPLE) {
                verified.memo.insert(hash, Arc::clone(&claims));
            }
            return Ok(claims);
        }
        let claims = if issued.key.has_signed(issued.message, issued.signature) {
            issued.key.extend_needed_until(issued.claims.expires_at);
            issued.claims
        } else {
            self.verify_by_library(ring, token)?
        };
        verified.tokens.insert(hash);
        Ok(Arc::new(claims))
    }

    /// How far in the future `iat` and `nbf` may lie.
    pub fn leeway(&self) -> Duration {
        self.settings.leeway
    }

    /// Verifies everything but the times of a token, which are checked on every use.
    fn verify_by_library(&self, ring: &Keyring, token: &str) -> Result<Claims, Rejection> {
        let key = key_of(ring, token)?;
        let data = jsonwebtoken::decode::<JsonClaims>(token, &key.verifying, &self.validation(key)).map_err(
            |error| {
                Rejection::bare(match error.kind() {
                    ErrorKind::InvalidSignature => Reason::BadSignature,
                    _ => Reason::Malformed,
                })
            },
        )?;
        let claims = claims(&data.claims).ok_or(Rejection::bare(Reason::Malformed))?;
        key.extend_needed_until(claims.expires_at);
        Ok(claims)
    }

    /// The checks of the library. It must not check times: it reads the wall clock, and accepts a token in the very
    /// second of its `exp`.
    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.jwt_algorithm);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation
    }
}

/// The header of the tokens of a key.
fn header_of(key: &Key) -> Header {
    let mut header = Header::new(key.jwt_algorithm);
    header.typ = Some(TYP.into());
    header.kid = Some(key.kid.clone());
    header
}

/// The keys that were in use when [`Tokens::keys`] was called. Not to be held while waiting.
pub struct Keys<'a> {
    tokens: &'a Tokens,
    current: Guard<Arc<ActiveKeys>>,
}

impl Keys<'_> {
    /// [`Tokens::verify`] with these keys.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, Rejection> {
        self.tokens.verify_with(&self.current, token, now)
    }
}

/// A header exactly as this module writes it.
struct TokenHeader(Header);

impl TokenHeader {
    fn kid(&self) -> &str {
        self.0.kid.as_deref().unwrap_or_default()
    }
}

/// Parses the header of a token. Fails unless it is exactly as this module writes it.
fn parse_header(token: &str) -> Result<TokenHeader, Rejection> {
    let malformed = Rejection::bare(Reason::Malformed);
    let header = jsonwebtoken::decode_header(token).map_err(|_| malformed.clone())?;
    let kid = header.kid.as_deref().ok_or(malformed.clone())?;
    let supported = KeyAlgorithm::ALL.iter().any(|algorithm| algorithm.jwt() == header.alg);
    let mut expected = Header::new(header.alg);
    expected.typ = Some(TYP.into());
    expected.kid = Some(kid.to_owned());
    // Equality excludes what the library ignores: `crit`, `b64`, `zip`, embedded keys, another `typ`.
    if !supported || header != expected {
        return Err(malformed);
    }
    Ok(TokenHeader(header))
}

/// Finds the key that the header of a token names.
fn key_of<'a>(ring: &'a Keyring, token: &str) -> Result<&'a Key, Rejection> {
    let header = parse_header(token)?;
    let key = ring.find(header.kid()).ok_or(Rejection::bare(Reason::BadSignature))?;
    if key.jwt_algorithm == header.0.alg { Ok(key) } else { Err(Rejection::bare(Reason::Malformed)) }
}

fn claims(json: &JsonClaims) -> Option<Claims> {
    Some(Claims {
        user_id: UserId::parse(&json.sub).ok()?,
        session_id: SessionId::parse(&json.jti)?,
        generation: Generation(json.generation),
        slot: Slot::parse(&json.slot).ok()?,
        not_before: Timestamp::from_secs(json.iat.max(json.nbf)),
        expires_at: Timestamp::from_secs(json.exp),
    })
}

mod issued;
mod verified;

#[cfg(test)]
mod tests;
