//! A connection of the load: gRPC directly on h2.
//!
//! The load often shares a machine with the server, so it must cost less. The client of tonic has a queue, timeouts and layers
//! that reconnect before every call; a load needs none of them.

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
        CommandError, Common, client,
        server_address::ServerAddress,
        tls::{self, Connector},
    },
    grpc::pb::KEY_HEADER,
};

/// The flow control window in bytes.
const WINDOW: u32 = 4 * 1024 * 1024;
/// The largest accepted frame in bytes, so that the answers of a stream come in few frames.
const MAX_FRAME: u32 = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The server, the method and the headers of the calls.
pub(super) struct Endpoint {
    address: ServerAddress,
    tls: Option<Connector>,
    uri: Uri,
    headers: HeaderMap,
}

impl Endpoint {
    pub(super) fn new(common: &Common, path: &str) -> Result<Self, CommandError> {
        let address = ServerAddress::of(common)?;
        let tls = tls::connector(common, &address)?;
        let scheme = if address.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", address.authority).parse().map_err(|error| {
            CommandError::Usage(format!(
                "--server {} is not an address such as 127.0.0.1:50051: {error}",
                address.authority
            ))
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let key = client::optional_key(common)?;
        if let Some(mut key) =
            key.value().and_then(|key| HeaderValue::from_bytes(key.as_encoded_bytes()).ok())
        {
            key.set_sensitive(true);
            headers.insert(KEY_HEADER, key);
        }
        Ok(Self { address, tls, uri, headers })
    }

    /// Connects. The connection is closed when the last clone of it is dropped.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            let socket: Box<dyn Socket> = if let Some(tls) = &self.tls {
                Box::new(tls.clone().call(self.uri.clone()).await?.into_inner())
            } else {
                let socket = TcpStream::connect(&self.address.authority).await?;
                socket.set_nodelay(true)?;
                Box::new(socket)
            };
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
            builder.max_frame_size(MAX_FRAME).enable_push(false);
            builder.handshake(socket).await.map_err(io::Error::other)
        };
        let (calls, connection) =
            timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        // The calls report its errors.
        tokio::spawn(poll_after_calls(connection));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        Ok(Connection { calls, request })
    }
}

/// Polls a connection after the calls that are ready. The first of them wakes the connection, which would otherwise send
/// the request of each call by itself.
async fn poll_after_calls(connection: impl Future<Output = Result<(), h2::Error>>) {
    let mut connection = pin!(connection);
    let mut yielded = false;
    let _ = poll_fn(|cx| {
        yielded = !yielded;
        if yielded {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        connection.as_mut().poll(cx)
    })
    .await;
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A handle for one call at a time. Clones share the HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Connection {
    calls: SendRequest<Bytes>,
    request: Request<()>,
}

/// The requests and the answers of a call.
type CallStreams = (SendStream<Bytes>, RecvStream);

/// The reason why a call has no answer.
pub(super) enum CallError {
    /// The server closes the connection, and has not processed this call.
    NotProcessed,
    ConnectionLost(String),
    /// The server returned an error, or something that is not gRPC.
    Failed(String),
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::NO_ERROR) if error.is_go_away() => CallError::NotProcessed,
            _ if error.is_reset() => CallError::Failed(format!("the call was reset: {error}")),
            _ => CallError::ConnectionLost(format!("the connection broke: {error}")),
        }
    }
}

impl Connection {
    /// Makes a unary call.
    pub(super) async fn call(&mut self, message: &Bytes) -> Result<Bytes, CallError> {
        // Nothing is sent yet, so the server has not processed the call.
        poll_fn(|cx| self.calls.poll_ready(cx)).await.map_err(|_| CallError::NotProcessed)?;
        let sent = self.calls.send_request(self.request.clone(), false);
        let (answer, mut body) = sent.map_err(|_| CallError::NotProcessed)?;
        body.send_data(message.clone(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(CallError::Failed(format!("the server responded with HTTP status {}", head.status)));
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            if first.len() + rest.len() + part.len() > MAX_ANSWER {
                return Err(CallError::Failed(format!("the answer is longer than {MAX_ANSWER} bytes")));
            }
            if first.is_empty() {
                first = part;
            } else {
                rest.extend_from_slice(&part);
            }
        }
        // An immediate error has its status in the headers.
        check_status(&body.trailers().await?.unwrap_or(head.headers))?;
        if rest.is_empty() {
            return Ok(first);
        }
        Ok([first, rest.freeze()].concat().into())
    }

    /// Begins a bidirectional streaming call.
    pub(super) async fn open(&mut self) -> Result<CallStreams, CallError> {
        poll_fn(|cx| self.calls.poll_ready(cx)).await.map_err(|_| CallError::NotProcessed)?;
        let sent = self.calls.send_request(self.request.clone(), false);
        let (answer, requests) = sent.map_err(|_| CallError::NotProcessed)?;
        let (head, answers) = answer.await?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(CallError::Failed(format!("the server responded with HTTP status {}", head.status)));
        }
        if head.headers.contains_key("grpc-status") {
            check_status(&head.headers)?;
        }
        Ok((requests, answers))
    }
}

/// Checks the gRPC status in the trailers of a call.
pub(super) fn check_status(trailers: &HeaderMap) -> Result<(), CallError> {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() == tonic::Code::Ok => Ok(()),
        Some(status) => Err(CallError::Failed(client::command_error(status).message())),
        None => Err(CallError::Failed("the response has no gRPC status: is this a gRPC server?".into())),
    }
}
