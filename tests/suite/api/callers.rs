//! `CallerService`, and the rights of the keys that it creates.

use rstest::rstest;
use std::{sync::Arc, time::Duration};

use latchkey::{app::App, config::Config, grpc::pb};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{assert_invalid, parts, seconds};
use crate::support::{
    client::Client,
    clock::ManualClock,
    redis::RedisServer,
    server::{Server, Store, usual_settings},
};

async fn try_create(client: &Client, name: &str, roles: &[&str]) -> Result<pb::CreateCallerResponse, Status> {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    let message = pb::CreateCallerRequest { name: name.into(), roles };
    client.callers.clone().create_caller(client.admin(message)).await.map(tonic::Response::into_inner)
}

/// Creates a caller and returns its key.
async fn create(client: &Client, name: &str, roles: &[&str]) -> String {
    try_create(client, name, roles).await.unwrap().key
}

async fn list(client: &Client) -> Vec<pb::Caller> {
    let message = client.admin(pb::ListCallersRequest {});
    client.callers.clone().list_callers(message).await.unwrap().into_inner().callers
}

async fn revoke(client: &Client, name: &str) -> Result<(), Status> {
    let message = client.admin(pb::RevokeCallerRequest { name: name.into() });
    client.callers.clone().revoke_caller(message).await.map(drop)
}

fn with_key<T>(message: T, keys: &[&str]) -> Request<T> {
    let mut request = Request::new(message);
    for key in keys {
        request.metadata_mut().append("x-latchkey-key", key.parse().unwrap());
    }
    request
}

/// Calls a method for admins with these keys.
async fn administers(client: &Client, keys: &[&str]) -> Result<(), (Code, String)> {
    let request = with_key(pb::ListAccountsRequest::default(), keys);
    let answer = client.accounts.clone().list_accounts(request).await;
    answer.map(drop).map_err(|status| (parts(&status).0, parts(&status).1))
}

/// Calls Validate with these keys.
async fn validates(client: &Client, keys: &[&str]) -> Result<(), (Code, String)> {
    let request = with_key(pb::ValidateRequest { token: "x".into(), ..Default::default() }, keys);
    let answer = client.auth.clone().validate(request).await;
    answer.map(drop).map_err(|status| (parts(&status).0, parts(&status).1))
}

fn unauthenticated() -> Result<(), (Code, String)> {
    Err((Code::Unauthenticated, "CALLER_UNAUTHENTICATED".into()))
}

fn not_allowed() -> Result<(), (Code, String)> {
    Err((Code::PermissionDenied, "CALLER_NOT_ALLOWED".into()))
}

const BY_CALLERS: &[(&str, &str)] = &[("ACCESS__VALIDATE", "caller")];

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_created_used_listed_and_revoked(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let made = try_create(client, "ops/console", &["operator", "admin", "operator"]).await.unwrap();
    let (caller, key) = (made.caller.unwrap(), made.key);
    assert!(key.starts_with("lkc_") && key.len() == 47);
    assert_eq!((caller.name.as_str(), caller.last_used_at), ("ops/console", None));
    assert_eq!(caller.roles, ["admin", "operator"]);
    create(client, "another", &["validator"]).await;
    let listed = list(client).await;
    assert_eq!(listed.iter().map(|caller| &*caller.name).collect::<Vec<_>>(), ["another", "ops/console"]);
    assert_eq!(listed[1], caller);

    assert_eq!(administers(client, &[&key]).await, Ok(()));
    let used = seconds(list(client).await[1].last_used_at);
    assert!((0..5).contains(&(used - seconds(caller.created_at))), "{used}");
    server.clock.advance(Duration::from_mins(10));
    assert_eq!(administers(client, &[&key]).await, Ok(()));
    assert!(seconds(list(client).await[1].last_used_at) >= used + 600);
    assert_eq!(list(client).await[0].last_used_at, None);

    revoke(client, "ops/console").await.unwrap();
    assert_eq!(administers(client, &[&key]).await, unauthenticated());
    assert_eq!(list(client).await.len(), 1);
    let again = revoke(client, "ops/console").await.unwrap_err();
    assert_eq!(parts(&again), (Code::NotFound, "CALLER_NOT_FOUND".into(), vec![]));
    // The name is free again, and the new key differs.
    let second = create(client, "ops/console", &["admin"]).await;
    assert_ne!(second, key);
    assert_eq!(administers(client, &[&key]).await, unauthenticated());
    assert_eq!(administers(client, &[&second]).await, Ok(()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_roles_of_callers_are_checked(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    create(client, "web", &["validator"]).await;
    let taken = try_create(client, "web", &["issuer"]).await.unwrap_err();
    assert_eq!(parts(&taken), (Code::AlreadyExists, "CALLER_EXISTS".into(), vec![]));
    for name in ["", "a b", "x\n", "admin", "dns:web", "spiffe://web", &"x".repeat(65)] {
        assert_invalid(&try_create(client, name, &["validator"]).await.unwrap_err(), "name");
        assert_invalid(&revoke(client, name).await.unwrap_err(), "name");
    }
    for roles in [&[][..], &["root"], &["validator", "Admin"]] {
        assert_invalid(&try_create(client, "other", roles).await.unwrap_err(), "roles");
    }
    assert_eq!(list(client).await.len(), 1);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_may_call_its_methods_and_admin_all(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::with(store, BY_CALLERS).await;

    let client = &server.client;
    for role in ["issuer", "operator", "validator", "admin"] {
        let key = create(client, role.replace("admin", "boss").as_str(), &[role]).await;
        let all = role == "admin";
        let expected = if all { Ok(()) } else { not_allowed() };
        assert_eq!(administers(client, &[&key]).await, expected, "{role}");
        let expected = if all || role == "validator" { Ok(()) } else { not_allowed() };
        assert_eq!(validates(client, &[&key]).await, expected, "{role}");
    }
    assert_eq!(validates(client, &[&client.admin_key]).await, Ok(()));
    assert_eq!(validates(client, &[]).await, unauthenticated());

    let key = create(client, "web", &["validator"]).await;
    let request = with_key(pb::ListCallersRequest {}, &[&key]);
    let refused = client.callers.clone().list_callers(request).await.unwrap_err();
    assert_eq!(refused.message(), "the caller `web` does not have the role `admin`, which this method needs");
    let metadata = refused.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata.get("role").map(String::as_str), Some("admin"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_known_key_is_accepted(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let key = create(client, "boss", &["admin"]).await;
    let (admin, unknown) = (client.admin_key.clone(), format!("lkc_{}", "A".repeat(43)));
    assert_eq!(administers(client, &[&key]).await, Ok(()));
    assert_eq!(administers(client, &[&admin]).await, Ok(()));
    for wrong in [
        &[][..],
        &[""],
        &[&unknown],
        &[&key[..46]],
        &[&key.to_uppercase()],
        &[&key.replace("lkc_", "")],
        &[&admin[..admin.len() - 1]],
        &[&format!("{admin}x")],
        &[&key, &key],
        &[&admin, &key],
        &[&admin, &admin],
        &[&unknown, &admin],
        &[&format!("{admin},{key}")],
    ] {
        assert_eq!(administers(client, wrong).await, unauthenticated(), "{wrong:?}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_key_is_ignored_where_no_key_is_needed(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let unknown = format!("lkc_{}", "A".repeat(43));
    for keys in [&[][..], &["nonsense"], &[&unknown], &[&unknown, "nonsense"], &[&client.admin_key]] {
        assert_eq!(validates(client, keys).await, Ok(()), "{keys:?}");
        let request = with_key(pb::GetJwksRequest {}, keys);
        client.auth.clone().get_jwks(request).await.unwrap();
    }
}

/// Two servers with one clock, one Redis and one database of accounts.
struct Replicas {
    apps: [App; 2],
    clients: [Client; 2],
    clock: Arc<ManualClock>,
    data: tempfile::TempDir,
    _redis: RedisServer,
}

impl Replicas {
    async fn start() -> Self {
        let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let clock = Arc::new(ManualClock::new());
        let mut all = usual_settings(data.path());
        all.push(("SESSIONS__URL".into(), redis.url()));
        all.push(("ACCESS__VALIDATE".into(), "caller".into()));
        let environment = all.into_iter().map(|(name, value)| (format!("LATCHKEY_{name}"), value));
        let config = Config::load(None, environment).unwrap();
        let first = App::start(&config, clock.clone()).await.unwrap();
        let second = App::start(&config, clock.clone()).await.unwrap();
        let admin_key = std::fs::read_to_string(data.path().join("admin.key")).unwrap();
        let clients =
            [Client::connect(first.grpc, &admin_key).await, Client::connect(second.grpc, &admin_key).await];
        for client in &clients {
            client.until_serving().await;
        }
        Self { apps: [first, second], clients, clock, data, _redis: redis }
    }

    /// Queries the database directly.
    async fn sql(&self, statement: &'static str) {
        use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
        let path = self.data.path().join("latchkey.db");
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(5));
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_follows_within_the_promised_time() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.clients;
    let key = create(here, "web", &["validator"]).await;
    assert_eq!(validates(here, &[&key]).await, Ok(()));
    replicas.clock.advance(Duration::from_secs(1));
    assert_eq!(validates(there, &[&key]).await, Ok(()), "within a second of its making");

    revoke(here, "web").await.unwrap();
    assert_eq!(validates(here, &[&key]).await, unauthenticated(), "at once where it was revoked");
    replicas.clock.advance(Duration::from_secs(5));
    assert_eq!(validates(there, &[&key]).await, unauthenticated(), "within five seconds elsewhere");

    // The last use is seen on the other server once it is recorded.
    let key = create(here, "web", &["validator"]).await;
    assert_eq!(validates(here, &[&key]).await, Ok(()));
    let [first, _] = replicas.apps;
    assert!(first.stop().await);
    assert!(list(there).await[0].last_used_at.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_an_outage_of_the_callers_known_keys_work_and_no_key_is_rejected() {
    let replicas = Replicas::start().await;
    let [client, _] = &replicas.clients;
    let key = create(client, "web", &["validator"]).await;
    assert_eq!(validates(client, &[&key]).await, Ok(()));
    let unknown = format!("lkc_{}", "A".repeat(43));
    let unavailable = Err((Code::Unavailable, "STORE_UNAVAILABLE".into()));

    replicas.sql("ALTER TABLE callers RENAME TO gone").await;
    replicas.clock.advance(Duration::from_mins(4));
    assert_eq!(validates(client, &[&key]).await, Ok(()), "known keys stopped working");
    assert_eq!(validates(client, &[&unknown]).await, unavailable);
    assert_eq!(validates(client, &["nonsense"]).await, unauthenticated(), "this is no key in any store");
    assert_eq!(validates(client, &[&client.admin_key]).await, Ok(()));
    assert_eq!(administers(client, &[&client.admin_key]).await, Ok(()));
    assert_eq!(parts(&try_create(client, "other", &["issuer"]).await.unwrap_err()).1, "STORE_UNAVAILABLE");
    replicas.clock.advance(Duration::from_secs(61));
    assert_eq!(validates(client, &[&key]).await, unavailable, "but not for ever");
    assert_eq!(validates(client, &[&client.admin_key]).await, Ok(()));

    replicas.sql("ALTER TABLE gone RENAME TO callers").await;
    replicas.clock.advance(Duration::from_secs(1));
    assert_eq!(validates(client, &[&key]).await, Ok(()));
    assert_eq!(validates(client, &[&unknown]).await, unauthenticated());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_of_a_newer_version_allows_nothing() {
    let replicas = Replicas::start().await;
    let [client, there] = &replicas.clients;
    let key = create(client, "web", &["validator"]).await;
    replicas.sql("UPDATE callers SET roles = 'auditor validator'").await;
    replicas.clock.advance(Duration::from_secs(6));
    assert_eq!(validates(there, &[&key]).await, Ok(()));
    replicas.sql("UPDATE callers SET roles = 'auditor'").await;
    replicas.clock.advance(Duration::from_secs(6));
    assert_eq!(validates(there, &[&key]).await, not_allowed());
    assert_eq!(list(client).await[0].roles, ["auditor"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_a_key_do_not_query_the_store() {
    let server = Server::start(Store::Embedded).await;
    assert_eq!(validates(&server.client, &[&format!("lkc_{}", "A".repeat(43))]).await, Ok(()));
    assert!(list(&server.client).await.is_empty());
}
