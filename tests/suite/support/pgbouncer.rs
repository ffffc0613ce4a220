//! pgbouncer in transaction mode before a PostgreSQL server: each transaction uses any free connection to the server.

use std::net::TcpStream;

use tempfile::TempDir;

use super::{
    address::free_port,
    child_server::{ChildServer, unprivileged},
    postgres::Postgres,
    skip::find_program,
};

/// The account of the operating system that it runs under if the tests run as root.
const USER: &str = "postgres";

pub struct PgBouncer {
    port: u16,
    dir: TempDir,
    process: Option<ChildServer>,
}

impl PgBouncer {
    /// Starts before a server, with this number of connections to it for each database, or skips the test without
    /// pgbouncer.
    pub fn before(server: &Postgres, connections: usize) -> Option<Self> {
        let program = find_program("pgbouncer", "LATCHKEY_TEST_PGBOUNCER")?;
        let dir = tempfile::Builder::new().prefix("latchkey-pb").tempdir().unwrap();
        let mut bouncer = Self { port: 0, dir, process: None };
        for _ in 0..10 {
            bouncer.port = free_port();
            let file = bouncer.dir.path().join("pgbouncer.ini");
            std::fs::write(&file, bouncer.settings(server.port(), connections)).unwrap();
            let mut command = unprivileged(&program, USER, bouncer.dir.path());
            command.arg(&file);
            let is_ready = || TcpStream::connect(("127.0.0.1", bouncer.port)).is_ok();
            bouncer.process = ChildServer::start_ready(&command, "INT", None, is_ready);
            if bouncer.process.is_some() {
                return Some(bouncer);
            }
        }
        panic!("pgbouncer did not start: {}", program.display());
    }

    /// Returns the URL of a database of the server, through the pooler.
    pub fn url(&self, url: &str) -> String {
        let database = url.rsplit_once('/').unwrap().1;
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn settings(&self, server: u16, connections: usize) -> String {
        // Connections to the server are used in turn, so that successive transactions rarely share one.
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
        // The process must end before its directory is deleted.
        self.process = None;
    }
}
