//! The server processes that are measured.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use latchkey::grpc::pb::LoginResponse;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Status;

use crate::{
    Result,
    core_pinning::CorePinning,
    support::{
        client::{Client, login_request},
        redis::RedisServer,
    },
};

/// The number of users whose tokens are validated in turn.
pub const USERS: usize = 1000;

/// Settings that make password checks cheap, so that a thousand users are created in seconds.
pub const CHEAP_PASSWORDS: [(&str, &str); 3] =
    [("PASSWORD__ALLOW_WEAK", "true"), ("PASSWORD__MEMORY_KIB", "8"), ("PASSWORD__ITERATIONS", "1")];

/// The number of logins at a time while tokens are created; fewer than the server lets wait.
const LOGINS_AT_A_TIME: usize = 32;

/// Clock ticks per second in /proc on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server process, which is killed on drop.
pub struct ServerProcess {
    child: Child,
    pub grpc: SocketAddr,
}

impl ServerProcess {
    /// Starts a server and waits until it prints its address: `... listens on 127.0.0.1:1 ...`.
    pub fn start(
        mut command: Command,
        spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Result<Self> {
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child =
            spawn(&mut command).map_err(|error| format!("{name}: {error}; the make target builds it"))?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        match line.split_whitespace().find_map(|word| word.parse().ok()) {
            Some(grpc) => Ok(Self { child, grpc }),
            None => Err(format!("{name} printed no address: {line}{read:?}").into()),
        }
    }

    /// Starts the bare echo, of a session with this many roles.
    pub fn start_echo(pinning: &CorePinning, roles: usize) -> Result<Self> {
        let mut command = Command::new(built_binary("echo")?);
        command.args(["127.0.0.1:0", &roles.to_string()]);
        Self::start(command, |command| pinning.on_server_core(|| command.spawn()))
    }

    /// Starts the bare echo straight on `h2`.
    pub fn start_h2_echo(pinning: &CorePinning) -> Result<Self> {
        let command = Command::new(built_binary("echo_h2")?);
        Self::start(command, |command| pinning.on_server_core(|| command.spawn()))
    }

    pub fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.child.id())
    }

    pub fn cpu_time(&self) -> Option<Duration> {
        cpu_time(self.child.id())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `latchkey serve` with a data directory of its own, and with a Redis server if its sessions are there.
pub struct LatchkeyServer {
    pub process: ServerProcess,
    pub client: Client,
    redis: Option<RedisServer>,
    pub data: TempDir,
}

impl LatchkeyServer {
    /// Starts a server on empty stores, on the core of the servers.
    pub async fn start(pinning: &CorePinning, on_redis: bool, settings: &[(&str, &str)]) -> Result<Self> {
        let redis = on_redis.then(|| pinning.on_server_core(RedisServer::start));
        Self::start_on(tempfile::tempdir()?, redis, pinning, settings).await
    }

    /// Starts a server on an empty embedded store, on all cores.
    pub async fn start_on_all_cores(pinning: &CorePinning, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_on_all_cores_with(tempfile::tempdir()?, None, pinning, settings).await
    }

    /// Starts a server on these stores, on all cores.
    pub async fn start_on_all_cores_with(
        data: TempDir,
        redis: Option<RedisServer>,
        pinning: &CorePinning,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn(data, redis, settings, |command| pinning.on_all_cores(|| command.spawn())).await
    }

    /// Starts a server on these stores, on the core of the servers.
    pub async fn start_on(
        data: TempDir,
        redis: Option<RedisServer>,
        pinning: &CorePinning,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn(data, redis, settings, |command| pinning.on_server_core(|| command.spawn())).await
    }

    /// Restarts the server on its stores, with other settings.
    pub async fn restart(self, pinning: &CorePinning, settings: &[(&str, &str)]) -> Result<Self> {
        let Self { process, redis, data, .. } = self;
        drop(process);
        Self::start_on(data, redis, pinning, settings).await
    }

    async fn spawn(
        data: TempDir,
        redis: Option<RedisServer>,
        settings: &[(&str, &str)],
        spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Result<Self> {
        let mut command = serve_command(built_binary("latchkey")?);
        command.env("LATCHKEY_DATA_DIR", data.path());
        if let Some(redis) = &redis {
            command.env("LATCHKEY_SESSIONS__URL", redis.url());
        }
        command.envs(variables(settings));
        let process = ServerProcess::start(command, spawn)?;
        let admin_key = std::fs::read_to_string(data.path().join("admin.key"))?;
        let client = Client::connect(process.grpc, &admin_key).await;
        client.until_serving().await;
        Ok(Self { process, client, redis, data })
    }

    /// Creates this many users, logs each in once, and writes their tokens to a file.
    pub async fn create_tokens(&self, users: usize) -> Result<PathBuf> {
        let path = self.data.path().join("tokens");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let mut logins = JoinSet::<Result<LoginResponse, Status>>::new();
        let mut remaining = 0..users;
        loop {
            let free = LOGINS_AT_A_TIME.saturating_sub(logins.len());
            for number in remaining.by_ref().take(free) {
                let client = self.client.clone();
                logins.spawn(async move {
                    let name = format!("user{number:04}");
                    client.user(&name).await;
                    client.try_login(login_request(&name, "bench")).await
                });
            }
            let Some(login) = logins.join_next().await else { return Ok(path) };
            let login = login?.map_err(|status| format!("a login failed: {status}"))?;
            writeln!(file, "{}", login.token)?;
        }
    }

    /// Processor time of the server and of its Redis.
    pub fn cpu_time(&self) -> Option<Duration> {
        let redis = match &self.redis {
            None => Duration::ZERO,
            Some(redis) => cpu_time(redis_info(redis, "server", "process_id")?.parse().ok()?)?,
        };
        Some(self.process.cpu_time()? + redis)
    }

    pub fn redis_version(&self) -> Option<String> {
        redis_info(self.redis.as_ref()?, "server", "redis_version")
    }
}

/// `latchkey serve` on free ports, with nothing of the environment that configures it.
pub fn serve_command(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    remove_settings(&mut command);
    let settings = [("LISTEN__GRPC", "127.0.0.1:0"), ("LISTEN__HTTP", "127.0.0.1:0"), ("LOG__LEVEL", "warn")];
    command.arg("serve").envs(variables(&settings));
    command
}

/// The environment variables of settings.
pub fn variables<'a>(settings: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (String, &'a str)> {
    settings.iter().map(|(name, value)| (format!("LATCHKEY_{name}"), *value))
}

/// Removes the environment variables that configure Latchkey.
pub fn remove_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LATCHKEY_") {
            command.env_remove(name);
        }
    }
}

/// The path of a binary that was built beside this one.
pub fn built_binary(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// The value of a field of `INFO`.
pub fn redis_info(redis: &RedisServer, section: &str, name: &str) -> Option<String> {
    let info: String = redis.query(redis::cmd("INFO").arg(section));
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// User and system time of a process: the twelfth and thirteenth field after the name, which is in parentheses.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND))
}
