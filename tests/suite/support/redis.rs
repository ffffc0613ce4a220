//! A Redis or Valkey server on a free port, which ends with the test.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

use super::{address::server_port, skip::find_program};

/// How long a server may take to answer a question of a test.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Redis,
    Valkey,
}

impl Flavour {
    /// The name of the program, and the variable that may name another.
    pub fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Redis => ("redis-server", "LATCHKEY_TEST_REDIS_SERVER"),
            Self::Valkey => ("valkey-server", "LATCHKEY_TEST_VALKEY_SERVER"),
        }
    }

    /// Whether tests can start servers of this kind. Every test run needs Redis; without Valkey its tests are skipped.
    pub fn is_installed(self) -> bool {
        let (program, variable) = self.program();
        self == Self::Redis || find_program(program, variable).is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master,
    Replica,
    Sentinel,
}

pub struct RedisServer {
    flavour: Flavour,
    pub port: u16,
    dir: TempDir,
    child: Option<Child>,
    config: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::with(Flavour::Redis, &[])
    }

    /// Starts with these arguments besides the usual ones.
    pub fn with(flavour: Flavour, arguments: &[&str]) -> Self {
        Self::on_free_port(flavour, arguments, &[])
    }

    /// Starts with these environment variables.
    pub fn with_environment(environment: &[(&'static str, PathBuf)]) -> Self {
        Self::on_free_port(Flavour::Redis, &[], environment)
    }

    fn on_free_port(flavour: Flavour, arguments: &[&str], environment: &[(&'static str, PathBuf)]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another process may take the port first, so several ports are tried.
        let start = |_| Self::launched(flavour, server_port(), None, &arguments, environment);
        (0..10)
            .find_map(start)
            .unwrap_or_else(|| panic!("{flavour:?} did not start; `make test` installs what the tests need"))
    }

    /// Starts on this port with the text of a configuration file, which the server may rewrite. Returns `None` if the
    /// server does not start: its ports may be taken.
    pub fn on(flavour: Flavour, port: u16, config: Option<&str>, arguments: &[String]) -> Option<Self> {
        Self::launched(flavour, port, config, arguments, &[])
    }

    fn launched(
        flavour: Flavour,
        port: u16,
        config: Option<&str>,
        arguments: &[String],
        environment: &[(&'static str, PathBuf)],
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = config.map(|text| {
            let file = dir.path().join("server.conf");
            fs::write(&file, text).unwrap();
            file
        });
        let (arguments, environment) = (arguments.to_vec(), environment.to_vec());
        let mut server = Self { flavour, port, dir, child: None, config, arguments, environment };
        server.launch().then_some(server)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Ends the server at once, as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process, which keeps its connections and answers nothing, until it is resumed.
    pub fn pause(&self) {
        self.signal("STOP");
        // The signal takes effect some time after it is delivered.
        let state =
            || Command::new("ps").args(["-o", "stat=", "-p", &self.pid().to_string()]).output().unwrap();
        while state().stdout.first() != Some(&b'T') {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Sends a signal to the process by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Restarts the server on the same port with the same directory.
    pub fn restart(&mut self) {
        self.kill();
        // A connection may have the port for a moment.
        let started = (0..20).any(|attempt| {
            std::thread::sleep(Duration::from_millis(50) * attempt.min(4));
            self.launch()
        });
        assert!(started, "the server did not start again on port {}", self.port);
    }

    /// Sets the arguments besides the usual ones for the next start.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// Records the commands that the server receives from now on.
    pub fn monitor(&self) -> Monitor<'_> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = BufReader::new(socket);
        lines.read_line(&mut String::new()).unwrap();
        Monitor { server: self, lines, reads: 0 }
    }

    /// Sends a command over a new connection and returns the answer.
    pub fn query<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query(&mut self.client().get_connection().unwrap()).unwrap()
    }

    /// Sends a command to a server that may be down, over a new connection, and waits one second for the answer.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut connection = self.client().get_multiplexed_async_connection_with_config(&config).await?;
        command.query_async(&mut connection).await
    }

    pub async fn role(&self) -> RedisResult<Role> {
        let role: Vec<Value> = self.ask(&redis::cmd("ROLE")).await?;
        let name: String = redis::from_redis_value(role.into_iter().next().unwrap())?;
        Ok(match name.as_str() {
            "master" => Role::Master,
            "slave" => Role::Replica,
            "sentinel" => Role::Sentinel,
            name => panic!("unknown role {name}"),
        })
    }

    /// Makes this server a replica of another, until `promote`. It gets the data of the other in the background.
    pub fn replicate(&self, master: &Self) {
        let () = self.query(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port));
    }

    /// Makes a replica a master by hand.
    pub fn promote(&self) {
        let () = self.query(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    }

    /// Returns the fields of a section of `INFO`, one in each line.
    pub async fn info(&self, section: &str) -> RedisResult<String> {
        self.ask(redis::cmd("INFO").arg(section)).await
    }

    /// Connects with the password that the server was started with.
    fn client(&self) -> redis::Client {
        let password = self.argument("--requirepass").map(|password| format!(":{password}@"));
        let url = format!("redis://{}127.0.0.1:{}", password.unwrap_or_default(), self.port);
        redis::Client::open(url).unwrap()
    }

    fn argument(&self, name: &str) -> Option<&str> {
        let position = self.arguments.iter().position(|argument| argument == name)?;
        self.arguments.get(position + 1).map(String::as_str)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn launch(&mut self) -> bool {
        let (name, variable) = self.flavour.program();
        let program = std::env::var_os(variable).unwrap_or_else(|| name.into());
        let mut child = Command::new(&program)
            .args(&self.config)
            .args(["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"])
            .arg("--port")
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the commands that a server receives.
pub struct Monitor<'a> {
    server: &'a RedisServer,
    lines: BufReader<TcpStream>,
    reads: u32,
}

impl Monitor<'_> {
    /// Returns the commands since the last call, without those of scripts.
    pub fn commands(&mut self) -> Vec<String> {
        self.reads += 1;
        let end = format!("end of read {}", self.reads);
        let _: String = self.server.query(redis::cmd("ECHO").arg(&end));
        let mut commands = Vec::new();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            if line.contains(&end) {
                return commands;
            }
            if !line.contains(" lua] ") {
                commands.push(line);
            }
        }
    }
}
