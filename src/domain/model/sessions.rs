//! The sessions of one user, as a pure state machine.
//!
//! All that is known of a user's sessions is one value, [`UserSessions`]. A transition takes the value,
//! a command and the time, and gives the next value and the sessions that ended: [`Next`]. A verdict
//! takes the value, a token's claims and the time. Nothing here waits, reads a clock or knows a store,
//! so that every race is decided by the compare-and-set around it (`transact`).

mod client;
mod epoch;
mod fence;
mod fit;
mod idle;
mod open;
mod policy;

use std::time::Duration;

use smol_str::SmolStr;

use crate::domain::{
    ports::State,
    rejection::{Reason, Rejection, Why},
    types::{Claims, Device, Generation, LoginKey, Notice, Role, SessionId, Slot, Timestamp, UserId},
};

pub use self::{
    client::ClientMark,
    epoch::Epoch,
    fence::Fence,
    open::{NotOpened, Open, Opened, REPEATABLE},
    policy::{KickWar, OnLimit, SlotPolicy, Victim},
};

/// How many ended sessions a state remembers one by one. A slot that changes hands more often than
/// this within the retention still answers by generation.
pub const MAX_TOMBSTONES: usize = 16;

/// Kept beyond the last deadline, for replicas whose clocks differ and logins that are under way.
const KEEP_MARGIN: Duration = Duration::from_mins(10);

/// The circumstances of a verdict or a transition.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The time.
    pub now: Timestamp,
    /// How long the reason of an ended session is remembered, at most.
    pub tombstone_ttl: Duration,
    /// How far in the future a session may have begun, for clocks that differ.
    pub leeway: Duration,
    /// The epoch: sessions of an earlier one are dead.
    pub epoch: &'a Epoch,
}

/// What is known of one user's sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserSessions {
    /// The highest generation that this user was ever given, as far as is remembered.
    pub generation: Generation,
    /// What verdicts say of the user.
    pub profile: Profile,
    /// Sessions that were not ended. Those past a deadline are dead all the same, and are moved out by
    /// the next transition.
    pub sessions: Vec<Session>,
    /// Sessions that were ended, the latest last; at most [`MAX_TOMBSTONES`].
    pub tombstones: Vec<Tombstone>,
    /// Everything up to a generation is dead, whether we remember it or not.
    pub fence: Option<Box<Fence>>,
}

impl State for UserSessions {
    type Key = UserId;
    type Event = SessionEvent;
}

/// What verdicts say of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// As the account has it.
    pub username: SmolStr,
    /// As the account has them.
    pub roles: Vec<Role>,
}

/// One login of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Names it.
    pub id: SessionId,
    /// Orders it among the logins of the user.
    pub generation: Generation,
    /// The place it holds.
    pub slot: Slot,
    /// What the client calls itself.
    pub device: Device,
    /// When it was opened.
    pub issued_at: Timestamp,
    /// The absolute deadline.
    pub expires_at: Timestamp,
    /// The latest recorded use.
    pub last_seen: Timestamp,
    /// The idle timeout it was opened with.
    pub idle_timeout: Duration,
    /// The number of the epoch it was opened in.
    pub epoch: u64,
    /// Opening it ended the sessions in all other slots.
    pub exclusive: bool,
    /// By what the login can be repeated.
    pub login_key: Option<LoginKey>,
    /// From where it was opened, where that is known.
    pub client: Option<ClientMark>,
}

/// A session that was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Which session.
    pub id: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Its slot.
    pub slot: Slot,
    /// Why it ended.
    pub reason: Reason,
    /// When.
    pub at: Timestamp,
    /// Because of whom, where a login did it.
    pub by_device: Device,
    /// What to tell the user instead of a sentence of ours.
    pub notice: Option<Notice>,
    /// Remembered until then.
    pub until: Timestamp,
    /// Of the session.
    pub exclusive: bool,
    /// Of the session.
    pub login_key: Option<LoginKey>,
    /// Of the session.
    pub client: Option<ClientMark>,
    /// From where the login came that ended it.
    pub by_client: Option<ClientMark>,
}

/// What the event log tells of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// A session has ended.
    Ended(Ended),
    /// The name or the roles have changed.
    Changed,
}

/// A session that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which session.
    pub session_id: SessionId,
    /// Its slot.
    pub slot: Slot,
    /// Why, when and because of whom.
    pub rejection: Rejection,
    /// The token's own `exp`: nobody needs to remember this for longer.
    pub expires_at: Timestamp,
}

/// What a transition leads to.
#[derive(Debug, Clone)]
pub struct Next<T> {
    /// The next value of the register.
    pub state: UserSessions,
    /// What ended on the way.
    pub events: Vec<Ended>,
    /// What the one who asked wants to know.
    pub outcome: T,
}

impl Session {
    /// The session does not lapse before this moment: nothing but its idle timeout after its latest
    /// recorded use, within its absolute deadline.
    pub fn idle_expires_at(&self) -> Timestamp {
        self.last_seen.after(self.idle_timeout).min(self.expires_at)
    }

    /// How old the recorded use may get before a new one is recorded: a twentieth of the idle timeout,
    /// one minute at the most.
    pub fn touch_interval(&self) -> Duration {
        (self.idle_timeout / 20).min(Duration::from_mins(1))
    }

    /// Whether a use at this moment is to be recorded.
    pub fn use_is_due(&self, used: Timestamp) -> bool {
        used.since(self.last_seen) >= self.touch_interval()
    }

    /// The session lapses at this moment, unless it is used before.
    ///
    /// A use within the touch interval of the recorded one goes unrecorded, so the idle deadline lies
    /// one interval behind the record: never early, at most one interval late.
    pub fn lapses_at(&self) -> Timestamp {
        self.idle_deadline().min(self.expires_at)
    }

    fn idle_deadline(&self) -> Timestamp {
        self.last_seen.after(self.idle_timeout).after(self.touch_interval())
    }

    /// Why the session is dead although nothing in its own state has ended it.
    fn lapse(&self, at: At<'_>) -> Option<Rejection> {
        if at.now >= self.expires_at {
            return Some(Rejection::at(Reason::Expired, self.expires_at));
        }
        let idle = self.idle_deadline();
        let over = self.epoch < at.epoch.number;
        if at.now >= idle && (!over || idle <= at.epoch.since) {
            return Some(Rejection::at(Reason::IdleTimeout, idle));
        }
        over.then(|| at.epoch.rejection())
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
    fn standing(&self, claims: &Claims, at: At<'_>) -> Result<&Session, Rejection> {
        // Last: a session that has ended is dead, whatever the clock of the machine that opened it said.
        let early = || {
            let begins = claims.not_before;
            (begins > at.now.after(at.leeway)).then(|| Rejection::at(Reason::NotYetValid, begins))
        };
        if let Some(session) = self.sessions.iter().find(|session| session.id == claims.session_id) {
            return session.lapse(at).or_else(early).map_or(Ok(session), Err);
        }
        if let Some(grave) = self.tombstones.iter().find(|grave| grave.id == claims.session_id) {
            return Err(grave.rejection());
        }
        if let Some(fence) = self.fence.as_ref().filter(|fence| fence.covers(claims.generation)) {
            return Err(fence.rejection());
        }
        let unknown = || early().unwrap_or(Rejection::bare(Reason::UnknownSession));
        Err(self.successor(claims).unwrap_or_else(unknown))
    }

    /// The live sessions, in the order of their logins.
    pub fn live(&self, at: At<'_>) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(move |session| session.lapse(at).is_none())
    }

    /// No tombstone tells how the session ended, but a later one of the same slot does: logins take the
    /// slot in the order of their generations.
    fn successor(&self, claims: &Claims) -> Option<Rejection> {
        let takes = |slot: &Slot, exclusive| exclusive || *slot == claims.slot;
        let live = self
            .sessions
            .iter()
            .filter(|session| takes(&session.slot, session.exclusive))
            .map(|session| (session.generation, session.issued_at, Some(&session.device)));
        let dead = self
            .tombstones
            .iter()
            .filter(|grave| takes(&grave.slot, grave.exclusive))
            .map(|grave| (grave.generation, Timestamp::from_micros(grave.generation.0), None));
        live.chain(dead)
            // A generation that we never gave out: the store was rolled back.
            .filter(|(generation, ..)| claims.generation < *generation && !self.has_lost(claims))
            .min_by_key(|(generation, ..)| *generation)
            .map(|(_, at, device)| Rejection {
                by_device: device.cloned().filter(|device| !device.as_str().is_empty()),
                ..Rejection::at(Reason::Replaced, at)
            })
    }

    /// Ends the live sessions that `which` picks. The outcome is how many those were.
    pub fn close(&self, which: impl Fn(&Session) -> bool, why: impl Into<Why>, at: At<'_>) -> Next<u32> {
        let (mut state, mut events) = self.settle(at);
        let ended = state.end(which, &why.into().at(at.now), at, &mut events);
        Next { state, events, outcome: count(&ended) }
    }

    /// Name and roles have changed.
    pub fn rename(&self, profile: Profile, at: At<'_>) -> Next<()> {
        let (mut state, events) = self.settle(at);
        // As in a fence: a login under way must read the account again.
        state.generation = state.generation.next(at.now);
        state.profile = profile;
        Next { state, events, outcome: () }
    }

    /// From when on nothing of this matters any more.
    pub fn keep_until(&self, now: Timestamp) -> Timestamp {
        let sessions = self.sessions.iter().map(|session| session.expires_at);
        let tombstones = self.tombstones.iter().map(|grave| grave.until);
        let fence = self.fence.iter().map(|fence| fence.until);
        sessions.chain(tombstones).chain(fence).fold(now, Timestamp::max).after(KEEP_MARGIN)
    }

    /// Moves what time has ended out of the way.
    fn settle(&self, at: At<'_>) -> (Self, Vec<Ended>) {
        let mut state = self.clone();
        let mut events = Vec::new();
        state.tombstones.retain(|grave| at.now < grave.until);
        state.fence = state.fence.take().filter(|fence| at.now < fence.until);
        for session in &self.sessions {
            if let Some(rejection) = session.lapse(at) {
                state.end(|other| other.id == session.id, &rejection, at, &mut events);
            }
        }
        (state, events)
    }

    fn end(
        &mut self,
        which: impl Fn(&Session) -> bool,
        rejection: &Rejection,
        at: At<'_>,
        events: &mut Vec<Ended>,
    ) -> Vec<Session> {
        let ended: Vec<_> = self.sessions.extract_if(.., |session| which(session)).collect();
        for session in &ended {
            self.tombstones.push(Tombstone {
                id: session.id,
                generation: session.generation,
                slot: session.slot.clone(),
                reason: rejection.reason,
                at: rejection.at.unwrap_or(at.now),
                by_device: rejection.by_device.clone().unwrap_or_default(),
                notice: rejection.notice.clone(),
                until: at.now.after(at.tombstone_ttl).min(session.expires_at),
                exclusive: session.exclusive,
                login_key: session.login_key.filter(|_| session.is_repeatable(at.now)),
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
        // A token past its `exp` says so itself.
        self.tombstones.retain(|grave| at.now < grave.until);
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
