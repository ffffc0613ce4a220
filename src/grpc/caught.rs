//! Bodies of answers whose panics end the answer, and nothing else of the connection.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{request_id::RequestId, status};
use crate::isolation::panics;

/// A body that ends with INTERNAL where it panics.
pub(super) struct Caught {
    body: Body,
    id: Option<RequestId>,
    panicked: bool,
}

impl Caught {
    /// The body of an answer to the request of this id, where that is known.
    pub(super) const fn new(body: Body, id: Option<RequestId>) -> Self {
        Self { body, id, panicked: false }
    }
}

impl HttpBody for Caught {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.panicked {
            return Poll::Ready(None);
        }
        match panics::catch(|| Pin::new(&mut self.body).poll_frame(cx)) {
            Ok(polled) => polled,
            Err(panic) => {
                self.panicked = true;
                // What is left of it is of no use, and may panic once more.
                let rest = mem::take(&mut self.body);
                let _ = panics::catch(|| drop(rest));
                let status = status::panicked(&panic, self.id.take());
                let mut trailers = HeaderMap::new();
                Poll::Ready(status.add_header(&mut trailers).ok().map(|()| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.panicked || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
