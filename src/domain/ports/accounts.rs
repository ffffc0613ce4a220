//! The port to the accounts.

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
    /// The stable, opaque id of the user.
    pub user_id: UserId,
    /// The name that the user types at login.
    pub username: Username,
    /// The hash of the password.
    pub password: PasswordHash,
    /// The roles, sorted.
    pub roles: Vec<Role>,
    /// Whether the account is disabled.
    pub disabled: Disabled,
    /// The time at which it was created.
    pub created_at: Timestamp,
}

impl Account {
    /// The profile that verdicts report.
    pub fn profile(&self) -> Profile {
        Profile { username: self.username.as_str().into(), roles: self.roles.iter().cloned().collect() }
    }
}

/// Whether an account is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disabled {
    /// The account is enabled.
    No,
    /// The account is disabled until it is changed.
    Yes,
    /// The account is disabled until this time.
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

    /// The time at which the account is enabled by itself, if any.
    pub const fn until(self) -> Option<Timestamp> {
        match self {
            Self::Until(until) => Some(until),
            Self::No | Self::Yes => None,
        }
    }
}

/// The result of importing one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The account was added.
    Added,
    /// An account with this id and this username exists; it was not changed.
    Present,
    /// The username belongs to an account with another id.
    UsernameTaken,
    /// The id belongs to an account with another username.
    IdTaken,
}

/// A change to an account.
#[derive(Debug, Clone)]
pub enum AccountChange {
    /// Replaces the roles or the disabled state; `None` keeps the old value.
    Update {
        /// The new roles.
        roles: Option<Vec<Role>>,
        /// The new disabled state.
        disabled: Option<Disabled>,
    },
    /// Replaces the password.
    Password(PasswordHash),
    /// Replaces the password if its hash still is `old`.
    ReplacePassword {
        /// The expected hash.
        old: PasswordHash,
        /// The new hash.
        new: PasswordHash,
    },
    /// Deletes the account.
    Delete,
}

/// A session change that an account change still owes.
///
/// Accounts and sessions may be in different databases, so no transaction spans both. The transaction that changes the
/// account records the debt, as a row of a transactional outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    /// The id of the debt.
    pub id: i64,
    /// The user whose sessions must change.
    pub user_id: UserId,
    /// The account change.
    pub cause: DebtCause,
}

/// The account change that causes a debt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebtCause {
    /// The account was disabled or deleted; every session ends.
    AccountDisabled,
    /// The password was changed; every session ends.
    CredentialsChanged,
    /// The username or the roles were changed; verdicts report the new ones.
    Profile,
}

/// A store of accounts.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Finds an account by its username. [`Username`] defines which names are equal.
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError>;

    /// Finds an account by its id.
    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError>;

    /// Returns at most `limit` accounts, in the order of their usernames, beginning after `after`.
    async fn list(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, StoreError>;

    /// Whether the accounts belong to another system. If true, no method that changes an account may be called.
    fn read_only(&self) -> bool;

    /// Whether accounts can be found by their ids. If false, [`Accounts::get`] must not be called.
    fn finds_by_id(&self) -> bool {
        true
    }

    /// Whether [`Accounts::find`] may find one account by several usernames, such as a name and an e-mail address, or
    /// because the table compares names by a rule of its own.
    fn has_other_names(&self) -> bool {
        false
    }

    /// Whether [`Accounts::rehash`] currently stores hashes. If false, a new hash would be wasted.
    fn renews_hashes(&self) -> bool {
        true
    }

    /// Adds an account. Returns false if the username is taken.
    async fn create(&self, account: &Account) -> Result<bool, StoreError>;

    /// Adds the accounts that do not exist yet, in one transaction. Returns one result for each account, in order. Can
    /// be repeated safely.
    async fn import(&self, accounts: &[Account]) -> Result<Vec<Imported>, StoreError>;

    /// Changes an account and records `debt` in the same transaction. Returns the account after the change and the
    /// debt, or `None` if there is no such account or the change does not apply to it.
    async fn change(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError>;

    /// Replaces the hash `old` by another hash of the same password, if the account still has it and the new hash can
    /// be stored unchanged. `username` is the name by which the account was found.
    async fn rehash(
        &self,
        username: &Username,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError>;

    /// Returns at most `limit` of the debts that were recorded before `before`, the oldest first.
    async fn debts(&self, before: Timestamp, limit: u32) -> Result<Vec<Debt>, StoreError>;

    /// Removes a debt that has been settled.
    async fn settled(&self, debt: &Debt) -> Result<(), StoreError>;

    /// Checks that the store answers.
    async fn ping(&self) -> Result<(), StoreError>;
}
