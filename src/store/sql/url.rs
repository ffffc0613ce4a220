//! Parses `accounts.url`.
//!
//! The library has a parser of its own, which ignores unknown parameters. This one rejects them, because a typo in
//! the TLS mode must not end in a connection without TLS.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use percent_encoding::percent_decode_str;
use sqlx::{
    mysql::{MySqlConnectOptions, MySqlSslMode},
    postgres::{PgConnectOptions, PgSslMode},
};
use url::Url;

use super::dialect::Dialect;

/// The address and credentials of a database. It has no `Debug`, because it holds secrets.
#[derive(Clone)]
pub struct Settings {
    /// `sqlite:path`, `postgres://...`, `postgresql://...`, `mysql://...` or `mariadb://...`.
    pub url: String,
    /// The password if the URL has none.
    pub password: Option<String>,
    /// The most connections of a pool.
    pub max_connections: u32,
    /// The time limit for connecting.
    pub connect_timeout: Duration,
    /// The time limit of a statement.
    pub query_timeout: Duration,
}

impl Settings {
    /// Fails if the URL is invalid. The error continues the sentence that the name of the setting begins.
    pub fn check(&self) -> Result<(), String> {
        self.parse_url().map(|_| ())
    }

    pub(super) fn parse_url(&self) -> Result<DatabaseUrl, String> {
        DatabaseUrl::parse(&self.url, self.password.as_deref())
    }
}

pub(super) enum DatabaseUrl {
    Sqlite(PathBuf),
    // Boxed, because it is much larger than a path.
    Postgres(Box<PgConnectOptions>),
    MySql(Box<MySqlConnectOptions>),
}

/// The end of an error about an invalid URL.
const FORMS: &str = "use embedded:, sqlite:path, postgres://user@host/database or mysql://user@host/database";

impl DatabaseUrl {
    pub(super) const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }

    /// Returns the path of the file, or the server and the database, for messages.
    pub(super) fn address(&self) -> String {
        let format_address = |socket: Option<&PathBuf>, host: &str, port: u16, database: Option<&str>| {
            let server = socket.map_or_else(|| format!("{host}:{port}"), |path| path.display().to_string());
            format!("{server}/{}", database.unwrap_or_default())
        };
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(options) => format_address(
                options.get_socket(),
                options.get_host(),
                options.get_port(),
                options.get_database(),
            ),
            Self::MySql(options) => format_address(
                options.get_socket(),
                options.get_host(),
                options.get_port(),
                options.get_database(),
            ),
        }
    }

    pub(super) fn parse(text: &str, password: Option<&str>) -> Result<Self, String> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "sqlite" => sqlite(text),
            "postgres" | "postgresql" => {
                UrlParts::parse(text, password)?.postgres().map(Box::new).map(Self::Postgres)
            }
            "mysql" | "mariadb" => UrlParts::parse(text, password)?.mysql().map(Box::new).map(Self::MySql),
            _ => Err(format!("is not the URL of a supported database: {FORMS}")),
        }
    }
}

fn sqlite(text: &str) -> Result<DatabaseUrl, String> {
    let rest = text.strip_prefix("sqlite:").unwrap_or_default();
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.starts_with(":memory:") || path.contains('?') {
        return Err("must name a file after sqlite:, and nothing else".into());
    }
    Ok(DatabaseUrl::Sqlite(PathBuf::from(path)))
}

/// The decoded parts of a URL.
struct UrlParts {
    host: String,
    port: Option<u16>,
    user: String,
    password: Option<String>,
    database: String,
    parameters: Vec<(String, String)>,
}

impl UrlParts {
    fn parse(text: &str, password: Option<&str>) -> Result<Self, String> {
        // The error does not repeat the text, which may hold a password.
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded
                .map(String::from)
                .map_err(|_| "has a percent-encoded character that is not UTF-8".to_owned())
        };
        let in_url = url.password().map(decoded).transpose()?;
        if in_url.is_some() && password.is_some() {
            return Err("holds a password, and another setting does, too: remove one of them".into());
        }
        let parts = Self {
            host: decoded(url.host_str().unwrap_or_default())?.trim_matches(['[', ']']).to_owned(),
            port: url.port(),
            user: decoded(url.username())?,
            password: in_url.or_else(|| password.map(str::to_owned)),
            database: decoded(url.path().trim_start_matches('/'))?,
            parameters: url.query_pairs().into_owned().collect(),
        };
        if parts.user.is_empty() || parts.database.is_empty() || parts.database.contains('/') {
            return Err(format!("must name a user and a database: {FORMS}"));
        }
        if url.fragment().is_some() {
            return Err("has a #: write it as %23".into());
        }
        Ok(parts)
    }

    fn postgres(self) -> Result<PgConnectOptions, String> {
        let mut tls = TlsParameters::default();
        // Not `new`, which would read the password file of the operating system user.
        let mut options = PgConnectOptions::new_without_pgpass()
            .username(&self.user)
            .database(&self.database)
            .port(self.port.unwrap_or(5432))
            .application_name("latchkey")
            // Latchkey reads no floating-point numbers, and pgbouncer before 1.20 rejects this startup parameter.
            .extra_float_digits(None::<i8>)
            .ssl_mode(PgSslMode::Prefer);
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        let mut socket = None;
        for (name, value) in self.parameters {
            match name.as_str() {
                "sslmode" => {
                    let mode = match value.as_str() {
                        "disable" => PgSslMode::Disable,
                        "prefer" => PgSslMode::Prefer,
                        "require" => PgSslMode::Require,
                        "verify-full" => PgSslMode::VerifyFull,
                        _ => return Err("sslmode must be disable, prefer, require or verify-full".into()),
                    };
                    tls.verifies_identity = value == "verify-full";
                    options = options.ssl_mode(mode);
                }
                "sslrootcert" => options = options.ssl_root_cert(tls.root(value)?),
                "sslcert" => options = options.ssl_client_cert(tls.certificate(value)?),
                "sslkey" => options = options.ssl_client_key(tls.key(value)?),
                "application_name" => options = options.application_name(&value),
                "host" if value.starts_with('/') => socket = Some(value),
                _ => {
                    return Err(unknown(
                        &name,
                        "sslmode, sslrootcert, sslcert, sslkey, application_name, and host for the directory of a socket",
                    ));
                }
            }
        }
        tls.check("sslrootcert", "sslmode=verify-full")?;
        match (socket, self.host.as_str()) {
            (Some(directory), "localhost") => Ok(options.socket(directory)),
            (None, host) if !host.is_empty() => Ok(options.host(host)),
            _ => {
                Err("must name a host, or localhost and the directory of a socket in the parameter host"
                    .into())
            }
        }
    }

    fn mysql(self) -> Result<MySqlConnectOptions, String> {
        let mut tls = TlsParameters::default();
        let mut options = MySqlConnectOptions::new()
            .username(&self.user)
            .database(&self.database)
            .port(self.port.unwrap_or(3306))
            .ssl_mode(MySqlSslMode::Preferred);
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        let mut socket = None;
        for (name, value) in self.parameters {
            match name.as_str() {
                "ssl-mode" => {
                    let mode = match value.to_ascii_uppercase().as_str() {
                        "DISABLED" => MySqlSslMode::Disabled,
                        "PREFERRED" => MySqlSslMode::Preferred,
                        "REQUIRED" => MySqlSslMode::Required,
                        "VERIFY_IDENTITY" => MySqlSslMode::VerifyIdentity,
                        _ => {
                            return Err(
                                "ssl-mode must be DISABLED, PREFERRED, REQUIRED or VERIFY_IDENTITY".into()
                            );
                        }
                    };
                    tls.verifies_identity = matches!(mode, MySqlSslMode::VerifyIdentity);
                    options = options.ssl_mode(mode);
                }
                "ssl-ca" => options = options.ssl_ca(tls.root(value)?),
                "ssl-cert" => options = options.ssl_client_cert(tls.certificate(value)?),
                "ssl-key" => options = options.ssl_client_key(tls.key(value)?),
                "socket" => socket = Some(value),
                _ => return Err(unknown(&name, "ssl-mode, ssl-ca, ssl-cert, ssl-key and socket")),
            }
        }
        tls.check("ssl-ca", "ssl-mode=VERIFY_IDENTITY")?;
        match (socket, self.host.as_str()) {
            (Some(path), "localhost") => Ok(options.socket(path)),
            (None, host) if !host.is_empty() => Ok(options.host(host)),
            _ => {
                Err("must name a host, or localhost and the path of a socket in the parameter socket".into())
            }
        }
    }
}

/// The TLS parameters of the URL.
///
/// There is no verify-ca, because the library adds the given root to the public ones: without a check of the host
/// name, it would accept a certificate of anybody.
#[derive(Default)]
struct TlsParameters {
    verifies_identity: bool,
    has_root: bool,
    /// Whether there is a client certificate, and whether there is a key for it.
    has_client: (bool, bool),
}

impl TlsParameters {
    fn root(&mut self, path: String) -> Result<String, String> {
        self.has_root = true;
        check_readable(path)
    }

    fn certificate(&mut self, path: String) -> Result<String, String> {
        self.has_client.0 = true;
        check_readable(path)
    }

    fn key(&mut self, path: String) -> Result<String, String> {
        self.has_client.1 = true;
        check_readable(path)
    }

    fn check(&self, root: &str, mode: &str) -> Result<(), String> {
        if self.has_root && !self.verifies_identity {
            return Err(format!("has {root}, which is only used with {mode}: add {mode}"));
        }
        if self.has_client.0 != self.has_client.1 {
            return Err("must name both a client certificate and its key, or neither".into());
        }
        Ok(())
    }
}

fn check_readable(path: String) -> Result<String, String> {
    match File::open(Path::new(&path)) {
        Ok(_) => Ok(path),
        Err(error) => Err(format!("names {path}, which cannot be read: {error}")),
    }
}

fn unknown(name: &str, known: &str) -> String {
    format!("has the unknown parameter {name}: use {known}")
}

#[cfg(test)]
mod tests {
    use super::DatabaseUrl;

    fn error(url: &str) -> String {
        DatabaseUrl::parse(url, None).err().unwrap_or_else(|| panic!("{url} was accepted"))
    }

    #[test]
    fn usual_urls_are_accepted() {
        for url in [
            "sqlite:accounts.db",
            "sqlite:///var/lib/accounts.db",
            "postgres://app@db/app",
            "postgresql://app:p%40ss@[::1]:5433/app?sslmode=require&application_name=x",
            "postgres://app@db/app?sslmode=verify-full",
            "postgres://app@localhost/app?host=/run/postgresql",
            "mysql://app:secret@db:3307/app?ssl-mode=verify_identity",
            "mariadb://app@localhost/app?socket=/run/mysqld/mysqld.sock",
        ] {
            assert!(
                DatabaseUrl::parse(url, None).is_ok(),
                "{url}: {:?}",
                DatabaseUrl::parse(url, None).err()
            );
        }
    }

    #[test]
    fn the_parts_of_a_url_are_decoded() {
        let Ok(DatabaseUrl::Postgres(options)) =
            DatabaseUrl::parse("postgres://a%40b@[::1]:5433/d%20b", None)
        else {
            panic!("not PostgreSQL");
        };
        assert_eq!((options.get_host(), options.get_port()), ("::1", 5433));
        assert_eq!((options.get_username(), options.get_database()), ("a@b", Some("d b")));
        for (url, address) in [
            ("postgres://app:swordfish@db.internal/app", "db.internal:5432/app"),
            ("postgres://app@localhost/app?host=/run/postgresql", "/run/postgresql/app"),
            ("mysql://app:swordfish@db:3307/app", "db:3307/app"),
            ("sqlite:accounts.db", "accounts.db"),
        ] {
            assert_eq!(DatabaseUrl::parse(url, None).ok().unwrap().address(), address);
        }
        let Ok(DatabaseUrl::MySql(options)) = DatabaseUrl::parse("mariadb://app@db/app", Some("secret"))
        else {
            panic!("not MySQL");
        };
        assert_eq!((options.get_host(), options.get_port()), ("db", 3306));
    }

    #[test]
    fn typos_are_rejected_and_not_ignored() {
        for (url, expected) in [
            ("postgres://app@db/app?sslmode=verify_full", "sslmode must be"),
            ("postgres://app@db/app?sslmode=verify-ca", "sslmode must be"),
            ("postgres://app@db/app?ssl-mode=require", "parameter ssl-mode"),
            ("postgres://app@db/app?sslmod=require", "parameter sslmod:"),
            ("postgres://app@db/app?host=other", "parameter host"),
            ("mysql://app@db/app?ssl-mode=VERIFY_CA", "ssl-mode must be"),
            ("mysql://app@db/app?sslmode=require", "parameter sslmode"),
            ("postgres://app@db/app?sslmode=verify-full&sslrootcert=/nowhere", "/nowhere"),
            ("postgres://app@db/app?sslrootcert=/dev/null", "sslmode=verify-full"),
            ("mysql://app@db/app?ssl-ca=/dev/null", "ssl-mode=VERIFY_IDENTITY"),
            ("mysql://app@db/app?ssl-cert=/dev/null", "client certificate"),
            ("postgres://db/app", "a user and a database"),
            ("postgres://app@db", "a user and a database"),
            ("postgres://app@/app", "host"),
            ("postgres:app@db/app", "host"),
            ("postgres://app@db/app?host=/run/postgresql", "localhost"),
            ("postgres://app:pa#ss@db/app", "URL"),
            ("sqlite:", "a file"),
            ("sqlite::memory:", "a file"),
            ("oracle://app@db/app", "sqlite:path"),
            ("", "sqlite:path"),
        ] {
            let error = error(url);
            assert!(error.contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn no_error_repeats_the_password() {
        for url in [
            "postgres://app:swordfish@db:port/app",
            "postgres://app:swordfish@db",
            "postgres://app:swordfish@db/app?x=1",
            "mysql://app:swordfish@db/app?ssl-mode=x",
            "oracle://app:swordfish@db/app",
            "postgres://app:swordfish#@db/app",
        ] {
            assert!(!error(url).contains("swordfish"), "{url}: {}", error(url));
        }
        let both = DatabaseUrl::parse("postgres://app:swordfish@db/app", Some("other")).err().unwrap();
        assert!(both.contains("remove one") && !both.contains("swordfish"), "{both}");
    }
}
