//! The audit trail: who did what, from where, and what came of it.
//!
//! An entry is made where the outcome is known, once for each. What becomes of it is the business of the
//! [`Audit`] port. Entries hold no secret; they hold text that users chose, which whoever writes it down
//! has to escape.

mod limited;

use super::{
    Engine, Error,
    origin::Origin,
    rejection::Reason,
    sessions::Session,
    types::{SessionId, Timestamp, UserId},
    username::Username,
};

pub use self::limited::LimitedAudit;

/// What was done, or tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "docs/audit.md documents each of them, once")]
pub enum Action {
    Login,
    IssueSession,
    SessionDisplaced,
    KickWar,
    Logout,
    SessionsEnded,
    StoreRollback,
    ChangePassword,
    CreateAccount,
    ImportAccount,
    UpdateAccount,
    SetPassword,
    UnlockAccount,
    DeleteAccount,
    /// From now on there are waits between the attempts on a username.
    AccountSlowed,
    /// A username is locked until an operator unlocks it.
    AccountLocked,
    CreateCaller,
    RevokeCaller,
    /// A caller that has not proved who it is, or lacks the role.
    Call,
    UseSigningKey,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 20] = [
        Self::Login,
        Self::IssueSession,
        Self::SessionDisplaced,
        Self::KickWar,
        Self::Logout,
        Self::SessionsEnded,
        Self::StoreRollback,
        Self::ChangePassword,
        Self::CreateAccount,
        Self::ImportAccount,
        Self::UpdateAccount,
        Self::SetPassword,
        Self::UnlockAccount,
        Self::DeleteAccount,
        Self::AccountSlowed,
        Self::AccountLocked,
        Self::CreateCaller,
        Self::RevokeCaller,
        Self::Call,
        Self::UseSigningKey,
    ];

    /// The name on every surface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::IssueSession => "session.issue",
            Self::SessionDisplaced => "session.displaced",
            Self::KickWar => "session.kick_war",
            Self::Logout => "logout",
            Self::SessionsEnded => "sessions.ended",
            Self::StoreRollback => "store.rollback",
            Self::ChangePassword => "password.change",
            Self::CreateAccount => "account.create",
            Self::ImportAccount => "account.import",
            Self::UpdateAccount => "account.update",
            Self::SetPassword => "password.set",
            Self::UnlockAccount => "account.unlock",
            Self::DeleteAccount => "account.delete",
            Self::AccountSlowed => "account.slowed",
            Self::AccountLocked => "account.locked",
            Self::CreateCaller => "caller.create",
            Self::RevokeCaller => "caller.revoke",
            Self::Call => "call",
            Self::UseSigningKey => "signing_key.use",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, for this reason: an `ErrorReason` or `RejectionReason` of the protocol.
    Refused(&'static str),
    /// It could not be done, for this reason; it may or may not have taken effect.
    Failed(&'static str),
}

impl Outcome {
    /// The outcome of what ended in this error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Store(_) | Error::Internal(_) | Error::Overloaded { .. } => Self::Failed(error.reason()),
            _ => Self::Refused(error.reason()),
        }
    }
}

/// One entry of the audit trail. What is `None` is not known or does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
    /// From where, and by whom.
    pub origin: Origin,
    /// Whose account.
    pub user_id: Option<UserId>,
    /// Its name.
    pub username: Option<String>,
    /// Which session: for a displacement the one that had to go.
    pub session_id: Option<SessionId>,
    /// The slot of the session.
    pub slot: Option<String>,
    /// The device of the session.
    pub device: Option<String>,
    /// How many sessions ended.
    pub ended: Option<u32>,
    /// What else there is to say, such as what was changed to what.
    pub detail: Option<String>,
}

impl Entry {
    /// An entry that says no more than this.
    pub fn new(at: Timestamp, action: Action, outcome: Outcome, origin: &Origin) -> Self {
        Self {
            at,
            action,
            outcome,
            origin: origin.clone(),
            user_id: None,
            username: None,
            session_id: None,
            slot: None,
            device: None,
            ended: None,
            detail: None,
        }
    }

    /// Of this user.
    #[must_use]
    pub fn user(mut self, user_id: &UserId) -> Self {
        self.user_id = Some(user_id.clone());
        self
    }

    /// Under this name.
    #[must_use]
    pub fn named(mut self, username: &str) -> Self {
        self.username = Some(username.to_owned());
        self
    }

    /// Of a login under this name, with what else there is to say. What nobody is called may be a password that was
    /// typed into the wrong field: of that there is only a hash.
    #[must_use]
    pub fn of_login(self, user_id: Option<&UserId>, username: &Username, more: Option<&str>) -> Self {
        let (entry, hash) = match user_id {
            Some(user_id) => (self.user(user_id).named(username.as_str()), None),
            None => (self, Some(format!("username with the hash {}", username.hash()))),
        };
        let detail: Vec<_> = hash.as_deref().into_iter().chain(more).collect();
        if detail.is_empty() { entry } else { entry.detail(detail.join(": ")) }
    }

    /// Of this session.
    #[must_use]
    pub fn session(mut self, session: &Session) -> Self {
        self.session_id = Some(session.id);
        self.slot = Some(session.slot.as_str().to_owned());
        self.device = Some(session.device.as_str().to_owned()).filter(|device| !device.is_empty());
        self
    }

    /// That ended so many sessions.
    #[must_use]
    pub const fn ended(mut self, count: u32) -> Self {
        self.ended = Some(count);
        self
    }

    /// With this to be said besides.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = Some(text.into());
        self
    }
}

/// Keeps the audit trail.
pub trait Audit: Send + Sync {
    /// Keeps an entry. Never waits: requests are not held up by their audit trail.
    fn record(&self, entry: Entry);

    /// Entries that were lost so far, because they could not be written.
    fn lost(&self) -> u64 {
        0
    }
}

impl Engine {
    /// Begins an entry about something that came to an end now.
    pub fn entry<T>(&self, action: Action, outcome: &Result<T, Error>, origin: &Origin) -> Entry {
        let outcome = outcome.as_ref().map_or_else(Outcome::of, |_| Outcome::Done);
        Entry::new(self.clock.now(), action, outcome, origin)
    }

    /// Begins an entry about something that was refused because of a token.
    pub(super) fn rejected(&self, action: Action, reason: Reason, origin: &Origin) -> Entry {
        Entry::new(self.clock.now(), action, Outcome::Refused(reason.name()), origin)
    }
}
