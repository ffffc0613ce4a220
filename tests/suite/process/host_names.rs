//! Host names that resolve to another address than before.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    process::{self, Process},
    redis::{Flavour, RedisServer},
};

/// Accepts connections at `address` and connects them to a port of this machine.
async fn forward(address: &str, target: u16) -> u16 {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

/// Starts a server for which `/etc/hosts` is another file.
fn start_with_hosts(hosts: &Path, data: &Path, settings: &[(&str, &str)]) -> Process {
    let inner = process::command(data, settings);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"", "sh"]);
    command.arg(hosts).arg(inner.get_program()).arg("serve");
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Process::launch(command, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_name_is_resolved_again_for_each_connection() {
    let probe = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        // libtest captures `println!` and `eprintln!`, but not this.
        std::io::stderr()
            .write_all(b"skipped: host names need permission to unshare a mount namespace\n")
            .unwrap();
        return;
    }
    let master = RedisServer::start();
    let replica = RedisServer::with(Flavour::Redis, &["--repl-diskless-sync-delay", "0"]);
    replica.replicate(&master);
    let port = forward("127.0.0.2:0", master.port).await;
    assert_eq!(forward(&format!("127.0.0.3:{port}"), replica.port).await, port);

    let data = tempfile::tempdir().unwrap();
    let hosts = data.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 redis.test\n").unwrap();
    let url = format!("redis://redis.test:{port}");
    let process = start_with_hosts(&hosts, data.path(), &[("SESSIONS__URL", &url)]);
    let client = process.serving_client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    let _: u64 = master.query(redis::cmd("WAIT").arg(1).arg(10_000));

    // The file is written in place, because the mount is of this file and not of its name.
    std::fs::write(&hosts, "127.0.0.3 redis.test\n").unwrap();
    client.session(&token).await;
    // A promotion by hand: the old master is demoted first.
    master.replicate(&replica);
    replica.promote();
    let begun = Instant::now();
    while client.try_validate(&token).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the old address is still used");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.session(&token).await.device, "phone");
    let newer = client.login("alice", "tablet").await.token;
    client.session(&newer).await;
    let keys: u64 = replica.query(&redis::cmd("DBSIZE"));
    assert!(keys > 0);
}
