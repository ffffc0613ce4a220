//! The rules of Latchkey.
//!
//! Each verb is a method of [`Engine`] in a file of its own, such as `login.rs`. Verbs share services, such as
//! [`SessionRepository`], and use clocks and stores through [`ports`]. `model` has the pure state machines,
//! `background` the tasks that run beside the requests.

pub mod accounts;
pub mod audit;
mod background;
pub mod callers;
pub mod change_password;
mod contention;
mod credentials;
pub mod end_sessions;
pub mod epoch;
pub mod error;
pub mod health;
pub mod import;
pub mod issue_session;
mod lapses;
pub mod limiter;
pub mod list_sessions;
pub mod login;
pub mod logout;
pub mod metrics;
mod model;
mod open_session;
pub mod password_service;
pub mod ports;
mod rollback;
pub mod session_repository;
pub mod token_service;
pub mod validate;
pub mod validate_any;
pub mod watch_session;
pub mod watch_sessions;

pub use self::{
    background::{session_events, webhook, write_behind},
    credentials::{guessable, keyring, password, rotation, token},
    model::{lease, origin, rejection, sessions, throttle, types, username},
};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub use error::{Error, Violation};
pub use metrics::Metrics;

use self::{
    audit::LimitedAudit,
    callers::KnownCallers,
    password_service::PasswordService,
    ports::{Accounts, Clock},
    session_events::SessionEvents,
    session_repository::SessionRepository,
    sessions::SlotPolicy,
    token_service::TokenService,
    types::{Slot, Timestamp},
    write_behind::WriteBehind,
};

/// The entry point of the domain. Its methods are the verbs. A process has one.
pub struct Engine {
    sessions: SessionRepository,
    accounts: Arc<dyn Accounts>,
    passwords: PasswordService,
    tokens: TokenService,
    callers: KnownCallers,
    events: SessionEvents,
    uses: WriteBehind,
    slots: Slots,
    audit: LimitedAudit,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    max_staleness: Duration,
}

/// The services of an [`Engine`].
pub struct Services {
    /// The sessions of users.
    pub sessions: SessionRepository,
    /// The store of accounts.
    pub accounts: Arc<dyn Accounts>,
    /// Checks and hashes passwords.
    pub passwords: PasswordService,
    /// Issues and verifies tokens.
    pub tokens: TokenService,
    /// The callers that have a key.
    pub callers: KnownCallers,
    /// Notifies watches and readers of the feed.
    pub events: SessionEvents,
    /// The configured slots.
    pub slots: Slots,
    /// Counters.
    pub metrics: Metrics,
    /// The audit trail.
    pub audit: LimitedAudit,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The default of `max_staleness` in requests.
    pub max_staleness: Duration,
}

impl Engine {
    /// Creates an engine.
    pub fn new(services: Services) -> Self {
        let Services {
            sessions,
            accounts,
            passwords,
            tokens,
            callers,
            events,
            slots,
            metrics,
            audit,
            clock,
            max_staleness,
        } = services;
        Self {
            sessions,
            accounts,
            passwords,
            tokens,
            callers,
            events,
            uses: WriteBehind::default(),
            slots,
            audit,
            metrics,
            clock,
            max_staleness,
        }
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The sessions of users.
    pub fn sessions(&self) -> &SessionRepository {
        &self.sessions
    }

    /// The store of accounts.
    pub fn accounts(&self) -> &Arc<dyn Accounts> {
        &self.accounts
    }

    /// Checks and hashes passwords.
    pub fn passwords(&self) -> &PasswordService {
        &self.passwords
    }

    /// Issues and verifies tokens.
    pub fn tokens(&self) -> &TokenService {
        &self.tokens
    }

    /// The callers that have a key.
    pub fn callers(&self) -> &KnownCallers {
        &self.callers
    }

    /// Notifies watches and readers of the feed.
    pub fn events(&self) -> &SessionEvents {
        &self.events
    }

    /// The queue of uses to record.
    pub fn uses(&self) -> &WriteBehind {
        &self.uses
    }

    /// The configured slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The audit trail.
    pub fn audit(&self) -> &LimitedAudit {
        &self.audit
    }

    /// Counters since the start of the process.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Runs the task of [`SessionEvents`]. Never returns.
    pub async fn follow_session_events(&self) {
        self.events.run(self.sessions.epoch(), &*self.clock).await;
    }

    /// Runs the task of [`WriteBehind`].
    pub async fn record_uses(&self) {
        self.uses.run(&self.sessions).await;
    }
}

/// The configured slots.
#[derive(Debug, Clone)]
pub struct Slots {
    first: Slot,
    policies: BTreeMap<Slot, SlotPolicy>,
}

impl Slots {
    /// Creates the slots, the default one first. Returns `None` if there are none.
    pub fn new(slots: Vec<(Slot, SlotPolicy)>) -> Option<Self> {
        Some(Self { first: slots.first()?.0.clone(), policies: slots.into_iter().collect() })
    }

    /// Returns the slot with this name, or the first one if the name is empty.
    pub(crate) fn resolve(&self, requested: &str) -> Result<(Slot, SlotPolicy), Violation> {
        if requested.is_empty() {
            return Ok((self.first.clone(), self.policies[&self.first]));
        }
        self.policies
            .iter()
            .find(|(slot, _)| slot.as_str() == requested)
            .map(|(slot, policy)| (slot.clone(), *policy))
            .ok_or_else(|| {
                let names: Vec<_> = self.policies.keys().map(Slot::as_str).collect();
                Violation::new("slot", format!("is not configured; use one of: {}", names.join(", ")))
            })
    }

    /// The longest absolute timeout.
    pub(crate) fn longest(&self) -> Duration {
        self.policies.values().map(|policy| policy.absolute_timeout).max().unwrap_or_default()
    }
}
