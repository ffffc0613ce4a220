//! A server in this process: the same `App` as in production, on port 0, with a clock set by hand.

use std::sync::Arc;

use latchkey::{app::App, config::Config};
use tempfile::TempDir;

use super::{client::Client, clock::ManualClock, redis::RedisServer};

/// Where sessions live in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Embedded,
    Redis,
}

pub struct Server {
    pub app: App,
    pub clock: Arc<ManualClock>,
    pub client: Client,
    pub redis: Option<RedisServer>,
    pub data: TempDir,
}

impl Server {
    pub async fn start(store: Store) -> Self {
        Self::with(store, &[]).await
    }

    /// With settings as environment variables: `("SESSION__LIMIT", "2")`.
    pub async fn with(store: Store, settings: &[(&str, &str)]) -> Self {
        let redis = (store == Store::Redis).then(RedisServer::start);
        let data = tempfile::tempdir().unwrap();
        let mut all = usual_settings(data.path());
        if let Some(redis) = &redis {
            all.push(("SESSIONS__URL".into(), redis.url()));
        }
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let environment = all.into_iter().map(|(name, value)| (format!("LATCHKEY_{name}"), value));
        let config = Config::load(None, environment).unwrap();
        let clock = Arc::new(ManualClock::new());
        let app = App::start(&config, clock.clone()).await.unwrap();
        let admin_key = std::fs::read_to_string(data.path().join("admin.key")).unwrap();
        let client = Client::connect(app.grpc, &admin_key).await;
        client.until_serving().await;
        Self { app, clock, client, redis, data }
    }
}

/// Free ports, hashes that cost nothing, and everything in one directory.
pub fn usual_settings(data: &std::path::Path) -> Vec<(String, String)> {
    [
        ("DATA_DIR", data.to_str().unwrap()),
        ("LISTEN__GRPC", "127.0.0.1:0"),
        ("LISTEN__HTTP", "127.0.0.1:0"),
        ("PASSWORD__ALLOW_WEAK", "true"),
        ("PASSWORD__MEMORY_KIB", "8"),
        ("PASSWORD__ITERATIONS", "1"),
        ("PASSWORD__QUEUE", "10000"),
        ("LOG__LEVEL", "info"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Runs an async test on both stores, as two tests; with settings where some are named.
#[macro_export]
macro_rules! on_both_stores {
    (async fn $name:ident($server:ident: Server) $body:block) => {
        $crate::on_both_stores! { async fn $name($server: Server, &[]) $body }
    };
    (async fn $name:ident($server:ident: Server, $settings:expr) $body:block) => {
        mod $name {
            #[allow(unused_imports, reason = "not every test needs all that its file imports")]
            use super::*;
            use $crate::support::server::{Server, Store};

            async fn run($server: Server) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                run(Server::with(Store::Embedded, $settings).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn redis() {
                run(Server::with(Store::Redis, $settings).await).await;
            }
        }
    };
}
