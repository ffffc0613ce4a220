//! A Redis or Valkey server on a free port, which ends with the test.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

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
}

pub struct RedisServer {
    flavour: Flavour,
    pub port: u16,
    dir: TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::with(Flavour::Redis, &[])
    }

    /// Starts with these arguments besides the usual ones.
    pub fn with(flavour: Flavour, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { flavour, port: 0, dir, child: None, arguments };
        // Another process may take the port first, so several ports are tried.
        for _ in 0..10 {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.launch() {
                return server;
            }
        }
        panic!("{flavour:?} did not start; `make test` installs what the tests need");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends the server at once, as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Restarts the server on the same port with the same directory.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "the server did not start again on port {}", self.port);
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
    pub fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        command.query(&mut client.get_connection().unwrap()).unwrap()
    }

    fn launch(&mut self) -> bool {
        let (name, variable) = self.flavour.program();
        let program = std::env::var_os(variable).unwrap_or_else(|| name.into());
        let mut child = Command::new(&program)
            .args(["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"])
            .arg("--port")
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.arguments)
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
