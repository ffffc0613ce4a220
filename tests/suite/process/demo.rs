//! The example `watch` of latchkey-client against a real server.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use latchkey::grpc::pb;

use crate::support::{
    client::{Client, PASSWORD},
    process::{LATCHKEY, Process},
    running::Running,
};

/// The example, built as these tests were. `cargo test --all-targets` makes a test of it instead.
fn example() -> PathBuf {
    let target = Path::new(LATCHKEY).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--quiet", "--workspace", "--example", "watch"]);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    if target.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the example does not build");
    target.join("examples/watch")
}

/// The example, logged in on a laptop and watching, and the id of the user.
async fn watching(process: &Process, client: &Client) -> (Running, String) {
    let user_id = client.user("alice").await;
    let mut command = Command::new(example());
    command.env_remove("LATCHKEY_SERVER");
    command.args(["alice", "--device", "Laptop", "--server", &process.grpc.to_string()]);
    let mut demo = Running::start(command, &format!("{PASSWORD}\n"));
    let greeting = demo.line();
    assert!(greeting.starts_with("logged in on Laptop at ") && greeting.ends_with(" UTC"), "{greeting}");
    assert_eq!(demo.line(), "watching; log in elsewhere to see what happens");
    (demo, user_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_laptop_learns_at_once_that_a_phone_has_logged_in() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let client = process.client().await;
    let (mut demo, _) = watching(&process, &client).await;

    let phone = client.login("alice", "Android").await.token;
    let line = demo.line();
    let (time, rest) = line.split_once("  ").unwrap();
    assert_eq!((time.len(), rest), (8, "replaced by Android"), "{line}");
    let (code, lines, error) = demo.end();
    assert_eq!(code, 0, "{error}");
    assert_eq!(lines, ["log in again by itself? an app must not: show a button"]);
    // The laptop does not log in again.
    assert_eq!(client.session(&phone).await.device, "Android");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_reports_other_ends_and_survives_a_restart_of_the_server() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::start(data.path(), &[]);
    let client = process.client().await;
    let (demo, user_id) = watching(&process, &client).await;

    let address = process.grpc.to_string();
    process.kill();
    let process = Process::start(data.path(), &[("LISTEN__GRPC", &address)]);
    let client = process.client().await;
    let request = pb::SetPasswordRequest { user_id, password: "another password altogether".into() };
    client.accounts.clone().set_password(client.admin(request)).await.unwrap();

    let (code, lines, error) = demo.end();
    assert_eq!(code, 0, "{error}");
    assert!(lines[0].ends_with("  The password has changed since. Please log in again."), "{lines:?}");
    assert_eq!(lines[1..], ["log in again by itself? an app may"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_login_ends_the_example_with_an_error_message() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let mut command = Command::new(example());
    command.args(["nobody", "--server", &process.grpc.to_string()]);
    let (code, lines, error) = Running::start(command, "not the password\n").end();
    assert_eq!((code, lines.len(), error.as_str()), (1, 0, "unknown user or wrong password\n"));
}
