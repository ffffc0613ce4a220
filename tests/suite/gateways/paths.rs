//! Paths that proxies and services may read in different ways, with the samples and real gateways.

use std::net::SocketAddr;

use futures_util::future::join_all;

use super::{
    get_with_token,
    programs::{envoy, nginx},
};
use crate::support::{
    http::{Answer, Echo, arrived},
    server::{Server, Store},
};

/// The outcome of a request for a path.
#[derive(Debug, PartialEq, Eq)]
enum PathOutcome {
    /// The path needs the role, and the service sees this path.
    Role(String),
    /// The path needs a token, and the service sees this path.
    Token(String),
    /// The path is open, and the service sees this path.
    Open(String),
    /// The path is denied for every request.
    Refused,
    /// The request is redirected to this path.
    Elsewhere(String),
}

fn role(path: &str) -> PathOutcome {
    PathOutcome::Role(path.into())
}

fn token(path: &str) -> PathOutcome {
    PathOutcome::Token(path.into())
}

fn open(path: &str) -> PathOutcome {
    PathOutcome::Open(path.into())
}

fn elsewhere(path: &str) -> PathOutcome {
    PathOutcome::Elsewhere(path.into())
}

/// The tokens of a user with the role and of one without.
struct Users {
    admin: String,
    user: String,
}

impl Users {
    async fn of(server: &Server) -> Self {
        server.client.user_with_roles("admin", &["admin"]).await;
        server.client.user("user").await;
        Self {
            admin: server.client.login("admin", "").await.token,
            user: server.client.login("user", "").await.token,
        }
    }

    async fn fate(&self, gateway: SocketAddr, path: &str) -> PathOutcome {
        let (nobody, user, admin) = tokio::join!(
            get_with_token(gateway, path, None, &[]),
            get_with_token(gateway, path, Some(&self.user), &[]),
            get_with_token(gateway, path, Some(&self.admin), &[]),
        );
        match (nobody.status, user.status, admin.status) {
            (200, 200, 200) => PathOutcome::Open(seen(&nobody)),
            (401, 200, 200) => PathOutcome::Token(seen(&user)),
            (401, 403, 200) => PathOutcome::Role(seen(&admin)),
            (400, 400, 400) => PathOutcome::Refused,
            (307, 307, 307) => PathOutcome::Elsewhere(nobody.header("location").unwrap().to_owned()),
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Compares the outcome for each path with the expected one.
    async fn all(&self, gateway: SocketAddr, table: &[(&str, PathOutcome)]) {
        // Requests run concurrently, because Envoy takes a second to close a connection that it answers itself.
        for some in table.chunks(16) {
            let fates = join_all(some.iter().map(|(path, _)| self.fate(gateway, path))).await;
            for ((path, expected), fate) in some.iter().zip(fates) {
                assert_eq!(fate, *expected, "{path}");
            }
        }
    }
}

/// Returns the path that reached the service.
fn seen(answer: &Answer) -> String {
    arrived(answer).into_iter().find(|(name, _)| name == ":path").unwrap().1
}

/// The expected outcomes for both samples.
fn common() -> Vec<(&'static str, PathOutcome)> {
    vec![
        ("/", token("/")),
        ("/adminx", token("/adminx")),
        ("/home", open("/home")),
        ("/poll/", token("/poll/")),
        ("/public", open("/public")),
        ("/public/a%20b?x=a;b", open("/public/a%20b?x=a;b")),
        // An escaped letter equals the letter.
        ("/%70ublic/x", open("/public/x")),
        ("/admin", role("/admin")),
        ("/admin/", role("/admin/")),
        ("/admin?x=/public/", role("/admin?x=/public/")),
        ("/admin/x", role("/admin/x")),
        ("/%61dmin", role("/admin")),
        // Dots and slashes.
        ("//admin", role("/admin")),
        ("/./admin", role("/admin")),
        ("/public/../admin", role("/admin")),
        ("/public/%2e%2e/admin", role("/admin")),
        ("/public/.%2E/admin", role("/admin")),
        ("/home/../admin", role("/admin")),
        ("http://app.test/admin", role("/admin")),
        // Case makes no difference for what needs the role, and does for what is open.
        ("/ADMIN", role("/ADMIN")),
        ("/Admin/x", role("/Admin/x")),
        ("/PUBLIC/", token("/PUBLIC/")),
        // Some services cut these parts off.
        ("/admin;x", PathOutcome::Refused),
        ("/admin;x/y", PathOutcome::Refused),
        ("/admin%3bx", PathOutcome::Refused),
        ("/public/..%3b/admin/x", PathOutcome::Refused),
        ("/public/..%3B/admin/x", PathOutcome::Refused),
        ("/public/%2e%2e;/admin/x", PathOutcome::Refused),
        ("/public/...;/admin", PathOutcome::Refused),
        // These paths are escaped twice or contain characters that no path has.
        ("/%2561dmin", PathOutcome::Refused),
        ("/public/%252e%252e/admin", PathOutcome::Refused),
        ("/public/..%252fadmin", PathOutcome::Refused),
        ("/public/..%253b/admin", PathOutcome::Refused),
        ("/public/..%255cadmin", PathOutcome::Refused),
        ("/public/%00", PathOutcome::Refused),
        ("/public/x%0d%0aX-Latchkey-Roles:%20admin", PathOutcome::Refused),
        ("/public/x%0Ay", PathOutcome::Refused),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_decides_on_the_path_that_the_service_sees() {
    let (server, echo) = (Server::start(Store::Embedded).await, Echo::start().await);
    let Some(envoy) = envoy(server.app.grpc, echo.address, &[]).await else { return };
    let users = Users::of(&server).await;
    users.all(envoy.address, &common()).await;
    let own = [
        ("/admin%2f", elsewhere("/admin/")),
        ("/admin%2fx", elsewhere("/admin/x")),
        ("/%2fadmin", elsewhere("/admin")),
        ("/public%2f..%2fadmin", elsewhere("/admin")),
        ("/public/..%5cadmin", elsewhere("/admin")),
        ("/public/..\\admin", role("/admin")),
    ];
    users.all(envoy.address, &own).await;
    // Envoy versions may remove such a segment or deny the path.
    for path in ["/public/..;/admin/x", "/.;/admin", "/home/..;/admin"] {
        let fate = users.fate(envoy.address, path).await;
        let is_right = match &fate {
            PathOutcome::Role(seen) => seen.starts_with("/admin"),
            PathOutcome::Refused => true,
            _ => false,
        };
        assert!(is_right, "{path}: {fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_decides_on_the_path_that_the_service_sees() {
    let (server, echo) = (Server::start(Store::Embedded).await, Echo::start().await);
    let Some(nginx) = nginx(server.app.http, echo.address, &[]).await else { return };
    let users = Users::of(&server).await;
    users.all(nginx.address, &common()).await;
    let own = [
        ("/admin%2f", role("/admin/")),
        ("/admin%2fx", role("/admin/x")),
        ("/%2fadmin", role("/admin")),
        ("/public%2f..%2fadmin", role("/admin")),
        ("/public/%2e%2e%2fadmin", role("/admin")),
        ("/public//../admin", role("/admin")),
        ("/public/..;/admin/x", PathOutcome::Refused),
        ("/.;/admin", PathOutcome::Refused),
        ("/home/..;/admin", PathOutcome::Refused),
        ("/public/..%5cadmin", PathOutcome::Refused),
        ("/public/..\\admin", PathOutcome::Refused),
    ];
    users.all(nginx.address, &own).await;
}
