//! What is done on a new connection to a primary before requests use it: the number of buckets is verified, and commits
//! that the server has lost are made again.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use redis::{
    ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};

use super::{
    commit::CommitScript,
    layout::{DEFAULT_BUCKETS, Layout},
    recent_commits::{RecentCommit, RecentCommits},
    topology::Routes,
    url::Endpoint,
};
use crate::{domain::ports::Clock as _, store::clock::SystemClock};

/// How many registers are compared, and how many commits are made again, at a time.
const CHUNK: usize = 512;

/// Registers that expire sooner than this may have expired by the clock of the server.
const EXPIRY_MARGIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Prepares connections.
pub(super) struct Preparation {
    pub(super) layout: Arc<Layout>,
    pub(super) commit: Arc<CommitScript>,
    pub(super) recent: Arc<RecentCommits>,
    /// Weak, because the routes hold the nodes, whose connections are prepared.
    pub(super) routes: Weak<Routes>,
    /// Commits that a server had lost.
    pub(super) rollbacks: Counter,
}

impl Preparation {
    /// Prepares a connection that writes. Fails if the server must not be used.
    pub(super) async fn prepare(
        &self,
        endpoint: &Endpoint,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), String> {
        let Some(routes) = self.routes.upgrade() else { return Ok(()) };
        if routes.is_primary(endpoint, 0) {
            self.verify_buckets(connection).await?;
            routes.set_verified();
        }
        self.restore_lost_commits(&routes, endpoint, connection).await
    }

    /// Compares the number of buckets with that of the store, or records it in a new store.
    async fn verify_buckets(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let failed = |error: redis::RedisError| format!("failed to verify the number of buckets: {error}");
        let key = self.layout.buckets_key();
        let configured = self.layout.buckets();
        let mut recorded: Option<u16> =
            redis::cmd("GET").arg(&key).query_async(connection).await.map_err(failed)?;
        if recorded.is_none() {
            // Versions of Latchkey before the record made stores of the default number. Every store that was used has
            // the stream of its first bucket.
            let entries: u64 = redis::cmd("XLEN")
                .arg(self.layout.stream_key(0))
                .query_async(connection)
                .await
                .map_err(failed)?;
            let buckets = if entries > 0 { DEFAULT_BUCKETS } else { configured };
            let _: Value = redis::cmd("SET")
                .arg(&key)
                .arg(buckets)
                .arg("NX")
                .query_async(connection)
                .await
                .map_err(failed)?;
            // Another process may have been first.
            recorded = redis::cmd("GET").arg(&key).query_async(connection).await.map_err(failed)?;
        }
        match recorded {
            Some(recorded) if recorded != configured => Err(format!(
                "sessions.buckets is {configured}, but the store was made with {recorded} buckets: set \
                 sessions.buckets = {recorded}"
            )),
            _ => Ok(()),
        }
    }

    /// Makes commits again that were acknowledged by this process and that the server does not have.
    async fn restore_lost_commits(
        &self,
        routes: &Routes,
        endpoint: &Endpoint,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), String> {
        let mut commits = self.recent.alive(SystemClock.now().after(EXPIRY_MARGIN));
        commits.retain(|commit| routes.is_primary(endpoint, self.layout.bucket(&commit.key)));
        let mut restored = 0_u64;
        for chunk in commits.chunks(CHUNK) {
            let lost = self.lost(chunk, connection).await.map_err(|error| error.to_string())?;
            let commits = lost.into_iter().map(|(commit, revision)| {
                let mut connection = connection.clone();
                async move {
                    let call = self.commit.call(&self.layout, &commit.key, revision, &commit.change);
                    call.invocation().invoke_async::<Value>(&mut connection).await
                }
            });
            for response in join_all(commits).await {
                match response {
                    Ok(Value::BulkString(_)) => restored += 1,
                    // A conflict: the register has changed since, which is left as it is.
                    Ok(_) => {}
                    // The hash slot has moved on.
                    Err(error) if is_redirection(&error) => {}
                    Err(error) => return Err(format!("failed to restore a lost commit: {error}")),
                }
            }
        }
        if restored > 0 {
            self.rollbacks.inc_by(restored);
            tracing::warn!(
                redis.address = %endpoint,
                redis.commits = restored,
                "the primary has lost commits that were acknowledged; they were made again"
            );
        }
        Ok(())
    }

    /// Returns the commits whose register has an earlier revision, with that revision, or 0 if it does not exist.
    async fn lost<'a>(
        &self,
        commits: &'a [RecentCommit],
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Vec<(&'a RecentCommit, u64)>> {
        let mut pipeline = Pipeline::with_capacity(commits.len());
        for commit in commits {
            pipeline.cmd("GET").arg(self.layout.register_key(&commit.key));
        }
        let responses = connection.send_packed_commands(&pipeline, 0, commits.len()).await?;
        let mut lost = Vec::new();
        for (commit, response) in commits.iter().zip(responses) {
            let revision = match response.extract_error() {
                Ok(Value::Nil) => 0,
                Ok(Value::BulkString(bytes)) if bytes.len() >= 8 => {
                    bytes.first_chunk().map_or(0, |revision| u64::from_be_bytes(*revision))
                }
                // Another program has changed the register.
                Ok(_) => continue,
                Err(error) if error.code() == Some("WRONGTYPE") || is_redirection(&error) => continue,
                Err(error) => return Err(error),
            };
            if revision < commit.change.value.revision {
                lost.push((commit, revision));
            }
        }
        Ok(lost)
    }
}

/// Whether the hash slot has moved on, or is about to.
fn is_redirection(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Moved | Ask | TryAgain))
}
