//! What the load has found, as a table and as JSON.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{load::Outcome, tally::Counts};
use crate::cli::Failure;

/// The percentiles that are told, with their names in the table and in JSON.
const PERCENTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 50.0),
    ("p90", "p90", 90.0),
    ("p99", "p99", 99.0),
    ("p99.9", "p99_9", 99.9),
    ("max", "max", 100.0),
];

pub(super) struct Report(Outcome);

impl Report {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self(outcome)
    }

    fn right(&self) -> u64 {
        self.0.counts.latencies.len()
    }

    #[expect(clippy::cast_precision_loss, reason = "so many calls that it matters are never made")]
    fn rate(&self) -> f64 {
        self.right() as f64 / self.0.elapsed.as_secs_f64()
    }

    pub(super) fn json(&self) -> Value {
        let Outcome { counts: Counts { latencies, wrong, complaint }, elapsed, unsent } = &self.0;
        let mut latency = json!({ "mean": (latencies.mean() * 10.0).round() / 10.0 });
        for (_, name, percentile) in PERCENTILES {
            latency[name] = latencies.value_at_percentile(percentile).into();
        }
        json!({
            "seconds": elapsed.as_secs_f64(),
            "right": self.right(),
            "wrong": wrong,
            "first_wrong": complaint,
            "unsent": unsent,
            "requests_per_second": (self.rate() * 10.0).round() / 10.0,
            "latency_us": latency,
        })
    }

    pub(super) fn text(&self) -> String {
        let Outcome { counts: Counts { latencies, wrong, .. }, unsent, .. } = &self.0;
        let (mut head, mut row) = (format!("{:>11}", "requests/s"), format!("{:>11.0}", self.rate()));
        for (name, _, percentile) in PERCENTILES {
            let latency = shown(Duration::from_micros(latencies.value_at_percentile(percentile)));
            let _ = write!(head, "{name:>11}");
            let _ = write!(row, "{latency:>11}");
        }
        let mut text = format!("{head}{:>9}\n{row}{wrong:>9}\n", "wrong");
        if *unsent > 0 {
            let _ = writeln!(text, "\nThe server did not keep up: {unsent} calls were due and never made.");
        }
        text
    }

    /// Whether everything was right.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let counts = &self.0.counts;
        if let Some(complaint) = &counts.complaint {
            let all = counts.wrong + self.right();
            return Err(Failure::Refused(format!(
                "{} of {all} answers were wrong; the first: {complaint}",
                counts.wrong
            )));
        }
        if self.right() == 0 {
            return Err(Failure::Unavailable("the server has answered nothing".into()));
        }
        Ok(())
    }
}

/// To three digits or so.
fn shown(latency: Duration) -> String {
    match latency.as_micros() {
        micros @ 0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.2} ms", latency.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", latency.as_secs_f64()),
    }
}
