//! The common parts of the benchmarks of Latchkey: the processes that are measured and the cores that they run on, the load, the
//! sessions that a store is seeded with, the bare echo that `Validate` is compared with, and the statistics.
//!
//! The programs are in `bin/`, and `make help` lists them. They are built beside the server, and they need
//! `redis-server` on the PATH, or its path in `LATCHKEY_TEST_REDIS_SERVER`.

#![expect(missing_docs, reason = "the crate is not published, and names tell what each item is")]
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a benchmark that panics has failed, as a test has"
)]

pub mod bars;
pub mod core_pinning;
pub mod echo;
pub mod load;
pub mod page;
pub mod processes;
pub mod seed;
pub mod statistics;

/// The client, the Redis servers and the memory measurement of the test suite.
#[path = "../../../tests/suite/support"]
pub mod support {
    pub mod address;
    pub mod client;
    pub mod cluster;
    pub mod memory;
    pub mod proxy;
    pub mod redis;
    pub mod redis_node;
    pub mod sentinel;
    pub mod skip;
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;
