//! Opening a session: limits, displacement, kick wars, and logins that are repeated.

use std::time::Duration;

use super::{
    At, ClientMark, KickWar, Next, OnLimit, Profile, Session, SlotPolicy, UserSessions, Victim,
    client::Client,
};
use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Device, LoginKey, SessionId, Slot, Timestamp},
};

/// How long a login can be repeated by its key.
pub const REPEATABLE: Duration = Duration::from_mins(1);

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
    /// By what the login can be repeated.
    pub login_key: Option<LoginKey>,
    /// Displace where that is otherwise denied.
    pub takeover: bool,
    /// From where it comes, where that is known.
    pub client: Option<ClientMark>,
}

/// What came of opening a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The new session.
    pub session: Session,
    /// The live sessions that had to go, the oldest first.
    pub displaced: Vec<Session>,
    /// With this, clients have logged each other out of the slot often enough to be held off for a while.
    pub kick_war: bool,
}

/// Why no session was opened. The state stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// The same login was answered before with this session, which lives.
    Repeated(Box<Session>),
    /// The same login was answered before, and what it opened has ended. Opening another one would
    /// displace whoever came after.
    RepeatedTooLate(Rejection),
    /// The key was used for a login in this other slot.
    KeyOfOtherSlot(Slot),
    /// The slot is full: this session would have to go.
    Full(Box<Session>),
    /// This client and others have logged each other out too often, and do so again only after this long.
    KickWar(Duration),
}

impl Session {
    /// Whether the login that opened it can be repeated.
    pub(super) fn is_repeatable(&self, now: Timestamp) -> bool {
        now.since(self.issued_at) < REPEATABLE
    }
}

impl UserSessions {
    /// A login: the new session takes its slot.
    pub fn open(&self, open: Open, at: At<'_>) -> Result<Next<Opened>, NotOpened> {
        let (mut state, mut events) = self.settle(at);
        let Open { id, slot, device, profile, policy, login_key, takeover, client } = open;
        if let Some(key) = login_key {
            state.look_for_repetition(key, &slot, at)?;
        }
        let in_the_way = state.in_the_way(&slot, policy);
        if let Some(first) = in_the_way.first() {
            if policy.on_limit == OnLimit::Deny && !takeover {
                return Err(NotOpened::Full(Box::new(first.clone())));
            }
            let war = state.war(&slot, policy).filter(|war| at.now < war.until);
            if let Some(war) = war.filter(|war| war.clients.contains(&(client, &device))) {
                return Err(NotOpened::KickWar(war.until.since(at.now)));
            }
        }

        let mut displaced = Vec::new();
        for gone in in_the_way {
            // By the limit of its slot, or because the login wants to be the only one.
            let evicted = gone.slot == slot && policy.limit.get() > 1;
            let reason = if evicted { Reason::Evicted } else { Reason::Replaced };
            let by_device = Some(device.clone()).filter(|device| !device.as_str().is_empty());
            let rejection = Rejection { by_device, ..Rejection::at(reason, at.now) };
            displaced.extend(state.end(|session| session.id == gone.id, &rejection, at, &mut events));
            if let Some(grave) = state.tombstones.last_mut().filter(|grave| grave.id == gone.id) {
                grave.by_client = client;
            }
        }
        let kick_war = !displaced.is_empty() && state.war(&slot, policy).is_some();
        displaced.sort_by_key(|session| session.generation);

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
            epoch: at.epoch.number,
            exclusive: policy.exclusive,
            login_key,
            client,
        };
        state.sessions.push(session.clone());
        Ok(Next { state, events, outcome: Opened { session, displaced, kick_war } })
    }

    /// Whether the same login was made a moment ago.
    fn look_for_repetition(&self, key: LoginKey, slot: &Slot, at: At<'_>) -> Result<(), NotOpened> {
        let live = self.sessions.iter().filter(|session| session.is_repeatable(at.now));
        if let Some(session) = live.into_iter().find(|session| session.login_key == Some(key)) {
            return Err(if session.slot == *slot {
                NotOpened::Repeated(Box::new(session.clone()))
            } else {
                NotOpened::KeyOfOtherSlot(session.slot.clone())
            });
        }
        let dead = self.tombstones.iter().find(|grave| {
            let opened = Timestamp::from_micros(grave.generation.0);
            grave.login_key == Some(key) && at.now.since(opened) < REPEATABLE
        });
        dead.map_or(Ok(()), |grave| Err(NotOpened::RepeatedTooLate(grave.rejection())))
    }

    /// The sessions that have to go for one more in the slot, the first to go first.
    fn in_the_way(&self, slot: &Slot, policy: SlotPolicy) -> Vec<Session> {
        let (mut holders, others): (Vec<_>, Vec<_>) =
            self.sessions.iter().cloned().partition(|session| session.slot == *slot);
        holders.sort_by_key(|session| match policy.victim {
            Victim::Oldest => (Timestamp::default(), session.generation),
            Victim::LeastRecentlyUsed => (session.last_seen, session.generation),
        });
        let room = policy.limit.get() as usize - 1;
        holders.truncate(holders.len().saturating_sub(room));
        if policy.exclusive {
            holders.extend(others);
        }
        holders
    }

    /// The war over the slot, if there is one, as far as tombstones tell: its last changes were all made by clients
    /// that log each other out, one more of them than the slot has room for. Logins in a row by one client are none,
    /// nor are those of ever new ones. Of clients that have neither an address nor a name, any two may be different ones.
    fn war(&self, slot: &Slot, policy: SlotPolicy) -> Option<War<'_>> {
        let KickWar { changes, window } = policy.kick_war;
        let mut all: Vec<_> = self
            .tombstones
            .iter()
            .filter(|grave| policy.exclusive || grave.slot == *slot)
            .filter(|grave| matches!(grave.reason, Reason::Replaced | Reason::Evicted))
            .map(|grave| (grave.at, (grave.by_client, &grave.by_device)))
            .collect();
        all.sort_by_key(|(at, _)| *at);
        // One login can displace several.
        all.dedup_by_key(|(at, _)| *at);
        let last = all.get(all.len().checked_sub(changes.max(1))?..)?;
        let ((first, _), (latest, _)) = (last.first()?, last.last()?);
        let mut clients: Vec<Client<'_>> = Vec::new();
        for (_, client) in last {
            if !clients.contains(client) {
                clients.push(*client);
            }
        }
        let is_nameless = |(mark, device): Client<'_>| mark.is_none() && device.as_str().is_empty();
        let alternate = last.windows(2).all(|pair| pair[0].1 != pair[1].1 || is_nameless(pair[0].1));
        let few = clients.len() <= policy.limit.get() as usize + 1;
        let war = changes > 0 && latest.since(*first) < window && alternate && few;
        war.then(|| War { until: latest.after(window), clients })
    }
}

/// Clients that log each other out of a slot.
struct War<'a> {
    /// Until when they are held off.
    until: Timestamp,
    clients: Vec<Client<'a>>,
}
