//! A MariaDB server of our own, on a free port. Most tests share one, and each has a database in it.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

use super::guard::{Guarded, unprivileged};

/// The account of the operating system that it runs under where we are root.
const USER: &str = "mysql";

/// A kernel has only so much of the other kind, for all the servers that run beside each other.
const AIO: &str = "--innodb-use-native-aio=0";

static SHARED: LazyLock<MariaDb> = LazyLock::new(|| MariaDb::launch(true));
static DATABASES: AtomicU32 = AtomicU32::new(0);

pub struct MariaDb {
    pub port: u16,
    dir: PathBuf,
    server: Option<Guarded>,
    /// Deleted by its guard, after this process.
    shared: bool,
}

impl MariaDb {
    /// The one that most tests share.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// One for a test that stops it.
    pub fn start() -> Self {
        Self::launch(false)
    }

    /// The URL of a new database, for a user who may do everything.
    pub async fn database(&self) -> String {
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut connection = MySqlConnection::connect(&self.url("test", "mysql")).await.unwrap();
        let create = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        self.url("test", &name)
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}:secret@127.0.0.1:{}/{database}", self.port)
    }

    /// Ends at once, like a machine that loses power.
    pub fn stop(&mut self) {
        self.server = None;
    }

    pub fn start_again(&mut self) {
        assert!(self.serve(), "it does not start again on port {}", self.port);
    }

    /// Sends a signal to the server by its name.
    pub fn signal(&self, name: &str) {
        self.server.as_ref().unwrap().signal(name);
    }

    fn launch(shared: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("latchkey-my").tempdir().unwrap().keep();
        // Before anything can fail, so that the directory is deleted.
        let mut server = Self { port: 0, dir, server: None, shared };
        let install = unprivileged(&PathBuf::from("mariadb-install-db"), USER, &server.dir)
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal", AIO])
            .arg(format!("--datadir={}", server.dir.join("data").display()))
            .env("TMPDIR", &server.dir)
            .output()
            .unwrap_or_else(|error| panic!("mariadb-install-db: {error}; `make test` installs MariaDB"));
        assert!(install.status.success(), "mariadb-install-db fails: {install:?}");
        let init = "CREATE USER IF NOT EXISTS 'test'@'%' IDENTIFIED BY 'secret';
                    GRANT ALL ON *.* TO 'test'@'%' WITH GRANT OPTION;";
        std::fs::write(server.dir.join("init.sql"), init).unwrap();
        for _ in 0..10 {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.serve() {
                return server;
            }
        }
        panic!("MariaDB does not start");
    }

    fn serve(&mut self) -> bool {
        let program = std::env::var_os("LATCHKEY_TEST_MARIADB").unwrap_or_else(|| "mariadbd".into());
        let mut command = unprivileged(&PathBuf::from(program), USER, &self.dir);
        command.args([
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--max-connections=500",
            "--innodb-flush-log-at-trx-commit=2",
            AIO,
        ]);
        // A server that starts deletes what it finds of others in a directory for temporary tables.
        command.arg(format!("--tmpdir={}", self.dir.display()));
        for (name, value) in
            [("datadir", "data"), ("socket", "socket"), ("init-file", "init.sql"), ("pid-file", "pid")]
        {
            command.arg(format!("--{name}={}", self.dir.join(value).display()));
        }
        command.arg(format!("--port={}", self.port));
        let mut server = Guarded::start(&command, "KILL", self.shared.then_some(&*self.dir));
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && !server.has_ended() {
            if self.is_ready() {
                self.server = Some(server);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn is_ready(&self) -> bool {
        let user =
            ["--no-defaults", "--user=test", "--password=secret", "--host=127.0.0.1", "--protocol=tcp"];
        Command::new("mariadb-admin")
            .args(user)
            .arg(format!("--port={}", self.port))
            .arg("ping")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
            && self.dir.join("pid").exists()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
