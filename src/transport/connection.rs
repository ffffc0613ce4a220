//! A connection of the gRPC port: HTTP/2, or HTTP/1.1 if it is allowed, with limits.
//!
//! Panics of requests are caught here and answered by [`Services::panicked`].

use std::{
    convert::Infallible, error::Error, future::Future, io::Cursor, pin::pin, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join};
use tokio_util::sync::CancellationToken;

use super::{
    drain,
    frame_meter::{FrameMeter, ResetRate},
    inline_executor::{InlineExecutor, SpawnQueue},
    peer::Peer,
};
use crate::{
    admission::Connection,
    isolation::panics::{self, Panic},
};

/// The connection preface of HTTP/2 clients (RFC 9113 section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Timeout for the preface. Afterwards [`KEEPALIVE`] detects a dead client.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the headers of an HTTP/1.1 request, from the first byte or from the previous response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
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
/// Interval and timeout of keepalive pings.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

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

    /// Answers a request from `peer`.
    fn serve(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// The response to a request during which [`serve`](Self::serve) panicked.
    fn panicked(&self, panic: &Panic) -> Response<Self::Body>;
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
    let requests = SpawnQueue::default();
    let (builder, resets) = match start == PREFACE {
        true => {
            (http2(limits.max_streams, requests.clone()), Some(ResetRate::for_streams(limits.max_streams)))
        }
        false if limits.http1 => (http1(requests.clone()), None),
        false => return,
    };
    let start = start.to_vec();
    let usage = Arc::clone(&peer.connection);
    // One reference count per request for everything of the connection.
    let shared = Arc::new((services, peer));
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        // Boxed, because the library moves the future six times before it runs.
        Box::pin(async move {
            let (services, peer) = &*shared;
            // The inline executor notes only HTTP/2 requests.
            let noted = (request.version() != Version::HTTP_2).then_some(&peer.connection);
            if let Some(connection) = noted {
                connection.note_requests(1);
            }
            let mut response = pin!(services.serve(peer, request));
            let response = panics::caught(response.as_mut()).await;
            if let Some(connection) = noted {
                connection.note_open(0);
            }
            Ok::<_, Infallible>(response.unwrap_or_else(|panic| services.panicked(&panic)))
        })
    });
    let io = FrameMeter::new(
        join(Cursor::new(start).chain(from_client), to_client),
        resets,
        PREFACE.len(),
        &usage,
    );
    let mut serving =
        InlineExecutor::new(builder.serve_connection(TokioIo::new(io), service), requests, &usage);
    // With jitter, so that the clients of a restarted server do not all reconnect at once.
    let age = limits.age.mul_f64(rand::random_range(0.9..1.1));
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = drain::retired(age, &usage, &shutdown) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // Sends GOAWAY. Requests in progress may finish.
        serving.connection().graceful_shutdown();
        tokio::select! {
            ended = &mut serving => ended,
            () = close_gracefully(limits.age_grace, &usage, &shutdown) => return,
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

fn http1(requests: SpawnQueue) -> Builder<SpawnQueue> {
    let mut builder = Builder::new(requests).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEADERS as usize);
    builder
}

fn http2(max_streams: u32, requests: SpawnQueue) -> Builder<SpawnQueue> {
    let mut builder = Builder::new(requests).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(ResetRate::for_streams(max_streams).burst as usize)
        .max_local_error_reset_streams(max_streams as usize * LOCAL_RESETS_FACTOR)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    builder
}
