//! Reads the event log, which consists of one stream per bucket.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::join_all;
use redis::{Script, Value};

use super::{corrupt, cursor::StreamCursor, layout::Layout, script_call::ScriptCall};
use crate::{
    domain::ports::{Cursor, StoreError},
    store::backend::EncodedTail,
};

/// Runs a script on the primary of a bucket.
pub(super) trait Runner: Sync {
    fn run(
        &self,
        bucket: u16,
        call: &ScriptCall<'_>,
    ) -> impl Future<Output = Result<Value, StoreError>> + Send;
}

/// The event streams of all buckets.
pub(super) struct EventStreams {
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
    pub(super) fn new() -> Self {
        Self { tail: Script::new(include_str!("tail.lua")) }
    }

    /// See `EventLog::tail`.
    pub(super) async fn tail(
        &self,
        runner: &impl Runner,
        layout: &Layout,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<EncodedTail, StoreError> {
        let buckets = layout.buckets();
        let parsed = after.and_then(|after| StreamCursor::parse(after, buckets));
        let is_foreign = after.is_some() && parsed.is_none();
        let mut cursor = parsed.unwrap_or_else(|| StreamCursor::at_end(buckets));
        let read = self.read(runner, layout, &mut cursor, 0..buckets, limit).await;
        // Without a cursor there is nothing to continue from until all streams have answered.
        if let Some((_, error)) = read.failed.into_iter().next() {
            return Err(error);
        }
        Ok(EncodedTail {
            gap: read.gap || is_foreign,
            events: read.events,
            next: cursor.encode(),
            complete: true,
        })
    }

    /// Reads the streams of these buckets after `cursor` and advances it. Each stream is read by a command of its
    /// own, because each has its own hash tag.
    pub(super) async fn read(
        &self,
        runner: &impl Runner,
        layout: &Layout,
        cursor: &mut StreamCursor,
        buckets: impl IntoIterator<Item = u16>,
        limit: usize,
    ) -> Read {
        let mut read = Read { events: Vec::new(), gap: false, failed: Vec::new(), unread: Vec::new() };
        // The first round reads all streams, each with an equal share of the limit; the next ones read those that
        // have more.
        let mut unread: VecDeque<u16> = buckets.into_iter().collect();
        let mut remaining = limit.max(1);
        let mut without_events = 0_u16;
        while remaining > 0 && !unread.is_empty() {
            let share = (remaining / unread.len()).max(1);
            let round: Vec<_> = unread.drain(..remaining.min(unread.len())).collect();
            let tails = round
                .iter()
                .map(|bucket| self.read_bucket(runner, layout, *bucket, cursor.last_id(*bucket), share));
            for (bucket, tail) in round.iter().zip(join_all(tails.collect::<Vec<_>>()).await) {
                let tail = match tail {
                    Ok(tail) => tail,
                    Err(error) => {
                        read.failed.push((*bucket, error));
                        continue;
                    }
                };
                remaining -= tail.events.len().min(remaining);
                without_events = without_events.saturating_add(u16::from(tail.events.is_empty()));
                cursor.set_last_id(*bucket, &tail.last_id);
                read.gap |= tail.gap;
                read.events.extend(tail.events.into_iter().map(Bytes::from));
                // At most one entry of a stream is not an event, so a stream that goes on without any does not end.
                if tail.may_have_more && without_events > 2 * layout.buckets() {
                    read.failed
                        .push((*bucket, corrupt("an event stream has more entries, but returns none")));
                } else if tail.may_have_more {
                    unread.push_back(*bucket);
                }
            }
        }
        read.unread = unread.into();
        read
    }

    async fn read_bucket(
        &self,
        runner: &impl Runner,
        layout: &Layout,
        bucket: u16,
        after: String,
        limit: usize,
    ) -> Result<BucketTail, StoreError> {
        let call = ScriptCall {
            script: &self.tail,
            keys: vec![layout.stream_key(bucket).to_owned()],
            arguments: vec![after.into_bytes(), limit.to_string().into_bytes()],
        };
        let response = runner.run(bucket, &call).await?;
        let (last_id, gap, may_have_more, events) =
            redis::from_redis_value(response).map_err(|error| corrupt(&error.to_string()))?;
        Ok(BucketTail { last_id, gap, may_have_more, events })
    }
}

/// What was read of some streams.
pub(super) struct Read {
    pub(super) events: Vec<Bytes>,
    /// Events of some stream before these are lost.
    pub(super) gap: bool,
    /// The streams that could not be read.
    pub(super) failed: Vec<(u16, StoreError)>,
    /// The streams that may have more events than the limit allowed.
    pub(super) unread: Vec<u16>,
}

impl Read {
    /// Whether all streams were read to their ends, without events and without a gap.
    pub(super) fn is_quiet(&self) -> bool {
        !self.gap && self.events.is_empty() && self.failed.is_empty() && self.unread.is_empty()
    }
}
