//! Who is held off where clients log each other out.

use proptest::{collection::vec, prelude::*};

use super::*;

const WINDOW: Duration = Duration::from_mins(1);
const CHANGES: usize = 6;

/// A login of one of a few clients: where it is, and what it calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    address: u8,
    device: u8,
}

impl Caller {
    fn open(self, number: u64, limit: u32) -> Open {
        let kick_war = KickWar { changes: CHANGES, window: WINDOW };
        let address = [198, 51, 100, self.address].into();
        Open {
            policy: SlotPolicy { kick_war, ..policy(limit) },
            client: Some(ClientMark::of(&UserId::parse("u").unwrap(), address)),
            ..open(number, "default", &self.device.to_string(), limit)
        }
    }
}

/// What became of logins a second apart: the number of those that were held off.
fn held_off(limit: u32, callers: &[Caller]) -> (UserSessions, Vec<usize>) {
    let (mut state, mut now, mut held) = (UserSessions::default(), START, Vec::new());
    for (index, caller) in callers.iter().enumerate() {
        now = now.after(Duration::from_secs(1));
        match state.open(caller.open(index as u64, limit), at(now)) {
            Ok(next) => state = next.state,
            Err(NotOpened::KickWar(wait)) => {
                assert!(wait <= WINDOW);
                held.push(index);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    (state, held)
}

const fn caller(address: u8, device: u8) -> Caller {
    Caller { address, device }
}

#[test]
fn two_that_log_each_other_out_are_held_off_and_nobody_else() {
    let (a, b, c) = (caller(1, 1), caller(1, 2), caller(2, 1));
    // The first finds nobody to log out.
    assert_eq!(held_off(1, &[a, b, a, b, a, b, a, b, a]).1, [7, 8]);
    assert_eq!(held_off(1, &[a, b, a, b, a, b, a, b, c, b, a]).1, [7]);
}

#[test]
fn more_than_two_are_held_off_where_the_slot_has_room_for_more() {
    let (a, b, c) = (caller(1, 1), caller(2, 1), caller(3, 1));
    assert_eq!(held_off(2, &[a, b, c, a, b, c, a, b, c]).1, [8]);
    assert!(held_off(1, &[a, b, c, a, b, c, a, b, c]).1.is_empty(), "these do not log each other out");
}

#[test]
fn where_nothing_tells_clients_apart_they_are_taken_for_two() {
    let kick_war = KickWar { changes: CHANGES, window: WINDOW };
    let mut state = UserSessions::default();
    for number in 0..8 {
        let nameless =
            Open { policy: SlotPolicy { kick_war, ..policy(1) }, ..open(number, "default", "", 1) };
        let named = Open { device: Device::parse("phone").unwrap(), ..nameless.clone() };
        match state.open(nameless, at(START.after(Duration::from_secs(number)))) {
            Ok(next) => state = next.state,
            Err(NotOpened::KickWar(_)) => {
                assert_eq!(number, 7);
                assert!(state.open(named, at(START.after(Duration::from_secs(number)))).is_ok());
                return;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("nobody is held off");
}

fn callers(addresses: std::ops::Range<u8>) -> impl Strategy<Value = Vec<Caller>> {
    vec((addresses, 0..3_u8).prop_map(|(address, device)| Caller { address, device }), 0..60)
}

proptest! {
    #[test]
    fn whatever_one_client_does_another_one_is_let_in(limit in 1..3_u32, callers in callers(0..1)) {
        let (state, _) = held_off(limit, &callers);
        let now = START.after(Duration::from_secs(callers.len() as u64 + 1));
        prop_assert!(state.open(caller(9, 0).open(u64::MAX, limit), at(now)).is_ok());
    }

    #[test]
    fn who_is_held_off_has_logged_somebody_out_who_came_back(callers in callers(0..3)) {
        let (_, held) = held_off(1, &callers);
        for index in held {
            let before = |index: &usize| callers[*index] != callers[index + 1];
            let own = (0..index).filter(|earlier| callers[*earlier] == callers[index]);
            let alternations = (0..index).filter(before).count();
            prop_assert!(own.count() >= CHANGES / 2 && alternations >= CHANGES - 1);
        }
    }

    #[test]
    fn two_that_alternate_are_always_held_off_in_the_end(first in 0..3_u8, more in 8..30_usize) {
        let pair = [caller(first, 0), caller(first + 1, 0)];
        let callers: Vec<_> = pair.into_iter().cycle().take(more).collect();
        let (_, held) = held_off(1, &callers);
        prop_assert_eq!(held.len(), more - CHANGES - 1);
    }
}
