//! Throughput: what the echo answers, and what we do.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use super::{DARK, Drawn, OURS, THEIRS, WIDTH, number, thousands};
use crate::report::{rows, words};

/// Where bars begin and how long the longest is, in pixels.
const BEGIN: i32 = 270;
const LONGEST: f64 = 300.0;
const STEP: i32 = 30;
const THICK: i32 = 20;

struct Bar {
    name: String,
    value: f64,
    said: String,
    colour: RGBColor,
}

pub fn throughput(results: &Value, path: &str) -> Drawn {
    let groups = [("One call a question", "validate_"), ("Many questions over a stream", "stream_")]
        .map(|(title, prefix)| (title, bars(results, prefix)));
    let all = groups.iter().map(|(_, bars)| bars.len()).sum::<usize>() + groups.len();
    let height = 70 + u32::try_from(all).unwrap_or_default() * STEP.unsigned_abs();
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&DARK);
    let right = text(15).pos(Pos::new(HPos::Right, VPos::Center));
    let left = text(15).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new("Answers a second, by a server with one core", (16, 14), text(20)))?;
    let mut top = 50;
    for (title, bars) in groups {
        area.draw(&Text::new(title, (16, top + 6), text(16)))?;
        top += STEP;
        let most = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
        for bar in bars {
            let middle = top + THICK / 2;
            #[expect(clippy::cast_possible_truncation, reason = "pixels")]
            let end = BEGIN + (bar.value / most * LONGEST) as i32;
            area.draw(&Text::new(bar.name, (BEGIN - 10, middle), right.clone()))?;
            area.draw(&Rectangle::new([(BEGIN, top), (end, top + THICK)], bar.colour.filled()))?;
            area.draw(&Text::new(bar.said, (end + 8, middle), left.clone()))?;
            top += STEP;
        }
        top += STEP / 2;
    }
    area.present()?;
    Ok(())
}

/// The echo of this way to ask, and ours.
fn bars(results: &Value, prefix: &str) -> Vec<Bar> {
    let rows: Vec<_> = rows(results).iter().filter(|row| words(&row["key"]).starts_with(prefix)).collect();
    let echo = rows.first().map(|row| {
        let value = number(&row["echo"]["requests_per_second"]);
        Bar {
            name: format!("bare {}", words(&row["against"])),
            value,
            said: thousands(value),
            colour: THEIRS,
        }
    });
    let ours = rows.iter().map(|row| {
        let value = number(&row["latchkey"]["requests_per_second"]);
        let ratio = number(&row["ratio"]["median"]);
        let against = words(&row["against"]);
        let said = if ratio < 2.0 {
            format!("{}, {ratio:.2} of the {against}", thousands(value))
        } else {
            format!("{}, {ratio:.1} times the {against}", thousands(value))
        };
        Bar { name: words(&row["name"]).to_owned(), value, said, colour: OURS }
    });
    echo.into_iter().chain(ours).collect()
}
