//! The processes that are measured.

use std::{
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use latchkey::grpc::pb::LoginResponse;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Status;

use crate::{
    client::{Client, login_request},
    place::Place,
    redis::RedisServer,
};

/// Users whose tokens are validated in turn.
pub const USERS: usize = 1000;

/// Ticks a second in /proc, on every Linux there is.
const TICKS: f64 = 100.0;

/// A server: its process, and where it listens.
pub struct Server {
    child: Child,
    pub grpc: SocketAddr,
}

impl Server {
    fn start(
        mut command: Command,
        place: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Result<Self, String> {
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started = place(&mut command);
        let mut child = started.map_err(|error| format!("{name}: {error}; `make bench` builds it"))?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        // `... listens on 127.0.0.1:1 ...`
        match line.split_whitespace().find_map(|word| word.parse().ok()) {
            Some(grpc) => Ok(Self { child, grpc }),
            None => Err(format!("{name} does not serve: {line}{read:?}")),
        }
    }

    /// The bare echo, of sessions with so many roles.
    pub fn echo(place: &Place, roles: usize) -> Result<Self, String> {
        let mut command = Command::new(built("echo")?);
        command.args(["127.0.0.1:0", &roles.to_string()]);
        Self::start(command, |command| place.on_servers_core(|| command.spawn()))
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// The processor time that it has taken.
    pub fn cpu(&self) -> Option<Duration> {
        cpu(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `latchkey serve`, with what it needs.
pub struct Latchkey {
    pub server: Server,
    pub client: Client,
    redis: Option<RedisServer>,
    pub data: TempDir,
}

impl Latchkey {
    /// With these settings besides, on nothing.
    pub async fn start(place: &Place, on_redis: bool, settings: &[(&str, &str)]) -> Result<Self, String> {
        let data = tempfile::tempdir().map_err(|error| error.to_string())?;
        let redis = on_redis.then(|| place.on_servers_core(RedisServer::start));
        Self::on(data, redis, place, settings).await
    }

    /// Started again, with other settings.
    pub async fn again(self, place: &Place, settings: &[(&str, &str)]) -> Result<Self, String> {
        let Self { server, redis, data, .. } = self;
        drop(server);
        Self::on(data, redis, place, settings).await
    }

    /// On the embedded store and on all cores.
    pub async fn start_on_all_cores(place: &Place, settings: &[(&str, &str)]) -> Result<Self, String> {
        let data = tempfile::tempdir().map_err(|error| error.to_string())?;
        Self::placed(data, None, settings, |command| place.on_all_cores(|| command.spawn())).await
    }

    /// On what is there.
    pub async fn on(
        data: TempDir,
        redis: Option<RedisServer>,
        place: &Place,
        settings: &[(&str, &str)],
    ) -> Result<Self, String> {
        Self::placed(data, redis, settings, |command| place.on_servers_core(|| command.spawn())).await
    }

    async fn placed(
        data: TempDir,
        redis: Option<RedisServer>,
        settings: &[(&str, &str)],
        place: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Result<Self, String> {
        let mut command = Command::new(built("latchkey")?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LATCHKEY_") {
                command.env_remove(name);
            }
        }
        let usual = [
            ("DATA_DIR", data.path().to_str().unwrap()),
            ("LISTEN__GRPC", "127.0.0.1:0"),
            ("LISTEN__HTTP", "127.0.0.1:0"),
            ("LOG__LEVEL", "warn"),
        ];
        for (name, value) in usual.iter().chain(settings) {
            command.env(format!("LATCHKEY_{name}"), value);
        }
        if let Some(redis) = &redis {
            command.env("LATCHKEY_SESSIONS__URL", redis.url());
        }
        command.arg("serve");
        let server = Server::start(command, place)?;
        let admin_key =
            std::fs::read_to_string(data.path().join("admin.key")).map_err(|error| error.to_string())?;
        let client = Client::connect(server.grpc, &admin_key).await;
        client.until_serving().await;
        Ok(Self { server, client, redis, data })
    }

    /// Makes so many users, logs each in once, and leaves their tokens in a file.
    pub async fn tokens(&self, users: usize) -> Result<PathBuf, String> {
        let mut logins = JoinSet::new();
        for number in 0..users {
            let client = self.client.clone();
            logins.spawn(async move {
                let name = format!("user{number:04}");
                client.user(&name).await;
                client.try_login(login_request(&name, "bench")).await
            });
            // Not more at a time than the server lets wait.
            if logins.len() >= 32 {
                self.token(&mut logins).await?;
            }
        }
        while !logins.is_empty() {
            self.token(&mut logins).await?;
        }
        Ok(self.data.path().join("tokens"))
    }

    async fn token(&self, logins: &mut JoinSet<Result<LoginResponse, Status>>) -> Result<(), String> {
        let answer = logins.join_next().await.unwrap().map_err(|error| error.to_string())?;
        let token = answer.map_err(|status| format!("a login failed: {status}"))?.token;
        append(&self.data.path().join("tokens"), &token).map_err(|error| error.to_string())
    }

    /// The processor time that it and its store have taken.
    pub fn cpu(&self) -> Option<Duration> {
        let redis = match &self.redis {
            None => Duration::ZERO,
            Some(redis) => cpu(field(redis, "process_id")?.parse().ok()?)?,
        };
        Some(self.server.cpu()? + redis)
    }

    /// Which Redis it has.
    pub fn redis_version(&self) -> Option<String> {
        field(self.redis.as_ref()?, "redis_version")
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{line}")
}

fn field(redis: &RedisServer, name: &str) -> Option<String> {
    let info: String = redis.query(::redis::cmd("INFO").arg("server"));
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// User and system time are the twelfth and the thirteenth after the name, which is in parentheses.
fn cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) / TICKS))
}

/// What was built beside this example.
pub fn built(name: &str) -> Result<PathBuf, String> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join(name));
    beside().ok_or_else(|| "cannot tell where the binaries are".into())
}
