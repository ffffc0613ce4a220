//! The body of a request while its message is on its way: it has a deadline, and what has come of it is bounded.
//!
//! A request that waits for its message occupies no place under `server.max_requests`: places are for work. One that
//! comes together with its headers, as nearly all do, sets no timer and counts towards nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::codegen::StdError;

use super::status;
use crate::admission::{Connection, Permit, Resource};

/// The place of a request, taken when its message is complete and kept until it is answered.
#[derive(Default)]
pub(super) struct RequestPermit(Mutex<Option<Permit<Arc<Connection>>>>);

impl RequestPermit {
    /// Takes the place.
    pub(super) fn take(&self, connection: &Arc<Connection>) -> Result<(), tonic::Status> {
        let permit = Permit::take(Arc::clone(connection), Resource::Requests)
            .map_err(|scope| status::too_many("requests", scope))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        Ok(())
    }
}

/// What a body consists of.
pub(super) enum Framing {
    /// One message, and the end. The place is taken then.
    Message(Option<Arc<RequestPermit>>),
    /// MessageFramer one after the other, each with a prefix of five bytes.
    MessageFramer(MessageFramer),
}

/// A body with a deadline and bounds.
pub(super) struct RequestBody<B> {
    body: B,
    connection: Arc<Connection>,
    kind: Framing,
    /// Bytes that have come.
    received: usize,
    /// What of them is counted, because more has to come.
    counted: Permit<Arc<Connection>>,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, connection: &Arc<Connection>, kind: Framing, timeout: Duration) -> Self {
        Self {
            body,
            connection: Arc::clone(connection),
            kind,
            received: 0,
            counted: Permit::empty(Arc::clone(connection), Resource::BodyBytes),
            timeout,
            timer: None,
        }
    }

    fn receive(&mut self, data: &[u8]) {
        match &mut self.kind {
            Framing::Message(_) => self.received += data.len(),
            Framing::MessageFramer(messages) => messages.receive(data),
        }
    }

    /// Counts what has come of a message that is not complete; `None` where none has begun.
    fn unfinished(&self) -> Option<usize> {
        match &self.kind {
            Framing::Message(_) => Some(self.received),
            Framing::MessageFramer(messages) => Some(messages.received).filter(|received| *received > 0),
        }
    }

    /// More has to come: not for ever, and not beyond the bound.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<StdError> {
        let unfinished = self.unfinished();
        if let Err(scope) = self.counted.set(unfinished.unwrap_or(0)) {
            return Poll::Ready(status::too_many("unfinished requests", scope).into());
        }
        if unfinished.is_none() {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        timer.as_mut().poll(cx).map(|()| status::message_late().into())
    }

    fn end(&mut self) -> Result<(), StdError> {
        self.timer = None;
        let _ = self.counted.set(0);
        match &mut self.kind {
            Framing::Message(place) => {
                if let Some(place) = place.take() {
                    place.take(&self.connection)?;
                }
            }
            Framing::MessageFramer(_) => {}
        }
        Ok(())
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                match frame.data_ref() {
                    Some(data) => this.receive(data),
                    None => {
                        if let Err(error) = this.end() {
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(this.end().err().map(Err)),
            Poll::Pending => this.wait(cx).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Follows messages as they come in pieces.
#[derive(Debug, Default)]
pub(super) struct MessageFramer {
    prefix: [u8; 5],
    /// Bytes that have come of the message under way, with its prefix.
    received: usize,
    /// Bytes that are still to come, once the prefix is complete.
    missing: usize,
}

impl MessageFramer {
    fn receive(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.received < self.prefix.len() {
                self.prefix[self.received] = *first;
                self.received += 1;
                data = rest;
                if self.received == self.prefix.len() {
                    let [_, length @ ..] = self.prefix;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                let part = self.missing.min(data.len());
                self.received += part;
                self.missing -= part;
                data = &data[part..];
            }
            if self.received >= self.prefix.len() && self.missing == 0 {
                self.received = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let message = |length: u8| [&[0, 0, 0, 0, length][..], &vec![b'x'; length.into()]].concat();
        let all = [message(3), message(0), message(200), message(1)].concat();
        // Where in a message each byte stands: the last of it ends it.
        let expected: Vec<_> =
            [8, 5, 205, 6].iter().flat_map(|&length| (1..=length).map(move |at| at % length)).collect();
        for piece in [1, 2, 3, 7, 100] {
            let mut messages = MessageFramer::default();
            let mut at = 0;
            for piece in all.chunks(piece) {
                messages.receive(piece);
                at += piece.len();
                assert_eq!(messages.received, expected[at - 1], "after {at} bytes");
            }
        }
    }
}
