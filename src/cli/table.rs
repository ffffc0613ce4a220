//! Tables of text: a line of headings, and columns that are aligned by the width on a terminal.

use unicode_width::UnicodeWidthStr as _;

const GAP: &str = "  ";

/// Formats a table. The last column may be empty and is not padded.
pub(super) fn format<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let headings = headings.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(headings).chain(rows).collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| {
            let padding = width.saturating_sub(cell.width());
            format!("{cell}{:padding$}", "")
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_their_width() {
        let rows = [["a", "電話", "x"], ["longer", "Laptop", ""]].map(|row| row.map(str::to_owned));
        let expected = "ID      DEVICE  ROLES\na       電話    x\nlonger  Laptop";
        assert_eq!(format(["ID", "DEVICE", "ROLES"], rows), expected);
        assert_eq!(format(["ID", "NAME"], []), "ID  NAME");
    }
}
