//! Output that cannot be written is an error, and secrets that were never shown are revoked.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use super::cli::Shell;
use crate::support::{client::PASSWORD, process::command};

/// Runs a command with standard output on a full disk and returns the exit code and standard error.
fn on_a_full_disk(mut command: Command, input: &str) -> (i32, String) {
    use std::io::Write as _;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = command.stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Runs a command with standard output in a closed pipe.
fn into_a_closed_pipe(mut command: Command, input: &str) -> (i32, String) {
    use std::io::Write as _;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn output_that_cannot_be_written_is_an_error_of_every_command() {
    let shell = Shell::with(&[]);
    shell.add("alice");
    let token = shell.login("alice");
    for (words, input) in [
        ("account list", ""),
        ("account show alice", ""),
        ("account add bob", PASSWORD),
        ("account disable bob", ""),
        ("account unlock bob", ""),
        ("account set-password bob", PASSWORD),
        ("account set-roles bob staff", ""),
        ("account delete bob", ""),
        ("session list alice", ""),
        ("session watch", ""),
        ("validate", token.as_str()),
        ("watch", token.as_str()),
        ("caller list", ""),
        ("key list", ""),
        ("serve --print-defaults", ""),
        ("descriptor", ""),
        ("completions bash", ""),
        ("man", ""),
        ("doctor", ""),
        ("session list", ""),
        ("man account add", ""),
        ("bench --duration 100ms", token.as_str()),
        ("--help", ""),
        ("account add --help", ""),
        ("--version", ""),
        ("session end alice", ""),
        ("logout", token.as_str()),
    ] {
        for output in ["json", "text"] {
            let words = format!("{words} --output {output}");
            if words.starts_with("session watch --output text") {
                // This command prints nothing until an event arrives.
                continue;
            }
            let (code, error) = on_a_full_disk(shell.command(&words, &[]), input);
            let is_bad = code != 1 || !error.contains("No space left on device");
            // Repeated with another output format, these commands fail for another reason.
            let again = output == "text"
                && ["account", "validate", "watch", "session end"].iter().any(|done| words.starts_with(done));
            assert!(!is_bad || (again && code == 1), "{words}: {code} {error}");
        }
    }
    let (code, error) = into_a_closed_pipe(shell.command("account list", &[]), "");
    assert!(code == 1 && error.contains("cannot write to standard output: Broken pipe"), "{code} {error}");
}

#[test]
fn created_secrets_that_were_never_shown_are_revoked() {
    let shell = Shell::with(&[]);
    shell.add("alice");
    let (code, error) = on_a_full_disk(shell.command("caller create web --role validator", &[]), "");
    assert!(code == 1 && error.contains("the caller web was revoked again"), "{code} {error}");
    assert_eq!(shell.says_json("caller list", "")["callers"], serde_json::json!([]));

    let keys = || fs::read_dir(shell.data.path().join("keys")).unwrap().count();
    let before = keys();
    let (code, error) = on_a_full_disk(shell.command("key generate", &[]), "");
    assert!(code == 1 && error.contains("The key was removed again"), "{code} {error}");
    assert_eq!(keys(), before);

    let open = || shell.says_json("session list alice", "")["sessions"].as_array().unwrap().len();
    for (words, input) in [("login alice", PASSWORD), ("session issue alice", "")] {
        let (code, error) = on_a_full_disk(shell.command(words, &[]), input);
        assert!(code == 1 && error.contains("its session was ended again"), "{words}: {code} {error}");
        assert_eq!(open(), 0, "{words}");
        // A session with an idempotency key stays, because the same command returns its token again.
        let words = format!("{words} --idempotency-key abcdefghijklmnopqrstuvwxyz{}", words.len());
        let (code, error) = on_a_full_disk(shell.command(&words, &[]), input);
        assert!(
            code == 1 && error.contains("the same command prints its token again"),
            "{words}: {code} {error}"
        );
        assert_eq!(open(), 1, "{words}");
        let again = shell.says(&words, input).text();
        shell.says("validate", &again).text();
    }
}

#[test]
fn an_empty_environment_variable_counts_as_not_set() {
    let shell = Shell::with(&[]);
    shell.add("alice");
    let token = shell.login("alice");
    let empty: Vec<_> =
        ["CONFIG", "KEY_FILE", "CA_FILE", "CERTIFICATE_FILE", "TOKEN"].map(|name| (name, "")).into();
    let output = crate::support::process::run(shell.command("validate", &empty), &token);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut list =
        command(shell.data.path(), &[("SERVER", ""), ("LISTEN__GRPC", &shell.process.grpc.to_string())]);
    list.args(["account", "list"]);
    assert!(crate::support::process::run(list, "").status.success());
    for words in ["validate --config=", "validate --server="] {
        let output = crate::support::process::run(shell.command(words, &[]), &token);
        assert_eq!(output.status.code(), Some(2), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
