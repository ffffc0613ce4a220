//! Writes the results as JSON, and as tables in the documentation.

use std::{fmt::Write as _, fs, io, path::Path};

use latchkey_bench::page;
use serde_json::Value;

pub(crate) fn write(results: &Value) -> io::Result<()> {
    fs::write(Path::new(page::RESULTS).join("topologies.json"), format!("{results:#}\n"))?;
    page::replace_section("topologies", &table(results))
}

pub(crate) fn table(results: &Value) -> String {
    let mut text = String::new();
    if let Some(comparisons) = results["requests"].as_array() {
        write_requests(comparisons, &mut text);
    }
    if let Some(rows) = results["followers"].as_array() {
        write_followers(rows, &mut text);
    }
    let commits = &results["commits"];
    if commits.is_object() {
        text += "\n| | |\n|---|---:|\n";
        for (name, key) in [
            ("commits of a Login with a password", "commits_per_login"),
            ("commits of a Logout", "commits_per_logout"),
            ("Redis memory of an event, bytes", "bytes_per_event"),
            ("connections of a Latchkey server to a master", "connections_of_a_server_to_a_master"),
        ] {
            let _ = writeln!(text, "| {name} | {} |", commits[key]);
        }
    }
    text
}

fn write_requests(comparisons: &[Value], text: &mut String) {
    for comparison in comparisons {
        let _ = write!(
            text,
            "\n| {} | requests/s | Latchkey CPU, µs | on one Redis server | ratio | min – max | Redis CPU, µs | on one \
             Redis server | ratio | min – max |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
            comparison["other"].as_str().unwrap_or("?"),
        );
        for row in comparison["rows"].as_array().into_iter().flatten() {
            let (single, other) = (&row["single"], &row["other"]);
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {} | {} | {} | {} | {} |",
                row["name"].as_str().unwrap_or("?"),
                other["requests_per_second"].as_f64().unwrap_or_default(),
                tenths(&other["latchkey_cpu_us"]),
                tenths(&single["latchkey_cpu_us"]),
                ratio(&row["ratio_of_latchkey_cpu"]),
                tenths(&other["redis_cpu_us"]),
                tenths(&single["redis_cpu_us"]),
                ratio(&row["ratio_of_redis_cpu"]),
            );
        }
    }
}

fn write_followers(rows: &[Value], text: &mut String) {
    *text += "\n| | CPU of an idle Latchkey server | of Redis | Latchkey CPU an event, µs | Redis CPU an event, µs | delay of \
              an event, ms: p50 | p99 |\n|---|---:|---:|---:|---:|---:|---:|\n";
    let percent = |value: &Value| format!("{:.1} %", value.as_f64().unwrap_or_default() * 100.0);
    let millis =
        |value: &Value| value.as_f64().map_or_else(|| "–".into(), |micros| format!("{:.1}", micros / 1000.0));
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row["name"].as_str().unwrap_or("?"),
            percent(&row["idle_cpu_of_a_server"]),
            percent(&row["idle_cpu_of_redis"]),
            tenths(&row["cpu_of_a_server_us_per_event"]),
            tenths(&row["cpu_of_redis_us_per_event"]),
            millis(&row["delay_us"]["p50"]),
            millis(&row["delay_us"]["p99"]),
        );
    }
}

fn tenths(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".into(), |value| format!("{value:.1}"))
}

fn ratio(ratio: &Value) -> String {
    let part = |name: &str| ratio[name].as_f64().unwrap_or_default();
    format!("**{:.2}** | {:.2} – {:.2}", part("median"), part("min"), part("max"))
}
