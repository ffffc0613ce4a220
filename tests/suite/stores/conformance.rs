//! Conformance of registers, for every store.

use super::test_store::{StoreKind, TestStore, every_store};
use rstest::rstest;
use rstest_reuse::apply;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use latchkey::domain::{
    ports::{Change, Commit, Event, Revision},
    sessions::{SessionEvent, UserSessions},
    throttle::{Attempt, Throttle, ThrottleKey},
    username::Username,
};
use tokio::task::JoinSet;

use super::states::{
    change, change_with, events, now, numbers, samples, state, user, user_ids, user_sessions,
};

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_register_has_the_default_state_at_revision_absent(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    assert_eq!(store.load(&user("alice")).await, (Revision::ABSENT, UserSessions::default()));
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_returns_the_committed_state(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let states = samples(64, &(user_ids(), user_sessions()));
    let mut latest = BTreeMap::new();
    for (user, state) in &states {
        let revision = latest.get(user).map_or(Revision::ABSENT, |(revision, _)| *revision);
        let change = Change { state: state.clone(), ..change(0) };
        latest.insert(user, (store.commit(user, revision, change).await, state.clone()));
    }
    for (user, stands) in latest {
        assert_eq!(store.load(user).await, stands, "{user}");
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_registers_are_read_in_the_order_of_their_keys(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let users: Vec<_> = (0..600).map(|number| user(&format!("user{number}"))).collect();
    for (number, user) in (0..).zip(&users).step_by(3) {
        store.commit(user, Revision::ABSENT, change(number)).await;
    }
    let keys: Vec<_> = users.iter().rev().chain(&users[..10]).collect();
    let reads = store.registers.load_many(&keys).await;
    assert_eq!(reads.len(), keys.len());
    for (key, read) in keys.into_iter().zip(reads) {
        let read = read.unwrap();
        assert_eq!((read.revision, (*read.state).clone()), store.load(key).await, "{key}");
    }
    assert!(store.registers.load_many(&[]).await.is_empty());
    assert_eq!(store.registers.load_many(&[&users[3]]).await.len(), 1);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttle_is_kept_in_a_register_of_its_own(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let key = ThrottleKey::account(&Username::parse("alice").unwrap());
    let now = now();
    let throttle = |failures| Throttle {
        failures,
        since: now,
        attempts: vec![Attempt { id: u64::MAX, until: now.after(Duration::from_secs(30)) }],
        changed_at: now,
    };
    let change = |failures| Change {
        state: throttle(failures),
        keep_until: now.after(Duration::from_hours(1)),
        events: Vec::new(),
    };
    let throttles = &store.throttles;
    assert_eq!(*throttles.load(&key).await.unwrap().state, Throttle::default());
    let committed = throttles.commit(&key, Revision::ABSENT, change(7)).await.unwrap();
    assert!(matches!(committed, Commit::Committed(_)));
    let read = throttles.load(&key).await.unwrap();
    assert_eq!(*read.state, throttle(7));
    let Commit::Conflict(newer) = throttles.commit(&key, Revision::ABSENT, change(8)).await.unwrap() else {
        panic!("the second commit at revision absent succeeded")
    };
    assert_eq!((newer.revision, &*newer.state), (read.revision, &throttle(7)));
    assert_eq!(store.load(&user("alice")).await, (Revision::ABSENT, UserSessions::default()));
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_read_as_they_were_committed(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let end = store.end_of_log().await;
    let events = samples(64, &events());
    let told = events.iter().cloned().map(SessionEvent::Ended);
    store.commit(&user, Revision::ABSENT, Change { events: told.collect(), ..change(1) }).await;
    let (seen, _) = store.drain(end, 100).await;
    let expected = events.into_iter().map(|ended| Event::Ended { user_id: user.clone(), ended });
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_revision_grows_with_every_commit_whatever_the_generation_does(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let mut revision = Revision::ABSENT;
    for generation in [7, 7, 8, 1_700_000_000_000_000, 1_700_000_000_000_000, 3, 0] {
        let next = store.commit(&user, revision, change(generation)).await;
        assert!(next > revision, "{next:?} after {revision:?}");
        revision = next;
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_at_a_stale_revision_changes_nothing_and_returns_the_current_value(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let end = store.end_of_log().await;
    let stale = store.commit(&user, Revision::ABSENT, change(1)).await;
    let current = store.commit(&user, stale, change(2)).await;

    let Commit::Conflict(stands) = store.try_commit(&user, stale, change_with(3, [3])).await else {
        panic!("an update was lost");
    };
    assert_eq!((stands.revision, &*stands.state), (current, &state(2)));
    assert_eq!(store.load(&user).await, (current, state(2)));
    assert_eq!(store.drain(end, 10).await.0, []);
    store.commit(&user, stands.revision, change(3)).await;
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_succeed_and_conflict_each_for_itself(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let users: Vec<_> = (0..600).map(|number| user(&format!("user{number}"))).collect();
    let mut commits = Vec::new();
    for (number, user) in (0..).zip(&users) {
        // A third of the registers is new, a third is changed, and for a third the revision is stale.
        let mut expected = Revision::ABSENT;
        if number % 3 > 0 {
            expected = store.commit(user, expected, change(1)).await;
        }
        if number % 3 > 1 {
            store.commit(user, expected, change(2)).await;
        }
        // Redis makes commits without events in another way.
        let events = (number % 2 > 0).then_some(number);
        commits.push((user, expected, change_with(1000 + number, events)));
    }
    // Of two commits to one register, one is made.
    let again = commits[598].1;
    commits.push((&users[598], again, change(1600)));
    let end = store.end_of_log().await;
    let results = store.registers.commit_many(commits).await;
    assert_eq!(results.len(), 601);
    let mut made = Vec::new();
    for ((number, user), result) in (0..).zip(users.iter().chain(&users[598..599])).zip(results) {
        let stands = store.load(user).await;
        match result.unwrap() {
            Commit::Committed(revision) => {
                assert_eq!(stands, (revision, state(1000 + number)), "{user}");
                made.push((user.as_str(), number));
            }
            Commit::Conflict(newer) => assert_eq!(stands, (newer.revision, (*newer.state).clone()), "{user}"),
        }
    }
    assert_eq!(made.len(), 400);
    assert!(made.iter().all(|(_, number)| number % 3 < 2), "{made:?}");
    let (seen, _) = store.drain(end, 1000).await;
    let mut seen = numbers(&seen);
    seen.sort_unstable();
    made.retain(|(_, number)| number % 2 > 0);
    made.sort_unstable();
    assert_eq!(seen, made);
    assert!(store.registers.commit_many(Vec::new()).await.is_empty());
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_expects_no_value_conflicts_with_a_value(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let current = store.commit(&user, Revision::ABSENT, change(1)).await;
    let Commit::Conflict(stands) = store.try_commit(&user, Revision::ABSENT, change(2)).await else {
        panic!("an update was lost");
    };
    assert_eq!((stands.revision, &*stands.state), (current, &state(1)));
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_expects_a_value_conflicts_with_none(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let Commit::Conflict(stands) = store.try_commit(&user, Revision(1), change_with(2, [2])).await else {
        panic!("the commit to a deleted register succeeded");
    };
    assert_eq!((stands.revision, &*stands.state), (Revision::ABSENT, &UserSessions::default()));
    assert_eq!(store.load(&user).await.0, Revision::ABSENT);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_commit_succeeds_and_appends_its_events_once(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let end = store.end_of_log().await;
    let first = change_with(1, [1, 2]);
    let revision = store.commit(&user, Revision::ABSENT, first.clone()).await;
    assert_eq!(store.commit(&user, Revision::ABSENT, first).await, revision);

    let second = change_with(2, [3]);
    let next = store.commit(&user, revision, second.clone()).await;
    assert_eq!(store.commit(&user, revision, second).await, next);
    assert_eq!(numbers(&store.drain(end, 10).await.0), [("alice", 1), ("alice", 2), ("alice", 3)]);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_commits_at_one_revision_exactly_one_wins(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let end = store.end_of_log().await;
    let revision = store.commit(&user, Revision::ABSENT, change(1)).await;
    let mut commits = JoinSet::new();
    for number in 2..52 {
        let (registers, user) = (Arc::clone(&store.registers), user.clone());
        commits.spawn(async move {
            let outcome = registers.commit(&user, revision, change_with(number, [number])).await.unwrap();
            (number, outcome)
        });
    }
    let outcomes = commits.join_all().await;
    let winners: Vec<_> = outcomes
        .iter()
        .filter_map(|(number, outcome)| matches!(outcome, Commit::Committed(_)).then_some(*number))
        .collect();
    let [winner] = winners[..] else { panic!("{winners:?} have won") };
    assert_eq!(store.load(&user).await.1, state(winner));
    assert_eq!(numbers(&store.drain(end, 100).await.0), [("alice", winner)]);
    for (number, outcome) in &outcomes {
        if let Commit::Conflict(stands) = outcome {
            assert_eq!(*stands.state, state(winner), "the answer to {number}");
        }
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost_under_contention(kind: StoreKind) {
    const TASKS: u64 = 16;
    const EACH: u64 = 20;
    let Some(store) = TestStore::start(kind).await else { return };
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let registers = Arc::clone(&store.registers);
        tasks.spawn(async move {
            let user = user("alice");
            let mut read = registers.load(&user).await.unwrap();
            let mut done = 0;
            while done < EACH {
                let mut next = (*read.state).clone();
                next.generation.0 += 1;
                // The username tells the tasks apart, so that no two make the same commit.
                next.profile.username = format!("{task}.{done}").into();
                let change = Change { state: next, ..change(0) };
                match registers.commit(&user, read.revision, change).await.unwrap() {
                    Commit::Conflict(newer) => read = newer,
                    Commit::Committed(_) => {
                        done += 1;
                        read = registers.load(&user).await.unwrap();
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(store.load(&user("alice")).await.1.generation.0, TASKS * EACH);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_never_see_each_others_registers_whatever_their_ids(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let longest = ["x", "{", "}", "%"].map(|character| character.repeat(128));
    let odd = [
        "*",
        "?",
        "{",
        "}",
        "{}",
        "{1}",
        "}a{b}",
        "a{b}c",
        ":",
        "::",
        "s:a",
        "a:s:b",
        "events",
        "a,b",
        "%",
        "_",
        "'",
        "\"",
        "\\",
        "\\n",
        "';DROP/**/TABLE/**/registers;--",
        "~!@#$%^&*()",
        "alice",
        "ALICE",
        "alice:",
        "-1",
        "0",
        "NULL",
        "[a-z]",
    ];
    let users: Vec<_> = longest.iter().map(String::as_str).chain(odd).map(user).collect();
    let end = store.end_of_log().await;
    for (number, user) in (1..).zip(&users) {
        store.commit(user, Revision::ABSENT, change_with(number, [number])).await;
    }
    for (number, user) in (1..).zip(&users) {
        assert_eq!(store.load(user).await.1, state(number), "{user}");
    }
    let together = store.registers.load_many(&users.iter().collect::<Vec<_>>()).await;
    for ((number, user), read) in (1..).zip(&users).zip(together) {
        assert_eq!(*read.unwrap().state, state(number), "{user}");
    }
    let (seen, _) = store.drain(end, 10).await;
    let mut seen = numbers(&seen);
    seen.sort_by_key(|(_, number)| *number);
    let all: Vec<_> = users.iter().map(latchkey::domain::types::UserId::as_str).zip(1..).collect();
    assert_eq!(seen, all);
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_is_kept_as_long_as_its_commit_demands(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    let mut revision = Revision::ABSENT;
    for (generation, hours) in [(1, 24), (2, 1), (3, 48)] {
        let keep = Duration::from_hours(hours);
        let change = Change { keep_until: now().after(keep), ..change(generation) };
        revision = store.commit(&user, revision, change).await;
        let off = store.time_left(&user).await.abs_diff(keep);
        assert!(off < Duration::from_secs(5), "{off:?} off of {keep:?}");
    }
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_is_deleted_once_it_may_be(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let (short, long) = (user("short"), user("long"));
    let kept = Change { keep_until: now().after(Duration::from_hours(1)), ..change(1) };
    store.commit(&long, Revision::ABSENT, kept).await;
    let brief = Change { keep_until: now().after(Duration::from_millis(300)), ..change(5) };
    let old = store.commit(&short, Revision::ABSENT, brief).await;
    assert_eq!(store.load(&short).await, (old, state(5)));

    store.pass(Duration::from_millis(400)).await;
    assert_eq!(store.load(&short).await, (Revision::ABSENT, UserSessions::default()));
    assert_eq!(store.load(&long).await.1, state(1));
    // A commit at the old revision conflicts.
    let Commit::Conflict(stands) = store.try_commit(&short, old, change(6)).await else {
        panic!("the commit to a deleted register succeeded");
    };
    assert_eq!(stands.revision, Revision::ABSENT);
    store.commit(&short, Revision::ABSENT, change(6)).await;
}

#[apply(every_store)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_to_be_kept_until_a_past_time_is_deleted_soon(kind: StoreKind) {
    let Some(store) = TestStore::start(kind).await else { return };

    let user = user("alice");
    for past in [now(), latchkey::domain::types::Timestamp::from_micros(0)] {
        let change = Change { keep_until: past, ..change(1) };
        let outcome = store.try_commit(&user, Revision::ABSENT, change).await;
        assert!(matches!(outcome, Commit::Committed(_)), "{outcome:?}");
        store.pass(Duration::from_millis(10)).await;
        assert_eq!(store.load(&user).await.0, Revision::ABSENT);
    }
}
