//! Requests that come together with the same token are one question.
//!
//! A question that is under way may have been judged already, and what has ended since must be rejected: so who comes
//! later does not join it but waits for the next one, which all who have come meanwhile share. It joins it only where
//! it says that the answer may be as old as that question.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::cache::TokenDigest;
use crate::{Unavailable, ValidateOptions, Verdict};

/// What comes of a question.
pub(super) type Outcome = Result<Verdict, Unavailable>;
/// Whose token, and how it is asked about.
pub(super) type Key = (TokenDigest, ValidateOptions);

type Waiting = Vec<oneshot::Sender<Outcome>>;

/// The questions that are under way.
#[derive(Default)]
pub(super) struct Singleflight(Mutex<HashMap<Key, Flight>>);

struct Flight {
    begun: Instant,
    /// Who waits for the question that is under way.
    waiting: Waiting,
    /// Who waits for the one after it.
    next: Waiting,
}

/// From where the outcome comes.
pub(super) enum Ticket {
    /// The one who holds it has to ask.
    First(oneshot::Receiver<Outcome>),
    /// Somebody else asks.
    Other(oneshot::Receiver<Outcome>),
}

impl Singleflight {
    /// Joins a question that was sent at most `slack` before `now`, or the next one, or begins one.
    pub(super) fn join(&self, key: Key, now: Instant, slack: Duration) -> Ticket {
        let (sender, outcome) = oneshot::channel();
        match self.lock().entry(key) {
            Entry::Vacant(free) => {
                free.insert(Flight { begun: now, waiting: vec![sender], next: Vec::new() });
                Ticket::First(outcome)
            }
            Entry::Occupied(mut flight) => {
                let flight = flight.get_mut();
                let is_new = !slack.is_zero() && now.saturating_duration_since(flight.begun) <= slack;
                if is_new {
                    flight.waiting.push(sender);
                } else {
                    flight.next.push(sender);
                }
                Ticket::Other(outcome)
            }
        }
    }

    /// Tells who waits. Whether there are others, for whom to ask again.
    pub(super) fn land(&self, key: &Key, outcome: &Outcome, now: Instant) -> bool {
        let mut flights = self.lock();
        let Some(flight) = flights.get_mut(key) else { return false };
        let next = std::mem::take(&mut flight.next);
        // Who has given up hears nothing, and asks for nothing.
        let next: Waiting = next.into_iter().filter(|sender| !sender.is_closed()).collect();
        let others = !next.is_empty();
        flight.begun = now;
        let landed = std::mem::replace(&mut flight.waiting, next);
        if !others {
            flights.remove(key);
        }
        drop(flights);
        for sender in landed {
            let _ = sender.send(outcome.clone());
        }
        others
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn outcome(message: &str) -> Outcome {
        Err(Unavailable::new(Code::Unavailable, message))
    }

    fn told(ticket: Ticket) -> Option<String> {
        let (Ticket::First(mut outcome) | Ticket::Other(mut outcome)) = ticket;
        outcome.try_recv().ok().map(|outcome| outcome.unwrap_err().message)
    }

    #[test]
    fn who_comes_later_does_not_take_an_answer_that_may_be_older() {
        let flights = Singleflight::default();
        let key = (TokenDigest::of("token"), ValidateOptions::default());
        let now = Instant::now();
        let first = flights.join(key, now, Duration::ZERO);
        assert!(matches!(first, Ticket::First(_)));
        let second = flights.join(key, now, Duration::ZERO);
        let third = flights.join(key, now, Duration::ZERO);
        assert!(matches!((&second, &third), (Ticket::Other(_), Ticket::Other(_))));

        assert!(flights.land(&key, &outcome("one"), now), "two wait for the next");
        assert_eq!(told(first).as_deref(), Some("one"));
        assert!(!flights.land(&key, &outcome("two"), now));
        assert_eq!(told(second).as_deref(), Some("two"));
        assert_eq!(told(third).as_deref(), Some("two"));
        assert!(matches!(flights.join(key, now, Duration::ZERO), Ticket::First(_)), "nothing is left over");
    }

    #[test]
    fn who_takes_an_older_answer_joins_what_is_under_way() {
        let flights = Singleflight::default();
        let key = (TokenDigest::of("token"), ValidateOptions::default());
        let (now, slack) = (Instant::now(), Duration::from_secs(1));
        let _first = flights.join(key, now, slack);
        let soon = flights.join(key, now + slack, slack);
        let late = flights.join(key, now + slack * 2, slack);
        assert!(flights.land(&key, &outcome("one"), now));
        assert_eq!(told(soon).as_deref(), Some("one"));
        assert_eq!(told(late), None);
    }

    #[test]
    fn nobody_asks_for_those_who_have_given_up() {
        let flights = Singleflight::default();
        let key = (TokenDigest::of("token"), ValidateOptions::default());
        let now = Instant::now();
        let _first = flights.join(key, now, Duration::ZERO);
        drop(flights.join(key, now, Duration::ZERO));
        assert!(!flights.land(&key, &outcome("one"), now));
    }
}
