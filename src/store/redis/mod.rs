//! The Redis store: one value per user, one event stream per bucket of users.
//!
//! The key of a user and the stream of the user's bucket share a hash tag, so that `commit.lua`, which writes both,
//! is legal on a cluster. Values hold session ids and deadlines, never a token.
//!
//! | key | value |
//! |---|---|
//! | `<prefix>:{<bucket>}:s:<user id>` | revision (8 bytes, big-endian), then the encoded state; expires by itself |
//! | `<prefix>:{<bucket>}:events` | a stream with the field `e`, an encoded event; trimmed by length and by age |
//!
//! Requests share one supervised connection with a channel for reads and one for writes (`connection`); the
//! follower of the event log has a connection of its own (`follow`). A connection is replaced at the first error
//! that a new one may solve, and while there is none every request fails at once.

mod connect;
mod connection;
mod cursor;
mod event_streams;
mod follow;
mod supervisor;

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::future::join_all;
use redis::{Cmd, Script, Value};

use self::{
    connection::{ConnectionKind, SupervisedConnection},
    event_streams::EventStreams,
    follow::Follower,
};
use super::backend::{Backend, EVENT_RETENTION, EncodedChange, EncodedCommit, EncodedTail, EncodedValue};
use super::binding;
use crate::domain::ports::{Cursor, StoreError};

pub use connect::{RedisSettings, RedisTlsFiles};

/// The name of the store in messages.
const NAME: &str = "redis";

/// The number of buckets. It is part of the format: with another number, no session is found.
const BUCKETS: u64 = 64;

/// The most registers that one MGET reads. The server serves nobody else meanwhile, and the first of them waits for
/// the last.
const MAX_MGET_KEYS: usize = 512;

/// The approximate number of events that the stream of a bucket keeps.
const STREAM_LENGTH: usize = 4096;

/// Registers and event log in Redis.
pub struct RedisRegisters {
    connection: SupervisedConnection,
    /// The prefix of the register keys, by bucket.
    key_prefixes: Vec<String>,
    commit: Script,
    streams: EventStreams,
    follower: Follower,
    retention: Duration,
}

impl RedisRegisters {
    /// Starts to connect to `settings.url` in the background; the store is unavailable until that has succeeded. All
    /// keys begin with `prefix`.
    pub fn start(settings: &RedisSettings, prefix: &str) -> Result<Self, String> {
        let connection = SupervisedConnection::start(settings, ConnectionKind::Requests)?;
        Ok(Self {
            connection,
            key_prefixes: (0..BUCKETS).map(|bucket| format!("{prefix}:{{{bucket}}}:s:")).collect(),
            commit: Script::new(include_str!("commit.lua")),
            streams: EventStreams::new(prefix),
            follower: Follower::new(settings),
            retention: EVENT_RETENTION,
        })
    }

    /// Replaces the approximate retention of events. Only a commit that appends to a stream trims it.
    #[must_use]
    pub fn with_retention(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    fn register_key(&self, key: &str) -> String {
        let mut register_key = String::new();
        self.push_register_key(key, &mut register_key);
        register_key
    }

    fn push_register_key(&self, key: &str, to: &mut String) {
        to.push_str(&self.key_prefixes[bucket_index(bucket(key))]);
        to.push_str(key);
    }

    /// Loads up to [`MAX_MGET_KEYS`] registers by one MGET.
    async fn mget(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        // The keys have more than one hash tag; a cluster needs one MGET per slot.
        let mut command = Cmd::with_capacity(1 + keys.len(), 64 * keys.len());
        command.arg("MGET");
        let mut register_key = String::new();
        for key in keys {
            register_key.clear();
            self.push_register_key(key, &mut register_key);
            command.arg(register_key.as_str());
        }
        // Nil proves nothing about the response, but these registers are loaded again below.
        let is_expected = |response: &Value| {
            let all_match = |values: &Vec<Value>| {
                values.len() == keys.len()
                    && keys
                        .iter()
                        .zip(values)
                        .all(|(key, value)| *value == Value::Nil || is_bound_to(key, value))
            };
            matches!(response, Value::Array(values) if all_match(values))
        };
        let values = match self.connection.read(&command, is_expected).await {
            Ok(Value::Array(values)) if values.len() == keys.len() => values,
            Ok(_) => {
                let error = corrupt("the response to MGET has another number of values than keys");
                return keys.iter().map(|_| Err(error.clone())).collect();
            }
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut reads: Vec<_> = values.into_iter().map(decode).collect();
        // MGET answers nil for a key of the wrong type, too, and GET tells the two apart. Both are rare, because
        // batched loads are for users with live tokens.
        let missing = (0..keys.len()).filter(|index| matches!(reads[*index], Ok(None)));
        let loads = missing.map(async |index| (index, self.load(keys[index]).await));
        for (index, read) in join_all(loads).await {
            reads[index] = read;
        }
        reads
    }
}

#[async_trait]
impl Backend for RedisRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError> {
        let mut command = redis::cmd("GET");
        command.arg(self.register_key(key));
        // Nil does not say which key it is about, so it is not certainly the response to this command.
        decode(self.connection.read(&command, |response| is_bound_to(key, response)).await?)
    }

    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        if let [key] = keys {
            return vec![self.load(key).await];
        }
        let commands = keys.chunks(MAX_MGET_KEYS).map(|chunk| self.mget(chunk));
        join_all(commands).await.into_iter().flatten().collect()
    }

    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError> {
        let EncodedChange { expected, value: new, keep_until, events } = change;
        let mut bytes = Vec::with_capacity(8 + new.bytes.len());
        bytes.extend_from_slice(&new.revision.to_be_bytes());
        bytes.extend_from_slice(&new.bytes);

        let mut commit = self.commit.key(self.register_key(key));
        commit
            .key(self.streams.key(bucket(key)))
            .arg(if expected == 0 { Vec::new() } else { expected.to_be_bytes().to_vec() })
            .arg(bytes)
            // PXAT rejects 0.
            .arg(keep_until.as_micros().div_ceil(1000).max(1))
            .arg(STREAM_LENGTH)
            .arg(u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX));
        for event in &events {
            commit.arg(event.as_ref());
        }
        let is_committed = |response: &Value| matches!(response, Value::BulkString(revision) if *revision == new.revision.to_be_bytes());
        let is_expected = |response: &Value| match response {
            Value::Array(current) => current.first().is_some_and(|current| is_bound_to(key, current)),
            response => is_committed(response),
        };
        match self.connection.run_script(&commit, is_expected).await? {
            response if is_committed(&response) => Ok(EncodedCommit::Committed),
            Value::Array(current) => {
                decode(current.into_iter().next().unwrap_or(Value::Nil)).map(EncodedCommit::Conflict)
            }
            other => Err(corrupt(&format!("unexpected response to a commit: {other:?}"))),
        }
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError> {
        self.streams.tail(&self.connection, after, limit).await
    }

    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        self.follower.follow(&self.streams, after, limit, patience).await
    }
}

/// Whether a response is certainly the value of this register.
fn is_bound_to(key: &str, response: &Value) -> bool {
    matches!(response, Value::BulkString(value) if value.get(8..).is_some_and(|bytes| binding::is_bound(key, bytes)))
}

fn decode(response: Value) -> Result<Option<EncodedValue>, StoreError> {
    match response {
        Value::Nil => Ok(None),
        Value::BulkString(value) => {
            let mut bytes = Bytes::from(value);
            let revision =
                bytes.try_get_u64().map_err(|_| corrupt("the value of a register has no revision"))?;
            Ok(Some(EncodedValue { revision, bytes }))
        }
        other => Err(corrupt(&format!("the value of a register has the wrong type: {other:?}"))),
    }
}

fn corrupt(cause: &str) -> StoreError {
    StoreError::Corrupt { store: NAME, cause: cause.to_owned() }
}

fn bucket_index(bucket: u64) -> usize {
    usize::try_from(bucket).unwrap_or_default()
}

/// FNV-1a, which is the same in all versions and on all machines, unlike the hashes of the standard library.
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
