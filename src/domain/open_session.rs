//! Opens sessions, for `Login` and `IssueSession`.
//!
//! The register is read before the account. A change of the account that ends sessions changes the register, too, so
//! the commit conflicts and the account is read again.

use super::{
    Engine, Error, Violation,
    audit::{Action, Entry},
    origin::Origin,
    password::PasswordCheck,
    password_service::PresentedPassword,
    ports::Account,
    session_repository::{Committed, Contention},
    sessions::{ClientMark, Open, OpenError, Opened, Profile, Session, SlotPolicy, UserSessions},
    types::{Device, LoginKey, SessionId, Slot, Timestamp, UserId},
    username::Username,
    validate::LiveSession,
};

/// The session to open.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// The name of the slot; empty for the first configured one.
    pub slot: String,
    /// The device.
    pub device: Device,
    /// The idempotency key of the login.
    pub login_key: Option<LoginKey>,
    /// Displace a session although `session.on_limit` is `deny`.
    pub takeover: bool,
}

/// A successful login.
#[derive(Debug)]
pub struct LoggedIn {
    /// The token of the session.
    pub token: String,
    /// The session.
    pub session: LiveSession,
    /// The displaced sessions, the oldest first.
    pub displaced: Vec<Session>,
    /// This login has started a kick war.
    pub kick_war: bool,
}

/// The authentication of a user.
pub(super) enum Authentication<'a> {
    /// By password.
    Password(PresentedPassword<'a>),
    /// By the issuer that calls `IssueSession`. `username` is set if the account is found by it.
    ByIssuer { user_id: &'a UserId, username: Option<&'a Username>, origin: &'a Origin },
}

/// The account of an authenticated user.
struct AuthenticatedAccount {
    account: Account,
    /// The password hash should be renewed.
    outdated: bool,
}

impl Authentication<'_> {
    fn user_id(&self) -> &UserId {
        match self {
            Self::Password(presented) => presented.user_id,
            Self::ByIssuer { user_id, .. } => user_id,
        }
    }

    /// The mark of the client, if its address is known.
    fn client(&self) -> Option<ClientMark> {
        let (Self::Password(PresentedPassword { origin, .. }) | Self::ByIssuer { origin, .. }) = self;
        origin.address.map(|address| ClientMark::of(self.user_id(), address))
    }
}

impl Engine {
    /// Opens a session.
    pub(super) async fn open_session(
        &self,
        request: SessionRequest,
        authentication: &Authentication<'_>,
    ) -> Result<LoggedIn, Error> {
        let (slot, policy) = self.slots.resolve(&request.slot)?;
        let user_id = authentication.user_id();
        let mut read = self.sessions.load(user_id).await?;
        let mut authenticated = self.authenticate(authentication, &read.state, None).await?;

        let id = SessionId::random();
        let mut contention = Contention::default();
        let opened = loop {
            let account = &authenticated.account;
            let open = request.open(id, &slot, policy, account, authentication.client());
            let next = {
                let known = self.sessions.epoch().known().await?;
                read.state.open(open, self.sessions.at(&known))
            };
            let next = match next {
                Ok(next) => next,
                Err(OpenError::Repeated(session)) => {
                    self.sessions.confirm(user_id).await?;
                    break Opened { session: *session, displaced: Vec::new(), kick_war: false };
                }
                Err(error) => return Err(open_error(error, self.clock.now())),
            };
            match self.sessions.commit(user_id, &read, next).await? {
                Committed::Done(opened) => break opened,
                Committed::Conflict(newer) => {
                    read = self.sessions.after_conflict(user_id, newer, &mut contention).await?;
                }
            }
            authenticated = self.authenticate(authentication, &read.state, Some(authenticated)).await?;
        };
        let Opened { session, displaced, kick_war } = opened;
        let AuthenticatedAccount { account, outdated } = authenticated;
        let token = self.tokens.issue(user_id, &session, &account.roles)?;
        if let Authentication::Password(presented) = authentication
            && outdated
        {
            // After the commit, so that a login that reads the account again finds the hash that it has checked.
            self.passwords.renew(presented, &account.password);
        }

        let profile = Profile { username: account.username.as_str().into(), roles: account.roles.into() };
        let session = LiveSession::opened(user_id.clone(), profile, session);
        Ok(LoggedIn { token, session, displaced, kick_war })
    }

    /// Reads the account and checks that it is enabled and its user authenticated. A password that was checked against
    /// the hash of `before` is not checked again while the hash is the same.
    async fn authenticate(
        &self,
        authentication: &Authentication<'_>,
        sessions: &UserSessions,
        before: Option<AuthenticatedAccount>,
    ) -> Result<AuthenticatedAccount, Error> {
        let authenticated = match authentication {
            Authentication::Password(presented) => {
                self.authenticate_by_password(presented, sessions, before).await?
            }
            Authentication::ByIssuer { user_id, username, .. } => {
                let found = match username {
                    Some(username) => self.accounts.find(username).await?,
                    None => self.accounts.get(user_id).await?,
                };
                let account = found.filter(|account| account.user_id == **user_id);
                AuthenticatedAccount { account: account.ok_or(Error::AccountNotFound)?, outdated: false }
            }
        };
        let disabled = authenticated.account.disabled;
        if disabled.at(self.clock.now()) {
            return Err(Error::AccountDisabled { until: disabled.until() });
        }
        Ok(authenticated)
    }

    async fn authenticate_by_password(
        &self,
        presented: &PresentedPassword<'_>,
        sessions: &UserSessions,
        before: Option<AuthenticatedAccount>,
    ) -> Result<AuthenticatedAccount, Error> {
        // Found by username, because an external users table may support nothing else.
        let found = self.accounts.find(presented.username).await?;
        let account = found.filter(|account| account.user_id == *presented.user_id);
        let stored = account.as_ref().map(|account| &account.password);
        let outdated = match before {
            Some(before) if Some(&before.account.password) == stored => before.outdated,
            _ => match self.passwords.check(presented, sessions, stored).await? {
                PasswordCheck::Right { outdated } => outdated,
                PasswordCheck::Wrong => return Err(Error::InvalidCredentials),
            },
        };
        Ok(AuthenticatedAccount { account: account.ok_or(Error::InvalidCredentials)?, outdated })
    }

    /// Records a login in the audit trail: `entry`, the displaced sessions, and a kick war.
    pub(super) fn audit_opened(&self, mut entry: Entry, outcome: &Result<LoggedIn, Error>, origin: &Origin) {
        if let Ok(LoggedIn { session, displaced, kick_war, .. }) = outcome {
            let opened = session.session();
            entry = entry.session(opened).ended(u32::try_from(displaced.len()).unwrap_or(u32::MAX));
            let entry_about = |action| {
                self.entry(action, outcome, origin).user(session.user_id()).named(session.username())
            };
            for victim in displaced {
                let by = format!("by session {}", opened.id);
                self.audit.record(entry_about(Action::SessionDisplaced).session(victim).detail(by));
                self.metrics.displaced.inc();
            }
            if *kick_war {
                let detail = "clients log each other out of the slot: it stays with its holder for a while";
                self.audit.record(entry_about(Action::KickWar).session(opened).detail(detail));
                self.metrics.kick_wars.inc();
            }
        }
        self.audit.record(entry);
    }
}

impl SessionRequest {
    fn open(
        &self,
        id: SessionId,
        slot: &Slot,
        policy: SlotPolicy,
        account: &Account,
        client: Option<ClientMark>,
    ) -> Open {
        Open {
            id,
            slot: slot.clone(),
            device: self.device.clone(),
            profile: account.profile(),
            policy,
            login_key: self.login_key,
            takeover: self.takeover,
            client,
        }
    }
}

fn open_error(error: OpenError, now: Timestamp) -> Error {
    match error {
        OpenError::Full(holder) => Error::SessionLimit { idle: now.since(holder.last_seen), holder },
        OpenError::KickWar(retry_after) => Error::KickWar { retry_after },
        OpenError::RepeatedTooLate(rejection) => Error::Rejected(rejection),
        OpenError::KeyOfOtherSlot(slot) => Violation::new(
            "idempotency_key",
            format!(
                "was used for a login in the slot `{}`: use another one for another login",
                slot.as_str()
            ),
        )
        .into(),
        OpenError::Repeated(_) => Error::Internal("a repeated login was handled as an error".into()),
    }
}
