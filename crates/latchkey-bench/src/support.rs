//! The client, the Redis server and the memory measurement of the test suite.

#[path = "../../../tests/suite/support/address.rs"]
pub mod address;
#[path = "../../../tests/suite/support/client.rs"]
pub mod client;
#[path = "../../../tests/suite/support/memory.rs"]
pub mod memory;
#[path = "../../../tests/suite/support/redis.rs"]
pub mod redis;
#[path = "../../../tests/suite/support/skip.rs"]
pub mod skip;
