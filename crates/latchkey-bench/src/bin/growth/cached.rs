//! What a user takes in the near-cache, and a token among those that were verified: the resident memory of a process
//! that holds nothing else, before and after.

use std::{
    num::NonZeroU32,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use latchkey::{
    domain::{
        ports::{
            Change, Clock as _, Commit, Cursor, EventLog, Registers, Revision, StoreError, Tail, Versioned,
        },
        sessions::{At, Epoch, KickWar, OnLimit, Open, Profile, Session, SlotPolicy, UserSessions, Victim},
        types::{Device, SessionId, Slot, UserId},
    },
    store::{
        clock::SystemClock,
        codec::{decode_sessions, encode_sessions},
        near_cache,
    },
};
use serde_json::{Value, json};
use tonic::async_trait;

use crate::{Plan, fill, numbers::round};

/// Enough for all of them.
const CACHE: u64 = 1 << 40;
/// So many verified tokens: fewer than are remembered.
const TOKENS: usize = 50_000;

/// In a process of its own.
pub fn apart(plan: &Plan) -> Result<Value, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(me);
    command.args(["cached", &plan.cached.to_string()]).stdout(Stdio::piped());
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|_| format!("{command:?} failed: {text}"))
}

#[expect(clippy::cast_precision_loss, reason = "some hundred megabytes")]
pub async fn measure(users: usize) -> Value {
    let ids: Vec<_> = (0..users).map(|_| UserId::random()).collect();
    let (sessions, _log) = near_cache::cached(Arc::new(Made), Arc::new(Silent), CACHE, true);
    // The first of anything pays for what is there only once.
    sessions.load(&UserId::random()).await.unwrap();
    let before = resident();
    for id in &ids {
        sessions.load(id).await.unwrap();
    }
    let taken = resident() - before;
    let (held, accounted) = sessions.held();
    assert_eq!(held, users + 1);

    let data = tempfile::tempdir().unwrap();
    let signer = fill::signer(data.path()).unwrap();
    let session = state().1;
    let tokens: Vec<_> = ids
        .iter()
        .take(TOKENS)
        .map(|id| signer.issue(id, &Session { id: SessionId::random(), ..session.clone() }, &[]).unwrap())
        .collect();
    signer.verify(&tokens[0], SystemClock.now()).unwrap();
    let before = resident();
    for token in &tokens {
        signer.verify(token, SystemClock.now()).unwrap();
    }
    let of_tokens = resident() - before;
    json!({
        "users": users,
        "bytes_per_user": round(taken as f64 / users as f64, 1),
        "accounted_bytes_per_user": round(accounted as f64 / held as f64, 1),
        "bytes_per_verified_token": round(of_tokens as f64 / tokens.len() as f64, 1),
    })
}

/// A user with one session, as a login leaves it.
fn state() -> (UserSessions, Session) {
    let now = SystemClock.now();
    let open = Open {
        id: SessionId::random(),
        slot: Slot::parse("default").unwrap(),
        device: Device::parse("Firefox on Linux").unwrap(),
        profile: Profile { username: "user00000001".into(), roles: Vec::new() },
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
        client: None,
    };
    let at =
        At { now, tombstone_ttl: Duration::from_hours(24), leeway: Duration::ZERO, epoch: &Epoch::FIRST };
    let next = UserSessions::default().open(open, at).unwrap();
    (next.state, next.outcome.session)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A store that holds a user under every id, and hands out what it has decoded.
struct Made;

#[async_trait]
impl Registers<UserSessions> for Made {
    async fn load(&self, _: &UserId) -> Result<Versioned<UserSessions>, StoreError> {
        let state = decode_sessions(encode_sessions(&state().0)).unwrap();
        Ok(Versioned { revision: Revision(1), state: Arc::new(state) })
    }

    async fn commit(
        &self,
        _: &UserId,
        _: Revision,
        _: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        Err(nothing())
    }
}

/// A log that nothing is written to.
struct Silent;

#[async_trait]
impl EventLog for Silent {
    async fn tail(&self, _: Option<&Cursor>, _: usize) -> Result<Tail, StoreError> {
        Err(nothing())
    }

    async fn follow(&self, _: &Cursor, _: usize, _: Duration) -> Result<Tail, StoreError> {
        Err(nothing())
    }
}

fn nothing() -> StoreError {
    StoreError::Unavailable { store: "made", cause: "there is none".into() }
}
