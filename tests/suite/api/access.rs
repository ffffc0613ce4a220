//! Access: which methods need which caller role.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb;
use rstest::rstest;
use tonic::{Code, Request, client::Grpc, metadata::MetadataMap};
use tonic_prost::ProstCodec;

use super::parts;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_methods_need_the_admin_key(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let message = || pb::ListAccountsRequest::default();
    let without = client.accounts.clone().list_accounts(message()).await.unwrap_err();
    assert_eq!(parts(&without), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED".into(), vec![]));
    assert!(without.message().contains("x-latchkey-key"), "{}", without.message());

    let mut wrong = Request::new(message());
    wrong.metadata_mut().insert("x-latchkey-key", "lka_wrong".parse().unwrap());
    let wrong = client.accounts.clone().list_accounts(wrong).await.unwrap_err();
    assert_eq!(parts(&wrong), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED".into(), vec![]));

    // The token of a user is no caller key.
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let mut user = Request::new(message());
    user.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let user = client.accounts.clone().list_accounts(user).await.unwrap_err();
    assert_eq!(parts(&user).1, "CALLER_UNAUTHENTICATED");

    client.accounts.clone().list_accounts(client.admin(message())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_methods_are_unimplemented() {
    use crate::support::server::{Server, Store};
    let server = Server::start(Store::Embedded).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.app.grpc)).unwrap();
    let mut grpc = Grpc::new(endpoint.connect().await.unwrap());
    for path in ["/latchkey.v1.AuthService/Impersonate", "/latchkey.v1.Other/Login", "/"] {
        grpc.ready().await.unwrap();
        let codec: ProstCodec<pb::LoginRequest, pb::LoginResponse> = ProstCodec::default();
        let request = server.client.admin(pb::LoginRequest::default());
        let status = grpc.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_with_a_role_needs_a_key() {
    use latchkey::grpc::methods::{Rule, rule};
    use prost_reflect::DescriptorPool;

    use crate::support::server::{Server, Store};
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.app.grpc)).unwrap();
    let mut grpc = Grpc::new(endpoint.connect().await.unwrap());
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let methods = pool.services().flat_map(|service| {
        let name = service.full_name().to_owned();
        service.methods().map(|method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
    });
    let guarded: Vec<_> = methods.filter(|path| rule(path) != Some(Rule::Open)).collect();
    assert!(guarded.len() >= 10, "{guarded:?}");
    for path in guarded {
        for (key, expected) in
            [(None, true), (Some("lka_wrong"), true), (Some(&*server.client.admin_key), false)]
        {
            grpc.ready().await.unwrap();
            let codec: ProstCodec<(), ()> = ProstCodec::default();
            let mut request = Request::new(());
            if let Some(key) = key {
                request.metadata_mut().insert("x-latchkey-key", key.parse().unwrap());
            }
            // Some streams never end, so only the first answer counts.
            let outcome = grpc.server_streaming(request, path.parse().unwrap(), codec).await;
            let refused = outcome.err().is_some_and(|status| {
                status.code() == Code::Unauthenticated && parts(&status).1 == "CALLER_UNAUTHENTICATED"
            });
            assert_eq!(refused, expected, "{path} with {key:?}");
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_returned(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let of = |answer: &MetadataMap| answer.get("x-request-id").map(|id| id.to_str().unwrap().to_owned());
    let logout = async |id: Option<&str>| {
        let mut request = Request::new(pb::LogoutRequest { token: "x".into(), ..Default::default() });
        if let Some(id) = id {
            request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        }
        of(server.client.auth.clone().logout(request).await.unwrap().metadata()).unwrap()
    };
    assert_eq!(logout(Some("trace-7")).await, "trace-7");
    let (first, second) = (logout(None).await, logout(None).await);
    assert!(first.len() == 16 && first != second);
    let too_long = "x".repeat(65);
    assert_eq!(logout(Some(&too_long)).await.len(), 16, "what is not fit for a log is not taken over");

    // A verdict carries no request id unless the client sent one or the call failed.
    let validate = async |token: &str, id: Option<&str>| {
        let mut request = Request::new(pb::ValidateRequest { token: token.into(), ..Default::default() });
        if let Some(id) = id {
            request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        }
        match server.client.auth.clone().validate(request).await {
            Ok(answer) => of(answer.metadata()),
            Err(status) => of(status.metadata()),
        }
    };
    assert_eq!(validate("x", Some("trace-7")).await.unwrap(), "trace-7");
    assert_eq!(validate("x", None).await, None);
    assert_eq!(validate("", Some("trace-7")).await.unwrap(), "trace-7");
    assert_eq!(validate("", None).await.unwrap().len(), 16);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_or_malformed_is_an_invalid_request(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let large = pb::ValidateRequest { token: "x".repeat(65 * 1024), ..Default::default() };
    let status = server.client.auth.clone().validate(large).await.unwrap_err();
    assert_eq!(parts(&status), (Code::InvalidArgument, "INVALID_REQUEST".into(), vec![String::new()]));

    // The first field of this message is a number where the method expects a string.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.app.grpc)).unwrap();
    let mut grpc = Grpc::new(endpoint.connect().await.unwrap());
    grpc.ready().await.unwrap();
    let codec: ProstCodec<prost_types::Duration, ()> = ProstCodec::default();
    let request = Request::new(prost_types::Duration { seconds: 7, nanos: 0 });
    let path = "/latchkey.v1.AuthService/Login".parse().unwrap();
    let status = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!(parts(&status).0, Code::InvalidArgument);
}
