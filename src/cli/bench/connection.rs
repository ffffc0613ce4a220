//! A connection of the load: gRPC by HTTP/2, without what a client has besides.
//!
//! The load often shares a machine with what it measures, so it must cost less than that: the client of the
//! library has a queue, time-outs and layers that reconnect before every call, and a load needs none of them.

use std::{future::poll_fn, io, pin::pin, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tonic::Status;
use tower::Service as _;

use super::query::MAX_ANSWER;
use crate::{
    cli::{
        Common, Failure,
        client::{self, Target},
        tls::{self, Connector},
    },
    grpc::pb::KEY_HEADER,
};

/// Answers that may be on their way on one connection, in bytes.
const WINDOW: u32 = 4 * 1024 * 1024;
/// The longest frame that we take, in bytes: so that the many answers of a stream come in few of them.
const FRAME: u32 = 64 * 1024;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where the calls go, and with what.
pub(super) struct Endpoint {
    target: Target,
    tls: Option<Connector>,
    uri: Uri,
    headers: HeaderMap,
}

impl Endpoint {
    pub(super) fn new(common: &Common, path: &str) -> Result<Self, Failure> {
        let target = Target::of(common)?;
        let tls = tls::connector(common, &target)?;
        let scheme = if target.encrypted { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", target.server)
            .parse()
            .map_err(|error| Failure::Usage(format!("{} is no server: {error}", target.server)))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let key = client::key_of_users(common)?;
        if let Some(mut key) =
            key.value().and_then(|key| HeaderValue::from_bytes(key.as_encoded_bytes()).ok())
        {
            key.set_sensitive(true);
            headers.insert(KEY_HEADER, key);
        }
        Ok(Self { target, tls, uri, headers })
    }

    /// A new connection. It ends with the last of its lines.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            let socket: Box<dyn Socket> = if let Some(tls) = &self.tls {
                Box::new(tls.clone().call(self.uri.clone()).await?.into_inner())
            } else {
                let socket = TcpStream::connect(&self.target.server).await?;
                socket.set_nodelay(true)?;
                Box::new(socket)
            };
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
            builder.max_frame_size(FRAME).enable_push(false);
            builder.handshake(socket).await.map_err(io::Error::other)
        };
        let (calls, connection) =
            timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        // Its end shows in the calls.
        tokio::spawn(after_the_lines(connection));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        Ok(Connection { calls, request })
    }
}

/// Polls a connection once the lines that are ready have had their turn, as a rule. It is woken by the first of them, and
/// would otherwise send what each asks by itself.
async fn after_the_lines(connection: impl Future<Output = Result<(), h2::Error>>) {
    let mut connection = pin!(connection);
    let mut turn = false;
    let _ = poll_fn(|cx| {
        turn = !turn;
        if turn {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        connection.as_mut().poll(cx)
    })
    .await;
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// One end of a connection, for one call at a time; clones share the connection.
#[derive(Clone)]
pub(super) struct Connection {
    calls: SendRequest<Bytes>,
    request: Request<()>,
}

/// Where the requests of a call go, and where its answers come.
type Ends = (SendStream<Bytes>, RecvStream);

/// Why a call has no answer.
pub(super) enum CallError {
    /// The server wants us to connect anew, and has not looked at this call.
    Retired,
    /// The connection broke.
    Broken(String),
    /// The server says no, or something that is not gRPC.
    Refused(String),
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::NO_ERROR) if error.is_go_away() => Self::Retired,
            _ if error.is_reset() => Self::Refused(format!("the call was reset: {error}")),
            _ => Self::Broken(format!("the connection broke: {error}")),
        }
    }
}

impl Connection {
    /// Asks, and waits for the whole answer.
    pub(super) async fn call(&mut self, message: &Bytes) -> Result<Bytes, CallError> {
        // Nothing has been sent up to here: whatever it is, the call is none of the server's.
        poll_fn(|cx| self.calls.poll_ready(cx)).await.map_err(|_| CallError::Retired)?;
        let sent = self.calls.send_request(self.request.clone(), false);
        let (answer, mut body) = sent.map_err(|_| CallError::Retired)?;
        body.send_data(message.clone(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(CallError::Refused(format!("the server answers with HTTP status {}", head.status)));
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            if first.len() + rest.len() + part.len() > MAX_ANSWER {
                return Err(CallError::Refused(format!("the answer is longer than {MAX_ANSWER} bytes")));
            }
            if first.is_empty() {
                first = part;
            } else {
                rest.extend_from_slice(&part);
            }
        }
        // An error that comes at once has its status in the head.
        succeeded(&body.trailers().await?.unwrap_or(head.headers))?;
        if rest.is_empty() {
            return Ok(first);
        }
        Ok([first, rest.freeze()].concat().into())
    }

    /// Begins a call with many requests and many answers.
    pub(super) async fn open(&mut self) -> Result<Ends, CallError> {
        poll_fn(|cx| self.calls.poll_ready(cx)).await.map_err(|_| CallError::Retired)?;
        let sent = self.calls.send_request(self.request.clone(), false);
        let (answer, requests) = sent.map_err(|_| CallError::Retired)?;
        let (head, answers) = answer.await?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(CallError::Refused(format!("the server answers with HTTP status {}", head.status)));
        }
        if head.headers.contains_key("grpc-status") {
            succeeded(&head.headers)?;
        }
        Ok((requests, answers))
    }
}

/// Whether a call that has ended with this has succeeded.
pub(super) fn succeeded(end: &HeaderMap) -> Result<(), CallError> {
    match Status::from_header_map(end) {
        Some(status) if status.code() == tonic::Code::Ok => Ok(()),
        Some(status) => Err(CallError::Refused(client::failed(status).into_sentence())),
        None => Err(CallError::Refused("the answer has no status: is this gRPC?".into())),
    }
}
