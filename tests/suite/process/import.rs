//! `latchkey account import`: formats, report, and recovery after a crash.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    address::unused_address,
    client::PASSWORD,
    process::{Process, command, run},
};

const DUMPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/django/");
/// Made by `make_exports.py` in the same folder.
const EXPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");

/// A server and the files to import.
struct ImportTest {
    data: TempDir,
    files: TempDir,
    server: Process,
}

/// The result of a command.
#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl ImportTest {
    fn open() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Process::start(data.path(), settings);
        Self { data, files: tempfile::tempdir().unwrap(), server }
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn latchkey(&self, words: &[&str], input: &str) -> Done {
        run(self.command(words), input).into()
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let server = self.server.grpc.to_string();
        let mut command = command(self.data.path(), &[("SERVER", &server)]);
        command.args(words);
        command
    }

    fn import(&self, file: &Path, options: &[&str]) -> Done {
        let words = [&["account", "import", file.to_str().unwrap()], options].concat();
        self.latchkey(&words, "")
    }

    fn import_json(&self, file: &Path, options: &[&str]) -> (i32, Value) {
        let done = self.import(file, &[options, &["--output", "json"]].concat());
        assert_eq!(done.out.lines().count(), 1, "{done:?}");
        (done.code, serde_json::from_str(&done.out).unwrap())
    }

    /// Returns every account as `id username state roles`.
    fn accounts(&self) -> Vec<String> {
        let done = self.latchkey(&["account", "list"], "");
        assert_eq!(done.code, 0, "{done:?}");
        let lines = done.out.lines().skip(1);
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn logs_in(&self, username: &str) -> bool {
        self.latchkey(&["login", username], PASSWORD).code == 0
    }
}

/// A cheap hash of the usual password.
fn hash() -> String {
    let params = Params::new(8, 1, 1, None).unwrap();
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    hasher.hash_password(PASSWORD.as_bytes()).unwrap().to_string()
}

/// Makes this number of accounts as JSON lines.
fn many(count: usize) -> String {
    let line = |number| {
        let (id, name) = (format!("{number}"), format!("user{number:06}"));
        json!({ "user_id": id, "username": name, "password_hash": "!" }).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

#[test]
fn json_lines_are_imported_exactly_once() {
    let shop = ImportTest::open();
    let text = format!(
        "{}\n\n{}\n",
        json!({
            "user_id": 7, "username": "Alice", "password_hash": hash(), "roles": ["staff"],
            "created_at": "2024-05-01T12:34:56Z",
        }),
        json!({
            "user_id": "b", "username": "Jürgen", "password_hash": hash(), "disabled": true,
            "disabled_until": null,
        }),
    );
    let file = shop.file("users.jsonl", text);
    let done = shop.import(&file, &["--role", "customer", "--id-prefix", "shop-"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "added 2, present 0, refused 0\n", ""));
    let accounts = ["shop-7 Alice enabled customer,staff", "shop-b Jürgen disabled customer"];
    assert_eq!(shop.accounts(), accounts);
    assert!(shop.logs_in("alice") && !shop.logs_in("Jürgen"));
    assert!(shop.latchkey(&["account", "show", "alice"], "").out.contains("2024-05-01T12:34:56"));

    let (code, again) = shop.import_json(&file, &["--id-prefix", "shop-"]);
    let nothing_new =
        json!({ "added": 0, "present": 2, "skipped": 0, "refused": [], "complete": true, "dry_run": false });
    assert_eq!((code, again), (0, nothing_new));
    assert_eq!(shop.accounts(), accounts);
}

#[test]
fn the_log_has_an_entry_for_each_message_and_the_audit_file_one_for_each_account() {
    for (in_log, lines) in [("false", 0), ("true", 2500)] {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        let settings = [("AUDIT__FILE", trail.to_str().unwrap()), ("AUDIT__LOG_IMPORTS", in_log)];
        let shop = ImportTest::with(&settings);
        let file = shop.file("users.jsonl", many(2500));
        assert_eq!(shop.import(&file, &[]).out, "added 2500, present 0, refused 0\n");
        let ImportTest { server, .. } = shop;
        server.terminate();
        let (_, log) = server.wait(Duration::from_secs(20));
        let entries = |text: &str, action: &str| text.lines().filter(|line| line.contains(action)).count();
        assert_eq!(entries(&log, "account.import\""), lines, "{log}");
        let summaries = entries(&log, "accounts.imported");
        assert!((3..=50).contains(&summaries), "{summaries} entries: {log}");
        let trail = fs::read_to_string(trail).unwrap();
        assert_eq!(entries(&trail, "account.import\""), 2500);
        assert_eq!(entries(&trail, "accounts.imported"), summaries);
        let added = trail.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let added = added.filter_map(|line| {
            let detail = line["detail"].as_str()?.strip_prefix("added ")?;
            detail.split(',').next()?.parse::<u64>().ok()
        });
        assert_eq!(added.sum::<u64>(), 2500);
    }
}

#[test]
fn csv_is_imported_from_standard_input() {
    let shop = ImportTest::open();
    let hash = hash();
    // Excel writes a byte order mark and CRLF, and hashes contain commas.
    let text = format!(
        "\u{feff}username,password_hash,roles,email,disabled\r\n\"O'Brien, \"\"Bob\"\"\",\"{hash}\",a b,x@y,\r\n\r\n\
         bob,\"{hash}\",,,yes\r\ncarol,{hash},,,\r\n"
    );
    let done = shop.latchkey(&["account", "import", "-", "--ignore", "email"], &text);
    assert_eq!(done.code, 1, "{done:?}");
    let report = "added 2, present 0, refused 1\nline 5: has 7 cells where the first row has 5\n";
    assert_eq!(done.out, report);
    assert!(done.err.contains("1 of 3 accounts were refused"), "{done:?}");
    assert!(shop.logs_in("o'brien, \"BOB\""));
    let names: Vec<_> =
        shop.accounts().iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(names, ["bob disabled", "O'Brien, \"Bob\" enabled a,b"]);
}

#[test]
fn a_real_dump_of_django_is_imported() {
    for dump in ["natural.json", "lines.jsonl", "groups_first.json"] {
        let shop = ImportTest::open();
        let text = fs::read_to_string(format!("{DUMPS}{dump}")).unwrap();
        let file = shop.file(dump, text.replace("\"argon2$argon2id$", "\"$argon2id$"));
        let (code, report) = shop.import_json(&file, &["--group-role", "Content Editors=content"]);
        assert_eq!(code, 1, "{dump}: nobody can check md5");
        assert!(report.to_string().contains(r#""username":"md5""#), "{dump}: {report}");
        let accounts = shop.accounts();
        for account in [
            "1 root enabled staff,superuser",
            "8 Jürgen enabled editors",
            "9 ann+tag@example.org enabled editors,staff",
            "10 odd enabled content,editors",
            "11 gone disabled",
            "12 sso enabled",
            "13 blank enabled",
        ] {
            assert!(accounts.contains(&account.to_owned()), "{dump}: {account} is not in {accounts:?}");
        }
        assert!(shop.logs_in("root") && shop.logs_in("jürgen"), "{dump}");
        assert!(!shop.logs_in("sso") && !shop.logs_in("blank") && !shop.logs_in("gone"), "{dump}");
    }
}

#[test]
fn users_of_keycloak_log_in_with_their_passwords() {
    let shop = ImportTest::open();
    let realm = format!("{EXPORTS}keycloak/shop-realm.json");
    let (code, report) = shop.import_json(Path::new(&realm), &["--group-role", "Content Editors=editors"]);
    assert_eq!((code, &report["added"], &report["skipped"]), (1, &json!(6), &json!(1)), "{report}");
    let refused: Vec<_> =
        report["refused"].as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect();
    assert_eq!(refused, ["sso", "bcrypt"]);
    for username in ["argon2", "sha1", "sha256", "sha256-long", "sha512"] {
        assert!(shop.logs_in(username), "{username}");
        assert_ne!(shop.latchkey(&["login", username], "another password").code, 0, "{username}");
    }
    assert!(!shop.logs_in("gone") && !shop.logs_in("sso"));
    let accounts = shop.accounts();
    let argon2 = "0ce753ea-acf7-8542-192b-0639c61868a7 argon2 enabled editors,staff".to_owned();
    assert!(
        accounts.contains(&argon2) && accounts.iter().any(|line| line.ends_with(" gone disabled")),
        "{accounts:?}"
    );
    // The files of users that `kc.sh export --dir` writes have the same users.
    let users = format!("{EXPORTS}keycloak/shop-users-0.json");
    let (code, report) = shop.import_json(Path::new(&users), &["--group-role", "Content Editors=editors"]);
    assert_eq!((code, &report["present"]), (0, &json!(3)), "{report}");
    let other = ImportTest::open();
    let by_email = ["--format", "keycloak", "--username-field", "email", "--group-role", "Content Editors="];
    assert_eq!(other.import(Path::new(&users), &by_email).code, 0);
    assert!(other.logs_in("sha1@example.org"));
}

#[test]
fn users_of_auth0_log_in_with_their_passwords() {
    let shop = ImportTest::open();
    let (code, report) =
        shop.import_json(Path::new(&format!("{EXPORTS}auth0/hashes.ndjson")), &["--role", "staff"]);
    assert_eq!((code, &report["added"]), (1, &json!(3)), "{report}");
    assert_eq!(report["refused"][0]["username"], "social@example.org");
    let (code, report) = shop.import_json(Path::new(&format!("{EXPORTS}auth0/bulk.json")), &[]);
    assert_eq!((code, &report["added"]), (1, &json!(4)), "{report}");
    for username in [
        "anna@example.org",
        "named",
        "moved@example.org",
        "argon@example.org",
        "pbkdf2@example.org",
        "scrypt@example.org",
    ] {
        assert!(shop.logs_in(username), "{username}");
        assert_ne!(shop.latchkey(&["login", username], "another password").code, 0, "{username}");
    }
    assert!(!shop.logs_in("seven"), "blocked");
    assert!(shop.accounts().contains(&"auth0|euclid moved@example.org enabled staff".to_owned()));
}

#[test]
fn a_file_in_another_encoding_is_refused_with_the_remedy() {
    let shop = ImportTest::open();
    let text = format!("username,password_hash\nJürgen,{}\n", hash().replace(',', "\u{201a}"));
    let little: Vec<_> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<_> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (mark, bytes, encoding) in [
        (&b"\xff\xfe"[..], &little, "UTF-16"),
        (b"\xfe\xff", &big, "UTF-16"),
        (b"", &little, "UTF-16LE"),
        (b"", &big, "UTF-16BE"),
    ] {
        let file = shop.file("users.csv", [mark, bytes].concat());
        let done = shop.import(&file, &[]);
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{done:?}");
        let remedy =
            format!("is {encoding}: convert it with `iconv -f {encoding} -t UTF-8 {}`", file.display());
        assert!(done.err.contains(&remedy), "{done:?}");
        // The remedy works.
        let words = ["-f", encoding, "-t", "UTF-8", file.to_str().unwrap()];
        let converted = std::process::Command::new("iconv").args(words).output().unwrap().stdout;
        assert_eq!(String::from_utf8(converted).unwrap().trim_start_matches('\u{feff}'), text);
    }
    let latin: Vec<_> =
        "username,password_hash\nanna,!\nJürgen,!\n".chars().map(|c| u8::try_from(c).unwrap()).collect();
    let done = shop.import(&shop.file("latin.csv", latin), &[]);
    assert_eq!(done.code, 1);
    assert!(done.out.contains("line 3: is not UTF-8 in column 2: convert the file"), "{done:?}");
}

#[test]
fn the_report_names_the_line_the_user_and_the_reason() {
    let shop = ImportTest::open();
    let text = r#"{"username": "alice", "password_hash": "!"}
{"username": "bob", "password_hash": "hunter2 in clear"}

{"username": "carol", "password": "hunter2 in clear"}
{"username": "ALICE", "password_hash": "!"}
{"username": "dave", "password_hash": "!", "roles": "staff"}
{"username": "eve", "password_hash": "!", "roles": ["Content Editors"]}
{"username": "frank
"#;
    let file = shop.file("users.jsonl", text);
    let done = shop.import(&file, &[]);
    assert_eq!(done.code, 1);
    let lines: Vec<_> = done.out.lines().collect();
    assert_eq!(lines[0], "added 1, present 0, refused 6");
    for (line, begins) in lines[1..].iter().zip([
        "line 2 (bob): password_hash is not supported",
        "line 4 (carol): password cannot be imported: only hashes are imported",
        "line 5 (ALICE): username is the same as in line 1;",
        "line 6 (dave): roles must be an array of strings",
        "line 7 (eve): roles each must be",
        "line 8: is not a JSON object",
    ]) {
        assert!(line.starts_with(begins), "{line} does not begin with {begins}");
    }
    assert!(!done.out.contains("hunter2") && !done.err.contains("hunter2"), "{done:?}");

    let (code, report) = shop.import_json(&file, &[]);
    assert_eq!((code, &report["added"], &report["present"]), (1, &json!(0), &json!(1)));
    let refused = report["refused"].as_array().unwrap();
    assert_eq!(
        (refused.len(), &refused[1]["line"], &refused[1]["field"]),
        (6, &json!(4), &json!("password"))
    );
    assert_eq!(refused[1]["username"], "carol");
    assert!(refused[1]["reason"].as_str().unwrap().contains("only hashes"));

    // The report can go to a file.
    let path = shop.files.path().join("report");
    let into = shop.import(&file, &["--report", path.to_str().unwrap()]);
    assert_eq!((into.code, into.out.as_str()), (1, "added 0, present 1, refused 6\n"));
    assert_eq!(fs::read_to_string(path).unwrap().lines().collect::<Vec<_>>(), lines[1..]);
}

#[test]
fn a_dry_run_reports_the_outcome_and_changes_nothing() {
    let shop = ImportTest::open();
    let file = shop.file("users.jsonl", many(1500) + &many(1));
    let dry = shop.import(&file, &["--dry-run"]);
    assert_eq!(dry.code, 1);
    assert!(
        dry.out.starts_with("to be added 1500, present 0, refused 1\nline 1501 (user000000): username"),
        "{dry:?}"
    );
    assert_eq!(shop.accounts().len(), 0);
}

#[test]
fn wrong_usage_and_invalid_files_have_different_exit_codes() {
    let shop = ImportTest::open();
    let fails = |file: &Path, code: i32, said: &str| {
        let done = shop.import(file, &[]);
        assert_eq!(done.code, code, "{done:?}");
        assert!(done.err.contains(said), "{done:?}");
    };
    fails(Path::new("/nowhere/users.csv"), 2, "cannot be read");
    fails(&shop.file("a.csv", "username,password\n"), 2, "line 1: password cannot be imported: only hashes");
    fails(&shop.file("b.csv", "username,password_hash,email\n"), 2, "--ignore email");
    // The entries before the error are imported.
    let dump = r#"[{"model": "auth.user", "pk": 1, "fields": {"username": "alice", "password": "!"}},
        {"model": "auth.user", "pk": 2, "fields": {"username": "bob"#;
    fails(&shop.file("c.json", dump), 1, "line 2 begins an entry that is cut off; nothing from there on");
    assert_eq!(shop.accounts(), ["1 alice enabled"]);
}

/// Starts an import in the background.
fn begin(shop: &ImportTest, file: &Path, options: &[&str]) -> Child {
    let mut command = shop.command(&[&["account", "import", file.to_str().unwrap()], options].concat());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(import: Child) -> Done {
    import.wait_with_output().unwrap().into()
}

/// Waits until an import has begun.
fn until_importing(shop: &ImportTest) {
    let begun = Instant::now();
    let has_begun =
        || fs::read(shop.data.path().join("latchkey.db-wal")).is_ok_and(|log| log.len() > 500_000);
    while !has_begun() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the import does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const MANY: usize = 20_000;

#[test]
fn the_same_command_continues_after_a_crash() {
    let mut shop = ImportTest::open();
    let file = shop.file("users.jsonl", many(MANY));
    let import = begin(&shop, &file, &["--retry-for", "0s"]);
    until_importing(&shop);
    shop.server.kill();
    let broken = end(import);
    assert_eq!(broken.code, 3, "{broken:?}");
    assert!(broken.err.contains("run the same command again to go on"), "{broken:?}");
    assert!(broken.out.starts_with("added "), "{broken:?}");

    shop.server = Process::start(shop.data.path(), &[]);
    let (code, report) = shop.import_json(&file, &[]);
    let (added, present) = (report["added"].as_u64().unwrap(), report["present"].as_u64().unwrap());
    assert_eq!((code, added + present, report["complete"].as_bool()), (0, MANY as u64, Some(true)));
    assert!(added > 0 && present > 0, "the import was not interrupted: {report}");
    // Every account that was reported as added exists.
    let said: u64 = broken.out.split([' ', ',']).nth(1).unwrap().parse().unwrap();
    assert!(said <= present, "{said} were said to be there, {present} are");
    assert_eq!(shop.accounts().len(), MANY);
}

#[test]
fn an_import_waits_for_a_restart_of_the_server() {
    let mut shop = ImportTest::open();
    let address = shop.server.grpc.to_string();
    let file = shop.file("users.jsonl", many(MANY));
    let import = begin(&shop, &file, &["--output", "json"]);
    until_importing(&shop);
    shop.server.kill();
    shop.server = Process::start(shop.data.path(), &[("LISTEN__GRPC", &address)]);
    let done = end(import);
    assert_eq!(done.code, 0, "{done:?}");
    let report: Value = serde_json::from_str(&done.out).unwrap();
    let total = report["added"].as_u64().unwrap() + report["present"].as_u64().unwrap();
    assert_eq!(total, MANY as u64);
    assert!(done.err.contains("trying again"), "{done:?}");
    assert_eq!(shop.accounts().len(), MANY);
}

#[test]
fn an_import_without_a_server_fails_at_once() {
    let shop = ImportTest::open();
    let nobody = unused_address();
    let file = shop.file("users.jsonl", many(1));
    let begun = Instant::now();
    let done = shop.import(&file, &["--server", &nobody.to_string()]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// Returns the peak memory of a process in KiB.
#[cfg(target_os = "linux")]
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Imports this number of accounts and returns the peak memory of the client and the server in KiB.
#[cfg(target_os = "linux")]
fn memory(count: usize) -> (u64, u64) {
    let shop = ImportTest::open();
    let mut command = shop.command(&["account", "import", "-"]);
    let mut import = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    input.write_all(many(count).as_bytes()).unwrap();
    // A pipe holds 64 KiB: nearly all has been read, and it waits for the rest.
    let client = peak(import.id());
    drop(input);
    assert!(import.wait().unwrap().success());
    let server = peak(shop.server.pid());
    assert_eq!(shop.accounts().len(), count);
    (client, server)
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_file() {
    // The first import fills the caches of the database.
    let ((client, server), (large_client, large_server)) = (memory(10_000), memory(50_000));
    println!("client {client} -> {large_client} KiB, server {server} -> {large_server} KiB");
    // 40,000 more accounts are 6 MB in the store. The client keeps a hash of every name, and twice that while its
    // table grows.
    assert!(large_client < client + 3_000, "client: {client} KiB, then {large_client} KiB");
    assert!(large_server < server + 3_000, "server: {server} KiB, then {large_server} KiB");
}

#[test]
fn no_hash_is_printed_and_every_account_is_in_the_audit_trail() {
    let shop =
        ImportTest::with(&[("LOG__LEVEL", "trace"), ("LOG__FORMAT", "json"), ("AUDIT__LOG_IMPORTS", "true")]);
    let (good, bad) = (hash(), "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99");
    let text = format!(
        "{}\n{}\n",
        json!({ "username": "alice", "password_hash": good }),
        json!({ "username": "bob", "password_hash": bad })
    );
    let file = shop.file("users.jsonl", text);
    let first = shop.import(&file, &[]);
    let second = shop.import(&file, &[]);
    assert!(first.out.starts_with("added 1, present 0, refused 1"), "{first:?}");
    assert!(second.out.starts_with("added 0, present 1, refused 1"), "{second:?}");
    shop.server.terminate();
    let (code, log) = shop.server.wait(Duration::from_secs(15));
    assert_eq!(code, Some(0));
    // Added and refused, then refused; what was there has not changed.
    assert_eq!(log.matches("account.import\"").count(), 3, "{log}");
    let (salt_of_good, salt_of_bad) = (good.rsplit('$').next().unwrap(), "5f4dcc3b5aa765d61d8327deb882cf99");
    for text in [&log, &first.out, &first.err, &second.out, &second.err] {
        assert!(!text.contains(salt_of_good) && !text.contains(salt_of_bad));
    }
}
