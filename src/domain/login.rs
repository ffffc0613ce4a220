//! Login: check a password, open a session, displace the one that held the slot.

use super::{
    Engine, Error,
    audit::Action,
    credentials::Presented,
    origin::Origin,
    password::{Checked, Password},
    ports::Account,
    sessions::{Open, Opened, Session},
    transact::Contention,
    types::{Device, SessionId, UserId},
    username::Username,
    validate::Verified,
};

/// Who wants to log in, and where.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who.
    pub username: Username,
    /// The proof.
    pub password: Password,
    /// The name of the slot; empty for the first one.
    pub slot: String,
    /// The client.
    pub device: Device,
}

/// A login that took place.
#[derive(Debug)]
pub struct LoggedIn {
    /// The token of the new session.
    pub token: String,
    /// The new session.
    pub session: Verified,
    /// The live sessions that had to go.
    pub displaced: Vec<Session>,
}

impl Engine {
    /// Logs a user in.
    ///
    /// The register is read before the account. So whatever changes the account meanwhile and then ends
    /// the sessions makes the commit below conflict, and the account is read again.
    pub async fn login(&self, login: Login, origin: &Origin) -> Result<LoggedIn, Error> {
        let typed = login.username.clone();
        let mut known = None;
        let outcome = self.open_session(login, origin, &mut known).await;
        self.audit_login(&typed, known.as_ref(), &outcome, origin);
        outcome
    }

    /// Tells `known` whose account it is, as soon as there is one.
    async fn open_session(
        &self,
        login: Login,
        origin: &Origin,
        known: &mut Option<UserId>,
    ) -> Result<LoggedIn, Error> {
        let Login { username, password, slot, device } = login;
        let (slot, policy) = self.slots.resolve(&slot)?;

        // An unknown user takes the same way as a known one, under an id that nobody has.
        *known = self.accounts.find(&username).await?.map(|account| account.user_id);
        let user_id = known.clone().unwrap_or_else(UserId::random);
        let mut read = self.sessions.load(&user_id).await?;
        let who = Presented { user_id: &user_id, username: &username, password: &password, origin };
        let mut admitted = self.admit(&who, None).await?;

        let id = SessionId::random();
        let mut contention = Contention::default();
        let opened = loop {
            let at = self.at();
            let profile = admitted.account.profile();
            let open = Open { id, slot: slot.clone(), device: device.clone(), profile, policy };
            match self.commit(&user_id, &read, read.state.open(open, at), at).await? {
                Ok(opened) => break opened,
                Err(newer) => read = self.lost(&user_id, newer, &mut contention).await?,
            }
            admitted = self.admit(&who, Some(admitted)).await?;
        };
        let Admitted { account, outdated } = admitted;
        if outdated {
            // Only now, so that a login which has to read the account again finds the hash it has checked.
            self.rehash(&user_id, &password, &account.password);
        }

        let Opened { session, displaced } = opened;
        let token = self.tokens.issue(&user_id, &session, &account.roles)?;
        let idle_expires_at = session.idle_expires_at();
        let username = account.username.as_str().to_owned();
        let session = Verified { user_id, username, roles: account.roles, session, idle_expires_at };
        Ok(LoggedIn { token, session, displaced })
    }

    fn audit_login(
        &self,
        typed: &Username,
        known: Option<&UserId>,
        outcome: &Result<LoggedIn, Error>,
        origin: &Origin,
    ) {
        let mut entry = self.entry(Action::Login, outcome, origin);
        entry = match known {
            Some(user_id) => entry.user(user_id).named(typed.as_str()),
            // What nobody is called may be a password that was typed into the wrong field.
            None => entry.detail(format!("username with the hash {}", typed.hash())),
        };
        if let Ok(LoggedIn { session, displaced, .. }) = outcome {
            entry = entry.session(&session.session).ended(displaced_count(displaced));
            for old in displaced {
                let entry = self.entry(Action::SessionDisplaced, outcome, origin);
                let by = format!("by session {}", session.session.id);
                self.audit.record(entry.user(&session.user_id).named(typed.as_str()).session(old).detail(by));
            }
        }
        self.audit.record(entry);
    }

    /// The account, if the password is its password and it is not disabled. A password that was checked
    /// against the hash of `before` is not checked again while the hash is the same.
    async fn admit(&self, who: &Presented<'_>, before: Option<Admitted>) -> Result<Admitted, Error> {
        // By name, because a table of somebody else's may be readable in no other way.
        let found = self.accounts.find(who.username).await?;
        let account = found.filter(|account| account.user_id == *who.user_id);
        let stored = account.as_ref().map(|account| &account.password);
        let outdated = match before {
            Some(before) if Some(&before.account.password) == stored => before.outdated,
            _ => match self.try_password(who, stored).await? {
                Checked::Right { outdated } => outdated,
                Checked::Wrong => return Err(Error::InvalidCredentials),
            },
        };
        let account = account.ok_or(Error::InvalidCredentials)?;
        if account.disabled.at(self.clock.now()) {
            return Err(Error::AccountDisabled { until: account.disabled.until() });
        }
        Ok(Admitted { account, outdated })
    }
}

/// An account whose password was presented.
struct Admitted {
    account: Account,
    /// Its hash should be renewed.
    outdated: bool,
}

fn displaced_count(displaced: &[Session]) -> u32 {
    u32::try_from(displaced.len()).unwrap_or(u32::MAX)
}
