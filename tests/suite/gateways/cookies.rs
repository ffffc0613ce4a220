//! Cookies of one name that a browser holds for several scopes, as gateways pass them on.

use super::{bearer, check, denied, question, raw_question, set, value_of};
use crate::support::{
    http::get,
    server::{Server, Store},
};
use rstest::rstest;

const COOKIE: [(&str, &str); 1] = [("GATEWAY__COOKIE", "token")];

/// The reason why `cookies` do not pass, at each of the surfaces; `None` where they pass as `user_id`.
async fn reasons(server: &Server, user_id: &str, cookies: &[&str]) -> [Option<String>; 3] {
    let lines: Vec<_> = cookies.iter().map(|cookie| ("cookie", cookie.as_bytes())).collect();
    let joined = cookies.join("; ");
    let mut told = Vec::new();
    for question in [question(&[("cookie", &joined)], &[]), raw_question(&lines)] {
        let answer = check(server.app.grpc, question).await.unwrap();
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
async fn any_of_several_cookies_that_is_a_live_session_passes(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
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
    // What is terminal is told, whatever stands before it; and no more than four are tried.
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
async fn a_doubled_authorization_is_denied_although_a_cookie_is_live(
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
    let answer = check(server.app.grpc, raw_question(&headers)).await.unwrap();
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
    let status = check(server.app.grpc, question(&[("cookie", &cookie)], &[])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
}
