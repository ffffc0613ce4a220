//! Cookies with the same name in several scopes, such as a host and its domain: a browser keeps those of an older
//! configuration or another program and sends them beside the new one.

use latchkey::grpc::pb::{
    self, LogoutScope, RejectionReason, auth_service_client::AuthServiceClient, validate_response::Verdict,
    watch_session_response::Verdict as Watched,
};
use prost::Message as _;
use rstest::rstest;
use tonic::{Code, transport::Channel};

use super::{
    browsers::SITE,
    cookies::{pair, set_cookies, with},
    parts,
};
use crate::support::{
    client::{PASSWORD, login_request},
    http::exchange,
    server::{Server, Store},
};

const NAME: &str = "__Secure-latchkey";
const DOMAIN: [(&str, &str); 4] = [
    ("BROWSER__ORIGINS", SITE),
    ("BROWSER__SET_COOKIE", "true"),
    ("BROWSER__COOKIE_DOMAIN", "example.com"),
    ("GATEWAY__COOKIE", NAME),
];
const HOST_CLEARED: &str = "__Secure-latchkey=; Max-Age=0; Path=/; Secure; HttpOnly";
const DOMAIN_CLEARED: &str =
    "__Secure-latchkey=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax; Domain=example.com";

async fn page(server: &Server) -> AuthServiceClient<Channel> {
    AuthServiceClient::connect(format!("http://{}", server.app.grpc)).await.unwrap()
}

/// Returns a `cookie` header with these tokens under one name.
fn cookies(tokens: &[&str]) -> String {
    let pairs = tokens.iter().map(|token| format!("{NAME}={token}"));
    format!("theme=dark; {}", pairs.collect::<Vec<_>>().join("; "))
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_live_cookie_among_several_is_accepted(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, &DOMAIN).await;

    server.client.user("alice").await;
    let stale = server.client.login("alice", "old").await.token;
    let live = server.client.login("alice", "Firefox").await.token;
    let mut page = page(&server).await;
    for tokens in
        [&[&*stale, &*live][..], &[&live, &stale], &["rubbish", &stale, "a.b.c", &live], &[&live, &live]]
    {
        let sent = cookies(tokens);
        let metadata = [("origin", SITE), ("cookie", &*sent)];
        let verdict = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap();
        let verdict = verdict.into_inner().verdict.unwrap();
        assert!(matches!(&verdict, Verdict::Session(session) if session.device == "Firefox"), "{verdict:?}");
        let watch = page.watch_session(with(pb::WatchSessionRequest::default(), &metadata)).await.unwrap();
        let first = watch.into_inner().message().await.unwrap().unwrap().verdict;
        assert!(matches!(first, Some(Watched::Session(_))), "{first:?}");
        let change = pb::ChangePasswordRequest {
            current_password: PASSWORD.into(),
            new_password: PASSWORD.into(),
            ..Default::default()
        };
        page.change_password(with(change, &metadata)).await.unwrap();
    }
    // HTTP/2 may split the cookies into two header lines.
    let (one, two) = (cookies(&[&stale]), cookies(&[&live]));
    let metadata = [("origin", SITE), ("cookie", &*one), ("cookie", &*two)];
    let verdict = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap();
    assert!(matches!(verdict.into_inner().verdict, Some(Verdict::Session(_))));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_live_cookie_a_terminal_rejection_takes_precedence(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &DOMAIN).await;

    server.client.user("alice").await;
    let replaced = server.client.login("alice", "old").await.token;
    server.client.login("alice", "phone").await;
    let mut page = page(&server).await;
    let all = [&*replaced, "rubbish", "a.b.c"];
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let sent = cookies(&order.map(|place: usize| all[place]));
        let metadata = [("origin", SITE), ("cookie", &*sent)];
        let verdict = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap();
        let Some(Verdict::Rejection(rejection)) = verdict.into_inner().verdict else { panic!() };
        assert_eq!((rejection.reason(), rejection.terminal), (RejectionReason::Replaced, true));
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_four_different_cookies_are_tried(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &DOMAIN).await;

    server.client.user("alice").await;
    let live = server.client.login("alice", "Firefox").await.token;
    let mut page = page(&server).await;
    for (before, is_live) in [(3, true), (4, false)] {
        let mut tokens: Vec<_> = (0..before).map(|number| format!("rubbish{number}")).collect();
        tokens.push(live.clone());
        let sent = cookies(&tokens.iter().map(String::as_str).collect::<Vec<_>>());
        let metadata = [("origin", SITE), ("cookie", &*sent)];
        let verdict = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap();
        assert_eq!(matches!(verdict.into_inner().verdict, Some(Verdict::Session(_))), is_live);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_and_a_logout_clear_the_cookie_of_the_other_scope(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &DOMAIN).await;

    server.client.user("alice").await;
    let stale = server.client.login("alice", "old").await.token;
    let mut page = page(&server).await;
    let sent = cookies(&[&stale, "rubbish"]);
    let metadata = [("origin", SITE), ("cookie", &*sent)];
    let login = page.login(with(login_request("alice", "Firefox"), &metadata)).await.unwrap();
    let given = set_cookies(&login);
    // The new cookie comes last, for clients that treat both as the same.
    assert_eq!((given.len(), given[0].as_str()), (2, HOST_CLEARED), "{given:?}");
    assert!(given[1].ends_with("; SameSite=Lax; Domain=example.com"), "{given:?}");
    let live = pair(&given[1]).strip_prefix("__Secure-latchkey=").unwrap();
    server.client.session(live).await;

    // A browser may still have the other cookie.
    let sent = cookies(&[&stale, live]);
    let metadata = [("origin", SITE), ("cookie", &*sent)];
    let others = pb::LogoutRequest { scope: LogoutScope::Others.into(), ..Default::default() };
    let logout = page.logout(with(others, &metadata)).await.unwrap();
    assert!(set_cookies(&logout).is_empty() && logout.into_inner().rejection.is_none());
    let logout = page.logout(with(pb::LogoutRequest::default(), &metadata)).await.unwrap();
    assert_eq!(set_cookies(&logout), [HOST_CLEARED, DOMAIN_CLEARED]);
    assert_eq!(logout.into_inner().ended, 1);
    // The same again with a dead token.
    let logout = page.logout(with(pb::LogoutRequest::default(), &metadata)).await.unwrap();
    assert_eq!(set_cookies(&logout), [HOST_CLEARED, DOMAIN_CLEARED]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_cookie_clears_domain_cookies_once_they_are_seen() {
    let settings =
        [("BROWSER__ORIGINS", SITE), ("BROWSER__SET_COOKIE", "true"), ("GATEWAY__COOKIE", "token")];
    let server = Server::with(Store::Embedded, &settings).await;
    server.client.user("alice").await;
    let message = login_request("alice", "Firefox").encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], &message].concat();
    // The host of these requests is app.test.
    let login = async |cookie: &str| {
        let headers: [(&str, &[u8]); 3] = [
            ("content-type", b"application/grpc-web+proto"),
            ("origin", SITE.as_bytes()),
            ("cookie", cookie.as_bytes()),
        ];
        let line = "POST /latchkey.v1.AuthService/Login";
        let answer = exchange(server.app.grpc, line, &headers, &body).await.unwrap();
        let set = answer.headers.into_iter().filter(|(name, _)| name == "set-cookie");
        set.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let set = login("token=one").await;
    assert_eq!(set.len(), 1, "{set:?}");
    let set = login("token=one; token=two").await;
    assert_eq!(set[0], "token=; Max-Age=0; Path=/; Secure; HttpOnly; Domain=app.test");
    assert!(set.len() == 2 && set[1].ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{set:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_authorization_header_counts_as_absent(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &DOMAIN).await;

    server.client.user("alice").await;
    let stale = server.client.login("alice", "old").await.token;
    let live = server.client.login("alice", "Firefox").await.token;
    let mut page = page(&server).await;
    for tokens in [&[&*live][..], &[&stale, &live]] {
        for authorization in ["", "Bearer", "Bearer "] {
            let sent = cookies(tokens);
            let metadata = [("origin", SITE), ("cookie", &*sent), ("authorization", authorization)];
            let verdict = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap();
            assert!(matches!(verdict.into_inner().verdict, Some(Verdict::Session(_))));
        }
    }
    // Without a cookie too, the token is missing.
    let metadata = [("origin", SITE), ("authorization", "Bearer ")];
    let status = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap_err();
    assert_eq!(parts(&status), (Code::InvalidArgument, "INVALID_REQUEST".into(), vec!["token".into()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_never_the_rejection_of_another_cookie() {
    let mut server = Server::with(Store::Redis, &DOMAIN).await;
    server.client.user("alice").await;
    let live = server.client.login("alice", "Firefox").await.token;
    let mut page = page(&server).await;
    server.redis.as_mut().unwrap().kill();
    let sent = cookies(&["rubbish", &live]);
    let metadata = [("origin", SITE), ("cookie", &*sent)];
    let status = page.validate(with(pb::ValidateRequest::default(), &metadata)).await.unwrap_err();
    assert_eq!(parts(&status).1, "STORE_UNAVAILABLE");
    let status = page.logout(with(pb::LogoutRequest::default(), &metadata)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
