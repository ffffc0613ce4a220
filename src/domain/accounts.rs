//! Accounts: create, read, change, delete and unlock.
//!
//! A change that must end sessions ends them before it answers. Accounts and sessions may be in different databases, so
//! the change records a debt that is settled next (`background/debts`, ADR 0014).

use super::{
    Engine, Error, Violation,
    audit::Action,
    limiter::ThrottleStatus,
    origin::Origin,
    password::NewPassword,
    ports::{Account, AccountChange, DebtCause, Disabled},
    types::{Role, UserId},
    username::Username,
};

/// Identifies an account.
#[derive(Debug, Clone)]
pub enum AccountKey {
    /// The id of the user.
    Id(UserId),
    /// The username.
    Name(Username),
}

/// A change of an account. `None` keeps the old value.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// The new roles.
    pub roles: Option<Vec<Role>>,
    /// The new disabled state.
    pub disabled: Option<Disabled>,
}

impl Update {
    /// Describes the change for the audit trail.
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
    /// Creates an account.
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
        self.check_accounts_writable()?;
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
        self.check_account_key(key)?;
        let account = match key {
            AccountKey::Id(user_id) => self.accounts.get(user_id).await?,
            AccountKey::Name(username) => self.accounts.find(username).await?,
        };
        account.ok_or(Error::AccountNotFound)
    }

    /// Fails if accounts cannot be found by this key.
    pub(super) fn check_account_key(&self, key: &AccountKey) -> Result<(), Error> {
        match key {
            AccountKey::Id(_) if !self.accounts.finds_by_id() => Err(Error::ExternalAccounts(
                "accounts belong to another system and are found by username only: give the username, or set accounts.lookup_by_id",
            )),
            AccountKey::Id(_) | AccountKey::Name(_) => Ok(()),
        }
    }

    /// Returns at most `limit` accounts, in the order of their usernames, beginning after `after`.
    pub async fn list_accounts(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, Error> {
        if self.accounts.read_only() {
            return Err(Error::ExternalAccounts(
                "accounts belong to another system and are found one at a time (accounts.lookup is set): list them there",
            ));
        }
        Ok(self.accounts.list(after, limit).await?)
    }

    /// Changes the roles of an account, or disables or enables it. Returns the account and how many sessions ended.
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

    /// Sets a password. Returns how many sessions ended.
    pub async fn set_password(
        &self,
        user_id: &UserId,
        password: NewPassword,
        origin: &Origin,
    ) -> Result<u32, Error> {
        let outcome = async {
            self.check_accounts_writable()?;
            let account = self.accounts.get(user_id).await?.ok_or(Error::AccountNotFound)?;
            let password = self.passwords.check_policy(password, &account.username)?;
            let change = AccountChange::Password(self.passwords.hash(password).await?);
            self.change_account(user_id, change, Some(DebtCause::CredentialsChanged)).await
        };
        let outcome = outcome.await;
        let username = outcome.as_ref().ok().map(|(account, _)| account.username.clone());
        let ended = self.audit_change(Action::SetPassword, user_id, outcome, origin)?;
        if let Some(username) = username {
            // The failures were about the old password.
            self.passwords.clear_failures(&username, Some(user_id)).await?;
        }
        Ok(ended)
    }

    /// Unlocks a username, or ends its wait. Returns how many failures were cleared.
    pub async fn unlock_account(&self, key: &AccountKey, origin: &Origin) -> Result<u32, Error> {
        let (username, user_id) = match key {
            // The account need not exist: failures are counted for unknown usernames, too.
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
    pub async fn throttle_status(&self, username: &Username) -> Result<ThrottleStatus, Error> {
        self.passwords.throttle_status(username).await
    }

    /// Deletes an account. Returns how many sessions ended.
    pub async fn delete_account(&self, user_id: &UserId, origin: &Origin) -> Result<u32, Error> {
        let outcome =
            self.change_account(user_id, AccountChange::Delete, Some(DebtCause::AccountDisabled)).await;
        self.audit_change(Action::DeleteAccount, user_id, outcome, origin)
    }

    /// Records a change in the audit trail. Returns how many sessions it ended.
    fn audit_change(
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

    /// Returns an error if accounts cannot be changed, because they belong to another system.
    pub(super) fn check_accounts_writable(&self) -> Result<(), Error> {
        if self.accounts.read_only() { Err(Error::AccountsReadOnly) } else { Ok(()) }
    }

    async fn change_account(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
    ) -> Result<(Account, u32), Error> {
        self.check_accounts_writable()?;
        let changed = self.accounts.change(user_id, change, debt, self.clock.now()).await?;
        let (account, debt) = changed.ok_or(Error::AccountNotFound)?;
        Ok((account, self.settle(debt, None).await?))
    }
}
