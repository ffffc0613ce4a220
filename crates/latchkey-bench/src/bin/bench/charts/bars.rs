//! Throughput of the echo and of Latchkey.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use super::{ChartResult, DARK, ECHO, LATCHKEY, WIDTH, number, thousands};
use crate::report::{rows, text_of};

// In pixels.
const BAR_LEFT: i32 = 270;
const MAX_BAR_LENGTH: f64 = 300.0;
const BAR_STEP: i32 = 30;
const BAR_HEIGHT: i32 = 20;

struct Bar {
    name: String,
    value: f64,
    label: String,
    colour: RGBColor,
}

pub(crate) fn throughput(results: &Value, path: &str) -> ChartResult {
    let groups = [("One call a question", "validate_"), ("Many questions over a stream", "stream_")]
        .map(|(title, prefix)| (title, bars(results, prefix)));
    let all = groups.iter().map(|(_, bars)| bars.len()).sum::<usize>() + groups.len();
    let height = 70 + u32::try_from(all).unwrap_or_default() * BAR_STEP.unsigned_abs();
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&DARK);
    let right = text(15).pos(Pos::new(HPos::Right, VPos::Center));
    let left = text(15).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new("Answers a second, by a server with one core", (16, 14), text(20)))?;
    let mut top = 50;
    for (title, bars) in groups {
        area.draw(&Text::new(title, (16, top + 6), text(16)))?;
        top += BAR_STEP;
        let max = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
        for bar in bars {
            let middle = top + BAR_HEIGHT / 2;
            #[expect(clippy::cast_possible_truncation, reason = "pixels")]
            let end = BAR_LEFT + (bar.value / max * MAX_BAR_LENGTH) as i32;
            area.draw(&Text::new(bar.name, (BAR_LEFT - 10, middle), right.clone()))?;
            area.draw(&Rectangle::new([(BAR_LEFT, top), (end, top + BAR_HEIGHT)], bar.colour.filled()))?;
            area.draw(&Text::new(bar.label, (end + 8, middle), left.clone()))?;
            top += BAR_STEP;
        }
        top += BAR_STEP / 2;
    }
    area.present()?;
    Ok(())
}

/// The bar of the echo, and those of the rows whose key begins with `prefix`.
fn bars(results: &Value, prefix: &str) -> Vec<Bar> {
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
