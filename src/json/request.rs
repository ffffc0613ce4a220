//! The body of a request, which is translated to a message of gRPC once it is complete.
//!
//! It is read, and its errors are found, only after the dispatcher has checked the caller.

use std::{
    io::Read as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http_body::{Body, Frame};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{Status, codegen::StdError};
use url::form_urlencoded;

use super::{PREFIX, headers::Encoding, message, routes::Kind, template::Captures};
use crate::grpc::{codec::MAX_REQUEST, status};

/// Translates the body of a request, once it is complete.
pub(super) trait Translate {
    /// Returns the message in binary.
    fn message(&self, body: Bytes) -> Result<Bytes, Status>;
}

/// Translates a request in JSON or of Connect.
pub(super) struct Transcoding {
    pub(super) message: MessageDescriptor,
    pub(super) kind: Kind,
    pub(super) captures: Captures,
    pub(super) query: Option<String>,
    pub(super) encoding: Encoding,
}

/// A body of one message.
pub(super) struct Transcoder<B, T> {
    body: B,
    is_gzip: bool,
    received: BytesMut,
    /// `None` at the end.
    transcoding: Option<T>,
}

impl<B, T> Transcoder<B, T> {
    pub(super) fn new(body: B, is_gzip: bool, transcoding: T) -> Self {
        Self { body, is_gzip, received: BytesMut::new(), transcoding: Some(transcoding) }
    }
}

impl<B, T> Body for Transcoder<B, T>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
    T: Translate + Unpin,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        while this.transcoding.is_some() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if this.received.len() + data.len() > MAX_REQUEST {
                        this.transcoding = None;
                        return Poll::Ready(Some(Err(status::message_too_large().into())));
                    }
                    this.received.extend_from_slice(&data);
                }
                Some(Err(error)) => {
                    this.transcoding = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    let Some(transcoding) = this.transcoding.take() else { break };
                    let framed = framed(&transcoding, this.is_gzip, this.received.split().freeze());
                    return Poll::Ready(Some(framed.map(Frame::data).map_err(Into::into)));
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.transcoding.is_none()
    }
}

/// Returns the message with the prefix of gRPC.
fn framed(transcoding: &impl Translate, is_gzip: bool, body: Bytes) -> Result<Bytes, Status> {
    let body = if is_gzip { decompressed(&body)? } else { body };
    let message = transcoding.message(body)?;
    let length = u32::try_from(message.len()).map_err(|_| status::message_too_large())?;
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put(message);
    Ok(framed.freeze())
}

impl Translate for Transcoding {
    fn message(&self, body: Bytes) -> Result<Bytes, Status> {
        let has_query = self.query.as_ref().is_some_and(|query| !query.is_empty());
        match self.kind {
            Kind::Connect | Kind::Body | Kind::Events if has_query => {
                let message = "this path takes no query parameters: URLs are logged";
                return Err(status::invalid_message("", message));
            }
            Kind::Query | Kind::Events if !body.is_empty() => {
                return Err(status::invalid_message("", "this path takes no body"));
            }
            Kind::Connect if self.encoding == Encoding::Proto => return Ok(body),
            _ => {}
        }
        let captures = self.captures.iter().map(|(field, value)| (field.as_str(), value.as_str()));
        let message = match self.kind {
            Kind::Connect | Kind::Body => {
                let mut message = message::from_json(&self.message, &body)?;
                message::merge(&mut message, &message::from_texts(&self.message, captures)?)?;
                message
            }
            Kind::Query => {
                let query = self.query.as_deref().unwrap_or_default();
                let query: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
                let query = query.iter().map(|(name, value)| (&**name, &**value));
                message::from_texts(&self.message, captures.chain(query))?
            }
            Kind::Events => DynamicMessage::new(self.message.clone()),
        };
        Ok(message.encode_to_vec().into())
    }
}

fn decompressed(body: &[u8]) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let limit = MAX_REQUEST as u64 + 1;
    GzDecoder::new(body)
        .take(limit)
        .read_to_end(&mut message)
        .map_err(|_| status::invalid_message("", "the body is not compressed with gzip"))?;
    if message.len() > MAX_REQUEST { Err(status::message_too_large()) } else { Ok(message.into()) }
}
