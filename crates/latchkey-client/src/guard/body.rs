//! Bodies that end with the session.

use std::{
    pin::{Pin, pin},
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

use super::{checker::Checker, denial::Denial, session_watchers::End};
use crate::Identity;

/// What has ended by then is no stream, and nobody looks for the end of its session.
const BRIEF: Duration = Duration::from_millis(250);

/// Whose session a body ends with.
pub(super) struct Until {
    pub(super) checker: Arc<Checker>,
    pub(super) token: Arc<str>,
    pub(super) identity: Identity,
    /// How long it goes on while Latchkey is away.
    pub(super) grace: Duration,
}

/// What a body is of, and so how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// A request: it fails.
    Request,
    /// A response of gRPC: it ends with trailers.
    Grpc,
    /// Another response: it is broken off.
    Http,
}

/// A body that ends with the session, if that comes first.
pub(super) struct GuardedBody<B> {
    /// None once it has ended.
    inner: Option<Pin<Box<B>>>,
    end: Ending,
    on: On,
}

enum Ending {
    /// The body may be brief.
    Brief { until: Arc<Until>, since: Instant, alarm: Option<Pin<Box<Sleep>>> },
    /// Somebody looks for the end of the session.
    Watched(Pin<Box<dyn Future<Output = End> + Send>>),
}

impl<B> GuardedBody<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The body, as one that ends with the session. What is there as a whole is left as it is.
    pub(super) fn wrap(body: B, until: &Arc<Until>, on: On) -> Body {
        if body.is_end_stream() {
            return Body::new(body);
        }
        let end = Ending::Brief { until: Arc::clone(until), since: Instant::now(), alarm: None };
        Body::new(Self { inner: Some(Box::pin(body)), end, on })
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
        // First of all: a body that always has something to say would never end.
        if let Poll::Ready(end) = this.end.poll_running(cx) {
            this.inner = None;
            return Poll::Ready(Some(last(end, this.on)));
        }
        if let Poll::Ready(frame) = inner.as_mut().poll_frame(cx) {
            if frame.is_none() {
                this.inner = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let end = ready!(this.end.poll_waiting(cx));
        this.inner = None;
        Poll::Ready(Some(last(end, this.on)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Ending {
    /// The end, where somebody looks for it. Nobody is woken by a body that may still be brief.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Self::Brief { until, since, .. } = self {
            if since.elapsed() < BRIEF {
                return Poll::Pending;
            }
            *self = until.watched();
        }
        self.poll_waiting(cx)
    }

    /// The same of a body that has nothing to say at the moment, which is woken for it.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Self::Brief { until, since, alarm } = self {
            let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(*since + BRIEF)));
            ready!(pin!(alarm.as_mut()).poll(cx));
            *self = until.watched();
        }
        match self {
            Self::Watched(end) => end.as_mut().poll(cx),
            Self::Brief { .. } => Poll::Pending,
        }
    }
}

impl Until {
    fn watched(&self) -> Ending {
        let mut end = self.checker.watch(&self.token, &self.identity, self.grace);
        Ending::Watched(Box::pin(async move {
            let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
            // Nobody looks any more: nobody knows whether the session is live.
            ended.unwrap_or(End::Outage)
        }))
    }
}

/// The last that a body says.
fn last(end: End, on: On) -> Result<Frame<Bytes>, BoxError> {
    let status = Denial::from(end).status();
    if on == On::Grpc {
        return Ok(Frame::trailers(trailers(&status)));
    }
    Err(status.into())
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(unwritable) = status.add_header(&mut trailers) {
        // A message that no header can carry: the code is what counts.
        let _ = Status::new(status.code(), "").add_header(&mut trailers);
        tracing::warn!(error.message = %unwritable, "a status could not be written");
    }
    trailers
}
