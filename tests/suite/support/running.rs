//! A program that runs in the background, and its output line by line.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a line or the end of the program may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    child: Child,
    out: Receiver<String>,
    err: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a program with `input` on standard input.
    pub fn start(mut command: Command, input: &str) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let (lines, out) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // The thread ends with the receiver and closes the pipe.
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
        Self { child, out, err: Some(err) }
    }

    /// Returns the next line of standard output.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.out.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the program has ended: {:?}", self.child.wait()),
        }
    }

    /// Returns the next line of standard output that contains the text.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "no line contains {text}: {passed:?}");
            let line = self.line();
            if line.contains(text) {
                return line;
            }
            passed.push(line);
        }
    }

    /// Closes the reading end of standard output.
    pub fn close_output(&mut self) {
        self.out = mpsc::channel().1;
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        let status = Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the program. Returns the exit code, the unread lines, and standard error.
    #[track_caller]
    pub fn end(mut self) -> (i32, Vec<String>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let lines = self.out.iter().collect::<Vec<_>>();
                panic!("still running: {lines:?} {}", self.errors());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        (status.code().unwrap(), self.out.iter().collect(), self.errors())
    }

    fn errors(&mut self) -> String {
        self.err.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
