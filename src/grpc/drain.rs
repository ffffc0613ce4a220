//! Streams end with the server, and with their connection.
//!
//! A call under way may finish within the grace; a stream that is open until something happens, such as a
//! health Watch, would hold up every shutdown for all of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, body::Body};

use super::{caught::Caught, status};
use crate::admission::{Connection, Permit};

/// The body of a stream, ended with a status once it has nothing more to say and its connection is about to be closed.
/// The stream counts for as long as it is open.
pub(super) fn until(connection: &Arc<Connection>, open: Permit<Arc<Connection>>, body: Caught) -> Body {
    Body::new(Until { body, connection: Arc::clone(connection), waiting: None, ended: false, _open: open })
}

struct Until {
    body: Caught,
    connection: Arc<Connection>,
    /// Made where the body pauses.
    waiting: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: bool,
    _open: Permit<Arc<Connection>>,
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
        let closing = || Box::pin(this.connection.closing().clone().cancelled_owned());
        let waiting = this.waiting.get_or_insert_with(closing);
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
