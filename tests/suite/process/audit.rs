//! The audit trail of the binary.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use latchkey::{
    domain::audit::Action,
    grpc::pb::{self, LogoutScope},
};
use serde_json::Value;
use tonic::Request;

use crate::support::{
    client::{PASSWORD, login_request},
    process::Process,
};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the file has this number of lines.
fn until(path: &Path, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let found = lines(path);
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:#?}");
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{found:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the action, outcome, reason, username and number of ended sessions.
fn gist(line: &Value) -> String {
    let text = |field: &str| line[field].as_str().unwrap_or("-").to_owned();
    format!(
        "{} {} {} {} {}",
        text("action"),
        text("outcome"),
        text("reason"),
        text("username"),
        line["ended"]
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_on_an_account_is_in_the_audit_trail_once() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("audit.jsonl");
    let process = Process::start(data.path(), &[("AUDIT__FILE", path.to_str().unwrap())]);
    let client = process.serving_client().await;

    let user_id = client.user_with_roles("alice", &["staff"]).await;
    let old = client.login("alice", "Android").await;
    let mut login = Request::new(login_request("alice", "iPhone"));
    login.metadata_mut().insert("x-forwarded-for", "198.51.100.7".parse().unwrap());
    login.metadata_mut().insert("x-request-id", "my-own-id".parse().unwrap());
    let new = client.auth.clone().login(login).await.unwrap().into_inner();
    let wrong = pb::LoginRequest { password: "hunter2 is wrong".into(), ..login_request("alice", "") };
    client.try_login(wrong).await.unwrap_err();
    let mistaken =
        pb::LoginRequest { username: "hunter2 in the wrong field".into(), ..login_request("", "") };
    client.try_login(mistaken).await.unwrap_err();
    client.validate(&new.token).await;
    client.logout(&old.token, LogoutScope::This).await;
    client.logout(&new.token, LogoutScope::This).await;
    let token = client.login("alice", "").await.token;
    let change = pb::ChangePasswordRequest {
        token,
        current_password: PASSWORD.into(),
        new_password: "an entirely different sentence".into(),
    };
    client.auth.clone().change_password(change).await.unwrap();
    client.update(pb::UpdateAccountRequest { user_id, disabled: Some(true), ..Default::default() }).await;

    let found = until(&path, 11);
    let gists: Vec<_> = found.iter().map(gist).collect();
    assert_eq!(
        gists,
        [
            "account.create done - alice null",
            "login done - alice 0",
            "session.displaced done - alice null",
            "login done - alice 1",
            "login refused INVALID_CREDENTIALS alice null",
            "login refused INVALID_CREDENTIALS - null",
            "logout refused REPLACED - null",
            "logout done - - 1",
            "login done - alice 0",
            "password.change done - - 0",
            "account.update done - alice 1",
        ]
    );
    let login = &found[3];
    assert_eq!((&login["request_id"], &login["address"]), (&"my-own-id".into(), &"198.51.100.7".into()));
    assert_eq!((&login["device"], &login["slot"]), (&"iPhone".into(), &"default".into()));
    assert_eq!(login["session_id"], new.session.unwrap().session_id);
    assert_eq!(found[2]["session_id"], old.session.unwrap().session_id);
    assert_eq!(found[0]["caller"], "admin");

    let text = fs::read_to_string(&path).unwrap();
    for secret in ["hunter2", PASSWORD, "entirely different", "$argon2", "eyJ", client.admin_key.as_str()] {
        assert!(!text.contains(secret), "{secret} is in the trail");
    }
    let log = process.output_until("\"audit.action\":\"account.update\"");
    assert_eq!(log.matches("\"audit.action\":\"login\"").count(), 5, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_file_is_created_again_and_a_stop_loses_no_entry() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("audit.jsonl");
    let settings = [("AUDIT__FILE", path.to_str().unwrap()), ("AUDIT__LOG", "false")];
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    client.user("alice").await;
    until(&path, 1);
    let old = data.path().join("audit.jsonl.1");
    fs::rename(&path, &old).unwrap();
    let begun = Instant::now();
    let mut count = 1;
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        client.login("alice", "").await;
        count += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.terminate();
    let (code, log) = process.wait(Duration::from_secs(20));
    assert_eq!(code, Some(0), "{log}");
    let logins =
        lines(&old).into_iter().chain(lines(&path)).filter(|line| line["action"] != "session.displaced");
    assert_eq!(logins.count(), count);
    assert!(!log.contains("audit.action"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_logins_is_aggregated_in_the_audit_trail() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("audit.jsonl");
    // Loopback is no trusted proxy here, so its address counts as that of a client.
    let settings = [("THROTTLE__TRUSTED_PROXIES", "192.0.2.0/24"), ("AUDIT__FILE", path.to_str().unwrap())];
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    for _ in 0..40 {
        futures_util::future::join_all((0..50).map(|_| client.logout("not a token", LogoutScope::This)))
            .await;
    }
    process.terminate();
    let (_, log) = process.wait(Duration::from_secs(20));
    let text = fs::read_to_string(&path).unwrap();
    let entries = text.matches("\"action\":\"logout\"").count();
    // The flood may have lasted into another minute.
    assert!((21..=42).contains(&entries), "{entries} entries: {text}");
    assert!(text.contains("more from 127.0.0.1/32 were refused, and have no entries"), "{text}");
    assert_eq!(log.matches("\"audit.action\":\"logout\"").count(), entries);
}

#[test]
fn a_file_that_cannot_be_written_ends_the_start() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("missing/audit.jsonl");
    let mut command =
        crate::support::process::command(data.path(), &[("AUDIT__FILE", path.to_str().unwrap())]);
    command.arg("serve");
    let output = crate::support::process::run(command, "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("audit.file: cannot write"), "{said}");
}

#[test]
fn every_action_is_documented() {
    let docs = include_str!("../../../docs/audit.md");
    for action in Action::ALL {
        assert!(docs.contains(&format!("| `{}` |", action.name())), "{}", action.name());
    }
}
