//! A MariaDB server on a free port. Most tests share one, and each has a database in it.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

use super::{
    child_server::unprivileged,
    database_server::{DatabaseServer, database_name},
};

/// The account of the operating system that the server runs under if the tests run as root.
const USER: &str = "mysql";

/// The kernel limits native AIO contexts for all servers together.
const AIO: &str = "--innodb-use-native-aio=0";

static SHARED: LazyLock<MariaDb> = LazyLock::new(|| MariaDb::launch(true));

pub struct MariaDb {
    server: DatabaseServer,
}

impl MariaDb {
    /// The server that most tests share.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Starts a server for a test that stops it.
    pub fn start() -> Self {
        Self::launch(false)
    }

    /// Creates a database and returns its URL, for a user with all privileges.
    pub async fn database(&self) -> String {
        let name = database_name();
        let mut connection = MySqlConnection::connect(&self.url("test", "mysql")).await.unwrap();
        let create = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        self.url("test", &name)
    }

    pub fn port(&self) -> u16 {
        self.server.port
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}:secret@127.0.0.1:{}/{database}", self.server.port)
    }

    /// Ends the server at once, as a power failure would.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    pub fn start_again(&mut self) {
        assert!(serve(&mut self.server), "MariaDB did not start again on port {}", self.server.port);
    }

    /// Sends a signal to the server by its name.
    pub fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    fn launch(shared: bool) -> Self {
        let mut server = DatabaseServer::new("latchkey-my", shared);
        let install = unprivileged(Path::new("mariadb-install-db"), USER, &server.dir)
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal", AIO])
            .arg(format!("--datadir={}", server.dir.join("data").display()))
            .env("TMPDIR", &server.dir)
            .output()
            .unwrap_or_else(|error| panic!("mariadb-install-db: {error}; `make test` installs MariaDB"));
        assert!(install.status.success(), "mariadb-install-db failed: {install:?}");
        let init = "CREATE USER IF NOT EXISTS 'test'@'%' IDENTIFIED BY 'secret';
                    GRANT ALL ON *.* TO 'test'@'%' WITH GRANT OPTION;";
        std::fs::write(server.dir.join("init.sql"), init).unwrap();
        server.start(serve);
        Self { server }
    }
}

fn serve(server: &mut DatabaseServer) -> bool {
    let program = std::env::var_os("LATCHKEY_TEST_MARIADB").unwrap_or_else(|| "mariadbd".into());
    let mut command = unprivileged(Path::new(&program), USER, &server.dir);
    command.args([
        "--no-defaults",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--max-connections=500",
        "--innodb-flush-log-at-trx-commit=2",
        AIO,
    ]);
    // A starting server deletes the temporary tables of others in a shared directory.
    command.arg(format!("--tmpdir={}", server.dir.display()));
    for (name, value) in
        [("datadir", "data"), ("socket", "socket"), ("init-file", "init.sql"), ("pid-file", "pid")]
    {
        command.arg(format!("--{name}={}", server.dir.join(value).display()));
    }
    command.arg(format!("--port={}", server.port));
    server.serve(&command, "KILL", is_ready)
}

fn is_ready(server: &DatabaseServer) -> bool {
    let user = ["--no-defaults", "--user=test", "--password=secret", "--host=127.0.0.1", "--protocol=tcp"];
    Command::new("mariadb-admin")
        .args(user)
        .arg(format!("--port={}", server.port))
        .arg("ping")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
        && server.dir.join("pid").exists()
}
