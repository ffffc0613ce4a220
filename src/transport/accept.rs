//! The accept loop of a port: admits connections until the shutdown.
//!
//! An accept loop of our own, because those of the libraries spin at full speed or pause for long when file
//! descriptors run out, and admit as many as come.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::admission::{Admitted, Connection, ConnectionLimiter};

/// How long to wait after accepting failed: what it lacks, such as file descriptors, takes time to come.
const PAUSE: Duration = Duration::from_millis(100);

/// Has `serve` see to the clients of `listener` that `gate` admits, until `shutdown`; then waits until it is done with
/// those that are there. A client beyond the limit waits, and those behind it in the system's backlog.
pub async fn accept<F>(
    listener: TcpListener,
    gate: &ConnectionLimiter,
    shutdown: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Arc<Connection>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let accepting = admit(&listener, gate, |socket, address, admitted| {
        let serving = serve(socket, address, Arc::clone(&admitted.connection));
        connections.spawn(async move {
            serving.await;
            drop(admitted);
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

async fn admit(
    listener: &TcpListener,
    gate: &ConnectionLimiter,
    serve: impl Fn(TcpStream, SocketAddr, Admitted),
) {
    loop {
        match listener.accept().await {
            // Small answers must not wait for more. Where that fails, the client is gone.
            Ok((socket, address)) if socket.set_nodelay(true).is_ok() => {
                // Otherwise its client has too many: it is hung up on, which costs less than any answer.
                if let Some(admitted) = gate.admit(address.ip()).await {
                    serve(socket, address, admitted);
                }
            }
            Ok(_) => {}
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(error.message = %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether a client has gone before it was admitted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
