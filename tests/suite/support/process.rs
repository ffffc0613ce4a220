//! The binary as a separate process.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{client::Client, server::usual_settings};

/// The binary under test.
pub const LATCHKEY: &str = env!("CARGO_BIN_EXE_latchkey");

/// How long a command may run.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `latchkey serve`.
pub struct Process {
    child: Child,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    data: PathBuf,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts on `data` with these settings besides the usual ones, and waits until the process listens.
    pub fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = command(data, settings);
        command.arg("serve");
        Self::launch(command, data)
    }

    /// Starts with another command line, which must serve on `data`.
    pub fn launch(mut command: Command, data: &Path) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let mut stderr = child.stderr.take().unwrap();
        let log = Arc::clone(&output);
        let errors = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some((grpc, http)) = addresses(&line) else {
            child.wait().unwrap();
            errors.join().unwrap();
            panic!("the server does not listen: {line}{}", output.lock().unwrap());
        };
        output.lock().unwrap().push_str(&line);
        let rest = Arc::clone(&output);
        let lines = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                rest.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, grpc, http, data: data.to_owned(), output, readers: vec![errors, lines] }
    }

    /// Starts with its output redirected, and therefore on ports that are chosen in advance.
    pub fn start_redirected(data: &Path, settings: &[(&str, &str)], stdout: Stdio, stderr: Stdio) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = (free(), free());
        let (grpc, http) = (ports.0.local_addr().unwrap(), ports.1.local_addr().unwrap());
        drop(ports);
        let mut command = command(data, settings);
        command.env("LATCHKEY_LISTEN__GRPC", grpc.to_string()).env("LATCHKEY_LISTEN__HTTP", http.to_string());
        let mut child =
            command.arg("serve").stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(http).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the server has ended");
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, grpc, http, data: data.to_owned(), output: Arc::default(), readers: Vec::new() }
    }

    /// Reads the value of a metric.
    pub async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub async fn client(&self) -> Client {
        let admin_key = std::fs::read_to_string(self.data.join("admin.key")).unwrap();
        Client::connect(self.grpc, &admin_key).await
    }

    /// Returns a client once the server serves.
    pub async fn serving_client(&self) -> Client {
        let client = self.client().await;
        client.until_serving().await;
        client
    }

    /// Returns the output so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until the output contains the text and returns all of it.
    pub fn output_until(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let output = self.output();
            if output.contains(text) {
                return output;
            }
            assert!(Instant::now() < deadline, "{text} is not in the output: {output}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM without waiting.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name without waiting.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.unwrap().success());
        // The signal takes effect some time after it is delivered, in one thread after the other.
        while name == "STOP" && !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        threads.map_while(Result::ok).all(|thread| {
            // The state follows the name in parentheses. A thread that has ended meanwhile has none.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends a GET request to the HTTP port and returns the status and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.http);
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits for the end of the process and returns the exit code and the output.
    pub fn wait(mut self, limit: Duration) -> (Option<i32>, String) {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}: {}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status.code(), self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parses the addresses in `Latchkey 0.1.0 listens on 127.0.0.1:1 (gRPC) and 127.0.0.1:2 (HTTP)`
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut found = line.split_whitespace().filter_map(|word| word.parse().ok());
    Some((found.next()?, found.next()?))
}

/// Returns the binary with these settings in its environment, and none from the environment of the tests.
pub fn command(data: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(LATCHKEY);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("LATCHKEY_") || text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    for (name, value) in usual_settings(data) {
        command.env(format!("LATCHKEY_{name}"), value);
    }
    for (name, value) in settings {
        command.env(format!("LATCHKEY_{name}"), value);
    }
    command
}

/// Runs a command to its end with `input` on standard input.
pub fn run(mut command: Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    // The command may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    if let Ok(output) = end.recv_timeout(PATIENCE) {
        return output.unwrap();
    }
    let _ = Command::new("kill").args(["-KILL", &pid]).status();
    panic!("still running after {PATIENCE:?}: {command:?}")
}
