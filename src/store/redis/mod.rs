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

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Script, Value};

use self::link::Link;
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
            .arg(keep_until.as_micros().div_ceil(1000))
            .arg(STREAM_LENGTH);
        for event in &events {
            commit.arg(event.as_ref());
        }
        Ok(match self.link.invoke(&commit).await? {
            Value::Nil => RawCommit::Committed,
            Value::BulkString(stands) if stands.is_empty() => RawCommit::Conflict(None),
            stands => RawCommit::Conflict(value(stands)?),
        })
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<RawTail, StoreError> {
        let mut places = Places::parse(after);
        let mut tail = RawTail { events: Vec::new(), next: Cursor(String::new()), gap: places.lost };
        for bucket in 0..BUCKETS {
            let room = limit.saturating_sub(tail.events.len());
            if room == 0 {
                break;
            }
            let place = places.at(bucket);
            let mut read = self.tail.key(self.stream(bucket));
            read.arg(&place.id).arg(place.count).arg(room);
            let answer = self.link.invoke(&read).await?;
            let (id, count, gap, events): (String, u64, u8, Vec<Vec<u8>>) =
                redis::from_redis_value(answer).map_err(|error| corrupt(&error.to_string()))?;
            *place = Place { id, count };
            tail.gap |= gap == 1;
            tail.events.extend(events.into_iter().map(Bytes::from));
        }
        tail.next = places.cursor();
        Ok(tail)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.link.query(&Cmd::ping()).await.map(|_| ())
    }
}

/// Where a reader is in one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    /// After this entry; empty where it has not begun.
    id: String,
    /// How many entries the stream had ever seen there.
    count: u64,
}

/// Where a reader is in every stream: `id/count` of each bucket, separated by commas.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    places: Vec<Place>,
    /// The cursor was not one of ours, so that nothing is known of what the reader has seen.
    lost: bool,
}

impl Places {
    fn parse(cursor: Option<&Cursor>) -> Self {
        let buckets = usize::try_from(BUCKETS).unwrap_or_default();
        let nowhere = vec![Place::default(); buckets];
        let Some(Cursor(text)) = cursor else { return Self { places: nowhere, lost: false } };
        let places: Option<Vec<_>> = text
            .split(',')
            .map(|place| {
                let (id, count) = place.split_once('/')?;
                Some(Place { id: id.to_owned(), count: count.parse().ok()? })
            })
            .collect();
        match places {
            Some(places) if places.len() == buckets => Self { places, lost: false },
            _ => Self { places: nowhere, lost: true },
        }
    }

    fn at(&mut self, bucket: u64) -> &mut Place {
        let index = usize::try_from(bucket).unwrap_or_default();
        &mut self.places[index]
    }

    fn cursor(&self) -> Cursor {
        let places: Vec<_> =
            self.places.iter().map(|place| format!("{}/{}", place.id, place.count)).collect();
        Cursor(places.join(","))
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

    #[test]
    fn a_cursor_survives_its_text_form() {
        let mut places = Places::parse(None);
        for bucket in 0..BUCKETS {
            *places.at(bucket) = Place { id: format!("{bucket}-0"), count: bucket };
        }
        assert_eq!(Places::parse(Some(&places.cursor())), places);
    }

    #[test]
    fn a_foreign_cursor_is_a_gap() {
        assert!(Places::parse(Some(&Cursor("17".into()))).lost);
    }
}
