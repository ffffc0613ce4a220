//! Warnings at the start about what others in the network could read or forge: one line each, with the remedy.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use url::Url;

use crate::config::Config;

/// A setting that exposes something.
#[derive(Debug, PartialEq, Eq)]
struct Exposure {
    setting: &'static str,
    advice: &'static str,
}

/// Warns of settings that expose something, with these addresses of the two ports.
pub(super) fn warn(config: &Config, grpc: SocketAddr, http: SocketAddr) {
    for Exposure { setting, advice } in exposures(config, grpc, http) {
        tracing::warn!(setting = setting, "{setting}: {advice}");
    }
}

fn exposures(config: &Config, grpc: SocketAddr, http: SocketAddr) -> Vec<Exposure> {
    let trusted = config.trusted_proxies().unwrap_or_default();
    let checks = [
        (
            "listen.grpc",
            !config.tls.is_on() && !grpc.ip().is_loopback(),
            "passwords, tokens and keys travel in clear: set tls.certificate_file and tls.key_file, or let only a proxy that speaks TLS reach this port",
        ),
        (
            "listen.http",
            !http.ip().is_loopback(),
            "the port is not encrypted and reachable from other machines: let only the gateway and monitoring reach it, or bind it to 127.0.0.1",
        ),
        (
            "throttle.trusted_proxies",
            trust_everybody(&trusted),
            "every client is trusted to name its own address in x-forwarded-for, so limits by address do not hold: list the addresses of the proxies alone",
        ),
        (
            "sessions.url",
            redis_in_clear(&config.sessions.url),
            "session ids, usernames and the password of Redis travel in clear: use rediss://, or keep Redis on this machine or in a network of its own",
        ),
        (
            "accounts.url",
            database_in_clear(&config.accounts.url),
            "password hashes may travel in clear: add ?sslmode=verify-full (PostgreSQL) or ?ssl-mode=VERIFY_IDENTITY (MySQL)",
        ),
        (
            "access.callers_url",
            database_in_clear(&config.access.callers_url.0),
            "hashes of callers' keys may travel in clear: add ?sslmode=verify-full (PostgreSQL) or ?ssl-mode=VERIFY_IDENTITY (MySQL)",
        ),
        (
            "webhook.url",
            config.webhook_url().is_ok_and(|url| url.is_some_and(|url| webhook_in_clear(&url))),
            "events travel in clear: let the receiver speak TLS, and write https://",
        ),
    ];
    let found = checks.into_iter().filter(|(_, exposed, _)| *exposed);
    found.map(|(setting, _, advice)| Exposure { setting, advice }).collect()
}

/// Whether all addresses of IPv4 or of IPv6 are among these.
fn trust_everybody(networks: &[IpNet]) -> bool {
    IpNet::aggregate(&networks.to_vec()).iter().any(|network| network.prefix_len() == 0)
}

fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.is_empty() || host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Whether any of the hosts of a Redis URL is reached without TLS over a network.
fn redis_in_clear(url: &str) -> bool {
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

/// Whether a database is reached over a network in a way that can end up without TLS.
fn database_in_clear(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let (parameter, unsafe_modes) = match url.scheme() {
        "postgres" | "postgresql" => ("sslmode", ["disable", "prefer"]),
        "mysql" | "mariadb" => ("ssl-mode", ["DISABLED", "PREFERRED"]),
        _ => return false,
    };
    let mode = url.query_pairs().find(|(name, _)| name == parameter).map(|(_, mode)| mode);
    let may_be_clear =
        mode.is_none_or(|mode| unsafe_modes.iter().any(|other| mode.eq_ignore_ascii_case(other)));
    may_be_clear && !is_local(url.host_str().unwrap_or_default())
}

/// Whether what a webhook tells leaves this machine unencrypted.
fn webhook_in_clear(url: &Url) -> bool {
    url.scheme() == "http" && !is_local(url.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(settings: &[(&str, &str)], grpc: &str, http: &str) -> Vec<&'static str> {
        let settings = settings.iter().map(|(name, value)| (format!("LATCHKEY_{name}"), (*value).to_owned()));
        let config = Config::load(None, settings).unwrap();
        let found = exposures(&config, grpc.parse().unwrap(), http.parse().unwrap());
        found.into_iter().map(|exposure| exposure.setting).collect()
    }

    #[test]
    fn what_others_could_read_is_warned_of_and_nothing_else() {
        let local = ("127.0.0.1:1", "[::1]:2");
        assert!(settings(&[], local.0, local.1).is_empty());
        assert_eq!(settings(&[], "0.0.0.0:1", "[::]:2"), ["listen.grpc", "listen.http"]);
        let exposed = [
            ("SESSIONS__URL", "redis://10.0.0.1/0"),
            ("ACCOUNTS__URL", "postgres://latchkey@db.internal/latchkey"),
            ("ACCESS__CALLERS_URL", "mysql://latchkey@db.internal/latchkey"),
            ("THROTTLE__TRUSTED_PROXIES", "10.0.0.0/8,0.0.0.0/0"),
            ("WEBHOOK__URL", "http://example.com/"),
            ("WEBHOOK__SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"),
        ];
        let expected =
            ["throttle.trusted_proxies", "sessions.url", "accounts.url", "access.callers_url", "webhook.url"];
        assert_eq!(settings(&exposed, local.0, local.1), expected);
    }

    #[test]
    fn networks_that_hold_every_address_trust_everybody() {
        let trust = |networks: &[&str]| {
            trust_everybody(&networks.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
        };
        assert!(trust(&["0.0.0.0/0"]) && trust(&["::/0"]) && trust(&["0.0.0.0/1", "128.0.0.0/1"]));
        assert!(!trust(&["127.0.0.0/8", "::1/128"]) && !trust(&["0.0.0.0/1"]) && !trust(&[]));
    }

    #[test]
    fn a_link_is_in_clear_without_tls_over_a_network() {
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
            assert_eq!(redis_in_clear(url), expected, "{url}");
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
            assert_eq!(database_in_clear(url), expected, "{url}");
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
            assert_eq!(webhook_in_clear(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
