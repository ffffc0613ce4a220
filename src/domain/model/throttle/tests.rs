use proptest::prelude::*;

use super::*;
use crate::domain::{types::UserId, username::Username};

const SECOND: Duration = Duration::from_secs(1);
const ACCOUNT: ThrottleRule = ThrottleRule::Account {
    free: 5,
    first_wait: SECOND,
    longest_wait: Duration::from_mins(15),
    lock_after: 100,
};
const ADDRESS: ThrottleRule = ThrottleRule::Address { failures: 10, window: Duration::from_secs(100) };

fn start() -> Timestamp {
    Timestamp::from_secs(1_000_000)
}

fn failed(rule: ThrottleRule, times: u32, now: Timestamp) -> Throttle {
    let mut state = Throttle::default();
    for _ in 0..times {
        state.fail(rule, now);
    }
    state
}

#[test]
fn the_first_failures_are_free_and_the_waits_double() {
    let waits: Vec<_> = (0..=16)
        .map(|failures| match failed(ACCOUNT, failures, start()).begin(ACCOUNT, 1, start()) {
            Ok(_) => 0,
            Err(Throttled::Wait(wait)) => wait.as_secs(),
            Err(other) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
}

#[test]
fn a_wait_ends_to_the_microsecond() {
    let state = failed(ACCOUNT, 5, start());
    let end = start().after(SECOND);
    let before = Timestamp::from_micros(end.as_micros() - 1);
    assert_eq!(state.begin(ACCOUNT, 1, before), Err(Throttled::Wait(Duration::from_micros(1))));
    assert!(state.begin(ACCOUNT, 1, end).is_ok());
}

#[test]
fn the_hundredth_failure_locks_the_account() {
    let state = failed(ACCOUNT, 100, start());
    let in_a_year = start().after(Duration::from_hours(24 * 365));
    assert_eq!(state.begin(ACCOUNT, 1, in_a_year), Err(Throttled::Locked));
    assert!(state.keep_until(ACCOUNT) > in_a_year, "a locked account is not forgotten");
    assert!(failed(ACCOUNT, 99, start()).begin(ACCOUNT, 1, in_a_year).is_ok());
}

#[test]
fn a_right_password_clears_an_account_but_not_an_address() {
    let state = failed(ACCOUNT, 7, start());
    let later = start().after(Duration::from_secs(5));
    let state = state.begin(ACCOUNT, 1, later).unwrap().finish(ACCOUNT, 1, Outcome::Right, later);
    assert_eq!((state.failures, state.attempts.len()), (0, 0));

    let state = failed(ADDRESS, 7, start()).begin(ADDRESS, 1, start()).unwrap();
    assert_eq!(state.finish(ADDRESS, 1, Outcome::Right, start()).failures, 7);
}

#[test]
fn an_attempt_that_was_not_checked_leaves_no_trace() {
    for rule in [ACCOUNT, ADDRESS] {
        let before = failed(rule, 3, start()).at(rule, start());
        let after = before.begin(rule, 1, start()).unwrap().finish(rule, 1, Outcome::NotChecked, start());
        assert_eq!(after, before);
    }
}

#[test]
fn an_attempt_without_an_outcome_fails_once() {
    let state = Throttle::default().begin(ACCOUNT, 1, start()).unwrap();
    let later = start().after(ATTEMPT_TTL);
    assert_eq!(state.at(ACCOUNT, later).failures, 1);
    assert_eq!(state.finish(ACCOUNT, 1, Outcome::Wrong, later).failures, 1);
    assert_eq!(state.finish(ACCOUNT, 1, Outcome::Right, later).failures, 0);
}

#[test]
fn the_failures_of_an_address_are_forgotten_one_by_one() {
    let state = failed(ADDRESS, 10, start());
    assert_eq!(state.begin(ADDRESS, 1, start()), Err(Throttled::Wait(Duration::from_secs(10))));
    let later = start().after(Duration::from_secs(10));
    let next = state.begin(ADDRESS, 1, later).unwrap();
    assert_eq!(next.begin(ADDRESS, 2, later), Err(Throttled::Busy), "one at a time");
    let much_later = start().after(Duration::from_secs(100));
    assert_eq!(state.at(ADDRESS, much_later).failures, 0);
}

#[test]
fn an_expired_attempt_is_forgotten_once() {
    let mut state = failed(ADDRESS, 6, start());
    for id in 0..4 {
        state = state.begin(ADDRESS, id, start()).unwrap();
    }
    // Seven failures are forgotten, all of them after the four attempts have expired.
    let later = start().after(Duration::from_secs(77));
    assert_eq!(state.at(ADDRESS, later).failures, 3);
    assert_eq!(state.at(ADDRESS, later).at(ADDRESS, later), state.at(ADDRESS, later));
}

#[test]
fn a_throttle_without_failures_can_be_forgotten_at_once() {
    let state = Throttle::default().begin(ACCOUNT, 1, start()).unwrap();
    assert!(state.keep_until(ACCOUNT) > start().after(ATTEMPT_TTL), "an attempt is pending");
    let state = state.finish(ACCOUNT, 1, Outcome::Right, start());
    assert_eq!(state.keep_until(ACCOUNT), start().after(KEEP_MARGIN));
}

#[test]
fn addresses_count_by_network_and_usernames_by_their_comparison_key() {
    let address = |text: &str| ThrottleKey::address(text.parse().unwrap());
    assert_eq!(address("2001:db8:0:7::1"), address("2001:db8:0:7:ffff::2"));
    assert_ne!(address("2001:db8:0:7::1"), address("2001:db8:0:8::1"));
    assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    let wider = |text: &str, bits| ThrottleKey::wider(text.parse().unwrap(), bits);
    assert_eq!(wider("2001:db8:0:7::1", 56), wider("2001:db8:0:ff::1", 56));
    assert_ne!(wider("2001:db8:0:7::1", 56), wider("2001:db8:0:107::1", 56));
    assert_eq!(wider("2001:db8:0:7::1", 48), wider("2001:db8:0:107::1", 48));
    assert_ne!(wider("2001:db8:0:7::1", 48), wider("2001:db8:1:7::1", 48));
    assert_eq!((wider("192.0.2.1", 48), wider("::ffff:192.0.2.1", 56)), (None, None));
    let id = UserId::parse("alice").unwrap();
    let alice = Username::parse("alice").unwrap();
    let keys = [
        ThrottleKey::user(&id),
        ThrottleKey::known_clients(&id),
        ThrottleKey::account(&alice),
        ThrottleKey::nobody(&alice),
    ];
    assert!((0..4).all(|one| (0..one).all(|other| keys[one] != keys[other])), "{keys:?}");
    let name = |text: &str| ThrottleKey::account(&Username::parse(text).unwrap());
    assert_eq!(name("Alice"), name("aLICE"));
    assert_ne!(name("alice"), name("bob"));
    assert!(!name("hunter2").as_str().contains("hunter2"));
}

/// A step of an attacker or of the clock.
#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// Ends the pending attempt with this index.
    End(usize, Outcome),
    /// A replica crashes, and the attempt never ends.
    Lose(usize),
    Wait(u32),
}

fn steps(outcomes: impl Strategy<Value = Outcome> + Clone + 'static) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Begin),
        4 => (0..8_usize, outcomes).prop_map(|(index, outcome)| Step::End(index, outcome)),
        1 => (0..8_usize).prop_map(Step::Lose),
        3 => (0..2_000_000_u32).prop_map(Step::Wait),
        1 => (0..1_000_000_000_u32).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..400)
}

/// The checks that a run of steps allowed.
#[derive(Default)]
struct Run {
    checked: Vec<Timestamp>,
    state: Throttle,
}

fn run(
    rule: ThrottleRule,
    steps: &[Step],
    begin: impl Fn(&Throttle, AttemptId, Timestamp) -> Option<Throttle>,
) -> Run {
    let (mut now, mut id, mut pending, mut run) = (start(), 0, Vec::new(), Run::default());
    for step in steps {
        match *step {
            Step::Begin => {
                id += 1;
                if let Some(next) = begin(&run.state, id, now) {
                    run.state = next;
                    pending.push(id);
                    run.checked.push(now);
                }
            }
            Step::End(index, outcome) if index < pending.len() => {
                let id = pending.remove(index);
                run.state = run.state.finish(rule, id, outcome, now);
            }
            Step::Lose(index) if index < pending.len() => drop(pending.remove(index)),
            Step::Wait(micros) => now = now.after(Duration::from_micros(micros.into())),
            Step::End(..) | Step::Lose(_) => {}
        }
    }
    run
}

/// `begin` without counting pending attempts.
fn forgetful(rule: ThrottleRule) -> impl Fn(&Throttle, AttemptId, Timestamp) -> Option<Throttle> {
    move |state, id, now| {
        let alone = Throttle { attempts: Vec::new(), ..state.clone() };
        let mut next = alone.begin(rule, id, now).ok()?;
        next.attempts.extend(&state.attempts);
        Some(next)
    }
}

const SMALL: ThrottleRule =
    ThrottleRule::Account { free: 3, first_wait: SECOND, longest_wait: SECOND, lock_after: 8 };

proptest! {
    #[test]
    fn no_interleaving_checks_more_wrong_passwords_than_the_limit(steps in steps(Just(Outcome::Wrong))) {
        let run = run(SMALL, &steps, |state, id, now| state.begin(SMALL, id, now).ok());
        prop_assert!(run.checked.len() <= 8, "{} were checked", run.checked.len());
    }

    #[test]
    fn after_the_free_failures_every_check_waits(steps in steps(Just(Outcome::Wrong))) {
        let run = run(SMALL, &steps, |state, id, now| state.begin(SMALL, id, now).ok());
        for pair in run.checked.windows(2).skip(3) {
            prop_assert!(pair[1].since(pair[0]) >= SECOND);
        }
    }

    #[test]
    fn an_address_stays_within_its_failures(steps in steps(Just(Outcome::Wrong))) {
        let run = run(ADDRESS, &steps, |state, id, now| state.begin(ADDRESS, id, now).ok());
        for (index, first) in run.checked.iter().enumerate() {
            let in_window =
                run.checked[index..].iter().take_while(|at| at.since(*first) < Duration::from_secs(100)).count();
            // Ten failures at once, and ten that are forgotten meanwhile.
            prop_assert!(in_window <= 20, "{in_window} in one window");
        }
    }

    #[test]
    fn pending_attempts_stay_within_the_free_failures(steps in steps(prop_oneof![
        3 => Just(Outcome::Wrong), 1 => Just(Outcome::Right), 1 => Just(Outcome::NotChecked),
    ])) {
        let run = run(SMALL, &steps, |state, id, now| state.begin(SMALL, id, now).ok());
        let pending = u32::try_from(run.state.attempts.len()).unwrap();
        prop_assert!(pending <= 3);
    }
}

#[test]
fn without_counting_pending_attempts_the_limit_would_not_hold() {
    let steps = vec![Step::Begin; 50];
    assert_eq!(run(SMALL, &steps, |state, id, now| state.begin(SMALL, id, now).ok()).checked.len(), 3);
    assert_eq!(run(SMALL, &steps, forgetful(SMALL)).checked.len(), 50);
}

#[test]
fn a_failure_in_the_future_counts_as_one_of_now() {
    let a_day_ahead = start().after(Duration::from_hours(24));
    for (rule, longest) in [(ACCOUNT, SECOND), (ADDRESS, Duration::from_secs(10))] {
        let times = if rule == ACCOUNT { 5 } else { 10 };
        let mut state = failed(rule, times, a_day_ahead);
        assert_eq!(state.begin(rule, 1, start()), Err(Throttled::Wait(longest)));
        assert!(state.is_ahead(start()), "its wait does not pass");
        state = state.at(rule, start());
        assert!(!state.is_ahead(start()));
        assert!(state.begin(rule, 1, start().after(longest)).is_ok());
    }
    // The same holds for attempts in the future.
    let mut state = Throttle::default();
    for id in 0..5 {
        state = state.begin(ACCOUNT, id, a_day_ahead).unwrap();
    }
    assert_eq!(state.begin(ACCOUNT, 9, start()), Err(Throttled::Busy));
    let later = state.at(ACCOUNT, start()).at(ACCOUNT, start().after(ATTEMPT_TTL));
    assert!(later.begin(ACCOUNT, 9, start().after(ATTEMPT_TTL + SECOND)).is_ok());
}

/// Jumps of the clock while wrong passwords are tried, once in a second of real time.
fn jumps() -> impl Strategy<Value = Vec<Option<i64>>> {
    let jump = prop_oneof![30 => Just(None), 1 => (-200_000..200_000_i64).prop_map(Some)];
    prop::collection::vec(jump, 0..400)
}

proptest! {
    #[test]
    fn no_clock_jump_makes_a_wait_longer_than_the_longest(jumps in jumps()) {
        let longest = Duration::from_secs(8);
        let rule = ThrottleRule::Account { free: 2, first_wait: SECOND, longest_wait: longest, lock_after: 1000 };
        let (mut state, mut clock, mut waited) = (Throttle::default(), start(), Duration::ZERO);
        for (id, jump) in (0..).zip(jumps) {
            clock = clock.after(SECOND);
            waited += SECOND;
            match jump {
                Some(seconds @ 0..) => clock = clock.after(Duration::from_secs(seconds.unsigned_abs())),
                Some(seconds) => {
                    clock = clock.before(Duration::from_secs(seconds.unsigned_abs()));
                    // The time that passed before the jump is not known.
                    waited = Duration::ZERO;
                }
                None => {}
            }
            match state.begin(rule, id, clock) {
                Ok(next) => {
                    state = next.finish(rule, id, Outcome::Wrong, clock);
                    waited = Duration::ZERO;
                }
                Err(Throttled::Wait(wait)) => {
                    prop_assert!(wait <= longest && waited < longest, "{wait:?} more after {waited:?}");
                    if state.is_ahead(clock) {
                        state = state.at(rule, clock);
                    }
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
