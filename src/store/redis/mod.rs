//! The Redis store: one value per user, one event stream per bucket of users.
//!
//! The key of a user and the stream of the user's bucket share a hash tag, so that `commit.lua`, which writes both,
//! is legal on a cluster. Values hold session ids and deadlines, never a token.
//!
//! | key | value |
//! |---|---|
//! | `<prefix>:{<bucket>}:s:<user id>` | revision (8 bytes, big-endian), then the encoded state; expires by itself |
//! | `<prefix>:{<bucket>}:events` | a stream with the field `e`, an encoded event; trimmed by length and by age |
//! | `<prefix>:{0}:buckets` | the number of buckets, which never changes |
//! | `<prefix>:{<bucket>}:confirm` | empty; written so that replicas can confirm what was written before |
//!
//! `topology` knows which server is the primary of a bucket: always the same one, the one that Sentinels name, or the
//! one that the masters of a cluster name. Requests to a server share one supervised connection with a channel for reads
//! and one for writes (`connection`); the follower of the event log has connections of its own (`follow`,
//! `announcements`). A connection is replaced at the first error that a new one may solve, and while there is none every
//! request fails at once. Before a new connection is used, commits that the server has lost are made again
//! (`recent_commits`).

mod agreement;
mod announcements;
mod cluster;
mod commit;
mod commit_many;
mod connect;
mod connection;
mod cursor;
mod event_streams;
mod follow;
mod inspection;
mod layout;
mod preparation;
mod recent_commits;
mod replication;
mod script_call;
mod sentinel;
mod settings;
mod supervisor;
mod topology;
mod url;
mod voters;

use std::{
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use redis::{Cmd, Pipeline, Value};
use tokio::time::sleep;

use self::{
    announcements::AnnouncedLog,
    commit::CommitScript,
    connection::Failure,
    event_streams::{EventStreams, Runner},
    follow::{Follower, Wait},
    layout::{Layout, Register},
    preparation::Preparation,
    recent_commits::RecentCommits,
    script_call::ScriptCall,
    topology::{Node, Topology, TopologyKind},
};
use super::backend::{Backend, EVENT_RETENTION, EncodedChange, EncodedCommit, EncodedTail, EncodedValue};
use crate::domain::ports::{Cursor, Quiet, StoreError};

pub use inspection::{Inspection, InspectionError, ServerFacts, inspect};
pub use settings::{Durability, MAX_BUCKETS, Password, RedisSettings, RedisTlsFiles};

/// The name of the store in messages.
const NAME: &str = "redis";

/// The most registers that one MGET reads. The server serves nobody else meanwhile, and the first of them waits for
/// the last.
const MAX_MGET_KEYS: usize = 512;

/// The length of most keys of registers, for which memory is allocated.
const REGISTER_KEY_LEN: usize = 48;

/// The pause before a request is sent again whose hash slot is being moved.
const REDIRECT_PAUSE: Duration = Duration::from_millis(10);

/// What a server and a test choose differently.
pub struct RedisOptions {
    /// Counts acknowledged commits that the store had lost.
    pub rollbacks: Counter,
    /// How long streams keep events, approximately. Only a commit that appends to a stream trims it.
    pub retention: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { rollbacks: Counter::default(), retention: EVENT_RETENTION }
    }
}

/// Registers and event log in Redis.
pub struct RedisRegisters {
    topology: Topology,
    layout: Arc<Layout>,
    commit: Arc<CommitScript>,
    recent: Arc<RecentCommits>,
    streams: EventStreams,
    follower: Follower,
    announced: AnnouncedLog,
    durability: Durability,
    /// How long a request follows redirections of a cluster.
    redirect_timeout: Duration,
}

impl RedisRegisters {
    /// Starts to connect to `settings.url` in the background; the store is unavailable until that has succeeded. All
    /// keys begin with `prefix`.
    pub fn start(settings: &RedisSettings, prefix: &str) -> Result<Self, String> {
        Self::start_with(settings, prefix, RedisOptions::default())
    }

    /// Starts with options.
    pub fn start_with(settings: &RedisSettings, prefix: &str, options: RedisOptions) -> Result<Self, String> {
        let RedisOptions { rollbacks, retention } = options;
        settings.check()?;
        let layout = Arc::new(Layout::new(prefix, settings.buckets));
        let commit = Arc::new(CommitScript::new(retention, settings.is_cluster()?));
        let recent = Arc::new(RecentCommits::default());
        let topology = Topology::start(settings, |routes| Preparation {
            layout: Arc::clone(&layout),
            commit: Arc::clone(&commit),
            recent: Arc::clone(&recent),
            routes,
            rollbacks,
        })?;
        Ok(Self {
            topology,
            announced: AnnouncedLog::new(Arc::clone(&layout)),
            layout,
            commit,
            recent,
            streams: EventStreams::new(),
            follower: Follower::default(),
            durability: settings.durability,
            redirect_timeout: settings.response_timeout,
        })
    }

    /// Attempts of a request to the primary of a bucket. The request has to be safe to repeat.
    fn attempts(&self, bucket: u16) -> Attempts<'_> {
        Attempts { registers: self, bucket, redirected_since: None, importing: None }
    }

    /// Loads registers of one node in one write, with one GET or MGET for each hash slot.
    async fn load_from_node(
        &self,
        registers: &[Register<'_>],
    ) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        let all_failed = |error: &StoreError| registers.iter().map(|_| Err(error.clone())).collect();
        let node = match self.topology.primary(registers[0].bucket) {
            Ok(node) => node,
            // The buckets of a node may differ in whether it may be used.
            Err(_) if self.is_cluster() => return self.load_each(registers).await,
            Err(error) => return all_failed(&error),
        };
        // The positions of the registers that are read, those of one hash slot together, and what one command reads.
        let mut order: Vec<usize> = (0..registers.len()).collect();
        if self.is_cluster() {
            let primary =
                |bucket| self.topology.primary(bucket).is_ok_and(|other| Arc::ptr_eq(&other, &node));
            order.sort_unstable_by_key(|index| registers[*index].bucket);
            let groups = order.chunk_by(|a, b| registers[*a].bucket == registers[*b].bucket);
            order = groups.filter(|group| primary(registers[group[0]].bucket)).flatten().copied().collect();
        }
        let is_cluster = self.is_cluster();
        let in_one_command =
            |a: &usize, b: &usize| !is_cluster || registers[*a].bucket == registers[*b].bucket;
        let groups: Vec<&[usize]> =
            order.chunk_by(in_one_command).flat_map(|group| group.chunks(MAX_MGET_KEYS)).collect();
        if groups.is_empty() {
            return self.load_each(registers).await;
        }
        let mut pipeline = Pipeline::with_capacity(groups.len() + 1);
        let mut register_key = String::new();
        for group in &groups {
            let mut command = Cmd::with_capacity(1 + group.len(), 4 + group.len() * REGISTER_KEY_LEN);
            command.arg(if group.len() == 1 { "GET" } else { "MGET" });
            for index in *group {
                register_key.clear();
                self.layout.push_register_key(&registers[*index], &mut register_key);
                command.arg(register_key.as_str());
            }
            pipeline.add_command(command);
        }
        // Nil proves nothing about the response, but these registers are loaded again below.
        let is_expected = |responses: &[Result<Value, Failure>]| {
            groups.iter().zip(responses).all(|(group, response)| {
                let Ok(response) = response else { return true };
                let is_expected = |(index, value): (&usize, &Value)| {
                    *value == Value::Nil || is_value_of(&registers[*index], value)
                };
                values(group, response).is_some_and(|values| group.iter().zip(values).all(is_expected))
            })
        };
        let responses = match node.requests.read_many(pipeline, !is_cluster, is_expected).await {
            Ok(responses) => responses,
            Err(failure) => return all_failed(&failure.into_store_error(&node.endpoint)),
        };
        let mut reads: Vec<Option<Result<Option<EncodedValue>, StoreError>>> = vec![None; registers.len()];
        for (group, response) in groups.iter().zip(responses) {
            match response {
                Ok(response) => {
                    if let Some(values) = into_values(group, response) {
                        for (index, value) in group.iter().zip(values) {
                            // MGET answers nil for a key of the wrong type, too, and GET tells the two apart. Both are
                            // rare, because batched loads are for users with live tokens.
                            reads[*index] = (value != Value::Nil).then(|| decode(value));
                        }
                    } else {
                        let error = corrupt("the response to MGET has another number of values than keys");
                        for index in *group {
                            reads[*index] = Some(Err(error.clone()));
                        }
                    }
                }
                Err(Failure::Store(error)) => {
                    for index in *group {
                        reads[*index] = Some(Err(error.clone()));
                    }
                }
                // GET follows redirections.
                Err(_) => {}
            }
        }
        if reads.iter().any(Option::is_none) {
            let missing = (0..registers.len()).filter(|index| reads[*index].is_none());
            let loads = missing.map(async |index| (index, self.load(registers[index].key).await));
            for (index, read) in join_all(loads.collect::<Vec<_>>()).await {
                reads[index] = Some(read);
            }
        }
        reads.into_iter().flatten().collect()
    }

    /// Sends GET for a register.
    async fn get(&self, node: &Node, asking: bool, register: &Register<'_>) -> Result<Value, Failure> {
        let mut register_key = String::with_capacity(REGISTER_KEY_LEN);
        self.layout.push_register_key(register, &mut register_key);
        let mut command = redis::cmd("GET");
        command.arg(register_key);
        if asking {
            return node.requests.ask(command).await;
        }
        // Nil does not say which key it is about, so it is not certainly the response to this command.
        if self.is_cluster() {
            return node.requests.read(&command, |response| is_value_of(register, response)).await;
        }
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(command);
        let is_expected = |responses: &[Result<Value, Failure>]| match &responses[0] {
            Ok(value) => is_value_of(register, value),
            Err(_) => true,
        };
        let responses = node.requests.read_many(pipeline, true, is_expected).await?;
        responses.into_iter().next().unwrap_or(Ok(Value::Nil))
    }

    /// Returns the result of a commit, by the response to its script, and remembers a commit that was made.
    fn committed(
        &self,
        register: &Register<'_>,
        change: EncodedChange,
        response: Value,
    ) -> Result<EncodedCommit, StoreError> {
        match response {
            response if is_committed(&response, &change) => {
                self.recent.insert(register.key, change, Instant::now());
                Ok(EncodedCommit::Committed)
            }
            Value::Array(current) => {
                decode(current.into_iter().next().unwrap_or(Value::Nil)).map(EncodedCommit::Conflict)
            }
            other => Err(corrupt(&format!("unexpected response to a commit: {other:?}"))),
        }
    }

    async fn load_each(&self, registers: &[Register<'_>]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        join_all(registers.iter().map(|register| self.load(register.key))).await
    }

    fn is_cluster(&self) -> bool {
        self.topology.kind == TopologyKind::Cluster
    }
}

/// Sends a request again when a cluster redirects it.
struct Attempts<'a> {
    registers: &'a RedisRegisters,
    bucket: u16,
    /// The time of the first redirection.
    redirected_since: Option<Instant>,
    /// The node that the last attempt was sent to by `ASK`.
    importing: Option<Arc<Node>>,
}

impl Attempts<'_> {
    /// Returns the node for the next attempt, and whether it has to be asked (`ASKING`).
    fn next(&mut self) -> Result<(Arc<Node>, bool), StoreError> {
        match self.importing.take() {
            Some(node) => Ok((node, true)),
            None => Ok((self.registers.topology.primary(self.bucket)?, false)),
        }
    }

    /// Prepares the next attempt after one has failed, or returns the error if there is none.
    async fn follow(&mut self, failure: Failure, node: &Node, asked: bool) -> Result<(), StoreError> {
        let since = *self.redirected_since.get_or_insert_with(Instant::now);
        let is_late = since.elapsed() >= self.registers.redirect_timeout;
        match failure {
            Failure::Store(error) => return Err(error),
            failure if is_late => return Err(failure.into_store_error(&node.endpoint)),
            Failure::Ask(endpoint) if !asked => {
                self.importing = Some(self.registers.topology.importing(&endpoint).await);
            }
            Failure::Moved | Failure::TryAgain | Failure::Ask(_) => {
                self.registers.topology.refresh();
                sleep(REDIRECT_PAUSE).await;
            }
        }
        Ok(())
    }
}

impl Runner for RedisRegisters {
    async fn run(&self, bucket: u16, call: &ScriptCall<'_>) -> Result<Value, StoreError> {
        let mut attempts = self.attempts(bucket);
        loop {
            let (node, asking) = attempts.next()?;
            match node.requests.run_script(call, asking, |_| true).await {
                Ok(response) => return Ok(response),
                Err(failure) => attempts.follow(failure, &node, asking).await?,
            }
        }
    }
}

#[async_trait]
impl Backend for RedisRegisters {
    const NAME: &'static str = NAME;

    async fn load(&self, key: &str) -> Result<Option<EncodedValue>, StoreError> {
        let register = self.layout.register(key);
        let mut attempts = self.attempts(register.bucket);
        loop {
            let (node, asking) = attempts.next()?;
            match self.get(&node, asking, &register).await {
                Ok(response) => return decode(response),
                Err(failure) => attempts.follow(failure, &node, asking).await?,
            }
        }
    }

    async fn load_many(&self, keys: &[&str]) -> Vec<Result<Option<EncodedValue>, StoreError>> {
        match keys {
            [] => return Vec::new(),
            [key] => return vec![self.load(key).await],
            _ => {}
        }
        let registers: Vec<_> = keys.iter().map(|key| self.layout.register(key)).collect();
        if !self.is_cluster() {
            return self.load_from_node(&registers).await;
        }
        let node_index = |register: &Register<'_>| self.topology.node_index(register.bucket);
        let mut by_node: Vec<(usize, usize)> =
            registers.iter().enumerate().map(|(index, register)| (node_index(register), index)).collect();
        by_node.sort_unstable();
        let mut reads = vec![None; keys.len()];
        let loads = by_node.chunk_by(|a, b| a.0 == b.0).map(async |group| {
            let registers: Vec<_> = group.iter().map(|(_, index)| registers[*index]).collect();
            (group, self.load_from_node(&registers).await)
        });
        for (group, loaded) in join_all(loads.collect::<Vec<_>>()).await {
            for ((_, index), read) in group.iter().zip(loaded) {
                reads[*index] = Some(read);
            }
        }
        reads.into_iter().flatten().collect()
    }

    fn shard(&self, key: &str) -> usize {
        if self.is_cluster() { self.topology.node_index(self.layout.bucket(key)) } else { 0 }
    }

    async fn commit(&self, key: &str, change: EncodedChange) -> Result<EncodedCommit, StoreError> {
        let register = self.layout.register(key);
        let call = self.commit.call(&self.layout, key, change.expected, &change);
        let mut attempts = self.attempts(register.bucket);
        let response = loop {
            let (node, asking) = attempts.next()?;
            let is_committed = |response: &Value| is_committed(response, &change);
            let is_expected = |response: &Value| is_response_to_commit(response, &register, &change);
            match node.requests.commit(&call, asking, self.durability, is_committed, is_expected).await {
                Ok(response) => break response,
                Err(failure) => attempts.follow(failure, &node, asking).await?,
            }
        };
        self.committed(&register, change, response)
    }

    async fn commit_many(
        &self,
        commits: Vec<(&str, EncodedChange)>,
    ) -> Vec<Result<EncodedCommit, StoreError>> {
        self.make_commits(commits).await
    }

    async fn confirm(&self, key: &str) -> Result<(), StoreError> {
        if self.durability == Durability::Primary {
            return Ok(());
        }
        let bucket = self.layout.bucket(key);
        let mut attempts = self.attempts(bucket);
        loop {
            let (node, asking) = attempts.next()?;
            let confirmed =
                node.requests.confirm(&self.layout.confirmation_key(bucket), self.durability).await;
            match confirmed {
                Ok(()) => return Ok(()),
                Err(failure) => attempts.follow(failure, &node, asking).await?,
            }
        }
    }

    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<EncodedTail, StoreError> {
        self.streams.tail(self, &self.layout, after, limit).await
    }

    async fn follow(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
    ) -> Result<EncodedTail, StoreError> {
        self.follow_log(after, limit, patience, None).await
    }

    async fn follow_closely(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
        quiet: &Quiet<'_>,
    ) -> Result<EncodedTail, StoreError> {
        self.follow_log(after, limit, patience, Some(quiet)).await
    }
}

impl RedisRegisters {
    async fn follow_log(
        &self,
        after: &Cursor,
        limit: usize,
        patience: Duration,
        quiet: Option<&Quiet<'_>>,
    ) -> Result<EncodedTail, StoreError> {
        let wait = Wait { limit, patience, quiet };
        if self.is_cluster() {
            self.announced.follow(&self.topology, self, &self.streams, after, wait).await
        } else {
            self.follower.follow(&self.topology, &self.streams, &self.layout, after, wait).await
        }
    }
}

/// The values in the response to a GET or MGET of these registers.
fn values<'a>(group: &[usize], response: &'a Value) -> Option<&'a [Value]> {
    match response {
        value if group.len() == 1 => Some(slice::from_ref(value)),
        Value::Array(values) if values.len() == group.len() => Some(values),
        _ => None,
    }
}

fn into_values(group: &[usize], response: Value) -> Option<Vec<Value>> {
    match response {
        value if group.len() == 1 => Some(vec![value]),
        Value::Array(values) if values.len() == group.len() => Some(values),
        _ => None,
    }
}

/// Whether a response is certainly the value of this register.
fn is_value_of(register: &Register<'_>, response: &Value) -> bool {
    matches!(response, Value::BulkString(value) if value.get(8..).is_some_and(|bytes| register.is_bound(bytes)))
}

/// Returns true if a response says that the commit was made.
fn is_committed(response: &Value, change: &EncodedChange) -> bool {
    matches!(response, Value::BulkString(bytes) if *bytes == change.value.revision.to_be_bytes())
}

/// Returns true if a response is certainly the one to this commit.
fn is_response_to_commit(response: &Value, register: &Register<'_>, change: &EncodedChange) -> bool {
    match response {
        Value::Array(current) => current.first().is_some_and(|current| is_value_of(register, current)),
        response => is_committed(response, change),
    }
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
