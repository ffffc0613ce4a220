//! Measures the Redis memory of a user with one session, over 100,000 users, and fails if it is more than promised. Starts a
//! Redis server of its own.

use std::process::ExitCode;

use latchkey_bench::support::memory::{MAX_BYTES_PER_USER, bytes_per_user};

const USERS: u32 = 100_000;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the result")]
async fn main() -> ExitCode {
    let bytes = bytes_per_user(USERS).await;
    println!(
        "{bytes:.0} bytes of Redis memory per user with one session ({USERS} users; at most {MAX_BYTES_PER_USER})"
    );
    if bytes > MAX_BYTES_PER_USER { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
