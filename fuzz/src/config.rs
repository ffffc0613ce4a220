//! The configuration: a file and environment variables.
//!
//! The input is the file, then, after a line `#env`, a variable on each line: `SESSION__LIMIT=2` without the prefix.

use std::{fs, path::PathBuf, sync::LazyLock, time::Duration};

use latchkey::{
    config::{Config, DEFAULTS},
    store::{
        redis::{Password, RedisSettings},
        sql,
    },
};
use tempfile::TempDir;
use toml::{Table, Value};

/// Separates the file from the variables.
const ENVIRONMENT: &str = "#env\n";

/// The password of every configuration, which no message may contain.
const PASSWORD: &str = "correct-horse-battery-staple";

static FILE: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("there is room for a file");
    let file = directory.path().join("latchkey.toml");
    (directory, file)
});

/// The sections, and the keys with and without their section.
static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let defaults: Table = toml::from_str(DEFAULTS).expect("the defaults are valid");
    let mut keys = Vec::new();
    for (name, value) in &defaults {
        keys.push(name.clone());
        if let Value::Table(section) = value {
            keys.extend(section.keys().map(|key| format!("{name}.{key}")));
        }
    }
    keys
});

/// Loads the configuration of an input. It is valid, or the error is one line that names the key.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, variables) = text.split_once(ENVIRONMENT).unwrap_or((text, ""));
    let pairs = variables.lines().filter_map(|line| line.split_once('='));
    let mut environment: Vec<_> =
        pairs.map(|(name, value)| (format!("LATCHKEY_{name}"), value.to_owned())).collect();
    environment.push(("LATCHKEY_ACCOUNTS__PASSWORD".to_owned(), PASSWORD.to_owned()));
    environment.push(("LATCHKEY_SESSIONS__PASSWORD".to_owned(), PASSWORD.to_owned()));
    fs::write(&FILE.1, file).expect("the file is writable");
    match Config::load(Some(&FILE.1), environment) {
        Ok(config) => check_valid(&config),
        Err(error) => check_error(&error.0, text),
    }
}

fn check_error(error: &str, input: &str) {
    assert!(!error.chars().any(char::is_control), "the error has more than one line: {error:?}");
    assert!(
        error.contains("LATCHKEY_")
            || error.contains("is not TOML")
            || KEYS.iter().any(|key| error.contains(key))
            || error.contains("is not a configuration key"),
        "the error names no key: {error}"
    );
    assert!(
        !error.contains(PASSWORD) || input.contains(PASSWORD),
        "the error contains the password: {error}"
    );
}

/// Checks that a valid configuration can be used.
fn check_valid(config: &Config) {
    let printed = format!("{config:?}");
    assert!(!printed.contains(PASSWORD), "the password is printed");
    let slots = config.slot_policies().expect("the slots are valid");
    assert!(!slots.is_empty());
    for (slot, policy) in slots {
        assert!(policy.idle_timeout <= policy.absolute_timeout, "{slot:?}");
        assert!(policy.limit.get() <= 16, "{slot:?}");
    }
    config.trusted_proxies().expect("the proxies are valid");
    config.certificates().expect("the certificates are valid");
    config.webhook_url().expect("the webhook is valid");
    let _ = (config.keys_dir(), config.signing_key(), config.admin_key_file());
    check_urls(config);
}

/// The URLs are checked when the stores start. An error must not repeat the password.
fn check_urls(config: &Config) {
    let timeout = Duration::from_secs(1);
    let mut redis = RedisSettings::new(config.sessions.url.clone(), timeout, timeout);
    redis.password = Password::Value(PASSWORD.to_owned());
    let accounts = sql::Settings {
        url: config.accounts.url.clone(),
        password: Some(PASSWORD.to_owned()),
        max_connections: 1,
        connect_timeout: timeout,
        query_timeout: timeout,
    };
    for error in [redis.check(), accounts.check()].into_iter().filter_map(Result::err) {
        assert!(!error.is_empty() && !error.contains(PASSWORD), "{error}");
    }
}

/// Returns the inputs that the kept corpus begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let lines: Vec<_> = DEFAULTS.lines().filter(|line| !line.starts_with('#')).collect();
    let mut seeds: Vec<_> =
        lines.join("\n").split("\n\n").map(|section| section.as_bytes().to_vec()).collect();
    seeds.extend(
        [
            "[session]\nslots = ['web', 'tv']\n[slot.tv]\nlimit = 2\non_limit = 'deny'\n",
            "[session]\nidle_timeout = '2h'\n#env\nSESSION__IDLE_TIMEOUT=3h\nSLOT__WEB__LIMIT=2\n",
            "#env\nSESSION__SLOTS=web, mobile\nPASSWORD__QUEUE=7\nACCESS__VALIDATE=caller\n",
            "#env\nGRPC_SERVICE_HOST=10.0.0.1\nGRPC_PORT_50051_TCP=tcp://10.0.0.1:50051\nPORT=tcp://10.0.0.1:1\n",
            "[session]\nidle_timeout = 'soon'\n",
            "session = 1\n",
            "[session]\nlimit = 0\n",
            "a = \"\n",
            "[sessions]\nurl = 'rediss://user@host:6380/1'\n[accounts]\nurl = 'postgres://latchkey@db/shop?sslmode=verify-full'\n",
            "[accounts]\nurl = 'mysql://latchkey@db/shop'\nlookup = 'SELECT id, name, hash FROM users WHERE name = $1'\n",
            "[sessions]\nurl = 'unix:///run/redis.sock'\n[accounts]\nurl = 'sqlite:/a/b'\n",
            "[webhook]\nurl = 'https://example.com/latchkey'\nsecret_file = 'a'\n",
            "[tls]\ncertificate_file = 'a'\nkey_file = 'b'\nclient_ca_file = 'c'\n[access]\ncertificates = ['dns:web validator', 'spiffe://a/b admin']\n",
            "[throttle]\ntrusted_proxies = ['10.0.0.0/8', '::1', 'fd00::/8']\n",
            "[browser]\norigins = ['https://shop.example']\nset_cookie = true\n[gateway]\ncookie = '__Host-token'\n",
            "[password]\nallow_weak = true\nmemory_kib = 8\niterations = 1\n",
            "[log]\nlevel = 'latchkey=debug,h2=warn'\nformat = 'json'\n",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
    seeds
}
