//! The ratio to the echo over connections, users and roles.

use plotters::prelude::*;
use serde_json::Value;

use super::{COLOURS, ChartResult, DARK, PALE, WIDTH, number, thousands};
use crate::report::text_of;

/// A chart with one variable along the x axis.
pub(crate) struct ScalingChart {
    /// Name in the JSON and in the file name.
    pub(crate) key: &'static str,
    title: &'static str,
    x_label: &'static str,
    point_label: fn(&Value) -> String,
}

pub(crate) const SCALING_CHARTS: [ScalingChart; 3] = [
    ScalingChart {
        key: "connections",
        title: "Validates a second as a part of the echo's, by connections",
        x_label: "connections, with 32 calls at a time on each",
        point_label: |point| thousands(number(&point["connections"])),
    },
    ScalingChart {
        key: "users",
        title: "Validates a second as a part of the echo's, by users",
        x_label: "users with one session each, asked about in turn",
        point_label: |point| thousands(number(&point["users"])),
    },
    ScalingChart {
        key: "payload",
        title: "Validates a second as a part of the echo's, by what a session carries",
        x_label: "roles of 24 characters, which both the token and the answer name",
        point_label: |point| {
            format!("{} (token of {} bytes)", point["roles"], thousands(number(&point["token_bytes"])))
        },
    },
];

pub(crate) fn scaling(results: &Value, kind: &ScalingChart, path: &str) -> ChartResult {
    let scaling = &results["scaling"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (points, sides) = (list(&scaling[kind.key]), list(&scaling["sides"]));
    let ratio = |point: &Value, side: &Value, of: &str| number(&point[text_of(&side["key"])]["ratio"][of]);
    let all = points.iter().flat_map(|point| sides.iter().map(|side| ratio(point, side, "max")));
    let top = all.fold(1.0, f64::max) * 1.05;
    let area = SVGBackend::new(path, (WIDTH, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(kind.title, ("sans-serif", 20))
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
        .x_desc(kind.x_label)
        .x_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(index) => points.get(*index).map(kind.point_label).unwrap_or_default(),
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
            .label(text_of(&side["name"]))
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
