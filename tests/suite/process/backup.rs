//! `latchkey backup` and `latchkey restore`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use latchkey::grpc::pb::{LogoutScope, RejectionReason};
use serde_json::Value;

use crate::support::{
    postgres::Postgres,
    process::{Process, command, run},
    redis::RedisServer,
};

fn latchkey(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = command(data, settings);
    command.args(arguments);
    run(command, "")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that succeeds, and returns what it prints with `--output json` and on standard error.
fn succeeds(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> (Value, String) {
    let output = latchkey(data, settings, &[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    (serde_json::from_slice(&output.stdout).unwrap(), said(&output))
}

/// Runs a command that fails with exit code 1, and returns what it says.
fn fails(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = latchkey(data, settings, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_serving_server_restores_accounts_and_keys_and_ends_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let [data, new, kept] = ["data", "new", "kept"].map(|name| folder.path().join(name));
    let file = folder.path().join("latchkey.tar");
    let file = file.to_str().unwrap();
    let process = Process::start(&data, &[]);
    let client = process.serving_client().await;
    client.user("alice").await;
    client.user("busy").await;
    let [idle, ended] = [client.login("alice", "idle").await.token, {
        client.user("bob").await;
        client.login("bob", "phone").await.token
    }];
    // Backups are consistent while others write.
    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (client, over) = (process.client().await, Arc::clone(&over));
        async move {
            let mut logins = 0;
            while !over.load(Ordering::SeqCst) {
                let issue =
                    latchkey::grpc::pb::IssueSessionRequest { username: "busy".into(), ..Default::default() };
                client.try_issue(issue).await.unwrap();
                logins += 1;
            }
            logins
        }
    });
    for number in 0..3 {
        let (backup, _) = succeeds(&data, &[], &["backup", "--force", file]);
        let files = backup["files"].as_array().unwrap();
        assert_eq!(files.len(), 3, "{number}: {backup}");
        assert_eq!(backup["not_included"], Value::Array(Vec::new()));
    }
    over.store(true, Ordering::SeqCst);
    assert!(load.await.unwrap() > 0);
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(entries(folder.path()), ["data", "latchkey.tar"], "temporary files are gone");
    let said = fails(&data, &[], &["backup", file]);
    assert!(said.contains("exists") && said.contains("--force"), "{said}");

    // Nobody restores under a server, and nothing is overwritten by accident.
    client.logout(&ended, LogoutScope::This).await;
    let said = fails(&data, &[], &["restore", "--force", file]);
    assert!(said.contains("is in use"), "{said}");
    client.session(&idle).await;
    drop(process);
    let said = fails(&data, &[], &["restore", file]);
    assert!(said.contains("is not empty, it has latchkey.db"), "{said}");

    let (restored, _) = succeeds(&new, &[], &["restore", file]);
    assert_eq!((&restored["sessions_kept"], &restored["old_files"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(entries(&new), ["admin.key", "keys", "latchkey.db", "latchkey.lock"]);
    for name in ["admin.key", "latchkey.db"] {
        assert_eq!(fs::metadata(new.join(name)).unwrap().permissions().mode() & 0o7777, 0o600, "{name}");
    }
    let process = Process::start(&new, &[]);
    let client = process.serving_client().await;
    for token in [&idle, &ended] {
        assert_eq!(client.rejection(token).await.reason(), RejectionReason::Kicked);
    }
    let token = client.login("alice", "phone").await.token;
    client.session(&token).await;

    // The risk of --keep-sessions: a session that was logged out after the backup is live again.
    let (restored, _) = succeeds(&kept, &[], &["restore", "--keep-sessions", file]);
    assert_eq!(restored["sessions_kept"], true);
    let process = Process::start(&kept, &[]);
    let client = process.serving_client().await;
    client.session(&idle).await;
    client.session(&ended).await;
    drop(process);

    // With --force the old files are kept beside the new ones.
    let (restored, _) = succeeds(&data, &[], &["restore", "--force", file]);
    let aside = Path::new(restored["old_files"].as_str().unwrap());
    assert!(entries(aside).starts_with(&["admin.key".into(), "keys".into(), "latchkey.db".into()]));
    drop(Process::start(&data, &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_goes_through_pipes_and_a_damaged_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [data, new] = ["data", "new"].map(|name| folder.path().join(name));
    drop(Process::start(&data, &[]));
    let output = latchkey(&data, &[], &["backup", "-"]);
    assert!(output.status.success(), "{}", said(&output));
    let archive = folder.path().join("archive");
    let restore = |bytes: &[u8]| {
        fs::write(&archive, bytes).unwrap();
        let mut restore = command(&new, &[]);
        restore.args(["restore", "-"]).stdin(Stdio::from(fs::File::open(&archive).unwrap()));
        restore.output().unwrap()
    };
    for damaged in [&output.stdout[..output.stdout.len() / 2], b"", b"no archive"] {
        let restored = restore(damaged);
        assert_eq!(restored.status.code(), Some(1));
        assert!(said(&restored).contains("cannot restore -: "), "{}", said(&restored));
        assert_eq!(entries(&new), ["latchkey.lock"]);
    }
    let restored = restore(&output.stdout);
    assert!(restored.status.success(), "{}", said(&restored));
    // A restore that was interrupted must be run again before a server starts.
    fs::create_dir(new.join("restore.incomplete")).unwrap();
    let error = fails(&new, &[], &["serve"]);
    assert!(error.contains("was interrupted") && error.contains("latchkey restore --force"), "{error}");
    let (restored, _) = succeeds(&new, &[], &["restore", "--force", archive.to_str().unwrap()]);
    assert!(restored["old_files"].is_string());
    drop(Process::start(&new, &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_shared_stores_a_backup_has_the_keys_and_a_restore_ends_the_sessions_in_redis() {
    let mut redis = RedisServer::start();
    let (url, accounts) = (redis.url(), Postgres::shared().database().await);
    let settings = [("SESSIONS__URL", url.as_str()), ("ACCOUNTS__URL", accounts.as_str())];
    let folder = tempfile::tempdir().unwrap();
    let [data, new, elsewhere] = ["data", "new", "elsewhere"].map(|name| folder.path().join(name));
    let file = folder.path().join("latchkey.tar");
    let file = file.to_str().unwrap();
    let process = Process::start(&data, &settings);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;

    let (backup, notes) = succeeds(&data, &settings, &["backup", file]);
    let files: Vec<_> =
        backup["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    assert_eq!(files[0], "admin.key");
    assert!(files.len() == 2 && files[1].starts_with("keys/"), "{files:?}");
    assert!(notes.contains("pg_dump") && notes.contains("RDB or AOF"), "{notes}");
    let error = fails(&data, &settings, &["restore", "--force", file]);
    assert!(error.contains("is in use"), "{error}");

    // Other settings than those of the backup.
    let error = fails(&new, &[], &["restore", file]);
    assert!(error.contains("sessions.url was redis:") && error.contains("--config"), "{error}");

    // Another server still serves; the new epoch reaches it, too.
    succeeds(&new, &settings, &["restore", file]);
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::Kicked);
    let restored = Process::start(&new, &settings);
    let client = restored.serving_client().await;
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::Kicked);
    let token = client.login("alice", "phone").await.token;

    // Keys with a place of their own are in the archive and not restored.
    let (keys, admin_key) = (data.join("keys"), data.join("admin.key"));
    let places = [
        ("TOKEN__KEYS_DIR", keys.to_str().unwrap()),
        ("ACCESS__ADMIN_KEY_FILE", admin_key.to_str().unwrap()),
    ];
    let (kept, notes) =
        succeeds(&elsewhere, &[&settings[..], &places].concat(), &["restore", "--keep-sessions", file]);
    assert_eq!(kept["not_restored"].as_array().unwrap().len(), 2);
    assert!(notes.contains("token.keys_dir names") && notes.contains("tar -xf"), "{notes}");
    assert_eq!(entries(&elsewhere), ["latchkey.lock"]);
    client.session(&token).await;

    // Without Redis there is no new epoch, and then no restore.
    redis.kill();
    let error = fails(&elsewhere, &settings, &["restore", file]);
    assert!(
        error.contains("cannot begin a new epoch in Redis") && error.contains("--keep-sessions"),
        "{error}"
    );
    assert_eq!(entries(&elsewhere), ["latchkey.lock"]);
}
