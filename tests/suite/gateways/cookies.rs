//! Cookies with the same name in several scopes, as gateways forward them.

use super::{bearer, check, check_request, denied, raw_check_request, set, value_of};
use crate::support::{
    http::get,
    server::{Server, Store},
};
use rstest::rstest;

const COOKIE: [(&str, &str); 1] = [("GATEWAY__COOKIE", "token")];

/// Returns the reason of the denial of `cookies` on each surface, or `None` if they pass as `user_id`.
async fn reasons(server: &Server, user_id: &str, cookies: &[&str]) -> [Option<String>; 3] {
    let lines: Vec<_> = cookies.iter().map(|cookie| ("cookie", cookie.as_bytes())).collect();
    let joined = cookies.join("; ");
    let mut told = Vec::new();
    for request in [check_request(&[("cookie", &joined)], &[]), raw_check_request(&lines)] {
        let answer = check(server.app.grpc, request).await.unwrap();
        told.push(if answer.status.as_ref().unwrap().code == 0 {
            let passes = super::allowed(&answer);
            assert_eq!(value_of(&set(&passes.headers), "x-latchkey-user-id"), Some(user_id));
            None
        } else {
            let body: serde_json::Value = serde_json::from_str(&denied(&answer).1.body).unwrap();
            Some(body["reason"].as_str().unwrap().to_owned())
        });
    }
    let answer = get(server.app.http, "/forward-auth", &lines).await;
    told.push(if answer.status == 200 {
        assert_eq!(answer.header("x-latchkey-user-id"), Some(user_id));
        None
    } else {
        answer.header("x-latchkey-reason").map(str::to_owned)
    });
    told.try_into().unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_live_cookie_among_several_passes(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, &COOKIE).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let stale = format!("token={}", client.login("alice", "old").await.token);
    let live = format!("token={}", client.login("alice", "Firefox").await.token);
    let quoted = format!("token=\"{}\"", live.strip_prefix("token=").unwrap());
    for cookies in [
        &[&*stale, &*live][..],
        &[&live, &stale],
        &["theme=dark", "token=rubbish", &stale, "token=a.b.c", &live],
        &["token=", &live],
        &[&live, &live, &quoted],
    ] {
        assert_eq!(reasons(&server, &user_id, cookies).await, [None, None, None], "{cookies:?}");
    }
    // A terminal rejection takes precedence, and only four cookies are tried.
    let replaced = Some("REPLACED".to_owned());
    for cookies in [&[&*stale, "token=x"][..], &["token=x", "token=a.b.c", &stale]] {
        assert_eq!(reasons(&server, &user_id, cookies).await, [(); 3].map(|()| replaced.clone()));
    }
    let five = ["token=1", "token=2", "token=3", "token=4", &live];
    let malformed = Some("MALFORMED".to_owned());
    assert_eq!(reasons(&server, &user_id, &five).await, [(); 3].map(|()| malformed.clone()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_authorization_header_is_denied_despite_a_live_cookie(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &COOKIE).await;

    let client = &server.client;
    client.user("alice").await;
    let token = client.login("alice", "Firefox").await.token;
    let (bearer, cookie) = (bearer(&token), format!("token={token}"));
    let headers: [(&str, &[u8]); 3] = [
        ("authorization", bearer.as_bytes()),
        ("authorization", bearer.as_bytes()),
        ("cookie", cookie.as_bytes()),
    ];
    let answer = check(server.app.grpc, raw_check_request(&headers)).await.unwrap();
    assert!(denied(&answer).1.body.contains("\"MALFORMED\""));
    let answer = get(server.app.http, "/forward-auth", &headers).await;
    assert_eq!((answer.status, answer.header("x-latchkey-reason")), (401, Some("MALFORMED")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_never_the_denial_of_another_cookie() {
    let mut server = Server::with(Store::Redis, &COOKIE).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    server.redis.as_mut().unwrap().kill();
    let cookie = format!("token=rubbish; token={token}");
    let answer = get(server.app.http, "/forward-auth", &[("cookie", cookie.as_bytes())]).await;
    assert_eq!((answer.status, answer.header("x-latchkey-reason")), (503, None), "{answer:?}");
    let status = check(server.app.grpc, check_request(&[("cookie", &cookie)], &[])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
}
