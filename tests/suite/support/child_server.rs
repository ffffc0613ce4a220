//! A server that ends with the test process: also if a static holds it, which is never dropped, and also if the tests
//! are killed.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A shell runs the server and ends it when its own standard input ends, which only the test process holds open.
const SHELL: &str = r#"
signal=$1 remove=$2
shift 2
exec 3<&0
"$@" 3<&- </dev/null >/dev/null 2>&1 &
server=$!
echo $server
(cat <&3 >/dev/null; kill -CONT $server; kill "-$signal" $server) 2>/dev/null &
wait $server
if [ -n "$remove" ]; then rm -rf "$remove"; fi
"#;

pub struct ChildServer {
    shell: Child,
    /// The process of the server, not of the shell.
    pub pid: u32,
}

impl ChildServer {
    /// Starts a server that `signal` ends at once. The directory `remove` is deleted after its end.
    pub fn start(server: &Command, signal: &str, remove: Option<&Path>) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "server", signal])
            .arg(remove.unwrap_or_else(|| Path::new("")))
            .arg(server.get_program())
            .args(server.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { pid: line.trim().parse().unwrap(), shell }
    }

    /// Starts a server and waits until it is ready. Returns `None` if it ends or is not ready in time.
    pub fn start_ready(
        server: &Command,
        signal: &str,
        remove: Option<&Path>,
        is_ready: impl Fn() -> bool,
    ) -> Option<Self> {
        let mut guarded = Self::start(server, signal, remove);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && !guarded.has_ended() {
            if is_ready() {
                return Some(guarded);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.shell.try_wait().unwrap().is_some()
    }

    /// Sends a signal to the server by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status();
        assert!(status.unwrap().success());
        // The signal takes effect some time after it is delivered.
        while name == "STOP" && !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let state = Command::new("ps").args(["-o", "stat=", "-p", &self.pid.to_string()]).output().unwrap();
        state.stdout.first() == Some(&b'T')
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Returns a command that runs the program as `user` if the tests run as root, which databases do not accept.
pub fn unprivileged(program: &Path, user: &str, dir: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    assert!(Command::new("chown").arg("-R").arg(user).arg(dir).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
    command
}

/// Returns whether the tests run as root.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout.trim_ascii() == b"0"
}
