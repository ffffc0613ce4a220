//! The gRPC port, with or without TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::split,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::{
    accept::accept,
    connection::{self, Services},
    drain,
    peer::Peer,
    tls::{self, Tls},
};
use crate::admission::{Connection, ConnectionLimiter};

pub use super::connection::ConnectionLimits;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the clients of `listener` that `limiter` admits, until `shutdown` and the last response. With `tls`, every
/// connection is encrypted.
pub async fn serve<S: Services>(
    listener: TcpListener,
    limiter: &ConnectionLimiter,
    tls: Option<Arc<Tls>>,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let serve = |socket, address, usage| {
        handshake(socket, address, usage, tls.clone(), Arc::clone(&services), limits, shutdown.clone())
    };
    accept(listener, limiter, &shutdown, serve).await;
}

/// Serves a connection after the TLS handshake, if there is one.
async fn handshake<S: Services>(
    socket: TcpStream,
    address: SocketAddr,
    connection: Arc<Connection>,
    tls: Option<Arc<Tls>>,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let Some(tls) = tls else {
        let (from_client, to_client) = socket.into_split();
        let peer = Peer { address, certificate: None, connection };
        return connection::serve(from_client, to_client, peer, services, limits, shutdown).await;
    };
    let accepted = tokio::select! {
        () = drain::too_late(&connection, &shutdown) => return,
        accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)) => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => {
            let peer = Peer { address, certificate: tls::client_names(&stream), connection };
            let (from_client, to_client) = split(stream);
            connection::serve(from_client, to_client, peer, services, limits, shutdown).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(client.address = %address, error.message = %error, "TLS handshake failed");
        }
        Err(_) => tracing::debug!(client.address = %address, "TLS handshake timed out"),
    }
}
