//! HTTP/2 connections, straight on `h2`.
//!
//! hyper would read the clock five times for each request, lock the connection fifteen times, and box and move the
//! futures of requests that can be answered at once. Here such a request takes no future at all:
//!
//! - All requests that have arrived are accepted before the first one is answered, so that their responses are written
//!   together.
//! - A request whose message has arrived as a whole is offered to [`Services::begin`], which may answer it at once.
//! - Otherwise it becomes a future of the [inline executor](super::inline_executor).

use std::{
    error::Error,
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    server::{Builder, Connection, Handshake, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_LENGTH};
use http_body::Body as _;
use hyper::rt::Executor as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep},
};

use super::{
    body::IncomingBody,
    connection::{Http, Served, Services},
    inline_executor::SpawnQueue,
};
use crate::{admission, isolation::panics};

/// Time without a byte from the client after which it is pinged, to the second.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time after the ping after which a silent client is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The library writes a larger frame in a system call of its own, instead of copying it to those before it.
const MAX_COPIED: usize = 255;
/// Messages of up to this size are sent in frames of [`MAX_COPIED`] bytes, so that the responses of many requests are
/// still written together.
const MAX_SPLIT: usize = 2048;

/// A response whose body is one piece of data that is known already.
pub struct MessageResponse {
    /// The status and the headers.
    pub head: Response<()>,
    /// The body.
    pub data: Bytes,
    /// The trailers.
    pub trailers: &'static HeaderMap,
}

/// A response.
pub enum Answer<B> {
    /// With a body that is known already.
    Message(MessageResponse),
    /// With any body.
    Response(Response<B>),
}

impl<B> Answer<B> {
    /// The headers.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        match self {
            Self::Message(message) => message.head.headers_mut(),
            Self::Response(response) => response.headers_mut(),
        }
    }
}

/// What [`Services::begin`] has made of a request.
pub enum Begun<B> {
    /// The response.
    Answered(MessageResponse),
    /// The response, when it is ready.
    Waiting(BoxFuture<'static, Answer<B>>),
    /// Nothing: [`Services::serve`] has to answer the request.
    Unchanged,
}

/// An HTTP/2 connection with its requests.
pub(super) struct Http2<I, S> {
    state: State<I>,
    served: Arc<Served<S>>,
    /// Takes the requests that are not answered at once.
    requests: SpawnQueue,
    /// Requests that have arrived together.
    arrived: Vec<(Request<RecvStream>, SendResponse<Bytes>)>,
    is_shutting_down: bool,
}

enum State<I> {
    Handshake(Handshake<I, Bytes>),
    Open(Connection<I, Bytes>, Keepalive),
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Services> Http2<I, S> {
    pub(super) fn new(builder: &Builder, io: I, served: Arc<Served<S>>, requests: SpawnQueue) -> Self {
        Self {
            state: State::Handshake(builder.handshake(io)),
            served,
            requests,
            arrived: Vec::new(),
            is_shutting_down: false,
        }
    }

    /// Begins the requests that have arrived.
    fn begin_arrived(&mut self) {
        if self.arrived.is_empty() {
            return;
        }
        self.served.peer.connection.note_arrival();
        let begun = Instant::now();
        let mut answered = 0;
        let mut arrived = mem::take(&mut self.arrived);
        for (request, respond) in arrived.drain(..) {
            answered += u64::from(self.begin(request.map(IncomingBody::http2), respond));
        }
        if answered > 0 {
            // Their responses are written together, so each has taken as long as all of them.
            self.served.services.answered_at_once(answered, begun.elapsed());
        }
        self.arrived = arrived;
    }

    /// Begins a request. Returns whether it was answered at once.
    fn begin(&self, mut request: Request<IncomingBody>, mut respond: SendResponse<Bytes>) -> bool {
        let Served { services, peer } = &*self.served;
        let begun = match request.body_mut().take_whole() {
            None => Begun::Unchanged,
            Some(data) => match panics::catch(|| services.begin(peer, &mut request, &data)) {
                Ok(Begun::Unchanged) => {
                    request.body_mut().put_back(data);
                    Begun::Unchanged
                }
                Ok(begun) => begun,
                Err(panic) => {
                    let response = services.panicked(&panic);
                    Begun::Waiting(Box::pin(async move { Answer::Response(response) }))
                }
            },
        };
        let answer: BoxFuture<'static, _> = match begun {
            Begun::Answered(message) => {
                // If this fails, the client has reset the stream.
                let _ = send_message(&mut respond, message);
                return true;
            }
            Begun::Waiting(answer) => answer,
            Begun::Unchanged => {
                let served = Arc::clone(&self.served);
                Box::pin(async move { Answer::Response(served.services.serve(&served.peer, request).await) })
            }
        };
        self.requests.execute(respond_with(Arc::clone(&self.served), answer, respond));
        false
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Services> Future for Http2<I, S> {
    type Output = Result<(), Box<dyn Error + Send + Sync>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Handshake(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if this.is_shutting_down {
                        connection.graceful_shutdown();
                    }
                    let keepalive = Keepalive::new(connection.ping_pong());
                    this.state = State::Open(connection, keepalive);
                }
                State::Open(connection, keepalive) => {
                    loop {
                        match connection.poll_accept(cx) {
                            Poll::Ready(Some(arrived)) => this.arrived.push(arrived?),
                            Poll::Ready(None) => return Poll::Ready(Ok(())),
                            Poll::Pending => break,
                        }
                    }
                    if keepalive.poll(cx, &this.served.peer.connection).is_ready() {
                        return Poll::Ready(Err("the client does not answer pings".into()));
                    }
                    // A response wakes this task, so that it is written by the next poll.
                    this.begin_arrived();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Services> Http for Http2<I, S> {
    fn graceful_shutdown(mut self: Pin<&mut Self>) {
        self.is_shutting_down = true;
        if let State::Open(connection, _) = &mut self.state {
            connection.graceful_shutdown();
        }
    }
}

/// Detects a client that is gone without having closed the connection.
struct Keepalive {
    ping_pong: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    is_pinged: bool,
}

impl Keepalive {
    fn new(ping_pong: Option<PingPong>) -> Self {
        Self { ping_pong, timer: Box::pin(sleep(KEEPALIVE_INTERVAL)), is_pinged: false }
    }

    /// Is ready when the client does not answer a ping. Anything that it sends is an answer.
    fn poll(&mut self, cx: &mut Context<'_>, usage: &admission::Connection) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let next = Next::after(usage.silence(), self.is_pinged);
            self.is_pinged = next == Next::Ping;
            let wait = match next {
                Next::Wait(wait) => wait,
                Next::Ping => {
                    if let Some(ping_pong) = &mut self.ping_pong {
                        // Takes the answer to an earlier ping, without which no other can be sent.
                        let _ = ping_pong.poll_pong(cx);
                        let _ = ping_pong.send_ping(Ping::opaque());
                    }
                    KEEPALIVE_TIMEOUT
                }
                Next::End => return Poll::Ready(()),
            };
            self.timer = Box::pin(sleep(wait));
        }
        Poll::Pending
    }
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait(Duration),
    Ping,
    End,
}

impl Next {
    /// Decides after a time without a byte from the client.
    fn after(silence: Duration, is_pinged: bool) -> Self {
        match KEEPALIVE_INTERVAL.checked_sub(silence) {
            Some(wait) if !wait.is_zero() => Self::Wait(wait),
            _ if is_pinged => Self::End,
            _ => Self::Ping,
        }
    }
}

/// Waits for an answer and sends it. Ends early if the client resets the stream.
async fn respond_with<S: Services>(
    served: Arc<Served<S>>,
    mut answer: BoxFuture<'static, Answer<S::Body>>,
    mut respond: SendResponse<Bytes>,
) {
    let answered = poll_fn(|cx| match panics::poll(Pin::new(&mut answer), cx) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await;
    // A stream can stay open for long after its answer has begun.
    drop(answer);
    let answered = match answered {
        Some(Ok(answer)) => answer,
        Some(Err(panic)) => Answer::Response(served.services.panicked(&panic)),
        None => return,
    };
    drop(served);
    let sent = match answered {
        Answer::Message(message) => send_message(&mut respond, message),
        Answer::Response(response) => send_response(&mut respond, response).await,
    };
    if let Err(error) = sent {
        tracing::debug!(error.message = %error, "failed to send a response");
        respond.send_reset(Reason::INTERNAL_ERROR);
    }
}

fn send_message(respond: &mut SendResponse<Bytes>, message: MessageResponse) -> Result<(), h2::Error> {
    let MessageResponse { head, mut data, trailers } = message;
    let mut stream = respond.send_response(head, false)?;
    if data.len() <= MAX_SPLIT {
        while data.len() > MAX_COPIED {
            stream.send_data(data.split_to(MAX_COPIED), false)?;
        }
    }
    stream.send_data(data, false)?;
    stream.send_trailers(trailers.clone())
}

async fn send_response<B>(respond: &mut SendResponse<Bytes>, response: Response<B>) -> Result<(), h2::Error>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = response.into_parts();
    let mut head = Response::from_parts(head, ());
    if body.is_end_stream() {
        return respond.send_response(head, true).map(drop);
    }
    if let Some(length) = body.size_hint().exact() {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let mut stream = respond.send_response(head, false)?;
    let mut body = pin!(body);
    loop {
        let frame = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Some),
        });
        let frame = match frame.await {
            Some(Some(Ok(frame))) => frame,
            Some(None) => return stream.send_data(Bytes::new(), true),
            Some(Some(Err(error))) => {
                tracing::debug!(error.message = %error.into(), "the body of a response failed");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            // The client has reset the stream.
            None => return Ok(()),
        };
        match frame.into_data() {
            Ok(data) => {
                let is_end = body.is_end_stream();
                if !data.is_empty() && !has_capacity(&mut stream).await? {
                    return Ok(());
                }
                stream.send_data(data, is_end)?;
                if is_end {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

/// Waits until the client can receive a part of the next data. Returns false if it has reset the stream. Reserves a
/// single byte: the library reserves the rest when it gets the data, and nothing is taken from other streams meanwhile.
async fn has_capacity(stream: &mut SendStream<Bytes>) -> Result<bool, h2::Error> {
    stream.reserve_capacity(1);
    poll_fn(|cx| {
        while stream.capacity() == 0 {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(false));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(capacity) => drop(capacity?),
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_pinged_and_then_gone() {
        let after = |silence, is_pinged| Next::after(Duration::from_secs(silence), is_pinged);
        assert_eq!(after(0, false), Next::Wait(Duration::from_secs(30)));
        assert_eq!(after(29, false), Next::Wait(Duration::from_secs(1)));
        assert_eq!(after(30, false), Next::Ping);
        assert_eq!(after(9, true), Next::Wait(Duration::from_secs(21)), "it has answered");
        assert_eq!(after(40, true), Next::End);
    }
}
