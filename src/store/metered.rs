//! Decorators that count, time and trace the requests to a store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    domain::{
        password::PasswordHash,
        ports::{
            Account, AccountChange, Accounts, Change, Commit, Cursor, Debt, DebtCause, EventLog, Imported,
            Moment, Quiet, Registers, Revision, State, StoreError, Tail, Versioned,
        },
        types::{Timestamp, UserId},
        username::Username,
    },
    metrics::store::{CacheResult, Operation, StoreMetrics},
    trace::{self, CHILD},
};

/// A port with its requests counted, timed and traced.
pub struct Metered<P: ?Sized> {
    inner: Arc<P>,
    metrics: Arc<StoreMetrics>,
    names: StoreNames,
}

/// The names of a store in traces.
#[derive(Debug, Clone, Copy)]
pub struct StoreNames {
    /// The database by its name in the conventions of OpenTelemetry, such as `postgresql`.
    pub system: &'static str,
    /// What is stored.
    pub collection: &'static str,
}

impl<P: ?Sized> Metered<P> {
    /// Counts the requests to `inner`.
    pub fn new(inner: Arc<P>, metrics: &Arc<StoreMetrics>, names: StoreNames) -> Self {
        Self { inner, metrics: Arc::clone(metrics), names }
    }

    /// The span of a request, if the request of a client that needs it is traced.
    fn span(&self, operation: Operation) -> Span {
        let StoreNames { system, collection } = self.names;
        tracing::info_span!(
            target: CHILD,
            "store",
            otel.name = format!("{} {collection}", operation.name()),
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = system,
            db.collection.name = collection,
            db.operation.name = operation.name(),
            "error.type" = Empty,
        )
    }

    async fn meter<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let span = self.span(operation);
        let result = request.instrument(span.clone()).await;
        self.metrics.count(operation, started.elapsed(), result.is_err());
        if let Err(error) = &result {
            trace::failed(&span, error.kind());
        }
        result
    }

    /// Counts many requests that were sent together as one, which has failed if one of them has.
    async fn meter_many<T>(
        &self,
        operation: Operation,
        requests: impl Future<Output = Vec<Result<T, StoreError>>>,
    ) -> Vec<Result<T, StoreError>> {
        let started = Instant::now();
        let span = self.span(operation);
        let results = requests.instrument(span.clone()).await;
        let error = results.iter().find_map(|result| result.as_ref().err());
        self.metrics.count(operation, started.elapsed(), error.is_some());
        if let Some(error) = error {
            trace::failed(&span, error.kind());
        }
        results
    }
}

#[async_trait]
impl<S: State, P: Registers<S>> Registers<S> for Metered<P> {
    async fn load(&self, key: &S::Key) -> Result<Versioned<S>, StoreError> {
        self.meter(Operation::Load, self.inner.load(key)).await
    }

    async fn load_many(&self, keys: &[&S::Key]) -> Vec<Result<Versioned<S>, StoreError>> {
        self.meter_many(Operation::LoadMany, self.inner.load_many(keys)).await
    }

    fn shard(&self, key: &S::Key) -> usize {
        self.inner.shard(key)
    }

    /// Counts a bypass: the near-cache passes no look-up on, so there is none if this is called.
    fn recall(&self, key: &S::Key, max_staleness: Duration, now: &Moment) -> Option<Versioned<S>> {
        self.metrics.count_cached(CacheResult::Bypass);
        self.inner.recall(key, max_staleness, now)
    }

    async fn commit(
        &self,
        key: &S::Key,
        expected: Revision,
        change: Change<S>,
    ) -> Result<Commit<S>, StoreError> {
        self.meter(Operation::Commit, self.inner.commit(key, expected, change)).await
    }

    async fn commit_many(
        &self,
        commits: Vec<(&S::Key, Revision, Change<S>)>,
    ) -> Vec<Result<Commit<S>, StoreError>> {
        self.meter_many(Operation::CommitMany, self.inner.commit_many(commits)).await
    }

    async fn confirm(&self, key: &S::Key) -> Result<(), StoreError> {
        self.meter(Operation::Confirm, self.inner.confirm(key)).await
    }
}

#[async_trait]
impl<P: EventLog> EventLog for Metered<P> {
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError> {
        self.meter(Operation::Tail, self.inner.tail(after, limit)).await
    }

    async fn follow(&self, after: &Cursor, limit: usize, timeout: Duration) -> Result<Tail, StoreError> {
        self.meter(Operation::Follow, self.inner.follow(after, limit, timeout)).await
    }

    async fn follow_closely(
        &self,
        after: &Cursor,
        limit: usize,
        timeout: Duration,
        quiet: &Quiet<'_>,
    ) -> Result<Tail, StoreError> {
        self.meter(Operation::Follow, self.inner.follow_closely(after, limit, timeout, quiet)).await
    }
}

#[async_trait]
impl Accounts for Metered<dyn Accounts> {
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        self.meter(Operation::Find, self.inner.find(username)).await
    }

    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError> {
        self.meter(Operation::Get, self.inner.get(user_id)).await
    }

    async fn list(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, StoreError> {
        self.meter(Operation::List, self.inner.list(after, limit)).await
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn finds_by_id(&self) -> bool {
        self.inner.finds_by_id()
    }

    fn has_other_names(&self) -> bool {
        self.inner.has_other_names()
    }

    fn renews_hashes(&self) -> bool {
        self.inner.renews_hashes()
    }

    async fn create(&self, account: &Account) -> Result<bool, StoreError> {
        self.meter(Operation::Create, self.inner.create(account)).await
    }

    async fn import(&self, accounts: &[Account]) -> Result<Vec<Imported>, StoreError> {
        self.meter(Operation::Import, self.inner.import(accounts)).await
    }

    async fn change(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError> {
        self.meter(Operation::Change, self.inner.change(user_id, change, debt, now)).await
    }

    async fn rehash(
        &self,
        username: &Username,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError> {
        self.meter(Operation::Rehash, self.inner.rehash(username, user_id, old, new)).await
    }

    async fn debts(&self, before: Timestamp, limit: u32) -> Result<Vec<Debt>, StoreError> {
        self.meter(Operation::Debts, self.inner.debts(before, limit)).await
    }

    async fn settled(&self, debt: &Debt) -> Result<(), StoreError> {
        self.meter(Operation::Settled, self.inner.settled(debt)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.meter(Operation::Ping, self.inner.ping()).await
    }
}
