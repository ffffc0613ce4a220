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
enum Fate {
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

fn role(path: &str) -> Fate {
    Fate::Role(path.into())
}

fn token(path: &str) -> Fate {
    Fate::Token(path.into())
}

fn open(path: &str) -> Fate {
    Fate::Open(path.into())
}

fn elsewhere(path: &str) -> Fate {
    Fate::Elsewhere(path.into())
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

    async fn fate(&self, gateway: SocketAddr, path: &str) -> Fate {
        let (nobody, user, admin) = tokio::join!(
            asks(gateway, path, None, &[]),
            asks(gateway, path, Some(&self.user), &[]),
            asks(gateway, path, Some(&self.admin), &[]),
        );
        match (nobody.status, user.status, admin.status) {
            (200, 200, 200) => Fate::Open(seen(&nobody)),
            (401, 200, 200) => Fate::Token(seen(&user)),
            (401, 403, 200) => Fate::Role(seen(&admin)),
            (400, 400, 400) => Fate::Refused,
            (307, 307, 307) => Fate::Elsewhere(nobody.header("location").unwrap().to_owned()),
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Compares what becomes of each path with what should.
    async fn all(&self, gateway: SocketAddr, table: &[(&str, Fate)]) {
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
fn common() -> Vec<(&'static str, Fate)> {
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
        ("/admin;x", Fate::Refused),
        ("/admin;x/y", Fate::Refused),
        ("/admin%3bx", Fate::Refused),
        ("/public/..%3b/admin/x", Fate::Refused),
        ("/public/..%3B/admin/x", Fate::Refused),
        ("/public/%2e%2e;/admin/x", Fate::Refused),
        ("/public/...;/admin", Fate::Refused),
        // What is escaped twice, or never in a path.
        ("/%2561dmin", Fate::Refused),
        ("/public/%252e%252e/admin", Fate::Refused),
        ("/public/..%252fadmin", Fate::Refused),
        ("/public/..%253b/admin", Fate::Refused),
        ("/public/..%255cadmin", Fate::Refused),
        ("/public/%00", Fate::Refused),
        ("/public/x%0d%0aX-Latchkey-Roles:%20admin", Fate::Refused),
        ("/public/x%0Ay", Fate::Refused),
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
            Fate::Role(seen) => seen.starts_with("/admin"),
            Fate::Refused => true,
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
        ("/public/..;/admin/x", Fate::Refused),
        ("/.;/admin", Fate::Refused),
        ("/home/..;/admin", Fate::Refused),
        ("/public/..%5cadmin", Fate::Refused),
        ("/public/..\\admin", Fate::Refused),
    ];
    users.all(nginx.address, &own).await;
}
