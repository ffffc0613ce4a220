//! The results as pictures.

use std::error::Error;

use plotters::prelude::*;
use serde_json::Value;

use crate::report::{rows, sides, words};

const SIZE: (u32, u32) = (860, 420);
const OURS: RGBColor = RGBColor(38, 84, 160);
const DARK: RGBColor = RGBColor(20, 20, 20);
const PERCENTILES: [(&str, &str); 5] =
    [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99_9", "p99.9"), ("max", "max")];
const COLOURS: [RGBColor; 6] = [
    RGBColor(120, 120, 120),
    OURS,
    RGBColor(200, 90, 30),
    RGBColor(40, 140, 90),
    RGBColor(140, 70, 160),
    RGBColor(180, 150, 20),
];

/// Throughput as a part of the echo's, with what the pairs range over.
pub fn throughput(results: &Value, path: &str) -> Result<(), Box<dyn Error>> {
    let rows = rows(results);
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let top = rows.iter().map(|row| number(&row["ratio"]["max"])).fold(1.0, f64::max) * 1.1;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Validates a second, as a part of a bare echo's", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d((0..rows.len()).into_segmented(), 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(rows.len())
        .x_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(row) => rows.get(*row).map_or("", |row| words(&row["name"])).to_owned(),
            _ => String::new(),
        })
        .y_label_formatter(&|ratio| format!("{ratio:.1}"))
        .label_style(("sans-serif", 14))
        .draw()?;
    for (index, row) in rows.iter().enumerate() {
        let [median, least, most] = ["median", "min", "max"].map(|name| number(&row["ratio"][name]));
        let mut bar = Rectangle::new(
            [(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), median)],
            OURS.mix(0.75).filled(),
        );
        bar.set_margin(0, 0, 90, 90);
        chart.draw_series([bar])?;
        let middle = SegmentValue::CenterOf(index);
        chart.draw_series([PathElement::new(
            vec![(middle.clone(), least), (middle.clone(), most)],
            DARK.stroke_width(3),
        )])?;
        let label = format!("{median:.2}  ({least:.2} – {most:.2})");
        let at = EmptyElement::at((middle, most)) + Text::new(label, (8, -18), ("sans-serif", 15));
        chart.draw_series([at])?;
    }
    area.present()?;
    Ok(())
}

/// The percentiles of latency at half of what each can do.
pub fn latency(results: &Value, path: &str) -> Result<(), Box<dyn Error>> {
    let lines: Vec<_> = sides(results)
        .into_iter()
        .map(|(name, side)| {
            let latencies = &side["at_half_of_peak"]["latency_us"];
            let values = PERCENTILES.map(|(key, _)| latencies[key].as_f64().unwrap_or(1.0).max(1.0));
            (format!("{name}, {} a second", side["at_half_of_peak"]["rate"]), values)
        })
        .collect();
    let all = || lines.iter().flat_map(|(_, values)| values.iter().copied());
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(1.0, f64::max));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Latency at half of the peak load, microseconds", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((0..PERCENTILES.len()).into_segmented(), (least / 1.5..most * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(index) => {
                PERCENTILES.get(*index).map_or("", |(_, shown)| *shown).to_owned()
            }
            _ => String::new(),
        })
        .y_label_formatter(&|micros| format!("{micros:.0}"))
        .label_style(("sans-serif", 14))
        .draw()?;
    for ((name, values), colour) in lines.into_iter().zip(COLOURS.into_iter().cycle()) {
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
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(DARK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    Ok(())
}
