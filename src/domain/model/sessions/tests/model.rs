//! The state machine against a model that is too simple to be wrong, under random interleavings.

mod world;

use proptest::{collection::vec, prelude::*};

use self::world::World;
use super::*;

/// What happens to a user.
#[derive(Debug, Clone)]
enum Command {
    Login {
        slot: usize,
        /// Of the few keys there are; none at all, mostly.
        key: Option<u64>,
        takeover: bool,
    },
    /// Of one of the tokens ever given out.
    Logout {
        token: usize,
    },
    LogoutOthers {
        token: usize,
    },
    Touch {
        token: usize,
    },
    Kick,
    KickSlot {
        slot: usize,
    },
    /// Everybody's sessions are ended, these among them.
    Everyone,
    Disable,
    ChangePassword,
    Rename,
    Advance(Duration),
    /// A replica whose clock is behind.
    SetBack(Duration),
    /// A commit that lost its race: the decision on an old state is thrown away.
    Lost,
    /// The store loses its latest commits, and the newest token that was lost with them is presented.
    Rollback {
        commits: usize,
    },
}

const SLOTS: [&str; 2] = ["web", "mobile"];

/// Which of the tokens ever given out, counted from the latest.
fn token() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..3_usize, 1 => 0..40_usize]
}

fn command() -> impl Strategy<Value = Command> {
    let key = prop_oneof![2 => Just(None), 1 => (0..3_u64).prop_map(Some)];
    let login = (0..2_usize, key, any::<bool>());
    prop_oneof![
        8 => login.prop_map(|(slot, key, takeover)| Command::Login { slot, key, takeover }),
        3 => token().prop_map(|token| Command::Logout { token }),
        1 => token().prop_map(|token| Command::LogoutOthers { token }),
        5 => token().prop_map(|token| Command::Touch { token }),
        1 => Just(Command::Kick),
        1 => (0..2_usize).prop_map(|slot| Command::KickSlot { slot }),
        1 => Just(Command::Everyone),
        1 => Just(Command::Disable),
        1 => Just(Command::ChangePassword),
        1 => Just(Command::Rename),
        4 => (0..400_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        5 => (0..30_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        3 => (590..640_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        1 => (0..3_000_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        1 => (1..5_u64).prop_map(|seconds| Command::SetBack(Duration::from_secs(seconds))),
        1 => Just(Command::Lost),
        1 => (1..5_usize).prop_map(|commits| Command::Rollback { commits }),
    ]
}

fn policies() -> impl Strategy<Value = SlotPolicy> {
    let on_limit = prop_oneof![3 => Just(OnLimit::Displace), 1 => Just(OnLimit::Deny)];
    let victim = prop_oneof![Just(Victim::Oldest), Just(Victim::LeastRecentlyUsed)];
    let changes = prop_oneof![2 => Just(0), 1 => 2..6_usize];
    let parts = (1..4_u32, on_limit, victim, prop::bool::weighted(0.2), changes);
    parts.prop_map(|(limit, on_limit, victim, exclusive, changes)| SlotPolicy {
        on_limit,
        victim,
        exclusive,
        kick_war: KickWar { changes, window: Duration::from_mins(1) },
        ..policy(limit)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(policy in policies(), commands in vec(command(), 1..80)) {
        let mut world = World::new(policy);
        for command in &commands {
            world.apply(command);
            world.check();
        }
    }

    #[test]
    fn what_is_forgotten_no_longer_matters(commands in vec(command(), 1..40)) {
        let mut world = World::new(policy(1));
        for command in &commands {
            world.apply(command);
        }
        let forgotten = world.state.keep_until(world.now);
        for token in &world.tokens {
            prop_assert!(token.session.expires_at <= forgotten || token.ended.is_some());
        }
        // The register is gone, and with it every generation: nobody lives, and the next login is newer.
        let next = UserSessions::default().open(open(u64::MAX, "web", "", 1), at(forgotten)).unwrap().outcome.session;
        for token in &world.tokens {
            prop_assert!(token.session.generation < next.generation);
            let empty = UserSessions::default();
            let verdict = empty.verdict(&claims(&token.session), at(forgotten));
            prop_assert_eq!(verdict, Err(Rejection::bare(Reason::UnknownSession)));
        }
    }
}
