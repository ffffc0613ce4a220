//! A bare server of the library, to compare with: the messages of `Validate`, an answer that is known before
//! the question comes, the library's defaults, and nothing else. `make bench` measures Latchkey against it.
//!
//! Takes an address to listen on, by default a free port of this machine, and prints the one that it took.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the benchmark is made of")]

mod session;

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::TryStreamExt as _;
use latchkey::grpc::pb::{Session, ValidateRequest, ValidateResponse, validate_response::Verdict};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Clone)]
struct Echo {
    session: Session,
}

impl NamedService for Echo {
    const NAME: &'static str = "latchkey.bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { session } = self.clone();
        let mut grpc = Grpc::new(ProstCodec::default());
        match request.uri().path() {
            "/latchkey.bench.Echo/Validate" => Box::pin(async move {
                let unary =
                    service_fn(|_: Request<ValidateRequest>| ready(Ok(Response::new(answer(&session)))));
                Ok(grpc.unary(unary, request).await)
            }),
            "/latchkey.bench.Echo/ValidateStream" => Box::pin(async move {
                let stream = service_fn(|request: Request<Streaming<ValidateRequest>>| {
                    let session = session.clone();
                    ready(Ok(Response::new(request.into_inner().map_ok(move |_| answer(&session)))))
                });
                Ok(grpc.streaming(stream, request).await)
            }),
            _ => Box::pin(ready(Ok(Status::unimplemented("no such method").into_http()))),
        }
    }
}

fn answer(session: &Session) -> ValidateResponse {
    ValidateResponse { verdict: Some(Verdict::Session(session.clone())), failure: None }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "whoever starts it reads the address")]
async fn main() {
    // As in a server that logs: without it the library hands each of its spans to another way of logging.
    tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new()).unwrap();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(address).await.unwrap();
    println!("echo listens on {}", listener.local_addr().unwrap());
    let echo = Echo { session: session::session() };
    Server::builder().add_service(echo).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
}
