use std::time::UNIX_EPOCH;

use super::*;

const AGE: Duration = Duration::from_secs(10);

fn identity() -> Identity {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    Identity {
        session_id: "s".into(),
        user_id: "u".into(),
        username: "anna".into(),
        slot: "default".into(),
        device: "phone".into(),
        roles: [].into(),
        issued_at: at(1000),
        expires_at: at(1000 + 86_400),
        idle_expires_at: at(1000 + 3600),
    }
}

fn yes(asked: Instant) -> CachedVerdict {
    CachedVerdict {
        identity: identity(),
        asked,
        asked_at: UNIX_EPOCH + Duration::from_secs(1000),
        used: true,
    }
}

/// What can happen, in the steps in which one can be overtaken by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The session ends.
    End,
    /// The feed tells of it.
    Tell,
    /// The feed is lost, with what it had not told ...
    Lose,
    /// ... and is there again, and tells of what ends from now on.
    Regain,
    /// Somebody takes a ticket ...
    Begin(usize),
    /// ... gets an answer ...
    Answer(usize),
    /// ... and remembers it.
    Keep(usize),
}

/// Every order in which two questions, the end of the session and a break of the feed can meet.
fn orders() -> Vec<Vec<Step>> {
    fn go(steps: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        let at = |step: Step| steps.iter().position(|taken| *taken == step);
        let mut possible = Vec::new();
        possible.extend(at(Step::End).is_none().then_some(Step::End));
        possible.extend(at(Step::Lose).is_none().then_some(Step::Lose));
        possible.extend((at(Step::Lose).is_some() && at(Step::Regain).is_none()).then_some(Step::Regain));
        // Told is what the feed saw: not what it had not told when it was lost, nor what ended meanwhile.
        let seen = at(Step::End).is_some_and(|end| {
            let lost = at(Step::Lose)
                .is_some_and(|lose| lose > end || at(Step::Regain).is_none_or(|regain| regain > end));
            !lost
        });
        possible.extend((seen && at(Step::Tell).is_none()).then_some(Step::Tell));
        for reader in 0..2 {
            let next = [Step::Begin(reader), Step::Answer(reader), Step::Keep(reader)];
            possible.extend(next.into_iter().find(|step| at(*step).is_none()));
        }
        if possible.is_empty() {
            found.push(steps.clone());
        }
        for step in possible {
            steps.push(step);
            go(steps, found);
            steps.pop();
        }
    }
    let mut found = Vec::new();
    go(&mut Vec::new(), &mut found);
    found
}

/// Whether the session is never found live once its end has been told, or can no longer be.
fn holds(steps: &[Step], with_tickets: bool) -> bool {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    cache.heard(now);
    let (mut live, mut untold, mut feed) = (true, false, true);
    let mut readers = [(None, false); 2];
    for step in steps {
        match *step {
            Step::End => (live, untold) = (false, feed),
            Step::Tell => {
                cache.ended("s");
                untold = false;
            }
            Step::Lose => {
                cache.lose_sight();
                (feed, untold) = (false, false);
            }
            Step::Regain => {
                cache.heard(now);
                feed = true;
            }
            Step::Begin(number) => readers[number].0 = cache.begin(now),
            Step::Answer(number) => readers[number].1 = live,
            Step::Keep(number) => {
                let (ticket, said_yes) = readers[number];
                let ticket = if with_tickets { ticket } else { cache.begin(now) };
                if let (Some(ticket), true) = (ticket, said_yes) {
                    cache.keep(ticket, digest, yes(now));
                }
            }
        }
        if !live && !untold && cache.get(&digest, false, AGE, now).is_some() {
            return false;
        }
    }
    true
}

#[test]
fn in_no_order_a_session_stays_live_that_was_told_to_have_ended() {
    let orders = orders();
    assert!(orders.len() > 10_000, "{}", orders.len());
    for steps in &orders {
        assert!(holds(steps, true), "{steps:?}");
    }
    // And it is of use: there are orders in which something is remembered.
    let cache = Cache::new();
    let now = Instant::now();
    cache.heard(now);
    cache.keep(cache.begin(now).unwrap(), TokenDigest::of("token"), yes(now));
    assert!(cache.get(&TokenDigest::of("token"), false, AGE, now).is_some());
    assert!(cache.get(&TokenDigest::of("tokem"), false, AGE, now).is_none());
}

#[test]
fn without_tickets_there_are_orders_in_which_one_stays() {
    assert!(orders().iter().any(|steps| !holds(steps, false)));
}

#[test]
fn nothing_is_told_or_kept_while_the_feed_is_not_heard() {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    assert!(cache.begin(now).is_none(), "it was never heard");
    cache.heard(now);
    let ticket = cache.begin(now).unwrap();
    cache.keep(ticket, digest, yes(now));
    let age = Duration::from_hours(1);
    assert!(cache.get(&digest, false, age, now + SILENCE).is_some());
    let later = now + SILENCE + Duration::from_millis(1);
    assert!(cache.get(&digest, false, age, later).is_none());
    assert!(cache.begin(later).is_none());
    cache.heard(later);
    assert!(cache.get(&digest, false, age, later).is_some(), "nothing was missed");
    cache.lose_sight();
    cache.heard(later);
    assert!(cache.get(&digest, false, age, later).is_none());
    cache.keep(ticket, digest, yes(now));
    assert!(cache.get(&digest, false, age, later).is_none(), "the ticket is void");
}

#[test]
fn a_yes_is_told_for_no_longer_than_it_may_be_old_and_a_touch_interval() {
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    let told = |yes: CachedVerdict, age: Duration, after: Duration| {
        let cache = Cache::new();
        cache.heard(now + after);
        // The ticket is that of a question that was sent meanwhile.
        cache.keep(cache.begin(now + after).unwrap(), digest, yes);
        cache.get(&digest, false, age, now + after).is_some()
    };
    let (second, minute, hour) = (Duration::from_secs(1), Duration::from_mins(1), Duration::from_hours(1));
    assert!(told(yes(now), AGE, AGE));
    assert!(!told(yes(now), AGE, AGE + second));
    assert!(told(yes(now), hour, second * 59));
    assert!(!told(yes(now), hour, minute), "a minute at the most");

    // An idle timeout of twenty seconds has a touch interval of one.
    let brief = |seconds: u64| {
        let idle_expires_at = UNIX_EPOCH + Duration::from_secs(1000 + seconds);
        CachedVerdict { identity: Identity { idle_expires_at, ..identity() }, ..yes(now) }
    };
    assert!(told(brief(20), hour, second / 2));
    assert!(!told(brief(20), hour, second));
    assert!(!told(brief(0), hour, Duration::ZERO), "its time was up");

    // Ten seconds before its end.
    let expires_at = UNIX_EPOCH + Duration::from_secs(1010);
    let old = CachedVerdict { identity: Identity { expires_at, ..identity() }, ..yes(now) };
    assert!(told(old.clone(), hour, second * 9));
    assert!(!told(old, hour, second * 10));
}

#[test]
fn what_was_no_use_does_not_stand_for_one() {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    cache.heard(now);
    cache.keep(cache.begin(now).unwrap(), digest, CachedVerdict { used: false, ..yes(now) });
    assert!(cache.get(&digest, false, AGE, now).is_none());
    assert!(cache.get(&digest, true, AGE, now).is_some());
}

#[test]
fn it_holds_no_more_than_it_may_and_forgets_the_oldest_first() {
    let cache = Cache { most: 10, ..Cache::new() };
    let now = Instant::now();
    cache.heard(now);
    let digest = |number: usize| TokenDigest::of(&number.to_string());
    for number in 0..100 {
        let session = Identity { session_id: number.to_string().into(), ..identity() };
        cache.keep(
            cache.begin(now).unwrap(),
            digest(number),
            CachedVerdict { identity: session, ..yes(now) },
        );
        // One that is asked for again and again.
        cache.keep(cache.begin(now).unwrap(), TokenDigest::of("token"), yes(now));
    }
    assert!(cache.get(&digest(99), false, AGE, now).is_some());
    assert!(cache.get(&TokenDigest::of("token"), false, AGE, now).is_some());
    assert!(cache.get(&digest(50), false, AGE, now).is_none());
    let state = cache.lock();
    assert!(state.entries.len() <= 10 && state.sessions.len() <= 10, "{}", state.entries.len());
    assert!(state.order.len() <= 20, "{}", state.order.len());
}

#[test]
fn what_was_sent_before_the_ends_that_are_remembered_is_not_kept() {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    cache.heard(now);
    let ticket = cache.begin(now).unwrap();
    cache.ended("s");
    for number in 0..ENDED {
        cache.ended(&number.to_string());
    }
    assert!(!cache.lock().ended.contains_key("s"), "its end is not remembered any more");
    cache.keep(ticket, digest, yes(now));
    assert!(cache.get(&digest, false, AGE, now).is_none());
    assert_eq!(cache.lock().ended.len(), ENDED);
}
