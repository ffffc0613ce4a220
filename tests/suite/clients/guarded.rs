//! A guarded server, as `clients/sample` describes it, and calls to it.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Code, IntoStreamingRequest as _, Request, Response, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::sample::{PATIENCE, Sample};
use crate::guard::messages::{BegunRequest, BegunResponse};
pub use crate::guard::messages::{GreetRequest, GreetResponse, Identity};

/// A method of each kind, and the number of its answers.
const KINDS: [(&str, usize); 4] = [("Greet", 1), ("GreetAll", 1), ("GreetOften", 3), ("Chat", 2)];

/// The answers of a call, or its status.
pub type Outcome = Result<Vec<GreetResponse>, Status>;

pub struct Guarded {
    channel: Channel,
    _sample: Sample,
}

impl Guarded {
    /// Connects to a sample.
    pub async fn connect(sample: Sample) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", sample.address)).unwrap();
        Self { channel: endpoint.connect().await.unwrap(), _sample: sample }
    }

    /// Calls a method of each kind at the same time. A call that expects a denial sends nothing and stays open,
    /// because a denial must not wait for messages.
    pub async fn call(&self, authorization: &[String], refused: bool) -> Vec<(&'static str, Outcome)> {
        let calls = KINDS.map(|(method, answers)| async move {
            let says = tokio_stream::iter(["Hello", "Good day"].map(greet));
            let outcome = match method {
                "Greet" | "GreetOften" => {
                    self.send(method, tokio_stream::once(greet("Hello")), authorization).await
                }
                _ if refused => self.send(method, tokio_stream::pending(), authorization).await,
                _ => self.send(method, says, authorization).await,
            };
            if let Ok(said) = &outcome {
                assert_eq!(said.len(), answers, "{method}: {said:?}");
            }
            (method, outcome)
        });
        let [a, b, c, d] = calls;
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        vec![a, b, c, d]
    }

    /// Calls until the guard lets the call through. Until then only UNAVAILABLE is allowed.
    pub async fn until_let_in(&self, authorization: &[String], limit: Duration) {
        let begun = Instant::now();
        let send = || self.send("Greet", tokio_stream::once(greet("Hello")), authorization);
        while let Err(status) = send().await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(begun.elapsed() < limit, "it does not come back: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the number of calls that have reached a handler.
    pub async fn begun(&self) -> u32 {
        self.handlers().await.count
    }

    /// Waits until this number of stream handlers runs.
    pub async fn until_running(&self, wanted: u32) {
        let begun = Instant::now();
        loop {
            let running = self.handlers().await.running;
            if running == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{running} handlers run, and not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn handlers(&self) -> BegunResponse {
        let codec = ProstCodec::<BegunRequest, BegunResponse>::default();
        let mut grpc = self.ready().await;
        let answer = timeout(PATIENCE, grpc.unary(Request::new(BegunRequest {}), path("Begun"), codec)).await;
        answer.unwrap_or_else(|_| panic!("Begun does not answer")).unwrap().into_inner()
    }

    async fn send(
        &self,
        method: &str,
        messages: impl Stream<Item = GreetRequest> + Send + 'static,
        authorization: &[String],
    ) -> Outcome {
        let call = async {
            let mut answers = self.answers(method, messages, authorization).await?;
            let mut said = Vec::new();
            while let Some(answer) = answers.next().await {
                said.push(answer?);
            }
            Ok(said)
        };
        timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("{method} does not answer"))
    }

    /// The answers of one call, as they come.
    pub fn answers(
        &self,
        method: &str,
        messages: impl Stream<Item = GreetRequest> + Send + 'static,
        authorization: &[String],
    ) -> impl Future<Output = Result<Streaming<GreetResponse>, Status>> + Send + 'static {
        let mut request = messages.into_streaming_request();
        for value in authorization {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        let (mut grpc, path) = (Grpc::new(self.channel.clone()), path(method));
        async move {
            grpc.ready().await.unwrap();
            let codec = ProstCodec::<GreetRequest, GreetResponse>::default();
            grpc.streaming(request, path, codec).await.map(Response::into_inner)
        }
    }

    async fn ready(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        grpc
    }
}

pub fn greet(greeting: &str) -> GreetRequest {
    GreetRequest { greeting: greeting.into() }
}

fn path(method: &str) -> PathAndQuery {
    format!("/sample.v1.GreeterService/{method}").parse().unwrap()
}
