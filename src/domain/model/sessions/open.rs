//! Opening a session: slot limits, displacement, kick wars and idempotency keys.

use std::time::Duration;

use super::{
    ClientMark, Context, KickWar, OnLimit, Profile, Session, SlotPolicy, Transition, UserSessions, Victim,
    client::Client,
};
use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Device, LoginKey, SessionId, Slot, Timestamp},
};

/// How long a login can be repeated with its idempotency key.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_mins(1);

/// The command to open a session.
#[derive(Debug, Clone)]
pub struct Open {
    /// The id of the new session.
    pub id: SessionId,
    /// The slot of the new session.
    pub slot: Slot,
    /// The device as the client names it.
    pub device: Device,
    /// The current username and roles of the user.
    pub profile: Profile,
    /// The rules of the slot.
    pub policy: SlotPolicy,
    /// The idempotency key of the login.
    pub login_key: Option<LoginKey>,
    /// Displaces a session even if the slot has `on_limit = "deny"`.
    pub takeover: bool,
    /// The network of the client, if it is known.
    pub client: Option<ClientMark>,
}

/// The outcome of opening a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The new session.
    pub session: Session,
    /// The live sessions that were displaced, the oldest first.
    pub displaced: Vec<Session>,
    /// Whether a kick war over the slot has begun: its clients are throttled for a while.
    pub kick_war: bool,
}

/// Why no session was opened. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// A login with the same idempotency key opened this session, which is live.
    Repeated(Box<Session>),
    /// A login with the same idempotency key opened a session that has ended. Opening another one would displace a
    /// later login.
    RepeatedTooLate(Rejection),
    /// The idempotency key was used for a login in this other slot.
    KeyOfOtherSlot(Slot),
    /// The slot is full. This session would be displaced first.
    Full(Box<Session>),
    /// The client is part of a kick war and may log in again after this time.
    KickWar(Duration),
}

impl Session {
    /// Whether the login can still be repeated with its idempotency key.
    pub(super) fn is_repeatable(&self, now: Timestamp) -> bool {
        now.since(self.issued_at) < IDEMPOTENCY_WINDOW
    }
}

impl UserSessions {
    /// Opens a session in a slot, displacing others as the policy of the slot says.
    pub fn open(&self, open: Open, ctx: Context<'_>) -> Result<Transition<Opened>, OpenError> {
        let (mut state, mut events) = self.record_lapses(ctx);
        let Open { id, slot, device, profile, policy, login_key, takeover, client } = open;
        if let Some(key) = login_key {
            state.check_idempotency(key, &slot, ctx)?;
        }
        let victims = state.victims(&slot, policy);
        if let Some(first) = victims.first() {
            if policy.on_limit == OnLimit::Deny && !takeover {
                return Err(OpenError::Full(Box::new(first.clone())));
            }
            let kick_war = state.kick_war(&slot, policy).filter(|kick_war| ctx.now < kick_war.until);
            if let Some(kick_war) = kick_war.filter(|kick_war| kick_war.clients.contains(&(client, &device)))
            {
                return Err(OpenError::KickWar(kick_war.until.since(ctx.now)));
            }
        }

        let mut displaced = Vec::new();
        for victim in victims {
            // A victim is evicted by the limit of its own slot, or replaced because the login is exclusive.
            let evicted = victim.slot == slot && policy.limit.get() > 1;
            let reason = if evicted { Reason::Evicted } else { Reason::Replaced };
            let by_device = Some(device.clone()).filter(|device| !device.as_str().is_empty());
            let rejection = Rejection { by_device, ..Rejection::at(reason, ctx.now) };
            displaced.extend(state.move_to_tombstones(
                |session| session.id == victim.id,
                &rejection,
                ctx,
                &mut events,
            ));
            if let Some(tombstone) = state.tombstones.last_mut().filter(|tombstone| tombstone.id == victim.id)
            {
                tombstone.by_client = client;
            }
        }
        let kick_war = !displaced.is_empty() && state.kick_war(&slot, policy).is_some();
        displaced.sort_by_key(|session| session.generation);

        state.generation = state.generation.next(ctx.now);
        state.profile = profile;
        let session = Session {
            id,
            generation: state.generation,
            slot,
            device,
            issued_at: ctx.now,
            // Rounded to seconds, as in the token.
            expires_at: ctx.now.after(policy.absolute_timeout).ceil_to_second(),
            last_seen: ctx.now,
            idle_timeout: policy.idle_timeout.into(),
            epoch: ctx.epoch.number,
            exclusive: policy.exclusive,
            login_key,
            client,
        };
        state.sessions.push(session.clone());
        Ok(Transition { state, events, outcome: Opened { session, displaced, kick_war } })
    }

    /// Fails if a login with the same idempotency key was made a moment ago.
    fn check_idempotency(&self, key: LoginKey, slot: &Slot, ctx: Context<'_>) -> Result<(), OpenError> {
        let live = self.sessions.iter().filter(|session| session.is_repeatable(ctx.now));
        if let Some(session) = live.into_iter().find(|session| session.login_key == Some(key)) {
            return Err(if session.slot == *slot {
                OpenError::Repeated(Box::new(session.clone()))
            } else {
                OpenError::KeyOfOtherSlot(session.slot.clone())
            });
        }
        let dead = self.tombstones.iter().find(|tombstone| {
            let opened = Timestamp::from_micros(tombstone.generation.0);
            tombstone.login_key == Some(key) && ctx.now.since(opened) < IDEMPOTENCY_WINDOW
        });
        dead.map_or(Ok(()), |tombstone| Err(OpenError::RepeatedTooLate(tombstone.rejection())))
    }

    /// The sessions that one more login in the slot displaces, the first victim first.
    fn victims(&self, slot: &Slot, policy: SlotPolicy) -> Vec<Session> {
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

    /// Finds the latest kick war over the slot in the tombstones. There is one if the last displacements, as many as
    /// the policy says, were made within its window by clients that displaced each other: by at most one client more
    /// than the slot has room for, and never twice in a row by the same client. Clients with neither an address nor a
    /// device name may be different ones each time.
    fn kick_war(&self, slot: &Slot, policy: SlotPolicy) -> Option<ActiveKickWar<'_>> {
        let KickWar { changes, window } = policy.kick_war;
        let mut displacements: Vec<_> = self
            .tombstones
            .iter()
            .filter(|tombstone| policy.exclusive || tombstone.slot == *slot)
            .filter(|tombstone| matches!(tombstone.reason, Reason::Replaced | Reason::Evicted))
            .map(|tombstone| (tombstone.at, (tombstone.by_client, &tombstone.by_device)))
            .collect();
        displacements.sort_by_key(|(at, _)| *at);
        // One login can displace several sessions.
        displacements.dedup_by_key(|(at, _)| *at);
        let last = displacements.get(displacements.len().checked_sub(changes.max(1))?..)?;
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
        let is_kick_war = changes > 0 && latest.since(*first) < window && alternate && few;
        is_kick_war.then(|| ActiveKickWar { until: latest.after(window), clients })
    }
}

/// A kick war: clients that keep displacing each other in a slot.
struct ActiveKickWar<'a> {
    /// Until when logins of these clients are throttled.
    until: Timestamp,
    clients: Vec<Client<'a>>,
}
