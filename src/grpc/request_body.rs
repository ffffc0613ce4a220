//! The body of a request: limits how long a message may take to arrive and how many bytes of it are buffered.
//!
//! A request takes its permit of `server.max_requests` only when its message is complete. A message that arrives
//! together with its headers, as nearly all do, starts no timer and counts towards no limit of bytes.

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

/// The permit of a request, taken when its message is complete and held until the response.
#[derive(Default)]
pub(super) struct RequestPermit(Mutex<Option<Permit<Arc<Connection>>>>);

impl RequestPermit {
    pub(super) fn take(&self, connection: &Arc<Connection>) -> Result<(), tonic::Status> {
        let permit = Permit::take(Arc::clone(connection), Resource::Requests)
            .map_err(|scope| status::too_many("requests", scope))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        Ok(())
    }
}

/// The number of messages in a body.
pub(super) enum Framing {
    /// One message. The permit is taken when it is complete.
    Message(Option<Arc<RequestPermit>>),
    Stream(MessageFramer),
}

pub(crate) struct RequestBody<B> {
    body: B,
    connection: Arc<Connection>,
    framing: Framing,
    /// Bytes received of a single message.
    received: usize,
    /// Counts the bytes of an incomplete message.
    permit: Permit<Arc<Connection>>,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, connection: &Arc<Connection>, framing: Framing, timeout: Duration) -> Self {
        Self {
            body,
            connection: Arc::clone(connection),
            framing,
            received: 0,
            permit: Permit::empty(Arc::clone(connection), Resource::BodyBytes),
            timeout,
            timer: None,
        }
    }

    fn receive(&mut self, data: &[u8]) {
        match &mut self.framing {
            Framing::Message(_) => self.received += data.len(),
            Framing::Stream(messages) => messages.receive(data),
        }
    }

    /// Returns the number of bytes of the incomplete message, or `None` between the messages of a stream.
    fn unfinished(&self) -> Option<usize> {
        match &self.framing {
            Framing::Message(_) => Some(self.received),
            Framing::Stream(messages) => Some(messages.received).filter(|received| *received > 0),
        }
    }

    /// Checks the limits while the body is pending.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<StdError> {
        let unfinished = self.unfinished();
        if let Err(scope) = self.permit.set(unfinished.unwrap_or(0)) {
            return Poll::Ready(status::too_many("unfinished requests", scope).into());
        }
        if unfinished.is_none() {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        timer.as_mut().poll(cx).map(|()| status::message_timeout().into())
    }

    fn end(&mut self) -> Result<(), StdError> {
        self.timer = None;
        let _ = self.permit.set(0);
        match &mut self.framing {
            Framing::Message(permit) => {
                if let Some(permit) = permit.take() {
                    permit.take(&self.connection)?;
                }
            }
            Framing::Stream(_) => {}
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
            Poll::Pending => this.poll_limits(cx).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the boundaries of length-prefixed messages in a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct MessageFramer {
    prefix: [u8; 5],
    /// Bytes received of the current message, including its prefix.
    received: usize,
    /// Bytes missing of the current message, once its prefix is complete.
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
                let length = self.missing.min(data.len());
                self.received += length;
                self.missing -= length;
                data = &data[length..];
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
    fn message_boundaries_are_found_in_any_chunks() {
        let message = |length: u8| [&[0, 0, 0, 0, length][..], &vec![b'x'; length.into()]].concat();
        let all = [message(3), message(0), message(200), message(1)].concat();
        // The position of each byte in its message, which is 0 for the last byte.
        let expected: Vec<_> =
            [8, 5, 205, 6].iter().flat_map(|&length| (1..=length).map(move |at| at % length)).collect();
        for chunk_size in [1, 2, 3, 7, 100] {
            let mut messages = MessageFramer::default();
            let mut at = 0;
            for chunk in all.chunks(chunk_size) {
                messages.receive(chunk);
                at += chunk.len();
                assert_eq!(messages.received, expected[at - 1], "after {at} bytes");
            }
        }
    }
}
