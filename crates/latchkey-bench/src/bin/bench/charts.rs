//! Charts of the results.

mod bars;
mod latency;
mod scaling;

use std::error::Error;

use plotters::prelude::*;
use serde_json::Value;

pub(crate) use self::{
    bars::throughput,
    latency::latency,
    scaling::{SCALING_CHARTS, scaling},
};

type ChartResult = Result<(), Box<dyn Error>>;

const WIDTH: u32 = 860;
const LATCHKEY: RGBColor = RGBColor(38, 84, 160);
const ECHO: RGBColor = RGBColor(140, 140, 140);
const DARK: RGBColor = RGBColor(30, 30, 30);
const PALE: RGBColor = RGBColor(225, 225, 225);
const COLOURS: [RGBColor; 5] =
    [LATCHKEY, RGBColor(200, 90, 30), RGBColor(40, 140, 90), RGBColor(140, 70, 160), RGBColor(170, 140, 20)];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Formats a number with commas between the thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
