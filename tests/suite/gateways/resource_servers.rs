//! OAuth 2.0 resource servers of others, which introspect at Latchkey: authlib, Apache with `mod_auth_openidc` and its
//! sample in `deploy/`, and Spring Security. Each of them has a page for everybody with a token, and one that needs the
//! role `admin`, which is a scope for them.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{bearer, programs::apache};
use crate::support::{
    address::{server_port, unused_address},
    child_server::ChildServer,
    client::PASSWORD,
    http::{Answer, Echo, arrived, exchange, get, try_get},
    process::Process,
    redis::RedisServer,
    skip::named_program,
    tls::Authority,
};

/// How long a resource server may take to start.
const STARTED: Duration = Duration::from_secs(90);
const KEY: &str = "x-latchkey-key";

/// A Latchkey whose callers need a key, and can have an outage.
struct Latchkey {
    process: Process,
    redis: RedisServer,
    admin_key: String,
    authority: Authority,
    _data: TempDir,
}

impl Latchkey {
    async fn start() -> Self {
        let (data, redis, authority) =
            (tempfile::tempdir().unwrap(), RedisServer::start(), Authority::new("ours"));
        let (certificate, key) = authority.server().write(data.path(), "server");
        let (url, http) = (redis.url(), format!("127.0.0.1:{}", server_port()));
        let http_url = format!("http://{http}");
        let settings = [
            ("LISTEN__HTTP", http.as_str()),
            ("LISTEN__HTTP_URL", &http_url),
            ("SESSIONS__URL", &url),
            ("ACCESS__VALIDATE", "caller"),
            ("LISTEN__GRPC_JSON", "true"),
            ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
            ("TLS__KEY_FILE", key.to_str().unwrap()),
            // Short, as the roles are: mod_auth_openidc could not remember a longer token, even if it should.
            ("TOKEN__ISSUER", "https://a.example"),
        ];
        let process = Process::start(data.path(), &settings);
        let admin_key = fs::read_to_string(data.path().join("admin.key")).unwrap().trim().to_owned();
        let latchkey = Self { process, redis, admin_key, authority, _data: data };
        let begun = Instant::now();
        while latchkey.process.get("/readyz").await.0 != 200 {
            assert!(begun.elapsed() < STARTED, "it does not become ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        latchkey
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let headers = [("content-type", &b"application/json"[..]), (KEY, self.admin_key.as_bytes())];
        let body = body.to_string();
        let answer = exchange(self.process.http, &format!("POST {path}"), &headers, body.as_bytes()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    async fn user(&self, username: &str, roles: &[&str]) -> String {
        let body = json!({ "username": username, "password": PASSWORD, "roles": roles });
        self.post("/v1/accounts", body).await["account"]["userId"].as_str().unwrap().to_owned()
    }

    async fn login(&self, username: &str) -> String {
        let body = json!({ "username": username, "password": PASSWORD });
        self.post("/v1/login", body).await["token"].as_str().unwrap().to_owned()
    }

    /// Returns the key of a new caller that may validate.
    async fn caller(&self) -> String {
        let created = self.post("/v1/callers", json!({ "name": "shop", "roles": ["validator"] })).await;
        created["key"].as_str().unwrap().to_owned()
    }
}

/// How a resource server answers a live session without the role, and all tokens while Latchkey does not answer.
struct Answers {
    no_role: u16,
    outage: u16,
}

/// Checks that only live sessions pass at `address`. `identity` returns the username and the user id that the service got.
async fn protects(
    mut latchkey: Latchkey,
    address: SocketAddr,
    identity: impl Fn(&Answer) -> (String, String),
    expected: Answers,
) {
    let alice = latchkey.user("alice", &["admin"]).await;
    let bobby = latchkey.user("bobby", &[]).await;
    let ask = async |token: &str, path: &str| {
        get(address, path, &[("authorization", bearer(token).as_bytes())]).await
    };
    let old = latchkey.login("alice").await;
    for path in ["/", "/admin/"] {
        let answer = ask(&old, path).await;
        assert_eq!((answer.status, identity(&answer)), (200, ("alice".into(), alice.clone())), "{path}");
        assert_eq!(get(address, path, &[]).await.status, 401, "{path}");
        assert_eq!(ask("nonsense", path).await.status, 401, "{path}");
    }
    let other = latchkey.login("bobby").await;
    assert_eq!(identity(&ask(&other, "/").await), ("bobby".into(), bobby));
    assert_eq!(ask(&other, "/admin/").await.status, expected.no_role);

    // The newer login wins, at once.
    let new = latchkey.login("alice").await;
    for path in ["/", "/admin/"] {
        assert_eq!(ask(&old, path).await.status, 401, "{path}");
        assert_eq!(ask(&new, path).await.status, 200, "{path}");
    }
    latchkey.redis.kill();
    for path in ["/", "/admin/"] {
        assert_eq!(ask(&new, path).await.status, expected.outage, "{path}: the store is down");
    }
    latchkey.process.kill();
    for path in ["/", "/admin/"] {
        assert_eq!(ask(&new, path).await.status, expected.outage, "{path}: the server is down");
    }
}

/// Starts a program that listens on an address, which may be taken by another process first.
async fn start(command: impl Fn(SocketAddr) -> Command) -> (SocketAddr, ChildServer) {
    for _ in 0..5 {
        let address = unused_address();
        let mut process = ChildServer::start(&command(address), "KILL", None);
        let begun = Instant::now();
        while !process.has_ended() && begun.elapsed() < STARTED {
            if try_get(address, "/", &[]).await.is_some() {
                return (address, process);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    panic!("the resource server did not start");
}

/// The identity in a page of the resource servers that are written for these tests.
fn in_body(answer: &Answer) -> (String, String) {
    let body = answer.json();
    (body["user"].as_str().unwrap().to_owned(), body["sub"].as_str().unwrap().to_owned())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/oauth").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authlib_lets_only_live_sessions_pass() {
    let Some(python) = named_program("Python with authlib", "LATCHKEY_TEST_AUTHLIB") else { return };
    let latchkey = Latchkey::start().await;
    let (key, url) = (latchkey.caller().await, format!("http://{}", latchkey.process.http));
    let (address, _process) = start(|address| {
        let mut command = Command::new(&python);
        command.arg(fixture("resource_server.py")).args([&*url, &*key, &*address.port().to_string()]);
        command
    })
    .await;
    protects(latchkey, address, in_body, Answers { no_role: 403, outage: 503 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_authlib_introspects_revokes_and_accepts_the_metadata() {
    let Some(python) = named_program("Python with authlib", "LATCHKEY_TEST_AUTHLIB") else { return };
    let latchkey = Latchkey::start().await;
    latchkey.user("alice", &[]).await;
    let (key, token) = (latchkey.caller().await, latchkey.login("alice").await);
    let mut command = Command::new(&python);
    command.arg(fixture("client.py")).args([&format!("http://{}", latchkey.process.http), &key, &token]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "well_known": "https://a.example/.well-known/oauth-authorization-server",
        "before": true,
        "revoked": [200, 200],
        "after": "LOGGED_OUT",
    });
    assert_eq!(seen, expected);
}

/// Starts Apache in front of an echo service and checks it. `endpoint` replaces the line of the sample.
async fn apache_protects(endpoint: impl Fn(&Latchkey) -> String) {
    let (latchkey, echo) = (Latchkey::start().await, Echo::start().await);
    let key = format!("OIDCOAuthClientSecret {}", latchkey.caller().await);
    let (endpoint, folder) = (endpoint(&latchkey), tempfile::tempdir().unwrap());
    let ca = latchkey.authority.write(folder.path());
    // Its workers are not root.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let changes = [
        ("OIDCOAuthIntrospectionEndpoint https://localhost:50051/oauth2/introspect", &*endpoint),
        ("/etc/ssl/certs/ca-certificates.crt", ca.to_str().unwrap()),
        ("# OIDCOAuthClientID", "OIDCOAuthClientID"),
        ("# OIDCOAuthClientSecret lkc_...", &*key),
    ];
    let Some(apache) = apache(echo.address, &changes).await else { return };
    let identity = |answer: &Answer| {
        let headers = arrived(answer);
        let value = |name: &str| {
            let mut values = headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
            let value = values.next().unwrap_or_else(|| panic!("no {name}: {headers:?}")).1.clone();
            assert_eq!(values.next(), None, "{name}");
            value
        };
        assert!(!answer.body.contains("eyJ"), "the service gets no token: {answer:?}");
        (value("oidc_claim_username"), value("oidc_claim_sub"))
    };
    protects(latchkey, apache.address, identity, Answers { no_role: 401, outage: 401 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_lets_only_live_sessions_pass() {
    apache_protects(|latchkey| {
        let port = latchkey.process.grpc.port();
        format!("OIDCOAuthIntrospectionEndpoint https://localhost:{port}/oauth2/introspect")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apache_finds_the_endpoint_in_the_metadata() {
    apache_protects(|latchkey| {
        let http = latchkey.process.http;
        format!("OIDCOAuthServerMetadataURL http://{http}/.well-known/oauth-authorization-server")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spring_security_lets_only_live_sessions_pass() {
    let Some(jar) = named_program("resource server with Spring Security", "LATCHKEY_TEST_SPRING") else {
        return;
    };
    let latchkey = Latchkey::start().await;
    let (key, url) = (latchkey.caller().await, format!("http://{}", latchkey.process.http));
    let (address, _process) = start(|address| {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-Xmx192m", "-jar"]).arg(&jar);
        command.args([
            "--server.address=127.0.0.1".to_owned(),
            format!("--server.port={}", address.port()),
            format!("--latchkey.url={url}"),
            format!("--latchkey.key={key}"),
        ]);
        command
    })
    .await;
    protects(latchkey, address, in_body, Answers { no_role: 403, outage: 500 }).await;
}
