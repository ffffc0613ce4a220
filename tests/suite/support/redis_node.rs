//! A server of a Sentinel or cluster topology, with the proxies in front of it.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use redis::{Cmd, FromRedisValue, RedisResult};

use super::{
    address::server_port,
    proxy::{Peer, Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
};

/// How long a topology may take to reach a state that it must reach, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What all servers of a topology have in common.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// The password of the servers with data.
    pub password: Option<String>,
    /// Puts a proxy in front of every port, and makes all servers announce the proxy instead of themselves.
    pub proxied: bool,
    /// Serves TLS to clients and other servers. The tests themselves use a plain port beside it.
    pub tls: Option<TlsFiles>,
    /// More arguments for the servers with data, such as `--min-replicas-to-write 1`.
    pub arguments: Vec<String>,
}

/// The certificate of the servers, which they also use as clients of each other.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    /// Whether every client has to present a certificate of this authority.
    pub verifies_clients: bool,
}

/// Who reaches a server that is partitioned from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Nobody,
    /// All clients, but no other server of the topology.
    Clients,
    /// One process only.
    Process(u32),
}

/// The ports of a server before it starts. Clients and other servers use `announced`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) tls: Option<u16>,
    pub(super) bus: u16,
    pub(super) announced: u16,
    pub(super) announced_bus: u16,
    pub(super) source: Option<Ipv4Addr>,
}

pub struct Node {
    pub server: RedisServer,
    /// The port that clients and the other servers of the topology use: that of the proxy, if there is one.
    pub port: u16,
    /// The same port of the server itself.
    pub direct_port: u16,
    /// The port of the cluster bus that the other servers use.
    pub bus_port: u16,
    /// In front of the port for clients, replicas and Sentinels.
    pub proxy: Option<Proxy>,
    /// In front of the cluster bus.
    pub bus: Option<Proxy>,
    /// The address that the server connects from if there are proxies, so that they know it.
    pub source: Option<Ipv4Addr>,
}

impl Node {
    /// Starts the server with this number in its topology. `arguments` returns the text of its configuration file, if
    /// it has one, and its arguments.
    pub(super) async fn start(
        flavour: Flavour,
        number: u8,
        options: &NodeOptions,
        with_bus: bool,
        arguments: impl Fn(&Ports) -> (Option<String>, Vec<String>),
    ) -> Self {
        let proxy = if options.proxied { Some(Proxy::to(0).await) } else { None };
        let bus = if options.proxied && with_bus { Some(Proxy::to(0).await) } else { None };
        let source = options.proxied.then(|| Ipv4Addr::new(127, 0, 1, number + 1));
        // Another process may take a port first, so several are tried.
        for _ in 0..10 {
            let plain = server_port();
            let tls = options.tls.is_some().then(server_port);
            let own_bus = server_port();
            let announced = proxy.as_ref().map_or(tls.unwrap_or(plain), Proxy::port);
            let announced_bus = bus.as_ref().map_or(own_bus, Proxy::port);
            let ports = Ports { tls, bus: own_bus, announced, announced_bus, source };
            let (config, arguments) = arguments(&ports);
            let start = move || RedisServer::on(flavour, plain, config.as_deref(), &arguments);
            let Some(server) = tokio::task::spawn_blocking(start).await.unwrap() else { continue };
            let direct_port = tls.unwrap_or(plain);
            for (proxy, target) in [(&proxy, direct_port), (&bus, own_bus)] {
                if let Some(proxy) = proxy {
                    proxy.retarget(target);
                }
            }
            return Self {
                server,
                port: announced,
                direct_port,
                bus_port: announced_bus,
                proxy,
                bus,
                source,
            };
        }
        panic!("{flavour:?} did not start; `make test` installs what the tests need");
    }

    /// Sends a command past the proxies.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.server.ask(command).await
    }

    /// The proxy for clients. The topology must have been started with proxies.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// Sets what happens to the connections of clients, but not to those of other servers.
    pub fn set_for_clients(&self, mode: ProxyMode) {
        self.proxy().set_for(Peer::Clients, mode);
    }

    /// Cuts or heals every link to and from this server. `others` are the other servers of the topology.
    pub(super) fn isolate<'a>(&self, reach: Option<Reach>, others: impl Iterator<Item = &'a Self>) {
        let mode = if reach.is_some() { ProxyMode::Stall } else { ProxyMode::Forward };
        for proxy in self.proxies() {
            proxy.set(mode);
        }
        match reach {
            Some(Reach::Clients) => self.proxy().set_for(Peer::Clients, ProxyMode::Forward),
            Some(Reach::Process(id)) => self.proxy().set_for(Peer::Process(id), ProxyMode::Forward),
            Some(Reach::Nobody) | None => {}
        }
        for proxy in others.flat_map(Self::proxies) {
            proxy.set_for(Peer::Node(self.source.unwrap()), mode);
        }
    }

    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        assert!(self.proxy.is_some(), "a partition needs proxies");
        self.proxy.iter().chain(&self.bus)
    }
}

/// The arguments of a server with data or a Sentinel for its ports.
pub(super) fn port_arguments(ports: &Ports, options: &NodeOptions) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: &str| arguments.extend([format!("--{name}"), value.to_owned()]);
    if let Some(source) = ports.source {
        add("bind-source-addr", &source.to_string());
    }
    if let (Some(tls), Some(port)) = (&options.tls, ports.tls) {
        add("tls-port", &port.to_string());
        add("tls-cert-file", tls.certificate.to_str().unwrap());
        add("tls-key-file", tls.key.to_str().unwrap());
        add("tls-ca-cert-file", tls.ca.to_str().unwrap());
        add("tls-auth-clients", if tls.verifies_clients { "yes" } else { "no" });
        add("tls-replication", "yes");
    }
    arguments
}

/// The arguments of a server with data besides those for its ports.
pub(super) fn data_arguments(options: &NodeOptions) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: &str| arguments.extend([format!("--{name}"), value.to_owned()]);
    // A replica gets its first copy at once, and not five seconds later.
    add("repl-diskless-sync-delay", "0");
    add("repl-ping-replica-period", "1");
    if let Some(password) = &options.password {
        add("requirepass", password);
        add("masterauth", password);
    }
    arguments.extend(options.arguments.iter().cloned());
    arguments
}

/// Asks until the answer is there, and fails if that takes too long.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a replica is connected to the master of this port and has all that it wrote.
pub(super) async fn is_in_sync(replica: &Node, master: &Node) -> bool {
    let (Ok(of_replica), Ok(of_master)) =
        (replica.server.info("replication").await, master.server.info("replication").await)
    else {
        return false;
    };
    let field = |info: &str, name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let number = |info: &str, name: &str| field(info, name).and_then(|value| value.parse::<u64>().ok());
    number(&of_replica, "master_port") == Some(master.port.into())
        && field(&of_replica, "master_link_status").as_deref() == Some("up")
        && number(&of_replica, "slave_repl_offset") >= number(&of_master, "master_repl_offset")
        && field(&of_master, "role").as_deref() == Some("master")
}
