//! Charts of horizontal bars, in groups that have a scale each.

use std::error::Error;

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

pub const WIDTH: u32 = 860;
pub const LATCHKEY: RGBColor = RGBColor(38, 84, 160);
/// The colour of what Latchkey is compared with.
pub const OTHER: RGBColor = RGBColor(140, 140, 140);
pub const DARK: RGBColor = RGBColor(30, 30, 30);

// In pixels.
const BAR_LEFT: i32 = 270;
const MAX_BAR_LENGTH: f64 = 300.0;
const BAR_STEP: i32 = 30;
const BAR_HEIGHT: i32 = 20;

pub struct Group {
    pub title: String,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub name: String,
    pub value: f64,
    /// The text after the bar.
    pub label: String,
    pub colour: RGBColor,
}

/// Draws a chart as an SVG file.
pub fn draw(path: &str, title: &str, groups: &[Group]) -> Result<(), Box<dyn Error>> {
    let all = groups.iter().map(|group| group.bars.len()).sum::<usize>() + groups.len();
    let height = 70 + u32::try_from(all).unwrap_or_default() * BAR_STEP.unsigned_abs();
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&DARK);
    let right = text(15).pos(Pos::new(HPos::Right, VPos::Center));
    let left = text(15).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(title.to_owned(), (16, 14), text(20)))?;
    let mut top = 50;
    for Group { title, bars } in groups {
        area.draw(&Text::new(title.clone(), (16, top + 6), text(16)))?;
        top += BAR_STEP;
        let max = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
        for bar in bars {
            let middle = top + BAR_HEIGHT / 2;
            #[expect(clippy::cast_possible_truncation, reason = "pixels")]
            let end = BAR_LEFT + (bar.value / max * MAX_BAR_LENGTH) as i32;
            area.draw(&Text::new(bar.name.clone(), (BAR_LEFT - 10, middle), right.clone()))?;
            area.draw(&Rectangle::new([(BAR_LEFT, top), (end, top + BAR_HEIGHT)], bar.colour.filled()))?;
            area.draw(&Text::new(bar.label.clone(), (end + 8, middle), left.clone()))?;
            top += BAR_STEP;
        }
        top += BAR_STEP / 2;
    }
    area.present()?;
    Ok(())
}

/// Formats a number with commas between the thousands.
pub fn thousands(value: f64) -> String {
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
