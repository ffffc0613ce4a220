//! Renewal of stored hashes at login, password policy, and login bursts.

use rstest::rstest;
use std::time::Duration;

use latchkey::{
    domain::{password::PasswordHash, types::UserId},
    grpc::pb,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::parts;
use crate::support::{
    client::{PASSWORD, login_request},
    server::{Server, Store},
};

async fn stored(server: &Server, user_id: &str) -> PasswordHash {
    let id = UserId::parse(user_id).unwrap();
    server.app.engine.accounts().get(&id).await.unwrap().unwrap().password
}

/// Replaces the stored hash.
async fn store_hash(server: &Server, user_id: &str, hash: &str) {
    let id = UserId::parse(user_id).unwrap();
    let accounts = server.app.engine.accounts();
    let current = accounts.get(&id).await.unwrap().unwrap();
    let new = PasswordHash::new(hash.into());
    accounts.rehash(&current.username, &id, &current.password, &new).await.unwrap();
}

/// Waits until the hash has changed, which happens after the answer to the login.
async fn renewed(server: &Server, user_id: &str, old: &str) -> PasswordHash {
    let mut waited = 0;
    loop {
        let now = stored(server, user_id).await;
        if now.as_str() != old {
            return now;
        }
        waited += 1;
        assert!(waited < 1000, "the hash was not renewed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Hashes of the usual password in other formats, and the format that replaces each.
const OTHERS: &[(&str, &str)] = &[
    (
        "pbkdf2_sha256$1000$rmaik8GP3v2AyiMgfu4ZAc$S0Nj3cnTf10J7UxslGFLveOZoHdEXqtqWsNx3t+7Lcs=",
        "argon2$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "pbkdf2_sha1$1000$ORs27YLNM6dAlZupFRlG3f$iD4r6VoMyM9Vin+olj+5vkWOm7A=",
        "argon2$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "argon2$argon2id$v=19$m=64,t=2,p=2$RHpjeTBPcktWTzlvZk5oNmJRZ1BMbw$P5EcGzuJquoEkeYsLt6I/6UKW/q3nEW6s3NTWR1MmLc",
        "argon2$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "scrypt$64$YcmSHoHcIgyYxcjngW8hzg$8$5$zc8u4Hqr8AAE9+X7qycB+lN7I5wr2bvM0/uEgLKlg66QW24154rIi8ZjJlkKeILtSLorQxcZ3Z96aCr1agHWfw==",
        "argon2$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "bcrypt_sha256$$2b$04$8cm..l2A.iJ2mf.QASviG.d9voe9820HXjEzMC3.78SI.ESIwlI92",
        "argon2$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "bcrypt$$2b$04$69qMyY5m.Yq9Mxr84I/oNuf4BT4nLyxmrN8DXeKIjXFpzi//ZWute",
        "argon2$argon2id$v=19$m=8,t=1,p=1$",
    ),
    ("$2a$04$Jgb5g0TjZVUBAJBhC79GL.LNN.mQN2KqE3LMGfUoLpFIiHHIjpn4q", "$argon2id$v=19$m=8,t=1,p=1$"),
    ("$2b$04$g36hvT.mjwzpk2aBd5tGMOWdkBs6nCE2UUl48hpT1vNxWA475KHdC", "$argon2id$v=19$m=8,t=1,p=1$"),
    (
        "$argon2id$v=19$m=64,t=2,p=1$ScinrFfSwjGLTZnZxHYhNQ$1Ecver5LLsmbSTfGmvVUZYyBq1RntFiGaSKA0Y57imk",
        "$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "$argon2i$v=19$m=64,t=2,p=1$DxDNkUVHkmd/Q2BDkWKdWQ$zA7493Q4dfT7fjuMx3pQZw6/BFlPN1I4tSUIJfNTBio",
        "$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "$argon2d$v=19$m=64,t=2,p=1$yjRAnF2vpcJTABWKsOmD5A$5x+V+OhSeiumTiCf7R4NxyjJHOJXMb2xol0Y/Es5AI0",
        "$argon2id$v=19$m=8,t=1,p=1$",
    ),
    ("$pbkdf2$1000$UoqR8n6PcY4R4hzjPEcIwQ$FkXBzQIie5igdV9qvZA8og8JvcM", "$argon2id$v=19$m=8,t=1,p=1$"),
    (
        "$pbkdf2-sha256$1000$1lrLee/du/f.f0.JUWrNWQ$DwmzDu6wR5pzgItQOXKjdbANLQu8eSinuRi8EBBV/3I",
        "$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "$pbkdf2-sha512$1000$aa0VwjgnhFBKCcFYS8nZWw$vB1K.vishGiZ6h1mqDZPSD9rkj6hc9l8QTy91TN5dns71pojX9VXCkDImZozzQUmtaCcCh/qgqnClDGwWtEpsg",
        "$argon2id$v=19$m=8,t=1,p=1$",
    ),
    (
        "$scrypt$ln=6,r=8,p=2$eQ/BeK+VEsK4FwJgjLE2Rg$PEb/qtCyBcYp5hI5maZmW9GP3+rGgk1ErbGhDuMhIvk",
        "$argon2id$v=19$m=8,t=1,p=1$",
    ),
    ("$2y$04$F73sgoJXDAq/VUz5AGlFb.3.LB7fa0.iXMVZ8NPTxzWGIr3RWSX46", "$argon2id$v=19$m=8,t=1,p=1$"),
    ("$pbkdf2-sha1$i=1000$HkEcF0HN1oe1dp5jusKLYw$cmrQl/9CsEwPIw+EmTXfaRi5wXM", "$argon2id$v=19$m=8,t=1,p=1$"),
];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_log_in_with_old_hashes_and_get_renewed_ones(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let passwords = server.app.engine.passwords().hasher();
    for (old, form) in OTHERS {
        store_hash(&server, &user_id, old).await;
        let before = (passwords.hashes(), passwords.renewals());
        let wrong = pb::LoginRequest { password: "wrong".into(), ..login_request("alice", "") };
        client.try_login(wrong).await.unwrap_err();
        client.login("alice", "").await;
        assert_eq!(passwords.hashes() - before.0, 2, "one for each attempt: {old}");
        let new = renewed(&server, &user_id, old).await;
        assert!(new.as_str().starts_with(form), "{old}");
        assert_eq!(passwords.renewals() - before.1, 1, "{old}");
        client.login("alice", "").await;
    }
    // A current hash stays.
    let current = stored(&server, &user_id).await;
    let before = passwords.renewals();
    client.login("alice", "").await;
    assert_eq!((passwords.renewals() - before, stored(&server, &user_id).await), (0, current));
}

/// bcrypt of `long password, ` twelve times, made by bcrypt 4.0.1, which uses 72 of the 180 bytes.
const LONG: &str = "$2b$04$wYRvbydJmtQNke4gV71sWut6h5VWQfJ9TCweGVVCun8JqJsS8chx6";

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_of_a_truncated_password_is_not_renewed(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    store_hash(&server, &user_id, LONG).await;
    let passwords = server.app.engine.passwords().hasher();
    let before = passwords.renewals();
    let long = "long password, ".repeat(12);
    for typed in [&*long, &long[..72], &format!("{}, and what not", &long[..72])] {
        let login = pb::LoginRequest { password: typed.into(), ..login_request("alice", "") };
        client.try_login(login).await.unwrap();
    }
    assert_eq!((passwords.renewals() - before, stored(&server, &user_id).await.as_str()), (0, LONG));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_login_computes_one_hash_and_returns_the_same_error(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &[("THROTTLE__FREE_ATTEMPTS", "100")]).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let passwords = server.app.engine.passwords().hasher();
    let current = stored(&server, &user_id).await;
    let mut answers = Vec::new();
    let mut fail = async |username: &str, password: &str| {
        let before = passwords.hashes();
        let attempt = pb::LoginRequest { password: password.into(), ..login_request(username, "") };
        let status = client.try_login(attempt).await.unwrap_err();
        assert_eq!(passwords.hashes() - before, 1, "{username}, {password}");
        answers.push((status.code(), status.message().to_owned(), parts(&status)));
    };
    fail("nobody", PASSWORD).await;
    fail("alice", "wrong").await;
    for hash in [
        "",
        "!",
        "!Wd8kSfMHAZVIbnCS1PrBJJK4MeR8FkBR7XFOvHlz",
        "md5$garbled",
        "garbled",
        "$argon2id$v=19$",
        "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g",
    ] {
        store_hash(&server, &user_id, hash).await;
        fail("alice", PASSWORD).await;
        fail("alice", hash.get(1..).filter(|rest| !rest.is_empty()).unwrap_or("x")).await;
    }
    for (hash, _) in OTHERS {
        store_hash(&server, &user_id, hash).await;
        fail("alice", "wrong").await;
    }
    store_hash(&server, &user_id, current.as_str()).await;
    client.update(pb::UpdateAccountRequest { user_id, disabled: Some(true), ..Default::default() }).await;
    fail("alice", "wrong").await;

    assert_eq!(answers[0].2, (Code::Unauthenticated, "INVALID_CREDENTIALS".into(), vec![]));
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(passwords.renewals(), 0);
}

/// The queue has room for exactly these logins. Each also needs a renewal, which must not displace a login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_do_not_displace_logins_from_the_queue() {
    let settings = [("PASSWORD__THREADS", "1"), ("PASSWORD__QUEUE", "7")];
    let server = Server::with(Store::Embedded, &settings).await;
    let mut users = Vec::new();
    for number in 0..8 {
        let name = format!("user{number}");
        let user_id = server.client.user(&name).await;
        store_hash(&server, &user_id, OTHERS[0].0).await;
        users.push((name, user_id));
    }
    let mut rounds = 0;
    // A login that found the thread busy leaves the renewal to a later login.
    loop {
        let logins = users.iter().map(|(name, _)| server.client.try_login(login_request(name, "")));
        for login in futures_util::future::join_all(logins).await {
            login.unwrap();
        }
        let mut old = 0;
        for (_, user_id) in &users {
            old += usize::from(stored(&server, user_id).await.as_str() == OTHERS[0].0);
        }
        if old == 0 {
            break;
        }
        rounds += 1;
        assert!(rounds < 1000, "{old} are not renewed");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_is_refused_with_the_reason(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice@example.com").await;
    let before = stored(&server, &user_id).await;
    let hashes = server.app.engine.passwords().hasher().hashes();
    for (password, reason) in [
        ("", "is missing"),
        ("fourteen of it", "must be at least 15 code points"),
        (&*"x".repeat(257), "must be at most 256 code points"),
        ("ManchesterUnited", "is one of the most common passwords: choose another"),
        ("Alice@Example.com", "must not be the username"),
    ] {
        let message = pb::SetPasswordRequest { user_id: user_id.clone(), password: password.into() };
        let set = client.accounts.clone().set_password(client.admin(message)).await.unwrap_err();
        let message = pb::CreateAccountRequest {
            username: if reason.contains("username") { "alice@example.com" } else { "bob" }.into(),
            password: password.into(),
            roles: vec![],
        };
        let create = client.accounts.clone().create_account(client.admin(message)).await.unwrap_err();
        for status in [set, create] {
            assert_eq!(
                (status.code(), parts(&status).1.as_str()),
                (Code::InvalidArgument, "INVALID_REQUEST")
            );
            let violations = status.get_details_bad_request().unwrap().field_violations;
            let violations: Vec<_> =
                violations.iter().map(|violation| (&*violation.field, &*violation.description)).collect();
            assert_eq!(violations, [("password", reason)]);
        }
    }
    assert_eq!(stored(&server, &user_id).await, before);
    assert_eq!(server.app.engine.passwords().hasher().hashes(), hashes, "a hash was computed");
    let nobody = pb::SetPasswordRequest { user_id: "nobody".into(), password: PASSWORD.into() };
    let status = client.accounts.clone().set_password(client.admin(nobody)).await.unwrap_err();
    assert_eq!(parts(&status).1, "ACCOUNT_NOT_FOUND");
    // Counter-check: a valid password is accepted.
    let message = pb::SetPasswordRequest { user_id: user_id.clone(), password: "fifteen of them".into() };
    client.accounts.clone().set_password(client.admin(message)).await.unwrap();
    assert_ne!(stored(&server, &user_id).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_is_that_of_the_settings() {
    let settings = [("PASSWORD__MIN_LENGTH", "8"), ("TOKEN__ISSUER", "login.example.com")];
    let server = Server::with(Store::Embedded, &settings).await;
    let client = &server.client;
    let create = async |username: &str, password: &str| {
        let (username, password) = (username.into(), password.into());
        let message = pb::CreateAccountRequest { username, password, roles: vec![] };
        client.accounts.clone().create_account(client.admin(message)).await
    };
    for refused in ["seven !", "password", "Latchkey", "login.example.com"] {
        assert_eq!(create("alice", refused).await.unwrap_err().code(), Code::InvalidArgument, "{refused}");
    }
    create("alice", "eight !!").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_burst_is_shed_and_validate_goes_on() {
    let settings = [
        ("PASSWORD__THREADS", "1"),
        ("PASSWORD__QUEUE", "2"),
        ("PASSWORD__MEMORY_KIB", "4096"),
        ("PASSWORD__ITERATIONS", "16"),
    ];
    let server = Server::with(Store::Embedded, &settings).await;
    let client = &server.client;
    client.user("alice").await;
    client.user("bob").await;
    let bob = client.login("bob", "").await.token;
    let storm: Vec<_> = (0..30)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.try_login(login_request("alice", "")).await })
        })
        .collect();
    client.session(&bob).await;
    let (mut admitted, mut shed) = (0, 0);
    for login in storm {
        match login.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(status) => {
                assert_eq!(parts(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
                assert!(status.get_details_retry_info().is_some());
                shed += 1;
            }
        }
    }
    assert!(admitted >= 1 && shed >= 1, "{admitted} admitted, {shed} shed");
}
