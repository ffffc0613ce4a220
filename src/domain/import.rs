//! `ImportAccounts`: adds accounts of another system, with their password hashes.
//!
//! An import is a stream with one transaction per message: a message is stored before the next one is read, so memory
//! holds one message, and a stream that breaks leaves whole messages.

use std::collections::{HashMap, hash_map};

use super::{
    Engine, Error, Violation,
    audit::{Action, Entry, Outcome},
    origin::Origin,
    password::PasswordHash,
    ports::{Account, Disabled, Imported, StoreError},
    types::{Role, Timestamp, UserId},
    username::Username,
};

/// The longest hash in bytes, twice of what the supported formats need.
const MAX_HASH_LEN: usize = 512;

/// An account to import.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The line in the file that it comes from.
    pub line: u64,
    /// The id in the other system, which the account keeps. Without one it gets a new id, and is present if its
    /// username is.
    pub user_id: Option<UserId>,
    /// The username.
    pub username: Username,
    /// The hash of the password.
    pub password: PasswordHash,
    /// The roles, sorted.
    pub roles: Vec<Role>,
    /// Whether the account is disabled.
    pub disabled: Disabled,
    /// The time at which it was created, if known.
    pub created_at: Option<Timestamp>,
}

/// The result of importing one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The account was added, or would be.
    Added,
    /// The account exists and was not changed.
    Present,
    /// The account was refused.
    Refused(Violation),
}

impl Engine {
    /// Adds the accounts that do not exist yet, in one transaction. Returns one outcome for each, in order. An account
    /// that could not be parsed is passed as its violation. Can be repeated safely.
    pub async fn import_accounts(
        &self,
        accounts: Vec<Result<NewAccount, Violation>>,
        origin: &Origin,
    ) -> Result<Vec<ImportOutcome>, Error> {
        let accounts = self.prepare_import(accounts);
        let added = match self.check_accounts_writable() {
            Ok(()) => self.add(&accounts).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match added {
            Ok(outcomes) => {
                self.audit_import(&accounts, &outcomes, origin);
                Ok(outcomes)
            }
            Err(error) => {
                let count = accounts.len();
                let entry = Entry::new(self.clock.now(), Action::ImportAccount, Outcome::of(&error), origin);
                self.audit.record(entry.detail(format!("{count} accounts at once")));
                Err(error)
            }
        }
    }

    /// Returns the outcomes of an import without adding accounts. Conflicts between accounts of different calls are not
    /// found.
    pub async fn check_import(
        &self,
        accounts: Vec<Result<NewAccount, Violation>>,
    ) -> Result<Vec<ImportOutcome>, Error> {
        self.check_accounts_writable()?;
        let mut outcomes = Vec::with_capacity(accounts.len());
        for account in self.prepare_import(accounts) {
            outcomes.push(match account {
                Ok((account, has_id)) => import_outcome(self.find_existing(&account, has_id).await?, has_id),
                Err(violation) => ImportOutcome::Refused(violation),
            });
        }
        Ok(outcomes)
    }

    /// Returns the accounts as they can be stored, and whether each has an id of the other system.
    fn prepare_import(
        &self,
        accounts: Vec<Result<NewAccount, Violation>>,
    ) -> Vec<Result<(Account, bool), Violation>> {
        let mut seen = HashMap::new();
        let now = self.clock.now();
        accounts
            .into_iter()
            .map(|account| {
                let account = account?;
                check_hash(&account.password)?;
                // The store would refuse a repeated username, too, but without the line of the first one; and without
                // ids it would take the second for an account that exists.
                match seen.entry(account.username.key().to_owned()) {
                    hash_map::Entry::Occupied(first) => return Err(repeated(*first.get())),
                    hash_map::Entry::Vacant(entry) => entry.insert(account.line),
                };
                let has_id = account.user_id.is_some();
                let account = Account {
                    user_id: account.user_id.unwrap_or_else(UserId::random),
                    username: account.username,
                    password: account.password,
                    roles: account.roles,
                    disabled: account.disabled,
                    created_at: account.created_at.unwrap_or(now),
                };
                Ok((account, has_id))
            })
            .collect()
    }

    async fn add(
        &self,
        accounts: &[Result<(Account, bool), Violation>],
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        let (new, have_ids): (Vec<Account>, Vec<bool>) = accounts.iter().flatten().cloned().unzip();
        let imported = if new.is_empty() { Vec::new() } else { self.accounts.import(&new).await? };
        if imported.len() != new.len() {
            let cause = format!("{} outcomes for {} accounts", imported.len(), new.len());
            return Err(StoreError::Corrupt { store: "accounts", cause });
        }
        let mut results = imported.into_iter().zip(have_ids);
        let outcomes = accounts.iter().map(|account| match account {
            Err(violation) => ImportOutcome::Refused(violation.clone()),
            // There is a result for each, as was checked above.
            Ok(_) => results
                .next()
                .map_or(ImportOutcome::Present, |(imported, has_id)| import_outcome(imported, has_id)),
        });
        Ok(outcomes.collect())
    }

    async fn find_existing(&self, account: &Account, has_id: bool) -> Result<Imported, StoreError> {
        let by_id = if has_id { self.accounts.get(&account.user_id).await? } else { None };
        if let Some(found) = by_id {
            let same = found.username.key() == account.username.key();
            return Ok(if same { Imported::Present } else { Imported::IdTaken });
        }
        let found = self.accounts.find(&account.username).await?;
        Ok(if found.is_some() { Imported::UsernameTaken } else { Imported::Added })
    }

    /// Records an entry for each account that was added or refused, and one with the number of each.
    fn audit_import(
        &self,
        accounts: &[Result<(Account, bool), Violation>],
        outcomes: &[ImportOutcome],
        origin: &Origin,
    ) {
        let now = self.clock.now();
        let (mut added, mut present, mut refused) = (0, 0, 0);
        for (account, outcome) in accounts.iter().zip(outcomes) {
            let (outcome, detail) = match outcome {
                ImportOutcome::Present => {
                    present += 1;
                    continue;
                }
                ImportOutcome::Added => {
                    added += 1;
                    (Outcome::Done, None)
                }
                ImportOutcome::Refused(violation) => {
                    refused += 1;
                    let reason =
                        if account.is_ok() { Error::AccountExists } else { violation.clone().into() };
                    (Outcome::of(&reason), Some(format!("{} {}", violation.field, violation.description)))
                }
            };
            let mut entry = Entry::new(now, Action::ImportAccount, outcome, origin);
            entry.detail = detail;
            if let Ok((account, _)) = account {
                entry = entry.user(&account.user_id).named(account.username.as_str());
            }
            self.audit.record(entry);
        }
        let summary = Entry::new(now, Action::AccountsImported, Outcome::Done, origin);
        self.audit.record(summary.detail(format!("added {added}, present {present}, refused {refused}")));
    }
}

/// The outcome of an account by the result of the store.
fn import_outcome(imported: Imported, has_id: bool) -> ImportOutcome {
    match imported {
        Imported::Added => ImportOutcome::Added,
        Imported::Present => ImportOutcome::Present,
        // The id was generated for this import, so the accounts are compared by username.
        Imported::UsernameTaken if !has_id => ImportOutcome::Present,
        Imported::UsernameTaken => {
            ImportOutcome::Refused(Violation::new("username", "belongs to an account with another user_id"))
        }
        Imported::IdTaken => {
            ImportOutcome::Refused(Violation::new("user_id", "belongs to an account with another username"))
        }
    }
}

/// The violation of an account whose username was in an earlier line.
fn repeated(first: u64) -> Violation {
    Violation::new("username", format!("is the same as in line {first}; case makes no difference"))
}

/// Checks a hash. A violation does not quote it, because it may be a password by mistake.
fn check_hash(hash: &PasswordHash) -> Result<(), Violation> {
    let wrong = if hash.as_str().is_empty() {
        "is missing; use `!` for an account without a password".to_owned()
    } else if hash.as_str().len() > MAX_HASH_LEN {
        "must be at most 512 bytes".to_owned()
    } else if let Err(error) = hash.check_supported() {
        format!("is not supported: {error}; use `!` instead and set a new password for the user")
    } else {
        return Ok(());
    };
    Err(Violation::new("password_hash", wrong))
}
