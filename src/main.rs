//! The `latchkey` binary: parse arguments, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    latchkey::cli::main()
}
