//! What is measured: one row a way to ask. A new way to ask is a new row here.

/// A way to ask, and what of the echo to compare it with.
pub struct Row {
    /// Its name in the JSON.
    pub key: &'static str,
    /// Its name in the table and in the charts.
    pub name: &'static str,
    /// Whether the sessions are in Redis.
    pub on_redis: bool,
    /// Settings of the server besides the usual ones.
    pub settings: &'static [(&'static str, &'static str)],
    /// What `latchkey bench` is told.
    pub arguments: &'static [&'static str],
    /// What it is told for the echo.
    pub echo: &'static [&'static str],
}

const UNARY_ECHO: &[&str] = &["--path", "/latchkey.bench.Echo/Validate"];

pub const ROWS: [Row; 3] = [
    Row {
        key: "validate_embedded",
        name: "Validate, embedded store",
        on_redis: false,
        settings: &[],
        arguments: &[],
        echo: UNARY_ECHO,
    },
    Row {
        key: "validate_redis_cached",
        name: "Validate, Redis, from memory",
        on_redis: true,
        settings: &[("VALIDATE__MAX_STALENESS", "5s")],
        arguments: &[],
        echo: UNARY_ECHO,
    },
    Row {
        key: "validate_redis_strict",
        name: "Validate, Redis, always asked",
        on_redis: true,
        settings: &[],
        arguments: &[],
        echo: UNARY_ECHO,
    },
];

/// Of the servers under load: so that a thousand users are made in seconds. No password is checked while
/// there is load, so this changes nothing of what is measured.
pub const CHEAP_PASSWORDS: [(&str, &str); 3] =
    [("PASSWORD__ALLOW_WEAK", "true"), ("PASSWORD__MEMORY_KIB", "8"), ("PASSWORD__ITERATIONS", "1")];
