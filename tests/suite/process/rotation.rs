//! Rotation of signing keys on two servers that share them: it never causes `BAD_SIGNATURE`.

use std::{
    collections::HashSet,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, validate_response::Verdict};
use tokio::task::JoinSet;

use super::kid;
use crate::support::{
    client::Client,
    process::{Process, command, run},
    redis::RedisServer,
    replicas::Replicas,
};

/// The time limit of an event.
const PATIENCE: Duration = Duration::from_mins(1);

/// The number of users.
const USERS: usize = 8;

fn issue(username: &str) -> pb::IssueSessionRequest {
    pb::IssueSessionRequest { username: username.into(), ..Default::default() }
}

fn generate(data: &std::path::Path) -> String {
    let mut generate = command(data, &[]);
    generate.args(["key", "generate", "--output", "json"]);
    let output = run(generate, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    made["kid"].as_str().unwrap().to_owned()
}

async fn kids_of(process: &Process) -> Vec<String> {
    let jwks: serde_json::Value =
        serde_json::from_str(&process.get("/.well-known/jwks.json").await.1).unwrap();
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Opens sessions on one server and validates them on the other until it is stopped.
async fn issue_and_validate(name: String, here: Client, there: Client, seen: Arc<Seen>) {
    while !seen.over.load(Ordering::SeqCst) {
        let token = here.try_issue(issue(&name)).await.unwrap().token;
        seen.kids.lock().unwrap().insert(kid(&token));
        for client in [&there, &here] {
            if let Verdict::Rejection(rejection) = client.validate(&token).await {
                seen.wrong.lock().unwrap().push(format!("{}: {:?}", kid(&token), rejection.reason()));
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[derive(Default)]
struct Seen {
    over: AtomicBool,
    kids: Mutex<HashSet<String>>,
    wrong: Mutex<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_are_published_before_they_sign() {
    // The delay is long enough to observe the publication even on a busy machine.
    let settings = [("TOKEN__RELOAD_INTERVAL", "500ms"), ("TOKEN__ACTIVATION_DELAY", "3s")];
    let replicas = Replicas::start(&settings).await;
    let clients = replicas.clients(1).await;
    let seen = Arc::new(Seen::default());
    let mut load = JoinSet::new();
    for number in 0..USERS {
        let name = format!("user{number}");
        clients[0].user(&name).await;
        let (here, there) = (clients[number % 2].clone(), clients[(number + 1) % 2].clone());
        load.spawn(issue_and_validate(name, here, there, Arc::clone(&seen)));
    }
    for _ in 0..2 {
        let new = generate(replicas.data.path());
        let begun = Instant::now();
        // Both servers must publish the key before it signs.
        let mut published = [false; 2];
        while !seen.kids.lock().unwrap().contains(&new) {
            for (process, published) in replicas.processes.iter().zip(&mut published) {
                *published |= kids_of(process).await.contains(&new);
            }
            assert!(begun.elapsed() < PATIENCE, "the new key never signs");
        }
        assert_eq!(published, [true; 2], "the new key signs before both servers publish it");
    }
    seen.over.store(true, Ordering::SeqCst);
    load.join_all().await;
    let wrong = seen.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
}

/// Two servers, one of which looks at the keys by itself only once a day.
async fn early_and_late() -> (RedisServer, tempfile::TempDir, [Process; 2]) {
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let url = redis.url();
    let start = |settings: &[(&str, &str)]| {
        Process::start(data.path(), &[&[("SESSIONS__URL", url.as_str())], settings].concat())
    };
    let early = start(&[("TOKEN__RELOAD_INTERVAL", "100ms"), ("TOKEN__ACTIVATION_DELAY", "2s")]);
    let late = start(&[("TOKEN__RELOAD_INTERVAL", "24h")]);
    for process in [&early, &late] {
        process.serving_client().await;
    }
    (redis, data, [early, late])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_id_reloads_the_keys_before_a_rejection() {
    let (_redis, data, processes) = early_and_late().await;
    let (early, late) = (processes[0].client().await, processes[1].client().await);
    early.user("alice").await;
    let old = early.try_issue(issue("alice")).await.unwrap().token;
    late.session(&old).await;
    let new = generate(data.path());
    let begun = Instant::now();
    let token = loop {
        let token = early.try_issue(issue("alice")).await.unwrap().token;
        if kid(&token) == new {
            break token;
        }
        assert!(begun.elapsed() < PATIENCE, "the new key never signs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // Validate, ValidateStream and Logout all find the key.
    let calls = (0..20).map(|_| late.session(&token));
    futures_util::future::join_all(calls).await;
    assert!(kids_of(&processes[1]).await.contains(&new));
    // An unknown key is a bad signature at once.
    let parts: Vec<_> = token.split('.').collect();
    let header = data_encoding::BASE64URL_NOPAD.encode(br#"{"typ":"at+jwt","alg":"EdDSA","kid":"nobody's"}"#);
    let foreign = format!("{header}.{}.{}", parts[1], parts[2]);
    assert_eq!(late.rejection(&foreign).await.reason(), pb::RejectionReason::BadSignature);
    late.session(&token).await;
}

fn key_files(data: &std::path::Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(data.join("keys")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pem"));
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_removed_too_early_is_logged_and_a_wrong_file_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("TOKEN__RELOAD_INTERVAL", "100ms")]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let old = client.try_issue(issue("alice")).await.unwrap().token;

    // A public key in the directory is an error.
    let public = data.path().join("keys/9-public.pem");
    fs::write(&public, include_str!("../../../src/domain/credentials/keyring/fixtures/ed25519_public.pem"))
        .unwrap();
    fs::set_permissions(&public, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let said = process.output_until("9-public.pem holds a public key in PEM");
    assert!(said.contains("continuing with those in memory"), "{said}");
    client.session(&old).await;
    fs::remove_file(&public).unwrap();

    let new = generate(data.path());
    let begun = Instant::now();
    client.user("bob").await;
    while kid(&client.try_issue(issue("bob")).await.unwrap().token) != new {
        assert!(begun.elapsed() < PATIENCE, "the new key never signs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.session(&old).await;
    fs::remove_file(&key_files(data.path())[0]).unwrap();
    let said = process.output_until("a signing key was removed that live sessions still need");
    assert!(said.contains(&kid(&old)), "{said}");
    assert_eq!(client.rejection(&old).await.reason(), pb::RejectionReason::BadSignature);
}
