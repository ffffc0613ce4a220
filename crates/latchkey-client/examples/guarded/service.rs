//! The service of `clients/sample/sample/v1/greeter.proto`, written by hand to keep code generation out of the example.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    Request, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use super::{
    greeter::Greeter,
    messages::{BegunRequest, GreetRequest},
};

/// The gRPC service of a [`Greeter`].
#[derive(Clone)]
pub struct GreeterServer(Greeter);

impl GreeterServer {
    pub fn new(greeter: Greeter) -> Self {
        Self(greeter)
    }
}

impl NamedService for GreeterServer {
    const NAME: &'static str = "sample.v1.GreeterService";
}

impl Service<http::Request<Body>> for GreeterServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self(greeter) = self.clone();
        Box::pin(async move {
            let greeter = &greeter;
            Ok(match request.uri().path() {
                "/sample.v1.GreeterService/Greet" => {
                    let greet =
                        service_fn(async |request: Request<GreetRequest>| greeter.greet(request).await);
                    Grpc::new(ProstCodec::default()).unary(greet, request).await
                }
                "/sample.v1.GreeterService/GreetAll" => {
                    let greet_all = service_fn(async |requests: Request<Streaming<GreetRequest>>| {
                        greeter.greet_all(requests).await
                    });
                    Grpc::new(ProstCodec::default()).client_streaming(greet_all, request).await
                }
                "/sample.v1.GreeterService/GreetOften" => {
                    let greet_often =
                        service_fn(async |request: Request<GreetRequest>| greeter.greet_often(request).await);
                    Grpc::new(ProstCodec::default()).server_streaming(greet_often, request).await
                }
                "/sample.v1.GreeterService/Chat" => {
                    let chat = service_fn(async |requests: Request<Streaming<GreetRequest>>| {
                        greeter.chat(requests).await
                    });
                    Grpc::new(ProstCodec::default()).streaming(chat, request).await
                }
                "/sample.v1.GreeterService/GreetOn" => {
                    let greet_on =
                        service_fn(async |request: Request<GreetRequest>| greeter.greet_on(request).await);
                    Grpc::new(ProstCodec::default()).server_streaming(greet_on, request).await
                }
                "/sample.v1.GreeterService/Begun" => {
                    let begun =
                        service_fn(async |request: Request<BegunRequest>| greeter.begun(request).await);
                    Grpc::new(ProstCodec::default()).unary(begun, request).await
                }
                _ => Status::unimplemented("unknown method").into_http(),
            })
        })
    }
}
