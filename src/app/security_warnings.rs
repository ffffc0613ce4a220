//! Warnings at startup about settings by which others in the network could read or forge something.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use url::Url;

use crate::config::Config;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) setting: &'static str,
    /// What can happen, a colon, and the remedy.
    pub(super) advice: &'static str,
}

/// Logs the warnings for a configuration and the addresses of the two ports.
pub(super) fn log(config: &Config, grpc: SocketAddr, http: SocketAddr) {
    for Warning { setting, advice } in warnings(config, grpc, http) {
        tracing::warn!(setting = setting, "{setting}: {advice}");
    }
}

pub(super) fn warnings(config: &Config, grpc: SocketAddr, http: SocketAddr) -> Vec<Warning> {
    let trusted = config.trusted_proxies().unwrap_or_default();
    let checks = [
        (
            "listen.grpc",
            !config.tls.is_on() && !grpc.ip().is_loopback(),
            "passwords, tokens and keys travel unencrypted: set tls.certificate_file and tls.key_file, or let only a TLS proxy reach this port",
        ),
        (
            "listen.http",
            !http.ip().is_loopback(),
            "the port is not encrypted and reachable from other machines: let only the gateway and monitoring reach it, or bind it to 127.0.0.1",
        ),
        (
            "throttle.trusted_proxies",
            trust_all_addresses(&trusted),
            "every client can set its own address with x-forwarded-for, so limits by address have no effect: list only the addresses of the proxies",
        ),
        (
            "sessions.url",
            redis_is_unencrypted(&config.sessions.url),
            "session ids, usernames and the password of Redis travel unencrypted: use rediss://, or run Redis on this machine or in a network of its own",
        ),
        (
            "accounts.url",
            database_is_unencrypted(&config.accounts.url),
            "password hashes may travel unencrypted: add ?sslmode=verify-full (PostgreSQL) or ?ssl-mode=VERIFY_IDENTITY (MySQL)",
        ),
        (
            "access.callers_url",
            database_is_unencrypted(&config.access.callers_url.0),
            "hashes of caller keys may travel unencrypted: add ?sslmode=verify-full (PostgreSQL) or ?ssl-mode=VERIFY_IDENTITY (MySQL)",
        ),
        (
            "webhook.url",
            config.webhook_url().is_ok_and(|url| url.is_some_and(|url| webhook_is_unencrypted(&url))),
            "events travel unencrypted: enable TLS at the receiver and use https://",
        ),
    ];
    let insecure = checks.into_iter().filter(|(_, insecure, _)| *insecure);
    insecure.map(|(setting, _, advice)| Warning { setting, advice }).collect()
}

/// Whether these networks contain all IPv4 or all IPv6 addresses.
fn trust_all_addresses(networks: &[IpNet]) -> bool {
    IpNet::aggregate(&networks.to_vec()).iter().any(|network| network.prefix_len() == 0)
}

fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.is_empty() || host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether any host of a Redis URL is reached over a network without TLS.
fn redis_is_unencrypted(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    if !scheme.starts_with("redis") || scheme.starts_with("rediss") {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let host = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host.to_owned(),
        _ => text.to_owned(),
    };
    hosts.split(',').map(host).any(|host| !is_local(&host))
}

/// Whether a database is reached over a network and TLS is not required.
fn database_is_unencrypted(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let (parameter, unsafe_modes) = match url.scheme() {
        "postgres" | "postgresql" => ("sslmode", ["disable", "prefer"]),
        "mysql" | "mariadb" => ("ssl-mode", ["DISABLED", "PREFERRED"]),
        _ => return false,
    };
    let mode = url.query_pairs().find(|(name, _)| name == parameter).map(|(_, mode)| mode);
    let tls_is_optional =
        mode.is_none_or(|mode| unsafe_modes.iter().any(|other| mode.eq_ignore_ascii_case(other)));
    tls_is_optional && !is_local(url.host_str().unwrap_or_default())
}

/// Whether a receiver is reached over a network without TLS.
fn webhook_is_unencrypted(url: &Url) -> bool {
    url.scheme() == "http" && !is_local(url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(settings: &[(&str, &str)], grpc: &str, http: &str) -> Vec<&'static str> {
        let settings = settings.iter().map(|(name, value)| (format!("LATCHKEY_{name}"), (*value).to_owned()));
        let config = Config::load(None, settings).unwrap();
        let found = warnings(&config, grpc.parse().unwrap(), http.parse().unwrap());
        found.into_iter().map(|warning| warning.setting).collect()
    }

    #[test]
    fn insecure_settings_and_no_others_cause_warnings() {
        let local = ("127.0.0.1:1", "[::1]:2");
        assert!(settings(&[], local.0, local.1).is_empty());
        assert_eq!(settings(&[], "0.0.0.0:1", "[::]:2"), ["listen.grpc", "listen.http"]);
        let insecure = [
            ("SESSIONS__URL", "redis://10.0.0.1/0"),
            ("ACCOUNTS__URL", "postgres://latchkey@db.internal/latchkey"),
            ("ACCESS__CALLERS_URL", "mysql://latchkey@db.internal/latchkey"),
            ("THROTTLE__TRUSTED_PROXIES", "10.0.0.0/8,0.0.0.0/0"),
            ("WEBHOOK__URL", "http://example.com/"),
            ("WEBHOOK__SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"),
        ];
        let expected =
            ["throttle.trusted_proxies", "sessions.url", "accounts.url", "access.callers_url", "webhook.url"];
        assert_eq!(settings(&insecure, local.0, local.1), expected);
    }

    #[test]
    fn networks_that_contain_every_address_are_found() {
        let trust = |networks: &[&str]| {
            trust_all_addresses(&networks.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
        };
        assert!(trust(&["0.0.0.0/0"]) && trust(&["::/0"]) && trust(&["0.0.0.0/1", "128.0.0.0/1"]));
        assert!(!trust(&["127.0.0.0/8", "::1/128"]) && !trust(&["0.0.0.0/1"]) && !trust(&[]));
    }

    #[test]
    fn a_link_over_a_network_without_tls_is_unencrypted() {
        for (url, expected) in [
            ("embedded:", false),
            ("redis://127.0.0.1:6379", false),
            ("redis://user:p%40ss@localhost/1", false),
            ("redis://[::1]:6379/", false),
            ("unix:///run/redis.sock", false),
            ("rediss://redis.internal", false),
            ("redis://redis.internal", true),
            ("redis://user@10.0.0.1:6379/0", true),
            ("redis://[fd00::1]:6379", true),
            ("redis+sentinel://127.0.0.1:1,10.0.0.1:2/master", true),
            ("rediss+sentinel://10.0.0.1:2/master", false),
        ] {
            assert_eq!(redis_is_unencrypted(url), expected, "{url}");
        }
        for (url, expected) in [
            ("embedded:", false),
            ("sqlite:/data/accounts.db", false),
            ("postgres://u@localhost/d", false),
            ("postgres://u@localhost/d?host=/run/postgresql", false),
            ("postgres://u@db/d", true),
            ("postgres://u@db/d?sslmode=prefer", true),
            ("postgres://u@db/d?sslmode=require", false),
            ("postgresql://u@db/d?sslmode=verify-full", false),
            ("mysql://u@db/d?ssl-mode=disabled", true),
            ("mariadb://u@db/d", true),
            ("mysql://u@db/d?ssl-mode=REQUIRED", false),
        ] {
            assert_eq!(database_is_unencrypted(url), expected, "{url}");
        }
        for (url, expected) in [
            ("https://example.com/", false),
            ("http://example.com/", true),
            ("http://10.0.0.1/", true),
            ("http://localhost:8000/", false),
            ("http://127.0.0.1/", false),
            ("http://[::1]/", false),
            ("http://localhost.example.com/", true),
        ] {
            assert_eq!(webhook_is_unencrypted(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
