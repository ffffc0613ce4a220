//! The memory of a user in the near-cache, and of a verified token: the resident memory of a process that holds nothing
//! else, before and after.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use latchkey::{
    domain::{
        ports::{
            Change, Clock as _, Commit, Cursor, EventLog, Registers, Revision, StoreError, Tail, Versioned,
        },
        sessions::{Session, UserSessions},
        types::{SessionId, UserId},
    },
    store::{
        clock::SystemClock,
        codec::{decode_sessions, encode_sessions},
        near_cache,
    },
};
use latchkey_bench::{
    Result,
    processes::resident_bytes,
    seed::{self, first_login},
    statistics::round,
};
use serde_json::{Value, json};
use tonic::async_trait;

use crate::Plan;

/// Capacity in bytes, enough for all users.
const CAPACITY: u64 = 1 << 40;
/// Number of verified tokens, fewer than a server remembers.
const TOKENS: usize = 50_000;

/// Runs [`measure`] in a process of its own.
pub(crate) fn measure_in_own_process(plan: &Plan) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["cached", &plan.cached_users.to_string()]).stdout(Stdio::piped());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|_| format!("{command:?} failed: {text}").into())
}

#[expect(clippy::cast_precision_loss, reason = "some hundred megabytes")]
pub(crate) async fn measure(users: usize) -> Value {
    let ids: Vec<_> = (0..users).map(|_| UserId::random()).collect();
    let (sessions, _log) =
        near_cache::cached(Arc::new(EveryUserLoggedIn), Arc::new(NoEvents), CAPACITY, true);
    // The first load allocates what exists once per process.
    sessions.load(&UserId::random()).await.unwrap();
    let before = resident();
    for id in &ids {
        sessions.load(id).await.unwrap();
    }
    let used = resident() - before;
    let (held, accounted) = sessions.size();
    assert_eq!(held, users + 1);

    let data = tempfile::tempdir().unwrap();
    let signer = seed::signer(data.path()).unwrap();
    let session = one_login().1;
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
    let used_by_tokens = resident() - before;
    json!({
        "users": users,
        "bytes_per_user": round(used as f64 / users as f64, 1),
        "accounted_bytes_per_user": round(accounted as f64 / held as f64, 1),
        "bytes_per_verified_token": round(used_by_tokens as f64 / tokens.len() as f64, 1),
    })
}

fn one_login() -> (UserSessions, Session) {
    first_login("user00000001", "Firefox on Linux", &[], SystemClock.now())
}

fn resident() -> u64 {
    resident_bytes(std::process::id()).unwrap()
}

/// A store that returns a decoded user with one session for every id.
struct EveryUserLoggedIn;

#[async_trait]
impl Registers<UserSessions> for EveryUserLoggedIn {
    async fn load(&self, _: &UserId) -> Result<Versioned<UserSessions>, StoreError> {
        let state = decode_sessions(encode_sessions(&one_login().0)).unwrap();
        Ok(Versioned { revision: Revision(1), state: Arc::new(state) })
    }

    async fn commit(
        &self,
        _: &UserId,
        _: Revision,
        _: Change<UserSessions>,
    ) -> Result<Commit<UserSessions>, StoreError> {
        Err(not_supported())
    }
}

/// An event log that cannot be read.
struct NoEvents;

#[async_trait]
impl EventLog for NoEvents {
    async fn tail(&self, _: Option<&Cursor>, _: usize) -> Result<Tail, StoreError> {
        Err(not_supported())
    }

    async fn follow(&self, _: &Cursor, _: usize, _: Duration) -> Result<Tail, StoreError> {
        Err(not_supported())
    }
}

fn not_supported() -> StoreError {
    StoreError::Unavailable { store: "benchmark", cause: "not supported".into() }
}
