//! A connection of the gRPC port: HTTP/2, or HTTP/1.1 if it is allowed, with limits.
//!
//! Panics of requests are caught here and answered by [`Services::panicked`].

use std::{
    convert::Infallible,
    error::Error,
    fmt::Display,
    future::Future,
    io::Cursor,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, join};
use tokio_util::sync::CancellationToken;

use super::{
    body::IncomingBody,
    drain,
    frame_meter::{FrameMeter, ResetRate},
    http2::{Begun, Http2},
    inline_executor::{InlineExecutor, SpawnQueue},
    peer::Peer,
};
use crate::{
    admission::Connection,
    isolation::panics::{self, Panic},
};

/// The connection preface of HTTP/2 clients (RFC 9113 section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Timeout for the preface. Afterwards pings detect a dead client.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the headers of an HTTP/1.1 request, from the first byte or from the previous response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The response to a client of HTTP/1.x where that is not served.
const NOT_HTTP1: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n",
    "This is the gRPC port of Latchkey, which speaks HTTP/2 only. JSON, probes, metrics, public keys and forward-auth are on ",
    "the HTTP port (listen.http, 8081 by default). listen.grpc_json and browser.origins enable HTTP/1.1 here.\n"
);
/// Timeout for that response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of all headers of a request, in bytes. A token of 4 KiB and a caller key fit.
const MAX_HEADERS: u32 = 16 * 1024;
/// Maximum number of streams that the server resets for errors of the client over the life of a connection, as a
/// multiple of `max_streams` (CVE-2025-8671, "MadeYouReset"). Streams beyond `max_streams` that a client opens before
/// it knows the limit count, too.
const LOCAL_RESETS_FACTOR: usize = 4;
/// Flow-control window of a stream, in bytes: more than any message.
const STREAM_WINDOW: u32 = 384 * 1024;
/// Flow-control window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// Maximum size of the unsent part of a response, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// The limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Maximum number of concurrent requests on a connection.
    pub max_streams: u32,
    /// Age at which the client is told to reconnect, plus or minus a tenth.
    pub age: Duration,
    /// Time from then until the streams end and the connection closes.
    pub age_grace: Duration,
    /// Whether HTTP/1.1 is served as well, which browsers use without TLS.
    pub http1: bool,
}

/// Answers the requests of connections.
pub trait Services: Send + Sync + 'static {
    /// The body of responses.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Begins to answer a request from `peer` that has arrived as a whole, with `message` as its body. This must not
    /// take long. Only requests over HTTP/2 come here, and may be left to [`serve`](Self::serve).
    fn begin<B>(&self, peer: &Peer, request: &mut Request<B>, message: &Bytes) -> Begun<Self::Body> {
        let _ = (peer, request, message);
        Begun::Unchanged
    }

    /// Counts requests that [`begin`](Self::begin) has answered together, and how long all of them took.
    fn answered_at_once(&self, requests: u64, took: Duration) {
        let _ = (requests, took);
    }

    /// Answers a request from `peer`.
    fn serve(
        &self,
        peer: &Peer,
        request: Request<IncomingBody>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// The response to a request that panicked.
    fn panicked(&self, panic: &Panic) -> Response<Self::Body>;
}

/// What all requests of a connection share.
pub(super) struct Served<S> {
    pub(super) services: Arc<S>,
    pub(super) peer: Peer,
}

/// A connection of a version of HTTP.
pub(super) trait Http {
    /// Asks the client to send no further requests. Requests in progress may finish.
    fn graceful_shutdown(self: Pin<&mut Self>);
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S: Services>(
    mut from_client: impl AsyncRead + Send + Unpin + 'static,
    to_client: impl AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    // The library would read the preface without a timeout.
    let mut preface = [0; PREFACE.len()];
    let read = tokio::select! {
        () = drain::too_late(&peer.connection, &shutdown) => return,
        read = tokio::time::timeout(PREFACE_TIMEOUT, read_preface(&mut from_client, &mut preface)) => read,
    };
    let Ok(Some(start)) = read else { return };
    let is_http2 = start == PREFACE;
    if !is_http2 && !limits.http1 {
        if is_http1(start) {
            answer_http1(from_client, to_client).await;
        }
        return;
    }
    let resets = is_http2.then(|| ResetRate::for_streams(limits.max_streams));
    let start = Cursor::new(start.to_vec());
    let io =
        FrameMeter::new(join(start.chain(from_client), to_client), resets, PREFACE.len(), &peer.connection);
    // One reference count for everything of the connection.
    let served = Arc::new(Served { services, peer });
    if is_http2 {
        let requests = SpawnQueue::default();
        let connection = Http2::new(&http2(limits.max_streams), io, Arc::clone(&served), requests.clone());
        drive(connection, requests, &served.peer.connection, limits, &shutdown).await;
    } else {
        let connection = http1(TokioIo::new(io), Arc::clone(&served));
        drive(connection, SpawnQueue::default(), &served.peer.connection, limits, &shutdown).await;
    }
}

/// Whether these bytes begin a request of HTTP/1.x: a method and a space.
fn is_http1(start: &[u8]) -> bool {
    let method = start.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=7).contains(&method) && start.get(method) == Some(&b' ')
}

/// Tells a client of HTTP/1.x which port it has reached.
async fn answer_http1(mut from_client: impl AsyncRead + Unpin, mut to_client: impl AsyncWrite + Unpin) {
    let answering = async {
        to_client.write_all(NOT_HTTP1.as_bytes()).await?;
        to_client.shutdown().await?;
        // A socket that is closed with unread data is reset, and the client might not read the response.
        tokio::io::copy(&mut (&mut from_client).take(u64::from(MAX_HEADERS)), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, answering).await;
}

/// Runs a connection and its requests until it ends or must be closed.
async fn drive<E: Display>(
    connection: impl Http + Future<Output = Result<(), E>>,
    requests: SpawnQueue,
    usage: &Arc<Connection>,
    limits: ConnectionLimits,
    shutdown: &CancellationToken,
) {
    let mut serving = InlineExecutor::new(connection, requests, usage);
    // With jitter, so that the clients of a restarted server do not all reconnect at once.
    let age = limits.age.mul_f64(rand::random_range(0.9..1.1));
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = drain::retired(age, usage, shutdown) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // Sends GOAWAY. Requests in progress may finish.
        serving.connection().graceful_shutdown();
        tokio::select! {
            ended = &mut serving => ended,
            () = close_gracefully(limits.age_grace, usage, shutdown) => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error.message = %error, "a connection ended with an error");
    }
}

/// Waits until a connection can be closed after GOAWAY: its streams have ended, after `grace` at the latest, and no
/// request is in progress.
async fn close_gracefully(grace: Duration, connection: &Connection, shutdown: &CancellationToken) {
    drain::retired(grace, connection, shutdown).await;
    connection.close();
    drain::idle(connection).await;
}

/// Reads the preface, or the bytes up to the first difference from it. Returns `None` if the client closes before.
async fn read_preface<'a>(
    from_client: &mut (impl AsyncRead + Unpin),
    preface: &'a mut [u8; PREFACE.len()],
) -> Option<&'a [u8]> {
    let mut length = 0;
    while length < PREFACE.len() && PREFACE.starts_with(&preface[..length]) {
        match from_client.read(&mut preface[length..]).await {
            Ok(count @ 1..) => length += count,
            Ok(0) | Err(_) => return None,
        }
    }
    Some(&preface[..length])
}

/// Serves HTTP/1.1, one request at a time.
fn http1<I, S>(io: I, served: Arc<Served<S>>) -> impl Http + Future<Output = Result<(), hyper::Error>>
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    S: Services,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let served = Arc::clone(&served);
        async move {
            let Served { services, peer } = &*served;
            peer.connection.note_requests(1);
            let mut response = pin!(services.serve(peer, request.map(IncomingBody::http1)));
            let response = panics::caught(response.as_mut()).await;
            peer.connection.note_open(0);
            Ok::<_, Infallible>(response.unwrap_or_else(|panic| services.panicked(&panic)))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEADERS as usize);
    builder.serve_connection(io, service)
}

impl<I, S, B> Http for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::Connection::graceful_shutdown(self);
    }
}

fn http2(max_streams: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADERS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(ResetRate::for_streams(max_streams).burst as usize)
        .max_local_error_reset_streams(Some(max_streams as usize * LOCAL_RESETS_FACTOR));
    builder
}
