//! The guard of the Rust client in front of tonic and axum servers, against the real Latchkey.
//!
//! What the guards of all languages have in common is in `clients/scenarios.json`, which the sample that these tests
//! share (the example `guarded` of latchkey-client) plays, too. Here is what only this one does: one stream, shared questions, a memory.

mod client;
mod memory;
mod outage;
mod plain;
mod reasons;
mod relay;
mod shared;
mod streams;

#[path = "../../../crates/latchkey-client/examples/guarded/greeter.rs"]
mod greeter;
#[path = "../../../crates/latchkey-client/examples/guarded/messages.rs"]
pub mod messages;
#[path = "../../../crates/latchkey-client/examples/guarded/service.rs"]
mod service;

use std::{net::SocketAddr, time::Duration};

use futures_util::Stream;
use latchkey::grpc::pb;
use latchkey_client::{Client, Guard};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tonic::{
    Code, IntoStreamingRequest as _, Request, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

use self::{
    greeter::Greeter,
    messages::{BegunRequest, BegunResponse, GreetRequest, GreetResponse},
    service::GreeterServer,
};
use crate::support::{self, http, http::Answer};

/// What does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// A service that is for everybody.
const OPEN: &str = "/sample.v1.GreeterService/Begun";

/// A client that asks there with this key.
fn asks(latchkey: SocketAddr, key: &str) -> Client {
    Client::connect(&latchkey.to_string()).unwrap().with_caller_key(key).unwrap()
}

/// A guard that asks there, and may have the revocation feed.
fn guard(latchkey: SocketAddr, of: &support::client::Client) -> Guard {
    Guard::new(asks(latchkey, &of.admin_key)).open([OPEN])
}

/// A tonic server behind a guard.
struct Guarded {
    channel: Channel,
    serving: JoinHandle<()>,
}

impl Guarded {
    async fn start(guard: Guard) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().layer(guard).add_service(GreeterServer::new(Greeter::default()));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await.unwrap();
        });
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { channel, serving }
    }

    async fn greet(&self, token: &str) -> Result<GreetResponse, Status> {
        self.greet_with(&[&format!("Bearer {token}")]).await
    }

    /// With these values of `authorization`.
    async fn greet_with(&self, authorization: &[&str]) -> Result<GreetResponse, Status> {
        let mut request = Request::new(greeting());
        for value in authorization {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        let codec = ProstCodec::<GreetRequest, GreetResponse>::default();
        let call = async { self.ready().await.unary(request, path("Greet"), codec).await };
        Ok(timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("no answer"))?.into_inner())
    }

    /// Who greets with this token.
    async fn username(&self, token: &str) -> String {
        self.greet(token).await.unwrap().identity.unwrap().username
    }

    /// Calls a method with a stream of requests.
    async fn stream(
        &self,
        method: &str,
        requests: impl Stream<Item = GreetRequest> + Send + 'static,
        token: &str,
    ) -> Result<Streaming<GreetResponse>, Status> {
        let mut request = requests.into_streaming_request();
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let codec = ProstCodec::<GreetRequest, GreetResponse>::default();
        Ok(self.ready().await.streaming(request, path(method), codec).await?.into_inner())
    }

    /// How many handlers have begun, and how many of streams run.
    async fn begun(&self) -> (u32, u32) {
        let codec = ProstCodec::<BegunRequest, BegunResponse>::default();
        let answer = self.ready().await.unary(Request::new(BegunRequest {}), path("Begun"), codec).await;
        let BegunResponse { count, running } = answer.unwrap().into_inner();
        (count, running)
    }

    /// Waits until so many handlers of streams run.
    async fn until_running(&self, wanted: u32) {
        let begun = std::time::Instant::now();
        while self.begun().await.1 != wanted {
            assert!(begun.elapsed() < PATIENCE, "{:?} handlers run instead of {wanted}", self.begun().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ready(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        grpc
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// An axum server.
struct Plain {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Plain {
    async fn start(app: axum::Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, serving }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        http::get(self.address, path, &[("authorization", format!("Bearer {token}").as_bytes())]).await
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn greeting() -> GreetRequest {
    GreetRequest { greeting: "Hello".into() }
}

fn path(method: &str) -> ::http::uri::PathAndQuery {
    format!("/sample.v1.GreeterService/{method}").parse().unwrap()
}

/// The code and the reason of a status, whose details are ours.
#[track_caller]
fn told(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "latchkey");
    assert_eq!(details.retry_info().is_some(), status.code() == Code::Unavailable, "{status:?}");
    (status.code(), info.reason.clone())
}

/// Says of a token what Latchkey says: the reason, when, by which device, and in its words.
#[track_caller]
fn agrees(status: &Status, native: &pb::Rejection) {
    let (code, reason) = told(status);
    let disabled = native.reason() == pb::RejectionReason::AccountDisabled;
    assert_eq!(code, if disabled { Code::PermissionDenied } else { Code::Unauthenticated });
    assert_eq!(format!("REJECTION_REASON_{reason}"), native.reason().as_str_name());
    assert_eq!(status.message(), native.message);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["terminal"], native.terminal.to_string(), "{reason}");
    assert_eq!(info.metadata.get("by_device").map_or("", String::as_str), native.by_device, "{reason}");
    assert_eq!(info.metadata.get("at_unix").cloned(), native.at.map(|at| at.seconds.to_string()), "{reason}");
}
