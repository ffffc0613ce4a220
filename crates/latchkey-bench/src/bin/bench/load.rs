//! Load on a server: `latchkey bench`, with every answer checked.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::server::built;

/// Where to send it.
pub struct Target<'a> {
    pub address: SocketAddr,
    pub tokens: &'a Path,
    /// What `latchkey bench` is told besides.
    pub arguments: &'a [&'a str],
    /// The load goes before everything else on the cores that it shares, as one would that has machines of its own.
    pub first: bool,
}

/// A program that goes before all others.
fn first(program: &Path) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "1"]).arg(program);
    command
}

/// Whether a load may go first: root's may.
pub fn may_go_first() -> bool {
    first(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What `latchkey bench` has found.
pub struct Found {
    pub requests_per_second: f64,
    pub requests: f64,
    pub latency_us: Value,
    pub unsent: u64,
}

impl Target<'_> {
    /// As much as the server takes, or at a rate.
    pub fn load(&self, duration: Duration, rate: Option<u64>) -> Result<Found, String> {
        let program = built("latchkey")?;
        let mut command = if self.first { first(&program) } else { Command::new(&program) };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LATCHKEY_") {
                command.env_remove(name);
            }
        }
        command.args(["bench", "--output", "json", "--tokens"]).arg(self.tokens);
        command.args(["--server", &format!("http://{}", self.address)]);
        command.args(["--duration", &format!("{}ms", duration.as_millis())]).args(self.arguments);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut found: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let number = found["requests_per_second"].as_f64().filter(|_| found["wrong"] == 0);
        Ok(Found {
            requests_per_second: number.ok_or_else(|| format!("{command:?} says {found}"))?,
            requests: found["right"].as_f64().unwrap_or_default(),
            unsent: found["unsent"].as_u64().unwrap_or_default(),
            latency_us: found["latency_us"].take(),
        })
    }
}
