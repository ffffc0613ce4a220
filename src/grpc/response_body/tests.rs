use std::time::Duration;

use h2::client::SendRequest;
use http::Request;
use tokio::{
    io::{duplex, split},
    sync::Notify,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::transport::{
    body::IncomingBody,
    connection::{ConnectionLimits, Services, serve},
    peer::Peer,
};

const TIMEOUT: Duration = Duration::from_mins(1);

/// Answers `/wait` when it is notified and panics for other paths.
#[derive(Default)]
struct Panicking(Notify);

impl Services for Panicking {
    type Body = ResponseBody;

    async fn serve(&self, _: &Peer, request: Request<IncomingBody>) -> Response<ResponseBody> {
        let response = match request.uri().path() {
            "/wait" => {
                self.0.notified().await;
                Status::ok("").into_http()
            }
            "/body" => Response::new(Body::new(Half::default())),
            _ => panic!("this is meant to happen"),
        };
        response.map(|body| ResponseBody::new(body, None))
    }

    fn panicked(&self, panic: &Panic) -> Response<ResponseBody> {
        super::panicked(panic)
    }
}

/// A body that panics after its beginning.
#[derive(Default)]
struct Half(bool);

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        assert!(!std::mem::replace(&mut self.0, true), "this is meant to happen");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"the beginning")))))
    }
}

/// Sends a request and returns its status and the data before it.
async fn call(mut requests: SendRequest<Bytes>, path: &str) -> (Status, Vec<u8>) {
    let request = Request::post(format!("http://localhost{path}")).body(()).unwrap();
    let (response, _) = requests.send_request(request, true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut data = Vec::new();
    while let Some(more) = body.data().await {
        data.extend(more.unwrap());
    }
    let trailers: Option<HeaderMap> = body.trailers().await.unwrap();
    (Status::from_header_map(&trailers.unwrap_or(head.headers)).unwrap(), data)
}

#[tokio::test]
async fn a_request_that_panics_is_answered_and_harms_no_other_on_its_connection() {
    let (client, server) = duplex(1 << 16);
    let (from_client, to_client) = split(server);
    let address: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
    let usage = crate::admission::Admission::new(&[], Vec::new()).connection(address.ip());
    let peer = Peer { address, certificate: None, connection: usage };
    let limits = ConnectionLimits {
        max_streams: 100,
        age: Duration::from_hours(1),
        age_grace: Duration::from_secs(1),
        http1: false,
    };
    let services = Arc::new(Panicking::default());
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(from_client, to_client, peer, Arc::clone(&services), limits, shutdown));
    let (requests, connection) = h2::client::handshake(client).await.unwrap();
    tokio::spawn(connection);

    let waiting = tokio::spawn(call(requests.clone(), "/wait"));
    for (path, before) in [("/future", &b""[..]), ("/body", b"the beginning")] {
        let (status, data) = timeout(TIMEOUT, call(requests.clone(), path)).await.unwrap();
        assert_eq!(status.code(), Code::Internal, "{path}: {status:?}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INTERNAL", "latchkey"));
        let id = status.metadata().get("x-request-id").unwrap().to_str().unwrap();
        assert!(status.message().ends_with(id), "the log and the response have the same id: {status:?}");
        assert!(!status.message().contains("meant to happen"), "{status:?}");
        assert_eq!(data, before, "{path}");
    }
    services.0.notify_one();
    let (status, _) = timeout(TIMEOUT, waiting).await.unwrap().unwrap();
    assert_eq!(status.code(), Code::Ok);
}
