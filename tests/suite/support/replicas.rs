//! Two processes of Latchkey that share Redis, accounts and keys.

use tempfile::TempDir;

use super::{client::Client, process::Process, redis::RedisServer};

pub struct Replicas {
    pub processes: [Process; 2],
    pub redis: RedisServer,
    pub data: TempDir,
}

impl Replicas {
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        Self::on(redis, [&url, &url], settings).await
    }

    /// Starts one process for each URL of the same Redis.
    pub async fn on(redis: RedisServer, urls: [&str; 2], settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        // The first process makes the keys, so the second starts after it.
        let processes = urls.map(|url| Process::start(data.path(), &all_settings(url, settings)));
        for process in &processes {
            process.serving_client().await;
        }
        Self { processes, redis, data }
    }

    /// Starts one more process on the same Redis, accounts and keys.
    pub async fn one_more(&self, settings: &[(&str, &str)]) -> Process {
        let process = Process::start(self.data.path(), &all_settings(&self.redis.url(), settings));
        process.serving_client().await;
        process
    }

    /// Opens this number of connections to each process.
    pub async fn clients(&self, each: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..each {
            for process in &self.processes {
                clients.push(process.client().await);
            }
        }
        clients
    }
}

/// Returns the settings of a replica on this Redis, besides those of the test.
pub fn all_settings<'a>(url: &'a str, settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    // A busy machine must not look like an outage.
    let mut all = vec![
        ("SESSIONS__URL", url),
        ("SESSIONS__RESPONSE_TIMEOUT", "60s"),
        ("SERVER__REQUEST_TIMEOUT", "60s"),
    ];
    all.extend_from_slice(settings);
    all
}
