//! The memory of Redis for each user. `cargo run --release -p latchkey-bench --bin redis-memory` measures 100,000.

use crate::support::memory::{MAX_BYTES_PER_USER, bytes_per_user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_one_session_needs_no_more_memory_than_documented() {
    let bytes = bytes_per_user(20_000).await;
    println!("{bytes:.0} bytes of Redis memory a user");
    assert!(bytes <= MAX_BYTES_PER_USER, "{bytes:.0} bytes a user");
    assert!(bytes > 100.0, "{bytes:.0} bytes a user: what was measured?");
}
