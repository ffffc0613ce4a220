//! The Redis store: one value a user, one event stream a bucket of users.
//!
//! A user's key and the stream of the user's bucket share a hash tag, so that a commit, which writes
//! both in one script, is legal on a cluster. Values hold session ids and deadlines, never a token.
//!
//! | key | value |
//! |---|---|
//! | `<prefix>:{<bucket>}:s:<user id>` | revision (8 bytes, big-endian), then the encoded state; expires by itself |
//! | `<prefix>:{<bucket>}:events` | a stream, field `e`: an encoded event |

mod link;
mod places;

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{Script, Value};

use self::{link::Link, places::Places};
use super::raw::{RawChange, RawCommit, RawRegisters, RawTail, RawValue};
use crate::domain::ports::{Cursor, StoreError};

pub use link::LinkSettings;

/// What messages to the operator call it.
const NAME: &str = "redis";

/// Users are spread over this many buckets. Part of the format: another number finds no session.
const BUCKETS: u64 = 64;

/// Events that a bucket's stream keeps, about.
const STREAM_LENGTH: usize = 4096;

/// Registers in Redis.
pub struct RedisRegisters {
    link: Link,
    prefix: String,
    commit: Script,
    tail: Script,
}

impl RedisRegisters {
    /// Registers in the Redis at `settings.url`, under keys that begin with `prefix`. Connects in the
    /// background; until that has succeeded the store is unavailable.
    pub fn start(settings: &LinkSettings, prefix: &str) -> Result<Self, String> {
        Ok(Self {
            link: Link::start(settings)?,
            prefix: prefix.to_owned(),
            commit: Script::new(include_str!("commit.lua")),
            tail: Script::new(include_str!("tail.lua")),
        })
    }

    fn register(&self, key: &str) -> String {
        format!("{}:{{{}}}:s:{key}", self.prefix, bucket(key))
    }

    fn stream(&self, bucket: u64) -> String {
        format!("{}:{{{bucket}}}:events", self.prefix)
    }
}

#[async_trait]
impl RawRegisters for RedisRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<RawValue>, StoreError> {
        let stands = self.link.query(redis::cmd("GET").arg(self.register(key))).await?;
        value(stands)
    }

    async fn commit(&self, key: &str, change: RawChange) -> Result<RawCommit, StoreError> {
        let RawChange { expected, value: new, keep_until, events } = change;
        let mut bytes = Vec::with_capacity(8 + new.bytes.len());
        bytes.extend_from_slice(&new.revision.to_be_bytes());
        bytes.extend_from_slice(&new.bytes);

        let mut commit = self.commit.key(self.register(key));
        commit
            .key(self.stream(bucket(key)))
            .arg(if expected == 0 { Vec::new() } else { expected.to_be_bytes().to_vec() })
            .arg(bytes)
            // Redis takes no 0.
            .arg(keep_until.as_micros().div_ceil(1000).max(1))
            .arg(STREAM_LENGTH);
        for event in &events {
            commit.arg(event.as_ref());
        }
        match self.link.invoke(&commit).await? {
            Value::Nil => Ok(RawCommit::Committed),
            Value::Array(stands) => {
                value(stands.into_iter().next().unwrap_or(Value::Nil)).map(RawCommit::Conflict)
            }
            other => Err(corrupt(&format!("a commit was answered with {other:?}"))),
        }
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<RawTail, StoreError> {
        let known = after.and_then(Places::parse);
        let mut tail = RawTail {
            events: Vec::new(),
            next: Cursor(String::new()),
            gap: after.is_some() && known.is_none(),
        };
        let mut places = known.unwrap_or_else(Places::unknown);
        // All buckets at once, each with its share of the limit; then those that had more than that.
        let mut unread: VecDeque<u64> = (0..BUCKETS).collect();
        let mut room = limit.max(1);
        while room > 0 && !unread.is_empty() {
            let share = (room / unread.len()).max(1);
            let now: Vec<_> = unread.drain(..room.min(unread.len())).collect();
            let parts = now.iter().map(|bucket| self.tail_bucket(*bucket, places.of(*bucket).clone(), share));
            for (bucket, part) in now.iter().zip(try_join_all(parts.collect::<Vec<_>>()).await?) {
                room -= part.events.len().min(room);
                *places.of(*bucket) = part.last;
                tail.gap |= part.gap;
                tail.events.extend(part.events.into_iter().map(Bytes::from));
                if part.more {
                    unread.push_back(*bucket);
                }
            }
        }
        tail.next = places.cursor();
        Ok(tail)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.link.ping().await
    }
}

/// What one bucket's stream holds after a place.
struct Part {
    /// Where to go on.
    last: String,
    gap: bool,
    /// There may be more.
    more: bool,
    events: Vec<Vec<u8>>,
}

impl RedisRegisters {
    async fn tail_bucket(&self, bucket: u64, after: String, limit: usize) -> Result<Part, StoreError> {
        let mut read = self.tail.key(self.stream(bucket));
        read.arg(after).arg(limit);
        let (last, gap, more, events) = redis::from_redis_value(self.link.invoke(&read).await?)
            .map_err(|error| corrupt(&error.to_string()))?;
        Ok(Part { last, gap, more, events })
    }
}

fn value(stands: Value) -> Result<Option<RawValue>, StoreError> {
    match stands {
        Value::Nil => Ok(None),
        Value::BulkString(stands) => {
            let mut bytes = Bytes::from(stands);
            if bytes.len() < 8 {
                return Err(corrupt("a register without a revision"));
            }
            let mut revision = [0; 8];
            revision.copy_from_slice(&bytes.split_to(8));
            Ok(Some(RawValue { revision: u64::from_be_bytes(revision), bytes }))
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
