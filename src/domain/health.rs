//! Health: what each service needs, and whether the stores provide it.
//!
//! A probe does what requests do: it reads a register, it commits one through the same path, it reads the accounts.
//! Each need is probed by itself, so that one store that hangs does not delay what is known of the others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    ports::{Accounts, Change, Clock, Commit, Registers, Revision, State, StoreError},
    types::Timestamp,
};

/// How often reads of the session store are probed.
const READ_INTERVAL: Duration = Duration::from_millis(250);
/// How often the accounts are probed.
const ACCOUNTS_INTERVAL: Duration = Duration::from_millis(500);
/// How often writes to the session store are probed: each costs a sync of the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// How often what has failed is probed again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a store keeps the register that is written by probes.
const KEPT: Duration = Duration::from_mins(10);

/// What a service can need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Reads of the session store.
    SessionReads,
    /// Writes to the session store.
    SessionWrites,
    /// Reads of the accounts.
    Accounts,
}

use Need::{Accounts as AccountReads, SessionReads, SessionWrites};

/// Every service that health tells of, by its name there, and what it needs. The empty name is the server as a
/// whole: it stands for Validate, which the clients of most connections call, so that these go on calling it
/// while only logins are impossible.
pub const SERVICES: [(&str, &[Need]); 7] = [
    ("", &[SessionReads]),
    ("latchkey.v1.AuthService", &[SessionReads]),
    ("latchkey.v1.AuthService/Login", &[SessionReads, SessionWrites, AccountReads]),
    ("latchkey.v1.SessionService", &[SessionReads, SessionWrites]),
    ("latchkey.v1.AccountService", &[AccountReads]),
    ("latchkey.v1.CallerService", &[AccountReads]),
    ("envoy.service.auth.v3.Authorization", &[SessionReads]),
];

/// What the latest probes have found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Why each need is not met, in the order of [`Need`]; `None` where it is.
    causes: [Option<String>; 3],
}

impl Condition {
    /// No need is met, for this reason.
    pub fn down(cause: &str) -> Self {
        Self { causes: [(); 3].map(|()| Some(cause.to_owned())) }
    }

    /// Whether the service with this name can serve; `None` where there is no such service.
    pub fn serves(&self, service: &str) -> Option<bool> {
        let (_, needs) = SERVICES.iter().find(|(name, _)| *name == service)?;
        Some(self.cause(needs).is_none())
    }

    /// Why these needs are not met.
    pub fn cause(&self, needs: &[Need]) -> Option<&str> {
        needs.iter().find_map(|need| self.causes[*need as usize].as_deref())
    }

    fn set(&mut self, need: Need, cause: Option<String>) -> bool {
        let changed = self.causes[need as usize].is_some() != cause.is_some();
        self.causes[need as usize] = cause;
        changed
    }
}

/// The register that probes write: one a process, so that processes do not compete for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeKey(String);

impl ProbeKey {
    fn random() -> Self {
        // A user id holds no space, so this is nobody's.
        Self(format!("probe {:016x}", rand::random::<u64>()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What probes write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbeMark {
    /// When it was written.
    pub written_at: Timestamp,
}

impl State for ProbeMark {
    type Key = ProbeKey;
    type Event = std::convert::Infallible;
}

/// Probes the stores.
pub struct Probes {
    /// Of the session store.
    registers: Arc<dyn Registers<ProbeMark>>,
    accounts: Arc<dyn Accounts>,
    clock: Arc<dyn Clock>,
    key: ProbeKey,
}

impl Probes {
    /// Of these stores.
    pub fn new(
        registers: Arc<dyn Registers<ProbeMark>>,
        accounts: Arc<dyn Accounts>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registers, accounts, clock, key: ProbeKey::random() }
    }

    /// Keeps `condition` up to date, for as long as it is polled.
    pub async fn run(&self, condition: &watch::Sender<Condition>) {
        tokio::join!(
            self.keep(Need::SessionReads, READ_INTERVAL, condition),
            self.keep(Need::SessionWrites, WRITE_INTERVAL, condition),
            self.keep(Need::Accounts, ACCOUNTS_INTERVAL, condition),
        );
    }

    async fn keep(&self, need: Need, interval: Duration, condition: &watch::Sender<Condition>) {
        loop {
            let begun = Instant::now();
            let cause = match timeout(PROBE_TIMEOUT, self.probe(need)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {PROBE_TIMEOUT:?}")),
            };
            let pause = if cause.is_some() { RETRY_INTERVAL } else { interval };
            condition.send_if_modified(|condition| condition.set(need, cause));
            sleep(pause.saturating_sub(begun.elapsed()).max(RETRY_INTERVAL / 2)).await;
        }
    }

    async fn probe(&self, need: Need) -> Result<(), StoreError> {
        match need {
            Need::SessionReads => self.read().await,
            Need::SessionWrites => self.write().await,
            Need::Accounts => self.accounts.ping().await,
        }
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.registers.load(&self.key).await.map(drop)
    }

    async fn write(&self) -> Result<(), StoreError> {
        let mut expected = Revision::ABSENT;
        // The first attempt finds out what is there, and the second one writes.
        for _ in 0..2 {
            let now = self.clock.now();
            let state = ProbeMark { written_at: now };
            let change = Change { state, keep_until: now.after(KEPT), events: Vec::new() };
            match self.registers.commit(&self.key, expected, change).await? {
                Commit::Committed(_) => return Ok(()),
                Commit::Conflict(newer) => expected = newer.revision,
            }
        }
        let cause = "a register that nobody else writes has changed".to_owned();
        Err(StoreError::Unavailable { store: "session", cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_serves_where_all_that_it_needs_is_there_and_nothing_else_counts() {
        let mut condition = Condition::down("not probed yet");
        assert!(SERVICES.iter().all(|(name, _)| condition.serves(name) == Some(false)));
        condition.set(Need::SessionReads, None);
        assert!(condition.set(Need::SessionWrites, None));
        assert!(!condition.set(Need::SessionWrites, None), "nothing has changed");
        let serving = |condition: &Condition| -> Vec<_> {
            let served =
                |(name, _): &(&'static str, _)| (condition.serves(name) == Some(true)).then_some(*name);
            SERVICES.iter().filter_map(served).collect()
        };
        let without_accounts = [
            "",
            "latchkey.v1.AuthService",
            "latchkey.v1.SessionService",
            "envoy.service.auth.v3.Authorization",
        ];
        assert_eq!(serving(&condition), without_accounts);
        condition.set(Need::Accounts, None);
        assert_eq!(serving(&condition).len(), SERVICES.len());
        condition.set(Need::SessionReads, Some("gone".into()));
        assert_eq!(serving(&condition), ["latchkey.v1.AccountService", "latchkey.v1.CallerService"]);
        assert_eq!(condition.cause(&[Need::Accounts, Need::SessionReads]), Some("gone"));
        assert_eq!(condition.serves("latchkey.v1.Unknown"), None);
    }
}
