//! The gRPC service of the bare echo.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::TryStreamExt as _;
use latchkey::grpc::pb::{Session, ValidateRequest, ValidateResponse, validate_response::Verdict};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// Answers every request with this session.
#[derive(Clone)]
pub struct Echo {
    pub session: Session,
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
