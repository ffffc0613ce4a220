//! The sessions of one user, as a pure state machine.
//!
//! All session state of a user is one value, [`UserSessions`], in one register. A transition is a pure function from
//! this value, a command and the time to a [`Transition`]: the next value, the sessions that ended, and an outcome. A
//! verdict is a function of the value, the claims of a token and the time (see `verdict`). Nothing here waits, reads a
//! clock or knows a store; the compare-and-set around a transition decides every race.
//!
//! Generations order the logins of a user: each is greater than all before it, whatever the clocks say.
//!
//! A tombstone remembers how one session ended. It is kept for `tombstone_ttl`, but never beyond the `exp` of the
//! token, and at most [`MAX_TOMBSTONES`] are kept. A later session of the same slot still proves that a session without
//! a tombstone was replaced. See ADR 0002.

mod client;
mod epoch;
mod fence;
mod idle;
mod one_or_many;
mod open;
mod policy;
mod verdict;

use std::time::Duration;

use smol_str::SmolStr;
use thin_vec::ThinVec;

use crate::domain::{
    ports::State,
    rejection::{EndCause, Reason, Rejection},
    types::{Device, Generation, LoginKey, Notice, Role, SessionId, Slot, Timeout, Timestamp, UserId},
};

pub use self::{
    client::ClientMark,
    epoch::Epoch,
    fence::Fence,
    one_or_many::OneOrMany,
    open::{IDEMPOTENCY_WINDOW, Open, OpenError, Opened},
    policy::{KickWar, OnLimit, SlotPolicy, Victim},
};

/// How many tombstones are kept. For sessions without one, the verdict follows from their generation.
pub const MAX_TOMBSTONES: usize = 16;

/// How much longer than its last deadline a register is kept, for clocks that differ and logins in progress.
const KEEP_MARGIN: Duration = Duration::from_mins(10);

/// The time and the settings by which a verdict or a transition is decided.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The current time.
    /// The time.
    pub now: Timestamp,
    /// How long a tombstone is kept at most.
    pub tombstone_ttl: Duration,
    /// How far in the future a session may have begun, for clocks that differ.
    pub leeway: Duration,
    /// The current epoch. Sessions of earlier epochs are dead.
    pub epoch: &'a Epoch,
}

/// The session state of one user.
///
/// The near-cache holds as many of these as fit, so the common case is small: one session, which is stored in place, and
/// no role, tombstone or fence, each of which takes one pointer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserSessions {
    /// The highest generation of this user that is remembered.
    pub generation: Generation,
    /// What verdicts report of the user.
    pub profile: Profile,
    /// Sessions whose end is not recorded. Those that have lapsed are dead nevertheless; the next transition moves them
    /// to the tombstones.
    pub sessions: OneOrMany<Session>,
    /// Sessions whose end is recorded, the latest last; at most [`MAX_TOMBSTONES`].
    pub tombstones: ThinVec<Tombstone>,
    /// Declares every session up to a generation dead, remembered or not.
    pub fence: Option<Box<Fence>>,
}

impl State for UserSessions {
    type Key = UserId;
    type Event = SessionEvent;
}

/// What verdicts report of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// The username of the account.
    pub username: SmolStr,
    /// The roles of the account.
    pub roles: ThinVec<Role>,
}

/// A session, which one login of a user has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The id of the session.
    pub id: SessionId,
    /// The order of the session among the logins of the user.
    pub generation: Generation,
    /// The slot that the session occupies.
    pub slot: Slot,
    /// The device as the client names it.
    pub device: Device,
    /// When the session was opened.
    pub issued_at: Timestamp,
    /// The absolute deadline.
    pub expires_at: Timestamp,
    /// The latest recorded use.
    pub last_seen: Timestamp,
    /// The idle timeout of the slot when the session was opened.
    pub idle_timeout: Timeout,
    /// The number of the epoch in which the session was opened.
    pub epoch: u64,
    /// Whether opening the session ended the sessions in all other slots.
    pub exclusive: bool,
    /// The idempotency key of the login.
    pub login_key: Option<LoginKey>,
    /// The network of the client, if it is known.
    pub client: Option<ClientMark>,
}

/// Remembers how one session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The id of the session.
    pub id: SessionId,
    /// The generation of the session.
    pub generation: Generation,
    /// The slot of the session.
    pub slot: Slot,
    /// Why the session ended.
    pub reason: Reason,
    /// When the session ended.
    pub at: Timestamp,
    /// The device of the login that ended the session; empty if there was none.
    pub by_device: Device,
    /// The operator's text for the user, shown instead of the default message.
    pub notice: Option<Notice>,
    /// When the tombstone is removed.
    pub until: Timestamp,
    /// The `exclusive` of the session.
    pub exclusive: bool,
    /// The idempotency key of the session, as long as the login can be repeated.
    pub login_key: Option<LoginKey>,
    /// The network of the client of the session.
    pub client: Option<ClientMark>,
    /// The network of the client whose login ended the session.
    pub by_client: Option<ClientMark>,
}

/// An event of one user in the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// A session has ended.
    Ended(Ended),
    /// The username or the roles have changed.
    Changed,
}

/// A session that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The id of the session.
    pub session_id: SessionId,
    /// The slot of the session.
    pub slot: Slot,
    /// Why, when and because of which device the session ended.
    pub rejection: Rejection,
    /// The `exp` of the token. The event is irrelevant afterwards.
    pub expires_at: Timestamp,
}

/// The result of a transition.
#[derive(Debug, Clone)]
pub struct Transition<T> {
    /// The next value of the register.
    pub state: UserSessions,
    /// The sessions that ended.
    pub events: Vec<Ended>,
    /// The result for the caller.
    pub outcome: T,
}

impl Session {
    /// The earliest moment at which the session can lapse: one idle timeout after its latest recorded use, and not
    /// after its absolute deadline.
    pub fn idle_expires_at(&self) -> Timestamp {
        self.last_seen.after(self.idle_timeout.duration()).min(self.expires_at)
    }

    /// How old the latest recorded use must be before another is recorded: a twentieth of the idle timeout, one minute
    /// at most.
    pub fn touch_interval(&self) -> Duration {
        (self.idle_timeout.duration() / 20).min(Duration::from_mins(1))
    }

    /// Whether a use at this moment must be recorded.
    pub fn is_touch_due(&self, used_at: Timestamp) -> bool {
        used_at.since(self.last_seen) >= self.touch_interval()
    }

    /// The moment at which the session lapses unless it is used before.
    ///
    /// A use within the touch interval after the recorded one is not recorded. The idle deadline is therefore one
    /// interval later than the record says: a session never times out early, and at most one interval late.
    pub fn lapses_at(&self) -> Timestamp {
        self.idle_deadline().min(self.expires_at)
    }

    fn idle_deadline(&self) -> Timestamp {
        self.last_seen.after(self.idle_timeout.duration()).after(self.touch_interval())
    }

    /// Returns the rejection if a timeout or an epoch has ended the session without a record of it.
    fn lapse_rejection(&self, ctx: Context<'_>) -> Option<Rejection> {
        if ctx.now >= self.expires_at {
            return Some(Rejection::at(Reason::Expired, self.expires_at));
        }
        let idle = self.idle_deadline();
        let of_earlier_epoch = self.epoch < ctx.epoch.number;
        if ctx.now >= idle && (!of_earlier_epoch || idle <= ctx.epoch.since) {
            return Some(Rejection::at(Reason::IdleTimeout, idle));
        }
        of_earlier_epoch.then(|| ctx.epoch.rejection())
    }
}

impl Tombstone {
    fn rejection(&self) -> Rejection {
        Rejection {
            reason: self.reason,
            at: Some(self.at),
            by_device: Some(self.by_device.clone()).filter(|device| !device.as_str().is_empty()),
            notice: self.notice.clone(),
        }
    }
}

impl UserSessions {
    /// The live sessions, in the order of their logins.
    pub fn live_sessions(&self, ctx: Context<'_>) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(move |session| session.lapse_rejection(ctx).is_none())
    }

    /// Ends the live sessions that `which` selects. The outcome is their number.
    pub fn close(
        &self,
        which: impl Fn(&Session) -> bool,
        cause: impl Into<EndCause>,
        ctx: Context<'_>,
    ) -> Transition<u32> {
        let (mut state, mut events) = self.record_lapses(ctx);
        let ended = state.move_to_tombstones(which, &cause.into().at(ctx.now), ctx, &mut events);
        Transition { state, events, outcome: count(&ended) }
    }

    /// Replaces the username and the roles.
    pub fn update_profile(&self, profile: Profile, ctx: Context<'_>) -> Transition<()> {
        let (mut state, events) = self.record_lapses(ctx);
        // As with a fence, a concurrent login must conflict and read the account again.
        state.generation = state.generation.next(ctx.now);
        state.profile = profile;
        Transition { state, events, outcome: () }
    }

    /// When the register can be forgotten.
    pub fn keep_until(&self, now: Timestamp) -> Timestamp {
        let sessions = self.sessions.iter().map(|session| session.expires_at);
        let tombstones = self.tombstones.iter().map(|tombstone| tombstone.until);
        let fence = self.fence.iter().map(|fence| fence.until);
        sessions.chain(tombstones).chain(fence).fold(now, Timestamp::max).after(KEEP_MARGIN)
    }

    /// Removes what has expired, and moves lapsed sessions to the tombstones.
    fn record_lapses(&self, ctx: Context<'_>) -> (Self, Vec<Ended>) {
        let mut state = self.clone();
        let mut events = Vec::new();
        state.tombstones.retain(|tombstone| ctx.now < tombstone.until);
        state.fence = state.fence.take().filter(|fence| ctx.now < fence.until);
        for session in self.sessions.iter() {
            if let Some(rejection) = session.lapse_rejection(ctx) {
                state.move_to_tombstones(|other| other.id == session.id, &rejection, ctx, &mut events);
            }
        }
        (state, events)
    }

    /// Moves the selected sessions to the tombstones and returns them.
    fn move_to_tombstones(
        &mut self,
        which: impl Fn(&Session) -> bool,
        rejection: &Rejection,
        ctx: Context<'_>,
        events: &mut Vec<Ended>,
    ) -> Vec<Session> {
        let (ended, live): (Vec<_>, Vec<_>) = self.sessions.iter().cloned().partition(which);
        self.sessions = live.into();
        for session in &ended {
            self.tombstones.push(Tombstone {
                id: session.id,
                generation: session.generation,
                slot: session.slot.clone(),
                reason: rejection.reason,
                at: rejection.at.unwrap_or(ctx.now),
                by_device: rejection.by_device.clone().unwrap_or_default(),
                notice: rejection.notice.clone(),
                until: ctx.now.after(ctx.tombstone_ttl).min(session.expires_at),
                exclusive: session.exclusive,
                login_key: session.login_key.filter(|_| session.is_repeatable(ctx.now)),
                client: session.client,
                by_client: None,
            });
            events.push(Ended {
                session_id: session.id,
                slot: session.slot.clone(),
                rejection: rejection.clone(),
                expires_at: session.expires_at,
            });
        }
        // A token past its `exp` needs no tombstone.
        self.tombstones.retain(|tombstone| ctx.now < tombstone.until);
        let surplus = self.tombstones.len().saturating_sub(MAX_TOMBSTONES);
        self.tombstones.drain(..surplus);
        ended
    }
}

fn count(sessions: &[Session]) -> u32 {
    u32::try_from(sessions.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
