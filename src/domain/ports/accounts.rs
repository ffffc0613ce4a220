//! Who can log in.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{
    password::PasswordHash,
    sessions::Profile,
    types::{Role, Timestamp, UserId},
    username::Username,
};

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
        Profile { username: self.username.as_str().into(), roles: self.roles.clone() }
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

/// What became of an account that was to be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It was added.
    Added,
    /// There is an account with this id and this username: left as it is.
    Present,
    /// The username belongs to an account with another id.
    UsernameTaken,
    /// The id belongs to an account with another username.
    IdTaken,
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
    /// A new password in place of this one; no change if another one stands there.
    ReplacePassword {
        /// The hash that must stand there.
        old: PasswordHash,
        /// The hash to put there.
        new: PasswordHash,
    },
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

    /// Whether accounts are only read here, because the table belongs to somebody else. Where this is
    /// true, what changes an account must not be called.
    fn read_only(&self) -> bool;

    /// Whether accounts are found by their ids. Where this is false, [`Accounts::get`] must not be called:
    /// only [`Accounts::find`] answers.
    fn finds_by_id(&self) -> bool {
        true
    }

    /// Whether [`Accounts::find`] finds an account under names that are not its own by our rule, as where a table
    /// compares names by a rule of its own or has users found by their e-mail addresses.
    fn has_other_names(&self) -> bool {
        false
    }

    /// Whether [`Accounts::rehash`] does anything now, so that a new hash is worth its cost.
    fn renews_hashes(&self) -> bool {
        true
    }

    /// Adds an account; false if the username is taken.
    async fn create(&self, account: &Account) -> Result<bool, StoreError>;

    /// Adds those of the accounts that are not there yet, in one transaction: for each, in order, what
    /// became of it. Safe to repeat.
    async fn import(&self, accounts: &[Account]) -> Result<Vec<Imported>, StoreError>;

    /// Changes an account and records, in the same transaction, the debt that follows from it.
    /// Answers with the account as it was left and the debt; `None` if there is no such account,
    /// or none to which the change applies.
    async fn change(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError>;

    /// Replaces a hash by another of the same password, if it still is `old` and the other one can be stored as it
    /// is. `username` is what the account was found by.
    async fn rehash(
        &self,
        username: &Username,
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
