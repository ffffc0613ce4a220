//! Tests the state machine with random commands against a simple model.

mod world;

use proptest::{collection::vec, prelude::*};

use self::world::World;
use super::*;

/// A command or an event that changes the sessions of a user.
#[derive(Debug, Clone)]
enum Command {
    Login {
        slot: usize,
        /// The idempotency key, mostly none.
        key: Option<u64>,
        takeover: bool,
    },
    /// Logs out one of all issued tokens.
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
    /// Begins a new epoch.
    BeginEpoch,
    Disable,
    ChangePassword,
    UpdateProfile,
    Advance(Duration),
    /// Continues with a replica whose clock is behind.
    SetBack(Duration),
    /// Discards a decision, as after a conflict.
    Conflict,
    /// Loses the latest commits of the store, then presents the newest token that was lost with them.
    Rollback {
        commits: usize,
    },
}

const SLOTS: [&str; 2] = ["web", "mobile"];

/// The index of one of all issued tokens, counted from the latest.
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
        1 => Just(Command::BeginEpoch),
        1 => Just(Command::Disable),
        1 => Just(Command::ChangePassword),
        1 => Just(Command::UpdateProfile),
        4 => (0..400_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        5 => (0..30_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        3 => (590..640_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        1 => (0..3_000_u64).prop_map(|seconds| Command::Advance(Duration::from_secs(seconds))),
        1 => (1..5_u64).prop_map(|seconds| Command::SetBack(Duration::from_secs(seconds))),
        1 => Just(Command::Conflict),
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
    fn the_promises_hold_after_every_command(policy in policies(), commands in vec(command(), 1..80)) {
        let mut world = World::new(policy);
        for command in &commands {
            world.apply(command);
            world.check();
        }
    }

    #[test]
    fn a_register_can_be_forgotten_after_keep_until(commands in vec(command(), 1..40)) {
        let mut world = World::new(policy(1));
        for command in &commands {
            world.apply(command);
        }
        let forgotten = world.state.keep_until(world.now);
        for token in &world.tokens {
            prop_assert!(token.session.expires_at <= forgotten || token.ended.is_some());
        }
        // Without the register no session is live, and the next login still has a higher generation.
        let next = UserSessions::default().open(open(u64::MAX, "web", "", 1), at(forgotten)).unwrap().outcome.session;
        for token in &world.tokens {
            prop_assert!(token.session.generation < next.generation);
            let empty = UserSessions::default();
            let verdict = empty.verdict(&claims(&token.session), at(forgotten));
            prop_assert_eq!(verdict, Err(Rejection::bare(Reason::UnknownSession)));
        }
    }
}
