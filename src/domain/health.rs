//! Health: the dependencies of each service, and probes of these dependencies.
//!
//! [`SERVICES`] is the only table of dependencies; `grpc/health.rs` and `/readyz` both report by it. A probe does what
//! requests do: it reads a register, commits to a register of its own through the same path, or reads the accounts.
//! Each dependency is probed by itself with a timeout, so a store that hangs does not delay the probes of the others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, TryFutureExt as _, future::select_ok};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    ports::{Accounts, Change, Clock, Commit, Registers, Revision, State, StoreError},
    types::Timestamp,
};

const READ_INTERVAL: Duration = Duration::from_millis(250);
const ACCOUNTS_INTERVAL: Duration = Duration::from_millis(500);
/// Longer than the others, because a write costs a sync of the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// The interval while a probe fails.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of registers that probes read and write. All but the first are used only if that fails.
const PROBE_REGISTERS: usize = 8;
/// Retention of the registers that probes write.
const RETENTION: Duration = Duration::from_mins(10);

/// A capability of a store that services depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// Reads of the session store.
    SessionReads,
    /// Writes to the session store.
    SessionWrites,
    /// Reads of the accounts.
    Accounts,
}

use Dependency::{Accounts as AccountReads, SessionReads, SessionWrites};

/// Every service of the health API and its dependencies. The empty name is the server as a whole. It has the
/// dependencies of Validate, which most clients call, so they keep the server while only logins fail.
pub const SERVICES: [(&str, &[Dependency]); 7] = [
    ("", &[SessionReads]),
    ("latchkey.v1.AuthService", &[SessionReads]),
    ("latchkey.v1.AuthService/Login", &[SessionReads, SessionWrites, AccountReads]),
    ("latchkey.v1.SessionService", &[SessionReads, SessionWrites]),
    ("latchkey.v1.AccountService", &[AccountReads]),
    ("latchkey.v1.CallerService", &[AccountReads]),
    ("envoy.service.auth.v3.Authorization", &[SessionReads]),
];

/// The results of the latest probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// The error of each dependency, in the order of [`Dependency`]; `None` if it works.
    errors: [Option<String>; 3],
}

impl HealthReport {
    /// A report in which every dependency fails with this error.
    pub fn down(error: &str) -> Self {
        Self { errors: [(); 3].map(|()| Some(error.to_owned())) }
    }

    /// Whether the service with this name can serve; `None` if there is no such service.
    pub fn serves(&self, service: &str) -> Option<bool> {
        let (_, dependencies) = SERVICES.iter().find(|(name, _)| *name == service)?;
        Some(self.cause(dependencies).is_none())
    }

    /// The first error of these dependencies.
    pub fn cause(&self, dependencies: &[Dependency]) -> Option<&str> {
        dependencies.iter().find_map(|dependency| self.errors[*dependency as usize].as_deref())
    }

    /// Sets the error of a dependency. Returns whether it has begun or stopped to fail.
    fn set(&mut self, dependency: Dependency, error: Option<String>) -> bool {
        let current = &mut self.errors[dependency as usize];
        let changed = current.is_some() != error.is_some();
        *current = error;
        changed
    }
}

/// The key of a register that probes write. Each process has its own, so that processes do not conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeKey(String);

impl ProbeKey {
    fn random() -> Self {
        // It contains a space, so no user id is equal to it.
        Self(format!("probe {:016x}", rand::random::<u64>()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The state that probes write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbeMark {
    /// The time of the write.
    pub written_at: Timestamp,
}

impl State for ProbeMark {
    type Key = ProbeKey;
    type Event = std::convert::Infallible;
}

/// Probes the dependencies.
pub struct Probes {
    registers: Arc<dyn Registers<ProbeMark>>,
    accounts: Arc<dyn Accounts>,
    clock: Arc<dyn Clock>,
    /// In a cluster they are on different nodes, as a rule. The store works if one of them does: the loss of a node
    /// must not end the service for the users of all others.
    keys: [ProbeKey; PROBE_REGISTERS],
}

impl Probes {
    /// Creates probes of these stores.
    pub fn new(
        registers: Arc<dyn Registers<ProbeMark>>,
        accounts: Arc<dyn Accounts>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registers, accounts, clock, keys: std::array::from_fn(|_| ProbeKey::random()) }
    }

    /// Probes at intervals and updates `report`. Never returns.
    pub async fn run(&self, report: &watch::Sender<HealthReport>) {
        tokio::join!(
            self.probe_repeatedly(Dependency::SessionReads, READ_INTERVAL, report),
            self.probe_repeatedly(Dependency::SessionWrites, WRITE_INTERVAL, report),
            self.probe_repeatedly(Dependency::Accounts, ACCOUNTS_INTERVAL, report),
        );
    }

    async fn probe_repeatedly(
        &self,
        dependency: Dependency,
        interval: Duration,
        report: &watch::Sender<HealthReport>,
    ) {
        loop {
            let started = Instant::now();
            let error = match timeout(PROBE_TIMEOUT, self.probe(dependency)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {PROBE_TIMEOUT:?}")),
            };
            let pause = if error.is_some() { RETRY_INTERVAL } else { interval };
            report.send_if_modified(|report| report.set(dependency, error));
            sleep(pause.saturating_sub(started.elapsed()).max(RETRY_INTERVAL / 2)).await;
        }
    }

    async fn probe(&self, dependency: Dependency) -> Result<(), StoreError> {
        match dependency {
            Dependency::SessionReads => self.read().await,
            Dependency::SessionWrites => self.write().await,
            Dependency::Accounts => self.accounts.ping().await,
        }
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.any(|key| self.registers.load(key).map_ok(drop)).await
    }

    async fn write(&self) -> Result<(), StoreError> {
        self.any(|key| self.write_to(key)).await
    }

    /// Uses the first register, and if that fails all others at once. Succeeds if one of them does.
    async fn any<'a, F>(&'a self, access: impl Fn(&'a ProbeKey) -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'a,
    {
        let [first, others @ ..] = &self.keys;
        let Err(error) = access(first).await else { return Ok(()) };
        match select_ok(others.iter().map(|key| access(key).boxed())).await {
            Ok(_) => Ok(()),
            Err(_) => Err(error),
        }
    }

    async fn write_to(&self, key: &ProbeKey) -> Result<(), StoreError> {
        let mut expected = Revision::ABSENT;
        // The first attempt may conflict and finds the revision; the second one writes.
        for _ in 0..2 {
            let now = self.clock.now();
            let state = ProbeMark { written_at: now };
            let change = Change { state, keep_until: now.after(RETENTION), events: Vec::new() };
            match self.registers.commit(key, expected, change).await? {
                Commit::Committed(_) => return Ok(()),
                Commit::Conflict(newer) => expected = newer.revision,
            }
        }
        let cause = "the register of the probe was changed by another process".to_owned();
        Err(StoreError::Unavailable { store: "session", cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_serves_if_and_only_if_all_its_dependencies_work() {
        let mut report = HealthReport::down("not probed yet");
        assert!(SERVICES.iter().all(|(name, _)| report.serves(name) == Some(false)));
        report.set(Dependency::SessionReads, None);
        assert!(report.set(Dependency::SessionWrites, None));
        assert!(!report.set(Dependency::SessionWrites, None), "nothing has changed");
        let serving = |report: &HealthReport| -> Vec<_> {
            let served = |(name, _): &(&'static str, _)| (report.serves(name) == Some(true)).then_some(*name);
            SERVICES.iter().filter_map(served).collect()
        };
        let without_accounts = [
            "",
            "latchkey.v1.AuthService",
            "latchkey.v1.SessionService",
            "envoy.service.auth.v3.Authorization",
        ];
        assert_eq!(serving(&report), without_accounts);
        report.set(Dependency::Accounts, None);
        assert_eq!(serving(&report).len(), SERVICES.len());
        report.set(Dependency::SessionReads, Some("gone".into()));
        assert_eq!(serving(&report), ["latchkey.v1.AccountService", "latchkey.v1.CallerService"]);
        assert_eq!(report.cause(&[Dependency::Accounts, Dependency::SessionReads]), Some("gone"));
        assert_eq!(report.serves("latchkey.v1.Unknown"), None);
    }
}
