//! nginx with `deploy/nginx/latchkey.conf`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{SPOOFED, bearer, get_with_token, passes_identity, programs::nginx};
use crate::support::{
    address::unused_address,
    http::{Echo, get},
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_live_session_passes_with_its_identity() {
    let (server, echo) = (Server::start(Store::Embedded).await, Echo::start().await);
    let Some(nginx) = nginx(server.app.http, echo.address, &[]).await else { return };
    let client = &server.client;
    let token = &*passes_identity(client, nginx.address, &["/", "/home/", "/poll/"]).await;
    for path in ["/", "/admin/", "/poll/", "/public/../", "/public/%2e%2e/", "/latchkey?optional=true"] {
        let answer = get_with_token(nginx.address, path, None, &SPOOFED).await;
        assert!([401, 404].contains(&answer.status), "{path}: {answer:?}");
    }

    // The newer login wins, and the older one gets the answer of Latchkey unchanged.
    let newer = client.login("Jürgen", "Jürgens \"iPhone\"").await.token;
    assert_eq!(get_with_token(nginx.address, "/", Some(&newer), &[]).await.status, 200);
    let original = get_with_token(server.app.http, "/forward-auth", Some(token), &[]).await;
    for path in ["/", "/home/", "/admin/", "/poll/"] {
        let answer = get_with_token(nginx.address, path, Some(token), &[]).await;
        assert_eq!(answer.status, 401, "{path}");
        for name in ["www-authenticate", "x-latchkey-reason", "content-type", "cache-control"] {
            assert_eq!(answer.header(name), original.header(name), "{path}: {name}");
        }
        assert_eq!(answer.json(), original.json());
        assert_eq!(answer.json()["by_device"], "Jürgens \"iPhone\"");
    }
    // Two tokens are denied.
    let second = bearer(&newer);
    let twice =
        get_with_token(nginx.address, "/", Some(&newer), &[("Authorization", second.as_bytes())]).await;
    assert!([400, 401].contains(&twice.status), "{twice:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_cookie_is_accepted() {
    let server = Server::with(Store::Embedded, &[("GATEWAY__COOKIE", "token")]).await;
    let echo = Echo::start().await;
    let Some(nginx) = nginx(server.app.http, echo.address, &[]).await else { return };
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let cookie = format!("theme=dark; token={token}");
    assert_eq!(get(nginx.address, "/", &[("cookie", cookie.as_bytes())]).await.status, 200);
    assert_eq!(get(nginx.address, "/", &[("cookie", b"token=x")]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_key_comes_from_nginx_and_never_from_the_client() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    let echo = Echo::start().await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let key = server.client.admin_key.as_str();
    let line = format!("proxy_set_header X-Latchkey-Key {key};");
    let with_key = [("# proxy_set_header X-Latchkey-Key lkc_...;", line.as_str())];
    let Some(without) = nginx(server.app.http, echo.address, &[]).await else { return };
    let Some(with) = nginx(server.app.http, echo.address, &with_key).await else { return };
    assert_eq!(get_with_token(with.address, "/", Some(&token), &[]).await.status, 200);
    assert_eq!(
        get_with_token(with.address, "/", Some(&token), &[("x-latchkey-key", b"wrong")]).await.status,
        200
    );
    assert_eq!(
        get_with_token(without.address, "/", Some(&token), &[("x-latchkey-key", key.as_bytes())])
            .await
            .status,
        503
    );
}

/// Checks that nginx denies requests while Latchkey cannot answer.
async fn denies_during_outage(latchkey: SocketAddr, token: &str, break_it: impl AsyncFnOnce()) {
    let echo = Echo::start().await;
    let Some(nginx) = nginx(latchkey, echo.address, &[]).await else { return };
    break_it().await;
    for path in ["/", "/home/", "/admin/"] {
        let begun = Instant::now();
        let answer = get_with_token(nginx.address, path, Some(token), &SPOOFED).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{path}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), None, "it is not the token's fault");
        assert_eq!(answer.json()["reason"], "UNAVAILABLE");
        assert!(begun.elapsed() < Duration::from_secs(4), "took {:?}", begun.elapsed());
    }
    assert_eq!(
        get_with_token(nginx.address, "/public/", None, &[]).await.status,
        200,
        "this needs no answer"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_denied_while_latchkey_is_down() {
    denies_during_outage(unused_address(), "nonsense", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_denied_while_latchkey_hangs() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let proxy = Proxy::to(server.app.http.port()).await;
    denies_during_outage(proxy.address, &token, async || proxy.set(ProxyMode::Stall)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_denied_while_the_store_is_down() {
    let mut server = Server::start(Store::Redis).await;
    server.client.user("alice").await;
    let token = server.client.login("alice", "").await.token;
    let http = server.app.http;
    denies_during_outage(http, &token, async || server.redis.as_mut().unwrap().kill()).await;
}
