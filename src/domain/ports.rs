//! What the rules ask of the world: capabilities, not tables.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    password::PasswordHash,
    sessions::{Ended, Profile},
    types::{Role, Timestamp, UserId},
    username::Username,
};

/// Why a store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, refused, or took too long. What was asked of it may or may not have
    /// happened. Trying again later can help.
    #[error("the {store} store is unavailable: {cause}")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// What it said, for the log.
        cause: String,
    },
    /// It answered with something that we did not write or cannot read. Trying again does not help.
    #[error("the {store} store holds something unreadable: {cause}")]
    Corrupt {
        /// Which store.
        store: &'static str,
        /// What is wrong with it, for the log.
        cause: String,
    },
}

impl StoreError {
    /// Whether trying again later can help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What time it is. Wall clocks step back and differ between replicas; see `Generation`.
pub trait Clock: Send + Sync {
    /// This moment.
    fn now(&self) -> Timestamp;
}

/// Which value of a register this is. It grows with every commit to the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a register that holds nothing.
    pub const ABSENT: Self = Self(0);
}

/// A value as it stood in its register.
#[derive(Debug)]
pub struct Versioned<S> {
    /// To be expected by the commit that follows from having read this.
    pub revision: Revision,
    /// The value; the default one where the register holds nothing.
    pub state: Arc<S>,
}

impl<S> Clone for Versioned<S> {
    fn clone(&self) -> Self {
        Self { revision: self.revision, state: Arc::clone(&self.state) }
    }
}

/// What to write to a register.
#[derive(Debug, Clone)]
pub struct Change<S> {
    /// The new value.
    pub state: S,
    /// From when on the store may forget the register: nothing in it matters any more then.
    pub keep_until: Timestamp,
    /// Appended to the event log in the same atomic step.
    pub events: Vec<Ended>,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Commit<S> {
    /// The register holds the new value, and a crash of the process that said so will not undo it.
    Committed,
    /// The register had moved on; nothing was written. This stands there instead.
    Conflict(Versioned<S>),
}

/// Compare-and-set registers, one a user, each holding one `S`.
#[async_trait]
pub trait Registers<S>: Send + Sync {
    /// What the register holds.
    async fn load(&self, user: &UserId) -> Result<Versioned<S>, StoreError>;

    /// Replaces the value if the register still is at `expected`, and appends the events, in one
    /// atomic step. Safe to repeat: the second of two equal commits changes nothing and succeeds.
    async fn commit(
        &self,
        user: &UserId,
        expected: Revision,
        change: Change<S>,
    ) -> Result<Commit<S>, StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// A place in the event log. Opaque; only the log that gave it understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// A session that ended, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub user_id: UserId,
    /// Which, and why.
    pub ended: Ended,
}

/// Events from some place in the log on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The events, in the order of their commits as far as they concern one user.
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: Cursor,
    /// Events between the cursor and these have been trimmed, or the log was lost: what was derived
    /// from the log must be thrown away.
    pub gap: bool,
}

/// The log of sessions that ended.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The events after `after`, at most about `limit` of them; without a cursor none, only the end
    /// of the log. At least once: after a crash an event may be seen again, never skipped silently.
    async fn tail(&self, after: Option<&Cursor>, limit: usize) -> Result<Tail, StoreError>;
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Stable and opaque.
    pub user_id: UserId,
    /// What a person types.
    pub username: Username,
    /// What the password is checked against.
    pub password: PasswordHash,
    /// Roles, sorted.
    pub roles: Vec<Role>,
    /// Whether it is disabled.
    pub disabled: Disabled,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Account {
    /// What verdicts say of its user.
    pub fn profile(&self) -> Profile {
        Profile { username: self.username.as_str().to_owned(), roles: self.roles.clone() }
    }
}

/// Whether an account is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disabled {
    /// It is not.
    No,
    /// Until further notice.
    Yes,
    /// It enables itself at this moment.
    Until(Timestamp),
}

impl Disabled {
    /// Whether the account is disabled at `now`.
    pub fn at(self, now: Timestamp) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::Until(until) => now < until,
        }
    }

    /// When it enables itself.
    pub const fn until(self) -> Option<Timestamp> {
        match self {
            Self::Until(until) => Some(until),
            Self::No | Self::Yes => None,
        }
    }
}

/// A change to an account.
#[derive(Debug, Clone)]
pub enum AccountChange {
    /// New roles and a new state of being disabled, each where given.
    Update {
        /// In place of all old roles.
        roles: Option<Vec<Role>>,
        /// In place of the old state.
        disabled: Option<Disabled>,
    },
    /// A new password.
    Password(PasswordHash),
    /// No account any more.
    Delete,
}

/// A change of an account that the user's session state has yet to follow.
///
/// Accounts and sessions may live in different databases, so no transaction spans them. Instead the
/// account's own transaction records the debt, and whoever finds it settles it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    /// Names the debt.
    pub id: i64,
    /// Whose sessions.
    pub user_id: UserId,
    /// What the sessions must follow.
    pub cause: DebtCause,
}

/// What session state has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebtCause {
    /// The account was disabled or deleted: end every session.
    AccountDisabled,
    /// The password was changed: end every session.
    CredentialsChanged,
    /// Name or roles changed: show them from now on.
    Profile,
}

/// Who can log in.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// By username, compared by its rule.
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError>;

    /// By id.
    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError>;

    /// Accounts in the order of their usernames, those after `after`, at most `limit`.
    async fn list(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, StoreError>;

    /// Adds an account; false if the username is taken.
    async fn create(&self, account: &Account) -> Result<bool, StoreError>;

    /// Changes an account and records, in the same transaction, the debt that follows from it.
    /// Answers with the account as it was left and the debt; `None` if there is no such account.
    async fn change(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError>;

    /// Replaces a hash by another of the same password, if it still is `old`.
    async fn rehash(
        &self,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError>;

    /// The oldest of the debts recorded before `before`, at most `limit`.
    async fn debts(&self, before: Timestamp, limit: u32) -> Result<Vec<Debt>, StoreError>;

    /// A debt has been settled.
    async fn settled(&self, debt: &Debt) -> Result<(), StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
}
