//! Writes the results as JSON, as a chart, and as tables in the documentation.

use std::{error::Error, fmt::Write as _, fs, path::Path};

use latchkey_bench::{
    bars::{self, Bar, Group},
    page,
};
use serde_json::Value;

const CHART: &str = "![Tokens validated per second by Latchkey and by other servers](performance/peers.svg)";
const LOADS: [(&str, &str); 2] = [("random", "users"), ("hot", "hot_users")];

pub(crate) fn write(results: &Value, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("peers.json"), format!("{results:#}\n"))?;
    chart(results, &folder.join("peers.svg").display().to_string())?;
    if folder == Path::new(page::RESULTS) {
        page::replace_section("peers", &format!("{CHART}\n\n{}", tables(results)))?;
    }
    Ok(())
}

pub(crate) fn tables(results: &Value) -> String {
    let mut text = format!(
        "{} pairs of {} s each; {}; Redis {}.\n",
        results["turns"],
        results["seconds_each"],
        results["placement"].as_str().unwrap_or("?"),
        results["redis"].as_str().unwrap_or("?"),
    );
    for (load, users) in LOADS {
        let _ = write!(
            text,
            "\n| {} users | requests/s | core busy | Latchkey, strict | times as many | min – max | Latchkey, cached | times as many | min – max |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
            bars::thousands(number(&results[users])),
        );
        for (peer, load) in peers(results, load) {
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} % | {} | {} | {} | {} |",
                peer["name"].as_str().unwrap_or("?"),
                per_second(&load["peer"]),
                number(&load["peer"]["core_busy"]) * 100.0,
                per_second(&load["strict"]),
                ratio(&load["strict_ratio"]),
                per_second(&load["cached"]),
                ratio(&load["cached_ratio"]),
            );
        }
    }
    let missing: Vec<_> =
        results["not_installed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !missing.is_empty() {
        let _ = writeln!(text, "\nNot installed, and not measured: {}.", missing.join(", "));
    }
    text
}

fn chart(results: &Value, path: &str) -> Result<(), Box<dyn Error>> {
    let groups = LOADS.map(|(load, users)| {
        let peers: Vec<_> = peers(results, load).collect();
        let latchkey = ["cached", "strict"].map(|side| {
            let values = peers.iter().map(|(_, load)| number(&load[side]["requests_per_second"]));
            let value = latchkey_bench::statistics::median(values);
            Bar {
                name: format!("Latchkey, {side}"),
                value,
                label: bars::thousands(value),
                colour: bars::LATCHKEY,
            }
        });
        let peers = peers.iter().map(|(peer, load)| {
            let value = number(&load["peer"]["requests_per_second"]);
            let times = number(&load["strict_ratio"]["median"]);
            Bar {
                name: peer["name"].as_str().unwrap_or("?").to_owned(),
                value,
                label: format!("{}; Latchkey, strict: {times:.1} times", bars::thousands(value)),
                colour: bars::OTHER,
            }
        });
        Group {
            title: format!("{} users at random", bars::thousands(number(&results[users]))),
            bars: latchkey.into_iter().chain(peers).collect(),
        }
    });
    bars::draw(path, "Tokens validated per second, by a server with one core", &groups)
}

/// The peers that were measured over this many users, with their results.
fn peers<'a>(results: &'a Value, load: &str) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let peers = results["peers"].as_array().into_iter().flatten();
    peers.filter_map(move |peer| Some((peer, peer.get(load)?)))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn per_second(side: &Value) -> String {
    bars::thousands(number(&side["requests_per_second"]))
}

fn ratio(ratio: &Value) -> String {
    let part = |name: &str| number(&ratio[name]);
    format!("**{:.2}** | {:.2} – {:.2}", part("median"), part("min"), part("max"))
}
