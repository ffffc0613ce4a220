//! What a login does to stored hashes, and what a login storm does to the server.

use latchkey::domain::{password::PasswordHash, types::UserId};
use tonic::Code;

use super::parts;
use crate::{
    on_both_stores,
    support::{
        client::login_request,
        server::{Server, Store},
    },
};

async fn stored(server: &Server, user_id: &str) -> PasswordHash {
    let id = UserId::parse(user_id).unwrap();
    server.app.engine.accounts.get(&id).await.unwrap().unwrap().password
}

on_both_stores! {
    async fn a_hash_of_another_cost_is_renewed_at_login(server: Server) {
        let client = &server.client;
        let user_id = client.user("alice").await;
        let id = UserId::parse(&user_id).unwrap();
        let weaker = latchkey::domain::password::Argon2Params { memory_kib: 16, iterations: 1, parallelism: 1 };
        let passwords = latchkey::domain::password::Passwords::new(weaker, 1, 1).unwrap();
        let password = latchkey::domain::password::Password::chosen(crate::support::client::PASSWORD.into());
        let old = passwords.hash(password.unwrap()).await.unwrap();
        let current = stored(&server, &user_id).await;
        server.app.engine.accounts.rehash(&id, &current, &old).await.unwrap();

        client.login("alice", "").await;
        // The login does not wait for it.
        let mut waited = 0;
        while stored(&server, &user_id).await == old {
            waited += 1;
            assert!(waited < 1000, "the hash was not renewed");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(stored(&server, &user_id).await.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        client.login("alice", "").await;
    }
}

on_both_stores! {
    async fn a_hash_that_cannot_be_read_lets_nobody_in_and_tells_nothing(server: Server) {
        let client = &server.client;
        let user_id = client.user("alice").await;
        let id = UserId::parse(&user_id).unwrap();
        let current = stored(&server, &user_id).await;
        let garbled = PasswordHash::new("md5$garbled".into());
        server.app.engine.accounts.rehash(&id, &current, &garbled).await.unwrap();
        let before = server.app.engine.passwords.hashes();
        let status = client.try_login(login_request("alice", "")).await.unwrap_err();
        assert_eq!(parts(&status), (Code::Unauthenticated, "INVALID_CREDENTIALS".into(), vec![]));
        assert_eq!(server.app.engine.passwords.hashes() - before, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_storm_is_shed_and_validate_goes_on() {
    let settings = [
        ("PASSWORD__THREADS", "1"),
        ("PASSWORD__QUEUE", "2"),
        ("PASSWORD__MEMORY_KIB", "4096"),
        ("PASSWORD__ITERATIONS", "4"),
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
                assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
                shed += 1;
            }
        }
    }
    assert!(admitted >= 1 && shed >= 1, "{admitted} admitted, {shed} shed");
}
