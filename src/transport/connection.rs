//! One connection: HTTP/2, or HTTP/1.1 where that is allowed, within bounds, from its first byte to its last.

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

/// What every HTTP/2 client says first (RFC 9113 section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to say it. From then on [`KEEPALIVE`] finds out whether it is there.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that speaks HTTP/1.1 may take for the head of a request, counted from its first byte or, where
/// there was a request before, from the answer to that.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// All headers of a request together, in bytes. A token of 4 KiB and a caller key fit.
const MAX_HEADERS: u32 = 16 * 1024;
/// How many times `max_streams` streams may be reset for errors of the client over the life of a connection
/// (CVE-2025-8671, "MadeYouReset"). Those that a client opens before it has read how many it may count, too.
const LOCAL_RESETS: usize = 4;
/// What a client may send that the server has not read, in bytes: on a stream, more than any message; on a connection.
const WINDOWS: (u32, u32) = (384 * 1024, 512 * 1024);
/// What of an answer waits for its client, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// A connection on which nothing comes back for this long is dead.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Requests at a time on one of them.
    pub max_streams: u32,
    /// After this long, give or take a tenth, a client is asked to reconnect.
    pub age: Duration,
    /// This long after that its streams end, and it is closed.
    pub age_grace: Duration,
    /// Whether HTTP/1.1 is spoken, too, as browsers do without TLS.
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

/// HTTP/2 on a connection, or HTTP/1.1 where that is allowed.
pub(crate) async fn serve<S: Services>(
    mut from_client: impl AsyncRead + Send + Unpin + 'static,
    to_client: impl AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    services: Arc<S>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    // Read here, because the library would wait for it without end.
    let mut preface = [0; PREFACE.len()];
    let read = tokio::select! {
        () = shutdown.cancelled() => return,
        () = peer.connection.evicted() => return,
        read = tokio::time::timeout(PREFACE_TIMEOUT, begin(&mut from_client, &mut preface)) => read,
    };
    let Ok(Some(begun)) = read else { return };
    let requests = SpawnQueue::default();
    let (builder, resets) = match begun == PREFACE {
        true => (http2(limits.max_streams, requests.clone()), Some(ResetRate::of(limits.max_streams))),
        false if limits.http1 => (http1(requests.clone()), None),
        false => return,
    };
    let begun = begun.to_vec();
    let account = Arc::clone(&peer.connection);
    // One count of references a request, for all that its connection knows.
    let common = Arc::new((services, peer));
    let service = service_fn(move |request: Request<Incoming>| {
        let common = Arc::clone(&common);
        // On the heap, because what is below moves it from hand to hand six times before it runs.
        Box::pin(async move {
            let (services, peer) = &*common;
            // HTTP/1.1 has no executor of requests, which would note them.
            let noted = (request.version() != Version::HTTP_2).then_some(&peer.connection);
            if let Some(connection) = noted {
                connection.note_requests(1);
            }
            let mut answer = pin!(services.serve(peer, request));
            let answer = panics::caught(answer.as_mut()).await;
            if let Some(connection) = noted {
                connection.note_open(0);
            }
            Ok::<_, Infallible>(answer.unwrap_or_else(|panic| services.panicked(&panic)))
        })
    });
    let io = FrameMeter::new(
        join(Cursor::new(begun).chain(from_client), to_client),
        resets,
        PREFACE.len(),
        &account,
    );
    let mut serving =
        InlineExecutor::new(builder.serve_connection(TokioIo::new(io), service), requests, &account);
    // With jitter, so that the clients of a server that was restarted do not all reconnect at once.
    let age = limits.age.mul_f64(rand::random_range(0.9..1.1));
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = drain::retired(age, &account, &shutdown) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // The client is told to go, and may finish what is under way.
        serving.connection().graceful_shutdown();
        tokio::select! {
            ended = &mut serving => ended,
            () = part(limits.age_grace, &account, &shutdown) => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error.message = %error, "a connection ended with an error");
    }
}

/// Waits until a connection whose client was sent GOAWAY can be closed: its streams have ended within `grace`, and
/// nothing is worked on.
async fn part(grace: Duration, connection: &Connection, shutdown: &CancellationToken) {
    drain::retired(grace, connection, shutdown).await;
    connection.close();
    drain::idle(connection).await;
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
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(ResetRate::of(max_streams).burst as usize)
        .max_local_error_reset_streams(max_streams as usize * LOCAL_RESETS)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    builder
}
