use std::{io::Write as _, path::PathBuf};

use std::time::Duration;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    Config::load(Some(on_disk.path()), environment(variables))
}

fn error_of(file: &str, variables: &[(&str, &str)]) -> String {
    load(file, variables).unwrap_err().0
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = Config::load(None, []).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("./latchkey-data"));
    assert_eq!(config.listen.grpc, "127.0.0.1:50051".parse().unwrap());
    assert_eq!(config.listen.http, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.sessions.url, "embedded:");
    assert_eq!(config.accounts.url, "embedded:");
    assert_eq!(config.session.idle_timeout, Duration::from_hours(1));
    assert_eq!(config.session.absolute_timeout, Duration::from_hours(24));
    assert_eq!(config.session.slots, ["default"]);
    assert_eq!((config.session.limit.get(), config.session.on_limit), (1, OnLimit::Displace));
    assert_eq!(config.session.kick_war_changes, 6);
    assert_eq!(config.session.kick_war_window, Duration::from_mins(1));
    assert_eq!(config.validate.max_staleness, Duration::ZERO);
    assert_eq!(config.validate.cache_mib, CacheSize::Auto);
    let password = &config.password;
    assert_eq!((password.memory_kib, password.iterations, password.parallelism), (19456, 2, 1));
    assert_eq!(password.min_length, 15);
    assert_eq!(config.admin_key_file(), PathBuf::from("./latchkey-data/admin.key"));
}

#[test]
fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let file = "[session]\nidle_timeout = '2h'\nslots = ['web']\n";
    let config = load(file, &[("LATCHKEY_SESSION__IDLE_TIMEOUT", "3h"), ("HOME", "/")]).unwrap();
    assert_eq!(config.session.idle_timeout, Duration::from_hours(3));
    assert_eq!(config.session.slots, ["web"]);
    let config =
        load(file, &[("LATCHKEY_SESSION__SLOTS", "web, mobile"), ("LATCHKEY_PASSWORD__QUEUE", "7")]).unwrap();
    assert_eq!(config.session.slots, ["web", "mobile"]);
    assert_eq!(config.password.queue, 7);
}

#[test]
fn a_base_url_has_no_user_query_or_fragment() {
    for good in ["https://auth.example.com", "http://127.0.0.1:8081/", "https://example.com/auth"] {
        assert!(load(&format!("[listen]\nhttp_url = '{good}'\n"), &[]).is_ok(), "{good}");
    }
    for wrong in [
        "latchkey",
        "auth.example.com:8081",
        "ftp://a.b",
        "https://u:p@a.b",
        "https://a.b?c",
        "https://a.b#c",
    ] {
        let error = error_of(&format!("[listen]\nhttp_url = '{wrong}'\n"), &[]);
        assert!(error.starts_with("listen.http_url is not a URL"), "{wrong}: {error}");
    }
}

#[test]
fn the_size_of_the_near_cache_is_a_number_or_auto() {
    let file = |value: &str| load(&format!("[validate]\ncache_mib = {value}\n"), &[]);
    let variable = |value| load("", &[("LATCHKEY_VALIDATE__CACHE_MIB", value)]);
    for config in [file("64"), variable("64")] {
        assert_eq!(config.unwrap().validate.cache_mib, CacheSize::Mib(64));
    }
    for config in [file("'auto'"), variable("auto"), variable("")] {
        assert_eq!(config.unwrap().validate.cache_mib, CacheSize::Auto);
    }
    for config in
        [file("'64'"), file("'much'"), file("-1"), variable("much"), variable("-1"), variable("6.5")]
    {
        let error = config.unwrap_err().0;
        assert!(error.contains("neither \"auto\" nor a whole number of MiB"), "{error}");
        assert!(error.contains("validate.cache_mib"), "{error}");
    }
    assert!(file("true").unwrap_err().0.contains("validate.cache_mib must be"));
    assert!(file("1048577").unwrap_err().0.contains("validate.cache_mib must be at most 1048576"));
}

#[test]
fn an_error_names_the_key() {
    for (file, variables, expected) in [
        ("[session]\nidle = '1h'\n", &[][..], "session.idle is not a configuration key; expected one of: "),
        ("verbose = true\n", &[], "verbose is not a configuration key"),
        ("[session]\nlimit = 'one'\n", &[], "session.limit must be a whole number, not a string"),
        ("session = 1\n", &[], "session must be a section, not a whole number"),
        ("[session]\nidle_timeout = 'soon'\n", &[], "\"soon\" is not a duration"),
        ("[session]\nidle_timeout = 'soon'\n", &[], "session.idle_timeout"),
        ("[listen]\ngrpc = 'here'\n", &[], "listen.grpc"),
        ("", &[("LATCHKEY_SESSION__IDLE", "1h")], "LATCHKEY_SESSION__IDLE is not a configuration key"),
        ("", &[("LATCHKEY_SESSION", "1h")], "LATCHKEY_SESSION is not a configuration key"),
        ("", &[("LATCHKEY_PASSWORD__QUEUE", "many")], "LATCHKEY_PASSWORD__QUEUE must be a whole number"),
        (
            "[session]\nidle_timeout = '2d'\n",
            &[],
            "session.idle_timeout is longer than session.absolute_timeout",
        ),
        ("[session]\nlimit = 0\n", &[], "session.limit"),
        ("[session]\nslots = []\n", &[], "session.slots must name at least one"),
        ("[session]\nslots = ['Web']\n", &[], "session.slots: \"Web\" must be"),
        ("[password]\niterations = 1\n", &[], "password.allow_weak"),
        ("[password]\nallow_weak = true\nmemory_kib = 1\n", &[], "memory_kib must be 8 to"),
        ("[password]\nmemory_kib = 1048576\niterations = 5\n", &[], "memory_kib times iterations at most"),
        ("[password]\nblocklist = [\"acme\", \" \"]\n", &[], "password.blocklist has an empty entry"),
        ("[password]\nmin_length = 7\n", &[], "password.min_length must be 8 to 64; below 8 only with"),
        ("[password]\nmin_length = 65\n", &[], "password.min_length must be 8 to 64"),
        ("[password]\nallow_weak = true\nmin_length = 65\n", &[], "password.min_length must be 8 to 64"),
        ("[sessions]\npassword = 'a'\npassword_file = 'b'\n", &[], "both set: remove one"),
        (
            "[accounts]\npassword = 'a'\npassword_file = 'b'\n",
            &[],
            "accounts.password and accounts.password_file",
        ),
        ("[accounts]\nmax_connections = 0\n", &[], "accounts.max_connections"),
        ("[accounts]\nquery_timeout = '0s'\n", &[], "accounts.query_timeout must be 10ms to 1h"),
        ("[accounts]\nlookup = 'x'\n", &[], "accounts.lookup needs accounts.url"),
        ("[accounts]\nupdate_hash = 'x'\n", &[], "need accounts.lookup"),
        ("[token]\nleeway = '1h'\n", &[], "token.leeway must be at most 5m"),
        ("[token]\nalgorithm = 'none'\n", &[], "token.algorithm"),
        (
            "[token]\nactivation_delay = '1s'\n",
            &[],
            "token.activation_delay must be at least token.reload_interval",
        ),
        ("[token]\nactivation_delay = 'soon'\n", &[], "\"soon\" is not a duration"),
        ("[access]\nvalidate = 'closed'\n", &[], "access.validate"),
        (
            "[access]\ncertificates = ['dns:web validator']\n",
            &[],
            "tls.client_ca_file must name the certificate authority to trust",
        ),
        (
            "[access]\ncertificates = ['web validator']\n",
            &[],
            "access.certificates: the name in \"web validator\"",
        ),
        ("[access]\noutage_grace = '30d'\n", &[], "access.outage_grace must be at most 24h"),
        ("[tls]\nkey_file = 'a'\n", &[], "tls.certificate_file and tls.key_file go together"),
        ("[tls]\ncertificate_file = 'a'\n", &[], "tls.certificate_file and tls.key_file go together"),
        ("[tls]\nclient_ca_file = 'a'\n", &[], "tls.client_ca_file needs TLS"),
        ("[tls]\nclient_certificate = 'required'\n", &[], "tls.client_certificate is \"required\""),
        ("[tls]\nclient_certificate = 'maybe'\n", &[], "tls.client_certificate"),
        ("[tls]\nreload_interval = '0s'\n", &[], "tls.reload_interval must not be 0s"),
        ("[webhook]\nurl = 'https://a'\n", &[], "webhook.url needs a secret to sign with"),
        (
            "[webhook]\nsecret = 'whsec_a'\nsecret_file = 'b'\n",
            &[],
            "webhook.secret_file are both set: remove one",
        ),
        (
            "[webhook]\nsecret = 'a good long secret of my own'\n",
            &[],
            "webhook.secret must be `whsec_` and 24",
        ),
        // 23 bytes.
        (
            "[webhook]\nsecret = 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='\n",
            &[],
            "webhook.secret must be `whsec_` and 24",
        ),
        ("[webhook]\nurl = 'example.com'\n", &[], "webhook.url is not a URL such as https://"),
        ("[webhook]\nurl = 'https://'\n", &[], "webhook.url is not a URL such as https://"),
        ("[webhook]\nurl = 'ftp://a/b'\n", &[], "webhook.url must begin with https://"),
        ("[webhook]\nurl = 'file:///a'\n", &[], "webhook.url must begin with https://"),
        ("[webhook]\nurl = 'https://a:b@c/d'\n", &[], "webhook.url must contain no user and password"),
        ("[webhook]\nurl = 'https://a@c/d'\n", &[], "webhook.url must contain no user and password"),
        ("[webhook]\nurl = 'https://a/b#c'\n", &[], "webhook.url must not contain a `#`"),
        ("[webhook]\ntimeout = '0s'\n", &[], "webhook.timeout must be 100ms to 5m"),
        ("[webhook]\ntimeout = '6m'\n", &[], "webhook.timeout must be 100ms to 5m"),
        ("[webhook]\nbatch = 0\n", &[], "webhook.batch must be 1 to 1000"),
        ("[webhook]\nbatch = 1001\n", &[], "webhook.batch must be 1 to 1000"),
        ("nonsense", &[], "is not TOML"),
    ] {
        let error = error_of(file, variables);
        assert!(error.contains(expected), "{file:?} {variables:?}: {error}");
    }
}

#[test]
fn gateway_names_must_be_valid_and_different() {
    for (file, expected) in [
        ("[gateway]\ncookie = 'a b'\n", "gateway.cookie: \"a b\" is not a cookie name"),
        ("[gateway]\nuser_id_header = 'X-User'\n", "gateway.user_id_header: \"X-User\" must be lower-case"),
        ("[gateway]\nslot_header = 'x_slot'\n", "gateway.slot_header: \"x_slot\" must be lower-case"),
        (
            "[gateway]\nroles_header = 'authorization'\n",
            "gateway.roles_header: \"authorization\" has another",
        ),
        (
            "[gateway]\nroles_header = 'x-latchkey-slot'\n",
            "gateway.roles_header and gateway.slot_header are both",
        ),
    ] {
        let error = error_of(file, &[]);
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(load("[gateway]\nroles_header = ''\nslot_header = ''\ncookie = '__Host-token'\n", &[]).is_ok());
}

#[test]
fn page_origins_must_be_listed_one_by_one() {
    for (origin, expected) in [
        ("*", "would allow every web site"),
        ("null", "would allow every web site"),
        ("app.example.com", "is not an origin such as"),
        ("https://app.example.com/", "is not the form that browsers send: write \"https://app.example.com\""),
        (
            "https://App.example.com:443",
            "is not the form that browsers send: write \"https://app.example.com\"",
        ),
        ("ftp://app.example.com", "must begin with https://"),
        ("data:text/html,x", "is not an origin such as"),
    ] {
        let error = error_of(&format!("[browser]\norigins = ['{origin}']\n"), &[]);
        assert!(error.starts_with(&format!("browser.origins: \"{origin}\" {expected}")), "{error}");
    }
    assert!(load("[browser]\norigins = ['https://app.example.com', 'http://localhost:5173']\n", &[]).is_ok());
}

#[test]
fn a_cookie_that_browsers_would_drop_is_an_error() {
    let settings = |name: &str, domain: &str| {
        format!(
            "[gateway]\ncookie = '{name}'\n[browser]\norigins = ['https://a.example']\nset_cookie = true\ncookie_domain = '{domain}'\n"
        )
    };
    for (file, expected) in [
        (settings("", ""), "browser.set_cookie needs the name of the cookie: set gateway.cookie"),
        (settings(&"x".repeat(65), ""), "gateway.cookie must have at most 64 characters"),
        (
            settings("__Host-t", "example.com"),
            "browser.cookie_domain cannot go with gateway.cookie = \"__Host-t\"",
        ),
        (settings("__hOST-t", "example.com"), "browser.cookie_domain cannot go with gateway.cookie"),
        (settings("t", ".example.com"), "browser.cookie_domain: \".example.com\" is not a domain"),
        (settings("t", "Example.com"), "browser.cookie_domain: \"Example.com\" is not a domain"),
        (settings("t", "example.com; HttpOnly"), "browser.cookie_domain: \"example.com; HttpOnly\" is not"),
        (settings("t", "example.com:443"), "browser.cookie_domain: \"example.com:443\" is not a domain"),
        (settings("t", "127.0.0.1"), "browser.cookie_domain: \"127.0.0.1\" is not a domain"),
        (settings("t", "com"), "browser.cookie_domain: \"com\" is not a domain"),
        (
            "[browser]\ncookie_domain = 'example.com'\n".into(),
            "browser.cookie_domain needs browser.set_cookie",
        ),
        (
            "[gateway]\ncookie = 't'\n[browser]\nset_cookie = true\n".into(),
            "browser.set_cookie needs the sites",
        ),
        ("[browser]\ncookie_same_site = 'Lax'\n".into(), "browser.cookie_same_site"),
    ] {
        let error = error_of(&file, &[]);
        assert!(error.contains(expected), "{file}: {error}");
    }
    for (name, domain) in [("__Host-t", ""), ("__Secure-t", "example.com"), ("t", "a.example.com"), ("t", "")]
    {
        assert!(load(&settings(name, domain), &[]).is_ok(), "{name} {domain}");
    }
}

#[test]
fn service_links_of_kubernetes_are_ignored() {
    for (name, value) in [
        ("LATCHKEY_PORT", "tcp://10.0.0.1:50051"),
        ("LATCHKEY_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("LATCHKEY_SERVICE_HOST", "10.0.0.1"),
        ("LATCHKEY_SERVICE_PORT_GRPC", "50051"),
        ("LATCHKEY_REDIS_SERVICE_HOST", "10.0.0.2"),
        ("LATCHKEY_REDIS_PORT", "tcp://10.0.0.2:6379"),
        ("LATCHKEY_REDIS_PORT_6379_TCP_PROTO", "tcp"),
        ("LATCHKEY_SERVER_SERVICE_PORT", "50051"),
    ] {
        assert!(load("", &[(name, value)]).is_ok(), "{name}");
    }
    for (name, value) in [("LATCHKEY_LISTEN_PORT", "50051"), ("LATCHKEY_SESSION_IDLE_TIMEOUT", "1h")] {
        let expected = format!("{name} is not a configuration key");
        assert!(error_of("", &[(name, value)]).contains(&expected), "{name}");
    }
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let file = "[session]\nidle_timeout = '2h'\nslots = ['web']\n[gateway]\nslot_header = 'x-slot'\n";
    let empty: Vec<(String, String)> = variables().into_iter().map(|name| (name, String::new())).collect();
    assert!(empty.len() > 60, "it does not find the settings: {empty:?}");
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    let config = Config::load(Some(on_disk.path()), empty).unwrap();
    let without = load(file, &[]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{without:?}"));
    assert_eq!(config.session.idle_timeout, Duration::from_hours(2));
    assert_eq!(
        (config.session.slots, config.gateway.slot_header),
        (vec!["web".to_owned()], "x-slot".to_owned())
    );
    // A name that is no setting is an error all the same.
    assert!(
        error_of("", &[("LATCHKEY_SESSION__IDLE", "")])
            .contains("LATCHKEY_SESSION__IDLE is not a configuration key")
    );
}

/// The variables of all settings.
fn variables() -> Vec<String> {
    let defaults: Table = toml::from_str(DEFAULTS).unwrap();
    let variable = |key: String| format!("LATCHKEY_{}", key.to_ascii_uppercase());
    let keys = defaults.into_iter().flat_map(|(section, value)| match value {
        Value::Table(keys) => keys.into_iter().map(|(key, _)| format!("{section}__{key}")).collect(),
        _ => vec![section],
    });
    keys.map(variable).collect()
}

#[test]
fn an_error_is_one_line_whatever_it_repeats() {
    for (file, variables, expected) in [
        ("\"a\\nb\" = 1\n", &[][..], "a\\nb is not a configuration key"),
        ("[session]\n\"a\\u001bb\" = 1\n", &[], "session.a\\u{1b}b is not a configuration key"),
        ("[session]\nslots = [\"a\\nb\"]\n", &[], "session.slots: \"a\\nb\""),
        ("", &[("LATCHKEY_A\0B", "1")], "LATCHKEY_A\\u{0}B is not a configuration key"),
        ("", &[("LATCHKEY_SESSION__ON_LIMIT", "a\nb")], "session.on_limit"),
    ] {
        let error = error_of(file, variables);
        assert!(error.contains(expected) && !error.chars().any(char::is_control), "{error:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/latchkey.toml")), []).unwrap_err();
    assert!(error.0.starts_with("cannot read /nowhere/latchkey.toml: "), "{error}");
}

#[test]
fn weak_parameters_need_allow_weak() {
    let file = "[password]\nmemory_kib = 8\niterations = 1\nallow_weak = true\n";
    assert_eq!(load(file, &[]).unwrap().password.memory_kib, 8);
    assert_eq!(load("[password]\nmin_length = 0\nallow_weak = true\n", &[]).unwrap().password.min_length, 0);
    assert_eq!(load("[password]\nmin_length = 8\n", &[]).unwrap().password.min_length, 8);
}

#[test]
fn a_webhook_needs_a_url_and_a_secret_and_errors_show_neither() {
    let secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for url in
        ["https://example.com/a?b=c", "http://127.0.0.1:8000/", "http://[::1]/", "https://bücher.example/"]
    {
        let file = format!("[webhook]\nurl = '{url}'\nsecret = '{secret}'\n");
        assert!(load(&file, &[]).unwrap().webhook_url().unwrap().is_some(), "{url}");
        let file = format!("[webhook]\nurl = '{url}'\nsecret_file = 'a'\n");
        assert!(load(&file, &[]).is_ok(), "{url}");
    }
    assert_eq!(load("", &[]).unwrap().webhook_url().unwrap(), None);
    for url in
        ["hunter2", "ftp://hunter2/", "https://a:hunter2@b/", "https://a/?hunter2#", "https://a:hunter2/"]
    {
        let variables = [("LATCHKEY_WEBHOOK__URL", url), ("LATCHKEY_WEBHOOK__SECRET", secret)];
        let error = error_of("", &variables);
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(!error_of("[webhook]\nsecret = 'whsec_hunter2'\n", &[]).contains("hunter2"));
}

#[test]
fn debug_shows_no_secret() {
    let file = "[sessions]\nurl = 'redis://:hunter2@localhost'\npassword = 'hunter3'\n
                [accounts]\nurl = 'postgres://a:hunter4@b/c'\npassword = 'hunter5'\n
                [access]\ncallers_url = 'mysql://a:hunter6@b/c'\n
                [webhook]\nurl = 'https://a/?key=hunter7'\nsecret = 'whsec_hunter8hunter8hunter8hunter8hunt'\n";
    let config = load(file, &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter"));
}

/// `cargo run`, and so `make run`, sets the variables of the build script for the server, too.
#[test]
fn no_variable_of_the_build_looks_like_a_setting() {
    let script = include_str!("../../build.rs");
    let set: Vec<_> = script.split("rustc-env=").skip(1).collect();
    assert!(set.len() >= 2, "{set:?}");
    for variable in set {
        assert!(!variable.starts_with("LATCHKEY"), "{}", variable.lines().next().unwrap_or_default());
    }
}
