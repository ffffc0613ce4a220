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
}

/// Every order in which two readers and two changes, each told some time later, can meet.
fn orders() -> Vec<Vec<Step>> {
    fn go(steps: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        let count = |step: Step| steps.iter().filter(|taken| **taken == step).count();
        let (changes, told) = (count(Step::Change), count(Step::Tell));
        let mut possible = Vec::new();
        possible.extend((changes < 2).then_some(Step::Change));
        possible.extend((told < changes).then_some(Step::Tell));
        for reader in 0..2 {
            let next = [Step::Begin(reader), Step::Read(reader), Step::Remember(reader)];
            possible.extend(next.into_iter().find(|step| count(*step) == 0));
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

/// Whether what is held is right after each of the steps: once every change was told, it is what is stored; and
/// it never goes back.
fn holds(steps: &[Step], with_tickets: bool) -> bool {
    let entries = Entries::new(1 << 20);
    let (mut stored, mut untold) = (1, 0);
    let mut readers = [(Ticket(0), 0); 2];
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
    let orders = orders();
    assert!(orders.len() > 2000, "{}", orders.len());
    for steps in orders {
        assert!(holds(&steps, true), "{steps:?}");
    }
}

#[test]
fn without_tickets_there_are_orders_in_which_one_stays() {
    assert!(orders().iter().any(|steps| !holds(steps, false)));
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
fn it_holds_no_more_than_it_may() {
    let entries = Entries::new(100_000);
    for number in 0..10_000 {
        let user = UserId::parse(&format!("user{number}")).unwrap();
        entries.end_read(&user, &value(1), entries.begin_read(&user));
    }
    assert!(entries.cache.weight() <= 100_000, "{}", entries.cache.weight());
    assert!(entries.cache.len() > 100, "{}", entries.cache.len());
}
