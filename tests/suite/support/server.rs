//! A server in this process: the same `App` as in production, on port 0, with a clock set by hand.

use std::sync::Arc;

use latchkey::{
    app::App,
    config::Config,
    domain::{
        password::PasswordHash,
        ports::{AccountChange, Clock as _},
        types::UserId,
        username::Username,
    },
};
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

    /// Starts with settings as environment variables: `("SESSION__LIMIT", "2")`.
    pub async fn with(store: Store, settings: &[(&str, &str)]) -> Self {
        let redis = (store == Store::Redis).then(RedisServer::start);
        let url = redis.as_ref().map(RedisServer::url);
        Self { redis, ..Self::on(url, settings).await }
    }

    /// Starts another server on the same Redis, with accounts of its own.
    pub async fn beside(other: &Self, settings: &[(&str, &str)]) -> Self {
        Self::on(other.redis.as_ref().map(RedisServer::url), settings).await
    }

    async fn on(redis: Option<String>, settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut all = usual_settings(data.path());
        all.extend(redis.map(|url| ("SESSIONS__URL".into(), url)));
        // An empty variable counts as not set, so empty values go into a file.
        let (empty, settings): (Vec<_>, Vec<_>) = settings.iter().partition(|(_, value)| value.is_empty());
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let environment = all.into_iter().map(|(name, value)| (format!("LATCHKEY_{name}"), value));
        let file = data.path().join("settings.toml");
        let line = |(name, _): &(&str, &str)| format!("{} = \"\"\n", name.to_lowercase().replace("__", "."));
        std::fs::write(&file, empty.iter().map(line).collect::<String>()).unwrap();
        let config = Config::load(Some(&file), environment).unwrap();
        let clock = Arc::new(ManualClock::new());
        let app = App::start(&config, clock.clone()).await.unwrap();
        let admin_key = std::fs::read_to_string(data.path().join("admin.key")).unwrap();
        let client = Client::connect(app.grpc, &admin_key).await;
        client.until_serving().await;
        Self { app, clock, client, redis: None, data }
    }

    /// Replaces the hash of an account by one of an unknown format.
    pub async fn break_hash(&self, user_id: &str) {
        let (user_id, now) = (UserId::parse(user_id).unwrap(), self.clock.now());
        let change = AccountChange::Password(PasswordHash::new("$unknown$v=1$rubbish".into()));
        self.app.engine.accounts().change(&user_id, change, None, now).await.unwrap().unwrap();
    }

    /// Waits until the uses of sessions are recorded.
    pub async fn until_recorded(&self) {
        let begun = std::time::Instant::now();
        while !self.app.engine.uses().is_idle() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "a use is not recorded");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Waits until no login of this name is under way and its failures are reset, which happens after the answer to
    /// a successful login.
    pub async fn until_settled(&self, username: &str) {
        let username = Username::parse(username).unwrap();
        let begun = std::time::Instant::now();
        loop {
            let standing = self.app.engine.throttle_status(&username).await.unwrap();
            if (standing.failures, standing.attempts) == (0, 0) {
                return;
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{standing:?}");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// The settings of every test: free ports, cheap hashes, no kick wars, and one directory for everything.
pub fn usual_settings(data: &std::path::Path) -> Vec<(String, String)> {
    [
        ("DATA_DIR", data.to_str().unwrap()),
        ("LISTEN__GRPC", "127.0.0.1:0"),
        ("LISTEN__HTTP", "127.0.0.1:0"),
        ("PASSWORD__ALLOW_WEAK", "true"),
        ("PASSWORD__MEMORY_KIB", "8"),
        ("PASSWORD__ITERATIONS", "1"),
        ("PASSWORD__QUEUE", "10000"),
        // Most tests log one user in many times.
        ("SESSION__KICK_WAR_CHANGES", "0"),
        ("LOG__LEVEL", "info"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
