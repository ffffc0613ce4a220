//! The bare echo straight on `h2`, with the executor of the server and without tonic and hyper: the floor of a unary
//! call.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use hyper::rt::Executor as _;
use latchkey::{
    admission::Connection,
    grpc::pb::{Session, ValidateRequest, ValidateResponse, validate_response::Verdict},
    transport::inline_executor::{InlineExecutor, SpawnQueue},
};
use prost::Message as _;
use tokio::net::TcpStream;

const PREFIX_LEN: usize = 5;

/// Serves a connection until it ends. Every request, of any path, is answered with this session.
pub async fn serve(socket: TcpStream, session: &Session, usage: &Arc<Connection>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let answer =
        Arc::new(ValidateResponse { verdict: Some(Verdict::Session(session.clone())), failure: None });
    let requests = SpawnQueue::default();
    let spawn = requests.clone();
    let accept = poll_fn(|cx| {
        loop {
            let Some(Ok((request, respond))) = ready!(connection.poll_accept(cx)) else {
                return Poll::Ready(());
            };
            let answer = Arc::clone(&answer);
            spawn.execute(async move {
                // The client has reset the stream, or sends something else than a request.
                let _ = respond_to(request, respond, &answer).await;
            });
        }
    });
    InlineExecutor::new(accept, requests, usage).await;
}

async fn respond_to(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    answer: &ValidateResponse,
) -> Option<()> {
    let mut body = request.into_body();
    let mut message = Bytes::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        message = if message.is_empty() { data } else { [message, data].concat().into() };
    }
    let is_compressed = message.try_get_u8().ok()? != 0;
    let length = message.try_get_u32().ok()? as usize;
    if is_compressed || length != message.len() {
        return None;
    }
    ValidateRequest::decode(message).ok()?;

    let length = answer.encoded_len();
    let mut encoded = BytesMut::with_capacity(PREFIX_LEN + length);
    encoded.put_u8(0);
    encoded.put_u32(u32::try_from(length).ok()?);
    answer.encode_raw(&mut encoded);
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false).ok()?;
    stream.send_data(encoded.freeze(), false).ok()?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    stream.send_trailers(trailers).ok()
}
