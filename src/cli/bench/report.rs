//! The result of a load, as a table and as JSON.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{counts::Counts, load::LoadResult};
use crate::cli::CommandError;

/// The reported percentiles, with their names in the table and in JSON.
const PERCENTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 50.0),
    ("p90", "p90", 90.0),
    ("p99", "p99", 99.0),
    ("p99.9", "p99_9", 99.9),
    ("max", "max", 100.0),
];

pub(super) struct Report(LoadResult);

impl Report {
    pub(super) fn new(result: LoadResult) -> Self {
        Self(result)
    }

    fn right(&self) -> u64 {
        self.0.counts.latencies.len()
    }

    #[expect(clippy::cast_precision_loss, reason = "a loss of precision needs more calls than are ever made")]
    fn rate(&self) -> f64 {
        self.right() as f64 / self.0.elapsed.as_secs_f64()
    }

    pub(super) fn json(&self) -> Value {
        let LoadResult { counts: Counts { latencies, wrong, first_wrong }, elapsed, unsent } = &self.0;
        let mut latency = json!({ "mean": (latencies.mean() * 10.0).round() / 10.0 });
        for (_, name, percentile) in PERCENTILES {
            latency[name] = latencies.value_at_percentile(percentile).into();
        }
        json!({
            "seconds": elapsed.as_secs_f64(),
            "right": self.right(),
            "wrong": wrong,
            "first_wrong": first_wrong,
            "unsent": unsent,
            "requests_per_second": (self.rate() * 10.0).round() / 10.0,
            "latency_us": latency,
        })
    }

    pub(super) fn text(&self) -> String {
        let LoadResult { counts: Counts { latencies, wrong, .. }, unsent, .. } = &self.0;
        let (mut head, mut row) = (format!("{:>11}", "requests/s"), format!("{:>11.0}", self.rate()));
        for (name, _, percentile) in PERCENTILES {
            let latency = format_latency(Duration::from_micros(latencies.value_at_percentile(percentile)));
            let _ = write!(head, "{name:>11}");
            let _ = write!(row, "{latency:>11}");
        }
        let mut text = format!("{head}{:>9}\n{row}{wrong:>9}\n", "wrong");
        if *unsent > 0 {
            let _ =
                writeln!(text, "\nThe server did not keep up: {unsent} requests were due and never sent.");
        }
        text
    }

    /// Returns an error if an answer was wrong, or if there was none.
    pub(super) fn check(&self) -> Result<(), CommandError> {
        let counts = &self.0.counts;
        if let Some(first_wrong) = &counts.first_wrong {
            let all = counts.wrong + self.right();
            return Err(CommandError::Failed(format!(
                "{} of {all} answers were wrong; the first: {first_wrong}",
                counts.wrong
            )));
        }
        if self.right() == 0 {
            return Err(CommandError::Unavailable("the server did not answer".into()));
        }
        Ok(())
    }
}

/// Formats a latency with about three digits.
fn format_latency(latency: Duration) -> String {
    match latency.as_micros() {
        micros @ 0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.2} ms", latency.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", latency.as_secs_f64()),
    }
}
