//! Helpers of the tests: servers on free ports, a clock that is set by hand, and clients.

pub mod address;
pub mod child_server;
pub mod chromium;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod database_server;
pub mod http;
pub mod memory;
pub mod mysql;
pub mod pgbouncer;
pub mod postgres;
pub mod preload;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod redis_node;
pub mod replicas;
pub mod running;
pub mod sentinel;
pub mod server;
pub mod skip;
pub mod tls;
