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
    let rows = [
        ("embedded store", &embedded["small_cache"]),
        ("embedded store", &embedded["large_cache"]),
        ("Redis, cached", &redis["cached"]),
        ("Redis, strict", &redis["strict"]),
    ];
    for (title, key) in [("Validates/s", "unary"), ("over ValidateStream", "stream")] {
        let _ = writeln!(
            text,
            "\n| {title} | near-cache, MiB | {} users | random users | ratio | min – max |\n|---|---:|---:|---:|---:|---:|",
            rows[0].1["hot_users"],
        );
        for (name, side) in rows {
            let ratio = |of: &str| side[key]["ratio"][of].as_f64().unwrap_or_default();
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | **{:.2}** | {:.2} – {:.2} |",
                cache_size(side),
                whole(&side[key]["hot_per_second"]),
                whole(&side[key]["random_per_second"]),
                ratio("median"),
                ratio("min"),
                ratio("max"),
            );
        }
    }
    text +=
        "\n| resident MiB | near-cache, MiB | after the start | once all users were seen | at the end |\n";
    text += "|---|---:|---:|---:|---:|\n";
    for (name, side) in rows {
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} |",
            cache_size(side),
            mebibytes(&side["resident_bytes_after_start"]),
            mebibytes(&side["resident_bytes_with_all_users"]),
            mebibytes(&side["resident_bytes_after_random_users"]),
        );
    }
    text
}

/// The size of the near-cache, if the server has one.
fn cache_size(side: &Value) -> String {
    side["cache_mib"].as_u64().map_or_else(|| "–".into(), |size| size.to_string())
}
