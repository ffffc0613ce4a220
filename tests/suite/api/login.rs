//! Login, and promise P1: the latest login wins.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb::{self, RejectionReason};
use rstest::rstest;
use tonic::Code;

use super::{assert_invalid, disable, part, parts, seconds};
use crate::support::client::{PASSWORD, is_live, login_request};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_login_replaces_the_old_one_and_both_learn_of_it(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("alice", &["staff"]).await;
    let first = client.login("alice", "Android").await;
    assert!(first.displaced.is_empty());
    assert_eq!(client.session(&first.token).await.user_id, user_id);

    let second = client.login("ALICE", "iPhone").await;
    let displaced = &second.displaced[0];
    let old = first.session.unwrap();
    assert_eq!((&displaced.session_id, displaced.device.as_str()), (&old.session_id, "Android"));
    assert_eq!((&displaced.slot, displaced.issued_at), (&old.slot, old.issued_at));

    let rejection = client.rejection(&first.token).await;
    assert_eq!(rejection.reason(), RejectionReason::Replaced);
    assert!(rejection.terminal);
    assert_eq!(rejection.by_device, "iPhone");
    assert_eq!(rejection.at, second.session.as_ref().unwrap().issued_at);
    assert_eq!(client.session(&second.token).await.device, "iPhone");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_and_the_session_agree(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("Alice", &["staff", "billing"]).await;
    let answer = client.login("alice", "laptop").await;
    let session = answer.session.unwrap();
    assert_eq!(
        session,
        pb::Session {
            session_id: session.session_id.clone(),
            user_id: user_id.clone(),
            username: "Alice".into(),
            slot: "default".into(),
            device: "laptop".into(),
            roles: vec!["billing".into(), "staff".into()],
            issued_at: session.issued_at,
            expires_at: session.expires_at,
            idle_expires_at: session.idle_expires_at,
            last_seen_at: None,
        }
    );
    let (header, claims) = (part(&answer.token, 0), part(&answer.token, 1));
    assert_eq!((&header["alg"], &header["typ"]), (&"EdDSA".into(), &"at+jwt".into()));
    assert!(header["kid"].is_string());
    assert_eq!(claims["sub"], user_id);
    assert_eq!(claims["jti"], session.session_id);
    assert_eq!((&claims["iss"], &claims["aud"]), (&"latchkey".into(), &"latchkey".into()));
    assert_eq!(
        (&claims["slot"], &claims["roles"]),
        (&"default".into(), &serde_json::json!(["billing", "staff"]))
    );
    assert_eq!(
        (&claims["iat"], &claims["nbf"]),
        (&seconds(session.issued_at).into(), &seconds(session.issued_at).into())
    );
    assert_eq!(claims["exp"], seconds(session.expires_at));
    let lifetime = seconds(session.expires_at) - seconds(session.issued_at);
    assert!((86400..=86401).contains(&lifetime), "{lifetime}");
    let idle = seconds(session.idle_expires_at) - seconds(session.issued_at);
    assert!((3600..=3601).contains(&idle), "{idle}");
    let bits = data_encoding::BASE32_NOPAD.decode(session.session_id.to_uppercase().as_bytes()).unwrap();
    assert_eq!(bits.len() * 8, 128);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_user_and_a_wrong_password_get_the_same_error(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let disabled = client.user("disabled").await;
    client.user("alice").await;
    client.update(disable(&disabled)).await;
    let mut told = Vec::new();
    for (username, password) in
        [("alice", "wrong password"), ("nobody", PASSWORD), ("disabled", "wrong password"), ("alice", "x")]
    {
        let before = server.app.engine.passwords().hasher().hashes();
        let message = pb::LoginRequest { password: password.into(), ..login_request(username, "") };
        let status = client.try_login(message).await.unwrap_err();
        assert_eq!(
            server.app.engine.passwords().hasher().hashes() - before,
            1,
            "{username}: exactly one hash"
        );
        told.push((parts(&status), status.message().to_owned(), status.details().to_vec()));
    }
    assert_eq!(told[0].0, (Code::Unauthenticated, "INVALID_CREDENTIALS".into(), vec![]));
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_password_learns_that_the_account_is_disabled(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    client.update(disable(&user_id)).await;
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!(parts(&status), (Code::PermissionDenied, "ACCOUNT_DISABLED".into(), vec![]));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_login_displaces_nobody(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let live = client.login("alice", "Android").await;
    let wrong = pb::LoginRequest { password: "wrong password".into(), ..login_request("alice", "") };
    client.try_login(wrong).await.unwrap_err();
    let elsewhere = pb::LoginRequest { slot: "tv".into(), ..login_request("alice", "") };
    client.try_login(elsewhere).await.unwrap_err();
    assert!(is_live(&client.validate(&live.token).await));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_violation_of_a_login_is_named(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let usual = || login_request("alice", "");
    for (message, field) in [
        (pb::LoginRequest { username: String::new(), ..usual() }, "username"),
        (pb::LoginRequest { username: "x".repeat(255), ..usual() }, "username"),
        (pb::LoginRequest { username: "a\u{0}b".into(), ..usual() }, "username"),
        (pb::LoginRequest { password: String::new(), ..usual() }, "password"),
        (pb::LoginRequest { password: "x".repeat(4097), ..usual() }, "password"),
        (pb::LoginRequest { slot: "tv".into(), ..usual() }, "slot"),
        (pb::LoginRequest { slot: "DEFAULT".into(), ..usual() }, "slot"),
        (pb::LoginRequest { device: "x".repeat(129), ..usual() }, "device"),
        (pb::LoginRequest { device: "a\nb".into(), ..usual() }, "device"),
    ] {
        let shown = format!("{message:?}");
        let before = server.app.engine.passwords().hasher().hashes();
        let status = client.try_login(message).await.unwrap_err();
        assert_invalid(&status, field);
        assert_eq!(
            server.app.engine.passwords().hasher().hashes(),
            before,
            "{shown}: refused before any hash"
        );
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_username_is_the_same_in_any_case_and_composition(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("Jürgen").await;
    for spelling in ["jürgen", "JÜRGEN", "ju\u{308}rgen"] {
        let answer = client.login(spelling, "").await;
        let session = answer.session.unwrap();
        assert_eq!((session.user_id, session.username.as_str()), (user_id.clone(), "Jürgen"), "{spelling}");
    }
    let password = pb::LoginRequest { password: PASSWORD.to_uppercase(), ..login_request("jürgen", "") };
    client.try_login(password).await.unwrap_err();
}

const TWO_SLOTS: &[(&str, &str)] = &[("SESSION__SLOTS", "web,mobile")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_slot_has_a_latest_login_of_its_own(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, TWO_SLOTS).await;

    let client = &server.client;
    client.user("alice").await;
    let login = async |slot: &str| {
        client
            .try_login(pb::LoginRequest { slot: slot.into(), ..login_request("alice", slot) })
            .await
            .unwrap()
    };
    let web = login("").await;
    assert_eq!(web.session.as_ref().unwrap().slot, "web", "the first slot is the usual one");
    let mobile = login("mobile").await;
    assert!(mobile.displaced.is_empty());
    assert!(is_live(&client.validate(&web.token).await));
    let newer = login("web").await;
    assert_eq!(newer.displaced.len(), 1);
    assert_eq!(client.rejection(&web.token).await.reason(), RejectionReason::Replaced);
    assert!(is_live(&client.validate(&mobile.token).await));
}

const LIMIT_TWO: &[(&str, &str)] = &[("SESSION__LIMIT", "2")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_the_oldest_is_evicted(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, LIMIT_TWO).await;

    let client = &server.client;
    client.user("alice").await;
    let mut tokens = Vec::new();
    for device in ["a", "b", "c"] {
        tokens.push(client.login("alice", device).await.token);
    }
    let rejection = client.rejection(&tokens[0]).await;
    assert_eq!((rejection.reason(), rejection.by_device.as_str()), (RejectionReason::Evicted, "c"));
    assert!(rejection.terminal);
    assert!(is_live(&client.validate(&tokens[1]).await) && is_live(&client.validate(&tokens[2]).await));
}
