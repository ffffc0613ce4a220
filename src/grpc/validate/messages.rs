//! Splits the body of a request into uncompressed messages, without a copy of those that arrive in one piece.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as _;
use tonic::{Code, Status, body::Body};

use super::MAX_REQUEST;
use crate::grpc::status;

/// The length of the flag and the length before a message.
pub(super) const PREFIX_LEN: usize = 5;

/// The messages of a request.
pub(super) struct Messages {
    body: Body,
    /// Received bytes, from the beginning of a message unless `partial` has its beginning.
    received: Bytes,
    /// The beginning of a message that has arrived in several pieces.
    partial: BytesMut,
}

impl Messages {
    pub(super) fn new(body: Body) -> Self {
        Self { body, received: Bytes::new(), partial: BytesMut::new() }
    }

    /// Returns the next message without its prefix.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(message) = self.take()? {
                return Poll::Ready(Some(Ok(message)));
            }
            let data = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().ok(),
                // The client has cancelled the call.
                Some(Err(status)) if status.code() == Code::Cancelled => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status::from_decode_error(status)))),
                None => None,
            };
            match data {
                Some(data) => self.received = data,
                None if self.partial.is_empty() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(status::undecodable()))),
            }
        }
    }

    /// Takes a message from the received bytes. If there is none, all of them are in `partial`.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            if let Some(length) = length(&self.received)?.filter(|length| *length <= self.received.len()) {
                let mut message = self.received.split_to(length);
                message.advance(PREFIX_LEN);
                return Ok(Some(message));
            }
            if self.received.is_empty() {
                return Ok(None);
            }
        }
        loop {
            let known = length(&self.partial)?;
            let missing = known.unwrap_or(PREFIX_LEN) - self.partial.len();
            let piece = self.received.split_to(missing.min(self.received.len()));
            self.partial.reserve(missing);
            self.partial.extend_from_slice(&piece);
            if piece.len() < missing {
                return Ok(None);
            }
            if known.is_some() {
                let mut message = mem::take(&mut self.partial).freeze();
                message.advance(PREFIX_LEN);
                return Ok(Some(message));
            }
        }
    }
}

/// Returns the length of a message and its prefix, once the prefix is complete. A compressed message is an error,
/// because the client has named no compression.
fn length(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
    let [is_compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if is_compressed != 0 || length > MAX_REQUEST {
        return Err(status::undecodable());
    }
    Ok(Some(PREFIX_LEN + length))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;
    use http_body::Frame;

    use super::*;

    /// A body in pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn read(bytes: &[u8], size: usize) -> Vec<Result<Bytes, Code>> {
        let pieces = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        let mut messages = Messages::new(Body::new(Pieces(pieces)));
        let mut read = Vec::new();
        while let Some(message) =
            std::future::poll_fn(|cx| messages.poll_next(cx)).now_or_never().expect("the body is ready")
        {
            let is_error = message.is_err();
            read.push(message.map_err(|status| status.code()));
            if is_error {
                break;
            }
        }
        read
    }

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &prefix, &vec![b'x'; length]].concat()
    }

    #[test]
    fn messages_are_the_same_in_any_pieces() {
        let lengths = [3, 0, 0, 500, MAX_REQUEST, 1, 0];
        let all = lengths.map(message).concat();
        let expected: Vec<_> = lengths.iter().map(|length| Ok(Bytes::from(vec![b'x'; *length]))).collect();
        for size in [1, 2, 4, 5, 6, 7, 100, 16_384, all.len()] {
            assert_eq!(read(&all, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error_after_those_before_it() {
        let too_large = u32::try_from(MAX_REQUEST + 1).unwrap().to_be_bytes();
        for wrong in
            [&[1, 0, 0, 0, 0][..], &[7, 0, 0, 0, 0], &[&[0], &too_large[..]].concat(), &message(9)[..8], &[0]]
        {
            let bytes = [&message(2)[..], wrong].concat();
            for size in [1, 6, bytes.len()] {
                let read = read(&bytes, size);
                assert_eq!(read, [Ok(Bytes::from_static(b"xx")), Err(Code::InvalidArgument)], "{wrong:?}");
            }
        }
    }
}
