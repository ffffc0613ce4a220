//! Streams as server-sent events, which pages read with `EventSource`.
//!
//! Each message of a stream is a `oneof`: the name of its field is the name of the event, and the value is its data.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame};
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Status, body::Body};
use tonic_types::StatusExt as _;

use super::{PREFIX, message};
use crate::grpc::response_body::ResponseBody;

/// Interval of the comments that keep proxies from closing a silent connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Returns the response with the messages of a stream.
pub(super) fn response(stream: ResponseBody, descriptor: MessageDescriptor) -> Response<Body> {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events { stream, descriptor, received: BytesMut::new(), heartbeat, ended: false };
    let mut response = Response::new(Body::new(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold back the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The body of the response.
struct Events {
    stream: ResponseBody,
    descriptor: MessageDescriptor,
    /// What has arrived of the next message.
    received: BytesMut,
    heartbeat: Interval,
    ended: bool,
}

impl Events {
    /// Returns the events of all messages that have arrived.
    fn events(&mut self) -> Result<Bytes, Status> {
        let mut events = Vec::new();
        while let Some([_, length @ ..]) = self.received.first_chunk::<PREFIX>() {
            let length = u32::from_be_bytes(*length) as usize;
            if self.received.len() < PREFIX + length {
                break;
            }
            self.received.advance(PREFIX);
            let message = self.received.split_to(length).freeze();
            self.event(message, &mut events)?;
        }
        Ok(events.into())
    }

    fn event(&self, bytes: Bytes, events: &mut Vec<u8>) -> Result<(), Status> {
        let decoded = DynamicMessage::decode(self.descriptor.clone(), bytes);
        let decoded = decoded.map_err(|error| Status::internal(error.to_string()))?;
        for (field, value) in decoded.fields() {
            if let Value::Message(value) = value {
                events.extend_from_slice(format!("event: {}\ndata: ", field.json_name()).as_bytes());
                events.extend_from_slice(&message::encode(value)?);
                events.extend_from_slice(b"\n\n");
            }
        }
        Ok(())
    }

    /// Ends the stream. After an error the client connects again, and learns then what is wrong.
    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        let delay = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
        Poll::Ready(delay.map(|delay| {
            let retry = format!("retry: {}\n\n", delay.as_millis());
            Ok(Frame::data(retry.into()))
        }))
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while !this.ended {
            match Pin::new(&mut this.stream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        this.received.extend_from_slice(&data);
                        match this.events() {
                            Ok(events) if events.is_empty() => {}
                            Ok(events) => return Poll::Ready(Some(Ok(Frame::data(events)))),
                            Err(status) => return this.end(&status),
                        }
                    }
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(Status::from_header_map);
                        return this.end(&status.unwrap_or_else(|| Status::ok("")));
                    }
                },
                Poll::Ready(Some(Err(status))) => return this.end(&status),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => {
                    return match this.heartbeat.poll_tick(cx) {
                        Poll::Ready(_) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n"))))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
