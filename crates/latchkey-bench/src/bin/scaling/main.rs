//! Estimates what a number of users needs, from measured constants (`constants.json`) and assumptions (the options), and
//! updates the tables in `docs/scaling.md`. With options it only prints them.

#![expect(clippy::unwrap_used, reason = "a program with an invalid file of constants has no answer")]

mod constants;
mod model;
mod tables;

use std::process::ExitCode;

use clap::Parser as _;
use latchkey_bench::page;

use self::{constants::Constants, model::Assumptions};

const PAGE: &str = "docs/scaling.md";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "prints the result")]
fn main() -> ExitCode {
    let assumptions = Assumptions::parse();
    let tables = tables::all(&Constants::load(), &assumptions);
    println!("{tables}");
    if std::env::args().len() == 1
        && let Err(error) = page::replace_section_of(PAGE, "scaling", &tables)
    {
        eprintln!("failed to update {PAGE}: {error}; run this in the root of the repository");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_tables_of_the_program() {
        let page = include_str!("../../../../../docs/scaling.md");
        let tables = tables::all(&Constants::load(), &Assumptions::parse_from(["scaling"]));
        assert!(page.contains(&tables), "docs/scaling.md is out of date: run `make scaling`\n{tables}");
    }

    #[test]
    fn more_users_need_more() {
        let (constants, assumptions) = (Constants::load(), Assumptions::parse_from(["scaling"]));
        let needs = [1e6, 1e7, 1e8].map(|users| model::needs(&constants, &assumptions, users));
        for pair in needs.windows(2) {
            assert!(pair[0].servers <= pair[1].servers && pair[0].nodes <= pair[1].nodes);
            assert!(pair[0].commits < pair[1].commits && pair[0].memory < pair[1].memory);
        }
    }
}
