//! Accounts: create, read, change, delete. What ends sessions ends them before it answers.

use std::{sync::Arc, time::Duration};

use super::{
    Engine, Error, Violation,
    audit::{Action, Entry, Outcome},
    check_password::PresentedPassword,
    limiter::Standing,
    origin::Origin,
    password::{NewPassword, PasswordHash},
    ports::{Account, AccountChange, Debt, DebtCause, Disabled},
    rejection::Reason,
    transact::{Contention, Decision},
    types::{Role, SessionId, UserId},
    username::Username,
};
use crate::isolation::log_limiter::LogLimiter;

/// A younger debt is being settled by the request that made it, which wants to know how many it ended.
const DEBT_AGE: Duration = Duration::from_secs(15);

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
        let password = self.passwords.policy().check(password, &username)?;
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
            let password = self.passwords.policy().check(password, &account.username)?;
            let change = AccountChange::Password(self.passwords.hash(password).await?);
            self.change_account(user_id, change, Some(DebtCause::CredentialsChanged)).await
        };
        let outcome = outcome.await;
        let username = outcome.as_ref().ok().map(|(account, _)| account.username.clone());
        let ended = self.audited_change(Action::SetPassword, user_id, outcome, origin)?;
        if let Some(username) = username {
            // Nobody has failed with this password yet.
            self.gate.clear(&username, Some(user_id)).await?;
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
        let outcome = self.gate.clear(&username, user_id.as_ref()).await;
        let mut entry = self.entry(Action::UnlockAccount, &outcome, origin).named(username.as_str());
        if let Ok(failures) = outcome {
            entry = entry.detail(format!("after {failures} failures"));
        }
        self.audit.record(entry);
        outcome
    }

    /// How an account stands with those who try its password.
    pub async fn standing(&self, username: &Username) -> Result<Standing, Error> {
        let others = self.accounts.has_other_names();
        let found = if others { self.accounts.find(username).await? } else { None };
        self.gate.standing(username, found.map(|account| account.user_id).as_ref()).await
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

    /// Settles debts that were left behind by a crash or an outage: how many.
    pub async fn settle_debts(&self) -> Result<usize, Error> {
        if self.accounts.read_only() {
            return Ok(0);
        }
        let before = self.clock.now().before(DEBT_AGE);
        let debts = self.accounts.debts(before, 100).await?;
        let mut failure = None;
        for debt in &debts {
            // One that cannot be settled must not hold up the others.
            match self.settle(debt, None).await {
                Ok(ended) => {
                    self.accounts.settled(debt).await?;
                    let entry = Entry::new(
                        self.clock.now(),
                        Action::SessionsEnded,
                        Outcome::Done,
                        &Origin::default(),
                    );
                    let detail = "sessions have followed an earlier change of the account";
                    self.audit.record(entry.user(&debt.user_id).ended(ended).detail(detail));
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(debts.len()), Err)
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

    /// Makes sessions follow their account, all but `kept`: how many ended.
    pub(super) async fn follow(&self, debt: Option<Debt>, kept: Option<SessionId>) -> Result<u32, Error> {
        let Some(debt) = debt else { return Ok(0) };
        let ended = self.settle(&debt, kept).await?;
        if let Err(error) = self.accounts.settled(&debt).await {
            // The debt will be settled once more, which ends what the user has opened by then: too much
            // rather than too little.
            static UNSETTLED: LogLimiter =
                LogLimiter::new("could not record that sessions have followed an account", 1);
            if UNSETTLED.admits("") {
                tracing::warn!(error.message = %error, "could not record that sessions have followed an account");
            }
        }
        Ok(ended)
    }

    async fn settle(&self, debt: &Debt, kept: Option<SessionId>) -> Result<u32, Error> {
        let reason = match debt.cause {
            DebtCause::AccountDisabled => Reason::AccountDisabled,
            DebtCause::CredentialsChanged => Reason::CredentialsChanged,
            DebtCause::Profile => return self.show_profile(&debt.user_id).await,
        };
        let read = self.sessions.load(&debt.user_id).await?;
        let longest = self.slots.longest();
        self.transact(&debt.user_id, read, |state, at| {
            Decision::Write(state.fence_but(kept, reason, longest, at))
        })
        .await
    }

    async fn show_profile(&self, user_id: &UserId) -> Result<u32, Error> {
        let mut contention = Contention::default();
        let mut read = self.sessions.load(user_id).await?;
        loop {
            // The register before the account, as at login: whoever is faster with a newer account makes
            // this conflict.
            let Some(account) = self.accounts.get(user_id).await? else { return Ok(0) };
            let next = {
                let known = self.epoch.known().await?;
                read.state.rename(account.profile(), self.at(&known))
            };
            match self.commit(user_id, &read, next).await? {
                Ok(()) => return Ok(0),
                Err(newer) => read = self.lost(user_id, newer, &mut contention).await?,
            }
        }
    }

    /// Brings a hash to the configured kind and cost, in the background: no login fails with it, and none
    /// gives up its place for it. Where the threads are busy it is left to the next login.
    pub(super) fn rehash(&self, who: &PresentedPassword<'_>, old: &PasswordHash) {
        if !self.accounts.renews_hashes() {
            return;
        }
        let Some(renewed) = self.passwords.renew(who.password, old) else { return };
        let (accounts, old) = (Arc::clone(&self.accounts), old.clone());
        let (username, user_id) = (who.username.clone(), who.user_id.clone());
        tokio::spawn(async move {
            let outcome = match renewed.await {
                Ok(new) => accounts.rehash(&username, &user_id, &old, &new).await.map_err(Error::from),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                static UNRENEWED: LogLimiter = LogLimiter::new("a password hash could not be renewed", 5);
                if UNRENEWED.admits("") {
                    tracing::warn!(user.id = %user_id, error.message = %error, "a password hash could not be renewed; the next login tries again");
                }
            }
        });
    }
}
