//! The commands in the documents work and print what the documents say.
//!
//! All blocks of a page after `<!-- tested -->` run in one shell against a real server. Only the addresses are replaced,
//! because the usual ports may be in use, and `make run`, because the test starts the server itself. Blocks that cannot
//! run here are listed with the reason.

use std::{
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use rstest::rstest;
use tempfile::TempDir;

use crate::support::process::{LATCHKEY, Process, run};

const MARKER: &str = "<!-- tested -->";
/// The marker of blocks that need a client, which `make test-clients` installs, as in `<!-- tested with python -->`.
const CLIENT_MARKER: &str = "<!-- tested with ";

/// The pages with marked blocks, and the commands that make what the pages take for granted.
const PAGES: [(&str, &str); 5] = [
    ("README.md", ""),
    ("docs/integration.md", IMPORTED),
    ("docs/operations.md", USED),
    ("docs/runbook.md", USED),
    ("docs/sessions.md", USED),
];
const IMPORTED: &str = r#"
    echo '{"username": "carl", "password_hash": "$2b$04$abcdefghijklmnopqrstuuVGOjx7zCSRPdlpXVLTBdTLM5GnlwWDu"}' > users.jsonl
    cat > shop-realm.json <<'END'
    {
      "realm" : "shop",
      "users" : [ {
        "username" : "dora", "enabled" : true, "credentials" : [ {
          "type" : "password",
          "secretData" : "{\"value\":\"yqSq2SygY1sB4EcH9f2FG0JTMES+wqLsOT5YmiRBplI=\",\"salt\":\"MDEyMzQ1Njc4OWFiY2RlZg==\"}",
          "credentialData" : "{\"hashIterations\":1000,\"algorithm\":\"pbkdf2-sha256\"}"
        } ]
      } ]
    }
END
    echo '{"_id": {"$oid": "5dea9f9c82dd7c0e76e4ec93"}, "email": "emil@example.org", "passwordHash": "$2b$04$7DPyO1.HoQ6UMEFXZ5MjIeVA28fZp3qmjKu6fzuqc4CWGke4M1QEy"}' > hashes.ndjson"#;
const USED: &str = "
    echo 'correct horse battery staple' | latchkey account add alice
    echo 'correct horse battery staple' | latchkey login alice --device Phone
    latchkey caller create shop --role validator";

/// The blocks that are not run: the page, how the block begins, and the reason.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "make run", "builds the release profile; the other blocks use a server of the test"),
    ("README.md", "docker run", "needs an image; `image` tests it where a Docker engine runs"),
    (
        "docs/integration.md",
        "mkdir ../greeter",
        "`make test-clients` builds this service outside the repository",
    ),
    (
        "docs/integration.md",
        "make example-web",
        "builds the release profile; `process::web_page` serves the page in the same way",
    ),
    ("docs/integration.md", "export LATCHKEY_ADDRESS=", "`guard` runs these services"),
    ("docs/integration.md", "greet ", "the same"),
    ("docs/integration.md", "(cd clients/node", "downloads packages; `make test-clients` does the same"),
    ("docs/integration.md", "LISTEN=", "`make test-clients` runs this service"),
    ("docs/integration.md", "python3 -m venv", "downloads packages; `make test-clients` does the same"),
    ("docs/integration.md", "mvn ", "downloads packages; `make test-clients` does the same"),
    ("docs/integration.md", "export PATH=", "names the release profile; the README has the same commands"),
    (
        "docs/integration.md",
        "export LATCHKEY_CONFIG=",
        "`process::django` and `gateways::rest` run these steps",
    ),
    ("docs/integration.md", "python manage.py", "`process::django` runs it"),
    ("docs/integration.md", "latchkey serve &", "`gateways` runs Envoy and nginx on free ports"),
    ("docs/integration.md", "ONE=", "the same"),
    ("docs/integration.md", "TWO=", "the same"),
    ("docs/integration.md", "PHONE=", "the same"),
    ("docs/integration.md", "curl ", "the same"),
    ("docs/integration.md", "page() ", "the same"),
    ("docs/kubernetes.md", "", "needs a cluster; `kubernetes` renders and decodes the chart"),
    ("docs/operations.md", "docker compose", "needs images; `image` checks the file"),
    ("docs/operations.md", "sudo apt install", "needs a release; `make release` verifies the package"),
    ("docs/operations.md", "latchkey restore", "needs a server that has stopped; `process::runbook` runs it"),
    ("docs/operations.md", "latchkey key", "`process::runbook` runs them on two replicas"),
    (
        "docs/performance.md",
        "",
        "takes minutes or needs a loaded server; `process::bench` runs `latchkey bench`",
    ),
    ("docs/runbook.md", "df ", "looks at the machine"),
    ("docs/runbook.md", "jq ", "needs an audit file with attacks"),
    ("docs/runbook.md", "kubectl ", "needs a cluster"),
    ("docs/runbook.md", "latchkey health --server", "needs a cluster"),
    ("docs/runbook.md", "redis-cli ", "needs Redis and PostgreSQL at work"),
    ("docs/scaling.md", "make scaling", "its model has tests of its own"),
];
/// The addresses in the text.
const GRPC: &str = "127.0.0.1:50051";
const HTTP: &str = "127.0.0.1:8081";
/// The address of a service of the reader.
const SERVICE: &str = "127.0.0.1:8000";

/// A command and its expected output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Step {
    command: String,
    output: Vec<String>,
}

impl Step {
    fn starts_the_server(&self) -> bool {
        self.command.starts_with("make run")
    }
}

/// The commands of all marked blocks, in order. `$ ` begins a command; a line goes on after a backslash,
/// and `> ` continues one, too.
fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut all = Vec::new();
    for section in text.split(MARKER).skip(1) {
        let block = section
            .trim_start()
            .strip_prefix("```console\n")
            .ok_or("after the marker there must be a ```console block")?;
        all.extend(block_steps(block)?);
    }
    if all.is_empty() { Err(format!("no commands are marked with {MARKER}")) } else { Ok(all) }
}

/// The commands of the text up to the end of its block.
fn block_steps(text: &str) -> Result<Vec<Step>, String> {
    let (block, _) = text.split_once("\n```").ok_or("the block does not end")?;
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), output: Vec::new() });
        } else {
            let step = steps.last_mut().ok_or("a block must begin with a command")?;
            let more = if line == ">" { Some("") } else { line.strip_prefix("> ") };
            match more.or(goes_on.then_some(line)) {
                Some(more) => step.command = format!("{}\n{more}", step.command),
                None => step.output.push(line.to_owned()),
            }
        }
        goes_on = line.ends_with('\\');
    }
    Ok(steps)
}

/// Removes what differs between runs from a line.
fn normal(line: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let mut normal = String::new();
    let mut word = String::new();
    for c in line.split_whitespace().collect::<Vec<_>>().join(" ").chars().chain(['\n']) {
        if inside(c) {
            word.push(c);
            continue;
        }
        normal.push_str(placeholder(&word).unwrap_or(&word));
        word.clear();
        normal.push(c);
    }
    normal.trim_end().to_owned()
}

fn placeholder(word: &str) -> Option<&'static str> {
    let bytes = word.as_bytes();
    let is_id = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
    if word.starts_with("eyJ") && word.contains('.') {
        Some("<token>")
    } else if bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' {
        Some("<time>")
    } else if bytes.len() == 26 && word.chars().all(is_id) {
        Some("<id>")
    } else if bytes.len() == 43 && !word.contains(['.', ':']) {
        Some("<kid>")
    } else {
        None
    }
}

/// Whether a line matches the text, in which `...` stands for anything.
fn matches(told: &str, actual: &str) -> bool {
    let (told, actual) = (normal(told), normal(actual));
    let parts: Vec<_> = told.split("...").collect();
    let [first, .., last] = parts.as_slice() else { return told == actual };
    let Some(mut rest) = actual.strip_prefix(first) else { return false };
    for part in &parts[1..parts.len() - 1] {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// Finds the first line of the text that is missing in the output.
fn missing<'a>(told: &'a [String], actual: &[&str]) -> Option<&'a str> {
    let mut actual = actual.iter();
    told.iter()
        .filter(|line| !["", "..."].contains(&line.trim()))
        .find(|line| !actual.any(|actual| matches(line, actual)))
        .map(String::as_str)
}

/// Makes a folder with the programs that the text calls.
fn programs(folder: &Path) -> PathBuf {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(LATCHKEY, bin.join("latchkey")).unwrap();
    if let Some(grpcurl) = std::env::var_os("LATCHKEY_TEST_GRPCURL") {
        std::os::unix::fs::symlink(grpcurl, bin.join("grpcurl")).unwrap();
    }
    bin
}

/// Runs the commands of a text after `setup`, and compares their output.
fn check(text: &str, setup: &str) -> Result<(), String> {
    let steps = steps(text)?;
    let folder = TempDir::new().unwrap();
    let bin = programs(folder.path());
    let here = folder.path().join("latchkey");
    fs::create_dir(&here).unwrap();

    // The server has default settings except for its ports.
    let mut serve = Command::new(bin.join("latchkey"));
    serve.arg("serve").current_dir(&here).env_clear();
    serve.env("LATCHKEY_LISTEN__GRPC", "127.0.0.1:0").env("LATCHKEY_LISTEN__HTTP", "127.0.0.1:0");
    let server = Process::launch(serve, &here.join("latchkey-data"));
    let (grpc, http) = (server.grpc.to_string(), server.http.to_string());
    let service = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();

    // A marker line precedes each command and preserves `$?`.
    let mut script =
        String::from("exec 2>&1\n__begin() { local s=$?; printf '\\n\\001%s\\n' \"$s\"; return $s; }\n");
    // A service that the text starts must not outlive the shell.
    script += "trap '[[ -z $(jobs -p) ]] || kill $(jobs -p)' EXIT\n";
    writeln!(script, "set -e\n{setup}\nset +e").unwrap();
    for step in &steps {
        let command = if step.starts_the_server() { ":" } else { &step.command };
        script += "__begin\n";
        script += &command.replace(GRPC, &grpc).replace(HTTP, &http).replace(SERVICE, &service);
        script += "\n";
    }
    script += "__begin\n";
    fs::write(folder.path().join("script"), script).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the PATH, with ours before it")]
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("bash");
    shell.arg(folder.path().join("script")).current_dir(&here).env_clear();
    shell.env("PATH", format!("{}:{path}", bin.display())).env("LATCHKEY_SERVER", &grpc);
    let printed = String::from_utf8(run(shell, "").stdout).unwrap();

    // Each marker is followed by the status of the previous command and the output of the next.
    let parts: Vec<_> =
        printed.split('\u{1}').skip(1).map(|part| part.split_once('\n').unwrap_or_default()).collect();
    if parts.len() != steps.len() + 1 {
        return Err(format!("the shell ended early:\n{printed}"));
    }
    let started = server.output();
    for (number, step) in steps.iter().enumerate() {
        let actual = if step.starts_the_server() { &started } else { parts[number].1 };
        let actual = actual.replace(&grpc, GRPC).replace(&http, HTTP).replace(&service, SERVICE);
        let status = parts[number + 1].0;
        if let Some(line) = missing(&step.output, &actual.lines().collect::<Vec<_>>()) {
            return Err(format!("`{}` does not print `{line}` but:\n{actual}", step.command));
        }
        if step.output.is_empty() && status != "0" {
            return Err(format!("`{}` fails with {status}:\n{actual}", step.command));
        }
    }
    Ok(())
}

fn read(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"))
}

#[rstest]
fn the_commands_in_the_documents_work(#[values(0, 1, 2, 3, 4)] page: usize) {
    let (page, setup) = PAGES[page];
    check(&read(page), setup).unwrap_or_else(|error| panic!("{page}: {error}"));
}

/// `LATCHKEY_TEST_COMMANDS` names a client, and `LATCHKEY_TEST_COMMANDS_SETUP` has the commands that install it.
#[test]
#[ignore = "make test-clients installs the clients that these commands use"]
fn the_commands_of_a_client_work() {
    #[expect(clippy::disallowed_methods, reason = "settings of the test, not of Latchkey")]
    let [client, setup] =
        ["LATCHKEY_TEST_COMMANDS", "LATCHKEY_TEST_COMMANDS_SETUP"].map(|name| std::env::var(name).unwrap());
    let marked = format!("{CLIENT_MARKER}{client} -->");
    let page = "docs/integration.md";
    let text = read(page).replace(MARKER, "").replace(&marked, MARKER);
    let account = "echo 'correct horse battery staple' | latchkey account add anna --role staff";
    check(&text, &format!("{account}\n{setup}")).unwrap_or_else(|error| panic!("{page}: {error}"));
}

#[test]
fn every_block_of_commands_is_run_or_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages = pages.map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
    let mut found = Vec::new();
    for page in pages.chain(["README.md".to_owned()]) {
        let text = read(&page);
        let mut before = "";
        for part in text.split("```console\n") {
            let is_run = before.trim_end().ends_with(MARKER)
                || before.trim_end().lines().last().is_some_and(|line| line.starts_with(CLIENT_MARKER));
            if !before.is_empty() && !is_run {
                let steps = block_steps(part).unwrap();
                found.push((page.clone(), steps[0].command.clone()));
            }
            before = part;
        }
    }
    let is_listed = |(page, command): &(String, String), entry: &(&str, &str, &str)| {
        page == entry.0 && command.starts_with(entry.1)
    };
    for block in &found {
        assert!(NOT_RUN.iter().any(|entry| is_listed(block, entry)), "not run and not listed: {block:?}");
    }
    for entry in NOT_RUN {
        assert!(found.iter().any(|block| is_listed(block, entry)), "not in the documents: {entry:?}");
    }
}

mod the_check {
    use super::*;

    /// A small README.
    const SAMPLE: &str = r#"
<!-- tested -->
```console
$ make run
Latchkey 0.1.0 listens on 127.0.0.1:50051 (gRPC) and 127.0.0.1:8081 (HTTP)
```
Then:
<!-- tested -->

```console
$ echo 'correct horse battery staple' | latchkey account add alice
user       alice
id         hm5oz4mkzzgdmxsybkmjz3zqay
...
$ TOKEN=$(echo 'correct horse battery staple' | latchkey login alice --device Android 2>/dev/null)
$ grpcurl -plaintext -d '{"username": "alice", "password": "correct horse battery staple",
> "device": "iPhone"}' 127.0.0.1:50051 latchkey.v1.AuthService/Login
{
  "token": "eyJhbGciOiJFZERTQSIs...",
    "issuedAt": "2026-01-01T00:00:00.123456Z",
      "device": "Android",
}
$ echo "$TOKEN" | \
  latchkey validate
error: REPLACED: ...iPhone... (2026-01-01T00:00:00.123Z)
$ echo $?
1
```
Not run:
```console
$ false
```
"#;

    #[test]
    fn a_wrong_output_in_the_text_is_noticed() {
        check(SAMPLE, "").unwrap();
        let lie = SAMPLE.replace("error: REPLACED", "error: KICKED");
        let notice = check(&lie, "").unwrap_err();
        assert!(notice.contains("does not print `error: KICKED"), "{notice}");
        let broken = SAMPLE.replace("login alice", "login bob");
        assert!(check(&broken, "").unwrap_err().contains("fails with"), "a command that fails in silence");
    }

    #[test]
    fn only_marked_blocks_are_run() {
        let steps = steps(SAMPLE).unwrap();
        assert_eq!(steps.len(), 6);
        assert!(steps[0].starts_the_server());
        assert!(steps[3].command.ends_with("latchkey.v1.AuthService/Login"), "{:?}", steps[3]);
        assert_eq!(steps[4].command, "echo \"$TOKEN\" | \\\n  latchkey validate");
        assert_eq!(steps[5].output, ["1"]);
    }

    #[test]
    fn a_text_without_commands_is_an_error() {
        assert!(steps("# Latchkey").is_err());
        assert!(steps(&SAMPLE.replacen(MARKER, "", 3)).is_err());
        assert!(steps(&SAMPLE.replacen("$ echo", "  echo", 3)).is_err());
    }

    #[test]
    fn only_varying_parts_are_ignored() {
        let token = "\"token\": \"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl\",";
        assert!(matches("\"token\": \"eyJ...\",", token));
        assert!(matches("at 2026-11-23T23:22:01.5Z", "at  2027-01-01T00:00:00.000001Z"));
        assert!(matches("id  aaaaaaaaaaaaaaaaaaaaaaaaaa", "id bbbbbbbbbbbbbbbbbbbbbbbbbb"));
        assert!(matches("a ... d", "a b c d") && !matches("a ... d", "a b c"));
        assert!(!matches("\"device\": \"Android\"", "\"device\": \"iPhone\""));
        assert!(!matches("REPLACED", "KICKED"));
        let told = ["a".to_owned(), "b".to_owned()];
        assert_eq!(missing(&told, &["a", "x", "b"]), None);
        assert_eq!(missing(&told, &["b", "a"]), Some("b"), "the order counts");
    }
}
