//! Times the pure functions of Validate and Login, by `make micro`. `make bench` measures whole requests.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::{hint::black_box, num::NonZeroU32, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use latchkey::{
    domain::{
        keyring::{Key, KeyAlgorithm, Keyring},
        rejection::Reason,
        sessions::{
            Context, Epoch, KickWar, OnLimit, Open, Opened, Profile, SlotPolicy, UserSessions, Victim,
        },
        throttle::{Outcome, Throttle, ThrottleRule},
        token::{TokenSettings, Tokens},
        types::{Claims, Device, Role, SessionId, Slot, Timestamp, UserId},
    },
    store::codec::{decode_sessions, encode_sessions},
};

const DAY: Duration = Duration::from_hours(24);

fn at(secs: u64) -> Context<'static> {
    Context {
        now: Timestamp::from_secs(1_800_000_000 + secs),
        tombstone_ttl: DAY,
        leeway: DAY,
        epoch: &Epoch::FIRST,
    }
}

fn open() -> Open {
    Open {
        id: SessionId::random(),
        slot: Slot::parse("default").unwrap(),
        device: Device::parse("Firefox on Linux").unwrap(),
        profile: Profile {
            username: "user00000001".into(),
            roles: Role::parse_all(&["reader", "writer"]).unwrap().into(),
        },
        policy: SlotPolicy {
            idle_timeout: Duration::from_hours(1),
            absolute_timeout: DAY,
            limit: NonZeroU32::MIN,
            on_limit: OnLimit::Displace,
            victim: Victim::Oldest,
            exclusive: false,
            kick_war: KickWar { changes: 0, window: Duration::from_mins(1) },
        },
        login_key: None,
        takeover: false,
        client: None,
    }
}

/// The sessions of a user after this many logins, and what the latest login opened.
fn after(logins: u64) -> (UserSessions, Opened) {
    let mut next = UserSessions::default().open(open(), at(0)).unwrap();
    for login in 1..logins {
        next = next.state.open(open(), at(login)).unwrap();
    }
    (next.state, next.outcome)
}

fn claims(user_id: &UserId, opened: &Opened) -> Claims {
    let session = &opened.session;
    Claims {
        user_id: user_id.clone(),
        session_id: session.id,
        generation: session.generation,
        slot: session.slot.clone(),
        not_before: session.issued_at,
        expires_at: session.expires_at,
    }
}

fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sessions");
    let user = UserId::random();
    let (fresh, opened) = after(1);
    let live = claims(&user, &opened);
    group.bench_function("verdict, live", |b| b.iter(|| fresh.verdict(black_box(&live), at(1)).is_ok()));

    // Sixteen tombstones are the most that are kept. The one that is looked for is the last.
    let (crowded, latest) = after(17);
    let displaced = Claims { session_id: crowded.tombstones.last().unwrap().id, ..claims(&user, &latest) };
    group.bench_function("verdict, replaced, the last of 16 tombstones", |b| {
        b.iter(|| crowded.verdict(black_box(&displaced), at(20)).is_err());
    });
    let session = opened.session.id;
    group.bench_function("touch, not due", |b| {
        b.iter(|| fresh.touch(black_box(session), at(1).now, at(1)).is_none());
    });
    group.bench_function("touch, due", |b| b.iter(|| fresh.touch(black_box(session), at(120).now, at(120))));
    group.bench_function("open, in an empty slot", |b| {
        let empty = UserSessions::default();
        b.iter_batched(open, |open| empty.open(open, at(1)), BatchSize::SmallInput);
    });
    group.bench_function("open, displacing, 16 tombstones", |b| {
        b.iter_batched(open, |open| crowded.open(open, at(20)), BatchSize::SmallInput);
    });
    group.bench_function("fence, one session", |b| b.iter(|| fresh.fence(Reason::Kicked, DAY, at(1))));
    group.finish();
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokens");
    let user = UserId::random();
    let now = at(1).now;
    for algorithm in [KeyAlgorithm::EdDSA, KeyAlgorithm::HS256] {
        let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
        let settings = TokenSettings {
            issuer: "latchkey".into(),
            audience: "latchkey".into(),
            leeway: Duration::from_secs(5),
        };
        let tokens = Tokens::new(Keyring::new(vec![key], 0).unwrap(), settings);
        let sign = || tokens.issue(&user, &after(1).1.session, &[]).unwrap();
        let name = algorithm.name();
        let token = sign();
        // Often enough that its claims are kept.
        assert!((0..1000).all(|_| tokens.verify(&token, now).is_ok()));
        group.bench_function(format!("verify, in use, {name}"), |b| {
            b.iter(|| tokens.verify(black_box(&token), now).is_ok());
        });
        // More than are kept with their claims.
        let others: Vec<_> = (0..200_000).map(|_| sign()).collect();
        assert!(others.iter().all(|token| tokens.verify(token, now).is_ok()));
        let mut others = others.iter().cycle();
        group.bench_function(format!("verify, seen before, {name}"), |b| {
            b.iter(|| others.next().is_some_and(|token| tokens.verify(token, now).is_ok()));
        });
        group.bench_function(format!("verify, new, {name}"), |b| {
            b.iter_batched(&sign, |token| tokens.verify(&token, now).is_ok(), BatchSize::SmallInput);
        });
        let session = after(1).1.session;
        group.bench_function(format!("issue, {name}"), |b| {
            b.iter(|| tokens.issue(black_box(&user), &session, &[]));
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for (name, logins) in [("one session", 1), ("one session, 16 tombstones", 17)] {
        let (state, _) = after(logins);
        let bytes = encode_sessions(&state);
        group.bench_function(format!("encode, {name}"), |b| b.iter(|| encode_sessions(black_box(&state))));
        group.bench_function(format!("decode, {name}"), |b| {
            b.iter(|| decode_sessions(black_box(&bytes).clone()).unwrap());
        });
    }
    group.finish();
}

fn throttle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("throttle");
    let account = ThrottleRule::Account {
        free: 5,
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_mins(15),
        lock_after: 100,
    };
    let address = ThrottleRule::Address { failures: 100, window: Duration::from_mins(10) };
    for (name, rule) in [("account", account), ("address", address)] {
        let idle = Throttle::default();
        let begun = idle.begin(rule, 1, at(0).now).unwrap();
        group.bench_function(format!("begin, {name}"), |b| {
            b.iter(|| idle.begin(black_box(rule), 1, at(0).now).is_ok());
        });
        for (outcome, shown) in [(Outcome::Right, "right"), (Outcome::Wrong, "wrong")] {
            group.bench_function(format!("finish, {shown}, {name}"), |b| {
                b.iter(|| begun.finish(black_box(rule), 1, outcome, at(1).now));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sessions, tokens, codec, throttle);
criterion_main!(benches);
