//! `/forward-auth`: its inputs, its answers, and its errors.

use super::{allowed, bearer, check, check_request, denied};
use crate::support::{
    http::get,
    process::Process,
    server::{Server, Store},
};
use rstest::rstest;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_is_in_headers(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("佐藤", &["staff", "admin"]).await;
    let login = client.login("佐藤", "").await;
    let token = bearer(&login.token);
    let answer = get(server.app.http, "/forward-auth", &[("Authorization", token.as_bytes())]).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("x-latchkey-user-id"), Some(&*user_id));
    assert_eq!(answer.header("x-latchkey-username"), Some("%E4%BD%90%E8%97%A4"));
    assert_eq!(answer.header("x-latchkey-session-id"), Some(&*login.session.unwrap().session_id));
    assert_eq!(answer.header("x-latchkey-slot"), Some("default"));
    assert_eq!(answer.header("x-latchkey-roles"), Some("admin,staff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_names_its_requirements_in_the_query(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user_with_roles("alice", &["staff"]).await;
    let token = bearer(&client.login("alice", "").await.token);
    for (query, with, without, bad) in [
        ("", 200, 401, 401),
        ("?", 200, 401, 401),
        ("?required_role=staff&required_slot=default&peek=true", 200, 401, 401),
        ("?required_role=admin", 403, 401, 401),
        ("?optional=true", 200, 200, 401),
        // Wrong settings of the gateway deny every request.
        ("?required-role=admin", 500, 500, 500),
        ("?required_role=%61dmin%20x", 500, 500, 500),
        ("?required_slot=tv", 500, 500, 500),
        ("?optional=true&optional=true", 500, 500, 500),
        ("?optional=true&required_role=staff", 500, 500, 500),
    ] {
        let path = format!("/forward-auth{query}");
        for (headers, status) in [
            (&[("authorization", token.as_bytes())][..], with),
            (&[], without),
            (&[("authorization", b"Bearer nonsense")], bad),
        ] {
            let answer = get(server.app.http, &path, headers).await;
            assert_eq!(answer.status, status, "{query}: {answer:?}");
            if status == 500 {
                assert_eq!(answer.json()["reason"], "INVALID_REQUEST");
            }
        }
    }
    let answer = get(server.app.http, "/forward-auth?required-role=admin", &[]).await;
    assert!(answer.json()["message"].as_str().unwrap().contains("required-role"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misconfigured_gateway_is_logged_once() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    for _ in 0..3 {
        assert_eq!(get(process.http, "/forward-auth?require_role=admin", &[]).await.status, 500);
    }
    assert_eq!(get(process.http, "/livez", &[]).await.status, 200);
    let logged = "invalid gateway route configuration";
    let said = process.output_until(logged);
    assert_eq!(said.matches(logged).count(), 1, "{said}");
    assert!(said.contains("`require_role` is not a known key"), "{said}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_exactly_one_token_is_denied(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let token = bearer(&client.login("alice", "").await.token);
    for headers in [
        &[("authorization", token.as_bytes()), ("Authorization", token.as_bytes())][..],
        &[("authorization", b"Bearer \xff\xfe")],
        &[("authorization", b"Basic YTpi")],
        &[("authorization", b""), ("Authorization", b"")],
        &[("authorization", b"Bearers")],
    ] {
        let answer = get(server.app.http, "/forward-auth?optional=true", headers).await;
        assert_eq!(
            (answer.status, answer.json()["reason"].as_str()),
            (401, Some("MALFORMED")),
            "{headers:?}"
        );
        assert!(answer.header("www-authenticate").unwrap().contains("invalid_request"));
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_token_counts_as_absent(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, &[("GATEWAY__COOKIE", "token")]).await;

    let client = &server.client;
    client.user("alice").await;
    let cookie = format!("token={}", client.login("alice", "").await.token);
    for value in ["", "Bearer", "Bearer ", "bearer   "] {
        let empty = ("authorization", value.as_bytes());
        let answer = get(server.app.http, "/forward-auth", &[empty]).await;
        assert_eq!((answer.status, answer.header("x-latchkey-reason")), (401, Some("TOKEN_REQUIRED")));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"latchkey\""), "{value:?}");
        let answer = get(server.app.http, "/forward-auth?optional=true", &[empty]).await;
        assert_eq!((answer.status, answer.header("x-latchkey-user-id")), (200, None), "{value:?}");
        let with_cookie = [empty, ("cookie", cookie.as_bytes())];
        assert_eq!(get(server.app.http, "/forward-auth", &with_cookie).await.status, 200, "{value:?}");

        let asked = check_request(&[("authorization", value)], &[]);
        let answer = check(server.app.grpc, asked).await.unwrap();
        assert!(denied(&answer).1.body.contains("\"TOKEN_REQUIRED\""), "{value:?}: {answer:?}");
        let asked = check_request(&[("authorization", value), ("cookie", &cookie)], &[]);
        allowed(&check(server.app.grpc, asked).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_never_a_denial() {
    let mut server = Server::start(Store::Redis).await;
    let client = server.client.clone();
    client.user("alice").await;
    let token = bearer(&client.login("alice", "").await.token);
    server.redis.as_mut().unwrap().kill();
    let answer = get(server.app.http, "/forward-auth", &[("authorization", token.as_bytes())]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(answer.json()["reason"], "STORE_UNAVAILABLE");
    assert_eq!(answer.header("x-latchkey-user-id"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_needs_the_role_of_validate() {
    let server = Server::with(Store::Embedded, &[("ACCESS__VALIDATE", "caller")]).await;
    let client = &server.client;
    client.user("alice").await;
    let token = bearer(&client.login("alice", "").await.token);
    let ask = async |keys: &[&str]| {
        let mut headers = vec![("authorization", token.as_bytes())];
        headers.extend(keys.iter().map(|key| ("x-latchkey-key", key.as_bytes())));
        get(server.app.http, "/forward-auth", &headers).await
    };
    let key = client.admin_key.as_str();
    for keys in [&[][..], &["lka_wrong"], &[key, key]] {
        let answer = ask(keys).await;
        // A 401 would blame the user.
        assert_eq!(answer.status, 500, "{keys:?}: {answer:?}");
        assert_eq!(answer.json()["reason"], "CALLER_UNAUTHENTICATED");
        assert_eq!(answer.header("x-latchkey-user-id"), None);
    }
    assert_eq!(ask(&[key]).await.status, 200);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_keys_are_sent_again_only_if_they_have_changed(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let ask = async |known: &str| {
        get(server.app.http, "/.well-known/jwks.json", &[("if-none-match", known.as_bytes())]).await
    };
    let first = ask("\"other\"").await;
    assert_eq!((first.status, first.header("content-type")), (200, Some("application/json")));
    assert_eq!(first.header("cache-control"), Some("public, max-age=60"));
    assert!(first.body.contains("Ed25519"));
    let tag = first.header("etag").unwrap().to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
        let again = ask(&known).await;
        assert_eq!(
            (again.status, again.body.as_str(), again.header("etag")),
            (304, "", Some(&*tag)),
            "{known}"
        );
    }
    assert_eq!(ask(tag.trim_matches('"')).await.status, 200, "a tag has quotes");
}
