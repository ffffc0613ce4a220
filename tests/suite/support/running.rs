//! A program that goes on until something happens, and what it prints meanwhile.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that is running.
pub struct Running {
    child: Child,
    out: Receiver<String>,
    err: JoinHandle<String>,
}

impl Running {
    /// Starts it, with `input` on standard input.
    pub fn start(mut command: Command, input: &str) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let (lines, out) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // It ends with the receiver, and closes the pipe: then nobody reads any more.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let err = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Self { child, out, err }
    }

    /// The next line on standard output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.out.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line comes"),
            Err(RecvTimeoutError::Disconnected) => panic!("it has ended: {:?}", self.child.wait()),
        }
    }

    /// The next line on standard output that has this in it.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "no line has {text}: {passed:?}");
            let line = self.line();
            if line.contains(text) {
                return line;
            }
            passed.push(line);
        }
    }

    /// Nobody reads its standard output any more.
    pub fn deafen(&mut self) {
        self.out = mpsc::channel().1;
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        let status = Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end: the exit code, the lines that were left, and standard error.
    #[track_caller]
    pub fn end(mut self) -> (i32, Vec<String>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!(
                    "still running: {:?} {}",
                    self.out.iter().collect::<Vec<_>>(),
                    self.err.join().unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        (status.code().unwrap(), self.out.iter().collect(), self.err.join().unwrap())
    }
}
