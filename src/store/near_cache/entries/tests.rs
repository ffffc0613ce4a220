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

fn held(entries: &Entries) -> Option<u64> {
    entries.get(&alice()).map(|held| held.revision.0)
}

/// What can happen, in the steps in which one can be overtaken by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The value changes in the store.
    Change,
    /// A change is told.
    Tell,
    /// A reader takes a ticket ...
    Begin(usize),
    /// ... reads the store ...
    Read(usize),
    /// ... and remembers what it has read.
    Remember(usize),
    /// A writer of this process takes a ticket ...
    BeginWrite,
    /// ... writes to the store, which nobody tells of ...
    Write,
    /// ... and remembers what it has written.
    EndWrite,
}

/// Every order in which two readers, so many changes, each told some time later, and perhaps a writer can meet.
fn orders(changes: usize, writer: bool) -> Vec<Vec<Step>> {
    fn go(all: usize, writer: bool, steps: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        let count = |step: Step| steps.iter().filter(|taken| **taken == step).count();
        let (changes, told) = (count(Step::Change), count(Step::Tell));
        let mut possible = Vec::new();
        possible.extend((changes < all).then_some(Step::Change));
        possible.extend((told < changes).then_some(Step::Tell));
        let readers = (0..2).map(|reader| [Step::Begin(reader), Step::Read(reader), Step::Remember(reader)]);
        let writers = writer.then_some([Step::BeginWrite, Step::Write, Step::EndWrite]);
        for next in readers.chain(writers) {
            possible.extend(next.into_iter().find(|step| count(*step) == 0));
        }
        if possible.is_empty() {
            found.push(steps.clone());
        }
        for step in possible {
            steps.push(step);
            go(all, writer, steps, found);
            steps.pop();
        }
    }
    let mut found = Vec::new();
    go(changes, writer, &mut Vec::new(), &mut found);
    found
}

/// Whether what is held is right after each of the steps: once every change was told, it is what is stored; and
/// it never goes back.
fn holds(steps: &[Step], with_tickets: bool) -> bool {
    let entries = Entries::new(1 << 20);
    let (mut stored, mut untold) = (1, 0);
    let none = ReadToken { forgotten: 0, as_of: 0 };
    let mut readers = [(none, 0); 2];
    let mut writer = (none, 0);
    let mut before = None;
    for step in steps {
        match *step {
            Step::Change => (stored, untold) = (stored + 1, untold + 1),
            Step::Tell => {
                untold -= 1;
                entries.forget(&alice());
                before = None;
            }
            Step::Begin(number) => readers[number].0 = entries.begin_read(&alice()),
            Step::Read(number) => readers[number].1 = stored,
            Step::Remember(number) => {
                let (ticket, read) = readers[number];
                let ticket = if with_tickets { ticket } else { entries.begin_read(&alice()) };
                entries.end_read(&alice(), &value(read), ticket);
            }
            Step::BeginWrite => writer.0 = entries.begin_read(&alice()),
            Step::Write => {
                (stored, untold) = (stored + 1, untold + 1);
                writer.1 = stored;
            }
            Step::EndWrite => {
                untold -= 1;
                let ticket = if with_tickets { writer.0 } else { entries.begin_read(&alice()) };
                entries.end_commit(&alice(), value(writer.1), ticket);
                before = None;
            }
        }
        let held = held(&entries);
        if untold == 0 && held.is_some_and(|held| held != stored) || held < before {
            return false;
        }
        before = held;
    }
    true
}

#[test]
fn in_no_order_a_value_stays_that_was_told_to_have_changed() {
    for (orders, at_least) in [(orders(2, false), 2000), (orders(1, true), 50_000)] {
        assert!(orders.len() > at_least, "{}", orders.len());
        for steps in orders {
            assert!(holds(&steps, true), "{steps:?}");
        }
    }
}

#[test]
fn without_tickets_there_are_orders_in_which_one_stays() {
    assert!(orders(2, false).iter().any(|steps| !holds(steps, false)));
    let only_writes = |steps: &Vec<Step>| {
        let at = |step| steps.iter().position(|taken| *taken == step);
        // No reader comes between.
        [0, 1].into_iter().all(|reader| at(Step::Begin(reader)) > at(Step::EndWrite))
    };
    assert!(orders(1, true).iter().filter(|steps| only_writes(steps)).any(|steps| !holds(steps, false)));
}

#[test]
fn what_was_read_before_a_write_is_not_remembered_after_it_even_where_there_was_no_room_for_the_write() {
    let entries = Entries::new(1 << 20);
    let (reader, writer) = (entries.begin_read(&alice()), entries.begin_read(&alice()));
    entries.end_commit(&alice(), value(2), writer);
    entries.cache.remove(&alice());
    entries.end_read(&alice(), &value(1), reader);
    assert_eq!(held(&entries), None);
}

#[test]
fn an_entry_answers_only_while_the_log_was_seen_recently_enough() {
    let entries = Entries::new(1 << 20);
    let bound = Duration::from_secs(1);
    let now = Instant::now();
    entries.end_read(&alice(), &value(1), entries.begin_read(&alice()));
    assert!(entries.get_as_of(&alice(), now, bound).is_none(), "the log has not been seen yet");
    entries.seen_until(now);
    assert!(entries.get_as_of(&alice(), now + bound, bound).is_some());
    assert!(entries.get_as_of(&alice(), now + bound * 2, bound).is_none());
    entries.seen_until(now + bound);
    assert!(entries.get_as_of(&alice(), now + bound * 2, bound).is_some());
    entries.lose_sight();
    assert!(entries.get(&alice()).is_none());
    assert!(entries.get_as_of(&alice(), now, bound).is_none());
}

#[test]
fn an_entry_that_was_read_long_ago_answers_no_more_although_the_log_is_seen() {
    let entries = Entries::new(1 << 20);
    let second = Duration::from_secs(1);
    let read = Instant::now() + second;
    let at = |after: Duration| ReadToken { forgotten: 0, as_of: entries.micros(read + after) };
    entries.end_read(&alice(), &value(2), at(Duration::ZERO));
    let answers = |at: Instant| {
        entries.seen_until(at);
        entries.get_as_of(&alice(), at, second).is_some()
    };
    assert!(answers(read) && answers(read + MAX_AGE));
    assert!(!answers(read + MAX_AGE + second));
    assert!(entries.get(&alice()).is_some(), "where nobody else writes, that makes no difference");
    // Read again, it is as good as new; a read that began before does not make it older.
    entries.end_read(&alice(), &value(2), at(MAX_AGE));
    entries.end_read(&alice(), &value(2), at(second));
    assert!(answers(read + MAX_AGE * 2));
    // A lower revision is that of an older read, unless what is held is old: then the store has gone back.
    entries.end_read(&alice(), &value(1), at(MAX_AGE * 2));
    assert_eq!(held(&entries), Some(2));
    entries.end_read(&alice(), &value(1), at(MAX_AGE * 3));
    assert_eq!(held(&entries), Some(1));
}

#[test]
fn a_register_that_is_found_gone_is_forgotten() {
    let entries = Entries::new(1 << 20);
    entries.end_read(&alice(), &value(1), entries.begin_read(&alice()));
    let before = entries.begin_read(&alice());
    entries.forget(&alice());
    entries.end_read(&alice(), &value(2), entries.begin_read(&alice()));
    entries.end_read(&alice(), &value(0), before);
    assert_eq!(held(&entries), Some(2), "what was read before something was told does not count");
    entries.end_read(&alice(), &value(0), entries.begin_read(&alice()));
    assert_eq!(held(&entries), None);
}

#[test]
fn it_holds_no_more_than_it_may() {
    let entries = Entries::new(100_000);
    for number in 0..10_000 {
        let user = UserId::parse(&format!("user{number}")).unwrap();
        entries.end_read(&user, &value(1), entries.begin_read(&user));
    }
    assert!(entries.cache.weight() <= 100_000, "{}", entries.cache.weight());
    assert!(entries.cache.len() > 100, "{}", entries.cache.len());
}
