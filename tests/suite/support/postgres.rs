//! A PostgreSQL server on a free port. Most tests share one, and each has a database in it.

use std::{
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    child_server::unprivileged,
    database_server::{DatabaseServer, database_name},
};

/// The account of the operating system that the server runs under if the tests run as root.
const USER: &str = "postgres";

static SHARED: LazyLock<Postgres> = LazyLock::new(|| Postgres::launch(true));

pub struct Postgres {
    server: DatabaseServer,
    /// `name=value`
    settings: Vec<String>,
}

impl Postgres {
    /// The server that most tests share.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Starts a server for a test that stops or reconfigures it.
    pub fn start() -> Self {
        Self::launch(false)
    }

    /// Creates a database and returns its URL, for the superuser.
    pub async fn database(&self) -> String {
        let name = database_name();
        let mut connection = PgConnection::connect(&self.url("postgres", "postgres")).await.unwrap();
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        self.url("postgres", &name)
    }

    /// Creates a database in another encoding than UTF-8 and returns its URL.
    pub async fn database_in(&self, encoding: &str) -> String {
        let name = database_name();
        let mut connection = PgConnection::connect(&self.url("postgres", "postgres")).await.unwrap();
        // Not every locale provider knows every encoding, and not every version has several.
        let create = |provider: &str| {
            AssertSqlSafe(format!(
                "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' {provider} LOCALE 'C'"
            ))
        };
        if connection.execute(create("LOCALE_PROVIDER libc")).await.is_err() {
            connection.execute(create("")).await.unwrap();
        }
        self.url("postgres", &name)
    }

    pub fn port(&self) -> u16 {
        self.server.port
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.server.port)
    }

    /// Ends the server at once, as a power failure would.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    pub fn start_again(&mut self) {
        let Self { server, settings } = self;
        assert!(serve(server, settings), "PostgreSQL did not start again on port {}", server.port);
    }

    fn launch(shared: bool) -> Self {
        let mut server = DatabaseServer::new("latchkey-pg", shared);
        // ICU sorts names in another order than the one that Latchkey promises.
        if !initdb(&server, &["--locale-provider=icu", "--icu-locale=en"]) {
            assert!(initdb(&server, &[]), "initdb failed; `make test` installs PostgreSQL");
        }
        server.start(|server| serve(server, &[]));
        Self { server, settings: Vec::new() }
    }

    /// Restarts the server with TLS, so that it accepts no connection without it.
    pub fn require_tls(&mut self, certificate: &str, key: &str) {
        let hba = "hostssl all all 127.0.0.1/32 trust\n";
        for (name, contents) in [("server.crt", certificate), ("server.key", key), ("hba.conf", hba)] {
            let path = self.server.dir.join(name);
            std::fs::write(&path, contents).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = |name| self.server.dir.join(name).display().to_string();
        let settings = [
            format!("ssl_cert_file={}", file("server.crt")),
            format!("ssl_key_file={}", file("server.key")),
            format!("hba_file={}", file("hba.conf")),
            "ssl=on".to_owned(),
        ];
        self.settings.extend(settings);
        self.stop();
        self.start_again();
    }
}

fn initdb(server: &DatabaseServer, more: &[&str]) -> bool {
    let data = server.dir.join("data");
    let _ = std::fs::remove_dir_all(&data);
    unprivileged(&program("initdb"), USER, &server.dir)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"])
        .arg(&data)
        .args(more)
        .current_dir(&server.dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn serve(server: &mut DatabaseServer, settings: &[String]) -> bool {
    let mut command = unprivileged(&program("postgres"), USER, &server.dir);
    command.arg("-D").arg(server.dir.join("data")).arg("-p").arg(server.port.to_string());
    let usual =
        ["fsync=off", "max_connections=300", "listen_addresses=127.0.0.1", "unix_socket_directories="];
    for setting in usual.into_iter().chain(settings.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    server.serve(&command, "QUIT", is_ready)
}

fn is_ready(server: &DatabaseServer) -> bool {
    TcpStream::connect(("127.0.0.1", server.port)).is_ok()
        && Command::new(program("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &server.port.to_string()])
            .status()
            .is_ok_and(|status| status.success())
}

/// Finds a program in the directory of the one that `LATCHKEY_TEST_POSTGRES` names, or else in the newest version that
/// is installed.
fn program(name: &str) -> PathBuf {
    if let Some(postgres) = std::env::var_os("LATCHKEY_TEST_POSTGRES") {
        // The variable may name a symbolic link.
        return std::fs::canonicalize(postgres).unwrap().with_file_name(name);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.path()).max_by_key(version);
    newest.map_or_else(|| PathBuf::from(name), |newest| newest.join("bin").join(name))
}
