//! Request and response bodies that end when the session ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body};
use tower::BoxError;

use super::{checker::Checker, denial::Denial, session_watchers::StreamEnd};
use crate::Identity;

/// The session is watched only for bodies that take longer than this, because watching costs a call.
const WATCH_DELAY: Duration = Duration::from_millis(250);

/// The session with which a body ends.
pub(super) struct BodySession {
    pub(super) checker: Arc<Checker>,
    pub(super) token: Arc<str>,
    pub(super) identity: Identity,
    pub(super) outage_grace: Duration,
}

/// The kind of a body. It decides how the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// A request body fails with the status.
    Request,
    /// A gRPC response ends with the status in its trailers.
    GrpcResponse,
    /// Any other response is aborted.
    HttpResponse,
}

/// A body that ends when its session ends.
pub(super) struct GuardedBody<B> {
    /// `None` once the body has ended.
    inner: Option<Pin<Box<B>>>,
    watch: Watch,
    kind: BodyKind,
}

enum Watch {
    /// The session is not watched yet.
    Delayed { session: Arc<BodySession>, started: Instant, sleep: Option<Pin<Box<Sleep>>> },
    /// The session is watched. The future is its end.
    Active(Pin<Box<dyn Future<Output = StreamEnd> + Send>>),
}

impl<B> GuardedBody<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Wraps a body, unless it is empty.
    pub(super) fn wrap(body: B, session: &Arc<BodySession>, kind: BodyKind) -> Body {
        if body.is_end_stream() {
            return Body::new(body);
        }
        let watch = Watch::Delayed { session: Arc::clone(session), started: Instant::now(), sleep: None };
        Body::new(Self { inner: Some(Box::pin(body)), watch, kind })
    }
}

impl<B> http_body::Body for GuardedBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // The session comes first: a body that always has a frame ready would never end otherwise.
        if let Poll::Ready(end) = this.watch.poll_without_sleep(cx) {
            this.inner = None;
            return Poll::Ready(Some(last_frame(end, this.kind)));
        }
        if let Poll::Ready(frame) = inner.as_mut().poll_frame(cx) {
            if frame.is_none() {
                this.inner = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let end = ready!(this.watch.poll(cx));
        this.inner = None;
        Poll::Ready(Some(last_frame(end, this.kind)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Watch {
    /// Polls for the end of the session. Registers no wakeup before [`WATCH_DELAY`] is over, so that short bodies
    /// cost no timer.
    fn poll_without_sleep(&mut self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        if let Self::Delayed { session, started, .. } = self {
            if started.elapsed() < WATCH_DELAY {
                return Poll::Pending;
            }
            *self = session.watch();
        }
        self.poll(cx)
    }

    /// Polls for the end of the session. Wakes the task when [`WATCH_DELAY`] is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        if let Self::Delayed { session, started, sleep } = self {
            let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(*started + WATCH_DELAY)));
            ready!(sleep.as_mut().poll(cx));
            *self = session.watch();
        }
        match self {
            Self::Active(end) => end.as_mut().poll(cx),
            Self::Delayed { .. } => Poll::Pending,
        }
    }
}

impl BodySession {
    fn watch(&self) -> Watch {
        let mut end = self.checker.watch(&self.token, &self.identity, self.outage_grace);
        Watch::Active(Box::pin(async move {
            let end = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            // Without a watcher, nobody knows whether the session is live.
            end.unwrap_or(StreamEnd::Outage)
        }))
    }
}

/// Returns the last frame of a body that ends early.
fn last_frame(end: StreamEnd, kind: BodyKind) -> Result<Frame<Bytes>, BoxError> {
    let status = Denial::from(end).status();
    match kind {
        BodyKind::GrpcResponse => Ok(Frame::trailers(trailers(&status))),
        BodyKind::Request | BodyKind::HttpResponse => Err(status.into()),
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut trailers) {
        // A header cannot carry the message or the details. The code is what matters.
        let _ = Status::new(status.code(), "").add_header(&mut trailers);
        tracing::warn!(error.message = %error, "failed to encode a status as trailers");
    }
    trailers
}
