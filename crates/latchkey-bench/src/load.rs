//! Load on a server, by `latchkey bench`, which checks every answer.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Result,
    processes::{built_binary, remove_settings},
};

/// A server under load, and the options of the load.
pub struct LoadTarget<'a> {
    pub address: SocketAddr,
    pub tokens: &'a Path,
    /// Further arguments of `latchkey bench`.
    pub arguments: &'a [&'a str],
    /// Whether the load has a real-time priority: on the cores that it shares with the server it then never waits, like
    /// a load on another machine.
    pub real_time: bool,
}

/// The results of `latchkey bench`.
pub struct LoadResult {
    pub requests_per_second: f64,
    pub requests: f64,
    pub latency_us: Value,
    pub unsent: u64,
}

impl LoadTarget<'_> {
    /// Sends as much as the server takes, or requests at a rate per second.
    pub fn run(&self, duration: Duration, rate: Option<u64>) -> Result<LoadResult> {
        let program = built_binary("latchkey")?;
        let mut command = if self.real_time { real_time(&program) } else { Command::new(&program) };
        remove_settings(&mut command);
        command.args(["bench", "--output", "json", "--tokens"]).arg(self.tokens);
        command.args(["--server", &format!("http://{}", self.address)]);
        command.args(["--duration", &format!("{}ms", duration.as_millis())]).args(self.arguments);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
        }
        let mut result: Value = serde_json::from_slice(&output.stdout)?;
        let per_second = result["requests_per_second"].as_f64().filter(|_| result["wrong"] == 0);
        Ok(LoadResult {
            requests_per_second: per_second.ok_or_else(|| format!("{command:?} printed {result}"))?,
            requests: result["right"].as_f64().unwrap_or_default(),
            unsent: result["unsent"].as_u64().unwrap_or_default(),
            latency_us: result["latency_us"].take(),
        })
    }
}

fn real_time(program: &Path) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "1"]).arg(program);
    command
}

/// Whether a load may have a real-time priority, which takes `chrt` and root.
pub fn may_use_real_time() -> bool {
    real_time(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
