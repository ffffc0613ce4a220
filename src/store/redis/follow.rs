//! Follows the event log, on a connection of its own, because a blocked connection serves nobody else.
//!
//! One `XREAD BLOCK` waits on the streams of all buckets. Its response is only a hint: the streams that it names are
//! then read by `tail.lua`, which detects gaps. XREAD does not report that a stream was lost, because it simply waits
//! for an entry beyond the end of the new stream; so a full pass reads all streams once per `patience`.

use std::time::{Duration, Instant};

use redis::streams::StreamReadReply;
use tokio::{sync::Mutex, time::timeout};

use super::{
    BUCKETS, NAME, bucket_index,
    connect::RedisSettings,
    connection::{ConnectionKind, SupervisedConnection},
    corrupt,
    cursor::StreamCursor,
    event_streams::EventStreams,
};
use crate::{
    domain::ports::{Cursor, StoreError},
    store::backend::EncodedTail,
};

/// The longest wait of one XREAD. The health checks of the supervisor queue behind it on the same connection.
const MAX_BLOCK: Duration = Duration::from_millis(500);

/// Follows the log for the one reader of this process.
pub(super) struct Follower {
    settings: RedisSettings,
    /// `None` until the first call. A second reader waits for the first, as it would behind it on the connection.
    blocking: Mutex<Option<BlockingReader>>,
}

struct BlockingReader {
    connection: SupervisedConnection,
    /// The start of the last full pass; `None` if one is due.
    last_full_pass: Option<Instant>,
}

impl Follower {
    /// Connects when it is first used.
    pub(super) fn new(settings: &RedisSettings) -> Self {
        // An XREAD that finds nothing must not count as a time-out.
        let response_timeout = settings.response_timeout + MAX_BLOCK;
        let settings = RedisSettings { response_timeout, ..settings.clone() };
        Self { settings, blocking: Mutex::default() }
    }

    /// See `EventLog::follow`. If it is cancelled, the server may stay blocked for up to [`MAX_BLOCK`], and the next
    /// call waits behind it; an event wakes both.
    pub(super) async fn follow(
        &self,
        streams: &EventStreams,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        let start = Instant::now();
        let mut reader = self.blocking.lock().await;
        let reader = match &mut *reader {
            Some(reader) => reader,
            none => none.insert(BlockingReader::start(&self.settings)?),
        };
        // A reader that waits for events can wait for a new connection as well. If there is none after `patience`,
        // the first command fails.
        let _ = timeout(patience, reader.connection.first_attempt()).await;
        let tail = reader.follow(streams, after, limit, start, patience).await;
        if tail.is_err() {
            // The next connection may lead to another server, with another log.
            reader.last_full_pass = None;
        }
        tail
    }
}

impl BlockingReader {
    fn start(settings: &RedisSettings) -> Result<Self, StoreError> {
        let connection = SupervisedConnection::start(settings, ConnectionKind::Events)
            .map_err(|cause| StoreError::Unavailable { store: NAME, cause })?;
        Ok(Self { connection, last_full_pass: None })
    }

    async fn follow(
        &mut self,
        streams: &EventStreams,
        after: &Cursor,
        limit: usize,
        start: Instant,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        let Some(mut cursor) = StreamCursor::parse(after) else {
            return streams.tail(&self.connection, Some(after), limit).await;
        };
        // The limit allows at least one event per stream, so that a full pass reaches every stream.
        let limit = limit.max(bucket_index(BUCKETS));
        loop {
            let remaining = patience.saturating_sub(start.elapsed());
            let until_full_pass =
                self.last_full_pass.map_or(Duration::ZERO, |at| patience.saturating_sub(at.elapsed()));
            let wait = remaining.min(until_full_pass).min(MAX_BLOCK);
            let tail = if wait.is_zero() {
                let now = Instant::now();
                let tail = streams.read(&self.connection, &mut cursor, 0..BUCKETS, limit).await?;
                self.last_full_pass = Some(now);
                tail
            } else {
                let buckets = self.wait_for_events(streams, &cursor, wait).await?;
                streams.read(&self.connection, &mut cursor, buckets, limit).await?
            };
            if tail.gap || !tail.events.is_empty() || remaining.is_zero() {
                return Ok(tail);
            }
        }
    }

    /// Waits until a stream has entries after the cursor or the time is over. Returns the buckets of these streams.
    async fn wait_for_events(
        &self,
        streams: &EventStreams,
        cursor: &StreamCursor,
        wait: Duration,
    ) -> Result<Vec<u64>, StoreError> {
        let keys: Vec<_> = (0..BUCKETS).map(|bucket| streams.key(bucket)).collect();
        // Rounded up, because BLOCK 0 waits for ever.
        let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        // XREAD and MGET are the only commands with keys of more than one hash tag. A cluster needs one XREAD per
        // node.
        let mut command = redis::cmd("XREAD");
        command.arg("BLOCK").arg(millis).arg("COUNT").arg(1).arg("STREAMS").arg(&keys).arg(cursor.ids());
        let response: Option<StreamReadReply> =
            redis::from_redis_value(self.connection.read(&command, |_| true).await?)
                .map_err(|error| corrupt(&error.to_string()))?;
        let ready = response.map_or_else(Vec::new, |response| response.keys);
        let is_ready = |key: &String| ready.iter().any(|stream| stream.key == *key);
        Ok((0..BUCKETS).zip(&keys).filter(|(_, key)| is_ready(key)).map(|(bucket, _)| bucket).collect())
    }
}
