//! The server on this machine, and the limits of the machine.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::Findings;
use crate::{
    app::{components::is_embedded, descriptors, memory},
    config::Config,
};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a server runs with this configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Running,
    NotRunning,
}

pub(super) async fn server(config: &Config, found: &mut Findings) -> Server {
    let is_locked = is_embedded(config)
        && std::fs::File::open(config.data_dir.join("latchkey.lock"))
            .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    let (grpc, http) = (config.listen.grpc, config.listen.http);
    let has_ports = grpc.port() != 0 && http.port() != 0;
    let ready = if has_ports { readiness(http).await } else { None };
    match ready {
        Some(200) => found.ok("server", format!("a server runs on {grpc} and is ready")),
        Some(503) => found.outage(
            "server",
            format!("a server runs on {grpc} and is not ready"),
            "look into its log: a store does not answer, or it is stopping",
        ),
        Some(status) => found.warning(
            "server",
            format!(
                "listen.http ({http}) belongs to another program, which answers /readyz with status {status}"
            ),
            "choose another port, or end that program",
        ),
        None if is_locked => found.ok("server", format!("a server runs on {}", config.data_dir.display())),
        None if has_ports && connects(grpc).await => found.warning(
            "server",
            format!("listen.grpc ({grpc}) is in use, but {http} does not answer /readyz"),
            "if that is no server of Latchkey, choose another port, or end that program",
        ),
        None => found.ok("server", "no server runs with this configuration"),
    }
    if is_locked || ready.is_some_and(|status| [200, 503].contains(&status)) {
        Server::Running
    } else {
        Server::NotRunning
    }
}

async fn connects(address: SocketAddr) -> bool {
    timeout(TIMEOUT, TcpStream::connect(address)).await.is_ok_and(|socket| socket.is_ok())
}

/// The status of `/readyz`, if an HTTP server answers.
async fn readiness(http: SocketAddr) -> Option<u16> {
    let asking = async {
        let mut socket = TcpStream::connect(http).await.ok()?;
        socket
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: latchkey\r\nconnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await.ok()?;
        std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
    };
    timeout(TIMEOUT, asking).await.ok().flatten()
}

pub(super) fn descriptors(config: &Config, found: &mut Findings) {
    match descriptors::connections(config).shortage() {
        None => found
            .ok("open_files", "the limit of open files is enough for server.max_connections on both ports"),
        Some(shortage) => {
            found.warning(
                "open_files",
                format!("{shortage} (the limit of this process)"),
                descriptors::REMEDY,
            );
        }
    }
}

pub(super) fn memory(config: &Config, found: &mut Findings) {
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let Some(available) = memory::available_bytes() else {
        return found.not_checked(
            "memory",
            "the memory of this machine is not known",
            "set validate.cache_mib to a number",
        );
    };
    let cache = memory::near_cache_bytes(config.validate.cache_mib);
    let threads = match config.password.threads {
        0 => std::thread::available_parallelism().map_or(1, |all| all.get().saturating_sub(1).max(1)),
        threads => threads,
    };
    let hashing = threads as u64 * u64::from(config.password.memory_kib) * 1024;
    let unfinished = config.server.max_unfinished_mib as u64 * 1024 * 1024;
    let needed = cache.saturating_add(hashing).saturating_add(unfinished);
    let what = format!(
        "the near-cache may take {} MiB, password hashing {} MiB and unfinished messages {} MiB of {} MiB",
        mib(cache),
        mib(hashing),
        mib(unfinished),
        mib(available)
    );
    // Connections and the program itself take memory, too.
    if needed > available / 4 * 3 {
        let remedy = "lower validate.cache_mib, password.threads or server.max_unfinished_mib, or give the process more memory";
        found.warning("memory", what, remedy);
    } else {
        found.ok("memory", what);
    }
}
