//! Which logins are throttled in a kick war.

use proptest::{collection::vec, prelude::*};

use super::*;

const WINDOW: Duration = Duration::from_mins(1);
const CHANGES: usize = 6;

/// One of a few clients, by its address and its device.
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

/// Logs in once a second. Returns the indices of the logins that were throttled.
fn throttled(limit: u32, callers: &[Caller]) -> (UserSessions, Vec<usize>) {
    let (mut state, mut now, mut throttled) = (UserSessions::default(), START, Vec::new());
    for (index, caller) in callers.iter().enumerate() {
        now = now.after(Duration::from_secs(1));
        match state.open(caller.open(index as u64, limit), at(now)) {
            Ok(next) => state = next.state,
            Err(OpenError::KickWar(wait)) => {
                assert!(wait <= WINDOW);
                throttled.push(index);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    (state, throttled)
}

const fn caller(address: u8, device: u8) -> Caller {
    Caller { address, device }
}

#[test]
fn two_clients_that_displace_each_other_are_throttled() {
    let (a, b, c) = (caller(1, 1), caller(1, 2), caller(2, 1));
    // The first login displaces nobody.
    assert_eq!(throttled(1, &[a, b, a, b, a, b, a, b, a]).1, [7, 8]);
    assert_eq!(throttled(1, &[a, b, a, b, a, b, a, b, c, b, a]).1, [7]);
}

#[test]
fn a_larger_slot_allows_kick_wars_of_more_clients() {
    let (a, b, c) = (caller(1, 1), caller(2, 1), caller(3, 1));
    assert_eq!(throttled(2, &[a, b, c, a, b, c, a, b, c]).1, [8]);
    assert!(
        throttled(1, &[a, b, c, a, b, c, a, b, c]).1.is_empty(),
        "three clients in a slot of one are no kick war"
    );
}

#[test]
fn clients_without_address_and_device_count_as_different() {
    let kick_war = KickWar { changes: CHANGES, window: WINDOW };
    let mut state = UserSessions::default();
    for number in 0..8 {
        let nameless =
            Open { policy: SlotPolicy { kick_war, ..policy(1) }, ..open(number, "default", "", 1) };
        let named = Open { device: Device::parse("phone").unwrap(), ..nameless.clone() };
        match state.open(nameless, at(START.after(Duration::from_secs(number)))) {
            Ok(next) => state = next.state,
            Err(OpenError::KickWar(_)) => {
                assert_eq!(number, 7);
                assert!(state.open(named, at(START.after(Duration::from_secs(number)))).is_ok());
                return;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("no login is throttled");
}

fn callers(addresses: std::ops::Range<u8>) -> impl Strategy<Value = Vec<Caller>> {
    vec((addresses, 0..3_u8).prop_map(|(address, device)| Caller { address, device }), 0..60)
}

proptest! {
    #[test]
    fn no_client_can_lock_out_another_client(limit in 1..3_u32, callers in callers(0..1)) {
        let (state, _) = throttled(limit, &callers);
        let now = START.after(Duration::from_secs(callers.len() as u64 + 1));
        prop_assert!(state.open(caller(9, 0).open(u64::MAX, limit), at(now)).is_ok());
    }

    #[test]
    fn only_clients_that_alternate_are_throttled(callers in callers(0..3)) {
        let (_, indices) = throttled(1, &callers);
        for index in indices {
            let before = |index: &usize| callers[*index] != callers[index + 1];
            let own = (0..index).filter(|earlier| callers[*earlier] == callers[index]);
            let alternations = (0..index).filter(before).count();
            prop_assert!(own.count() >= CHANGES / 2 && alternations >= CHANGES - 1);
        }
    }

    #[test]
    fn two_clients_that_alternate_are_always_throttled(first in 0..3_u8, more in 8..30_usize) {
        let pair = [caller(first, 0), caller(first + 1, 0)];
        let callers: Vec<_> = pair.into_iter().cycle().take(more).collect();
        let (_, indices) = throttled(1, &callers);
        prop_assert_eq!(indices.len(), more - CHANGES - 1);
    }
}
