//! `latchkey serve --check` reports all errors at once.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::cli::Done;
use crate::support::{
    client::PASSWORD,
    process::{Process, command, run},
    tls::Authority,
};

fn check(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Done {
    let mut command = command(data, settings);
    command.args(["serve", "--check"]).args(arguments);
    run(command, "").into()
}

/// Returns the errors as text and checks that JSON has the same ones.
fn errors(data: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Vec<String> {
    let text = check(data, settings, arguments);
    let json = check(data, settings, &[arguments, &["--output", "json"]].concat());
    assert_eq!((text.code, json.code), (1, 1), "{text:?} {json:?}");
    let lines = text.err.lines().map(|line| line.strip_prefix("error: ").unwrap().to_owned());
    let lines: Vec<_> = lines.collect();
    let value: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&value["valid"], &value["errors"]), (&false.into(), &lines.clone().into()));
    assert_eq!(serde_json::from_str::<Value>(&json.err).unwrap()["error"]["reason"], "FAILED");
    lines
}

#[test]
fn all_errors_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("latchkey.toml");
    fs::write(
        &file,
        "session.slots = ['web', 'mobile', 'web']\nsession.idle = '1h'\nsession.limit = 'two'\n\
         tls.certificate_file = '/nowhere.pem'\n[slot.web]\nidle_timeout = 'soon'\n",
    )
    .unwrap();
    let settings = [
        ("LISTEN__GRPC", "50051"),
        ("TOKEN__LEEWAY", "1h"),
        ("SESSIONS__URL", "redis://127.0.0.1:1/-3"),
        ("THROTTLE__MAX_FAILURES", "many"),
        ("THROTTLE__TRUSTED_PROXIES", "proxy"),
        ("ACCOUNTS__URL", "oracle://db/x"),
        ("AUDIT__FILE", "/dev/null/audit.log"),
        ("LOG__LEVEL", "latchkey=loud"),
        ("NO_SUCH__KEY", "1"),
    ];
    let found = errors(&data, &settings, &["--config", file.to_str().unwrap()]);
    for expected in [
        "session.idle is not a configuration key",
        "session.limit must be a whole number",
        "\"soon\" is not a duration",
        "listen.grpc",
        "LATCHKEY_NO_SUCH__KEY is not a configuration key",
        "LATCHKEY_THROTTLE__MAX_FAILURES must be a whole number",
        "session.slots lists \"web\" twice: remove one",
        "token.leeway must be at most 5m",
        "tls.certificate_file and tls.key_file go together",
        "throttle.trusted_proxies: \"proxy\" is not an address",
        "sessions.url: there is no database -3: use 0 to 2147483647",
        "accounts.url",
        "audit.file: /dev/null/audit.log cannot be written, because /dev/null is not a directory",
        "log.level: \"latchkey=loud\" is invalid",
    ] {
        assert_eq!(
            found.iter().filter(|error| error.contains(expected)).count(),
            1,
            "{expected}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 14, "{found:#?}");
    assert!(!data.exists(), "a check changes nothing");

    // A start reports them, too.
    let mut serve = command(&data, &settings);
    serve.arg("serve");
    let done = Done::from(run(serve, ""));
    assert!(done.code == 1 && done.err.lines().count() >= 5, "{done:?}");
}

#[test]
fn paths_that_must_be_writable_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let inside = file.join("data");
    let key = file.join("admin.key");
    let found = errors(&inside, &[("ACCESS__ADMIN_KEY_FILE", key.to_str().unwrap())], &[]);
    let text = |setting: &str, path: &Path| {
        format!(
            "{setting}: {} cannot be written, because {} is not a directory",
            path.display(),
            file.display()
        )
    };
    assert!(found[0].starts_with(&text("access.admin_key_file", &key)), "{found:?}");
    assert!(found[1].starts_with(&text("data_dir", &inside.join("latchkey.db"))), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");

    let data = folder.path().join("new/data");
    let good = check(&data, &[], &["--output", "json"]);
    assert_eq!(good.json(), serde_json::json!({ "valid": true, "errors": [] }));
    assert!(!folder.path().join("new").exists(), "a check changes nothing");
    for url in [
        "redis://127.0.0.1:1/two",
        "redis://127.0.0.1:1/2147483648",
        "redis+sentinel://a/main/-1",
        "unix:///r?db=-1",
    ] {
        let found = errors(&data, &[("SESSIONS__URL", url)], &[]);
        assert!(found.len() == 1 && found[0].starts_with("sessions.url: "), "{url}: {found:?}");
    }
    let same = [("LISTEN__GRPC", "127.0.0.1:7000"), ("LISTEN__HTTP", "127.0.0.1:7000")];
    assert!(errors(&data, &same, &[])[0].starts_with("listen.grpc and listen.http are both 127.0.0.1:7000"));
}

/// The commands that a server on a terminal prints.
fn printed_commands(data: &Path, settings: &[(&str, &str)]) -> Option<(Process, Vec<String>)> {
    let script = crate::support::skip::find_program("script", "LATCHKEY_TEST_SCRIPT")?;
    // The log is on the same terminal. Without `setpriv` the server would outlive `script`.
    let serve = command(data, &[settings, &[("LOG__LEVEL", "off")]].concat());
    let mut on_terminal = std::process::Command::new(script);
    on_terminal.args(["--quiet", "--return", "--flush", "--command"]);
    on_terminal
        .arg(format!("exec setpriv --pdeathsig KILL {} serve", serve.get_program().to_str().unwrap()))
        .arg("/dev/null");
    on_terminal.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    on_terminal.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let process = Process::launch(on_terminal, data);
    // The list ends with an empty line.
    let deadline = Instant::now() + Duration::from_secs(10);
    let text = loop {
        let text = process.output().replace('\r', "");
        if text.split_once("terminal:\n").is_some_and(|(_, commands)| commands.contains("\n\n")) {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(10));
    };
    let (_, commands) = text.split_once("Next, in another terminal:\n").unwrap();
    let commands = commands.lines().map(str::trim).take_while(|line| !line.is_empty());
    Some((process, commands.map(str::to_owned).collect()))
}

#[test]
fn the_commands_that_the_first_start_prints_work() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("it's my data");
    let Some((server, commands)) = printed_commands(&data, &[("LISTEN__GRPC", "0.0.0.0:0")]) else { return };
    assert_eq!(commands.len(), 3, "{commands:?}");
    assert!(commands[2].starts_with("grpcurl -plaintext 127.0.0.1:"), "{commands:?}");
    run_all(&commands[..2]);
    drop(server);
}

#[test]
fn with_tls_the_printed_commands_work_too() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = Authority::new("ours").server().write(folder.path(), "server");
    let settings =
        [("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()), ("TLS__KEY_FILE", key.to_str().unwrap())];
    let Some((_server, commands)) = printed_commands(&folder.path().join("data"), &settings) else { return };
    assert_eq!(commands.len(), 2, "grpcurl would not trust the certificate: {commands:?}");
    run_all(&commands);
}

/// Runs commands in another directory and without any setting.
fn run_all(commands: &[String]) {
    for command in commands {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", command]).current_dir("/").env_clear();
        Done::from(run(shell, PASSWORD)).text();
    }
}

#[test]
fn the_banner_is_not_mixed_with_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let file = fs::File::create(&log).unwrap();
    let both = (file.try_clone().unwrap().into(), file.into());
    let server = Process::start_redirected(&folder.path().join("data"), &[], both.0, both.1);
    let deadline = Instant::now() + Duration::from_secs(10);
    let text = loop {
        let text = fs::read_to_string(&log).unwrap();
        if text.contains("\"listening\"") && text.ends_with('\n') {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(server);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let listening = lines.iter().find(|line| line["message"] == "listening").unwrap();
    assert!(
        listening["data_dir"].is_string() && listening["access.admin_key_file"].is_string(),
        "{listening}"
    );
}
