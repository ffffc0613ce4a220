//! HTTP: single requests, and the load on a peer by wrk.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use latchkey_bench::Result;

use crate::peer::Call;

const SCRIPT: &str = "crates/latchkey-bench/peers/load.lua";
/// Connections of the load, each with one request at a time and a thread of its own.
pub(crate) const CONNECTIONS: u32 = 32;
const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends a request without a body, or with a form.
pub(crate) fn send(
    address: SocketAddr,
    path: &str,
    headers: &[String],
    form: Option<&str>,
) -> Result<Response> {
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let method = if form.is_some() { "POST" } else { "GET" };
    // HTTP/1.0, so that the body is not chunked and the connection ends.
    let mut lines = vec![format!("{method} {path} HTTP/1.0"), format!("Host: {address}")];
    lines.extend_from_slice(headers);
    if let Some(form) = form {
        lines.push("Content-Type: application/x-www-form-urlencoded".to_owned());
        lines.push(format!("Content-Length: {}", form.len()));
    }
    let request = format!("{}\r\n\r\n{}", lines.join("\r\n"), form.unwrap_or_default());
    socket.write_all(request.as_bytes())?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("not HTTP: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.ok_or_else(|| format!("not HTTP: {head}"))?, body: body.to_owned() })
}

/// Requests per second with as much load as the server takes. Every answer is checked.
pub(crate) fn load(address: SocketAddr, call: Call, credentials: &Path, duration: Duration) -> Result<f64> {
    let threads = CONNECTIONS.to_string();
    let mut command = Command::new("wrk");
    command.args(["--threads", &threads, "--connections", &threads, "--timeout", "10s"]);
    command.args(["--duration", &format!("{}s", duration.as_secs().max(1)), "--script", SCRIPT]);
    command.args([&format!("http://{address}{}", call.path()), "--"]).arg(credentials).arg(&threads);
    if let Call::Introspection { client, .. } = call {
        command.arg(data_encoding::BASE64.encode(client.as_bytes()));
    }
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let failed = || format!("{command:?} printed {text}{}", String::from_utf8_lossy(&output.stderr));
    let numbers = result.ok_or_else(failed)?.splitn(5, ' ').map(|word| word.parse::<f64>().ok());
    match numbers.collect::<Vec<_>>()[..] {
        [Some(micros), Some(right), Some(0.0), Some(0.0), _] if right > 0.0 => Ok(right / micros * 1e6),
        _ => Err(failed().into()),
    }
}
