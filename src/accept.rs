//! Who gets a connection: so many clients at a time, until the shutdown.
//!
//! An accept loop of our own, because those of the libraries spin at full speed or pause for long when file
//! descriptors run out, and let in as many as come.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long to wait after accepting failed: what it lacks, such as file descriptors, takes time to come.
const PAUSE: Duration = Duration::from_millis(100);

/// Has `serve` see to the clients of `listener`, so many at a time, until `shutdown`; then waits until it is done with
/// those that are there. Clients beyond that wait in the system's backlog.
pub async fn accept<F>(
    listener: TcpListener,
    max_connections: usize,
    shutdown: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let accepting = let_in(&listener, max_connections, |socket, address, place| {
        let serving = serve(socket, address);
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

async fn let_in(
    listener: &TcpListener,
    max_connections: usize,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit),
) {
    let places = Arc::new(Semaphore::new(max_connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            // Small answers must not wait for more. Where that fails, the client is gone.
            Ok((socket, address)) if socket.set_nodelay(true).is_ok() => serve(socket, address, place),
            Ok(_) => {}
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(error.message = %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether a client has gone before it was let in.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
