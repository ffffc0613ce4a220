use proptest::{collection::vec, prelude::*};

use super::*;

const START: u64 = 1_700_000_000;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(START + secs)
}

fn cursor(text: &str) -> Cursor {
    Cursor(text.to_owned())
}

#[test]
fn a_lease_is_taken_once_and_again_after_it_has_run_out() {
    let first = Delivery::default().take(1, at(0)).unwrap();
    assert_eq!(first.lease, Some(Lease { holder: 1, until: at(0).after(LEASE) }));
    assert_eq!(first.take(2, Timestamp::from_micros(at(0).after(LEASE).as_micros() - 1)), None);
    let second = first.take(2, at(0).after(LEASE)).unwrap();
    assert_eq!(second.lease.unwrap().holder, 2);
    // Who comes back after that has nothing left.
    assert_eq!(second.keep(1, None, at(11)), None);
    assert_eq!(second.release(1, None, at(11)), None);
    // One's own is taken again at any time.
    assert!(first.take(1, at(1)).is_some());
}

#[test]
fn the_holder_stops_before_the_lease_can_be_anothers() {
    let taken = Delivery::default().take(1, at(0)).unwrap();
    assert_eq!(taken.good_for(at(0)) + MARGIN, LEASE);
    assert_eq!(taken.good_for(at(5)), Duration::ZERO);
    assert_eq!(taken.good_for(at(100)), Duration::ZERO);
    assert_eq!(Delivery::default().good_for(at(0)), Duration::ZERO);
}

#[test]
fn a_lease_that_is_renewed_stays_and_so_does_the_cursor() {
    let taken = Delivery::default().take(1, at(0)).unwrap();
    let kept = taken.keep(1, Some(&cursor("7")), at(4)).unwrap();
    assert_eq!((kept.cursor.clone(), kept.lease.unwrap().until), (Some(cursor("7")), at(14)));
    let kept = kept.keep(1, None, at(9)).unwrap();
    assert_eq!(kept.cursor, Some(cursor("7")));
    assert_eq!(kept.take(2, at(18)), None);
    // Run out, and nobody has come.
    assert!(kept.keep(1, None, at(1000)).is_some());
    assert_eq!(kept.take(2, at(1000)).unwrap().cursor, Some(cursor("7")));
}

#[test]
fn a_lease_that_is_given_up_is_free_at_once() {
    let taken = Delivery::default().take(1, at(0)).unwrap();
    let free = taken.release(1, Some(&cursor("7")), at(1)).unwrap();
    assert_eq!((free.lease, free.cursor.clone()), (None, Some(cursor("7"))));
    assert_eq!(free.take(2, at(1)).unwrap().lease.unwrap().holder, 2);
    assert_eq!(free.keep(1, None, at(1)), None);
}

#[test]
fn a_clock_that_was_far_ahead_holds_nobody_up_for_long() {
    let taken = Delivery::default().take(1, at(1_000_000)).unwrap();
    assert!(taken.take(2, at(0)).is_some());
    // Ahead by what clocks may differ is nothing unusual.
    let taken = Delivery::default().take(1, at(0).after(MARGIN)).unwrap();
    assert_eq!(taken.take(2, at(0)), None);
}

#[test]
fn changes_never_seem_to_go_back_in_time() {
    let later = Delivery::default().take(1, at(100)).unwrap();
    assert_eq!(later.keep(1, None, at(50)).unwrap().changed_at, at(100));
}

#[test]
fn receivers_have_registers_of_their_own_that_are_no_users() {
    let (one, other) = (DeliveryKey::of("https://a/?key=hunter2"), DeliveryKey::of("https://b/"));
    assert_ne!(one, other);
    for key in [one, other] {
        assert!(crate::domain::types::UserId::parse(key.as_str()).is_err());
        assert!(!key.as_str().contains("hunter2"));
        assert_eq!(key.as_str().len(), "webhook ".len() + 26);
    }
}

/// What a server does. A change is decided by the time at which it begins, and lands later or never.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// This server decides on what stands there now.
    Decide(usize, Wish),
    /// What it has decided arrives at the store.
    Land(usize),
}

#[derive(Debug, Clone, Copy)]
enum Wish {
    Take,
    Keep,
    Release,
}

/// A change on its way: the revision that it expects, the new value, and until when, in real time, its server
/// will go on if it is committed.
type UnderWay = (u64, Delivery, u64);

/// Some servers, by a clock that none of them can see, in microseconds.
struct World {
    now: u64,
    revision: u64,
    register: Delivery,
    /// By how much the clock of each is ahead.
    ahead: Vec<u64>,
    under_way: Vec<Option<UnderWay>>,
    /// Until when each goes on.
    goes_on: Vec<u64>,
}

impl World {
    fn new(ahead: Vec<u64>) -> Self {
        let servers = ahead.len();
        Self {
            now: START * 1_000_000,
            revision: 0,
            register: Delivery::default(),
            ahead,
            under_way: vec![None; servers],
            goes_on: vec![0; servers],
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass(millis) => self.now += millis * 1000,
            Step::Decide(server, wish) => {
                let clock = Timestamp::from_micros(self.now + self.ahead[server]);
                let me = server as u64;
                let next = match wish {
                    Wish::Take => self.register.take(me, clock),
                    Wish::Keep => self.register.keep(me, None, clock),
                    Wish::Release => self.register.release(me, None, clock),
                };
                self.under_way[server] = next.map(|next| {
                    let good_for = u64::try_from(next.good_for(clock).as_micros()).unwrap();
                    (self.revision, next, self.now + good_for)
                });
                if matches!(wish, Wish::Release) {
                    self.goes_on[server] = 0;
                }
            }
            Step::Land(server) => {
                if let Some((expected, next, until)) = self.under_way[server].take()
                    && expected == self.revision
                {
                    self.revision += 1;
                    self.register = next;
                    self.goes_on[server] = until;
                }
            }
        }
    }

    fn delivering(&self) -> usize {
        self.goes_on.iter().filter(|until| **until > self.now).count()
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wish = prop_oneof![4 => Just(Wish::Take), 4 => Just(Wish::Keep), 1 => Just(Wish::Release)];
    let step = prop_oneof![
        2 => prop_oneof![0_u64..6_000, Just(5_000), Just(10_000)].prop_map(Step::Pass),
        3 => (0_usize..3, wish).prop_map(|(server, wish)| Step::Decide(server, wish)),
        3 => (0_usize..3).prop_map(Step::Land),
    ];
    vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_two_deliver_at_a_time_while_their_clocks_agree_within_the_margin(
        ahead in vec(prop_oneof![0_u64..=5_000_000, Just(0), Just(5_000_000)], 3),
        steps in steps(),
    ) {
        let mut world = World::new(ahead);
        for step in steps {
            world.step(step);
            prop_assert!(world.delivering() <= 1, "{:?} at {}: {:?}", world.goes_on, world.now, world.register);
        }
    }
}

#[test]
fn two_would_be_seen_to_deliver_where_clocks_differ_by_more_than_the_margin() {
    let mut world = World::new(vec![0, 6_000_000]);
    for step in [
        Step::Decide(0, Wish::Take),
        Step::Land(0),
        Step::Pass(4_500),
        Step::Decide(1, Wish::Take),
        Step::Land(1),
    ] {
        world.step(step);
    }
    assert_eq!(world.delivering(), 2);
}
