//! The gRPC port: who gets a connection, for how long, and how it ends.
//!
//! An accept loop of our own, because that of the library spins at full speed when file descriptors run
//! out, and leaves HTTP/2 limits off that the layer below has on.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::split,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{Services, speak},
    origin::Peer,
    tls::{self, Tls},
};

pub use super::connection::ConnectionLimits;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after accepting failed: what it lacks, such as file descriptors, takes time to come.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Serves `services` on `listener` until `shutdown`, then until the last request has its answer. Encrypted,
/// where there is a `tls`; nothing else is spoken then.
pub async fn serve<S: Services>(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let accepting = accept(&listener, &places, |socket, address, place| {
        let serving =
            connection(socket, address, tls.clone(), Arc::clone(&services), limits, shutdown.clone());
        connections.spawn(async move {
            serving.await;
            drop(place);
        });
    });
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accepting => {}
    }
    // At once, so that new clients are refused and go elsewhere instead of waiting.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    serve: impl Fn(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit),
) {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, address)) => serve(socket, address, place),
            Err(error) => {
                tracing::warn!(error.message = %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection from its first byte to its last.
async fn connection<S: Services>(
    socket: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    // Small answers must not wait for more.
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let Some(tls) = tls else {
        let (from_client, to_client) = socket.into_split();
        let peer = Peer { address, certificate: None };
        return speak(from_client, to_client, peer, services, limits, shutdown).await;
    };
    let shaken = tokio::select! {
        () = shutdown.cancelled() => return,
        shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let peer = Peer { address, certificate: tls::client_names(&stream) };
            let (from_client, to_client) = split(stream);
            speak(from_client, to_client, peer, services, limits, shutdown).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(client.address = %address, error.message = %error, "a TLS handshake failed");
        }
        Err(_) => tracing::debug!(client.address = %address, "a TLS handshake took too long"),
    }
}
