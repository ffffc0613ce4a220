//! Two servers that share Redis, accounts and keys.

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

    /// On this Redis, which the servers find under these URLs.
    pub async fn on(redis: RedisServer, urls: [&str; 2], settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().unwrap();
        // One after the other: the first makes the keys.
        let processes = urls.map(|url| Process::start(data.path(), &all_settings(url, settings)));
        for process in &processes {
            process.serving_client().await;
        }
        Self { processes, redis, data }
    }

    /// One more server on the same Redis, accounts and keys.
    pub async fn one_more(&self, settings: &[(&str, &str)]) -> Process {
        let process = Process::start(self.data.path(), &all_settings(&self.redis.url(), settings));
        process.serving_client().await;
        process
    }

    /// So many connections to each.
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

fn all_settings<'a>(url: &'a str, settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    // These tests are of what is true, not of how fast: a busy machine is no outage.
    let mut all = vec![
        ("SESSIONS__URL", url),
        ("SESSIONS__RESPONSE_TIMEOUT", "60s"),
        ("SERVER__REQUEST_TIMEOUT", "60s"),
    ];
    all.extend_from_slice(settings);
    all
}
