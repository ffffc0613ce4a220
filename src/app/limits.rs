//! Turns settings into the limits of clients.

use std::{sync::Arc, time::Duration};

use crate::{
    admission::{Admission, Limit, Resource},
    config::Config,
    domain::session_events::WatchLimits,
    grpc::dispatch::DispatchSettings,
    transport::server::ConnectionLimits,
};

/// Health watches and reflection streams per connection.
const PROBES_ON_A_CONNECTION: usize = 4;
/// Concurrent reflection streams. Each may hold the largest descriptor in memory.
const REFLECTION_STREAMS: usize = 64;
/// Connections that can together use all bytes of unfinished messages.
const CONNECTIONS_TO_FILL_BYTES: usize = 16;

/// Creates the admission control, with this many connections per port.
pub(super) fn admission(config: &Config, max_connections: usize) -> Result<Arc<Admission>, String> {
    let server = &config.server;
    let shared = |total, connection| Limit::shared(total, server.client_share_percent, connection);
    let connections = shared(max_connections, usize::MAX);
    let requests = Limit::shared(server.max_requests, server.client_share_percent, usize::MAX);
    let bytes = server.max_unfinished_mib.saturating_mul(1024 * 1024);
    let limits = [
        (Resource::GrpcConnections, connections),
        (Resource::HttpConnections, connections),
        (Resource::Requests, Limit { connection: requests.client, ..requests }),
        (Resource::Streams, shared(server.max_open_streams, server.max_streams as usize)),
        (Resource::HealthStreams, shared(server.max_connections, PROBES_ON_A_CONNECTION)),
        (Resource::ReflectionStreams, shared(REFLECTION_STREAMS, PROBES_ON_A_CONNECTION)),
        (
            Resource::Exchanges,
            shared(server.max_requests.saturating_add(server.max_open_streams), usize::MAX),
        ),
        (Resource::BodyBytes, shared(bytes, bytes.div_ceil(CONNECTIONS_TO_FILL_BYTES))),
    ];
    let trusted = config.trusted_proxies().map_err(|error| error.to_string())?;
    Ok(Admission::new(&limits, trusted))
}

pub(super) fn watches(config: &Config) -> WatchLimits {
    let server = &config.server;
    WatchLimits {
        streams: server.max_watches,
        per_session: server.max_watches_per_session,
        per_user: server.max_watches_per_user,
    }
}

pub(super) fn requests(config: &Config) -> DispatchSettings {
    let server = &config.server;
    DispatchSettings { timeout: server.request_timeout, body_timeout: server.body_timeout }
}

pub(super) fn connections(config: &Config) -> ConnectionLimits {
    let server = &config.server;
    ConnectionLimits {
        max_streams: server.max_streams,
        age: server.connection_age,
        age_grace: server.connection_age_grace.max(Duration::from_millis(1)),
        http1: !config.browser.origins.is_empty() || config.listen.grpc_json,
    }
}
