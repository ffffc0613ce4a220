//! Streams end with the server.
//!
//! A call under way may finish within the grace; a stream that is open until something happens, such as a
//! health Watch, would hold up every shutdown for all of it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{caught::Caught, status};

/// The body of a stream, ended with a status once it has nothing more to say and the server stops.
pub(super) fn until(shutdown: &CancellationToken, body: Caught) -> Body {
    Body::new(Until { body, shutdown: shutdown.clone(), waiting: None, ended: false })
}

struct Until {
    body: Caught,
    shutdown: CancellationToken,
    /// Made where the body pauses.
    waiting: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(this.shutdown.clone().cancelled_owned()));
        std::task::ready!(waiting.as_mut().poll(cx));
        self.ended = true;
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(
            status::shutting_down().add_header(&mut trailers).ok().map(|()| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
