//! The `latchkey` binary: parse arguments, run, exit code.

use std::process::ExitCode;

/// A request allocates some forty times, and this one is faster at that than the allocator of most systems.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    latchkey::cli::main()
}
