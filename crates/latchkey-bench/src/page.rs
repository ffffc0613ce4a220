//! The tables that programs write into the documentation.

use std::{fs, io};

/// The folder of the published results.
pub const RESULTS: &str = "docs/performance";

const PAGE: &str = "docs/performance.md";

/// Replaces the text between the markers of a make target in `docs/performance.md`.
pub fn replace_section(target: &str, table: &str) -> io::Result<()> {
    replace_section_of(PAGE, target, table)
}

/// Replaces the text between the markers of a make target. A page without the markers is left as it is.
pub fn replace_section_of(page: &str, target: &str, table: &str) -> io::Result<()> {
    let marker = |edge: &str| format!("<!-- Written by `make {target}`: {edge} -->");
    let (begin, end) = (marker("begin"), marker("end"));
    let text = fs::read_to_string(page)?;
    if let Some((before, rest)) = text.split_once(&begin)
        && let Some((_, after)) = rest.split_once(&end)
    {
        fs::write(page, format!("{before}{begin}\n\n{table}\n{end}{after}"))?;
    }
    Ok(())
}
