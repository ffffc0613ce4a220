//! The sessions of one user, as a pure state machine.
//!
//! All that is known of a user's sessions is one value, [`UserSessions`]. A transition takes the value,
//! a command and the time, and gives the next value and the sessions that ended: [`Next`]. A verdict
//! takes the value, a token's claims and the time. Nothing here waits, reads a clock or knows a store,
//! so that every race is decided by the compare-and-set around it (`transact`).

use std::{num::NonZeroU32, time::Duration};

use super::{
    ports::State,
    rejection::{Reason, Rejection},
    types::{Claims, Device, Generation, Role, SessionId, Slot, Timestamp, UserId},
};

/// How many ended sessions a state remembers one by one. A slot that changes hands more often than
/// this within the retention still answers by generation.
pub const MAX_TOMBSTONES: usize = 16;

/// Kept beyond the last deadline, for replicas whose clocks differ and logins that are under way.
const KEEP_MARGIN: Duration = Duration::from_mins(10);

/// The rules of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPolicy {
    /// A session not used for this long ends.
    pub idle_timeout: Duration,
    /// A session this old ends.
    pub absolute_timeout: Duration,
    /// How many sessions the slot holds; the oldest go.
    pub limit: NonZeroU32,
}

/// The circumstances of a transition.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The time.
    pub now: Timestamp,
    /// How long the reason of an ended session is remembered, at most.
    pub tombstone_ttl: Duration,
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
    pub fence: Option<Fence>,
}

impl State for UserSessions {
    type Key = UserId;
    type Event = Ended;
}

/// What verdicts say of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// As the account has it.
    pub username: String,
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
    /// Remembered until then.
    pub until: Timestamp,
}

/// "Everything up to this generation is dead."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Up to and with this one.
    pub generation: Generation,
    /// Because of this.
    pub reason: Reason,
    /// Since then.
    pub at: Timestamp,
    /// Remembered until then; no token from before the fence is valid for longer.
    pub until: Timestamp,
}

/// A session that ended: what the event log tells.
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

/// The command to open a session.
#[derive(Debug, Clone)]
pub struct Open {
    /// Of the new session.
    pub id: SessionId,
    /// The place it takes.
    pub slot: Slot,
    /// Its client.
    pub device: Device,
    /// Of the user, now.
    pub profile: Profile,
    /// Of the slot.
    pub policy: SlotPolicy,
}

/// What came of opening a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The new session.
    pub session: Session,
    /// The live sessions that had to go.
    pub displaced: Vec<Session>,
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

    /// Why the session is dead at `now` although nobody ended it.
    ///
    /// A use within the touch interval of the recorded one goes unrecorded, so the idle deadline lies
    /// one interval behind the record: never early, at most one interval late.
    fn lapse(&self, now: Timestamp) -> Option<Rejection> {
        if now >= self.expires_at {
            return Some(Rejection::at(Reason::Expired, self.expires_at));
        }
        let idle = self.last_seen.after(self.idle_timeout).after(self.touch_interval());
        (now >= idle).then(|| Rejection::at(Reason::IdleTimeout, idle))
    }
}

impl UserSessions {
    /// Whether a token with these claims is good: its session, or why not.
    pub fn verdict(&self, claims: &Claims, now: Timestamp) -> Result<&Session, Rejection> {
        if let Some(session) = self.sessions.iter().find(|session| session.id == claims.session_id) {
            return session.lapse(now).map_or(Ok(session), Err);
        }
        if let Some(grave) = self.tombstones.iter().find(|grave| grave.id == claims.session_id) {
            let by_device = Some(grave.by_device.clone()).filter(|device| !device.as_str().is_empty());
            return Err(Rejection { reason: grave.reason, at: Some(grave.at), by_device });
        }
        if let Some(fence) = self.fence.filter(|fence| claims.generation <= fence.generation) {
            return Err(Rejection::at(fence.reason, fence.at));
        }
        Err(self.successor(claims).unwrap_or(Rejection::bare(Reason::UnknownSession)))
    }

    /// No tombstone tells how the session ended, but a later one of the same slot does: logins take the
    /// slot in the order of their generations.
    fn successor(&self, claims: &Claims) -> Option<Rejection> {
        let live = self
            .sessions
            .iter()
            .map(|session| (session.generation, &session.slot, session.issued_at, Some(&session.device)));
        let dead = self
            .tombstones
            .iter()
            .map(|grave| (grave.generation, &grave.slot, Timestamp::from_micros(grave.generation.0), None));
        live.chain(dead)
            .filter(|(generation, slot, ..)| {
                **slot == claims.slot
                    && claims.generation < *generation
                    // A generation that we never gave out: the store was rolled back.
                    && claims.generation <= self.generation
            })
            .min_by_key(|(generation, ..)| *generation)
            .map(|(_, _, at, device)| Rejection {
                reason: Reason::Replaced,
                at: Some(at),
                by_device: device.cloned().filter(|device| !device.as_str().is_empty()),
            })
    }

    /// A login: the new session takes its slot.
    pub fn open(&self, open: Open, at: At) -> Next<Opened> {
        let (mut state, mut events) = self.settle(at);
        let Open { id, slot, device, profile, policy } = open;
        let limit = policy.limit.get() as usize;
        let reason = if limit == 1 { Reason::Replaced } else { Reason::Evicted };

        let mut displaced = Vec::new();
        loop {
            let holders = || state.sessions.iter().filter(|session| session.slot == slot);
            if holders().count() < limit {
                break;
            }
            let Some(oldest) = holders().min_by_key(|session| session.generation).map(|s| s.id) else {
                break;
            };
            let by_device = Some(device.clone()).filter(|device| !device.as_str().is_empty());
            let rejection = Rejection { reason, at: Some(at.now), by_device };
            displaced.extend(state.end(|session| session.id == oldest, &rejection, at, &mut events));
        }

        state.generation = state.generation.next(at.now);
        state.profile = profile;
        let session = Session {
            id,
            generation: state.generation,
            slot,
            device,
            issued_at: at.now,
            // Whole seconds, because the token can say nothing finer.
            expires_at: at.now.after(policy.absolute_timeout).ceil_to_second(),
            last_seen: at.now,
            idle_timeout: policy.idle_timeout,
        };
        state.sessions.push(session.clone());
        Next { state, events, outcome: Opened { session, displaced } }
    }

    /// A use of a session, where it is due to be recorded; `None` where there is nothing to record.
    pub fn touch(&self, id: SessionId, now: Timestamp) -> Option<Next<()>> {
        let index = self.sessions.iter().position(|session| session.id == id)?;
        let session = &self.sessions[index];
        let due = now.since(session.last_seen) >= session.touch_interval();
        if !due || session.lapse(now).is_some() {
            return None;
        }
        let mut state = self.clone();
        state.sessions[index].last_seen = now;
        Some(Next { state, events: Vec::new(), outcome: () })
    }

    /// Ends the live sessions that `which` picks. The outcome is how many those were.
    pub fn close(&self, which: impl Fn(&Session) -> bool, reason: Reason, at: At) -> Next<u32> {
        let (mut state, mut events) = self.settle(at);
        let ended = state.end(which, &Rejection::at(reason, at.now), at, &mut events);
        Next { state, events, outcome: count(&ended) }
    }

    /// Ends everything that this user has had until now, remembered or not, and every login that is
    /// under way. `longest` is the longest that any token lives.
    pub fn fence(&self, reason: Reason, longest: Duration, at: At) -> Next<u32> {
        self.fence_but(None, reason, longest, at)
    }

    /// As [`Self::fence`], but for one live session.
    pub fn fence_but(&self, kept: Option<SessionId>, reason: Reason, longest: Duration, at: At) -> Next<u32> {
        let mut next = self.close(|session| Some(session.id) != kept, reason, at);
        // One past the last generation, so that a fence always changes the state and every login that
        // read the register before it conflicts.
        let generation = next.state.generation.next(at.now);
        next.state.generation = generation;
        next.state.fence =
            Some(Fence { generation, reason, at: at.now, until: at.now.after(longest).ceil_to_second() });
        next
    }

    /// Name and roles have changed.
    pub fn rename(&self, profile: Profile, at: At) -> Next<()> {
        let (mut state, events) = self.settle(at);
        // As in `fence`: a login under way must read the account again.
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
    fn settle(&self, at: At) -> (Self, Vec<Ended>) {
        let mut state = self.clone();
        let mut events = Vec::new();
        state.tombstones.retain(|grave| at.now < grave.until);
        state.fence = state.fence.filter(|fence| at.now < fence.until);
        for session in &self.sessions {
            if let Some(rejection) = session.lapse(at.now) {
                state.end(|other| other.id == session.id, &rejection, at, &mut events);
            }
        }
        (state, events)
    }

    fn end(
        &mut self,
        which: impl Fn(&Session) -> bool,
        rejection: &Rejection,
        at: At,
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
                until: at.now.after(at.tombstone_ttl).min(session.expires_at),
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
