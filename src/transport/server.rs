//! The gRPC port, with or without TLS.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
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
use crate::admission::ConnectionLimiter;

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
    // A future for each kind of connection, because one for both would always have the size of the larger one. Boxed,
    // because the task would hold it twice.
    let serve = |socket: TcpStream, address, connection| -> BoxFuture<'static, ()> {
        let peer = Peer { address, certificate: None, connection };
        let (services, shutdown) = (Arc::clone(&services), shutdown.clone());
        match &tls {
            None => {
                let (from_client, to_client) = socket.into_split();
                Box::pin(connection::serve(from_client, to_client, peer, services, limits, shutdown))
            }
            Some(tls) => Box::pin(serve_tls(socket, peer, Arc::clone(tls), services, limits, shutdown)),
        }
    };
    accept(listener, limiter, &shutdown, serve).await;
}

/// Serves a connection after the TLS handshake.
async fn serve_tls<S: Services>(
    socket: TcpStream,
    mut peer: Peer,
    tls: Arc<Tls>,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    // Boxed, because its large state is needed only until the handshake is complete.
    let handshake = Box::pin(async {
        tokio::select! {
            () = drain::too_late(&peer.connection, &shutdown) => None,
            accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)) => Some(accepted),
        }
    });
    let accepted = handshake.await;
    match accepted {
        None => {}
        Some(Ok(Ok(stream))) => {
            peer.certificate = tls::client_names(&stream);
            let (from_client, to_client) = split(stream);
            connection::serve(from_client, to_client, peer, services, limits, shutdown).await;
        }
        Some(Ok(Err(error))) => {
            tracing::debug!(client.address = %peer.address, error.message = %error, "TLS handshake failed");
        }
        Some(Err(_)) => tracing::debug!(client.address = %peer.address, "TLS handshake timed out"),
    }
}
