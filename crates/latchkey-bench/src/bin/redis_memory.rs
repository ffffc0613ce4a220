//! Measures how much Redis memory a user with one session costs, over 100,000 users, and fails where that
//! is more than was promised. Starts a Redis server of its own; needs `redis-server` on the PATH, or its
//! path in `LATCHKEY_TEST_REDIS_SERVER`.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the tests are made of")]

#[path = "../../../../tests/suite/support/memory.rs"]
mod memory;
#[path = "../../../../tests/suite/support/redis.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod redis;

use std::process::ExitCode;

use memory::{MAX_BYTES_PER_USER, bytes_per_user};

const USERS: u32 = 100_000;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the result")]
async fn main() -> ExitCode {
    let bytes = bytes_per_user(USERS).await;
    println!(
        "{bytes:.0} bytes of Redis memory a user with one session ({USERS} users; at most {MAX_BYTES_PER_USER})"
    );
    if bytes > MAX_BYTES_PER_USER { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
