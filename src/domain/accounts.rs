//! Accounts: create, read, change, delete. What ends sessions ends them before it answers.

use super::{
    Engine, Error, Violation,
    audit::Action,
    limiter::Standing,
    origin::Origin,
    password::NewPassword,
    ports::{Account, AccountChange, DebtCause, Disabled},
    types::{Role, UserId},
    username::Username,
};

/// Names an account.
#[derive(Debug, Clone)]
pub enum AccountKey {
    /// By id.
    Id(UserId),
    /// By name.
    Name(Username),
}

/// A change to an account, as asked for: what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// In place of all old roles.
    pub roles: Option<Vec<Role>>,
    /// In place of the old state.
    pub disabled: Option<Disabled>,
}

impl Update {
    /// What is to be changed, for the audit trail.
    fn detail(&self) -> String {
        let roles = self.roles.as_deref().map(roles_detail);
        let disabled = self.disabled.map(|disabled| match disabled {
            Disabled::No => "enabled".to_owned(),
            Disabled::Yes => "disabled".to_owned(),
            Disabled::Until(until) => format!("disabled until {} (Unix time)", until.as_secs()),
        });
        roles.into_iter().chain(disabled).collect::<Vec<_>>().join("; ")
    }
}

fn roles_detail(roles: &[Role]) -> String {
    format!("roles: {}", roles.iter().map(Role::as_str).collect::<Vec<_>>().join(" "))
}

impl Engine {
    /// Adds an account.
    pub async fn create_account(
        &self,
        username: Username,
        password: NewPassword,
        roles: Vec<Role>,
        origin: &Origin,
    ) -> Result<Account, Error> {
        let name = username.as_str().to_owned();
        let outcome = self.add_account(username, password, roles).await;
        let mut entry = self.entry(Action::CreateAccount, &outcome, origin).named(&name);
        if let Ok(account) = &outcome {
            entry = entry.user(&account.user_id).detail(roles_detail(&account.roles));
        }
        self.audit.record(entry);
        outcome
    }

    async fn add_account(
        &self,
        username: Username,
        password: NewPassword,
        roles: Vec<Role>,
    ) -> Result<Account, Error> {
        self.writable()?;
        let password = self.passwords.check_policy(password, &username)?;
        let account = Account {
            user_id: UserId::random(),
            username,
            password: self.passwords.hash(password).await?,
            roles,
            disabled: Disabled::No,
            created_at: self.clock.now(),
        };
        if self.accounts.create(&account).await? { Ok(account) } else { Err(Error::AccountExists) }
    }

    /// Reads an account.
    pub async fn account(&self, key: &AccountKey) -> Result<Account, Error> {
        let account = match key {
            AccountKey::Id(_) if !self.accounts.finds_by_id() => {
                return Err(Error::AccountsElsewhere(
                    "accounts are looked up in another system by their usernames only: give the username, or set accounts.lookup_by_id",
                ));
            }
            AccountKey::Id(user_id) => self.accounts.get(user_id).await?,
            AccountKey::Name(username) => self.accounts.find(username).await?,
        };
        account.ok_or(Error::AccountNotFound)
    }

    /// Accounts in the order of their usernames, those after `after`, at most `limit`.
    pub async fn list_accounts(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, Error> {
        if self.accounts.read_only() {
            return Err(Error::AccountsElsewhere(
                "accounts are looked up in another system, one at a time (accounts.lookup is set): list them there",
            ));
        }
        Ok(self.accounts.list(after, limit).await?)
    }

    /// Changes roles, disables or enables; with how many sessions that ended.
    pub async fn update_account(
        &self,
        user_id: &UserId,
        update: Update,
        origin: &Origin,
    ) -> Result<(Account, u32), Error> {
        let detail = update.detail();
        let outcome = self.apply_update(user_id, update).await;
        let mut entry = self.entry(Action::UpdateAccount, &outcome, origin).user(user_id).detail(detail);
        if let Ok((account, ended)) = &outcome {
            entry = entry.named(account.username.as_str()).ended(*ended);
        }
        self.audit.record(entry);
        outcome
    }

    async fn apply_update(&self, user_id: &UserId, update: Update) -> Result<(Account, u32), Error> {
        let now = self.clock.now();
        if update.disabled.and_then(Disabled::until).is_some_and(|until| until <= now) {
            return Err(Violation::new("disabled_until", "must lie in the future").into());
        }
        let debt = if update.disabled.is_some_and(|disabled| disabled.at(now)) {
            Some(DebtCause::AccountDisabled)
        } else {
            update.roles.is_some().then_some(DebtCause::Profile)
        };
        let Update { roles, disabled } = update;
        self.change_account(user_id, AccountChange::Update { roles, disabled }, debt).await
    }

    /// Sets a password; with how many sessions that ended.
    pub async fn set_password(
        &self,
        user_id: &UserId,
        password: NewPassword,
        origin: &Origin,
    ) -> Result<u32, Error> {
        let outcome = async {
            self.writable()?;
            let account = self.accounts.get(user_id).await?.ok_or(Error::AccountNotFound)?;
            let password = self.passwords.check_policy(password, &account.username)?;
            let change = AccountChange::Password(self.passwords.hash(password).await?);
            self.change_account(user_id, change, Some(DebtCause::CredentialsChanged)).await
        };
        let outcome = outcome.await;
        let username = outcome.as_ref().ok().map(|(account, _)| account.username.clone());
        let ended = self.audited_change(Action::SetPassword, user_id, outcome, origin)?;
        if let Some(username) = username {
            // Nobody has failed with this password yet.
            self.passwords.clear_failures(&username, Some(user_id)).await?;
        }
        Ok(ended)
    }

    /// Lets a username that was locked or has to wait be tried again: how many failures that forgets.
    pub async fn unlock_account(&self, key: &AccountKey, origin: &Origin) -> Result<u32, Error> {
        let (username, user_id) = match key {
            // Whether there is such an account or not: failures are counted by what was typed, too.
            AccountKey::Name(username) => {
                (username.clone(), self.accounts.find(username).await?.map(|account| account.user_id))
            }
            AccountKey::Id(_) => {
                let account = self.account(key).await?;
                (account.username, Some(account.user_id))
            }
        };
        let outcome = self.passwords.clear_failures(&username, user_id.as_ref()).await;
        let mut entry = self.entry(Action::UnlockAccount, &outcome, origin).named(username.as_str());
        if let Ok(failures) = outcome {
            entry = entry.detail(format!("after {failures} failures"));
        }
        self.audit.record(entry);
        outcome
    }

    /// The state of a username in the login limiter.
    pub async fn standing(&self, username: &Username) -> Result<Standing, Error> {
        self.passwords.standing(username).await
    }

    /// Deletes an account; with how many sessions that ended.
    pub async fn delete_account(&self, user_id: &UserId, origin: &Origin) -> Result<u32, Error> {
        let outcome =
            self.change_account(user_id, AccountChange::Delete, Some(DebtCause::AccountDisabled)).await;
        self.audited_change(Action::DeleteAccount, user_id, outcome, origin)
    }

    fn audited_change(
        &self,
        action: Action,
        user_id: &UserId,
        outcome: Result<(Account, u32), Error>,
        origin: &Origin,
    ) -> Result<u32, Error> {
        let mut entry = self.entry(action, &outcome, origin).user(user_id);
        if let Ok((account, ended)) = &outcome {
            entry = entry.named(account.username.as_str()).ended(*ended);
        }
        self.audit.record(entry);
        outcome.map(|(_, ended)| ended)
    }

    /// Refuses to change accounts that are only read.
    pub(super) fn writable(&self) -> Result<(), Error> {
        if self.accounts.read_only() { Err(Error::AccountsReadOnly) } else { Ok(()) }
    }

    async fn change_account(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
    ) -> Result<(Account, u32), Error> {
        self.writable()?;
        let changed = self.accounts.change(user_id, change, debt, self.clock.now()).await?;
        let (account, debt) = changed.ok_or(Error::AccountNotFound)?;
        Ok((account, self.follow(debt, None).await?))
    }
}
