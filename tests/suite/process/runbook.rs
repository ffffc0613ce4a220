//! The commands of docs/operations.md on backups and key rotation do what it says.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, RejectionReason};
use serde_json::Value;
use tokio::task::JoinSet;

use super::kid;
use crate::support::{
    client::{Client, is_live},
    process::{LATCHKEY, Process, command, run},
    replicas::Replicas,
};

const PATIENCE: Duration = Duration::from_mins(1);
/// The number of users who log in again and again, and of those who stay.
const USERS: usize = 4;
/// How long a session lasts, and for how long of it a token is used.
const LIFETIME: &str = "8s";
const HELD_FOR: Duration = Duration::from_millis(6500);
/// The name of the old key in the text.
const OLD_KEY: &str = "2026-01-31T08-00-00-000Z-eddsa.pem";

/// The commands of all blocks with this mark.
fn commands(mark: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let mark = format!("<!-- tested: {mark} -->");
    let blocks = page.split(&mark).skip(1);
    let blocks = blocks.map(|rest| rest.split("```").nth(1).unwrap().strip_prefix("console\n").unwrap());
    let commands = blocks.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("$ "));
    let commands: Vec<_> = commands.map(str::to_owned).collect();
    assert!(!commands.is_empty(), "no command has the mark {mark}");
    commands
}

/// Runs a command in a shell on the machine of a server, in `folder`.
fn shell(data: &Path, settings: &[(&str, &str)], folder: &Path, line: &str) -> Output {
    let mut shell = Command::new("sh");
    // With the environment of `latchkey`, but without an inherited one.
    let latchkey = command(data, settings);
    for (name, value) in latchkey.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    #[expect(clippy::disallowed_methods, reason = "the PATH, with ours before it")]
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", Path::new(LATCHKEY).parent().unwrap().display());
    shell.env("PATH", path).current_dir(folder).args(["-euc", line]);
    run(shell, "")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn key_names(data: &Path) -> Vec<String> {
    let names = fs::read_dir(data.join("keys")).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What a load of logins and verdicts on two servers has seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    kids: Mutex<HashSet<String>>,
    wrong: Mutex<Vec<String>>,
}

/// Opens sessions on one server and has both validate them: new ones, and one that is held almost until it expires.
async fn log_in_and_validate(number: usize, servers: [Client; 2], seen: Arc<Seen>) {
    let issue = async |username: String| {
        let issue = pb::IssueSessionRequest { username, ..Default::default() };
        let token = servers[0].try_issue(issue).await.unwrap().token;
        seen.kids.lock().unwrap().insert(kid(&token));
        token
    };
    let mut held = None;
    while !seen.over.load(Ordering::SeqCst) {
        held = held.filter(|(_, since): &(String, Instant)| since.elapsed() < HELD_FOR);
        if held.is_none() {
            held = Some((issue(format!("holder{number}")).await, Instant::now()));
        }
        let new = issue(format!("user{number}")).await;
        for token in held.iter().map(|(token, _)| token.as_str()).chain([new.as_str()]) {
            for client in &servers {
                let verdict = client.validate(token).await;
                if !is_live(&verdict) {
                    seen.wrong.lock().unwrap().push(format!("{}: {verdict:?}", kid(token)));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn wait_until(mut done: impl AsyncFnMut() -> bool, what: &str) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn publishes(process: &Process, kid: &str) -> bool {
    process.get("/.well-known/jwks.json").await.1.contains(kid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rotation_of_the_runbook_causes_no_bad_signature_on_two_replicas() {
    let settings = [
        ("TOKEN__RELOAD_INTERVAL", "300ms"),
        ("TOKEN__ACTIVATION_DELAY", "1s"),
        ("TOKEN__LEEWAY", "1s"),
        ("SESSION__IDLE_TIMEOUT", LIFETIME),
        ("SESSION__ABSOLUTE_TIMEOUT", LIFETIME),
    ];
    let replicas = Replicas::start(&settings).await;
    let clients = replicas.clients(1).await;
    let folder = tempfile::tempdir().unwrap();
    let server = replicas.processes[0].grpc.to_string();
    let variables = [&settings[..], &[("SERVER", server.as_str())]].concat();
    let data = replicas.data.path().to_owned();
    let shell = |line: &str| shell(&data, &variables, folder.path(), line);
    let listed = |arguments: &str| -> Vec<Value> {
        let output = shell(&format!("latchkey key list --output json {arguments}"));
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        value["keys"].as_array().unwrap().clone()
    };

    let old = key_names(&data)[0].clone();
    for number in 0..USERS {
        clients[0].user(&format!("user{number}")).await;
        clients[0].user(&format!("holder{number}")).await;
    }
    let refused = shell(&format!("latchkey key remove {old}"));
    assert!(!refused.status.success() && text(&refused).contains("it is the only key"), "{}", text(&refused));
    let seen = Arc::new(Seen::default());
    let mut load = JoinSet::new();
    for number in 0..USERS {
        let servers = [clients[number % 2].clone(), clients[(number + 1) % 2].clone()];
        load.spawn(log_in_and_validate(number, servers, Arc::clone(&seen)));
    }
    let old_kid = listed("")[0]["kid"].as_str().unwrap().to_owned();
    let count = async || listed("--sessions")[0]["sessions"].as_u64() == Some(2 * USERS as u64);
    wait_until(count, "a session of each user").await;
    assert_eq!(listed("")[0]["signs"], true);

    for line in commands("rotation") {
        if !line.contains("key remove") {
            let output = shell(&line);
            assert!(output.status.success(), "{line}: {}", text(&output));
            continue;
        }
        let line = line.replace(OLD_KEY, &old);
        let keys = listed("");
        assert_eq!(keys.len(), 2);
        let new_kid = keys[1]["kid"].as_str().unwrap().to_owned();
        // Before its time the removal is refused, first because the key signs.
        let refused = text(&shell(&line));
        assert!(refused.contains("was not removed"), "{refused}");
        wait_until(async || seen.kids.lock().unwrap().contains(&new_kid), "the new key signs").await;
        let keys = listed("--sessions");
        assert_eq!((&keys[0]["signs"], &keys[1]["signs"]), (&Value::Bool(false), &Value::Bool(true)));
        assert!(keys[0]["needed_until"].is_string() && keys[1]["sessions"].is_u64(), "{keys:?}");
        let refused = text(&shell(&line));
        assert!(refused.contains("its tokens can live until"), "{refused}");
        wait_until(async || shell(&line).status.success(), "the removal").await;
        assert_eq!(key_names(&data).len(), 1);
    }
    for process in &replicas.processes {
        wait_until(async || !publishes(process, &old_kid).await, "the end of the old key").await;
    }
    seen.over.store(true, Ordering::SeqCst);
    load.join_all().await;
    assert_eq!(seen.kids.lock().unwrap().len(), 2);
    let wrong = seen.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    for process in &replicas.processes {
        assert!(!process.output().contains("live sessions still need"), "{}", process.output());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaked_key_and_all_sessions_are_gone_after_the_commands_of_the_runbook() {
    let replicas = Replicas::start(&[]).await;
    let clients = replicas.clients(1).await;
    let folder = tempfile::tempdir().unwrap();
    let server = replicas.processes[0].grpc.to_string();
    let data = replicas.data.path().to_owned();
    clients[0].user("alice").await;
    let token = clients[0].login("alice", "phone").await.token;
    let old = key_names(&data)[0].clone();
    for line in commands("leaked key") {
        let output =
            shell(&data, &[("SERVER", server.as_str())], folder.path(), &line.replace(OLD_KEY, &old));
        assert!(output.status.success(), "{line}: {}", text(&output));
    }
    for client in &clients {
        assert_eq!(client.rejection(&token).await.reason(), RejectionReason::BadSignature);
    }
    let new = clients[0].login("alice", "phone").await.token;
    assert_ne!(kid(&new), kid(&token));
    for client in &clients {
        client.session(&new).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backup_of_the_runbook_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let [data, new]: [PathBuf; 2] = ["data", "new"].map(|name| folder.path().join(name));
    let process = Process::start(&data, &[]);
    process.serving_client().await.user("alice").await;
    let output = shell(&data, &[], folder.path(), "latchkey backup latchkey.tar");
    assert!(output.status.success(), "{}", text(&output));
    drop(process);
    for line in commands("restore") {
        let output = shell(&new, &[], folder.path(), &line);
        assert!(output.status.success(), "{line}: {}", text(&output));
    }
    let process = Process::start(&new, &[]);
    process.serving_client().await.login("alice", "phone").await;
    let listing = shell(&new, &[], folder.path(), "tar -tf latchkey.tar");
    let listing = text(&listing);
    let names: Vec<_> = listing.lines().collect();
    assert_eq!((names[0], names[1]), ("manifest.json", "latchkey.db"), "{listing}");
    assert!(names.contains(&"admin.key"), "{listing}");
}
