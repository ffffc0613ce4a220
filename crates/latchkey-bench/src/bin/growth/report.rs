//! The results as JSON and as a table in the documentation.

use std::{fmt::Write as _, fs, io};

use serde_json::Value;

const FILE: &str = "docs/performance/growth.json";
const PAGE: &str = "docs/performance.md";
const BEGIN: &str = "<!-- Written by `make growth`: begin -->\n";
const END: &str = "<!-- Written by `make growth`: end -->";

pub fn write(results: &Value) -> io::Result<()> {
    fs::write(FILE, format!("{results:#}\n"))?;
    let page = fs::read_to_string(PAGE)?;
    if let Some((before, rest)) = page.split_once(BEGIN)
        && let Some((_, after)) = rest.split_once(END)
    {
        fs::write(PAGE, format!("{before}{BEGIN}\n{}\n{END}{after}", table(results)))?;
    }
    Ok(())
}

pub fn table(results: &Value) -> String {
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
        ("a user in the near-cache, goal 400", &cached["bytes_per_user"], "bytes"),
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
        let part = |of: &str| side["ratio"][of].as_f64().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | **{:.2}** | {:.2} – {:.2} | {} | {} |",
            whole(&side["hot_per_second"]),
            whole(&side["random_per_second"]),
            part("median"),
            part("min"),
            part("max"),
            mebibytes(&side["resident_bytes_after_start"]),
            mebibytes(&side["resident_bytes_after_random_users"]),
        );
    }
    text
}
