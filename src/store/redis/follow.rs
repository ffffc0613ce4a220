//! Waiting for events, on a connection of its own: one that waits answers nobody else.
//!
//! The wake-up is a hint, and reading is the truth. `XREAD BLOCK` says in which streams something has
//! happened, and these are read like any others, which shows whether something was missed. It does not
//! say when a stream was lost: an entry beyond the end of a new one is simply waited for. So now and then
//! all streams are read.

use std::time::{Duration, Instant};

use redis::streams::StreamReadReply;
use tokio::{sync::Mutex, time::timeout};

use super::{
    BUCKETS, NAME, bucket_index,
    connect::RedisSettings,
    connection::{Connection, Purpose},
    corrupt,
    cursor::StreamCursor,
    log::Log,
};
use crate::{
    domain::ports::{Cursor, StoreError},
    store::backend::EncodedTail,
};

/// How long the server is asked to wait in one go, at most. What supervises the connection asks over it,
/// too, and stands behind the one who waits.
const BLOCK: Duration = Duration::from_millis(500);

/// What the one reader of this process follows the log with.
pub(super) struct Follower {
    settings: RedisSettings,
    /// Nothing until somebody follows. A second reader waits here for the first, as it would in front of
    /// the connection.
    following: Mutex<Option<Following>>,
}

struct Following {
    link: Connection,
    /// When the last pass over all streams has begun; nothing where one is due.
    passed: Option<Instant>,
}

impl Follower {
    /// Does not connect yet.
    pub(super) fn new(settings: &RedisSettings) -> Self {
        // A wait that the server ends in time must not look like an answer that does not come.
        let response_timeout = settings.response_timeout + BLOCK;
        let settings = RedisSettings { response_timeout, ..settings.clone() };
        Self { settings, following: Mutex::default() }
    }

    /// See `EventLog::follow`. Given up in the middle, it may leave the server waiting for as long as
    /// [`BLOCK`], and the next call behind it; an event wakes both.
    pub(super) async fn follow(
        &self,
        log: &Log,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        let begun = Instant::now();
        let mut following = self.following.lock().await;
        let following = match &mut *following {
            Some(following) => following,
            none => none.insert(Following::start(&self.settings)?),
        };
        // Who waits for events can also wait for the connection that has only just been asked for. That
        // there is none, in the end, is said by the first command.
        let _ = timeout(patience, following.link.attempted()).await;
        let tail = following.follow(log, after, limit, begun, patience).await;
        if tail.is_err() {
            // What answers next may be another server, with another log.
            following.passed = None;
        }
        tail
    }
}

impl Following {
    fn start(settings: &RedisSettings) -> Result<Self, StoreError> {
        let link = Connection::start(settings, Purpose::Events)
            .map_err(|cause| StoreError::Unavailable { store: NAME, cause })?;
        Ok(Self { link, passed: None })
    }

    async fn follow(
        &mut self,
        log: &Log,
        after: &Cursor,
        limit: usize,
        begun: Instant,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        let Some(mut places) = StreamCursor::parse(after) else {
            return log.tail(&self.link, Some(after), limit).await;
        };
        // With room for one event of every stream, so that a pass reaches the last of them.
        let limit = limit.max(bucket_index(BUCKETS));
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let pass_due = self.passed.map_or(Duration::ZERO, |at| patience.saturating_sub(at.elapsed()));
            let wait = left.min(pass_due).min(BLOCK);
            let tail = if wait.is_zero() {
                let now = Instant::now();
                let tail = log.read(&self.link, &mut places, 0..BUCKETS, limit).await?;
                self.passed = Some(now);
                tail
            } else {
                let woken = self.woken(log, &places, wait).await?;
                log.read(&self.link, &mut places, woken, limit).await?
            };
            if tail.gap || !tail.events.is_empty() || left.is_zero() {
                return Ok(tail);
            }
        }
    }

    /// Waits until there is something after these places, or the wait is over: in which buckets.
    async fn woken(&self, log: &Log, places: &StreamCursor, wait: Duration) -> Result<Vec<u64>, StoreError> {
        let streams: Vec<_> = (0..BUCKETS).map(|bucket| log.stream(bucket)).collect();
        // Rounded up: 0 means for ever.
        let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        // Names keys of more than one hash tag, as MGET does; no other command of ours does.
        // On a cluster it would be one a node.
        let mut read = redis::cmd("XREAD");
        read.arg("BLOCK").arg(millis).arg("COUNT").arg(1).arg("STREAMS").arg(&streams).arg(places.ids());
        let answer: Option<StreamReadReply> = redis::from_redis_value(self.link.read(&read, |_| true).await?)
            .map_err(|error| corrupt(&error.to_string()))?;
        let woken = answer.map_or_else(Vec::new, |answer| answer.keys);
        let is_woken = |stream: &String| woken.iter().any(|part| part.key == *stream);
        Ok((0..BUCKETS)
            .zip(&streams)
            .filter(|(_, stream)| is_woken(stream))
            .map(|(bucket, _)| bucket)
            .collect())
    }
}
