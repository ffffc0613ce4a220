//! Upgrades: this version serves the data directory and the Redis content that each released version has left.
//!
//! `make freeze` records them in `tests/fixtures/releases/`, with the verdicts of that version.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::BASE64;
use latchkey::grpc::pb::{self, LogoutScope, validate_response::Verdict};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Request;
use tonic_types::StatusExt as _;

use crate::support::{
    client::{Client, login_request},
    preload::Preload,
    process::{Process, command},
    redis::RedisServer,
};

const SETTINGS: [(&str, &str); 3] =
    [("SESSION__SLOTS", "default,mobile"), ("SLOT__MOBILE__LIMIT", "2"), ("ACCESS__VALIDATE", "caller")];
const STORES: [&str; 2] = ["embedded", "redis"];

fn releases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/releases")
}

fn seconds_now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the data is recorded and read with real clocks")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().try_into().unwrap()
}

/// Returns what the verdict says about the session, without the times that slide.
async fn verdict(client: &Client, caller_key: &str, token: &str) -> Value {
    let mut request = Request::new(pb::ValidateRequest { token: token.into(), ..Default::default() });
    request.metadata_mut().insert("x-latchkey-key", caller_key.parse().unwrap());
    match client.auth.clone().validate(request).await.unwrap().into_inner().verdict.unwrap() {
        Verdict::Session(session) => json!({
            "session_id": session.session_id,
            "user_id": session.user_id,
            "username": session.username,
            "slot": session.slot,
            "device": session.device,
            "roles": session.roles,
            "issued_at": session.issued_at.unwrap().to_string(),
            "expires_at": session.expires_at.unwrap().to_string(),
        }),
        Verdict::Rejection(rejection) => json!({
            "reason": rejection.reason().as_str_name(),
            "at": rejection.at.map(|at| at.to_string()),
            "by_device": rejection.by_device,
            "message": rejection.message,
            "terminal": rejection.terminal,
        }),
    }
}

/// Logs in and returns the token.
async fn login(client: &Client, username: &str, slot: &str, device: &str) -> String {
    let request = pb::LoginRequest { slot: slot.into(), ..login_request(username, device) };
    client.try_login(request).await.unwrap().token
}

async fn disable(client: &Client, user_id: &str) {
    let message =
        pb::UpdateAccountRequest { user_id: user_id.into(), disabled: Some(true), ..Default::default() };
    client.update(message).await;
}

/// Leaves sessions that live and that have ended in every way, and returns their tokens with the verdicts.
async fn fill(client: &Client) -> Value {
    let message = pb::CreateCallerRequest { name: "shop".into(), roles: vec!["validator".into()] };
    let caller = client.callers.clone().create_caller(client.admin(message)).await.unwrap().into_inner();

    let alice = client.user_with_roles("Alice", &["admin", "auditor"]).await;
    let bob = client.user("bob").await;
    let carol = client.user("carol").await;
    let dora = client.user("dora").await;
    let mut tokens = Vec::new();
    tokens.push(login(client, "alice", "", "Firefox on Linux").await);
    for device in ["Laptop", "Laptop of the office"] {
        tokens.push(login(client, "alice", "", device).await);
    }
    for device in ["Phone", "Tablet", "Watch"] {
        tokens.push(login(client, "alice", "mobile", device).await);
    }
    let left = login(client, "bob", "", "Terminal").await;
    client.logout(&left, LogoutScope::This).await;
    tokens.extend([left, login(client, "bob", "mobile", "Phone").await]);
    tokens.push(login(client, "carol", "", "Kiosk").await);
    let end = pb::EndSessionsRequest {
        user_id: carol.clone(),
        message: "The kiosk is closed.".into(),
        ..Default::default()
    };
    assert_eq!(client.end_sessions(end).await, 1);
    tokens.push(login(client, "dora", "", "Desk").await);
    disable(client, &dora).await;
    let issued =
        pb::IssueSessionRequest { username: "carol".into(), device: "Badge".into(), ..Default::default() };
    tokens.push(client.try_issue(issued).await.unwrap().token);

    let mut verdicts = Vec::new();
    for token in &tokens {
        verdicts.push(json!({ "token": token, "verdict": verdict(client, &caller.key, token).await }));
    }
    json!({ "caller_key": caller.key, "users": [alice, bob, carol, dora], "verdicts": verdicts })
}

/// Returns the keys of a Redis server as `DUMP` writes them, and their times to live.
fn dump(redis: &RedisServer) -> Value {
    let mut keys: Vec<Vec<u8>> = redis.query(redis::cmd("KEYS").arg("*"));
    keys.sort();
    let entry = |key: &Vec<u8>| {
        let value: Vec<u8> = redis.query(redis::cmd("DUMP").arg(key));
        let expires_at: i64 = redis.query(redis::cmd("PEXPIRETIME").arg(key));
        json!({ "key": BASE64.encode(key), "value": BASE64.encode(&value), "expires_at": expires_at })
    };
    keys.iter().map(entry).collect()
}

fn restore(redis: &RedisServer, dump: &Value) {
    let bytes = |value: &Value| BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
    for entry in dump.as_array().unwrap() {
        let mut restore = redis::cmd("RESTORE");
        let expires_at = entry["expires_at"].as_i64().unwrap();
        restore.arg(bytes(&entry["key"])).arg(expires_at.max(0)).arg(bytes(&entry["value"]));
        if expires_at > 0 {
            restore.arg("ABSTTL");
        }
        let () = redis.query(&restore);
    }
}

/// Copies a data directory, with the modes that a server demands of secrets.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "`make freeze` runs it to record the data of a release"]
async fn record() {
    for store in STORES {
        let release = releases().join(env!("CARGO_PKG_VERSION")).join(store);
        let data = tempfile::tempdir().unwrap();
        let redis = (store == "redis").then(RedisServer::start);
        let url = redis.as_ref().map_or("embedded:".to_owned(), RedisServer::url);
        let process = Process::start(data.path(), &[&SETTINGS[..], &[("SESSIONS__URL", &*url)]].concat());
        let mut expected = fill(&process.serving_client().await).await;
        process.terminate();
        assert_eq!(process.wait(Duration::from_mins(1)).0, Some(0));
        expected["recorded_at"] = seconds_now().into();
        let _ = fs::remove_dir_all(&release);
        copy(data.path(), &release.join("data"));
        let write = |name: &str, value: &Value| {
            fs::write(release.join(name), serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
        };
        write("expected.json", &expected);
        if let Some(redis) = &redis {
            write("redis.json", &dump(redis));
        }
    }
}

struct Upgraded {
    process: Process,
    expected: Value,
    _redis: Option<RedisServer>,
    _data: TempDir,
}

/// Starts this version on the data of a release, a minute after the recording by its clock.
fn upgrade(release: &Path, preload: &Preload) -> Upgraded {
    let read = |name: &str| -> Option<Value> {
        let text = fs::read_to_string(release.join(name)).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    };
    let expected = read("expected.json").unwrap();
    preload.set(expected["recorded_at"].as_i64().unwrap() + 60 - seconds_now(), 0);
    let data = tempfile::tempdir().unwrap();
    copy(&release.join("data"), data.path());
    let redis = read("redis.json").map(|dump| {
        let redis = RedisServer::with_environment(&preload.environment());
        restore(&redis, &dump);
        redis
    });
    let url = redis.as_ref().map_or("embedded:".to_owned(), RedisServer::url);
    let mut serve = command(data.path(), &[&SETTINGS[..], &[("SESSIONS__URL", &*url)]].concat());
    serve.envs(preload.environment()).arg("serve");
    let process = Process::launch(serve, data.path());
    Upgraded { process, expected, _redis: redis, _data: data }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_of_every_release_is_served() {
    let Some(preload) = Preload::build() else { return };
    let entries = fs::read_dir(releases()).unwrap().map(|entry| entry.unwrap().path());
    let mut versions: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    versions.sort();
    assert!(!versions.is_empty());
    for release in versions.iter().flat_map(|version| STORES.map(|store| version.join(store))) {
        let Upgraded { process, expected, .. } = &upgrade(&release, &preload);
        let client = process.serving_client().await;
        let key = expected["caller_key"].as_str().unwrap();
        let verdicts = expected["verdicts"].as_array().unwrap();
        for answer in verdicts {
            let now = verdict(&client, key, answer["token"].as_str().unwrap()).await;
            assert_eq!(now, answer["verdict"], "{}", release.display());
        }

        // Passwords are verified, and logins displace the sessions of the release.
        let laptop = verdicts[2]["token"].as_str().unwrap();
        login(&client, "alice", "", "Upgraded").await;
        let displaced = verdict(&client, key, laptop).await;
        assert_eq!(
            (&displaced["reason"], &displaced["by_device"]),
            (&json!("REJECTION_REASON_REPLACED"), &json!("Upgraded"))
        );
        let user = |index: usize| expected["users"][index].as_str().unwrap();
        assert_eq!(client.list_sessions(user(0)).await.len(), 3);
        let refused = client.try_login(login_request("dora", "Desk")).await.unwrap_err();
        assert_eq!(refused.get_details_error_info().unwrap().reason, "ACCOUNT_DISABLED");
    }
}
