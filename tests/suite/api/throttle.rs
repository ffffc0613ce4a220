//! Throttling of password guesses: waits, locks, and limits for addresses.

use rstest::rstest;
use std::time::Duration;

use latchkey::grpc::pb::{self, unlock_account_request::Key};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{disable, parts};
use crate::support::{
    client::{Client, PASSWORD, login_request},
    server::{Server, Store},
};

/// Makes a login with a wrong password from a client address, as a proxy forwards it.
fn guess(username: &str, from: &str) -> Request<pb::LoginRequest> {
    let message = pb::LoginRequest { password: "not this one".into(), ..login_request(username, "") };
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-forwarded-for", from.parse().unwrap());
    request
}

/// Why a wrong password was refused.
async fn refused(client: &Client, request: Request<pb::LoginRequest>) -> Status {
    client.auth.clone().login(request).await.unwrap_err()
}

fn reason(status: &Status) -> String {
    parts(status).1
}

fn retry_after(status: &Status) -> Duration {
    let details = status.get_error_details();
    details
        .retry_info()
        .and_then(|info| info.retry_delay)
        .unwrap_or_else(|| panic!("no RetryInfo: {status:?}"))
}

async fn unlock(client: &Client, username: &str) -> u32 {
    let message = pb::UnlockAccountRequest { key: Some(Key::Username(username.into())) };
    client.accounts.clone().unlock_account(client.admin(message)).await.unwrap().into_inner().failures
}

async fn standing(client: &Client, username: &str) -> pb::LoginThrottle {
    let key = Some(pb::get_account_request::Key::Username(username.into()));
    let request = client.admin(pb::GetAccountRequest { key });
    client.accounts.clone().get_account(request).await.unwrap().into_inner().login_throttle.unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_five_wrong_passwords_logins_wait_without_a_hash(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    for _ in 0..5 {
        assert_eq!(reason(&refused(client, guess("alice", "198.51.100.1")).await), "INVALID_CREDENTIALS");
    }
    let hashes = server.app.engine.passwords().hasher().hashes();
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "THROTTLED"));
    let wait = retry_after(&status);
    assert!(wait > Duration::from_millis(900) && wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(server.app.engine.passwords().hasher().hashes(), hashes);

    server.clock.advance(wait);
    client.login("alice", "").await;
    server.until_settled("alice").await;
    assert_eq!(standing(client, "alice").await, pb::LoginThrottle::default(), "a success clears");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_name_is_throttled_exactly_as_a_known_one(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let disabled = client.user("disabled").await;
    client.user("alice").await;
    client.update(disable(&disabled)).await;
    let malformed = client.user("malformed").await;
    server.break_hash(&malformed).await;
    let mut told = Vec::new();
    for name in ["alice", "nobody", "disabled", "malformed"] {
        let mut answers = Vec::new();
        for _ in 0..9 {
            let before = server.app.engine.passwords().hasher().hashes();
            let status = refused(client, guess(name, "198.51.100.1")).await;
            let hashes = server.app.engine.passwords().hasher().hashes() - before;
            let expected = u64::from(reason(&status) == "INVALID_CREDENTIALS");
            assert_eq!(hashes, expected, "{name}: {status:?}");
            let wait =
                status.get_error_details().retry_info().map(|info| info.retry_delay.unwrap().as_secs());
            answers.push((status.code(), status.message().to_owned(), parts(&status), wait));
            server.clock.advance(Duration::from_millis(500));
        }
        told.push(answers);
    }
    assert_eq!(told[0].iter().filter(|answer| answer.2.1 == "THROTTLED").count(), 3);
    assert!(told.iter().all(|answers| *answers == told[0]), "{told:#?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_failures_lock_the_username_until_an_operator_unlocks_it(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &[("THROTTLE__ADDRESS_FAILURES", "0")]).await;

    let client = &server.client;
    client.user("alice").await;
    let live = client.login("alice", "").await.token;
    for name in ["alice", "nobody"] {
        for _ in 0..100 {
            assert_eq!(reason(&refused(client, guess(name, "198.51.100.1")).await), "INVALID_CREDENTIALS");
            server.clock.advance(Duration::from_mins(15));
        }
        let status = client.try_login(login_request(name, "")).await.unwrap_err();
        assert_eq!(reason(&status), "THROTTLED");
        assert!(status.message().contains("operator"), "{}", status.message());
        assert!(retry_after(&status) >= Duration::from_hours(1));
    }
    assert!(standing(client, "alice").await.locked);
    assert!(client.rejection(&live).await.reason() != pb::RejectionReason::Unspecified, "idle by now");

    assert_eq!(unlock(client, "alice").await, 100);
    client.login("alice", "").await;
    assert_eq!(unlock(client, "nobody").await, 100, "a name that nobody has, too");
    assert_eq!(unlock(client, "alice").await, 0);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_keeps_sessions_alive_and_a_new_password_unlocks(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server =
        Server::with(store, &[("THROTTLE__MAX_FAILURES", "3"), ("THROTTLE__FREE_ATTEMPTS", "3")]).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    for _ in 0..3 {
        refused(client, guess("alice", "198.51.100.1")).await;
    }
    assert_eq!(reason(&client.try_login(login_request("alice", "")).await.unwrap_err()), "THROTTLED");
    client.session(&token).await;

    let message = pb::SetPasswordRequest { user_id, password: PASSWORD.into() };
    client.accounts.clone().set_password(client.admin(message)).await.unwrap();
    client.login("alice", "").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_try_many_usernames(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, &[("THROTTLE__ADDRESS_FAILURES", "20")]).await;

    let client = &server.client;
    client.user("alice").await;
    for number in 0..20 {
        let from = ["2001:db8::1", "2001:db8::ffff"][number % 2];
        let status = refused(client, guess(&format!("user{number}"), from)).await;
        assert_eq!(reason(&status), "INVALID_CREDENTIALS");
    }
    let hashes = server.app.engine.passwords().hasher().hashes();
    let status = refused(client, guess("user99", "2001:db8::2")).await;
    assert_eq!(reason(&status), "THROTTLED");
    assert!(retry_after(&status) <= Duration::from_mins(3));
    assert_eq!(server.app.engine.passwords().hasher().hashes(), hashes);
    assert_eq!(standing(client, "alice").await.failures, 0);

    client.login("alice", "").await;
    assert_eq!(reason(&refused(client, guess("user99", "2001:db8:0:1::2")).await), "INVALID_CREDENTIALS");
    server.clock.advance(Duration::from_mins(3));
    assert_eq!(reason(&refused(client, guess("user99", "2001:db8::2")).await), "INVALID_CREDENTIALS");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_logins_with_the_right_password_succeed(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    let mut logins = JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        logins.spawn(async move { client.login("alice", "").await });
    }
    assert_eq!(logins.join_all().await.len(), 50);
    server.until_settled("alice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_101_parallel_guesses_from_50_addresses_over_two_replicas_at_most_100_are_checked() {
    // The first setting allows the most concurrent attempts, and the default the fewest.
    let all: &[(&str, &str)] = &[("THROTTLE__FREE_ATTEMPTS", "100")];
    for (settings, most) in [(all, 100), (&[], 5)] {
        let one = Server::with(Store::Redis, settings).await;
        let two = Server::beside(&one, settings).await;
        one.client.user("alice").await;
        two.client.user("alice").await;
        let before =
            one.app.engine.passwords().hasher().hashes() + two.app.engine.passwords().hasher().hashes();
        let mut guesses = JoinSet::new();
        for number in 0..101 {
            let client = if number % 2 == 0 { one.client.clone() } else { two.client.clone() };
            let from = format!("198.51.100.{}", number % 50);
            guesses.spawn(async move { refused(&client, guess("alice", &from)).await });
        }
        let answers = guesses.join_all().await;
        let checked = one.app.engine.passwords().hasher().hashes()
            + two.app.engine.passwords().hasher().hashes()
            - before;
        let wrong = answers.iter().filter(|status| reason(status) == "INVALID_CREDENTIALS").count();
        let throttled = answers.iter().filter(|status| reason(status) == "THROTTLED").count();
        assert_eq!((wrong + throttled, checked), (101, wrong as u64));
        assert_eq!(checked, most, "every one that may be is checked, and no more");
        assert_eq!(standing(&two.client, "alice").await.failures, u32::try_from(most).unwrap());
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_logins_to_a_throttled_username_throttle_the_address(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &[("THROTTLE__ADDRESS_FAILURES", "20")]).await;

    let client = &server.client;
    client.user("alice").await;
    client.user("bob").await;
    let attacker = "198.51.100.1";
    for _ in 0..20 {
        refused(client, guess("alice", attacker)).await;
    }
    assert_eq!(standing(client, "alice").await.failures, 5, "the others were refused");
    // The wait of the username is over, and the attacker cannot use up the next attempt.
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(reason(&refused(client, guess("alice", attacker)).await), "THROTTLED");
    assert_eq!(reason(&refused(client, guess("bob", attacker)).await), "THROTTLED");
    assert_eq!(standing(client, "alice").await.failures, 5);
    client.login("alice", "").await;
}

const LONG_SESSIONS: &[(&str, &str)] = &[
    ("THROTTLE__ADDRESS_FAILURES", "0"),
    ("SESSION__IDLE_TIMEOUT", "30d"),
    ("SESSION__ABSOLUTE_TIMEOUT", "30d"),
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attacker_does_not_lock_out_a_known_client(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, LONG_SESSIONS).await;

    let client = &server.client;
    client.user("alice").await;
    let (home, elsewhere) = ("203.0.113.7", "203.0.113.8");
    let login = async |from: &str| {
        let mut request = Request::new(login_request("alice", ""));
        request.metadata_mut().insert("x-forwarded-for", from.parse().unwrap());
        client.auth.clone().login(request).await
    };
    login(home).await.unwrap();
    for _ in 0..90 {
        assert_eq!(reason(&refused(client, guess("alice", "198.51.100.1")).await), "INVALID_CREDENTIALS");
        server.clock.advance(Duration::from_mins(15));
    }
    // The last attempts of a hundred are reserved for known clients, which no answer reveals.
    assert_eq!(reason(&login(elsewhere).await.unwrap_err()), "INVALID_CREDENTIALS");
    for _ in 0..9 {
        server.clock.advance(Duration::from_mins(15));
        assert_eq!(reason(&refused(client, guess("alice", "198.51.100.1")).await), "INVALID_CREDENTIALS");
    }
    assert!(standing(client, "alice").await.locked);
    assert_eq!(reason(&login(elsewhere).await.unwrap_err()), "THROTTLED");

    // Wrong passwords of a known client have their own count and waits.
    for _ in 0..5 {
        assert_eq!(reason(&refused(client, guess("alice", home)).await), "INVALID_CREDENTIALS");
    }
    assert_eq!(reason(&login(home).await.unwrap_err()), "THROTTLED");
    server.clock.advance(Duration::from_secs(1));
    login(home).await.unwrap();
    server.until_settled("alice").await;
    // A right password resets the count.
    login(elsewhere).await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_client_without_attempts_left_is_throttled_like_any_other(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, LONG_SESSIONS).await;

    let client = &server.client;
    client.user("alice").await;
    let home = "203.0.113.7";
    let mut request = Request::new(login_request("alice", ""));
    request.metadata_mut().insert("x-forwarded-for", home.parse().unwrap());
    client.auth.clone().login(request).await.unwrap();
    let hashes = server.app.engine.passwords().hasher().hashes();
    let mut checked = 0;
    while !standing(client, "alice").await.locked {
        checked += u64::from(reason(&refused(client, guess("alice", home)).await) == "INVALID_CREDENTIALS");
        server.clock.advance(Duration::from_mins(15));
        assert!(checked <= 100, "more than a hundred wrong passwords in a row");
    }
    assert_eq!((checked, server.app.engine.passwords().hasher().hashes() - hashes), (100, 100));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_networks_of_one_site_share_a_limit(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, &[("THROTTLE__ADDRESS_FAILURES", "2")]).await;

    let client = &server.client;
    let try_from = async |number: u32| {
        // Each /64 makes two attempts, and a /56 has 256 of them.
        let from = format!("2001:db8:1:{:x}::1", number / 2);
        reason(&refused(client, guess(&format!("user{number}"), &from)).await)
    };
    for number in 0..8 {
        assert_eq!(try_from(number).await, "INVALID_CREDENTIALS", "{number}");
    }
    assert_eq!(try_from(8).await, "THROTTLED", "a /56 has four times as many");
    for other in 1..4 {
        for number in 0..8 {
            assert_eq!(try_from(512 * other + number).await, "INVALID_CREDENTIALS", "{other} {number}");
        }
    }
    assert_eq!(try_from(512 * 4).await, "THROTTLED", "a /48 has 16 times as many");
    assert_eq!(reason(&refused(client, guess("other", "2001:db8:2::1")).await), "INVALID_CREDENTIALS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_trail_distinguishes_a_wait_from_a_lock() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let settings = [("AUDIT__FILE", file.to_str().unwrap()), ("THROTTLE__MAX_FAILURES", "7")];
    let server = Server::with(Store::Embedded, &settings).await;
    server.client.user("alice").await;
    for name in ["alice", "nobody"] {
        for _ in 0..7 {
            refused(&server.client, guess(name, "198.51.100.1")).await;
            if standing(&server.client, "alice").await.failures == 5 {
                refused(&server.client, guess("alice", "198.51.100.1")).await;
            }
            server.clock.advance(Duration::from_mins(1));
        }
        refused(&server.client, guess(name, "198.51.100.1")).await;
    }
    assert!(server.app.stop().await);
    let trail = std::fs::read_to_string(file).unwrap();
    let of = |action: &str| -> Vec<serde_json::Value> {
        let lines = trail.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["action"] == action).collect()
    };
    for action in ["account.slowed", "account.locked"] {
        let entries = of(action);
        assert_eq!(entries.len(), 2, "one for each name: {trail}");
        assert_eq!(
            (&entries[0]["username"], &entries[0]["address"]),
            (&"alice".into(), &"198.51.100.1".into())
        );
        assert!(entries[1].get("username").is_none() && !entries[1].to_string().contains("nobody"));
        assert!(entries[1]["detail"].as_str().unwrap().starts_with("username with the hash "), "{trail}");
    }
    let refused: Vec<_> = of("login").into_iter().filter(|line| line["reason"] == "THROTTLED").collect();
    let count =
        |text: &str| refused.iter().filter(|line| line["detail"].as_str().unwrap().ends_with(text)).count();
    assert_eq!((count("has to wait"), count("locked until an operator unlocks it")), (1, 2), "{trail}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_a_day_fast_causes_no_wait_of_a_day(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    client.user("alice").await;
    server.clock.advance(Duration::from_hours(24));
    for _ in 0..5 {
        assert_eq!(reason(&refused(client, guess("alice", "198.51.100.1")).await), "INVALID_CREDENTIALS");
    }
    server.clock.set_back(Duration::from_hours(24));
    let status = client.try_login(login_request("alice", "")).await.unwrap_err();
    assert!(retry_after(&status) <= Duration::from_secs(1), "{status:?}");
    server.clock.advance(Duration::from_secs(1));
    client.login("alice", "").await;
}
