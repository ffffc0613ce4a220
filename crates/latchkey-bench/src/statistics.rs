//! Statistics over a few runs.

use serde_json::{Value, json};

/// The median of several runs, and the range that they lie in.
pub struct Spread {
    median: f64,
    min: f64,
    max: f64,
    all: Vec<f64>,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let all: Vec<_> = values.collect();
        let min = all.iter().copied().fold(f64::INFINITY, f64::min);
        let max = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(all.iter().copied()), min, max, all }
    }

    /// `null` without any values.
    pub fn json(&self) -> Value {
        if self.all.is_empty() {
            return Value::Null;
        }
        json!({
            "median": round(self.median, 3),
            "min": round(self.min, 3),
            "max": round(self.max, 3),
            "pairs": self.all.iter().map(|ratio| round(*ratio, 3)).collect::<Vec<_>>(),
        })
    }
}

/// NaN without any values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = values.collect();
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}
