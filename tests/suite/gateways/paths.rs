//! Which path leads where: the samples, run by the real programs, over paths that proxies and services read in
//! different ways.

use std::net::SocketAddr;

use futures_util::future::join_all;

use super::{
    asks,
    programs::{envoy, nginx},
};
use crate::support::{
    http::{Answer, Echo, arrived},
    server::{Server, Store},
};

/// What becomes of a request for a path.
#[derive(Debug, PartialEq, Eq)]
enum ImportOutcome {
    /// It needs the role, and then the service sees this path.
    Role(String),
    /// It needs a token, and then the service sees this path.
    Token(String),
    /// Everybody may, and the service sees this path.
    Open(String),
    /// Nobody may: it is no path to decide on.
    Refused,
    /// Everybody is sent to this path.
    Elsewhere(String),
}

fn role(path: &str) -> ImportOutcome {
    ImportOutcome::Role(path.into())
}

fn token(path: &str) -> ImportOutcome {
    ImportOutcome::Token(path.into())
}

fn open(path: &str) -> ImportOutcome {
    ImportOutcome::Open(path.into())
}

fn elsewhere(path: &str) -> ImportOutcome {
    ImportOutcome::Elsewhere(path.into())
}

/// A user with the role, and one without.
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

    async fn fate(&self, gateway: SocketAddr, path: &str) -> ImportOutcome {
        let (nobody, user, admin) = tokio::join!(
            asks(gateway, path, None, &[]),
            asks(gateway, path, Some(&self.user), &[]),
            asks(gateway, path, Some(&self.admin), &[]),
        );
        match (nobody.status, user.status, admin.status) {
            (200, 200, 200) => ImportOutcome::Open(seen(&nobody)),
            (401, 200, 200) => ImportOutcome::Token(seen(&user)),
            (401, 403, 200) => ImportOutcome::Role(seen(&admin)),
            (400, 400, 400) => ImportOutcome::Refused,
            (307, 307, 307) => ImportOutcome::Elsewhere(nobody.header("location").unwrap().to_owned()),
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Compares what becomes of each path with what should.
    async fn all(&self, gateway: SocketAddr, table: &[(&str, ImportOutcome)]) {
        // Several at a time: Envoy takes a second to close a connection that it answers by itself.
        for some in table.chunks(16) {
            let fates = join_all(some.iter().map(|(path, _)| self.fate(gateway, path))).await;
            for ((path, expected), fate) in some.iter().zip(fates) {
                assert_eq!(fate, *expected, "{path}");
            }
        }
    }
}

/// The path that reached the service.
fn seen(answer: &Answer) -> String {
    arrived(answer).into_iter().find(|(name, _)| name == ":path").unwrap().1
}

/// What both samples do with a path.
fn common() -> Vec<(&'static str, ImportOutcome)> {
    vec![
        ("/", token("/")),
        ("/adminx", token("/adminx")),
        ("/home", open("/home")),
        ("/poll/", token("/poll/")),
        ("/public", open("/public")),
        ("/public/a%20b?x=a;b", open("/public/a%20b?x=a;b")),
        // A letter is the same, however it is written.
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
        // What some services cut off.
        ("/admin;x", ImportOutcome::Refused),
        ("/admin;x/y", ImportOutcome::Refused),
        ("/admin%3bx", ImportOutcome::Refused),
        ("/public/..%3b/admin/x", ImportOutcome::Refused),
        ("/public/..%3B/admin/x", ImportOutcome::Refused),
        ("/public/%2e%2e;/admin/x", ImportOutcome::Refused),
        ("/public/...;/admin", ImportOutcome::Refused),
        // What is escaped twice, or never in a path.
        ("/%2561dmin", ImportOutcome::Refused),
        ("/public/%252e%252e/admin", ImportOutcome::Refused),
        ("/public/..%252fadmin", ImportOutcome::Refused),
        ("/public/..%253b/admin", ImportOutcome::Refused),
        ("/public/..%255cadmin", ImportOutcome::Refused),
        ("/public/%00", ImportOutcome::Refused),
        ("/public/x%0d%0aX-Latchkey-Roles:%20admin", ImportOutcome::Refused),
        ("/public/x%0Ay", ImportOutcome::Refused),
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
    // This version removes such a segment as well; others may not, and then it is refused.
    for path in ["/public/..;/admin/x", "/.;/admin", "/home/..;/admin"] {
        let fate = users.fate(envoy.address, path).await;
        let is_right = match &fate {
            ImportOutcome::Role(seen) => seen.starts_with("/admin"),
            ImportOutcome::Refused => true,
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
        ("/public/..;/admin/x", ImportOutcome::Refused),
        ("/.;/admin", ImportOutcome::Refused),
        ("/home/..;/admin", ImportOutcome::Refused),
        ("/public/..%5cadmin", ImportOutcome::Refused),
        ("/public/..\\admin", ImportOutcome::Refused),
    ];
    users.all(nginx.address, &own).await;
}
