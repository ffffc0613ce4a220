//! `Check` of Envoy: the headers that it reads, sets and removes, and its errors.

use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost_types::value::Kind;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::{allowed, bearer, check, check_request, denied, raw_check_request, set, value_of};
use crate::support::{
    client::{PASSWORD, login_request},
    server::{Server, Store},
};

const OURS: [&str; 5] = [
    "x-latchkey-user-id",
    "x-latchkey-username",
    "x-latchkey-session-id",
    "x-latchkey-slot",
    "x-latchkey-roles",
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_is_in_headers_and_metadata(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("Jürgen, 100%", &["staff", "admin"]).await;
    let login = client.login("Jürgen, 100%", "phone").await;
    let answer = check(server.app.grpc, check_request(&[("authorization", &bearer(&login.token))], &[]))
        .await
        .unwrap();
    let ok = allowed(&answer);
    let set = set(&ok.headers);
    let session_id = login.session.unwrap().session_id;
    for (name, value) in
        OURS.iter().zip([&*user_id, "J%C3%BCrgen%2C%20100%25", &session_id, "default", "admin,staff"])
    {
        assert_eq!(value_of(&set, name), Some(value), "{name}");
    }
    assert!(ok.headers_to_remove.is_empty(), "Envoy removes after it sets: {:?}", ok.headers_to_remove);

    let metadata = answer.dynamic_metadata.as_ref().unwrap();
    let text = |name: &str| match metadata.fields[name].kind.as_ref().unwrap() {
        Kind::StringValue(text) => text.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("user_id"), user_id);
    assert_eq!(text("username"), "Jürgen, 100%");
    assert_eq!(
        (text("session_id"), text("slot"), text("device")),
        (session_id, "default".into(), "phone".into())
    );
    let Some(Kind::ListValue(roles)) = &metadata.fields["roles"].kind else { panic!("no roles") };
    assert_eq!(roles.values.len(), 2);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_identity_headers_are_removed_in_every_spelling(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let spoofed = [
        ("authorization", bearer(&token)),
        ("x_latchkey_user_id", "root".into()),
        ("x-latchkey_Roles", "admin".into()),
        ("x-latchkey-roles", "admin".into()),
        ("x-latchkey-user-id", "root".into()),
        // The header that is set replaces it. Envoy would remove that one, too.
        ("X-Latchkey-User-Id", "root".into()),
    ];
    let headers: Vec<_> = spoofed.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let raw: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    for request in [check_request(&headers, &[]), raw_check_request(&raw)] {
        let answer = check(server.app.grpc, request).await.unwrap();
        // Alice has no roles, so the header is removed and not replaced.
        let expected = ["x-latchkey-roles", "x-latchkey_Roles", "x_latchkey_user_id"];
        assert_eq!(allowed(&answer).headers_to_remove, expected);
    }
    let nobody = check_request(&headers[1..], &[("optional", "true")]);
    let answer = check(server.app.grpc, nobody).await.unwrap();
    let removed = &allowed(&answer).headers_to_remove;
    assert!(allowed(&answer).headers.is_empty() && answer.dynamic_metadata.is_none());
    assert!(OURS.iter().all(|name| removed.iter().any(|removed| removed == name)), "{removed:?}");
    assert!(removed.iter().any(|removed| removed == "x_latchkey_user_id"), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_names_and_the_cookie_are_configurable() {
    let settings = [
        ("GATEWAY__COOKIE", "__Host-token"),
        ("GATEWAY__USER_ID_HEADER", "x-user"),
        ("GATEWAY__ROLES_HEADER", ""),
    ];
    let server = Server::with(Store::Embedded, &settings).await;
    let client = &server.client;
    let user_id = client.user_with_roles("alice", &["admin"]).await;
    let token = client.login("alice", "").await.token;
    let cookie = format!("theme=dark; __Host-token={token}; lang=de");
    let headers = [("cookie", cookie.as_str()), ("x_user", "root"), ("x-latchkey-roles", "own business")];
    let answer = check(server.app.grpc, check_request(&headers, &[])).await.unwrap();
    let ok = allowed(&answer);
    let set = set(&ok.headers);
    assert_eq!(value_of(&set, "x-user"), Some(&*user_id));
    assert!(value_of(&set, "x-latchkey-roles").is_none() && value_of(&set, "x-latchkey-user-id").is_none());
    assert_eq!(ok.headers_to_remove, ["x_user"]);

    // An unusable header does not fall back to the cookie.
    let basic = [("cookie", cookie.as_str()), ("authorization", "Basic YTpi")];
    let answer = check(server.app.grpc, check_request(&basic, &[])).await.unwrap();
    assert_eq!(denied(&answer).0, 401);
    // Without a configured cookie none is read.
    let other = Server::start(Store::Embedded).await;
    let answer = check(other.app.grpc, check_request(&[("cookie", &cookie)], &[])).await.unwrap();
    let (_, denied) = denied(&answer);
    assert!(denied.body.contains("TOKEN_REQUIRED"), "{}", denied.body);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_exactly_one_token_is_denied(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let good = bearer(&token);
    let twice = format!("{good},{good}");
    let broken = format!("{good}\r\nx-latchkey-roles: admin");
    let joined = [&*twice, &broken, "Basic", "Basic YTpi", &token, "Bearer a b", "Bearer ,"];
    for value in joined {
        for optional in [&[][..], &[("optional", "true")]] {
            let answer =
                check(server.app.grpc, check_request(&[("authorization", value)], optional)).await.unwrap();
            let (status, denied) = denied(&answer);
            assert_eq!(status, 401, "{value}");
            assert!(denied.body.contains("\"MALFORMED\""), "{value}: {}", denied.body);
            assert!(!denied.body.contains(&token), "nothing that was sent is sent back");
        }
    }
    for values in [
        &[good.as_bytes(), good.as_bytes()][..],
        &[b"Bearer \xff\xfe\xfd"],
        &[b"Bearer a\0b"],
        &[broken.as_bytes()],
    ] {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        let answer = check(server.app.grpc, raw_check_request(&headers)).await.unwrap();
        assert_eq!(denied(&answer).0, 401, "{values:?}");
    }
    // The same kind of request with one good token passes.
    allowed(&check(server.app.grpc, raw_check_request(&[("authorization", good.as_bytes())])).await.unwrap());
    allowed(&check(server.app.grpc, raw_check_request(&[("Authorization", good.as_bytes())])).await.unwrap());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_token_is_denied_unless_the_route_is_optional(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let answer = check(server.app.grpc, check_request(&[], &[])).await.unwrap();
    let (status, refused) = denied(&answer);
    assert_eq!(status, 401);
    let set = set(&refused.headers);
    assert_eq!(value_of(&set, "www-authenticate"), Some("Bearer realm=\"latchkey\""));
    assert!(refused.body.contains("TOKEN_REQUIRED"), "{}", refused.body);
    allowed(&check(server.app.grpc, check_request(&[], &[("optional", "true")])).await.unwrap());
    let bad = check_request(&[("authorization", "Bearer nonsense")], &[("optional", "true")]);
    assert_eq!(denied(&check(server.app.grpc, bad).await.unwrap()).0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_can_require_a_slot_or_a_role() {
    let server = Server::with(Store::Embedded, &[("SESSION__SLOTS", "web,mobile")]).await;
    let client = &server.client;
    client.user_with_roles("alice", &["staff"]).await;
    let token = client.login("alice", "").await.token;
    let mobile = latchkey::grpc::pb::LoginRequest { slot: "mobile".into(), ..login_request("alice", "") };
    let mobile = client.try_login(mobile).await.unwrap().token;
    for (token, needs, reason) in [
        (&token, [("required_slot", "web"), ("required_role", "staff")], None),
        (&mobile, [("required_slot", "web"), ("required_role", "staff")], Some("SLOT_REQUIRED")),
        (&token, [("required_slot", "web"), ("required_role", "admin")], Some("ROLE_REQUIRED")),
    ] {
        let answer = check(server.app.grpc, check_request(&[("authorization", &bearer(token))], &needs))
            .await
            .unwrap();
        let Some(reason) = reason else {
            allowed(&answer);
            continue;
        };
        let (status, denied) = denied(&answer);
        assert_eq!((status, answer.status.as_ref().unwrap().code), (403, 7));
        assert!(denied.body.contains(reason), "{}", denied.body);
        let set = set(&denied.headers);
        assert!(value_of(&set, "www-authenticate").unwrap().contains("insufficient_scope"));
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peek_does_not_slide_and_a_check_does(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    client.user("bob").await;
    let (peeked, used) = (client.login("alice", "").await.token, client.login("bob", "").await.token);
    for _ in 0..3 {
        server.clock.advance(Duration::from_mins(25));
        for (token, extensions) in [(&peeked, &[("peek", "true")][..]), (&used, &[])] {
            let answer =
                check(server.app.grpc, check_request(&[("authorization", &bearer(token))], extensions)).await;
            let live = answer.unwrap().status.unwrap().code == 0;
            assert!(live || token == &peeked);
        }
        server.until_recorded().await;
    }
    assert_eq!(client.rejection(&peeked).await.reason().as_str_name(), "REJECTION_REASON_IDLE_TIMEOUT");
    client.session(&used).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_gateway_settings_are_errors_that_name_them(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = bearer(&client.login("alice", "").await.token);
    for (key, value) in [
        ("require_role", "admin"),
        ("required_role", "admin or staff"),
        ("required_slot", "television"),
        ("optional", "1"),
        ("peek", ""),
    ] {
        let request = check_request(&[("authorization", &token)], &[(key, value)]);
        let status = check(server.app.grpc, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{key}");
        assert!(status.message().contains(key), "{}", status.message());
        assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
    }
    // The network filter sends this.
    for attributes in [None, Some(AttributeContext::default())] {
        let status = check(server.app.grpc, CheckRequest { attributes }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("attributes.request.http"), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_an_error_and_no_denial() {
    let mut server = Server::start(Store::Redis).await;
    let client = server.client.clone();
    client.user("alice").await;
    let token = bearer(&client.login("alice", "").await.token);
    server.redis.as_mut().unwrap().kill();
    for extensions in [&[][..], &[("optional", "true")]] {
        let request = check_request(&[("authorization", &token)], extensions);
        let status = check(server.app.grpc, request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "STORE_UNAVAILABLE");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_needs_the_role_of_validate() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    let status = check(server.app.grpc, check_request(&[], &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.get_details_error_info().unwrap().reason, "CALLER_UNAUTHENTICATED");
    let mut client =
        super::AuthorizationClient::connect(format!("http://{}", server.app.grpc)).await.unwrap();
    let request: Request<_> = server.client.admin(check_request(&[], &[]));
    let answer = client.check(request).await.unwrap().into_inner();
    assert_eq!(denied(&answer).0, 401, "asked, and answered: {PASSWORD} is not a token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_the_most_headers_that_envoy_accepts_is_answered() {
    let server = Server::start(Store::Embedded).await;
    let long = "x".repeat(60 * 1024);
    let headers = [("x-long", long.as_str()), ("authorization", "Bearer nonsense")];
    let answer = check(server.app.grpc, check_request(&headers, &[])).await.unwrap();
    assert_eq!(denied(&answer).0, 401);
    let longer = "x".repeat(300 * 1024);
    let status = check(server.app.grpc, check_request(&[("x-long", &longer)], &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
