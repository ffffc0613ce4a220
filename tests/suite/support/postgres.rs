//! A PostgreSQL server of our own, on a free port. Most tests share one, and each has a database in it.

use std::{
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::guard::{Guarded, unprivileged};

/// The account of the operating system that it runs under where we are root.
const USER: &str = "postgres";

static SHARED: LazyLock<Postgres> = LazyLock::new(|| Postgres::launch(true));
static DATABASES: AtomicU32 = AtomicU32::new(0);

pub struct Postgres {
    pub port: u16,
    dir: PathBuf,
    /// `name=value`
    settings: Vec<String>,
    server: Option<Guarded>,
    /// Deleted by its guard, after this process.
    shared: bool,
}

impl Postgres {
    /// The one that most tests share.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// One for a test that stops it, or that needs another one.
    pub fn start() -> Self {
        Self::launch(false)
    }

    /// The URL of a new database, for its superuser.
    pub async fn database(&self) -> String {
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres", "postgres")).await.unwrap();
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        self.url("postgres", &name)
    }

    /// The same, in another encoding than UTF-8.
    pub async fn database_in(&self, encoding: &str) -> String {
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
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

    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Ends at once, like a machine that loses power.
    pub fn stop(&mut self) {
        self.server = None;
    }

    pub fn start_again(&mut self) {
        assert!(self.serve(), "it does not start again on port {}", self.port);
    }

    fn launch(shared: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("latchkey-pg").tempdir().unwrap().keep();
        let mut server = Self { port: 0, dir, settings: Vec::new(), server: None, shared };
        // The order of names that a locale has is not the one that we promise.
        if !server.initdb(&["--locale-provider=icu", "--icu-locale=en"]) {
            assert!(server.initdb(&[]), "initdb fails: is PostgreSQL installed? `make test` installs it");
        }
        for _ in 0..10 {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.serve() {
                return server;
            }
        }
        panic!("PostgreSQL does not start");
    }

    fn initdb(&self, more: &[&str]) -> bool {
        let data = self.dir.join("data");
        let _ = std::fs::remove_dir_all(&data);
        unprivileged(&program("initdb"), USER, &self.dir)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"])
            .arg(&data)
            .args(more)
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn serve(&mut self) -> bool {
        let mut command = unprivileged(&program("postgres"), USER, &self.dir);
        command.arg("-D").arg(self.dir.join("data")).arg("-p").arg(self.port.to_string());
        let usual =
            ["fsync=off", "max_connections=300", "listen_addresses=127.0.0.1", "unix_socket_directories="];
        for setting in usual.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        let mut server = Guarded::start(&command, "QUIT", self.shared.then_some(&*self.dir));
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && !server.has_ended() {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.is_ready() {
                self.server = Some(server);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn is_ready(&self) -> bool {
        // In the directory where it stands, as it depends on nothing but the port.
        Command::new(program("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Starts again with TLS, and takes no connection without it.
    pub fn require_tls(&mut self, certificate: &str, key: &str) {
        let hba = "hostssl all all 127.0.0.1/32 trust\n";
        for (name, contents) in [("server.crt", certificate), ("server.key", key), ("hba.conf", hba)] {
            let path = self.dir.join(name);
            std::fs::write(&path, contents).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let file = |name| self.dir.join(name).display().to_string();
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

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A program beside the one that `LATCHKEY_TEST_POSTGRES` names; otherwise of the newest version that is here.
fn program(name: &str) -> PathBuf {
    if let Some(postgres) = std::env::var_os("LATCHKEY_TEST_POSTGRES") {
        // What stands beside the program, and not beside a link to it.
        return std::fs::canonicalize(postgres).unwrap().with_file_name(name);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.path()).max_by_key(version);
    newest.map_or_else(|| PathBuf::from(name), |newest| newest.join("bin").join(name))
}
