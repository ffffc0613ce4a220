//! Throughput of the echo and of Latchkey.

use latchkey_bench::bars::{self, Bar, Group, thousands};
use serde_json::Value;

use super::{ChartResult, ECHO, LATCHKEY, number};
use crate::report::{rows, text_of};

pub(crate) fn throughput(results: &Value, path: &str) -> ChartResult {
    let groups = [("One call a question", "validate_"), ("Many questions over a stream", "stream_")]
        .map(|(title, prefix)| Group { title: title.to_owned(), bars: bars_of(results, prefix) });
    bars::draw(path, "Answers a second, by a server with one core", &groups)
}

/// The bar of the echo, and those of the rows whose key begins with `prefix`.
fn bars_of(results: &Value, prefix: &str) -> Vec<Bar> {
    let rows: Vec<_> = rows(results).iter().filter(|row| text_of(&row["key"]).starts_with(prefix)).collect();
    let echo = rows.first().map(|row| {
        let value = number(&row["echo"]["requests_per_second"]);
        Bar {
            name: format!("bare {}", text_of(&row["against"])),
            value,
            label: thousands(value),
            colour: ECHO,
        }
    });
    let latchkey = rows.iter().map(|row| {
        let value = number(&row["latchkey"]["requests_per_second"]);
        let ratio = number(&row["ratio"]["median"]);
        let against = text_of(&row["against"]);
        let label = if ratio < 2.0 {
            format!("{}, {ratio:.2} of the {against}", thousands(value))
        } else {
            format!("{}, {ratio:.1} times the {against}", thousands(value))
        };
        Bar { name: text_of(&row["name"]).to_owned(), value, label, colour: LATCHKEY }
    });
    echo.into_iter().chain(latchkey).collect()
}
