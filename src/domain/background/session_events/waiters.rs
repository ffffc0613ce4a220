//! Those who wait for the end of one session.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::domain::{
    rejection::Rejection,
    sessions::{Ended, Epoch, Session},
    types::{Claims, SessionId, Timestamp},
};

/// What one is told who waits.
#[derive(Debug)]
pub(in crate::domain) enum Signal {
    /// It has ended, and this is why.
    Ended(Rejection),
    /// It may have ended: ask the store.
    Look,
}

/// Everybody who waits, by session.
#[derive(Debug, Default)]
pub(in crate::domain) struct Waiters(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last_number: u64,
    sessions: HashMap<SessionId, Watched>,
    /// When to look whether a session's time is up.
    due: BTreeSet<(Timestamp, SessionId)>,
}

#[derive(Debug)]
struct Watched {
    /// The epoch it was opened in, once that is known.
    epoch: Option<u64>,
    due: Option<Timestamp>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    tell: oneshot::Sender<Signal>,
}

/// A place among those who wait, given up when it is dropped.
#[derive(Debug)]
pub(in crate::domain) struct Wait {
    session_id: SessionId,
    number: u64,
    told: oneshot::Receiver<Signal>,
    waiting: Arc<Waiters>,
}

impl Waiters {
    /// Begins to wait. What ends the session from now on is told.
    pub(in crate::domain) fn wait(self: &Arc<Self>, claims: &Claims) -> Wait {
        let (tell, told) = oneshot::channel();
        let mut inner = self.inner();
        inner.last_number += 1;
        let number = inner.last_number;
        let watched = inner.sessions.entry(claims.session_id).or_insert_with(|| Watched {
            epoch: None,
            due: None,
            waiters: Vec::with_capacity(1),
        });
        watched.waiters.push(Waiter { number, tell });
        drop(inner);
        Wait { session_id: claims.session_id, number, told, waiting: Arc::clone(self) }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.inner().sessions.values().map(|watched| watched.waiters.len()).sum()
    }

    /// A session has ended.
    pub(super) fn tell(&self, ended: &Ended) {
        let waiters = self.inner().take(&ended.session_id);
        for waiter in waiters {
            // Whoever has gone away meanwhile does not need to know.
            let _ = waiter.tell.send(Signal::Ended(ended.rejection.clone()));
        }
    }

    /// Everybody's sessions have ended.
    pub(super) fn tell_everyone(&self, epoch: &Epoch) {
        let before = |watched: &Watched| watched.epoch.is_some_and(|opened| opened < epoch.number);
        self.tell_where(before, || Signal::Ended(epoch.rejection()));
        self.tell_where(|watched| watched.epoch.is_none(), || Signal::Look);
    }

    /// Something may have happened, and nobody knows what.
    pub(super) fn tell_all_to_look(&self) {
        self.tell_where(|_| true, || Signal::Look);
    }

    /// Whoever's session may be over by now has to look.
    pub(super) fn tell_due(&self, now: Timestamp) {
        let mut due = Vec::new();
        {
            let mut inner = self.inner();
            while let Some((_, session_id)) = inner.due.first().filter(|(at, _)| *at <= now).copied() {
                due.extend(inner.take(&session_id));
            }
        }
        for waiter in due {
            let _ = waiter.tell.send(Signal::Look);
        }
    }

    fn tell_where(&self, which: impl Fn(&Watched) -> bool, signal: impl Fn() -> Signal) {
        let mut told = Vec::new();
        {
            let mut inner = self.inner();
            let picked: Vec<_> =
                inner.sessions.iter().filter(|(_, watched)| which(watched)).map(|(id, _)| *id).collect();
            for session_id in picked {
                told.extend(inner.take(&session_id));
            }
        }
        for waiter in told {
            let _ = waiter.tell.send(signal());
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Those who wait for this session, who do so no longer.
    fn take(&mut self, session_id: &SessionId) -> Vec<Waiter> {
        let Some(watched) = self.sessions.remove(session_id) else { return Vec::new() };
        if let Some(due) = watched.due {
            self.due.remove(&(due, *session_id));
        }
        watched.waiters
    }
}

impl Wait {
    /// Waits for the end of this session. Has the store asked when it lapses, unless something happens before.
    pub(in crate::domain) fn expect(&self, session: &Session) {
        let due = session.lapses_at();
        let mut inner = self.waiting.inner();
        let Some(watched) = inner.sessions.get_mut(&self.session_id) else { return };
        watched.epoch = Some(session.epoch);
        let before = watched.due.replace(due);
        if let Some(before) = before {
            inner.due.remove(&(before, self.session_id));
        }
        inner.due.insert((due, self.session_id));
    }

    /// What is told.
    pub(in crate::domain) async fn told(&mut self) -> Signal {
        // Nobody to tell it any more: then the store has to.
        (&mut self.told).await.unwrap_or(Signal::Look)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut inner = self.waiting.inner();
        let Some(watched) = inner.sessions.get_mut(&self.session_id) else { return };
        watched.waiters.retain(|waiter| waiter.number != self.number);
        if watched.waiters.is_empty() {
            inner.take(&self.session_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        rejection::Reason,
        types::{Generation, Slot, UserId},
    };

    fn claims(number: u8) -> Claims {
        Claims {
            user_id: UserId::parse("u").unwrap(),
            session_id: SessionId::from_bytes([number; 16]),
            generation: Generation(number.into()),
            slot: Slot::parse("default").unwrap(),
            not_before: Timestamp::from_secs(1),
            expires_at: Timestamp::from_secs(100),
        }
    }

    fn session(epoch: u64, expires_secs: u64) -> Session {
        Session {
            id: SessionId::from_bytes([1; 16]),
            generation: Generation(1),
            slot: Slot::parse("default").unwrap(),
            device: crate::domain::types::Device::default(),
            issued_at: Timestamp::default(),
            expires_at: Timestamp::from_secs(expires_secs),
            last_seen: Timestamp::default(),
            idle_timeout: std::time::Duration::from_hours(1),
            epoch,
            exclusive: false,
            login_key: None,
            client: None,
        }
    }

    fn ended(number: u8) -> Ended {
        Ended {
            session_id: SessionId::from_bytes([number; 16]),
            slot: Slot::parse("default").unwrap(),
            rejection: Rejection::bare(Reason::Replaced),
            expires_at: Timestamp::from_secs(100),
        }
    }

    fn told(ticket: &mut Wait) -> &'static str {
        match ticket.told.try_recv() {
            Ok(Signal::Ended(rejection)) => rejection.reason.name(),
            Ok(Signal::Look) => "look",
            Err(_) => "",
        }
    }

    #[test]
    fn everybody_who_waits_for_a_session_is_told_of_its_end_and_nobody_else() {
        let waiting = Arc::new(Waiters::default());
        let (mut first, mut second, mut other) =
            (waiting.wait(&claims(1)), waiting.wait(&claims(1)), waiting.wait(&claims(2)));
        waiting.tell(&ended(1));
        assert_eq!(told(&mut first), "REPLACED");
        assert_eq!(told(&mut second), "REPLACED");
        assert_eq!(told(&mut other), "");
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn a_new_epoch_is_told_to_those_who_are_of_an_earlier_one() {
        let waiting = Arc::new(Waiters::default());
        let (mut old, mut new, mut unknown) =
            (waiting.wait(&claims(1)), waiting.wait(&claims(2)), waiting.wait(&claims(3)));
        old.expect(&session(0, 100));
        new.expect(&session(1, 100));
        waiting.tell_everyone(&Epoch { number: 1, ..Epoch::FIRST });
        assert_eq!((told(&mut old), told(&mut new)), ("KICKED", ""));
        assert_eq!(told(&mut unknown), "look", "whose epoch is not known yet has to look");
    }

    #[test]
    fn whoever_may_be_over_looks_at_the_latest_moment_that_was_named() {
        let waiting = Arc::new(Waiters::default());
        let mut ticket = waiting.wait(&claims(1));
        ticket.expect(&session(0, 10));
        ticket.expect(&session(0, 20));
        waiting.tell_due(Timestamp::from_secs(19));
        assert_eq!(told(&mut ticket), "");
        waiting.tell_due(Timestamp::from_secs(20));
        assert_eq!(told(&mut ticket), "look");
    }

    #[test]
    fn nothing_stays_of_those_who_have_gone() {
        let waiting = Arc::new(Waiters::default());
        let (ticket, told) = (waiting.wait(&claims(1)), waiting.wait(&claims(2)));
        ticket.expect(&session(0, 10));
        told.expect(&session(0, 10));
        waiting.tell(&ended(2));
        drop((ticket, told));
        let inner = waiting.inner();
        assert!(inner.sessions.is_empty() && inner.due.is_empty(), "{inner:?}");
    }
}
