//! A pgbouncer in transaction mode before a PostgreSQL server: each transaction runs on whichever connection to
//! the server is free.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    guard::{Guarded, unprivileged},
    postgres::Postgres,
};

/// The account of the operating system that it runs under where we are root.
const USER: &str = "postgres";

pub struct PgBouncer {
    port: u16,
    dir: TempDir,
    process: Option<Guarded>,
}

impl PgBouncer {
    /// Before a server, with so many connections to it for each database. `None` where there is no pgbouncer and
    /// need not be.
    pub fn before(server: &Postgres, connections: usize) -> Option<Self> {
        let program = program()?;
        let dir = tempfile::Builder::new().prefix("latchkey-pb").tempdir().unwrap();
        let mut bouncer = Self { port: 0, dir, process: None };
        for _ in 0..10 {
            bouncer.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let file = bouncer.dir.path().join("pgbouncer.ini");
            std::fs::write(&file, bouncer.settings(server.port, connections)).unwrap();
            let mut command = unprivileged(&program, USER, bouncer.dir.path());
            command.arg(&file);
            let mut process = Guarded::start(&command, "INT", None);
            let deadline = Instant::now() + Duration::from_secs(30);
            while Instant::now() < deadline && !process.has_ended() {
                if TcpStream::connect(("127.0.0.1", bouncer.port)).is_ok() {
                    bouncer.process = Some(process);
                    return Some(bouncer);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("pgbouncer does not start: {}", program.display());
    }

    /// The URL of a database of the server, through here.
    pub fn url(&self, url: &str) -> String {
        let database = url.rsplit_once('/').unwrap().1;
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn settings(&self, server: u16, connections: usize) -> String {
        // Connections to the server are taken in turn, so that hardly two transactions in a row have the same.
        format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {connections}\n\
             min_pool_size = {connections}\n\
             server_round_robin = 1\n\
             max_client_conn = 500\n",
            self.port
        )
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Before its directory.
        self.process = None;
    }
}

/// The one that `LATCHKEY_TEST_PGBOUNCER` names, or Debian's.
#[expect(clippy::print_stdout, reason = "so that nobody takes a skipped test for a passed one")]
fn program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("LATCHKEY_TEST_PGBOUNCER").filter(|path| !path.is_empty()) {
        return Some(program.into());
    }
    let found = Some(PathBuf::from("/usr/sbin/pgbouncer")).filter(|program| program.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "LATCHKEY_TEST_PGBOUNCER must name a pgbouncer");
        println!("skipped: no pgbouncer here; `make test` installs it");
    }
    found
}
