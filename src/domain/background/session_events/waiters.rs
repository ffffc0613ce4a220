//! The watches of this process, by session.

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

/// A notification of a waiter.
#[derive(Debug)]
pub(in crate::domain) enum Signal {
    /// The session has ended, for this reason.
    Ended(Rejection),
    /// The session may have ended and has to be read from the store.
    Recheck,
}

/// All waiters, by session.
#[derive(Debug, Default)]
pub(in crate::domain) struct Waiters(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    sessions: HashMap<SessionId, WatchedSession>,
    /// The watched sessions in the order in which they lapse.
    lapses: BTreeSet<(Timestamp, SessionId)>,
}

#[derive(Debug)]
struct WatchedSession {
    /// The epoch in which the session was opened, once it is known.
    epoch: Option<u64>,
    lapses_at: Option<Timestamp>,
    senders: Vec<Sender>,
}

#[derive(Debug)]
struct Sender {
    waiter_id: u64,
    signal: oneshot::Sender<Signal>,
}

/// Waits for a signal about one session. It is removed from [`Waiters`] when it is dropped.
#[derive(Debug)]
pub(in crate::domain) struct Waiter {
    id: u64,
    session_id: SessionId,
    signal: oneshot::Receiver<Signal>,
    waiters: Arc<Waiters>,
}

impl Waiters {
    /// Adds a waiter. It gets a signal when the session ends from now on.
    pub(in crate::domain) fn add(self: &Arc<Self>, claims: &Claims) -> Waiter {
        let (sender, signal) = oneshot::channel();
        let mut inner = self.inner();
        inner.last_id += 1;
        let id = inner.last_id;
        let session = inner.sessions.entry(claims.session_id).or_insert_with(|| WatchedSession {
            epoch: None,
            lapses_at: None,
            senders: Vec::with_capacity(1),
        });
        session.senders.push(Sender { waiter_id: id, signal: sender });
        drop(inner);
        Waiter { id, session_id: claims.session_id, signal, waiters: Arc::clone(self) }
    }

    pub(super) fn len(&self) -> usize {
        self.inner().sessions.values().map(|session| session.senders.len()).sum()
    }

    /// Notifies the waiters of a session that has ended.
    pub(super) fn notify_ended(&self, ended: &Ended) {
        let senders = self.inner().remove(&ended.session_id);
        send(senders, || Signal::Ended(ended.rejection.clone()));
    }

    /// Notifies the waiters whose sessions an epoch has ended. Those of unknown epochs get a recheck.
    pub(super) fn notify_epoch(&self, epoch: &Epoch) {
        let is_earlier = |session: &WatchedSession| session.epoch.is_some_and(|opened| opened < epoch.number);
        self.notify_where(is_earlier, || Signal::Ended(epoch.rejection()));
        self.notify_where(|session| session.epoch.is_none(), || Signal::Recheck);
    }

    /// Requests a recheck of all sessions, after events were missed.
    pub(super) fn recheck_all(&self) {
        self.notify_where(|_| true, || Signal::Recheck);
    }

    /// Requests a recheck of the sessions that may have lapsed by `now`.
    pub(super) fn recheck_lapsed(&self, now: Timestamp) {
        let mut senders = Vec::new();
        {
            let mut inner = self.inner();
            while let Some((_, session_id)) = inner.lapses.first().filter(|(at, _)| *at <= now).copied() {
                senders.extend(inner.remove(&session_id));
            }
        }
        send(senders, || Signal::Recheck);
    }

    fn notify_where(&self, matches: impl Fn(&WatchedSession) -> bool, signal: impl Fn() -> Signal) {
        let mut senders = Vec::new();
        {
            let mut inner = self.inner();
            let matching = inner.sessions.iter().filter(|(_, session)| matches(session));
            let ids: Vec<_> = matching.map(|(id, _)| *id).collect();
            for id in ids {
                senders.extend(inner.remove(&id));
            }
        }
        send(senders, signal);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(senders: Vec<Sender>, signal: impl Fn() -> Signal) {
    for sender in senders {
        // It fails if the watch was closed meanwhile.
        let _ = sender.signal.send(signal());
    }
}

impl Inner {
    /// Removes a session. Returns the senders to its waiters.
    fn remove(&mut self, session_id: &SessionId) -> Vec<Sender> {
        let Some(session) = self.sessions.remove(session_id) else { return Vec::new() };
        if let Some(at) = session.lapses_at {
            self.lapses.remove(&(at, *session_id));
        }
        session.senders
    }
}

impl Waiter {
    /// Sets the epoch of the session and the time at which it lapses, as just read from the store.
    pub(in crate::domain) fn update(&self, session: &Session) {
        let lapses_at = session.lapses_at();
        let mut inner = self.waiters.inner();
        let Some(watched) = inner.sessions.get_mut(&self.session_id) else { return };
        watched.epoch = Some(session.epoch);
        let before = watched.lapses_at.replace(lapses_at);
        if let Some(before) = before {
            inner.lapses.remove(&(before, self.session_id));
        }
        inner.lapses.insert((lapses_at, self.session_id));
    }

    /// Waits for the signal.
    pub(in crate::domain) async fn signal(&mut self) -> Signal {
        // Without a sender no signal will come, so the store has to be read.
        (&mut self.signal).await.unwrap_or(Signal::Recheck)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = self.waiters.inner();
        let Some(session) = inner.sessions.get_mut(&self.session_id) else { return };
        session.senders.retain(|sender| sender.waiter_id != self.id);
        if session.senders.is_empty() {
            inner.remove(&self.session_id);
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
            idle_timeout: std::time::Duration::from_hours(1).into(),
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

    fn received(waiter: &mut Waiter) -> &'static str {
        match waiter.signal.try_recv() {
            Ok(Signal::Ended(rejection)) => rejection.reason.name(),
            Ok(Signal::Recheck) => "recheck",
            Err(_) => "",
        }
    }

    #[test]
    fn the_end_of_a_session_notifies_all_its_waiters_and_no_others() {
        let waiters = Arc::new(Waiters::default());
        let (mut first, mut second, mut other) =
            (waiters.add(&claims(1)), waiters.add(&claims(1)), waiters.add(&claims(2)));
        waiters.notify_ended(&ended(1));
        assert_eq!(received(&mut first), "REPLACED");
        assert_eq!(received(&mut second), "REPLACED");
        assert_eq!(received(&mut other), "");
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn an_epoch_ends_sessions_of_earlier_epochs_and_rechecks_those_of_unknown_ones() {
        let waiters = Arc::new(Waiters::default());
        let (mut old, mut new, mut unknown) =
            (waiters.add(&claims(1)), waiters.add(&claims(2)), waiters.add(&claims(3)));
        old.update(&session(0, 100));
        new.update(&session(1, 100));
        waiters.notify_epoch(&Epoch { number: 1, ..Epoch::FIRST });
        assert_eq!((received(&mut old), received(&mut new)), ("KICKED", ""));
        assert_eq!(received(&mut unknown), "recheck");
    }

    #[test]
    fn a_session_is_rechecked_at_the_latest_time_of_lapse_that_was_set() {
        let waiters = Arc::new(Waiters::default());
        let mut waiter = waiters.add(&claims(1));
        waiter.update(&session(0, 10));
        waiter.update(&session(0, 20));
        waiters.recheck_lapsed(Timestamp::from_secs(19));
        assert_eq!(received(&mut waiter), "");
        waiters.recheck_lapsed(Timestamp::from_secs(20));
        assert_eq!(received(&mut waiter), "recheck");
    }

    #[test]
    fn nothing_is_kept_of_closed_watches() {
        let waiters = Arc::new(Waiters::default());
        let (waiting, notified) = (waiters.add(&claims(1)), waiters.add(&claims(2)));
        waiting.update(&session(0, 10));
        notified.update(&session(0, 10));
        waiters.notify_ended(&ended(2));
        drop((waiting, notified));
        let inner = waiters.inner();
        assert!(inner.sessions.is_empty() && inner.lapses.is_empty(), "{inner:?}");
    }
}
