//! Writes the results as JSON, and as a table in the documentation.

use std::{fmt::Write as _, fs, io, path::Path};

use latchkey_bench::page;
use serde_json::Value;

/// A server whose core was less busy than this was not at its limit.
const AT_ITS_LIMIT: f64 = 0.9;
const NOT_AT_ITS_LIMIT: &str = "\nThe echo was not at its limit in this run, because the load had too little of its core: the ratio of \
                                requests/s flatters. That of server CPU does not.\n";

const MORE_LOGINS_THAN_HASHES: &str =
    "\nMore logins than bare hashes: other work had the machine during some turns.\n";
const WITHOUT_REAL_TIME: &str = "\nThe load had to wait for the server here, which is in these latencies: to go first it needs `chrt`, and root.\n";

pub(crate) fn write(results: &Value, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("results.json"), format!("{results:#}\n"))?;
    if folder == Path::new(page::RESULTS) {
        page::replace_section("bench", &table(results))?;
    }
    Ok(())
}

pub(crate) fn table(results: &Value) -> String {
    let environment = &results["environment"];
    let mut text = format!(
        "On {}, {} cores; {}. Latchkey {}; {} pairs of {} s each.\n\n",
        text_of(&environment["cpu"]),
        environment["cores"],
        text_of(&environment["placement"]),
        text_of(&results["version"]),
        results["pairs"],
        results["seconds_each"],
    );
    text += "| | requests/s | against | its requests/s | ratio | min – max | goal |\n";
    text += "|---|---:|---|---:|---:|---:|---:|\n";
    let floor = results["floor"].as_array().map_or(&[][..], Vec::as_slice);
    for row in rows(results).iter().chain(floor) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} |",
            text_of(&row["name"]),
            whole(&row["latchkey"]["requests_per_second"]),
            text_of(&row["against"]),
            whole(&row["echo"]["requests_per_second"]),
            ratio(&row["ratio"]),
            row["goal"].as_f64().unwrap_or_default(),
        );
    }
    write_cpu(results, &mut text);
    write_logins(results, &mut text);
    write_login_burst(results, &mut text);
    write_latency(results, &mut text);
    text += "\n| resident memory after the start | MiB |\n|---|---:|\n";
    for row in rows(results) {
        let mebibytes = row["resident_bytes_after_start"].as_f64().map(|bytes| bytes / f64::from(1 << 20));
        let shown = mebibytes.map_or_else(|| "?".into(), |mebibytes| format!("{mebibytes:.1}"));
        let _ = writeln!(text, "| {} | {shown} |", text_of(&row["name"]));
    }
    text
}

fn write_cpu(results: &Value, text: &mut String) {
    *text += "\n| server CPU, microseconds a request | | of the echo | ratio | min – max | core busy | by the echo |\n";
    *text += "|---|---:|---:|---:|---:|---:|---:|\n";
    for row in rows(results) {
        let (latchkey, echo) = (&row["latchkey"], &row["echo"]);
        let busy = |side: &Value| side["server_core_busy"].as_f64().unwrap_or_default() * 100.0;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.0} % | {:.0} % |",
            text_of(&row["name"]),
            tenths(&latchkey["server_cpu_us_per_request"]),
            tenths(&echo["server_cpu_us_per_request"]),
            ratio(&row["ratio_of_server_cpu"]),
            busy(latchkey),
            busy(echo),
        );
    }
    let idle =
        |row: &&Value| row["echo"]["server_core_busy"].as_f64().is_some_and(|busy| busy < AT_ITS_LIMIT);
    if rows(results).iter().any(|row| idle(&row)) {
        *text += NOT_AT_ITS_LIMIT;
    }
}

fn write_logins(results: &Value, text: &mut String) {
    let logins = results["logins"].as_array().map_or(&[][..], Vec::as_slice);
    *text += "\n| | logins/s | raw hashes/s | ratio | min – max | goal |\n|---|---:|---:|---:|---:|---:|\n";
    for login in logins {
        let _ = writeln!(
            text,
            "| Login, {} hashing thread(s), {} | {} | {} | {} | {} |",
            login["threads"],
            text_of(&login["placement"]),
            tenths(&login["logins"]["per_second"]),
            tenths(&login["raw_hashes"]["per_second"]),
            ratio(&login["ratio"]),
            login["goal"].as_f64().map_or_else(|| "–".to_owned(), |goal| format!("{goal:.2}")),
        );
    }
    if logins.iter().any(|login| login["ratio"]["median"].as_f64().is_some_and(|median| median > 1.0)) {
        *text += MORE_LOGINS_THAN_HASHES;
    }
}

fn write_login_burst(results: &Value, text: &mut String) {
    let burst = &results["login_burst"];
    let _ = write!(
        text,
        "\n| {} Validates/s, {} of {} cores hash | p99 when quiet, microseconds | p99 at {} logins/s | ratio | min – max | goal |\n\
         |---|---:|---:|---:|---:|---:|\n| Validate in a login burst | {} | {} | {} | at most {} |\n",
        burst["rate"],
        burst["threads"],
        results["environment"]["cores"],
        whole(&burst["logins_per_second"]),
        whole(&burst["p99_us_quiet"]),
        whole(&burst["p99_us_in_the_burst"]),
        ratio(&burst["ratio"]),
        burst["goal"],
    );
    if burst["load_goes_first"] != true {
        *text += WITHOUT_REAL_TIME;
    }
}

fn write_latency(results: &Value, text: &mut String) {
    *text += "\n| microseconds at half of the peak | requests/s | p50 | p90 | p99 | p99.9 | max | p99 of the echo | ratio | min – max |\n";
    *text += "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for row in rows(results) {
        let _ = write!(text, "| {} | {} |", text_of(&row["name"]), row["rate"]);
        for percentile in ["p50", "p90", "p99", "p99_9", "max"] {
            let _ = write!(text, " {} |", whole(&row["latchkey"]["at_rate"]["latency_us"][percentile]));
        }
        let echo_p99 = &row["echo"]["at_rate"]["latency_us"]["p99"];
        match &row["p99_ratio_at_rate"] {
            Value::Null => *text += " – | – | – |\n",
            spread => {
                let _ = writeln!(text, " {} | {} |", whole(echo_p99), ratio(spread));
            }
        }
    }
}

fn whole(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".into(), |value| format!("{value:.0}"))
}

fn tenths(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".into(), |value| format!("{value:.1}"))
}

fn ratio(ratio: &Value) -> String {
    let part = |name: &str| ratio[name].as_f64().unwrap_or_default();
    format!("**{:.2}** | {:.2} – {:.2}", part("median"), part("min"), part("max"))
}

pub(crate) fn rows(results: &Value) -> &[Value] {
    results["rows"].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
