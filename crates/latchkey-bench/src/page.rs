//! The tables that benchmarks write into `docs/performance.md`.

use std::{fs, io};

/// The folder of the published results.
pub const RESULTS: &str = "docs/performance";

const PAGE: &str = "docs/performance.md";

/// Replaces the text between the markers of a make target. A page without the markers is left as it is.
pub fn replace_section(target: &str, table: &str) -> io::Result<()> {
    let marker = |edge: &str| format!("<!-- Written by `make {target}`: {edge} -->");
    let (begin, end) = (marker("begin"), marker("end"));
    let page = fs::read_to_string(PAGE)?;
    if let Some((before, rest)) = page.split_once(&begin)
        && let Some((_, after)) = rest.split_once(&end)
    {
        fs::write(PAGE, format!("{before}{begin}\n\n{table}\n{end}{after}"))?;
    }
    Ok(())
}
