//! Sessions on the command line: list, end, watch, issue and takeover.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;

use super::cli::{Done, Shell};
use crate::support::{
    address::unused_address,
    client::PASSWORD,
    process::{Process, run},
    running::Running,
};

const SLOTS: (&str, &str) = ("SESSION__SLOTS", "web,mobile");

impl Shell {
    fn user_id(&self, username: &str) -> String {
        let shown = self.says_json(&format!("account show {username}"), "");
        shown["account"]["user_id"].as_str().unwrap().to_owned()
    }

    /// Logs in and returns the token and the id of the session.
    fn open(&self, words: &str) -> (String, String) {
        let opened = self.says_json(&format!("login {words}"), PASSWORD);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&opened["token"]), text(&opened["session"]["session_id"]))
    }

    /// Returns the rejection of a token.
    fn rejection(&self, token: &str) -> Value {
        let answer = self.says("validate --output json", token);
        assert_eq!(answer.code, 1, "{answer:?}");
        serde_json::from_str::<Value>(&answer.out).unwrap()["rejection"].clone()
    }

    /// Creates a caller with a role and returns the path of its key.
    fn caller(&self, role: &str) -> String {
        let key = self.says(&format!("caller create the-{role} --role {role}"), "").text();
        let file = self.data.path().join(format!("{role}.key"));
        fs::write(&file, key).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn starts(&self, words: &str, input: &str) -> Running {
        Running::start(self.command(words, &[]), input)
    }

    /// Restarts the server on the same address and data.
    fn restart(&mut self, between: impl FnOnce()) {
        let address = self.process.grpc.to_string();
        self.process.kill();
        between();
        self.process = Process::start(self.data.path(), &[("LISTEN__GRPC", &address)]);
    }
}

#[test]
fn the_sessions_of_a_user_are_listed_and_ended_by_slot_by_id_and_altogether() {
    let shell = Shell::with(&[SLOTS]);
    shell.add("alice");
    let (web, web_id) = shell.open("alice --slot web --device Firefox");
    let (mobile, mobile_id) = shell.open("alice --slot mobile --device Android");

    let list = shell.says("session list alice", "").text();
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    let headings: Vec<_> = lines[0].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(headings, ["SESSION", "SLOT", "DEVICE", "ISSUED", "LAST SEEN", "IF UNUSED", "EXPIRES"]);
    assert!(lines[1].starts_with(&format!("{web_id}  web     Firefox  20")), "{list}");
    assert!(lines[2].starts_with(&format!("{mobile_id}  mobile  Android  20")), "{list}");
    for heading in ["ISSUED", "LAST SEEN", "IF UNUSED", "EXPIRES"] {
        let column = lines[0].find(heading).unwrap();
        assert!(lines[1..].iter().all(|line| line[column..].starts_with("20")), "{list}");
    }
    let user_id = shell.user_id("alice");
    let listed = shell.says_json(&format!("session list --id {user_id}"), "");
    let first = &listed["sessions"][0];
    assert_eq!((&first["session_id"], &first["slot"]), (&web_id.clone().into(), &"web".into()));
    assert_eq!(
        (&first["user_id"], &first["username"], &first["device"]),
        (&user_id.clone().into(), &"alice".into(), &"Firefox".into())
    );
    for name in ["issued_at", "last_seen_at", "idle_expires_at", "expires_at"] {
        assert!(first[name].as_str().unwrap().starts_with("20"), "{name}: {first}");
    }
    assert!(first["token"].is_null() && !listed.to_string().contains("eyJ"), "never a token: {listed}");

    // The user sees the notice of the operator.
    let mut end = shell.command("session end alice --slot web --message", &[]);
    end.arg("Please call the help desk");
    assert_eq!(Done::from(run(end, "")).text(), "sessions   1 ended\n");
    let rejection = shell.rejection(&web);
    assert_eq!(
        (&rejection["reason"], &rejection["terminal"], &rejection["message"]),
        (&"KICKED".into(), &true.into(), &"Please call the help desk".into())
    );
    shell.says("validate", &mobile).text();

    let end = format!("session end --id {user_id} --session {mobile_id}");
    assert_eq!(shell.says_json(&end, "")["ended"], 1);
    assert_eq!(shell.rejection(&mobile)["reason"], "KICKED");
    assert_eq!(shell.says_json(&end, "")["ended"], 0);
    shell.open("alice --slot web");
    shell.open("alice --slot mobile");
    assert_eq!(shell.says("session end alice", "").text(), "sessions   2 ended\n");
    assert_eq!(shell.says_json("session list alice", "")["sessions"].as_array().unwrap().len(), 0);
}

#[test]
fn the_sessions_of_all_users_are_listed_page_by_page() {
    let shell = Shell::with(&[SLOTS]);
    for name in ["carl", "alice", "bob"] {
        shell.add(name);
        shell.open(&format!("{name} --slot web --device {name}s"));
    }
    shell.open("alice --slot mobile --device tablet");
    let key = shell.caller("operator");
    let says = |words: &str| Done::from(run(shell.command(words, &[("KEY_FILE", &key)]), ""));
    let names = |value: &Value| -> Vec<String> {
        let sessions = value["sessions"].as_array().unwrap().iter();
        sessions
            .map(|one| format!("{} {}", one["username"].as_str().unwrap(), one["device"].as_str().unwrap()))
            .collect()
    };
    let all = says("session list --output json").json();
    assert_eq!(names(&all), ["alice alices", "alice tablet", "bob bobs", "carl carls"]);
    assert_eq!(all["next_page_token"], "");
    let text = says("session list");
    assert!(text.err.is_empty(), "{text:?}");
    let text = text.text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("USERNAME  USER ID                     SESSION "), "{text}");
    assert!(
        lines.len() == 5 && lines[1].starts_with("alice     ") && lines[4].starts_with("carl      "),
        "{text}"
    );

    let first = says("session list --limit 1 --output json").json();
    assert_eq!(names(&first), ["alice alices", "alice tablet"], "a user is on one page");
    let after = first["next_page_token"].as_str().unwrap();
    let next = says(&format!("session list --limit 1 --after {after}"));
    assert!(next.out.lines().count() == 2 && next.out.contains("bobs"), "{next:?}");
    let after = next.err.trim().strip_prefix("there may be more: --after ").unwrap();
    let last = says(&format!("session list --limit 1 --output json --after {after}")).json();
    assert_eq!((names(&last), last["next_page_token"].as_str()), (vec!["carl carls".to_owned()], Some("")));
    let everything = says("session list --all --output json").json();
    assert_eq!(names(&everything).len(), 4);

    for words in [
        "session list alice --all",
        "session list --limit 0",
        "session list --id",
        "session list --all --limit 5",
    ] {
        says(words).fails(2, "error:");
    }
    says("session list --after !").fails(2, "page_token");
    let issuer = shell.caller("issuer");
    Done::from(run(shell.command("session list", &[("KEY_FILE", &issuer)]), "")).fails(1, "`operator`");
}

#[test]
fn all_users_are_affected_only_with_the_explicit_flag() {
    let shell = Shell::with(&[SLOTS]);
    shell.add("alice");
    shell.add("bob");
    let (alice, _) = shell.open("alice");
    let (bob, _) = shell.open("bob");
    // Standard input is no terminal, so "yes" from a pipe does not confirm.
    shell.says("session end --everyone", "yes\n").fails(2, "add --yes");
    for words in [
        "session end",
        "session end --yes",
        "session end --slot web",
        "session end alice --everyone",
        "session end alice --yes",
        "session end --everyone --yes --slot web",
        "session end --everyone --yes --session x",
        "session end --everyone --yes --id",
    ] {
        shell.says(words, "").fails(2, "error:");
    }
    shell.says("validate", &alice).text();
    shell.says("validate", &bob).text();

    let ended = shell.says_json("session end --everyone --yes", "");
    assert_eq!((&ended["everyone"], &ended["ended"]), (&true.into(), &Value::Null));
    assert_eq!(shell.rejection(&alice)["reason"], "KICKED");
    assert_eq!(shell.rejection(&bob)["reason"], "KICKED");
    let again = shell.login("alice");
    shell.says("validate", &again).text();
    assert_eq!(shell.says("session end --everyone --yes", "").text(), "sessions   all ended\n");
}

#[test]
fn an_operator_without_account_rights_names_users_by_id() {
    let shell = Shell::with(&[]);
    shell.add("alice");
    let user_id = shell.user_id("alice");
    shell.login("alice");
    let key = shell.caller("operator");
    let says = |words: &str| Done::from(run(shell.command(words, &[("KEY_FILE", &key)]), ""));
    for words in ["session list alice", "session end alice", "session watch --user alice"] {
        says(words).fails(
            1,
            "does not have the role `admin`, which this method needs. Name the user by id, with --id",
        );
    }
    assert_eq!(says(&format!("session list --id {user_id}")).text().lines().count(), 2);
    assert_eq!(says(&format!("session end --id {user_id}")).text(), "sessions   1 ended\n");
    says("session issue alice").fails(1, "`issuer`");

    let issuer = shell.caller("issuer");
    let mut list = shell.command("session list --id", &[("KEY_FILE", &issuer)]);
    list.arg(&user_id);
    Done::from(run(list, "")).fails(1, "does not have the role `operator`");
}

#[test]
fn session_commands_have_the_common_exit_codes() {
    let shell = Shell::with(&[]);
    shell.says("session list nobody", "").fails(1, "no such account");
    shell.says("session end nobody", "").fails(1, "no such account");
    shell.says("session issue nobody", "").fails(1, "no such account");
    shell.says("session watch --id", "").fails(2, "--user");
    shell.says("session watch --retry-for ever", "").fails(2, "--retry-for");
    shell.says("watch", "").fails(2, "standard input has no token");
    shell.says("watch", "not a token").fails(1, "error: MALFORMED: ");
    let nobody = unused_address().to_string();
    for words in ["session list --id x", "session end --id x", "session watch", "session issue x", "watch"] {
        let unavailable = shell.says(&format!("{words} --server {nobody}"), "token");
        unavailable.fails(3, &format!("no server answers at {nobody}: start one with `latchkey serve`"));
    }
    // The command fails without the admin key.
    let elsewhere = tempfile::tempdir().unwrap();
    let admin_key = elsewhere.path().join("admin.key");
    let watch = shell.command("session watch", &[("ACCESS__ADMIN_KEY_FILE", admin_key.to_str().unwrap())]);
    Done::from(run(watch, "")).fails(1, "the admin key is needed");
}

#[test]
fn the_feed_prints_a_line_for_each_event_and_ends_at_ctrl_c() {
    let shell = Shell::with(&[SLOTS]);
    shell.add("alice");
    shell.add("bob");
    let user_id = shell.user_id("alice");
    // The JSON output begins with a heartbeat whose cursor marks the start of the feed.
    let mut json = shell.starts("session watch --output json", "");
    let begin: Value = serde_json::from_str(&json.line()).unwrap();
    assert!(begin["heartbeat"].is_object(), "{begin}");
    let cursor = begin["cursor"].as_str().unwrap().to_owned();

    let (_, first) = shell.open("alice --slot web --device Laptop");
    shell.open("bob --slot web");
    shell.open("alice --slot web --device Android");
    let line = json.line_with("ended");
    let event: Value = serde_json::from_str(&line).unwrap();
    let ended = &event["ended"];
    assert_eq!(
        (&ended["user_id"], &ended["session_id"], &ended["slot"]),
        (&user_id.clone().into(), &first.clone().into(), &"web".into())
    );
    let rejection = &ended["rejection"];
    assert_eq!((&rejection["reason"], &rejection["by_device"]), (&"REPLACED".into(), &"Android".into()));
    assert!(ended["expires_at"].as_str().unwrap().starts_with("20") && event["cursor"] != cursor.as_str());
    json.interrupt();
    let (code, _, error) = json.end();
    assert_eq!((code, error.as_str()), (0, ""));

    // The text output starts at the same cursor and respects the filter.
    let words = format!("session watch --user alice --slot web --after {cursor}");
    let mut text = shell.starts(&words, "");
    let line = text.line();
    let rest = format!("  REPLACED             {user_id}  web  {first}  by Android");
    assert!(line.starts_with("20") && line.ends_with(&rest), "{line}");
    assert_eq!(shell.says_json("session end bob", "")["ended"], 1);
    assert_eq!(shell.says_json("session end alice", "")["ended"], 1);
    let line = text.line();
    assert!(line.contains(&format!("  KICKED               {user_id}  web  ")), "{line}");
    text.interrupt();
    let (code, lines, error) = text.end();
    assert_eq!((code, lines.len()), (0, 0), "heartbeats are no events: {lines:?}");
    let after = error.trim().strip_prefix("to go on from here: --after ").unwrap();

    // Events during the restart are reported afterwards.
    let (_, second) = shell.open("alice --slot mobile");
    shell.says("session end --everyone --yes", "").text();
    let mut later = shell.starts(&format!("session watch --after {after}"), "");
    let line = later.line_with("everyone");
    assert!(line.contains("  KICKED               everyone"), "{line} after {second}");
    later.interrupt();
    assert_eq!(later.end().0, 0);
}

#[test]
fn a_feed_ends_when_its_output_is_closed() {
    let shell = Shell::with(&[]);
    let mut feed = shell.starts("session watch --output json", "");
    feed.line();
    feed.close_output();
    // The next heartbeats cannot be written.
    assert_eq!(feed.end().0, 0);
}

#[test]
fn the_feed_resumes_after_a_restart_of_the_server() {
    let mut shell = Shell::with(&[]);
    shell.add("alice");
    let (_, first) = shell.open("alice --device Laptop");
    let mut feed = shell.starts("session watch --output json", "");
    feed.line_with("heartbeat");
    shell.restart(|| {});
    shell.open("alice --device Android");
    let line = feed.line_with("ended");
    assert!(line.contains(&first) && line.contains("REPLACED"), "{line}");
    feed.interrupt();
    let (code, _, error) = feed.end();
    assert_eq!(code, 0);
    assert!(
        error.contains("the server does not answer (") && error.contains("the server answers again"),
        "{error}"
    );
}

#[test]
fn a_watch_prints_only_the_end_of_the_session() {
    let mut shell = Shell::with(&[]);
    shell.add("alice");
    let token = shell.open("alice --device Laptop").0;
    let mut text = shell.starts("watch", &token);
    let mut json = shell.starts("watch --output json", &token);
    assert!(text.line().starts_with("user       alice ("));
    text.line_with("if unused  20");
    let session: Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!(session["session"]["device"], "Laptop");

    shell.restart(|| {});
    shell.open("alice --device Android");
    let (code, lines, error) = text.end();
    assert_eq!((code, lines.len()), (1, 0), "the session is printed once: {lines:?} {error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("error: REPLACED: ") && last.contains("Android"), "{error}");
    let (code, lines, _) = json.end();
    assert_eq!((code, lines.len()), (1, 1), "{lines:?}");
    let rejection = &serde_json::from_str::<Value>(&lines[0]).unwrap()["rejection"];
    assert_eq!((&rejection["reason"], &rejection["terminal"]), (&"REPLACED".into(), &true.into()));

    // Dead to begin with.
    shell.says("watch", &token).fails(1, "error: REPLACED: ");
    let late = shell.says("watch --output json", &token);
    assert_eq!(late.code, 1, "{late:?}");
    let rejection = &serde_json::from_str::<Value>(&late.out).unwrap()["rejection"];
    assert_eq!((&rejection["reason"], &rejection["terminal"]), (&"REPLACED".into(), &true.into()));
    assert!(rejection["at"].as_str().unwrap().starts_with("20"), "{rejection}");
}

#[test]
fn a_watch_ends_with_an_error_if_the_server_stays_away() {
    let mut shell = Shell::with(&[]);
    shell.add("alice");
    let token = shell.login("alice");
    let mut watch = shell.starts("watch --retry-for 1s", &token);
    let mut stopped = shell.starts("watch", &token);
    watch.line_with("if unused  20");
    stopped.line_with("if unused  20");
    shell.process.kill();
    let (code, _, error) = watch.end();
    assert_eq!(code, 3, "{error}");
    assert!(error.lines().last().unwrap().starts_with("error: the server does not answer ("), "{error}");
    // Ctrl-C is no failure, nor does it say that the session has ended.
    stopped.interrupt();
    assert_eq!(stopped.end().0, 0);
}

#[test]
fn a_full_slot_names_its_holder_and_can_be_taken_over() {
    let shell = Shell::with(&[("SESSION__ON_LIMIT", "deny")]);
    shell.add("alice");
    let (first, first_id) = shell.open("alice --device Android");
    let refused = shell.says("login alice --device Laptop", PASSWORD);
    assert!(refused.out.is_empty(), "{refused:?}");
    assert!(refused.err.contains("the slot default is held by Android (logged in 20"), "{refused:?}");
    assert!(refused.err.contains(", last used ") && refused.err.contains(" ago: --takeover"), "{refused:?}");
    refused.fails(1, "--takeover displaces it");
    shell.says("session issue alice", "").fails(1, "--takeover displaces it");
    shell.says("validate", &first).text();

    let taken = shell.says_json("login alice --device Laptop --takeover", PASSWORD);
    assert_eq!(taken["displaced"][0]["session_id"], first_id);
    assert_eq!(shell.rejection(&first)["reason"], "REPLACED");
    let issued = shell.says_json("session issue alice --takeover", "");
    assert_eq!(issued["displaced"][0]["device"], "Laptop");
}

#[test]
fn a_login_repeated_with_its_key_displaces_no_session() {
    let shell = Shell::with(&[]);
    shell.add("alice");
    let first = shell.says_json("login alice --idempotency-key k1", PASSWORD);
    let again = shell.says_json("login alice --idempotency-key k1", PASSWORD);
    assert_eq!(first["session"]["session_id"], again["session"]["session_id"]);
    assert_eq!(again["displaced"].as_array().unwrap().len(), 0);
    let other = shell.says_json("login alice --idempotency-key k2", PASSWORD);
    assert_eq!(other["displaced"][0]["session_id"], first["session"]["session_id"]);
    shell.says("login alice --idempotency-key k1", PASSWORD).fails(1, "error: REPLACED: ");
}

#[test]
fn a_session_is_issued_without_a_password_by_name_and_by_id() {
    let shell = Shell::with(&[SLOTS]);
    shell.add("alice");
    let key = shell.caller("issuer");
    let issue = |words: &str| {
        Done::from(run(shell.command(&format!("session issue {words}"), &[("KEY_FILE", &key)]), ""))
    };
    let issued = issue("alice --slot mobile --device Tablet");
    assert!(issued.err.contains("device     Tablet"), "{issued:?}");
    let token = issued.text();
    assert_eq!(token.lines().count(), 1, "nothing but the token, so that it can be caught: {token}");
    let session = shell.says_json("validate", &token)["session"].clone();
    assert_eq!((&session["slot"], &session["username"]), (&"mobile".into(), &"alice".into()));

    let by_id = issue(&format!("--id {} --slot mobile --output json", shell.user_id("alice"))).json();
    assert_eq!(by_id["displaced"][0]["device"], "Tablet");
    assert_eq!(by_id["session"]["device"], "latchkey command line");
    assert_eq!(shell.rejection(&token)["reason"], "REPLACED");
    issue("alice --slot nowhere").fails(2, "slot");
    shell.says("account disable alice", "").text();
    issue("alice").fails(1, "disabled");
}
