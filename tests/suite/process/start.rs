//! The start: invalid settings end it with one sentence before any file is made, and the files of the first start.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Output,
};

use tempfile::TempDir;

use crate::support::process::{Process, command, run};

/// An empty directory for a server.
struct Directory {
    root: TempDir,
}

impl Directory {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// The data directory, which does not exist yet.
    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Writes a file with a mode.
    fn file(&self, name: &str, contents: &str, mode: u32) -> String {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).to_str().unwrap().to_owned()
    }

    fn serve(&self, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = command(&self.data(), settings);
        command.arg("serve").args(arguments);
        run(command, "")
    }

    /// Checks that the start ends with exit code 1 and one sentence that contains this text, with and without
    /// `--check`, and makes no file.
    fn refuses(&self, settings: &[(&str, &str)], arguments: &[&str], said: &str) {
        let before = everything(self.root.path());
        for check in [&["--check"][..], &[]] {
            let output = self.serve(settings, &[arguments, check].concat());
            assert_eq!(output.status.code(), Some(1), "{settings:?} {arguments:?} {check:?}");
            let sentence = refusal(&output);
            assert!(sentence.contains(said), "{settings:?} {arguments:?} {check:?}: {sentence}");
            assert_eq!(everything(self.root.path()), before, "a file was made: {settings:?} {check:?}");
        }
    }
}

/// Returns the one sentence on standard error.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(text.lines().count(), 1, "more than one line: {text}");
    text.strip_prefix("error: ").unwrap_or_else(|| panic!("{text}")).trim_end().to_owned()
}

/// Returns the paths of all files and directories.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn invalid_settings_end_the_start() {
    let directory = Directory::new();
    let file = |contents: &str| directory.file("latchkey.toml", contents, 0o644);
    let config = file("[session]\nidle = '1h'\n");
    directory.refuses(&[], &["--config", &config], "session.idle is not a configuration key");
    let config = file("[session\n");
    directory.refuses(&[], &["--config", &config], "is not TOML");
    directory.refuses(&[], &["--config", &directory.path("nowhere.toml")], "nowhere.toml");
    let folder = directory.path("");
    directory.refuses(&[], &["--config", &folder], "cannot read");
    for (name, value, said) in [
        ("SESSION__IDLE", "1h", "LATCHKEY_SESSION__IDLE is not a configuration key"),
        ("SESSION__IDLE_TIMEOUT", "25h", "session.idle_timeout is longer than session.absolute_timeout"),
        ("SESSION__IDLE_TIMEOUT", "soon", "session.idle_timeout"),
        ("PASSWORD__ALLOW_WEAK", "false", "password.allow_weak"),
        ("SESSIONS__URL", "mongodb://localhost", "sessions.url: mongodb is not supported"),
        ("SESSIONS__URL", "redis://[", "sessions.url"),
        ("SESSIONS__URL", "redis+sentinel://127.0.0.1:1", "the name of the master is missing"),
        ("SESSIONS__URL", "redis+cluster://127.0.0.1:1/3", "a cluster has no other database than 0"),
        ("SESSIONS__SENTINEL_PASSWORD", "secret", "needs sessions.url = \"redis+sentinel://...\""),
        ("SESSIONS__DURABILITY", "replicas:0", "is neither primary nor replicas:N"),
        ("SESSIONS__DURABILITY_TIMEOUT", "2m", "sessions.durability_timeout must be 1ms to 1m"),
        ("SESSIONS__BUCKETS", "4097", "sessions.buckets must be 1 to 4096"),
        ("SESSIONS__URL", "rediss://127.0.0.1:1/#insecure", "sessions.tls_ca_file"),
        ("SESSIONS__TLS_CA_FILE", "/ca.pem", "need sessions.url = \"rediss://...\""),
        ("SESSIONS__TLS_KEY_FILE", "/key.pem", "sessions.tls_certificate_file and sessions.tls_key_file"),
        ("SESSIONS__PASSWORD_FILE", "/nowhere", "/nowhere"),
        ("TOKEN__SIGNING_KEY", "nowhere.pem", "token.signing_key: there is no nowhere.pem"),
        ("LOG__LEVEL", "latchkey=loud", "log.level"),
        ("LISTEN__GRPC", "50051", "listen.grpc"),
    ] {
        let redis = [("SESSIONS__URL", "redis://127.0.0.1:1")];
        let needs_redis = name.starts_with("SESSIONS__") && name != "SESSIONS__URL";
        let with_redis = if needs_redis { &redis[..] } else { &[] };
        directory.refuses(&[with_redis, &[(name, value)]].concat(), &[], said);
    }
}

#[test]
fn weak_and_unprotected_keys_end_the_start() {
    let directory = Directory::new();
    let in_folder = |folder: &str, name: &str, contents: &str, mode: u32, said: &str| {
        directory.file(&format!("{folder}/{name}"), contents, mode);
        directory.refuses(&[("TOKEN__KEYS_DIR", &directory.path(folder))], &[], said);
    };
    in_folder("short", "a.secret", "only thirty-one bytes, not more", 0o600, "HS256 secret of 31 bytes");
    in_folder("known", "a.secret", "a-string-secret-at-least-256-bits-long", 0o600, "a.secret");
    in_folder("nonsense", "a.pem", "not a key", 0o600, "a.pem");
    in_folder(
        "repeated",
        "a.secret",
        &"changeme".repeat(8),
        0o600,
        "a.secret holds an HS256 secret that can be guessed",
    );
    let good = "f3b9o5WmVnX0b3mXh1S0bq3wT1yQe8jJr2k7c6d5e4f3g2h1";
    in_folder("readable", "a.secret", good, 0o644, "can be read by everybody (mode 0644): run `chmod 600");
    in_folder("readable", "a.secret", good, 0o604, "can be read by everybody");
    in_folder("readable", "a.secret", good, 0o602, "can be written by everybody");
    in_folder("readable", "a.secret", good, 0o660, "can be written by its group (mode 0660): run `chmod 600");
    directory.file("folder/a.pem/b", "", 0o600);
    directory.refuses(&[("TOKEN__KEYS_DIR", &directory.path("folder"))], &[], "folder/a.pem");
    fs::create_dir(directory.path("empty")).unwrap();
    directory.refuses(&[("TOKEN__KEYS_DIR", &directory.path("empty"))], &[], "latchkey key generate");

    // The same secret in a protected file is accepted.
    directory.file("readable/a.secret", good, 0o640);
    let check = directory.serve(&[("TOKEN__KEYS_DIR", &directory.path("readable"))], &["--check"]);
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn a_key_directory_that_others_can_write_ends_the_start() {
    let directory = Directory::new();
    let good = "f3b9o5WmVnX0b3mXh1S0bq3wT1yQe8jJr2k7c6d5e4f3g2h1";
    directory.file("keys/a.secret", good, 0o600);
    let folder = directory.path("keys");
    let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    for (mode, what) in
        [(0o777, "written by everybody"), (0o702, "written by everybody"), (0o770, "written by its group")]
    {
        set(mode);
        let said = format!("{folder} can be {what} (mode {mode:04o}): run `chmod 700 {folder}`");
        directory.refuses(&[("TOKEN__KEYS_DIR", &folder)], &[], &said);
    }
    for mode in [0o700, 0o750, 0o755] {
        set(mode);
        assert_eq!(
            directory.serve(&[("TOKEN__KEYS_DIR", &folder)], &["--check"]).status.code(),
            Some(0),
            "{mode:o}"
        );
    }

    // The mode is right and the owner is wrong. Only root can change the owner.
    let key = directory.path("keys/a.secret");
    if fs::metadata(&key).unwrap().uid() == 0 {
        for path in [&key, &folder] {
            std::os::unix::fs::chown(path, Some(12345), None).unwrap();
            let said = format!("{path} belongs to the user 12345");
            directory.refuses(&[("TOKEN__KEYS_DIR", &folder)], &[], &said);
            std::os::unix::fs::chown(path, Some(0), None).unwrap();
        }
    }

    // The same applies to the data directory, which contains the keys by default.
    fs::create_dir(directory.data()).unwrap();
    fs::set_permissions(directory.data(), fs::Permissions::from_mode(0o777)).unwrap();
    directory.refuses(&[], &[], "can be written by everybody (mode 0777): run `chmod 700");
}

#[test]
fn an_invalid_key_file_is_named_with_its_content() {
    let directory = Directory::new();
    let public = include_str!("../../../src/domain/credentials/keyring/fixtures/rsa_public.pem");
    let private = include_str!("../../../src/domain/credentials/keyring/fixtures/rsa.pem");
    // A good key in the same directory makes no difference.
    for (name, contents, said) in [
        ("public.pem", public.to_owned(), "public.pem holds a public key in PEM"),
        ("blank.pem", format!("\n{public}"), "blank.pem holds a public key in PEM"),
        ("comment.pem", format!("# of the old server\n{public}"), "comment.pem holds a public key in PEM"),
        ("public.secret", public.to_owned(), "public.secret holds a public key in PEM"),
        ("private.secret", private.to_owned(), "private.secret holds a private key in PEM"),
        ("empty.pem", String::new(), "empty.pem holds nothing at all"),
        ("empty.secret", String::new(), "empty.secret holds nothing at all"),
    ] {
        let folder = format!("keys-{name}");
        directory.file(&format!("{folder}/good.pem"), private, 0o600);
        directory.file(&format!("{folder}/{name}"), &contents, 0o600);
        directory.refuses(&[("TOKEN__KEYS_DIR", &directory.path(&folder))], &[], said);
    }
}

#[test]
fn an_open_directory_of_an_earlier_version_is_closed() {
    let directory = Directory::new();
    drop(Process::start(&directory.data(), &[]));
    let keys = directory.data().join("keys");
    assert_eq!(mode(&keys), 0o700);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(directory.serve(&[], &["--check"]).status.code(), Some(0));
    assert_eq!(mode(&keys), 0o755, "a check changes nothing");
    drop(Process::start(&directory.data(), &[]));
    assert_eq!(mode(&keys), 0o700);
    // Others may have put a key into an open directory.
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o757)).unwrap();
    directory.refuses(&[], &[], "can be written by everybody");
}

#[test]
fn missing_keys_of_existing_accounts_are_never_replaced_silently() {
    let directory = Directory::new();
    let add = || {
        let process = Process::start(&directory.data(), &[]);
        let server = process.grpc.to_string();
        let mut add = command(&directory.data(), &[("SERVER", &server)]);
        add.args(["account", "add", "alice"]);
        assert!(run(add, crate::support::client::PASSWORD).status.success());
        process
    };
    // Without accounts no key is missing.
    drop(Process::start(&directory.data(), &[]));
    fs::remove_file(directory.data().join("admin.key")).unwrap();
    drop(add());

    let (keys, admin_key) = (directory.data().join("keys"), directory.data().join("admin.key"));
    let hide = |path: &Path| {
        let away = path.with_extension("away");
        fs::rename(path, &away).unwrap();
        away
    };
    let away = hide(&admin_key);
    directory.refuses(&[], &[], "there is no admin key in");
    let keys_away = hide(&keys);
    directory.refuses(&[], &[], "there are no signing keys in");
    directory.refuses(&[], &[], "latchkey serve --allow-new-keys");
    fs::rename(&away, &admin_key).unwrap();
    directory.refuses(&[], &[], "and there are accounts already: restore them from a backup");
    fs::create_dir(&keys).unwrap();
    directory.refuses(&[], &[], "there are no signing keys in");
    fs::remove_dir(&keys).unwrap();

    // The start succeeds with the old keys, or with the explicit flag.
    fs::rename(&keys_away, &keys).unwrap();
    drop(Process::start(&directory.data(), &[]));
    hide(&keys);
    let mut serve = command(&directory.data(), &[]);
    serve.args(["serve", "--allow-new-keys"]);
    drop(Process::launch(serve, &directory.data()));
    drop(Process::start(&directory.data(), &[]));
}

#[test]
fn an_admin_key_that_others_can_read_or_guess_ends_the_start() {
    let directory = Directory::new();
    let open = directory.file("open.key", "lka_0123456789abcdef0123456789abcdef\n", 0o644);
    directory.refuses(&[("ACCESS__ADMIN_KEY_FILE", &open)], &[], "can be read by everybody");
    let short = directory.file("short.key", "secret\n", 0o600);
    directory.refuses(&[("ACCESS__ADMIN_KEY_FILE", &short)], &[], "fewer than 16 characters");
    for key in [
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "lka_0123456789abcdef0123456789abcdef",
        "change-me-please-admin-key",
    ] {
        let weak = directory.file("weak.key", key, 0o600);
        directory.refuses(
            &[("ACCESS__ADMIN_KEY_FILE", &weak)],
            &[],
            "holds a key that can be guessed, because",
        );
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, key) in [("LISTEN__GRPC", "listen.grpc"), ("LISTEN__HTTP", "listen.http")] {
        let directory = Directory::new();
        let sentence = refusal(&directory.serve(&[(name, &address)], &[]));
        assert!(sentence.starts_with(&format!("{key}: cannot listen on {address}: ")), "{sentence}");
    }
}

#[test]
fn one_embedded_data_directory_serves_one_process() {
    let directory = Directory::new();
    let first = Process::start(&directory.data(), &[]);
    let sentence = refusal(&directory.serve(&[], &[]));
    assert!(sentence.starts_with("another Latchkey is running on "), "{sentence}");
    assert!(sentence.contains("sessions.url"), "it says what else can be done: {sentence}");

    // The lock ends with the process, even after a kill.
    drop(first);
    Process::start(&directory.data(), &[]);
}

#[test]
fn check_accepts_valid_settings_and_makes_no_file() {
    let directory = Directory::new();
    for settings in [&[][..], &[("SESSIONS__URL", "redis://127.0.0.1:1/2")]] {
        let output = directory.serve(settings, &["--check"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(everything(directory.root.path()).is_empty(), "the failed start made a file");
    }
}

#[test]
fn the_printed_defaults_are_the_compiled_ones_and_valid() {
    let directory = Directory::new();
    let printed = String::from_utf8(directory.serve(&[], &["--print-defaults"]).stdout).unwrap();
    assert_eq!(printed, latchkey::config::DEFAULTS);
    let tables: toml::Table = printed.parse().unwrap();
    assert_eq!(tables["session"]["idle_timeout"].as_str(), Some("1h"));
    // The printed defaults are a valid file.
    let config = directory.file("defaults.toml", &printed, 0o644);
    assert_eq!(directory.serve(&[], &["--check", "--config", &config]).status.code(), Some(0));
}

#[test]
fn the_files_of_the_first_start_are_private() {
    let directory = Directory::new();
    let process = Process::start(&directory.data(), &[]);
    assert_eq!(mode(&directory.data()), 0o700);
    assert_eq!(mode(&directory.data().join("admin.key")), 0o600);
    assert_eq!(mode(&directory.data().join("keys")), 0o700);
    let keys: Vec<_> =
        fs::read_dir(directory.data().join("keys")).unwrap().map(|key| key.unwrap().path()).collect();
    let keys: Vec<_> = keys.into_iter().filter(|key| key.extension().is_some()).collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(mode(&keys[0]), 0o600);
    let made = |path: &Path| (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap());
    let first = (made(&keys[0]), made(&directory.data().join("admin.key")));

    // The next start uses the same files.
    drop(process);
    let process = Process::start(&directory.data(), &[]);
    assert_eq!((made(&keys[0]), made(&directory.data().join("admin.key"))), first);
    assert!(
        !process.output().contains(String::from_utf8_lossy(&first.1.0).trim()),
        "the key is in the output"
    );
}

#[test]
fn password_hashes_are_private_even_in_an_open_directory() {
    let directory = Directory::new();
    fs::create_dir(directory.data()).unwrap();
    fs::set_permissions(directory.data(), fs::Permissions::from_mode(0o755)).unwrap();
    let _process = Process::start(&directory.data(), &[]);
    for entry in fs::read_dir(directory.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("latchkey.db") {
            assert_eq!(mode(&path) & 0o077, 0, "{} has mode {:o}", path.display(), mode(&path));
        }
    }
}

#[test]
fn the_startup_message_names_the_addresses() {
    let directory = Directory::new();
    let process = Process::start(&directory.data(), &[]);
    let said = process.output();
    assert!(said.contains(&format!("{} (gRPC) and {} (HTTP)", process.grpc, process.http)), "{said}");
}
