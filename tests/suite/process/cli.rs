//! The command line: its output as text and as JSON, and its exit codes.

use std::{
    process::{Command, Output},
    time::Duration,
};

use latchkey::grpc::pb::GetJwksRequest;
use serde_json::Value;
use tempfile::TempDir;

use super::kid;
use crate::support::{
    address::unused_address,
    client::PASSWORD,
    process::{Process, command, run},
};

/// A server and the commands against it.
pub(super) struct Shell {
    pub(super) data: TempDir,
    pub(super) process: Process,
}

/// The result of a command.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let done =
            Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
        // No stream is a terminal here.
        assert!(!done.out.contains('\u{1b}') && !done.err.contains('\u{1b}'), "colours: {done:?}");
        done
    }
}

impl Done {
    /// Checks that the command succeeded and returns its output.
    pub(super) fn text(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    pub(super) fn json(self) -> Value {
        let text = self.text();
        assert_eq!(text.lines().count(), 1, "one line, for programs that read lines: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Checks that the command failed with this exit code and a message that contains this text.
    #[track_caller]
    pub(super) fn fails(self, code: i32, said: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(said), "{self:?}");
    }
}

impl Shell {
    fn start() -> Self {
        Self::with(&[("TOKEN__RELOAD_INTERVAL", "100ms")])
    }

    /// Starts a server with settings.
    pub(super) fn with(settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let process = Process::start(data.path(), settings);
        Self { data, process }
    }

    /// Runs `latchkey` with these arguments.
    pub(super) fn says(&self, words: &str, input: &str) -> Done {
        run(self.command(words, &[]), input).into()
    }

    /// Prepares `latchkey` with these arguments and variables.
    pub(super) fn command(&self, words: &str, settings: &[(&str, &str)]) -> Command {
        let server = self.process.grpc.to_string();
        let mut command = command(self.data.path(), &[&[("SERVER", server.as_str())], settings].concat());
        command.args(words.split(' '));
        command
    }

    pub(super) fn says_json(&self, words: &str, input: &str) -> Value {
        self.says(&format!("{words} --output json"), input).json()
    }

    pub(super) fn add(&self, username: &str) {
        self.says(&format!("account add {username}"), PASSWORD).text();
    }

    pub(super) fn login(&self, username: &str) -> String {
        self.says(&format!("login {username}"), PASSWORD).text().trim().to_owned()
    }
}

#[test]
fn accounts_are_managed_in_text() {
    let shell = Shell::start();
    let added = shell.says("account add Alice --role staff --role admin", &format!("{PASSWORD}\n")).text();
    assert!(added.starts_with("user       Alice\nid         "), "{added}");
    assert!(added.contains("\nroles      admin, staff\nstate      enabled\ncreated    20"), "{added}");
    assert_eq!(shell.says("account show ALICE", "").text(), added);
    let id = added.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap();
    assert_eq!(shell.says(&format!("account show --id {id}"), "").text(), added);
    shell.add("bob");
    let list = shell.says("account list", "").text();
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert_eq!(lines[0], "ID                          USERNAME  STATE    ROLES");
    assert_eq!(lines[1], format!("{id}  Alice     enabled  admin,staff"));
    assert!(lines[2].ends_with("  bob       enabled"), "{list}");

    let changed = shell.says("account set-roles alice guest auditor", "").text();
    assert!(
        changed.contains("\nroles      auditor, guest\n") && changed.ends_with("sessions   0 ended\n"),
        "{changed}"
    );
    let token = shell.login("alice");
    let changed = shell.says_json("account set-roles alice staff admin", "");
    assert_eq!(changed["account"]["roles"], serde_json::json!(["admin", "staff"]));
    assert_eq!(
        shell.says_json("validate", &token)["session"]["roles"],
        serde_json::json!(["admin", "staff"]),
        "a live session has the new roles"
    );
    shell.says("account set-roles alice", "").fails(2, "--none");
    let none = shell.says_json("account set-roles alice --none", "");
    assert_eq!(none["account"]["roles"], serde_json::json!([]));
    shell.says("logout", &token).text();

    let token = shell.login("alice");
    let disabled = shell.says("account disable alice", "").text();
    assert!(
        disabled.contains("state      disabled\n") && disabled.ends_with("sessions   1 ended\n"),
        "{disabled}"
    );
    shell.says("validate", &token).fails(1, "ACCOUNT_DISABLED");
    shell.says("login alice", PASSWORD).fails(1, "disabled");
    assert!(shell.says("account enable alice", "").text().contains("state      enabled\n"));
    let for_a_day = shell.says("account disable alice --for 24h", "").text();
    assert!(for_a_day.contains("state      disabled until 20"), "{for_a_day}");
    shell.says("account enable alice", "").text();

    shell.login("alice");
    let other = "another password altogether";
    assert_eq!(shell.says("account set-password alice", other).text(), "sessions   1 ended\n");
    shell.says("login alice", PASSWORD).fails(1, "");
    shell.says("login alice", other).text();
    assert_eq!(shell.says("account delete alice", "").text(), "sessions   1 ended\n");
    shell.says("account show alice", "").fails(1, "");
}

#[test]
fn accounts_are_managed_in_json() {
    let shell = Shell::start();
    let added = shell.says_json("account add alice --role staff", PASSWORD);
    let account = &added["account"];
    assert_eq!(account["username"], "alice");
    assert_eq!(account["roles"][0], "staff");
    assert_eq!((&account["disabled"], &account["disabled_until"]), (&Value::Bool(false), &Value::Null));
    assert!(account["created_at"].as_str().unwrap().ends_with('Z'));
    let shown = shell.says_json("account show alice", "");
    assert_eq!((&shown["account"], &shown["login_throttle"]["failures"]), (account, &0.into()));
    for _ in 0..6 {
        shell.says("login alice", "not this one").fails(1, "");
    }
    let throttle = &shell.says_json("account show alice", "")["login_throttle"];
    assert_eq!((&throttle["failures"], &throttle["locked"]), (&5.into(), &Value::Bool(false)));
    assert!(throttle["next_attempt_at"].is_string());
    assert!(
        shell
            .says("account show alice", "")
            .text()
            .contains("5 failed in a row; the next attempt is allowed at")
    );
    assert_eq!(shell.says_json("account unlock alice", "")["failures"], 5);
    shell.says("login alice", PASSWORD).text();
    assert_eq!(&shell.says_json("account list", "")["accounts"][0], account);
    let disabled = shell.says_json("account disable alice --for 1h", "");
    assert_eq!((&disabled["account"]["disabled"], &disabled["ended"]), (&Value::Bool(true), &1.into()));
    assert!(disabled["account"]["disabled_until"].is_string());
    assert_eq!(shell.says_json("account enable alice", "")["account"]["disabled"], false);
    assert_eq!(shell.says_json("account set-password alice", "another new password")["ended"], 0);
    assert_eq!(shell.says_json("account delete alice", "")["ended"], 0);
    assert_eq!(shell.says_json("account list", "")["accounts"].as_array().unwrap().len(), 0);
}

#[test]
fn sessions_are_opened_validated_and_ended() {
    let shell = Shell::start();
    shell.add("alice");
    let first = shell.says("login alice --device Android", PASSWORD);
    assert!(first.err.contains("device     Android") && !first.err.contains("displaced"), "{first:?}");
    let first = first.text();
    assert_eq!(first.lines().count(), 1, "nothing but the token, so that it can be caught: {first}");
    let good = shell.says("validate", &first).text();
    assert!(good.starts_with("user       alice (") && good.contains("\nif unused  20"), "{good}");
    assert_eq!(shell.says_json("validate --peek", &first)["session"]["device"], "Android");

    let second = shell.says_json("login alice --device iPhone", PASSWORD);
    assert_eq!(second["displaced"][0]["device"], "Android");
    let token = second["token"].as_str().unwrap();
    shell.says("validate", &first).fails(1, "error: REPLACED: ");
    let rejected = shell.says("validate --output json", &first);
    assert_eq!(rejected.code, 1);
    let rejection = &serde_json::from_str::<Value>(&rejected.out).unwrap()["rejection"];
    assert_eq!((&rejection["reason"], &rejection["terminal"]), (&"REPLACED".into(), &true.into()));
    assert_eq!(rejection["by_device"], "iPhone");

    // A stale token ends no session and prints its reason.
    assert!(shell.says("logout", &first).text().starts_with("nothing to end: REPLACED: "));
    assert_eq!(shell.says("logout --scope others", token).text(), "0 ended\n");
    let out = shell.says_json("logout", token);
    assert_eq!((&out["ended"], &out["rejection"]), (&1.into(), &Value::Null));
    let again = shell.says_json("logout --scope all", token);
    assert_eq!((&again["ended"], &again["rejection"]["reason"]), (&0.into(), &"LOGGED_OUT".into()));
    shell.says("validate", token).fails(1, "LOGGED_OUT");

    // The token may come from the environment.
    let token = shell.login("alice");
    let server = shell.process.grpc.to_string();
    let mut validate = command(shell.data.path(), &[("SERVER", &server), ("TOKEN", &token)]);
    validate.arg("validate");
    Done::from(run(validate, "")).text();
}

#[test]
fn exit_codes_distinguish_refused_wrong_usage_and_unavailable() {
    let shell = Shell::start();
    shell.add("alice");
    shell.says("account add alice", PASSWORD).fails(1, "");
    shell.says("login alice", "not the password").fails(1, "");
    shell.says("login nobody", PASSWORD).fails(1, "");
    shell.says("validate", "not a token").fails(1, "MALFORMED");
    shell.says("account show nobody", "").fails(1, "");

    shell.says("account add bob", "short").fails(2, "15 code points");
    shell.says("login alice --slot nowhere", PASSWORD).fails(2, "slot");
    shell.says("frobnicate", "").fails(2, "frobnicate");
    shell.says("validate --server [", "token").fails(2, "--server");
    shell.says("account disable alice --for ever", "").fails(2, "--for");

    let nobody = unused_address().to_string();
    for (words, input) in
        [("login alice", PASSWORD), ("validate", "token"), ("logout", "token"), ("account list", "")]
    {
        let unavailable = shell.says(&format!("{words} --server {nobody}"), input);
        unavailable.fails(3, &format!("no server answers at {nobody}: start one with `latchkey serve`"));
    }
    // The command fails without the admin key.
    let elsewhere = tempfile::tempdir().unwrap();
    let server = shell.process.grpc.to_string();
    let mut list = command(elsewhere.path(), &[("SERVER", &server)]);
    list.args(["account", "list"]);
    Done::from(run(list, "")).fails(1, "the admin key is needed");
}

#[test]
fn passwords_come_only_from_standard_input() {
    let shell = Shell::start();
    for words in ["account add alice --password x", "account add alice x", "login alice x", "validate x"] {
        shell.says(words, PASSWORD).fails(2, "unexpected argument");
    }
    shell.says("account add alice", "").fails(2, "standard input has no password");
    shell.says("account list", "").text();
    // Blanks are part of the password, and the line break is not.
    shell.says("account add alice", "  blanks around  \r\n").text();
    shell.says("login alice", "blanks around").fails(1, "");
    shell.says("login alice", "  blanks around  \n").text();
}

/// Returns the subcommands in a help text.
pub(super) fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let data = tempfile::tempdir().unwrap();
    let help = |words: &[String]| {
        let mut command = command(data.path(), &[]);
        command.args(words).arg("--help");
        Done::from(run(command, "")).text()
    };
    let mut left = vec![Vec::new()];
    let mut seen = 0;
    while let Some(words) = left.pop() {
        let text = help(&words);
        let name = format!("latchkey {}", words.join(" "));
        let examples = text.split_once("Example").map_or("", |(_, examples)| examples);
        assert!(examples.contains(name.trim()), "`{name} --help` has no example:\n{text}");
        seen += 1;
        left.extend(subcommands(&text).into_iter().map(|word| [words.clone(), vec![word]].concat()));
    }
    assert!(seen >= 15, "only {seen} commands were found");
}

#[test]
fn a_new_key_signs_without_a_restart_and_logs_nobody_out() {
    let shell = Shell::start();
    shell.add("alice");
    let old = shell.login("alice");
    let listed = shell.says("key list", "").text();
    assert!(listed.starts_with("signs    20") && listed.trim().ends_with(&kid(&old)), "{listed}");

    let made = shell.says_json("key generate", "");
    let new_kid = made["kid"].as_str().unwrap();
    assert_eq!(made["algorithm"], "EdDSA");
    assert!(std::path::Path::new(made["file"].as_str().unwrap()).exists());
    assert_ne!(new_kid, kid(&old));
    // Logins of another user do not displace the session.
    shell.add("bob");
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while kid(&shell.login("bob")) != new_kid {
        assert!(std::time::Instant::now() < deadline, "the new key is not picked up");
    }
    let trail = format!(
        "\"audit.action\":\"signing_key.use\",\"audit.outcome\":\"done\",\"audit.detail\":\"kid {new_kid}\""
    );
    while !shell.process.output().contains(&trail) {
        assert!(std::time::Instant::now() < deadline, "{}", shell.process.output());
    }
    shell.says("validate", &old).text();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let jwks = runtime.block_on(async {
        let client = shell.process.client().await;
        client.auth.clone().get_jwks(GetJwksRequest {}).await.unwrap().into_inner().jwks
    });
    let jwks: Value = serde_json::from_str(&jwks).unwrap();
    let kids: Vec<_> =
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert!(kids.len() == 2 && kids.contains(&new_kid) && kids.contains(&kid(&old).as_str()), "{kids:?}");

    let list = shell.command("key list --output json", &[("TOKEN__RELOAD_INTERVAL", "100ms")]);
    let keys = Done::from(run(list, "")).json();
    let signs: Vec<_> = keys["keys"].as_array().unwrap().iter().filter(|key| key["signs"] == true).collect();
    assert_eq!(signs.len(), 1);
    assert_eq!(signs[0]["kid"], new_kid);
    // With the usual delay it would not sign yet.
    let text = shell.says("key list", "").text();
    let [first, second] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(first.starts_with("signs    20") && first.contains("  since 20"), "{text}");
    assert!(second.starts_with("next     20") && second.contains("  from 20"), "{text}");
    let text = shell.says("key generate --algorithm ES256", "").text();
    assert!(text.contains("es256.pem\nkid "), "{text}");
    assert_eq!(shell.says("key list", "").text().lines().count(), 3);
}
