//! A server that ends with this process, however that ends: also one that a static holds, which is never
//! dropped, and also where the tests are killed.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A shell runs the server, and ends it when its standard input does, which only this process holds open.
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

pub struct Guarded {
    shell: Child,
    /// The server itself.
    pub pid: u32,
}

impl Guarded {
    /// Starts a server that `signal` ends at once. `remove` is deleted after it.
    pub fn start(server: &Command, signal: &str, remove: Option<&Path>) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "guard", signal])
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

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.shell.try_wait().unwrap().is_some()
    }

    /// Sends a signal to the server by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status();
        assert!(status.unwrap().success());
        // Delivered is not yet stopped.
        while name == "STOP" && !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let state = Command::new("ps").args(["-o", "stat=", "-p", &self.pid.to_string()]).output().unwrap();
        state.stdout.first() == Some(&b'T')
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A command that the server must run under: databases refuse to run as root.
pub fn unprivileged(program: &Path, user: &str, dir: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    assert!(Command::new("chown").arg("-R").arg(user).arg(dir).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
    command
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout.trim_ascii() == b"0"
}
