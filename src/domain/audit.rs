//! The audit trail: who did what, from where, and with which outcome.
//!
//! Each verb records one entry once its outcome is known, and the [`Audit`] port writes it. Entries hold no secrets.
//! They hold text that users have chosen, which the writer has to escape.

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

/// What was done or attempted.
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
    AccountsImported,
    UpdateAccount,
    SetPassword,
    UnlockAccount,
    DeleteAccount,
    /// Logins to a username have to wait between attempts from now on.
    AccountSlowed,
    /// A username is locked until an operator unlocks it.
    AccountLocked,
    CreateCaller,
    RevokeCaller,
    /// A call was refused, because its caller did not authenticate or lacks the role.
    Call,
    UseSigningKey,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 21] = [
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
        Self::AccountsImported,
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

    /// The name in the log, the audit file and the documentation.
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
            Self::AccountsImported => "accounts.imported",
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

/// The outcome of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The action was done.
    Done,
    /// The action was refused, for this `ErrorReason` or `RejectionReason` of the protocol.
    Refused(&'static str),
    /// The action failed, for this reason. It may or may not have taken effect.
    Failed(&'static str),
}

impl Outcome {
    /// The outcome of an action that returned this error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Store(_) | Error::Internal(_) | Error::Overloaded { .. } => Self::Failed(error.reason()),
            _ => Self::Refused(error.reason()),
        }
    }
}

/// An entry of the audit trail. `None` means unknown or not applicable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The time.
    pub at: Timestamp,
    /// The action.
    pub action: Action,
    /// The outcome.
    pub outcome: Outcome,
    /// The client, the caller and the request id.
    pub origin: Origin,
    /// The user.
    pub user_id: Option<UserId>,
    /// The username.
    pub username: Option<String>,
    /// The session; for a displacement the displaced one.
    pub session_id: Option<SessionId>,
    /// The slot of the session.
    pub slot: Option<String>,
    /// The device of the session.
    pub device: Option<String>,
    /// How many sessions ended.
    pub ended: Option<u32>,
    /// Further details, such as the new roles.
    pub detail: Option<String>,
}

impl Entry {
    /// Creates an entry without further fields.
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

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user_id: &UserId) -> Self {
        self.user_id = Some(user_id.clone());
        self
    }

    /// Sets the username.
    #[must_use]
    pub fn named(mut self, username: &str) -> Self {
        self.username = Some(username.to_owned());
        self
    }

    /// Sets the user and the username of a login. An unknown username may be a password that was typed into the wrong
    /// field, so only its hash is recorded.
    #[must_use]
    pub fn of_login(self, user_id: Option<&UserId>, username: &Username, detail: Option<&str>) -> Self {
        let (entry, hash) = match user_id {
            Some(user_id) => (self.user(user_id).named(username.as_str()), None),
            None => (self, Some(format!("username with the hash {}", username.hash()))),
        };
        let detail: Vec<_> = hash.as_deref().into_iter().chain(detail).collect();
        if detail.is_empty() { entry } else { entry.detail(detail.join(": ")) }
    }

    /// Sets the session, its slot and its device.
    #[must_use]
    pub fn session(mut self, session: &Session) -> Self {
        self.session_id = Some(session.id);
        self.slot = Some(session.slot.as_str().to_owned());
        self.device = Some(session.device.as_str().to_owned()).filter(|device| !device.is_empty());
        self
    }

    /// Sets how many sessions ended.
    #[must_use]
    pub const fn ended(mut self, count: u32) -> Self {
        self.ended = Some(count);
        self
    }

    /// Sets further details.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = Some(text.into());
        self
    }
}

/// A writer of the audit trail.
pub trait Audit: Send + Sync {
    /// Writes an entry. Never waits, so that requests are not delayed.
    fn record(&self, entry: Entry);

    /// The number of entries that were lost because they could not be written.
    fn lost(&self) -> u64 {
        0
    }
}

impl Engine {
    /// Creates an entry about an action that has just ended.
    pub fn entry<T>(&self, action: Action, outcome: &Result<T, Error>, origin: &Origin) -> Entry {
        let outcome = outcome.as_ref().map_or_else(Outcome::of, |_| Outcome::Done);
        Entry::new(self.clock.now(), action, outcome, origin)
    }

    /// Creates an entry about an action whose token was rejected.
    pub(super) fn rejected(&self, action: Action, reason: Reason, origin: &Origin) -> Entry {
        Entry::new(self.clock.now(), action, Outcome::Refused(reason.name()), origin)
    }
}
