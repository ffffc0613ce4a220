//! The results as files: JSON for programs, a table for people, in a file of its own and in the documentation.

use std::{fmt::Write as _, fs, io, path::Path};

use serde_json::Value;

/// Where the results belong.
pub const FOLDER: &str = "docs/performance";
const PAGE: &str = "docs/performance.md";
const BEGIN: &str = "<!-- Written by `make bench`: begin -->\n";
const END: &str = "<!-- Written by `make bench`: end -->";

/// A server whose core was less busy than this could have answered more.
const AT_ITS_LIMIT: f64 = 0.9;
const NOT_AT_ITS_LIMIT: &str = "\nThe echo was not at its limit in this run, because the load had too little of its core: the ratio of \
                                requests/s flatters. That of server CPU does not.\n";

const MORE_THAN_ALL: &str =
    "\nMore logins than bare hashes cannot be: other work had the machine in this run. Measure again.\n";
const NOT_FIRST: &str = "\nThe load had to wait for the server here, which is in these latencies: to go first it needs `chrt`, and root.\n";

pub fn write(results: &Value, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("results.json"), format!("{results:#}\n"))?;
    let table = table(results);
    let head = "# Results of `make bench`\n\nWhat they mean is told in [performance.md](../performance.md).";
    fs::write(folder.join("results.md"), format!("{head}\n\n{table}"))?;
    if folder != Path::new(FOLDER) {
        return Ok(());
    }
    let page = fs::read_to_string(PAGE)?;
    if let Some((before, rest)) = page.split_once(BEGIN)
        && let Some((_, after)) = rest.split_once(END)
    {
        fs::write(PAGE, format!("{before}{BEGIN}\n{table}\n{END}{after}"))?;
    }
    Ok(())
}

pub fn table(results: &Value) -> String {
    let environment = &results["environment"];
    let mut text = format!(
        "On {}, {} cores; {}. Latchkey {}; {} pairs of {} s each.\n\n",
        words(&environment["cpu"]),
        environment["cores"],
        words(&environment["placement"]),
        words(&results["version"]),
        results["pairs"],
        results["seconds_each"],
    );
    text += "| | requests/s | against | its requests/s | ratio | min – max | goal |\n";
    text += "|---|---:|---|---:|---:|---:|---:|\n";
    for row in rows(results) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} |",
            words(&row["name"]),
            number(&row["latchkey"]["requests_per_second"]),
            words(&row["against"]),
            number(&row["echo"]["requests_per_second"]),
            ratio(&row["ratio"]),
            row["goal"].as_f64().unwrap_or_default(),
        );
    }
    cpu(results, &mut text);
    logins(results, &mut text);
    storm(results, &mut text);
    latency(results, &mut text);
    text += "\n| resident memory after the start | MiB |\n|---|---:|\n";
    for row in rows(results) {
        let mebibytes = row["resident_bytes_after_start"].as_f64().map(|bytes| bytes / f64::from(1 << 20));
        let shown = mebibytes.map_or_else(|| "?".into(), |mebibytes| format!("{mebibytes:.1}"));
        let _ = writeln!(text, "| {} | {shown} |", words(&row["name"]));
    }
    text
}

fn cpu(results: &Value, text: &mut String) {
    *text += "\n| server CPU, microseconds a request | | of the echo | ratio | min – max | core busy | by the echo |\n";
    *text += "|---|---:|---:|---:|---:|---:|---:|\n";
    for row in rows(results) {
        let (ours, theirs) = (&row["latchkey"], &row["echo"]);
        let busy = |side: &Value| side["server_core_busy"].as_f64().unwrap_or_default() * 100.0;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.0} % | {:.0} % |",
            words(&row["name"]),
            fine(&ours["server_cpu_us_per_request"]),
            fine(&theirs["server_cpu_us_per_request"]),
            ratio(&row["ratio_of_server_cpu"]),
            busy(ours),
            busy(theirs),
        );
    }
    let idle =
        |row: &&Value| row["echo"]["server_core_busy"].as_f64().is_some_and(|busy| busy < AT_ITS_LIMIT);
    if rows(results).iter().any(|row| idle(&row)) {
        *text += NOT_AT_ITS_LIMIT;
    }
}

fn logins(results: &Value, text: &mut String) {
    let logins = results["logins"].as_array().map_or(&[][..], Vec::as_slice);
    *text += "\n| | logins/s | raw hashes/s | ratio | min – max | goal |\n|---|---:|---:|---:|---:|---:|\n";
    for login in logins {
        let _ = writeln!(
            text,
            "| Login, {} hashing thread(s), {} | {} | {} | {} | {} |",
            login["threads"],
            words(&login["placement"]),
            fine(&login["logins"]["per_second"]),
            fine(&login["raw_hashes"]["per_second"]),
            ratio(&login["ratio"]),
            login["goal"].as_f64().map_or_else(|| "–".to_owned(), |goal| format!("{goal:.2}")),
        );
    }
    if logins.iter().any(|login| login["ratio"]["median"].as_f64().is_some_and(|median| median > 1.0)) {
        *text += MORE_THAN_ALL;
    }
}

fn storm(results: &Value, text: &mut String) {
    let storm = &results["storm"];
    let _ = write!(
        text,
        "\n| {} Validates/s, {} of {} cores hash | p99 when quiet, microseconds | p99 at {} logins/s | ratio | min – max | goal |\n\
         |---|---:|---:|---:|---:|---:|\n| Validate in a storm of logins | {} | {} | {} | at most {} |\n",
        storm["rate"],
        storm["threads"],
        results["environment"]["cores"],
        number(&storm["logins_per_second"]),
        number(&storm["p99_us_quiet"]),
        number(&storm["p99_us_in_the_storm"]),
        ratio(&storm["ratio"]),
        storm["goal"],
    );
    if storm["load_goes_first"] != true {
        *text += NOT_FIRST;
    }
}

fn latency(results: &Value, text: &mut String) {
    *text += "\n| microseconds at half of the peak | requests/s | p50 | p90 | p99 | p99.9 | max | p99 of the echo | ratio | min – max |\n";
    *text += "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for row in rows(results) {
        let _ = write!(text, "| {} | {} |", words(&row["name"]), row["rate"]);
        for percentile in ["p50", "p90", "p99", "p99_9", "max"] {
            let _ = write!(text, " {} |", number(&row["latchkey"]["at_rate"]["latency_us"][percentile]));
        }
        let of_echo = &row["echo"]["at_rate"]["latency_us"]["p99"];
        match &row["p99_ratio_at_rate"] {
            Value::Null => *text += " – | – | – |\n",
            spread => {
                let _ = writeln!(text, " {} | {} |", number(of_echo), ratio(spread));
            }
        }
    }
}

fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".into(), |value| format!("{value:.0}"))
}

fn fine(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".into(), |value| format!("{value:.1}"))
}

fn ratio(ratio: &Value) -> String {
    let part = |name: &str| ratio[name].as_f64().unwrap_or_default();
    format!("**{:.2}** | {:.2} – {:.2}", part("median"), part("min"), part("max"))
}

pub fn rows(results: &Value) -> &[Value] {
    results["rows"].as_array().map_or(&[], Vec::as_slice)
}

pub fn words(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
