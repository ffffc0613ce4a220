//! Reading the event log: a stream a bucket, over whichever connection.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::Script;

use super::{BUCKETS, connection::Connection, corrupt, cursor::StreamCursor};
use crate::{
    domain::ports::{Cursor, StoreError},
    store::backend::EncodedTail,
};

/// The streams of all buckets.
pub(super) struct Log {
    prefix: String,
    tail: Script,
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

impl Log {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), tail: Script::new(include_str!("tail.lua")) }
    }

    /// The key of a bucket's stream.
    pub(super) fn stream(&self, bucket: u64) -> String {
        format!("{}:{{{bucket}}}:events", self.prefix)
    }

    /// See `EventLog::tail`.
    pub(super) async fn tail(
        &self,
        link: &Connection,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<EncodedTail, StoreError> {
        let known = after.and_then(StreamCursor::parse);
        let foreign = after.is_some() && known.is_none();
        let mut places = known.unwrap_or_else(StreamCursor::unknown);
        let tail = self.read(link, &mut places, 0..BUCKETS, limit).await?;
        Ok(EncodedTail { gap: tail.gap || foreign, ..tail })
    }

    /// What these buckets hold after `places`, which move on. One command a bucket, each under its own
    /// hash tag.
    pub(super) async fn read(
        &self,
        link: &Connection,
        places: &mut StreamCursor,
        buckets: impl IntoIterator<Item = u64>,
        limit: usize,
    ) -> Result<EncodedTail, StoreError> {
        let (mut events, mut gap) = (Vec::new(), false);
        // All of them at once, each with its share of the limit; then those that had more than that.
        let mut unread: VecDeque<u64> = buckets.into_iter().collect();
        let mut room = limit.max(1);
        while room > 0 && !unread.is_empty() {
            let share = (room / unread.len()).max(1);
            let now: Vec<_> = unread.drain(..room.min(unread.len())).collect();
            let parts =
                now.iter().map(|bucket| self.read_bucket(link, *bucket, places.of(*bucket).clone(), share));
            for (bucket, part) in now.iter().zip(try_join_all(parts.collect::<Vec<_>>()).await?) {
                room -= part.events.len().min(room);
                *places.of(*bucket) = part.last;
                gap |= part.gap;
                events.extend(part.events.into_iter().map(Bytes::from));
                if part.more {
                    unread.push_back(*bucket);
                }
            }
        }
        Ok(EncodedTail { events, next: places.cursor(), gap })
    }

    async fn read_bucket(
        &self,
        link: &Connection,
        bucket: u64,
        after: String,
        limit: usize,
    ) -> Result<Part, StoreError> {
        let mut read = self.tail.key(self.stream(bucket));
        read.arg(after).arg(limit);
        let (last, gap, more, events) = redis::from_redis_value(link.invoke(&read, |_| true).await?)
            .map_err(|error| corrupt(&error.to_string()))?;
        Ok(Part { last, gap, more, events })
    }
}
