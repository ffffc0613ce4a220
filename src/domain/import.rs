//! Import: accounts that come from somewhere else, with the hashes of their passwords.

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

/// The longest hash, in bytes. The formats that are read need half of it.
const MAX_HASH: usize = 512;

/// An account as it comes.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Where it stands in what it comes from.
    pub line: u64,
    /// The id that it has there and keeps. Without one it gets an id of ours, and is there already if
    /// its username is.
    pub user_id: Option<UserId>,
    /// What its user types.
    pub username: Username,
    /// What the password is checked against.
    pub password: PasswordHash,
    /// Roles, sorted.
    pub roles: Vec<Role>,
    /// Whether it is disabled.
    pub disabled: Disabled,
    /// When it was created, where that is known.
    pub created_at: Option<Timestamp>,
}

/// What became of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It was added, or would be.
    Added,
    /// It was there already, and was left as it is.
    Present,
    /// It was refused.
    Refused(Violation),
}

impl Engine {
    /// Adds those of the accounts that are not there yet, in one transaction: for each, in order, what
    /// became of it. What could not even be read comes as the violation that it is. Safe to repeat.
    pub async fn import_accounts(
        &self,
        accounts: Vec<Result<NewAccount, Violation>>,
        origin: &Origin,
    ) -> Result<Vec<ImportOutcome>, Error> {
        let accounts = self.readable(accounts);
        let added = match self.writable() {
            Ok(()) => self.add(&accounts).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match added {
            Ok(fates) => {
                self.record_import(&accounts, &fates, origin);
                Ok(fates)
            }
            Err(error) => {
                let count = accounts.len();
                let entry = Entry::new(self.clock.now(), Action::ImportAccount, Outcome::of(&error), origin);
                self.audit.record(entry.detail(format!("{count} accounts at once")));
                Err(error)
            }
        }
    }

    /// What would become of the accounts, as far as can be said without adding any: what two of them would
    /// do to each other in different calls is not seen.
    pub async fn check_import(
        &self,
        accounts: Vec<Result<NewAccount, Violation>>,
    ) -> Result<Vec<ImportOutcome>, Error> {
        self.writable()?;
        let mut fates = Vec::with_capacity(accounts.len());
        for account in self.readable(accounts) {
            fates.push(match account {
                Ok((account, named)) => fate(self.look_up(&account, named).await?, named),
                Err(violation) => ImportOutcome::Refused(violation),
            });
        }
        Ok(fates)
    }

    /// The accounts as they can be stored, and whether each brought an id of its own.
    fn readable(
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
                // The store would say the same of the second, but not where the first one is; and without
                // ids it could not tell the second from an account that was there before.
                match seen.entry(account.username.key().to_owned()) {
                    hash_map::Entry::Occupied(first) => return Err(repeated(*first.get())),
                    hash_map::Entry::Vacant(place) => place.insert(account.line),
                };
                let named = account.user_id.is_some();
                let account = Account {
                    user_id: account.user_id.unwrap_or_else(UserId::random),
                    username: account.username,
                    password: account.password,
                    roles: account.roles,
                    disabled: account.disabled,
                    created_at: account.created_at.unwrap_or(now),
                };
                Ok((account, named))
            })
            .collect()
    }

    async fn add(
        &self,
        accounts: &[Result<(Account, bool), Violation>],
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        let (new, named): (Vec<Account>, Vec<bool>) = accounts.iter().flatten().cloned().unzip();
        let imported = if new.is_empty() { Vec::new() } else { self.accounts.import(&new).await? };
        if imported.len() != new.len() {
            let cause = format!("{} outcomes for {} accounts", imported.len(), new.len());
            return Err(StoreError::Corrupt { store: "accounts", cause });
        }
        let mut stored = imported.into_iter().zip(named);
        let fates = accounts.iter().map(|account| match account {
            Err(violation) => ImportOutcome::Refused(violation.clone()),
            // There is one for each, as was just seen.
            Ok(_) => stored.next().map_or(ImportOutcome::Present, |(imported, named)| fate(imported, named)),
        });
        Ok(fates.collect())
    }

    async fn look_up(&self, account: &Account, named: bool) -> Result<Imported, StoreError> {
        let by_id = if named { self.accounts.get(&account.user_id).await? } else { None };
        if let Some(found) = by_id {
            let same = found.username.key() == account.username.key();
            return Ok(if same { Imported::Present } else { Imported::IdTaken });
        }
        let found = self.accounts.find(&account.username).await?;
        Ok(if found.is_some() { Imported::UsernameTaken } else { Imported::Added })
    }

    /// One entry for each account that was added or refused; what was there already has not changed.
    fn record_import(
        &self,
        accounts: &[Result<(Account, bool), Violation>],
        fates: &[ImportOutcome],
        origin: &Origin,
    ) {
        let now = self.clock.now();
        for (account, fate) in accounts.iter().zip(fates) {
            let (outcome, detail) = match fate {
                ImportOutcome::Present => continue,
                ImportOutcome::Added => (Outcome::Done, None),
                ImportOutcome::Refused(violation) => {
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
    }
}

/// What an outcome of the store means for an account that brought an id of its own, or did not.
fn fate(imported: Imported, named: bool) -> ImportOutcome {
    match imported {
        Imported::Added => ImportOutcome::Added,
        Imported::Present => ImportOutcome::Present,
        // The id was made up a moment ago; the account is known by its name.
        Imported::UsernameTaken if !named => ImportOutcome::Present,
        Imported::UsernameTaken => {
            ImportOutcome::Refused(Violation::new("username", "belongs to an account with another user_id"))
        }
        Imported::IdTaken => {
            ImportOutcome::Refused(Violation::new("user_id", "belongs to an account with another username"))
        }
    }
}

/// The second of two accounts with one name; `first` is where the first one stands.
fn repeated(first: u64) -> Violation {
    Violation::new("username", format!("is the same as in line {first}; case makes no difference"))
}

/// What is wrong with a hash, never with the hash in it: it may be a password by mistake.
fn check_hash(hash: &PasswordHash) -> Result<(), Violation> {
    let wrong = if hash.as_str().is_empty() {
        "is missing; `!` is an account that nobody can log in to by password".to_owned()
    } else if hash.as_str().len() > MAX_HASH {
        "must be at most 512 bytes".to_owned()
    } else if let Err(unreadable) = hash.check_supported() {
        format!("cannot be checked: {unreadable}; with `!` in its place the user can be given a new password")
    } else {
        return Ok(());
    };
    Err(Violation::new("password_hash", wrong))
}
