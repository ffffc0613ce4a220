//! Opening a session for somebody who has proved who they are, or for whom a trusted service vouches.

use super::{
    Engine, Error, Violation,
    audit::{Action, Entry},
    origin::Origin,
    password::PasswordCheck,
    password_service::PresentedPassword,
    ports::Account,
    session_repository::{Committed, Contention},
    sessions::{ClientMark, Open, OpenError, Opened, Profile, Session, SlotPolicy, UserSessions},
    types::{Device, LoginKey, SessionId, Slot, UserId},
    username::Username,
    validate::LiveSession,
};

/// What session is wanted.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// The name of the slot; empty for the first one.
    pub slot: String,
    /// The client.
    pub device: Device,
    /// By what the login can be repeated.
    pub login_key: Option<LoginKey>,
    /// Displace where that is otherwise denied.
    pub takeover: bool,
}

/// A login that took place.
#[derive(Debug)]
pub struct LoggedIn {
    /// The token of the session.
    pub token: String,
    /// The session.
    pub session: LiveSession,
    /// The live sessions that had to go, the oldest first.
    pub displaced: Vec<Session>,
    /// With this, clients have logged each other out of the slot often enough to be held off for a while.
    pub kick_war: bool,
}

/// Who is to be let in, and on what grounds.
pub(super) enum Proof<'a> {
    /// Whoever knows the password.
    Password(PresentedPassword<'a>),
    /// Whom a trusted service has authenticated, by id or, where accounts have no other, by name.
    Vouched { user_id: &'a UserId, username: Option<&'a Username>, origin: &'a Origin },
}

/// An account whose user is let in.
struct Admitted {
    account: Account,
    /// Its hash should be renewed.
    outdated: bool,
}

impl Proof<'_> {
    fn user_id(&self) -> &UserId {
        match self {
            Self::Password(presented) => presented.user_id,
            Self::Vouched { user_id, .. } => user_id,
        }
    }

    /// From where the login comes, where that is known.
    fn client(&self) -> Option<ClientMark> {
        let (Self::Password(PresentedPassword { origin, .. }) | Self::Vouched { origin, .. }) = self;
        origin.address.map(|address| ClientMark::of(self.user_id(), address))
    }
}

impl Engine {
    /// Opens a session.
    ///
    /// The register is read before the account. So whatever changes the account meanwhile and then ends
    /// the sessions makes the commit below conflict, and the account is read again.
    pub(super) async fn open_session(
        &self,
        wanted: SessionRequest,
        proof: &Proof<'_>,
    ) -> Result<LoggedIn, Error> {
        let (slot, policy) = self.slots.resolve(&wanted.slot)?;
        let user_id = proof.user_id();
        let mut read = self.sessions.load(user_id).await?;
        let mut admitted = self.admit(proof, &read.state, None).await?;

        let id = SessionId::random();
        let mut contention = Contention::default();
        let opened = loop {
            let open = wanted.open(id, &slot, policy, &admitted.account, proof.client());
            let next = {
                let known = self.sessions.epoch().known().await?;
                read.state.open(open, self.sessions.at(&known))
            };
            let next = match next {
                Ok(next) => next,
                Err(OpenError::Repeated(session)) => {
                    break Opened { session: *session, displaced: Vec::new(), kick_war: false };
                }
                Err(refusal) => return Err(refused(refusal, self.clock.now())),
            };
            match self.sessions.commit(user_id, &read, next).await? {
                Committed::Done(opened) => break opened,
                Committed::Conflict(newer) => {
                    read = self.sessions.after_conflict(user_id, newer, &mut contention).await?
                }
            }
            admitted = self.admit(proof, &read.state, Some(admitted)).await?;
        };
        let Opened { session, displaced, kick_war } = opened;
        let Admitted { account, outdated } = admitted;
        let token = self.tokens.issue(user_id, &session, &account.roles)?;
        if let Proof::Password(who) = proof
            && outdated
        {
            // Only now, so that a login which has to read the account again finds the hash it has checked.
            self.passwords.renew(who, &account.password);
        }

        let profile = Profile { username: account.username.as_str().into(), roles: account.roles };
        let session = LiveSession::opened(user_id.clone(), profile, session);
        Ok(LoggedIn { token, session, displaced, kick_war })
    }

    /// The account, if its user is to be let in and it is not disabled. A password that was checked against
    /// the hash of `before` is not checked again while the hash is the same.
    async fn admit(
        &self,
        proof: &Proof<'_>,
        sessions: &UserSessions,
        before: Option<Admitted>,
    ) -> Result<Admitted, Error> {
        let admitted = match proof {
            Proof::Password(who) => self.admit_by_password(who, sessions, before).await?,
            Proof::Vouched { user_id, username, .. } => {
                let found = match username {
                    Some(username) => self.accounts.find(username).await?,
                    None => self.accounts.get(user_id).await?,
                };
                let account = found.filter(|account| account.user_id == **user_id);
                Admitted { account: account.ok_or(Error::AccountNotFound)?, outdated: false }
            }
        };
        let disabled = admitted.account.disabled;
        if disabled.at(self.clock.now()) {
            return Err(Error::AccountDisabled { until: disabled.until() });
        }
        Ok(admitted)
    }

    async fn admit_by_password(
        &self,
        who: &PresentedPassword<'_>,
        sessions: &UserSessions,
        before: Option<Admitted>,
    ) -> Result<Admitted, Error> {
        // By name, because a table of somebody else's may be readable in no other way.
        let found = self.accounts.find(who.username).await?;
        let account = found.filter(|account| account.user_id == *who.user_id);
        let stored = account.as_ref().map(|account| &account.password);
        let outdated = match before {
            Some(before) if Some(&before.account.password) == stored => before.outdated,
            _ => match self.passwords.check(who, sessions, stored).await? {
                PasswordCheck::Right { outdated } => outdated,
                PasswordCheck::Wrong => return Err(Error::InvalidCredentials),
            },
        };
        Ok(Admitted { account: account.ok_or(Error::InvalidCredentials)?, outdated })
    }

    /// Records a session that was opened, those that had to go for it, and the kick war, if it is one.
    /// `entry` has who it is about.
    pub(super) fn audit_opened(&self, mut entry: Entry, outcome: &Result<LoggedIn, Error>, origin: &Origin) {
        if let Ok(LoggedIn { session, displaced, kick_war, .. }) = outcome {
            let opened = session.session();
            entry = entry.session(opened).ended(u32::try_from(displaced.len()).unwrap_or(u32::MAX));
            let about = |action| {
                self.entry(action, outcome, origin).user(session.user_id()).named(session.username())
            };
            for old in displaced {
                let by = format!("by session {}", opened.id);
                self.audit.record(about(Action::SessionDisplaced).session(old).detail(by));
                self.metrics.displaced.inc();
            }
            if *kick_war {
                let detail = "clients log each other out of the slot: it stays with its holder for a while";
                self.audit.record(about(Action::KickWar).session(opened).detail(detail));
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

fn refused(refusal: OpenError, now: super::types::Timestamp) -> Error {
    match refusal {
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
        OpenError::Repeated(_) => Error::Internal("a repeated login was taken for a refusal".into()),
    }
}
