//! The rules of Latchkey: who is logged in, and since when no longer.
//!
//! One verb, one file. [`Engine`] holds what the verbs need; each verb adds its method to it. Time is a
//! parameter ([`ports::Clock`]), storage is a port, and [`sessions`] is pure.

pub mod accounts;
pub mod audit;
mod background;
pub mod callers;
pub mod change_password;
mod check_password;
mod counts;
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
mod model;
mod open_session;
pub mod ports;
mod rollback;
pub mod transact;
pub mod validate;
pub mod validate_any;
pub mod watch_session;
pub mod watch_sessions;

pub use self::{
    background::{session_events, webhook, write_behind},
    credentials::{guessable, keyring, password, rotation, token},
    model::{lease, origin, rejection, sessions, throttle, types, username},
};

use std::{collections::BTreeMap, sync::Arc};

pub use counts::Counts;
pub use error::{Error, Violation};

use self::{
    audit::LimitedAudit,
    callers::KnownCallers,
    epoch::CurrentEpoch,
    limiter::LoginLimiter,
    password::Passwords,
    ports::{Accounts, Clock, Registers},
    rotation::Rotation,
    session_events::SessionEvents,
    sessions::{SlotPolicy, UserSessions},
    token::Tokens,
    transact::ContentionQueues,
    types::Slot,
    write_behind::WriteBehind,
};

/// The rules, and what they stand on. One of these serves a whole process.
pub struct Engine {
    /// Session state, one register a user.
    pub sessions: Arc<dyn Registers<UserSessions>>,
    /// Since when sessions count at all.
    pub epoch: CurrentEpoch,
    /// Tells of sessions as they end.
    pub hub: SessionEvents,
    /// How often what has happened.
    pub counts: Counts,
    /// Who can log in.
    pub accounts: Arc<dyn Accounts>,
    /// Who may call what needs a permission.
    pub callers: KnownCallers,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Keeps the audit trail.
    pub audit: LimitedAudit,
    /// Signs and verifies tokens.
    pub tokens: Tokens,
    /// Keeps the keys of the tokens those of the key directory.
    pub rotation: Rotation,
    /// Hashes and checks passwords.
    pub passwords: Arc<Passwords>,
    /// Lets passwords be tried, or not.
    pub gate: Arc<LoginLimiter>,
    /// The configured slots and their rules.
    pub slots: Slots,
    /// What is still to be recorded of the uses of sessions.
    pub touches: WriteBehind,
    /// Who waits for whom.
    pub turns: ContentionQueues,
    /// How old a verdict may be where a request does not say.
    pub max_staleness: std::time::Duration,
    /// How long the reason of an ended session is remembered, at most.
    pub tombstone_ttl: std::time::Duration,
}

/// The configured slots.
#[derive(Debug, Clone)]
pub struct Slots {
    first: Slot,
    policies: BTreeMap<Slot, SlotPolicy>,
}

impl Slots {
    /// Each slot with its rules. `slots` must not be empty: then this is `None`.
    pub fn new(slots: Vec<(Slot, SlotPolicy)>) -> Option<Self> {
        Some(Self { first: slots.first()?.0.clone(), policies: slots.into_iter().collect() })
    }

    /// The slot a request names, or the first where it names none.
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

    /// The longest that any session can live.
    pub(crate) fn longest(&self) -> std::time::Duration {
        self.policies.values().map(|policy| policy.absolute_timeout).max().unwrap_or_default()
    }
}
