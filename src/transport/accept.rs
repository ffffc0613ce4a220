//! The accept loop of a port.
//!
//! The accept loops of the libraries do not limit connections, and spin or pause for long when file descriptors run
//! out.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::admission::{Admitted, Connection, ConnectionLimiter};

/// Delay after a failed accept. Resources such as file descriptors take time to become free.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The most clients that are served after the end, so that a flood of new ones does not delay it.
const MAX_BACKLOG: usize = 4096;

/// Runs `serve` for each client of `listener` that `limiter` admits, until `shutdown`. Then waits until all connections
/// have ended. A client beyond the limit of all clients waits, and the clients behind it wait in the backlog of the
/// system.
pub async fn accept<F>(
    listener: TcpListener,
    limiter: &ConnectionLimiter,
    shutdown: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Arc<Connection>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let serve = |socket, address, admitted: Admitted| {
        let serving = serve(socket, address, Arc::clone(&admitted.connection));
        connections.spawn(async move {
            serving.await;
            drop(admitted);
        });
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept_loop(&listener, limiter, &serve) => {}
    }
    // Closes the port at once, so that new clients connect to another replica instead of waiting.
    accept_backlog(listener, limiter, serve);
    connections.close();
    connections.wait().await;
}

async fn accept_loop(
    listener: &TcpListener,
    limiter: &ConnectionLimiter,
    serve: impl Fn(TcpStream, SocketAddr, Admitted),
) {
    loop {
        match listener.accept().await {
            // Without Nagle's algorithm, which delays small responses. Fails if the client is gone.
            Ok((socket, address)) if socket.set_nodelay(true).is_ok() => {
                // Closes the connection of a client that has too many. Any response would cost more.
                if let Some(admitted) = limiter.admit(address.ip()).await {
                    serve(socket, address, admitted);
                }
            }
            Ok(_) => {}
            Err(error) if is_client_gone(&error) => {}
            Err(error) => {
                tracing::warn!(error.message = %error, "failed to accept a connection");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Closes the port and serves the clients in its backlog. The system has completed their connections, so they may have
/// sent requests already, which closing the port would reset.
fn accept_backlog(
    listener: TcpListener,
    limiter: &ConnectionLimiter,
    serve: impl Fn(TcpStream, SocketAddr, Admitted),
) {
    // The runtime may not know yet that clients are waiting, but the system does.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..MAX_BACKLOG {
        let (socket, address) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if is_client_gone(&error) => continue,
            Err(_) => return,
        };
        let socket = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
        if let Ok(socket) = socket
            && socket.set_nodelay(true).is_ok()
            // At the limit, nobody is waited for any more.
            && let Some(Some(admitted)) = limiter.admit(address.ip()).now_or_never()
        {
            serve(socket, address, admitted);
        }
    }
}

/// Whether the client disconnected before it was accepted.
fn is_client_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
