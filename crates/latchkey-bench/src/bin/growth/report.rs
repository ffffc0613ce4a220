//! Writes the results as JSON, and as a table in the documentation.

use std::{fmt::Write as _, fs, io, path::Path};

use latchkey_bench::page;
use serde_json::Value;

pub(crate) fn write(results: &Value) -> io::Result<()> {
    fs::write(Path::new(page::RESULTS).join("growth.json"), format!("{results:#}\n"))?;
    page::replace_section("growth", &table(results))
}

pub(crate) fn table(results: &Value) -> String {
    let whole = |value: &Value| value.as_f64().map_or_else(|| "?".into(), |value| format!("{value:.0}"));
    let mebibytes = |value: &Value| {
        value.as_f64().map_or_else(|| "?".into(), |bytes| format!("{:.0}", bytes / f64::from(1 << 20)))
    };
    let (embedded, redis, cached) = (&results["embedded"], &results["redis"], &results["cached"]);
    let mut text = format!("{} users with one session each.\n\n", results["sessions"]);
    text += "| | |\n|---|---:|\n";
    for (name, value, unit) in [
        ("Redis memory a session", &redis["bytes_per_session"], "bytes"),
        ("embedded database a session", &embedded["file_bytes_per_session"], "bytes"),
        ("start on an empty embedded database", &embedded["start_ms_on_an_empty_store"], "ms"),
        ("start on this one", &embedded["start_ms"], "ms"),
        ("a user in the near-cache, goal 320", &cached["bytes_per_user"], "bytes"),
        ("a user in the near-cache, by its own account", &cached["accounted_bytes_per_user"], "bytes"),
        ("a verified token", &cached["bytes_per_verified_token"], "bytes"),
    ] {
        let _ = writeln!(text, "| {name} | {} {unit} |", whole(value));
    }
    text += "\n| Validates/s | over 1000 users | over random ones | ratio | min – max | resident MiB after the start | after the random ones |\n";
    text += "|---|---:|---:|---:|---:|---:|---:|\n";
    for (name, side) in [
        ("embedded store", &embedded["validate"]),
        ("Redis, from memory", &redis["from_memory"]),
        ("Redis, always asked", &redis["always_asked"]),
    ] {
        let ratio = |of: &str| side["ratio"][of].as_f64().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | **{:.2}** | {:.2} – {:.2} | {} | {} |",
            whole(&side["hot_per_second"]),
            whole(&side["random_per_second"]),
            ratio("median"),
            ratio("min"),
            ratio("max"),
            mebibytes(&side["resident_bytes_after_start"]),
            mebibytes(&side["resident_bytes_after_random_users"]),
        );
    }
    text
}
