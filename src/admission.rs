//! Admission control: limits how much of each resource clients use at a time, in total, per client address and per connection.
//!
//! A client is an IPv4 address or an IPv6 /64. An IPv6 client counts towards its /56 and its /48, too, which may use
//! more. Peers in the networks of trusted proxies speak for many clients: only the limits per connection and the
//! totals hold for them.
//!
//! A connection looks up the counters of its client once, under a lock. A request changes atomics only. A request counts when its
//! message is complete, so one that never arrives holds only its stream.

mod connection;
mod connection_limiter;
mod report;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;

use self::{connection::Group, report::UsageReport};
pub use self::{
    connection::{Connection, Permit},
    connection_limiter::{Admitted, ConnectionLimiter},
};

/// A resource that clients use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections to the gRPC port.
    GrpcConnections,
    /// Connections to the HTTP port.
    HttpConnections,
    /// Requests that are complete and not answered, on both ports.
    Requests,
    /// Streaming calls that are open.
    Streams,
    /// Health watches that are open.
    HealthStreams,
    /// Reflection streams that are open.
    ReflectionStreams,
    /// HTTP exchanges that are open, from the head of a request to the last byte of its response.
    Exchanges,
    /// Bytes of request messages that are not complete.
    BodyBytes,
}

impl Resource {
    /// Every resource, in the order of its discriminant.
    pub const ALL: [Self; 8] = [
        Self::GrpcConnections,
        Self::HttpConnections,
        Self::Requests,
        Self::Streams,
        Self::HealthStreams,
        Self::ReflectionStreams,
        Self::Exchanges,
        Self::BodyBytes,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GrpcConnections => "grpc_connections",
            Self::HttpConnections => "http_connections",
            Self::Requests => "requests",
            Self::Streams => "streams",
            Self::HealthStreams => "health_streams",
            Self::ReflectionStreams => "reflection_streams",
            Self::Exchanges => "exchanges",
            Self::BodyBytes => "body_bytes",
        }
    }

    /// The configuration keys of the limit.
    const fn setting(self) -> &'static str {
        match self {
            Self::GrpcConnections | Self::HttpConnections | Self::HealthStreams => "server.max_connections",
            Self::Requests => "server.max_requests",
            Self::Streams => "server.max_open_streams",
            Self::ReflectionStreams => "server.reflection",
            Self::Exchanges => "server.max_requests and server.max_open_streams",
            Self::BodyBytes => "server.max_unfinished_mib",
        }
    }
}

/// The scope of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All clients together.
    Total,
    /// One client address.
    Client,
    /// One connection.
    Connection,
}

impl Scope {
    /// Every scope, in the order of its discriminant.
    pub const ALL: [Self; 3] = [Self::Total, Self::Client, Self::Connection];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Client => "client",
            Self::Connection => "connection",
        }
    }
}

/// The bounds on the use of a resource at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The bound on all clients together.
    pub total: usize,
    /// The bound on one client.
    pub client: usize,
    /// The bound on one connection.
    pub connection: usize,
}

impl Limit {
    /// A limit of which one client may use `percent`, but at least one.
    #[must_use]
    pub fn shared(total: usize, percent: usize, connection: usize) -> Self {
        let client = (total / 100 * percent + (total % 100 * percent).div_ceil(100)).max(1);
        Self { total, client, connection }
    }

    /// No limit.
    pub const NONE: Self = Self { total: usize::MAX, client: usize::MAX, connection: usize::MAX };
}

const RESOURCES: usize = Resource::ALL.len();

/// Counts the use of each resource.
#[derive(Debug, Default)]
struct Usage([AtomicUsize; RESOURCES]);

impl Usage {
    fn get(&self, resource: Resource) -> usize {
        self.0[resource as usize].load(Ordering::Relaxed)
    }

    /// Adds to the use of a resource, if that stays within `limit`.
    fn add(&self, resource: Resource, amount: usize, limit: usize) -> bool {
        let counter = &self.0[resource as usize];
        let before = counter.fetch_add(amount, Ordering::Relaxed);
        let fits = before.saturating_add(amount) <= limit;
        if !fits {
            counter.fetch_sub(amount, Ordering::Relaxed);
        }
        fits
    }

    fn subtract(&self, resource: Resource, amount: usize) {
        self.0[resource as usize].fetch_sub(amount, Ordering::Relaxed);
    }
}

/// The limits and the usage of a process.
pub struct Admission {
    limits: [Limit; RESOURCES],
    used: Usage,
    trusted: Vec<IpNet>,
    clients: Mutex<HashMap<IpNet, Client>>,
    report: UsageReport,
    /// Seconds since the start, counted by [`Self::watch`]: reading them needs no system call.
    seconds: AtomicU64,
}

/// A client with at least one connection.
struct Client {
    usage: Arc<Usage>,
    connections: usize,
}

impl Admission {
    /// Peers in the networks `trusted` have no limit per client. A resource that is not listed has no limit.
    #[must_use]
    pub fn new(limits: &[(Resource, Limit)], trusted: Vec<IpNet>) -> Arc<Self> {
        let mut all = [Limit::NONE; RESOURCES];
        for (resource, limit) in limits {
            all[*resource as usize] = *limit;
        }
        Arc::new(Self {
            limits: all,
            used: Usage::default(),
            trusted,
            clients: Mutex::default(),
            report: UsageReport::default(),
            seconds: AtomicU64::new(0),
        })
    }

    /// Returns the amount of a resource that is in use.
    pub fn used(&self, resource: Resource) -> usize {
        self.used.get(resource)
    }

    /// The number of times that this limit denied a resource since the start.
    pub fn refused(&self, resource: Resource, scope: Scope) -> u64 {
        self.report.refused(resource, scope)
    }

    /// The number of idle connections evicted since the start.
    pub fn evicted(&self) -> u64 {
        self.report.evicted()
    }

    /// The number of connections closed since the start because their clients reset too many streams.
    pub fn reset_floods(&self) -> u64 {
        self.report.reset_floods()
    }

    /// Logs when a limit begins to be reached and when it is no longer reached. Never returns.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(report::TICK).await;
            self.seconds.fetch_add(report::TICK.as_secs(), Ordering::Relaxed);
            self.report.log_changes(|resource| self.limits[resource as usize]);
        }
    }

    /// Creates a connection that the connection limits do not count.
    #[must_use]
    pub fn connection(self: &Arc<Self>, address: IpAddr) -> Arc<Connection> {
        Arc::new(Connection::new(Arc::clone(self), address))
    }

    fn limit(&self, resource: Resource) -> Limit {
        self.limits[resource as usize]
    }

    fn seconds(&self) -> u64 {
        self.seconds.load(Ordering::Relaxed)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpNet, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The networks that a connection from this address counts towards.
    fn join(&self, address: IpAddr) -> Vec<Group> {
        if self.trusted.iter().any(|network| network.contains(&address)) {
            return Vec::new();
        }
        let mut clients = self.clients();
        let groups = networks(address).into_iter().map(|(network, times)| {
            let client =
                clients.entry(network).or_insert_with(|| Client { usage: Arc::default(), connections: 0 });
            client.connections += 1;
            Group { network, usage: Arc::clone(&client.usage), times }
        });
        groups.collect()
    }

    fn leave(&self, groups: &[Group]) {
        let mut clients = self.clients();
        for group in groups {
            if let Some(client) = clients.get_mut(&group.network) {
                client.connections -= 1;
                if client.connections == 0 {
                    clients.remove(&group.network);
                }
            }
        }
    }
}

/// The networks that an address belongs to, and how many times as much as one client each may use.
fn networks(address: IpAddr) -> Vec<(IpNet, usize)> {
    let prefixes: &[(u8, usize)] = match address {
        IpAddr::V4(_) => &[(32, 1)],
        IpAddr::V6(_) => &[(64, 1), (56, 2), (48, 3)],
    };
    let network = |&(length, times): &(u8, usize)| {
        IpNet::new(address, length).ok().map(|network| (network.trunc(), times))
    };
    prefixes.iter().filter_map(network).collect()
}

#[cfg(test)]
mod tests;
