//! Charts of the results.

mod bars;
mod latency;
mod scaling;

use std::error::Error;

use latchkey_bench::bars::{DARK, LATCHKEY, OTHER as ECHO, WIDTH, thousands};
use plotters::prelude::*;
use serde_json::Value;

pub(crate) use self::{
    bars::throughput,
    latency::latency,
    scaling::{SCALING_CHARTS, scaling},
};

type ChartResult = Result<(), Box<dyn Error>>;

const PALE: RGBColor = RGBColor(225, 225, 225);
const COLOURS: [RGBColor; 5] =
    [LATCHKEY, RGBColor(200, 90, 30), RGBColor(40, 140, 90), RGBColor(140, 70, 160), RGBColor(170, 140, 20)];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}
