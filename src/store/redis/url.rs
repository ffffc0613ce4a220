//! Parses the URLs of Redis topologies.
//!
//! | URL | topology |
//! |---|---|
//! | `redis://[user[:password]@]host[:port][/db]` | one server |
//! | `unix:///path[?db=N]` | one server on this machine |
//! | `redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/master-name[/db]` | the master that Sentinels name |
//! | `redis+cluster://[user[:password]@]host[:port][,host[:port]...]` | a cluster, found through these nodes |
//!
//! With `rediss` all connections use TLS, those to Sentinels too. User and password are those of the data nodes.

use std::{fmt, path::PathBuf};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

const DATA_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The address of a Redis server or Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Parses the address in a redirection from this server, `host:port`. Without a host it is another port of this
    /// one.
    pub(super) fn redirected(&self, address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        Some(self.with_host(host, port.parse().ok()?))
    }

    /// The address of another server that this one names. Without a host it is on the same one.
    pub(super) fn with_host(&self, host: &str, port: u16) -> Self {
        let host = match (host, self) {
            ("" | "?", Self::Tcp { host, .. }) => host.clone(),
            (host, _) => unbracketed(host),
        };
        Self::Tcp { host, port }
    }
}

/// The servers that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Servers {
    Single(Endpoint),
    Sentinel { sentinels: Vec<Endpoint>, master: String },
    Cluster { seeds: Vec<Endpoint> },
}

/// A parsed URL.
#[derive(Debug, Clone)]
pub(super) struct RedisUrl {
    pub(super) servers: Servers,
    pub(super) tls: bool,
    /// User, password and database of the data nodes.
    pub(super) redis: RedisConnectionInfo,
}

impl RedisUrl {
    /// Fails with one sentence that does not repeat the password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let tls = scheme.starts_with("rediss");
        match scheme {
            "redis+sentinel" | "rediss+sentinel" => {
                let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(format!(
                        "sessions.url: the name of the master is missing: write {scheme}://host:port/master-name"
                    ));
                }
                let (redis, sentinels) = parse_hosts(hosts, db, SENTINEL_PORT)?;
                Ok(Self { servers: Servers::Sentinel { sentinels, master: master.to_owned() }, tls, redis })
            }
            "redis+cluster" | "rediss+cluster" => {
                let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
                if !matches!(path, "" | "0") {
                    return Err(format!(
                        "sessions.url: a cluster has no other database than 0: remove /{path}"
                    ));
                }
                let (redis, seeds) = parse_hosts(hosts, "", DATA_PORT)?;
                Ok(Self { servers: Servers::Cluster { seeds }, tls, redis })
            }
            _ => {
                let info = parse_single(url)?;
                let servers = Servers::Single(endpoint(info.addr())?);
                Ok(Self { servers, tls, redis: info.redis_settings().clone() })
            }
        }
    }
}

/// Parses `[user[:password]@]host[:port][,host[:port]...]`.
fn parse_hosts(
    text: &str,
    db: &str,
    default_port: u16,
) -> Result<(RedisConnectionInfo, Vec<Endpoint>), String> {
    let (user, hosts) = match text.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), text),
    };
    let mut redis = None;
    let mut endpoints = Vec::new();
    for host in hosts.split(',').map(str::trim) {
        if host.is_empty() {
            return Err(format!("sessions.url: a host is missing in {hosts:?}: write host:port,host:port"));
        }
        // A colon inside brackets belongs to an IPv6 address.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = if has_port { String::new() } else { format!(":{default_port}") };
        let info = parse_single(&format!("redis://{user}{host}{port}/{db}"))
            .map_err(|error| format!("{error} (in {host})"))?;
        endpoints.push(endpoint(info.addr())?);
        redis.get_or_insert_with(|| info.redis_settings().clone());
    }
    Ok((redis.unwrap_or_default(), endpoints))
}

fn parse_single(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|error| format!("sessions.url: {error}"))
}

fn endpoint(address: &ConnectionAddr) -> Result<Endpoint, String> {
    match address {
        ConnectionAddr::Tcp(host, port) => Ok(Endpoint::Tcp { host: unbracketed(host), port: *port }),
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            Err("sessions.url: #insecure would not verify the server: remove it, and name its root certificate in \
                 sessions.tls_ca_file"
                .to_owned())
        }
        ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Endpoint::Tcp { host: unbracketed(host), port: *port })
        }
        ConnectionAddr::Unix(path) => Ok(Endpoint::Unix(path.clone())),
        _ => Err("sessions.url: this kind of address is not supported".to_owned()),
    }
}

fn unbracketed(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn a_url_names_its_topology() {
        let parsed = RedisUrl::parse("redis://lk:p%40ss@redis.example.com/2").unwrap();
        assert_eq!(parsed.servers, Servers::Single(tcp("redis.example.com", 6379)));
        assert_eq!((parsed.redis.username(), parsed.redis.password()), (Some("lk"), Some("p@ss")));
        assert_eq!((parsed.redis.db(), parsed.tls), (2, false));

        let parsed = RedisUrl::parse("rediss+sentinel://lk:p%40ss@a,b:1,[::1]:2,[::2]/main/3").unwrap();
        let sentinels = vec![tcp("a", 26379), tcp("b", 1), tcp("::1", 2), tcp("::2", 26379)];
        assert_eq!(parsed.servers, Servers::Sentinel { sentinels, master: "main".to_owned() });
        assert_eq!((parsed.redis.username(), parsed.redis.password()), (Some("lk"), Some("p@ss")));
        assert_eq!((parsed.redis.db(), parsed.tls), (3, true));

        let parsed = RedisUrl::parse("redis+cluster://a,b:7000").unwrap();
        assert_eq!(parsed.servers, Servers::Cluster { seeds: vec![tcp("a", 6379), tcp("b", 7000)] });
        let parsed = RedisUrl::parse("unix:///run/redis.sock?db=1").unwrap();
        assert_eq!(parsed.servers, Servers::Single(Endpoint::Unix("/run/redis.sock".into())));
        assert_eq!(parsed.redis.db(), 1);
        assert_eq!(tcp("::1", 2).to_string(), "[::1]:2");
    }

    #[test]
    fn an_invalid_url_is_rejected_without_its_password() {
        for (url, expected) in [
            ("redis+sentinel://a:1,b:2", "the name of the master is missing"),
            ("redis+sentinel://:secret@a:1,,b:2/main", "a host is missing"),
            ("redis+sentinel://:secret@a:port/main", "(in a:port)"),
            ("redis+sentinel://:secret@a/main/x", "(in a)"),
            ("redis+cluster://:secret@/", "a host is missing"),
            ("redis+cluster://:secret@a:1/3", "a cluster has no other database than 0"),
            ("rediss://:secret@a:1#insecure", "#insecure would not verify the server"),
        ] {
            let error = RedisUrl::parse(url).unwrap_err();
            assert!(error.starts_with("sessions.url: ") && error.contains(expected), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
