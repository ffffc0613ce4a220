//! Reads the event log, which consists of one stream per bucket.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::Script;

use super::{BUCKETS, connection::SupervisedConnection, corrupt, cursor::StreamCursor};
use crate::{
    domain::ports::{Cursor, StoreError},
    store::backend::EncodedTail,
};

/// The event streams of all buckets.
pub(super) struct EventStreams {
    prefix: String,
    tail: Script,
}

/// The response of `tail.lua`.
struct BucketTail {
    /// The entry to continue after.
    last_id: String,
    gap: bool,
    may_have_more: bool,
    events: Vec<Vec<u8>>,
}

impl EventStreams {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), tail: Script::new(include_str!("tail.lua")) }
    }

    /// Returns the key of a bucket's stream.
    pub(super) fn key(&self, bucket: u64) -> String {
        format!("{}:{{{bucket}}}:events", self.prefix)
    }

    /// See `EventLog::tail`.
    pub(super) async fn tail(
        &self,
        connection: &SupervisedConnection,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<EncodedTail, StoreError> {
        let parsed = after.and_then(StreamCursor::parse);
        let is_foreign = after.is_some() && parsed.is_none();
        let mut cursor = parsed.unwrap_or_else(StreamCursor::at_end);
        let tail = self.read(connection, &mut cursor, 0..BUCKETS, limit).await?;
        Ok(EncodedTail { gap: tail.gap || is_foreign, ..tail })
    }

    /// Reads the streams of these buckets after `cursor` and advances it. Each stream is read by a command of its
    /// own, because each has its own hash tag.
    pub(super) async fn read(
        &self,
        connection: &SupervisedConnection,
        cursor: &mut StreamCursor,
        buckets: impl IntoIterator<Item = u64>,
        limit: usize,
    ) -> Result<EncodedTail, StoreError> {
        let (mut events, mut gap) = (Vec::new(), false);
        // The first round reads all streams, each with an equal share of the limit; the next ones read those that
        // have more.
        let mut unread: VecDeque<u64> = buckets.into_iter().collect();
        let mut remaining = limit.max(1);
        let mut without_events = 0;
        while remaining > 0 && !unread.is_empty() {
            let share = (remaining / unread.len()).max(1);
            let round: Vec<_> = unread.drain(..remaining.min(unread.len())).collect();
            let tails = round
                .iter()
                .map(|bucket| self.read_bucket(connection, *bucket, cursor.last_id(*bucket).clone(), share));
            for (bucket, tail) in round.iter().zip(try_join_all(tails.collect::<Vec<_>>()).await?) {
                remaining -= tail.events.len().min(remaining);
                without_events += u64::from(tail.events.is_empty());
                *cursor.last_id(*bucket) = tail.last_id;
                gap |= tail.gap;
                events.extend(tail.events.into_iter().map(Bytes::from));
                if tail.may_have_more {
                    unread.push_back(*bucket);
                }
            }
            // At most one entry of a stream is not an event, so a stream that goes on without any does not end.
            if without_events > 2 * BUCKETS {
                return Err(corrupt("the event streams have more entries, but return none"));
            }
        }
        Ok(EncodedTail { events, next: cursor.encode(), gap })
    }

    async fn read_bucket(
        &self,
        connection: &SupervisedConnection,
        bucket: u64,
        after: String,
        limit: usize,
    ) -> Result<BucketTail, StoreError> {
        let mut script = self.tail.key(self.key(bucket));
        script.arg(after).arg(limit);
        let response = connection.run_script(&script, |_| true).await?;
        let (last_id, gap, may_have_more, events) =
            redis::from_redis_value(response).map_err(|error| corrupt(&error.to_string()))?;
        Ok(BucketTail { last_id, gap, may_have_more, events })
    }
}
