//! The rows of the table: each is a way to call Validate that is compared with the echo.

pub(crate) struct Row {
    /// Name in the JSON.
    pub(crate) key: &'static str,
    /// Name in the table and in the charts.
    pub(crate) name: &'static str,
    pub(crate) on_redis: bool,
    /// Further settings of the server.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// Arguments of `latchkey bench`.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) echo: &'static Echo,
    /// The goal for the ratio of the requests per second.
    pub(crate) goal: f64,
}

/// A way to call the echo.
pub(crate) struct Echo {
    /// Name in the table and in the charts.
    pub(crate) name: &'static str,
    /// Arguments of `latchkey bench`.
    pub(crate) arguments: &'static [&'static str],
}

/// Unary calls, on 8 connections, 32 at a time on each.
pub(crate) const UNARY_ECHO: Echo =
    Echo { name: "echo", arguments: &["--path", "/latchkey.bench.Echo/Validate"] };
const STREAM: &[&str] = &["--stream", "--concurrency", "256"];
const STREAM_ECHO: Echo = Echo {
    name: "stream echo",
    arguments: &["--stream", "--concurrency", "256", "--path", "/latchkey.bench.Echo/ValidateStream"],
};
/// The near-cache may answer, with the staleness that is recommended.
const FROM_MEMORY: &[(&str, &str)] = &[("VALIDATE__MAX_STALENESS", "250ms")];

pub(crate) const ROWS: [Row; 5] = [
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
        name: "Validate, Redis, cached",
        on_redis: true,
        settings: FROM_MEMORY,
        arguments: &[],
        echo: &UNARY_ECHO,
        goal: 0.9,
    },
    Row {
        key: "validate_redis_strict",
        name: "Validate, Redis, strict",
        on_redis: true,
        settings: &[],
        arguments: &[],
        echo: &UNARY_ECHO,
        goal: 0.8,
    },
    Row {
        key: "stream_redis_cached",
        name: "ValidateStream, Redis, cached",
        on_redis: true,
        settings: FROM_MEMORY,
        arguments: STREAM,
        echo: &STREAM_ECHO,
        goal: 0.8,
    },
    Row {
        key: "stream_redis_strict",
        name: "ValidateStream, Redis, strict",
        on_redis: true,
        settings: &[],
        arguments: STREAM,
        echo: &UNARY_ECHO,
        goal: 10.0,
    },
];

/// The echo straight on `h2`, which answers every path.
const H2_ECHO: Echo = Echo { name: "h2 echo", ..UNARY_ECHO };

/// Unary calls against the floor: without the library, with the same executor.
pub(crate) const FLOOR: [Row; 3] = [
    Row { key: "floor_embedded", echo: &H2_ECHO, goal: 0.9, ..ROWS[0] },
    Row { key: "floor_redis_cached", echo: &H2_ECHO, goal: 0.9, ..ROWS[1] },
    Row { key: "floor_redis_strict", echo: &H2_ECHO, goal: 0.8, ..ROWS[2] },
];
