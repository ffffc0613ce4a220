//! What a guarded server answers is what Latchkey says, over gRPC and over HTTP.

use axum::{Extension, Router, routing::get};
use latchkey::grpc::pb::RejectionReason;
use latchkey_client::Identity;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Guarded, Plain, agrees, guard, told};
use crate::{
    gateways::{REASONS, rejected},
    support::{
        http::{self, Answer},
        server::{Server, Store},
    },
};

async fn who(Extension(caller): Extension<Identity>) -> String {
    caller.username.to_string()
}

/// To the letter what forward-auth answers to the same request.
async fn as_forward_auth(server: &Server, query: &str, authorization: &[&str], answer: &Answer) {
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_bytes())).collect();
    let wanted = http::get(server.app.http, &format!("/forward-auth{query}"), &headers).await;
    assert_eq!((answer.status, &answer.body), (wanted.status, &wanted.body));
    for header in ["www-authenticate", "content-type", "cache-control", "x-latchkey-reason"] {
        assert_eq!(answer.header(header), wanted.header(header), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_is_the_same_through_validate_tonic_and_axum() {
    let settings = [("SESSION__SLOTS", "default,many"), ("SLOT__MANY__LIMIT", "2")];
    let server = Server::with(Store::Redis, &settings).await;
    let guard = guard(server.app.grpc, &server.client);
    let guarded = Guarded::start(guard.clone()).await;
    let plain = Plain::start(Router::new().route("/who", get(who)).layer(guard)).await;
    for reason in REASONS {
        let token = rejected(&server, reason).await;
        let native = server.client.rejection(&token).await;
        assert_eq!(native.reason(), reason);
        agrees(&guarded.greet(&token).await.unwrap_err(), &native);

        let answer = plain.get("/who", &token).await;
        assert_eq!(answer.status, if reason == RejectionReason::AccountDisabled { 403 } else { 401 });
        let body = answer.json();
        assert_eq!(body["reason"], reason.as_str_name().strip_prefix("REJECTION_REASON_").unwrap());
        assert_eq!((&body["message"], &body["terminal"]), (&native.message.into(), &native.terminal.into()));
        as_forward_auth(&server, "", &[&format!("Bearer {token}")], &answer).await;
    }
    assert_eq!(guarded.begun().await.0, 0, "no handler has begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_exactly_one_token_is_refused_as_at_a_gateway() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let guard = guard(server.app.grpc, &server.client);
    let guarded = Guarded::start(guard.clone()).await;
    let plain = Plain::start(Router::new().route("/who", get(who)).layer(guard)).await;
    let bearer = format!("Bearer {token}");
    let twice = format!("{bearer}, {bearer}");
    for (values, reason) in [
        (&[][..], "TOKEN_REQUIRED"),
        (&[""], "TOKEN_REQUIRED"),
        (&["Bearer"], "TOKEN_REQUIRED"),
        (&["bearer  "], "TOKEN_REQUIRED"),
        (&["", ""], "MALFORMED"),
        (&["Basic"], "MALFORMED"),
        (&["Basic YW5uYTpzZWNyZXQ="], "MALFORMED"),
        (&[&bearer, &bearer], "MALFORMED"),
        (&[&bearer, "Bearer rubbish"], "MALFORMED"),
        (&[&twice], "MALFORMED"),
    ] {
        let status = guarded.greet_with(values).await.unwrap_err();
        assert_eq!(told(&status), (Code::Unauthenticated, reason.into()), "{values:?}");
        assert_eq!(status.get_details_error_info().unwrap().metadata["terminal"], "false");
        let headers: Vec<_> = values.iter().map(|value| ("authorization", value.as_bytes())).collect();
        let answer = http::get(plain.address, "/who", &headers).await;
        assert_eq!(answer.json()["message"], status.message());
        as_forward_auth(&server, "", values, &answer).await;
    }
    assert_eq!(guarded.greet_with(&[&format!("bEARER  {token}")]).await.unwrap().text, "Hello, anna");
    assert_eq!(plain.get("/who", &token).await.body, "anna");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_or_a_slot_can_be_required_of_a_part_of_a_server() {
    let server = Server::with(Store::Embedded, &[("SESSION__SLOTS", "default,web")]).await;
    server.client.user_with_roles("anna", &["staff"]).await;
    let token = server.client.login("anna", "phone").await.token;
    let guard = guard(server.app.grpc, &server.client);
    let app = Router::new()
        .route("/staff", get(who).layer(guard.clone().required_role("staff")))
        .route("/admin", get(who).layer(guard.clone().required_role("admin")))
        .route("/web", get(who).layer(guard.clone().required_slot("web")));
    let plain = Plain::start(app).await;
    assert_eq!(plain.get("/staff", &token).await.body, "anna");
    let bearer = format!("Bearer {token}");
    for (part, query) in [("/admin", "?required_role=admin"), ("/web", "?required_slot=web")] {
        let answer = plain.get(part, &token).await;
        assert_eq!(answer.status, 403);
        as_forward_auth(&server, query, &[&bearer], &answer).await;
    }
    for (guard, reason, metadata) in [
        (guard.clone().required_role("admin"), "ROLE_REQUIRED", ("role", "admin")),
        (guard.clone().required_slot("web"), "SLOT_REQUIRED", ("slot", "web")),
    ] {
        let guarded = Guarded::start(guard).await;
        let status = guarded.greet(&token).await.unwrap_err();
        assert_eq!(told(&status), (Code::PermissionDenied, reason.into()));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.metadata[metadata.0].as_str(), &*info.metadata["terminal"]), (metadata.1, "false"));
        // First the token, and then what it is for.
        assert_eq!(told(&guarded.greet("rubbish").await.unwrap_err()).1, "MALFORMED");
        assert_eq!(guarded.begun().await.0, 0);
    }
}
