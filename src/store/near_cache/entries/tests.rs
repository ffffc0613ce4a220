use std::sync::Arc;

use super::*;
use crate::domain::types::Generation;

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

fn value(revision: u64) -> Versioned<UserSessions> {
    let state = UserSessions { generation: Generation(revision), ..UserSessions::default() };
    Versioned { revision: Revision(revision), state: Arc::new(state) }
}

fn cached(entries: &Entries) -> Option<u64> {
    entries.get(&alice()).map(|cached| cached.revision.0)
}

/// The steps of which all orders are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The value changes in the store.
    Change,
    /// The event of a change arrives.
    Event,
    /// A reader takes a ticket ...
    Begin(usize),
    /// ... reads the store ...
    Read(usize),
    /// ... and caches what it has read.
    Fill(usize),
    /// A writer of this process takes a ticket ...
    BeginWrite,
    /// ... commits to the store, for which no event arrives ...
    Write,
    /// ... and caches what it has committed.
    EndWrite,
}

/// Returns every order of the steps of two readers, `changes` changes with their events, and perhaps a writer.
fn orders(changes: usize, writer: bool) -> Vec<Vec<Step>> {
    fn extend(total: usize, writer: bool, steps: &mut Vec<Step>, orders: &mut Vec<Vec<Step>>) {
        let count = |step: Step| steps.iter().filter(|taken| **taken == step).count();
        let (changed, reported) = (count(Step::Change), count(Step::Event));
        let mut possible = Vec::new();
        possible.extend((changed < total).then_some(Step::Change));
        possible.extend((reported < changed).then_some(Step::Event));
        let readers = (0..2).map(|reader| [Step::Begin(reader), Step::Read(reader), Step::Fill(reader)]);
        let writers = writer.then_some([Step::BeginWrite, Step::Write, Step::EndWrite]);
        for next in readers.chain(writers) {
            possible.extend(next.into_iter().find(|step| count(*step) == 0));
        }
        if possible.is_empty() {
            orders.push(steps.clone());
        }
        for step in possible {
            steps.push(step);
            extend(total, writer, steps, orders);
            steps.pop();
        }
    }
    let mut orders = Vec::new();
    extend(changes, writer, &mut Vec::new(), &mut orders);
    orders
}

/// Whether the cache is right after each step: once the events of all changes have arrived, it holds what is stored,
/// and its revision never decreases without an event.
fn is_consistent(steps: &[Step], with_tickets: bool) -> bool {
    let entries = Entries::new(1 << 20);
    let (mut stored, mut pending) = (1, 0);
    let none = ReadTicket { invalidations: 0, as_of: 0 };
    let mut readers = [(none, 0); 2];
    let mut writer = (none, 0);
    let mut previous = None;
    for step in steps {
        match *step {
            Step::Change => (stored, pending) = (stored + 1, pending + 1),
            Step::Event => {
                pending -= 1;
                entries.invalidate(&alice());
                previous = None;
            }
            Step::Begin(number) => readers[number].0 = entries.begin_read(&alice()),
            Step::Read(number) => readers[number].1 = stored,
            Step::Fill(number) => {
                let (ticket, read) = readers[number];
                let ticket = if with_tickets { ticket } else { entries.begin_read(&alice()) };
                entries.end_read(&alice(), &value(read), ticket);
            }
            Step::BeginWrite => writer.0 = entries.begin_read(&alice()),
            Step::Write => {
                (stored, pending) = (stored + 1, pending + 1);
                writer.1 = stored;
            }
            Step::EndWrite => {
                pending -= 1;
                let ticket = if with_tickets { writer.0 } else { entries.begin_read(&alice()) };
                entries.end_commit(&alice(), value(writer.1), ticket);
                previous = None;
            }
        }
        let cached = cached(&entries);
        if pending == 0 && cached.is_some_and(|cached| cached != stored) || cached < previous {
            return false;
        }
        previous = cached;
    }
    true
}

#[test]
fn no_order_of_steps_leaves_a_changed_value_in_the_cache() {
    for (orders, at_least) in [(orders(2, false), 2000), (orders(1, true), 50_000)] {
        assert!(orders.len() > at_least, "{}", orders.len());
        for steps in orders {
            assert!(is_consistent(&steps, true), "{steps:?}");
        }
    }
}

#[test]
fn without_tickets_some_orders_leave_a_changed_value_in_the_cache() {
    assert!(orders(2, false).iter().any(|steps| !is_consistent(steps, false)));
    let only_writes = |steps: &Vec<Step>| {
        let at = |step| steps.iter().position(|taken| *taken == step);
        // No reader takes part before the writer has finished.
        [0, 1].into_iter().all(|reader| at(Step::Begin(reader)) > at(Step::EndWrite))
    };
    assert!(
        orders(1, true).iter().filter(|steps| only_writes(steps)).any(|steps| !is_consistent(steps, false))
    );
}

#[test]
fn a_read_before_a_commit_is_not_cached_after_it_even_if_the_commit_was_evicted() {
    let entries = Entries::new(1 << 20);
    let (reader, writer) = (entries.begin_read(&alice()), entries.begin_read(&alice()));
    entries.end_commit(&alice(), value(2), writer);
    entries.cache.remove(&alice());
    entries.end_read(&alice(), &value(1), reader);
    assert_eq!(cached(&entries), None);
}

#[test]
fn an_entry_is_used_only_while_the_log_was_read_recently() {
    let entries = Entries::new(1 << 20);
    let bound = Duration::from_secs(1);
    let now = Instant::now();
    entries.end_read(&alice(), &value(1), entries.begin_read(&alice()));
    assert!(entries.get_as_of(&alice(), now, bound).is_none(), "the log has not been read yet");
    entries.mark_current(now);
    assert!(entries.get_as_of(&alice(), now + bound, bound).is_some());
    assert!(entries.get_as_of(&alice(), now + bound * 2, bound).is_none());
    entries.mark_current(now + bound);
    assert!(entries.get_as_of(&alice(), now + bound * 2, bound).is_some());
    entries.invalidate_all();
    assert!(entries.get(&alice()).is_none());
    assert!(entries.get_as_of(&alice(), now, bound).is_none());
}

#[test]
fn an_entry_beyond_its_maximum_age_is_not_used_although_the_log_is_followed() {
    let entries = Entries::new(1 << 20);
    let second = Duration::from_secs(1);
    let read = Instant::now() + second;
    let at = |after: Duration| ReadTicket { invalidations: 0, as_of: entries.micros(read + after) };
    entries.end_read(&alice(), &value(2), at(Duration::ZERO));
    let answers = |at: Instant| {
        entries.mark_current(at);
        entries.get_as_of(&alice(), at, second).is_some()
    };
    assert!(answers(read) && answers(read + MAX_AGE));
    assert!(!answers(read + MAX_AGE + second));
    assert!(entries.get(&alice()).is_some(), "a process that is the only writer ignores the age");
    // A later read renews the entry; an earlier one does not make it older.
    entries.end_read(&alice(), &value(2), at(MAX_AGE));
    entries.end_read(&alice(), &value(2), at(second));
    assert!(answers(read + MAX_AGE * 2));
    // A lower revision comes from an older read, unless the entry is beyond its age: then the store was rolled back.
    entries.end_read(&alice(), &value(1), at(MAX_AGE * 2));
    assert_eq!(cached(&entries), Some(2));
    entries.end_read(&alice(), &value(1), at(MAX_AGE * 3));
    assert_eq!(cached(&entries), Some(1));
}

#[test]
fn reading_an_absent_register_removes_its_entry() {
    let entries = Entries::new(1 << 20);
    entries.end_read(&alice(), &value(1), entries.begin_read(&alice()));
    let before = entries.begin_read(&alice());
    entries.invalidate(&alice());
    entries.end_read(&alice(), &value(2), entries.begin_read(&alice()));
    entries.end_read(&alice(), &value(0), before);
    assert_eq!(cached(&entries), Some(2), "a read from before an event does not count");
    entries.end_read(&alice(), &value(0), entries.begin_read(&alice()));
    assert_eq!(cached(&entries), None);
}

#[test]
fn the_cache_stays_within_its_size() {
    let entries = Entries::new(100_000);
    for number in 0..10_000 {
        let user = UserId::parse(&format!("user{number}")).unwrap();
        entries.end_read(&user, &value(1), entries.begin_read(&user));
    }
    assert!(entries.cache.weight() <= 100_000, "{}", entries.cache.weight());
    assert!(entries.cache.len() > 100, "{}", entries.cache.len());
}

#[test]
fn commits_that_are_made_together_stay_cached() {
    let entries = Entries::new(1 << 20);
    // Several for each shard.
    let users: Vec<_> =
        (0..4 * SHARDS).map(|number| UserId::parse(&format!("user{number}")).unwrap()).collect();
    let mut commits: Vec<_> = users.iter().map(|user| (user, value(2), entries.begin_read(user))).collect();
    let earlier = entries.begin_read(&users[1]);
    entries.invalidate(&alice());
    let alice = alice();
    let overtaken =
        commits.iter().filter(|(user, ..)| entries.shard_index(user) == entries.shard_index(&alice));
    let overtaken = overtaken.count();
    commits.reverse();
    entries.end_commits(commits);
    let cached = users.iter().filter(|user| entries.get(user).is_some()).count();
    assert_eq!(cached, users.len() - overtaken, "only an invalidation from outside voids their tickets");
    entries.end_read(&users[1], &value(3), earlier);
    assert_ne!(entries.get(&users[1]).map(|cached| cached.revision.0), Some(3), "earlier tickets are void");
}
