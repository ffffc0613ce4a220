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
fn a_lease_can_be_acquired_again_only_after_it_has_expired() {
    let first = Delivery::default().acquire(1, at(0)).unwrap();
    assert_eq!(first.lease, Some(Lease { holder: 1, until: at(0).after(LEASE) }));
    assert_eq!(first.acquire(2, Timestamp::from_micros(at(0).after(LEASE).as_micros() - 1)), None);
    let second = first.acquire(2, at(0).after(LEASE)).unwrap();
    assert_eq!(second.lease.unwrap().holder, 2);
    // The previous holder has lost the lease.
    assert_eq!(second.renew(1, None, at(11)), None);
    assert_eq!(second.release(1, None, at(11)), None);
    // The holder may acquire its own lease at any time.
    assert!(first.acquire(1, at(1)).is_some());
}

#[test]
fn the_holder_stops_before_another_server_can_acquire_the_lease() {
    let taken = Delivery::default().acquire(1, at(0)).unwrap();
    assert_eq!(taken.time_left(at(0)) + MARGIN, LEASE);
    assert_eq!(taken.time_left(at(5)), Duration::ZERO);
    assert_eq!(taken.time_left(at(100)), Duration::ZERO);
    assert_eq!(Delivery::default().time_left(at(0)), Duration::ZERO);
}

#[test]
fn renewing_keeps_the_lease_and_the_cursor() {
    let taken = Delivery::default().acquire(1, at(0)).unwrap();
    let kept = taken.renew(1, Some(&cursor("7")), at(4)).unwrap();
    assert_eq!((kept.cursor.clone(), kept.lease.unwrap().until), (Some(cursor("7")), at(14)));
    let kept = kept.renew(1, None, at(9)).unwrap();
    assert_eq!(kept.cursor, Some(cursor("7")));
    assert_eq!(kept.acquire(2, at(18)), None);
    // An expired lease that nobody has acquired.
    assert!(kept.renew(1, None, at(1000)).is_some());
    assert_eq!(kept.acquire(2, at(1000)).unwrap().cursor, Some(cursor("7")));
}

#[test]
fn a_released_lease_is_free_at_once() {
    let taken = Delivery::default().acquire(1, at(0)).unwrap();
    let free = taken.release(1, Some(&cursor("7")), at(1)).unwrap();
    assert_eq!((free.lease, free.cursor.clone()), (None, Some(cursor("7"))));
    assert_eq!(free.acquire(2, at(1)).unwrap().lease.unwrap().holder, 2);
    assert_eq!(free.renew(1, None, at(1)), None);
}

#[test]
fn a_lease_from_a_clock_far_ahead_can_be_acquired() {
    let taken = Delivery::default().acquire(1, at(1_000_000)).unwrap();
    assert!(taken.acquire(2, at(0)).is_some());
    // A difference within the margin is plausible.
    let taken = Delivery::default().acquire(1, at(0).after(MARGIN)).unwrap();
    assert_eq!(taken.acquire(2, at(0)), None);
}

#[test]
fn changed_at_never_decreases() {
    let later = Delivery::default().acquire(1, at(100)).unwrap();
    assert_eq!(later.renew(1, None, at(50)).unwrap().changed_at, at(100));
}

#[test]
fn every_receiver_has_a_register_that_is_no_user_id() {
    let (one, other) = (DeliveryKey::of("https://a/?key=hunter2"), DeliveryKey::of("https://b/"));
    assert_ne!(one, other);
    for key in [one, other] {
        assert!(crate::domain::types::UserId::parse(key.as_str()).is_err());
        assert!(!key.as_str().contains("hunter2"));
        assert_eq!(key.as_str().len(), "webhook ".len() + 26);
    }
}

/// A step of a server. A change is decided at one time and committed later or never.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// A server decides on a change of the current value.
    Decide(usize, Command),
    /// The change arrives at the store.
    Commit(usize),
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Acquire,
    Renew,
    Release,
}

/// A pending change: the expected revision, the new value, and until when in real time its server delivers if the
/// change is committed.
type PendingChange = (u64, Delivery, u64);

/// Some servers and the real time in microseconds, which none of them can see.
struct World {
    now: u64,
    revision: u64,
    register: Delivery,
    /// How far the clock of each server is ahead.
    ahead: Vec<u64>,
    pending: Vec<Option<PendingChange>>,
    /// Until when each server delivers.
    delivers_until: Vec<u64>,
}

impl World {
    fn new(ahead: Vec<u64>) -> Self {
        let servers = ahead.len();
        Self {
            now: START * 1_000_000,
            revision: 0,
            register: Delivery::default(),
            ahead,
            pending: vec![None; servers],
            delivers_until: vec![0; servers],
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass(millis) => self.now += millis * 1000,
            Step::Decide(server, command) => {
                let clock = Timestamp::from_micros(self.now + self.ahead[server]);
                let me = server as u64;
                let next = match command {
                    Command::Acquire => self.register.acquire(me, clock),
                    Command::Renew => self.register.renew(me, None, clock),
                    Command::Release => self.register.release(me, None, clock),
                };
                self.pending[server] = next.map(|next| {
                    let time_left = u64::try_from(next.time_left(clock).as_micros()).unwrap();
                    (self.revision, next, self.now + time_left)
                });
                if matches!(command, Command::Release) {
                    self.delivers_until[server] = 0;
                }
            }
            Step::Commit(server) => {
                if let Some((expected, next, until)) = self.pending[server].take()
                    && expected == self.revision
                {
                    self.revision += 1;
                    self.register = next;
                    self.delivers_until[server] = until;
                }
            }
        }
    }

    fn delivering(&self) -> usize {
        self.delivers_until.iter().filter(|until| **until > self.now).count()
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let command =
        prop_oneof![4 => Just(Command::Acquire), 4 => Just(Command::Renew), 1 => Just(Command::Release)];
    let step = prop_oneof![
        2 => prop_oneof![0_u64..6_000, Just(5_000), Just(10_000)].prop_map(Step::Pass),
        3 => (0_usize..3, command).prop_map(|(server, command)| Step::Decide(server, command)),
        3 => (0_usize..3).prop_map(Step::Commit),
    ];
    vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn at_most_one_server_delivers_while_clocks_agree_within_the_margin(
        ahead in vec(prop_oneof![0_u64..=5_000_000, Just(0), Just(5_000_000)], 3),
        steps in steps(),
    ) {
        let mut world = World::new(ahead);
        for step in steps {
            world.step(step);
            prop_assert!(world.delivering() <= 1, "{:?} at {}: {:?}", world.delivers_until, world.now, world.register);
        }
    }
}

#[test]
fn two_servers_deliver_if_clocks_differ_by_more_than_the_margin() {
    let mut world = World::new(vec![0, 6_000_000]);
    for step in [
        Step::Decide(0, Command::Acquire),
        Step::Commit(0),
        Step::Pass(4_500),
        Step::Decide(1, Command::Acquire),
        Step::Commit(1),
    ] {
        world.step(step);
    }
    assert_eq!(world.delivering(), 2);
}
