//! The process of a sample, which is a guarded server.

use std::{
    io::{BufRead as _, BufReader, Lines},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long an answer or the end of a sample may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Sample {
    pub address: SocketAddr,
    process: Ended,
    log: Arc<Mutex<Vec<String>>>,
}

/// A sample that may not listen yet. Several can start at the same time.
pub struct Starting {
    command: String,
    process: Ended,
    lines: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<Vec<String>>>,
    log_reader: JoinHandle<()>,
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sample {
    /// Starts this command, which calls Latchkey at `latchkey` with `key`, with further settings.
    pub fn start(command: &str, latchkey: SocketAddr, key: &str, settings: &[(&str, &str)]) -> Starting {
        let mut shell = Command::new("sh");
        // With `exec` signals reach the server and not the shell.
        shell.args(["-c", &format!("exec {command}")]).stdin(Stdio::null());
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        for unset in ["LISTEN", "LATCHKEY_REQUIRED_ROLE", "LATCHKEY_REQUIRED_SLOT"] {
            shell.env_remove(unset);
        }
        shell.env("LATCHKEY_ADDRESS", latchkey.to_string()).env("LATCHKEY_CALLER_KEY", key);
        shell.envs(settings.iter().copied());
        let mut child = shell.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (errors, into) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        let log_reader = std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Starting { command: command.to_owned(), process: Ended(child), lines, log, log_reader }
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub fn stop(mut self) {
        let child = &mut self.process.0;
        let status = Command::new("kill").arg(child.id().to_string()).status();
        assert!(status.unwrap().success(), "the sample has ended already");
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the sample does not stop on SIGTERM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Starting {
    /// Waits until the sample listens.
    pub fn listens(self) -> Sample {
        let Self { command, process, mut lines, log, log_reader } = self;
        let Some(Ok(line)) = lines.next() else {
            log_reader.join().unwrap();
            panic!("{command} does not listen: {:#?}", log.lock().unwrap());
        };
        // The output is read so that the server cannot block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let address = line.strip_prefix("listens on ").and_then(|address| address.trim().parse().ok());
        let address = address.unwrap_or_else(|| {
            panic!("the first line of {command} is not `listens on ADDRESS:PORT`: {line}")
        });
        Sample { address, process, log }
    }
}

impl Drop for Sample {
    #[expect(clippy::print_stdout, reason = "what the server said, where a test fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.lock().unwrap().iter().for_each(|line| println!("sample: {line}"));
        }
    }
}
