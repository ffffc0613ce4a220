//! Users who log in to a peer, and their tokens.

use std::{net::SocketAddr, ops::Range, thread};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use latchkey_bench::{Result, support::redis::RedisServer};
use serde_json::{Value, json};

use crate::{http, keycloak};

/// The number of keys that one command writes.
const KEYS_AT_A_TIME: usize = 1000;
/// The number of logins that one request asks for.
const LOGINS_AT_A_TIME: usize = 1000;
const SA_TOKEN_CONNECTIONS: usize = 8;

/// A token, and a text that the right answer contains.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) token: String,
    pub(crate) expected: String,
}

/// This is how sessions of a peer are opened.
pub(crate) enum Logins<'a> {
    Signed(Signer<'a>),
    SaToken(SocketAddr),
    Keycloak(SocketAddr),
}

impl Logins<'_> {
    /// Logs users in, each for the first time or once more.
    pub(crate) fn log_in(&self, users: Range<usize>) -> Result<Vec<Credential>> {
        match self {
            Self::Signed(signer) => signer.log_in(users),
            Self::SaToken(address) => log_in_to_sa_token(*address, users),
            Self::Keycloak(address) => users.map(|number| keycloak::log_in(*address, number)).collect(),
        }
    }
}

/// Signs the tokens of a peer as a login would, and writes the newest one of each user to Redis.
pub(crate) struct Signer<'a> {
    redis: &'a RedisServer,
    /// The tokens of the same users for Latchkey.
    latchkey_tokens: &'a [String],
    algorithm: Algorithm,
    key: EncodingKey,
    verification_key: Vec<u8>,
}

impl<'a> Signer<'a> {
    pub(crate) fn new(
        algorithm: Algorithm,
        redis: &'a RedisServer,
        latchkey_tokens: &'a [String],
    ) -> Result<Self> {
        let (key, verification_key) = if algorithm == Algorithm::EdDSA {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?;
            let pair = Ed25519KeyPair::from_pkcs8(document.as_ref())?;
            (EncodingKey::from_ed_der(document.as_ref()), pair.public_key().as_ref().to_vec())
        } else {
            let secret = rand::random::<[u8; 32]>();
            (EncodingKey::from_secret(&secret), secret.to_vec())
        };
        Ok(Self { redis, latchkey_tokens, algorithm, key, verification_key })
    }

    /// The environment variables of a peer that verifies these tokens.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("PEER_ALGORITHM", format!("{:?}", self.algorithm)),
            ("PEER_KEY", BASE64.encode(&self.verification_key)),
        ]
    }

    fn log_in(&self, users: Range<usize>) -> Result<Vec<Credential>> {
        let credentials = users.map(|number| self.sign(number)).collect::<Result<Vec<_>>>()?;
        for some in credentials.chunks(KEYS_AT_A_TIME) {
            let mut command = redis::cmd("MSET");
            for credential in some {
                command.arg(newest_key(&credential.token)?).arg(&credential.token);
            }
            self.redis.query::<()>(&command);
        }
        Ok(credentials)
    }

    fn sign(&self, number: usize) -> Result<Credential> {
        let mut claims = claims(&self.latchkey_tokens[number])?;
        let session_id = BASE32_NOPAD.encode(&rand::random::<[u8; 16]>()).to_lowercase();
        claims["jti"] = session_id.clone().into();
        claims["name"] = format!("user{number:08}").into();
        claims["device"] = "Firefox on Linux".into();
        let token = jsonwebtoken::encode(&Header::new(self.algorithm), &claims, &self.key)?;
        Ok(Credential { token, expected: session_id })
    }

    /// Forges a token: another user in the claims of this one. It is the newest one of that user.
    pub(crate) fn forge(&self, token: &str) -> Result<Credential> {
        let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
        let mut claims = claims(token)?;
        claims["sub"] = json!("mallory");
        parts[1] = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
        let token = parts.join(".");
        self.redis.query::<()>(redis::cmd("SET").arg(newest_key(&token)?).arg(&token));
        Ok(Credential { token, expected: claims["jti"].as_str().unwrap_or_default().to_owned() })
    }

    /// Leaves a minute of the idle timeout of a user.
    pub(crate) fn let_idle_until_a_minute_is_left(&self, token: &str) -> Result<()> {
        self.redis.query::<()>(redis::cmd("EXPIRE").arg(newest_key(token)?).arg(60));
        Ok(())
    }

    /// Checks that a use has slid the idle timeout of a user.
    pub(crate) fn check_idle_timeout(&self, token: &str) -> Result<()> {
        let seconds: i64 = self.redis.query(redis::cmd("TTL").arg(newest_key(token)?));
        if seconds > 60 { Ok(()) } else { Err(format!("the idle timeout is {seconds} s after a use").into()) }
    }
}

/// The key of the newest token of a user.
fn newest_key(token: &str) -> Result<String> {
    Ok(format!("peer:{}", claims(token)?["sub"].as_str().ok_or("a token without a user")?))
}

/// The claims of a token that was made in this process.
fn claims(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).ok_or("a token without claims")?;
    Ok(serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes())?)?)
}

/// Logs users in by several requests at a time, because Sa-Token waits for Redis many times in each login.
fn log_in_to_sa_token(address: SocketAddr, users: Range<usize>) -> Result<Vec<Credential>> {
    let of_each = users.len().div_ceil(SA_TOKEN_CONNECTIONS).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = users.clone().step_by(of_each).collect();
        let parts = parts.into_iter().map(|first| first..users.end.min(first + of_each));
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || log_in_part(address, part))).collect();
        let mut credentials = Vec::new();
        for thread in threads {
            credentials.extend(thread.join().map_err(|_| "a login to Sa-Token panicked")??);
        }
        Ok(credentials)
    })
}

fn log_in_part(address: SocketAddr, users: Range<usize>) -> Result<Vec<Credential>> {
    let mut credentials = Vec::new();
    for first in users.clone().step_by(LOGINS_AT_A_TIME) {
        let count = LOGINS_AT_A_TIME.min(users.end - first);
        let response = http::send(address, &format!("/login?first={first}&count={count}"), &[], None)?;
        let tokens: Vec<_> = response.body.lines().collect();
        if response.status != 200 || tokens.len() != count {
            return Err(
                format!("a login to Sa-Token failed with {}: {}", response.status, response.body).into()
            );
        }
        let credential = |(number, token): (usize, &str)| Credential {
            token: token.to_owned(),
            expected: format!("\"user{number:08}\""),
        };
        credentials.extend((first..).zip(tokens).map(credential));
    }
    Ok(credentials)
}
