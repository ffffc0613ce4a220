//! Tokens: JWTs in the profile of RFC 9068, read as strictly as RFC 8725 asks.
//!
//! The library checks the signature, and that `iss` and `aud` are ours. It accepts more than we ever
//! write (see the tests), so everything else is checked here: a token is good if it is one that this
//! module could have written, for these keys, at this time.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use highway::{HighwayHash as _, HighwayHasher, Key as HashKey};
use jsonwebtoken::{Header, Validation, errors::ErrorKind};
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use serde::{Deserialize, Serialize};

use crate::domain::{
    Error,
    keyring::{Key, KeyAlgorithm, Keyring},
    rejection::{Reason, Rejection},
    sessions::Session,
    types::{Claims, Generation, Role, SessionId, Slot, Timestamp, UserId, random},
};

/// A longer token is refused before any of it is read, in bytes.
pub const MAX_LEN: usize = 4096;

/// The `typ` of our tokens (RFC 9068 section 2.1), so that no other JWT passes for one.
const TYP: &str = "at+jwt";

/// How many verified tokens are remembered.
const REMEMBERED: usize = 65_536;

/// Signs and verifies tokens.
pub struct Tokens {
    current: ArcSwap<Current>,
    settings: TokenSettings,
}

/// The keys in use, and the tokens that were verified with them: with other keys these are verified anew.
struct Current {
    ring: Arc<Keyring>,
    /// By a hash of the whole token, so that no token is kept, and none passes for another by a part of it. Only
    /// good ones: whoever sends others pays for them each time, and pushes nothing out.
    verified: Arc<Verified>,
    /// Of the hash: `HighwayHash` with 128 bits, a pseudo-random function (Alakuijala, Cox and Wassenberg 2016) under a
    /// key that nobody knows. To pass for a token that is remembered, another one has to meet its hash blindly.
    hash_key: HashKey,
}

type Verified = Cache<TokenHash, Arc<Claims>, UnitWeighter, BuildHasherDefault<Itself>>;

impl Current {
    fn new(ring: Keyring) -> Self {
        let verified = Cache::with(
            REMEMBERED,
            REMEMBERED as u64,
            UnitWeighter,
            BuildHasherDefault::default(),
            DefaultLifecycle::default(),
        );
        Self {
            ring: Arc::new(ring),
            verified: Arc::new(verified),
            hash_key: HashKey([(); 4].map(|()| u64::from_le_bytes(random()))),
        }
    }
}

/// The hash of a whole token.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TokenHash([u64; 2]);

impl Hash for TokenHash {
    fn hash<H: Hasher>(&self, to: &mut H) {
        // Any half of it is as good as the other.
        to.write_u64(self.0[0]);
    }
}

/// Takes for a hash what is one already.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
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

/// What all tokens have in common.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// How far in the future `iat` and `nbf` may lie, for clocks that differ.
    pub leeway: Duration,
}

/// The claims as they are written, each of exactly one JSON type.
#[derive(Serialize, Deserialize)]
struct Wire {
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
    /// Tokens signed with these keys.
    pub fn new(ring: Keyring, settings: TokenSettings) -> Self {
        Self { current: ArcSwap::from_pointee(Current::new(ring)), settings }
    }

    /// Signs with other keys from now on. Tokens of keys that are gone no longer verify: which these are, and until
    /// when tokens of them would have been good that were issued or verified here.
    pub fn rotate(&self, mut ring: Keyring) -> Vec<(String, Timestamp)> {
        let before = self.current.load();
        ring.remember(&before.ring);
        let gone = before.ring.keys().iter().filter(|key| ring.find(&key.kid).is_none());
        let gone: Vec<_> = gone.map(|key| (key.kid.clone(), key.needed_until())).collect();
        let next = if gone.is_empty() {
            // What was good stays good.
            Current {
                ring: Arc::new(ring),
                verified: Arc::clone(&before.verified),
                hash_key: before.hash_key,
            }
        } else {
            Current::new(ring)
        };
        self.current.store(Arc::new(next));
        gone
    }

    /// Whether a token names a key that is not among ours, in a header like ours.
    pub fn lacks_key_of(&self, token: &str) -> bool {
        let ring = &self.current.load().ring;
        token.len() <= MAX_LEN && header_of(token).is_ok_and(|header| ring.find(header.kid()).is_none())
    }

    /// The keys in use.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.load().ring)
    }

    /// The token of a session.
    pub fn issue(&self, user_id: &UserId, session: &Session, roles: &[Role]) -> Result<String, Error> {
        let current = self.current.load();
        let key = current.ring.signing();
        let mut header = Header::new(key.jwt_algorithm);
        header.typ = Some(TYP.into());
        header.kid = Some(key.kid.clone());
        let issued_at = session.issued_at.as_secs();
        let wire = Wire {
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
        key.is_needed_until(session.expires_at);
        jsonwebtoken::encode(&header, &wire, &key.signing)
            .map_err(|error| Error::Internal(format!("cannot sign a token: {error}")))
    }

    /// What a token says, if it is one of ours and its time has not gone. Whether its session is live is another
    /// question, and so is whether its time has come: a session that was displaced before has still ended.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, Rejection> {
        if token.len() > MAX_LEN {
            return Err(Rejection::bare(Reason::Malformed));
        }
        let current = self.current.load();
        let hash = TokenHash(HighwayHasher::new(current.hash_key).hash128(token.as_bytes()));
        let claims = if let Some(claims) = current.verified.get(&hash) {
            claims
        } else {
            let claims = Arc::new(self.verify_signature(&current.ring, token)?);
            current.verified.insert(hash, Arc::clone(&claims));
            claims
        };
        if now >= claims.expires_at {
            return Err(Rejection::at(Reason::Expired, claims.expires_at));
        }
        Ok(claims)
    }

    /// How far in the future the times of a token may lie.
    pub fn leeway(&self) -> Duration {
        self.settings.leeway
    }

    /// What a token says, if we have written it. Whether its time has come, or gone, is another question each time.
    fn verify_signature(&self, ring: &Keyring, token: &str) -> Result<Claims, Rejection> {
        let key = key_of(ring, token)?;
        let data =
            jsonwebtoken::decode::<Wire>(token, &key.verifying, &self.validation(key)).map_err(|error| {
                Rejection::bare(match error.kind() {
                    ErrorKind::InvalidSignature => Reason::BadSignature,
                    _ => Reason::Malformed,
                })
            })?;
        let claims = claims(&data.claims).ok_or(Rejection::bare(Reason::Malformed))?;
        key.is_needed_until(claims.expires_at);
        Ok(claims)
    }

    /// What the library is to check. Time is not among it: it reads the wall clock, and takes a token at
    /// the very second of its `exp`.
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

/// A header like ours in every respect.
struct OurHeader(Header);

impl OurHeader {
    fn kid(&self) -> &str {
        self.0.kid.as_deref().unwrap_or_default()
    }
}

/// The header of a token, if it is one of ours in every respect.
fn header_of(token: &str) -> Result<OurHeader, Rejection> {
    let malformed = Rejection::bare(Reason::Malformed);
    let header = jsonwebtoken::decode_header(token).map_err(|_| malformed.clone())?;
    let kid = header.kid.as_deref().ok_or(malformed.clone())?;
    let supported = KeyAlgorithm::ALL.iter().any(|algorithm| algorithm.jwt() == header.alg);
    let mut ours = Header::new(header.alg);
    ours.typ = Some(TYP.into());
    ours.kid = Some(kid.to_owned());
    // Equality refuses what the library overlooks: `crit`, `b64`, `zip`, embedded keys, another `typ`.
    if !supported || header != ours {
        return Err(malformed);
    }
    Ok(OurHeader(header))
}

/// The key that a token's header names, if the header is one of ours in every respect.
fn key_of<'a>(ring: &'a Keyring, token: &str) -> Result<&'a Key, Rejection> {
    let header = header_of(token)?;
    let key = ring.find(header.kid()).ok_or(Rejection::bare(Reason::BadSignature))?;
    if key.jwt_algorithm == header.0.alg { Ok(key) } else { Err(Rejection::bare(Reason::Malformed)) }
}

fn claims(wire: &Wire) -> Option<Claims> {
    Some(Claims {
        user_id: UserId::parse(&wire.sub).ok()?,
        session_id: SessionId::parse(&wire.jti)?,
        generation: Generation(wire.generation),
        slot: Slot::parse(&wire.slot).ok()?,
        not_before: Timestamp::from_secs(wire.iat.max(wire.nbf)),
        expires_at: Timestamp::from_secs(wire.exp),
    })
}

#[cfg(test)]
mod tests;
