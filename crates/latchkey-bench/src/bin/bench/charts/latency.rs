//! Latency at half of the peak.

use plotters::prelude::*;
use serde_json::Value;

use super::{COLOURS, ChartResult, DARK, ECHO, PALE, WIDTH, number, thousands};
use crate::report::{rows, text_of};

const PERCENTILES: [(&str, &str); 5] =
    [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9"), ("max", "max")];

pub(crate) fn latency(results: &Value, path: &str) -> ChartResult {
    let lines = lines(results);
    let all = || lines.iter().flat_map(|(_, _, values)| values.iter().copied());
    // The axis goes from one power of ten to another, because it has labels at powers of ten only.
    let min = 10_f64.powf(all().fold(1e9, f64::min).log10().floor());
    let max = 10_f64.powf(all().fold(1.0, f64::max).log10().ceil());
    let area = SVGBackend::new(path, (WIDTH, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Latency at half of the peak load, microseconds", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d((0..PERCENTILES.len() - 1).into_segmented(), (min..max).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(PALE.mix(0.5))
        .bold_line_style(PALE)
        .x_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(index) => {
                PERCENTILES.get(*index).map_or("", |(_, shown)| *shown).to_owned()
            }
            _ => String::new(),
        })
        .y_label_formatter(&|micros| thousands(*micros))
        .label_style(("sans-serif", 14))
        .draw()?;
    for (name, colour, values) in lines {
        let points =
            || values.iter().enumerate().map(|(index, value)| (SegmentValue::CenterOf(index), *value));
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .legend_area_size(34)
        .background_style(WHITE)
        .border_style(DARK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The line of the echo at the rate of the first row, and that of each row.
fn lines(results: &Value) -> Vec<(String, RGBColor, [f64; PERCENTILES.len()])> {
    let line = |name: &str, row: &Value, side: &str, colour| {
        let latencies = &row[side]["at_rate"]["latency_us"];
        let values = PERCENTILES.map(|(key, _)| number(&latencies[key]).max(1.0));
        (format!("{name}, {} a second", thousands(number(&row["rate"]))), colour, values)
    };
    let rows = rows(results);
    let echo = rows.first().filter(|row| row["echo"]["at_rate"].is_object());
    let echo = echo.map(|row| line("bare echo", row, "echo", ECHO));
    let latchkey = rows
        .iter()
        .zip(COLOURS.into_iter().cycle())
        .map(|(row, colour)| line(text_of(&row["name"]), row, "latchkey", colour));
    echo.into_iter().chain(latchkey).collect()
}
