//! Measures the memory of Redis for each user.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use latchkey::{
    domain::{
        ports::{Change, Clock as _, Commit, Registers, Revision},
        sessions::{
            ClientMark, Context, Epoch, KickWar, OnLimit, Open, Profile, SlotPolicy, UserSessions, Victim,
        },
        types::{Device, SessionId, Slot, UserId},
    },
    store::{
        clock::SystemClock,
        codec_store::CodecStore,
        redis::{RedisRegisters, RedisSettings},
    },
};

use super::redis::RedisServer;

/// The documented limit: bytes of Redis memory for a user with one session, including key and overhead.
pub const MAX_BYTES_PER_USER: f64 = 300.0;

/// Logs in this number of users on a new Redis server and returns the bytes of its memory for each.
pub async fn bytes_per_user(users: u32) -> f64 {
    let server = RedisServer::start();
    let settings = RedisSettings::new(server.url(), Duration::from_secs(5), Duration::from_secs(5));
    let registers = Arc::new(CodecStore::new(RedisRegisters::start(&settings, "lk").unwrap()));
    let nobody = UserId::random();
    while Registers::<UserSessions>::load(&*registers, &nobody).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = used_memory(&server);
    stream::iter(0..users)
        .for_each_concurrent(64, |number| {
            let registers = Arc::clone(&registers);
            async move {
                log_in(&registers, number).await;
            }
        })
        .await;
    let keys: u32 = server.query(&redis::cmd("DBSIZE"));
    assert_eq!(keys, users + 1, "one key is the number of buckets");
    f64::from(used_memory(&server) - before) / f64::from(users)
}

/// Commits a login: an id of 26 characters, a username of 12, and no roles. Returns the user.
pub async fn log_in(registers: &CodecStore<RedisRegisters>, number: u32) -> UserId {
    let now = SystemClock.now();
    let user_id = UserId::random();
    let open = Open {
        id: SessionId::random(),
        slot: Slot::parse("default").unwrap(),
        device: Device::parse("Firefox on Linux").unwrap(),
        profile: Profile { username: format!("user{number:08}").into(), ..Profile::default() },
        policy: SlotPolicy {
            idle_timeout: Duration::from_hours(1),
            absolute_timeout: Duration::from_hours(24),
            limit: NonZeroU32::MIN,
            on_limit: OnLimit::Displace,
            victim: Victim::Oldest,
            exclusive: false,
            kick_war: KickWar { changes: 6, window: Duration::from_mins(1) },
        },
        login_key: None,
        takeover: false,
        client: Some(ClientMark::of(&user_id, [198, 51, 100, 7].into())),
    };
    let at = Context {
        now,
        tombstone_ttl: Duration::from_hours(24),
        leeway: Duration::ZERO,
        epoch: &Epoch::FIRST,
    };
    let next = UserSessions::default().open(open, at).unwrap();
    let change = Change { keep_until: next.state.keep_until(now), state: next.state, events: Vec::new() };
    let outcome = registers.commit(&user_id, Revision::ABSENT, change).await.unwrap();
    assert!(matches!(outcome, Commit::Committed(_)));
    user_id
}

fn used_memory(server: &RedisServer) -> u32 {
    let info: String = server.query(redis::cmd("INFO").arg("memory"));
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().parse().unwrap()
}
