use std::time::UNIX_EPOCH;

use super::*;

const MAX_STALENESS: Duration = Duration::from_secs(10);

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

fn live(sent: Instant) -> LiveVerdict {
    LiveVerdict { identity: identity(), sent, sent_at: UNIX_EPOCH + Duration::from_secs(1000), is_use: true }
}

/// An event in the life of one session, one feed and two validations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The session ends.
    End,
    /// The feed reports the end.
    Report,
    /// The feed is interrupted and loses the events that it has not reported.
    Interrupt,
    /// The feed is resumed and reports what ends from now on.
    Resume,
    /// The validation with this number takes its read token.
    BeginRead(usize),
    /// The validation is decided.
    Decide(usize),
    /// The verdict of the validation is inserted.
    Insert(usize),
}

/// Returns every order of the steps of two validations, the end of the session and an interruption of the feed.
fn interleavings() -> Vec<Vec<Step>> {
    fn extend(steps: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        let position = |step: Step| steps.iter().position(|taken| *taken == step);
        let mut possible = Vec::new();
        possible.extend(position(Step::End).is_none().then_some(Step::End));
        possible.extend(position(Step::Interrupt).is_none().then_some(Step::Interrupt));
        possible.extend(
            (position(Step::Interrupt).is_some() && position(Step::Resume).is_none()).then_some(Step::Resume),
        );
        // An end is not reported if it happened during the interruption, or was pending when it began.
        let is_pending = position(Step::End).is_some_and(|end| {
            let is_lost = position(Step::Interrupt).is_some_and(|interrupt| {
                interrupt > end || position(Step::Resume).is_none_or(|resume| resume > end)
            });
            !is_lost
        });
        possible.extend((is_pending && position(Step::Report).is_none()).then_some(Step::Report));
        for validation in 0..2 {
            let next = [Step::BeginRead(validation), Step::Decide(validation), Step::Insert(validation)];
            possible.extend(next.into_iter().find(|step| position(*step).is_none()));
        }
        if possible.is_empty() {
            found.push(steps.clone());
        }
        for step in possible {
            steps.push(step);
            extend(steps, found);
            steps.pop();
        }
    }
    let mut found = Vec::new();
    extend(&mut Vec::new(), &mut found);
    found
}

/// Returns whether the cache never returns the session once its end has been reported or can no longer be.
fn is_safe(steps: &[Step], with_read_tokens: bool) -> bool {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    cache.feed_received(now);
    let (mut is_live, mut is_pending, mut is_connected) = (true, false, true);
    let mut validations = [(None, false); 2];
    for step in steps {
        match *step {
            Step::End => (is_live, is_pending) = (false, is_connected),
            Step::Report => {
                cache.session_ended("s");
                is_pending = false;
            }
            Step::Interrupt => {
                cache.invalidate_all();
                (is_connected, is_pending) = (false, false);
            }
            Step::Resume => {
                cache.feed_received(now);
                is_connected = true;
            }
            Step::BeginRead(number) => validations[number].0 = cache.begin_read(now),
            Step::Decide(number) => validations[number].1 = is_live,
            Step::Insert(number) => {
                let (read, was_live) = validations[number];
                let read = if with_read_tokens { read } else { cache.begin_read(now) };
                if let (Some(read), true) = (read, was_live) {
                    cache.insert(read, digest, live(now));
                }
            }
        }
        if !is_live && !is_pending && cache.get(&digest, false, MAX_STALENESS, now).is_some() {
            return false;
        }
    }
    true
}

#[test]
fn no_interleaving_keeps_an_ended_session_in_the_cache() {
    let interleavings = interleavings();
    assert!(interleavings.len() > 10_000, "{}", interleavings.len());
    for steps in &interleavings {
        assert!(is_safe(steps, true), "{steps:?}");
    }
}

#[test]
fn without_read_tokens_an_ended_session_can_stay_in_the_cache() {
    assert!(interleavings().iter().any(|steps| !is_safe(steps, false)));
}

#[test]
fn a_live_session_is_cached_by_its_whole_token() {
    let cache = Cache::new();
    let now = Instant::now();
    cache.feed_received(now);
    cache.insert(cache.begin_read(now).unwrap(), TokenDigest::of("token"), live(now));
    assert!(cache.get(&TokenDigest::of("token"), false, MAX_STALENESS, now).is_some());
    assert!(cache.get(&TokenDigest::of("tokem"), false, MAX_STALENESS, now).is_none());
}

#[test]
fn the_cache_is_not_used_while_the_feed_is_interrupted() {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    assert!(cache.begin_read(now).is_none(), "the feed has not started");
    cache.feed_received(now);
    let read = cache.begin_read(now).unwrap();
    cache.insert(read, digest, live(now));
    let max_staleness = Duration::from_hours(1);
    assert!(cache.get(&digest, false, max_staleness, now + FEED_TIMEOUT).is_some());
    let later = now + FEED_TIMEOUT + Duration::from_millis(1);
    assert!(cache.get(&digest, false, max_staleness, later).is_none());
    assert!(cache.begin_read(later).is_none());
    cache.feed_received(later);
    assert!(cache.get(&digest, false, max_staleness, later).is_some(), "no event was missed");
    cache.invalidate_all();
    cache.feed_received(later);
    assert!(cache.get(&digest, false, max_staleness, later).is_none());
    cache.insert(read, digest, live(now));
    assert!(cache.get(&digest, false, max_staleness, later).is_none(), "the read token is void");
}

#[test]
fn a_verdict_expires_after_max_staleness_the_touch_interval_and_the_deadlines() {
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    let is_cached = |verdict: LiveVerdict, max_staleness: Duration, after: Duration| {
        let cache = Cache::new();
        cache.feed_received(now + after);
        cache.insert(cache.begin_read(now + after).unwrap(), digest, verdict);
        cache.get(&digest, false, max_staleness, now + after).is_some()
    };
    let (second, minute, hour) = (Duration::from_secs(1), Duration::from_mins(1), Duration::from_hours(1));
    assert!(is_cached(live(now), MAX_STALENESS, MAX_STALENESS));
    assert!(!is_cached(live(now), MAX_STALENESS, MAX_STALENESS + second));
    assert!(is_cached(live(now), hour, second * 59));
    assert!(!is_cached(live(now), hour, minute), "the touch interval is at most one minute");

    // An idle timeout of 20 seconds has a touch interval of one second.
    let with_idle_timeout = |seconds: u64| {
        let idle_expires_at = UNIX_EPOCH + Duration::from_secs(1000 + seconds);
        LiveVerdict { identity: Identity { idle_expires_at, ..identity() }, ..live(now) }
    };
    assert!(is_cached(with_idle_timeout(20), hour, second / 2));
    assert!(!is_cached(with_idle_timeout(20), hour, second));
    assert!(!is_cached(with_idle_timeout(0), hour, Duration::ZERO), "the session has timed out");

    // The absolute deadline is in ten seconds.
    let expires_at = UNIX_EPOCH + Duration::from_secs(1010);
    let expiring = LiveVerdict { identity: Identity { expires_at, ..identity() }, ..live(now) };
    assert!(is_cached(expiring.clone(), hour, second * 9));
    assert!(!is_cached(expiring, hour, second * 10));
}

#[test]
fn a_peek_does_not_stand_for_a_use() {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    cache.feed_received(now);
    cache.insert(cache.begin_read(now).unwrap(), digest, LiveVerdict { is_use: false, ..live(now) });
    assert!(cache.get(&digest, false, MAX_STALENESS, now).is_none());
    assert!(cache.get(&digest, true, MAX_STALENESS, now).is_some());
}

#[test]
fn the_oldest_entries_are_evicted_beyond_the_capacity() {
    let cache = Cache { capacity: 10, ..Cache::new() };
    let now = Instant::now();
    cache.feed_received(now);
    let digest = |number: usize| TokenDigest::of(&number.to_string());
    let insert = |digest: TokenDigest, verdict: LiveVerdict| {
        cache.insert(cache.begin_read(now).unwrap(), digest, verdict);
    };
    for number in 0..100 {
        let session = Identity { session_id: number.to_string().into(), ..identity() };
        insert(digest(number), LiveVerdict { identity: session, ..live(now) });
        // This token is inserted again and again and must stay.
        insert(TokenDigest::of("token"), live(now));
    }
    assert!(cache.get(&digest(99), false, MAX_STALENESS, now).is_some());
    assert!(cache.get(&TokenDigest::of("token"), false, MAX_STALENESS, now).is_some());
    assert!(cache.get(&digest(50), false, MAX_STALENESS, now).is_none());
    let state = cache.lock();
    assert!(state.entries.len() <= 10 && state.sessions.len() <= 10, "{}", state.entries.len());
    assert!(state.order.len() <= 20, "{}", state.order.len());
}

#[test]
fn a_read_token_older_than_the_remembered_ends_is_void() {
    let cache = Cache::new();
    let (now, digest) = (Instant::now(), TokenDigest::of("token"));
    cache.feed_received(now);
    let read = cache.begin_read(now).unwrap();
    cache.session_ended("s");
    for number in 0..MAX_ENDED {
        cache.session_ended(&number.to_string());
    }
    assert!(!cache.lock().ended.contains_key("s"), "the end is no longer remembered");
    cache.insert(read, digest, live(now));
    assert!(cache.get(&digest, false, MAX_STALENESS, now).is_none());
    assert_eq!(cache.lock().ended.len(), MAX_ENDED);
}
