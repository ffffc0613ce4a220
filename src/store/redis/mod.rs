//! The Redis store: one value a user, one event stream a bucket of users.
//!
//! A user's key and the stream of the user's bucket share a hash tag, so that a commit, which writes
//! both in one script, is legal on a cluster. Values hold session ids and deadlines, never a token.
//!
//! | key | value |
//! |---|---|
//! | `<prefix>:{<bucket>}:s:<user id>` | revision (8 bytes, big-endian), then the encoded state; expires by itself |
//! | `<prefix>:{<bucket>}:events` | a stream, field `e`: an encoded event; forgets by number and by age |

mod connect;
mod connection;
mod cursor;
mod follow;
mod log;
mod supervisor;

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::future::join_all;
use redis::{Cmd, Script, Value};

use self::{
    connection::{Connection, Purpose},
    follow::Follower,
    log::Log,
};
use super::backend::{Backend, EVENT_RETENTION, EncodedChange, EncodedCommit, EncodedTail, EncodedValue};
use super::binding;
use crate::domain::ports::{Cursor, StoreError};

pub use connect::RedisSettings;

/// What messages to the operator call it.
const NAME: &str = "redis";

/// Users are spread over this many buckets. Part of the format: another number finds no session.
const BUCKETS: u64 = 64;

/// How many registers one command asks for, at most. The server answers nobody else meanwhile, and the
/// last of them waits for the first.
const MOST_AT_ONCE: usize = 512;

/// Events that a bucket's stream keeps, about.
const STREAM_LENGTH: usize = 4096;

/// Registers in Redis.
pub struct RedisRegisters {
    link: Connection,
    /// What the names of a bucket's registers begin with.
    heads: Vec<String>,
    commit: Script,
    log: Log,
    follower: Follower,
    retention: Duration,
}

impl RedisRegisters {
    /// Registers in the Redis at `settings.url`, under keys that begin with `prefix`. Connects in the
    /// background; until that has succeeded the store is unavailable.
    pub fn start(settings: &RedisSettings, prefix: &str) -> Result<Self, String> {
        let link = Connection::start(settings, Purpose::Requests)?;
        Ok(Self {
            link,
            heads: (0..BUCKETS).map(|bucket| format!("{prefix}:{{{bucket}}}:s:")).collect(),
            commit: Script::new(include_str!("commit.lua")),
            log: Log::new(prefix),
            follower: Follower::new(settings),
            retention: EVENT_RETENTION,
        })
    }

    /// Has the log forget events of this age, about, instead of the usual one. A commit that appends to
    /// a stream is what makes the stream forget; one that nobody appends to does not grow.
    #[must_use]
    pub fn with_retention(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    fn register(&self, key: &str) -> String {
        let mut register = String::new();
        self.write_register(key, &mut register);
        register
    }

    /// What stands in several registers, by one command.
    async fn load_together(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        // Names keys of more than one hash tag, as the follower does. On a cluster it would be a command a slot.
        let mut command = Cmd::with_capacity(1 + keys.len(), 64 * keys.len());
        command.arg("MGET");
        let mut register = String::new();
        for key in keys {
            register.clear();
            self.write_register(key, &mut register);
            command.arg(register.as_str());
        }
        // What is not there is asked for again, below.
        let fits = |answer: &Value| {
            let parts = |values: &Vec<Value>| {
                values.len() == keys.len()
                    && keys.iter().zip(values).all(|(key, value)| *value == Value::Nil || is_of(key, value))
            };
            matches!(answer, Value::Array(values) if parts(values))
        };
        let values = match self.link.read(&command, fits).await {
            Ok(Value::Array(values)) if values.len() == keys.len() => values,
            Ok(_) => {
                let cause = corrupt("several registers were not answered with as many values");
                return keys.iter().map(|_| Err(cause.clone())).collect();
            }
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut reads: Vec<_> = values.into_iter().map(value).collect();
        // To MGET a register of the wrong type is one that holds nothing, which to us it must never be; GET
        // tells the two apart. Seldom is there one: what is loaded in a crowd are the users of live tokens.
        let unsure = (0..keys.len()).filter(|place| matches!(reads[*place], Ok(None)));
        let sure = unsure.map(async |place| (place, self.load(keys[place]).await));
        for (place, read) in join_all(sure).await {
            reads[place] = read;
        }
        reads
    }

    fn write_register(&self, key: &str, to: &mut String) {
        to.push_str(&self.heads[bucket_index(bucket(key))]);
        to.push_str(key);
    }
}

#[async_trait]
impl Backend for RedisRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError> {
        // That there is nothing is all that an answer can say without saying of what.
        value(self.link.read(redis::cmd("GET").arg(self.register(key)), |answer| is_of(key, answer)).await?)
    }

    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        if let [key] = keys {
            return vec![self.load(key).await];
        }
        let commands = keys.chunks(MOST_AT_ONCE).map(|some| self.load_together(some));
        join_all(commands).await.into_iter().flatten().collect()
    }

    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError> {
        let EncodedChange { expected, value: new, keep_until, events } = change;
        let mut bytes = Vec::with_capacity(8 + new.bytes.len());
        bytes.extend_from_slice(&new.revision.to_be_bytes());
        bytes.extend_from_slice(&new.bytes);

        let mut commit = self.commit.key(self.register(key));
        commit
            .key(self.log.stream(bucket(key)))
            .arg(if expected == 0 { Vec::new() } else { expected.to_be_bytes().to_vec() })
            .arg(bytes)
            // Redis takes no 0.
            .arg(keep_until.as_micros().div_ceil(1000).max(1))
            .arg(STREAM_LENGTH)
            .arg(u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX));
        for event in &events {
            commit.arg(event.as_ref());
        }
        let committed = |answer: &Value| matches!(answer, Value::BulkString(revision) if *revision == new.revision.to_be_bytes());
        let fits = |answer: &Value| match answer {
            Value::Array(stands) => stands.first().is_some_and(|stands| is_of(key, stands)),
            answer => committed(answer),
        };
        match self.link.invoke(&commit, fits).await? {
            answer if committed(&answer) => Ok(EncodedCommit::Committed),
            Value::Array(stands) => {
                value(stands.into_iter().next().unwrap_or(Value::Nil)).map(EncodedCommit::Conflict)
            }
            other => Err(corrupt(&format!("a commit was answered with {other:?}"))),
        }
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError> {
        self.log.tail(&self.link, after, limit).await
    }

    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        self.follower.follow(&self.log, after, limit, patience).await
    }
}

/// Whether an answer is, beyond doubt, about this register.
fn is_of(key: &str, answer: &Value) -> bool {
    matches!(answer, Value::BulkString(value) if value.get(8..).is_some_and(|bytes| binding::is_bound(key, bytes)))
}

fn value(stands: Value) -> Result<Option<EncodedValue>, StoreError> {
    match stands {
        Value::Nil => Ok(None),
        Value::BulkString(stands) => {
            let mut bytes = Bytes::from(stands);
            let revision = bytes.try_get_u64().map_err(|_| corrupt("a register without a revision"))?;
            Ok(Some(EncodedValue { revision, bytes }))
        }
        other => Err(corrupt(&format!("a register of the wrong type: {other:?}"))),
    }
}

fn corrupt(cause: &str) -> StoreError {
    StoreError::Corrupt { store: NAME, cause: cause.to_owned() }
}

fn bucket_index(bucket: u64) -> usize {
    usize::try_from(bucket).unwrap_or_default()
}

/// FNV-1a: stable over versions and machines, which the hashes of the standard library are not.
fn bucket(key: &str) -> u64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_a_user_never_changes() {
        assert_eq!(bucket(""), 0xcbf2_9ce4_8422_2325 % 64);
        assert_eq!(bucket("foobar"), 0x8594_4171_f739_67e8 % 64, "the test vector of the FNV authors");
    }
}
