//! How the ratio to the echo changes.

use plotters::prelude::*;
use serde_json::Value;

use super::{COLOURS, DARK, Drawn, PALE, WIDTH, number, thousands};
use crate::report::words;

/// Along what it changes.
pub struct Scale {
    /// Its name in the JSON, and of the picture.
    pub key: &'static str,
    title: &'static str,
    along: &'static str,
    label: fn(&Value) -> String,
}

pub const SCALES: [Scale; 3] = [
    Scale {
        key: "connections",
        title: "Validates a second as a part of the echo's, by connections",
        along: "connections, with 32 calls at a time on each",
        label: |point| thousands(number(&point["connections"])),
    },
    Scale {
        key: "users",
        title: "Validates a second as a part of the echo's, by users",
        along: "users with one session each, asked about in turn",
        label: |point| thousands(number(&point["users"])),
    },
    Scale {
        key: "payload",
        title: "Validates a second as a part of the echo's, by what a session carries",
        along: "roles of 24 characters, which both the token and the answer name",
        label: |point| {
            format!("{} (token of {} bytes)", point["roles"], thousands(number(&point["token_bytes"])))
        },
    },
];

pub fn scaling(results: &Value, scale: &Scale, path: &str) -> Drawn {
    let scaling = &results["scaling"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (points, sides) = (list(&scaling[scale.key]), list(&scaling["sides"]));
    let ratio = |point: &Value, side: &Value, of: &str| number(&point[words(&side["key"])]["ratio"][of]);
    let all = points.iter().flat_map(|point| sides.iter().map(|side| ratio(point, side, "max")));
    let top = all.fold(1.0, f64::max) * 1.05;
    let area = SVGBackend::new(path, (WIDTH, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(scale.title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(50)
        .y_label_area_size(50)
        .build_cartesian_2d((0..points.len().saturating_sub(1)).into_segmented(), 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .x_labels(points.len())
        .x_desc(scale.along)
        .x_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(index) => points.get(*index).map(scale.label).unwrap_or_default(),
            _ => String::new(),
        })
        .y_label_formatter(&|ratio| format!("{ratio:.1}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 14))
        .draw()?;
    for (side, colour) in sides.iter().zip(COLOURS) {
        let centre = SegmentValue::CenterOf;
        let medians =
            || points.iter().enumerate().map(|(index, point)| (centre(index), ratio(point, side, "median")));
        chart
            .draw_series(LineSeries::new(medians(), colour.stroke_width(2)))?
            .label(words(&side["name"]))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
        chart.draw_series(medians().map(|point| Circle::new(point, 4, colour.filled())))?;
        chart.draw_series(points.iter().enumerate().map(|(index, point)| {
            let ends = ["min", "max"].map(|end| (centre(index), ratio(point, side, end)));
            PathElement::new(ends, colour.stroke_width(1))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .legend_area_size(34)
        .background_style(WHITE)
        .border_style(DARK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    Ok(())
}
