//! The gRPC port: who gets a connection, for how long, and how it ends.
//!
//! An accept loop of our own, because that of the library spins at full speed when file descriptors run
//! out, and leaves HTTP/2 limits off that the layer below has on.

use std::{convert::Infallible, io::Cursor, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Service, ServiceExt as _};

use super::{
    origin::Peer,
    tls::{self, Tls},
};

/// What every HTTP/2 client says first (RFC 9113 section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to say it. From then on [`KEEPALIVE`] finds out whether it is there.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that speaks HTTP/1.1 may take for the head of a request, counted from its first byte or, where
/// there was a request before, from the answer to that.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after accepting failed: what it lacks, such as file descriptors, takes time to come.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// All headers of a request together, in bytes. A token of 4 KiB and a caller key fit.
const MAX_HEADERS: u32 = 16 * 1024;
/// Streams that a client opened and reset before we looked at them (CVE-2023-44487, "Rapid Reset").
const MAX_PENDING_RESETS: usize = 20;
/// Streams that we reset for errors of the client (CVE-2025-8671, "MadeYouReset").
const MAX_LOCAL_RESETS: usize = 64;
/// A connection on which nothing comes back for this long is dead.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// At a time.
    pub max_connections: usize,
    /// Requests at a time on one of them.
    pub max_streams: u32,
    /// After this long, give or take a tenth, a client is asked to reconnect.
    pub age: Duration,
    /// Whether HTTP/1.1 is spoken, too, as browsers do without TLS.
    pub http1: bool,
}

/// Serves `service` on `listener` until `shutdown`, then until the last request has its answer. Encrypted,
/// where there is a `tls`; nothing else is spoken then.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    service: S,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let accepting = accept(&listener, &places, |socket, address, place| {
        let serving = connection(socket, address, tls.clone(), service.clone(), limits, shutdown.clone());
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
async fn connection<S>(
    socket: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    service: S,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Small answers must not wait for more.
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let Some(tls) = tls else {
        let (from_client, to_client) = socket.into_split();
        let peer = Peer { address, certificate: None };
        return speak(from_client, to_client, peer, service, limits, shutdown).await;
    };
    let shaken = tokio::select! {
        () = shutdown.cancelled() => return,
        shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let peer = Peer { address, certificate: tls::client_names(&stream) };
            let (from_client, to_client) = split(stream);
            speak(from_client, to_client, peer, service, limits, shutdown).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(client.address = %address, error.message = %error, "a TLS handshake failed");
        }
        Err(_) => tracing::debug!(client.address = %address, "a TLS handshake took too long"),
    }
}

/// HTTP/2 on a connection, or HTTP/1.1 where that is allowed.
async fn speak<S>(
    mut from_client: impl AsyncRead + Send + Unpin + 'static,
    to_client: impl AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    service: S,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Read here, because the library would wait for it without end.
    let mut preface = [0; PREFACE.len()];
    let read = tokio::select! {
        () = shutdown.cancelled() => return,
        read = tokio::time::timeout(PREFACE_TIMEOUT, begin(&mut from_client, &mut preface)) => read,
    };
    let Ok(Some(begun)) = read else { return };
    let builder = match begun == PREFACE {
        true => http2(limits.max_streams),
        false if limits.http1 => http1(),
        false => return,
    };
    let begun = begun.to_vec();
    let service = service.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let io = TokioIo::new(join(Cursor::new(begun).chain(from_client), to_client));
    let serving = builder.serve_connection(io, TowerToHyperService::new(service));
    tokio::pin!(serving);
    let jitter = rand::random_range(0.9..1.1);
    let retired = tokio::time::sleep(limits.age.mul_f64(jitter));
    tokio::pin!(retired);
    let mut retiring = false;
    loop {
        tokio::select! {
            result = serving.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(error.message = %error, "a connection ended with an error");
                }
                return;
            }
            () = shutdown.cancelled(), if !retiring => {}
            () = retired.as_mut(), if !retiring => {}
        }
        // Once: a client is told to go, and may finish what is under way.
        retiring = true;
        serving.as_mut().graceful_shutdown();
    }
}

/// What a client says first: all of the preface, or as much of something else as is needed to tell. `None` where it
/// says no more.
async fn begin<'a>(
    from_client: &mut (impl AsyncRead + Unpin),
    preface: &'a mut [u8; PREFACE.len()],
) -> Option<&'a [u8]> {
    let mut length = 0;
    while length < PREFACE.len() && PREFACE.starts_with(&preface[..length]) {
        match from_client.read(&mut preface[length..]).await {
            Ok(more @ 1..) => length += more,
            Ok(0) | Err(_) => return None,
        }
    }
    Some(&preface[..length])
}

/// HTTP/1.1 with bounds like those of HTTP/2.
fn http1() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEADERS as usize);
    builder
}

fn http2(max_streams: u32) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADERS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    builder
}
