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
    /// What it is compared with.
    pub echo: &'static Echo,
    /// What is to be reached, as a part of the echo's requests a second.
    pub goal: f64,
}

/// A way to ask the echo.
#[derive(PartialEq)]
pub struct Echo {
    /// Its name in the table and in the charts.
    pub name: &'static str,
    /// What `latchkey bench` is told.
    pub arguments: &'static [&'static str],
}

/// One call after the other, on 8 connections, 32 at a time on each.
pub const UNARY_ECHO: Echo = Echo { name: "echo", arguments: &["--path", "/latchkey.bench.Echo/Validate"] };
const STREAM: &[&str] = &["--stream", "--concurrency", "256"];
const STREAM_ECHO: Echo = Echo {
    name: "stream echo",
    arguments: &["--stream", "--concurrency", "256", "--path", "/latchkey.bench.Echo/ValidateStream"],
};
/// So that the near-cache may answer.
const FROM_MEMORY: &[(&str, &str)] = &[("VALIDATE__MAX_STALENESS", "5s")];

pub const ROWS: [Row; 5] = [
    Row {
        key: "validate_embedded",
        name: "Validate, embedded store",
        on_redis: false,
        settings: &[],
        arguments: &[],
        echo: &UNARY_ECHO,
        goal: 0.9,
    },
    Row {
        key: "validate_redis_cached",
        name: "Validate, Redis, from memory",
        on_redis: true,
        settings: FROM_MEMORY,
        arguments: &[],
        echo: &UNARY_ECHO,
        goal: 0.9,
    },
    Row {
        key: "validate_redis_strict",
        name: "Validate, Redis, always asked",
        on_redis: true,
        settings: &[],
        arguments: &[],
        echo: &UNARY_ECHO,
        goal: 0.8,
    },
    Row {
        key: "stream_redis_cached",
        name: "ValidateStream, Redis, from memory",
        on_redis: true,
        settings: FROM_MEMORY,
        arguments: STREAM,
        echo: &STREAM_ECHO,
        goal: 0.6,
    },
    Row {
        key: "stream_redis_strict",
        name: "ValidateStream, Redis, always asked",
        on_redis: true,
        settings: &[],
        arguments: STREAM,
        echo: &UNARY_ECHO,
        goal: 6.0,
    },
];

/// Of the servers under load: so that a thousand users are made in seconds. No password is checked while
/// there is load, so this changes nothing of what is measured.
pub const CHEAP_PASSWORDS: [(&str, &str); 3] =
    [("PASSWORD__ALLOW_WEAK", "true"), ("PASSWORD__MEMORY_KIB", "8"), ("PASSWORD__ITERATIONS", "1")];
