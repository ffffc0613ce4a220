//! One conformance suite for every store, and tests of single backends.

pub mod test_accounts;
mod test_store;

mod access;
mod accounts;
mod binding;
mod callers;
mod cluster;
mod codec;
mod conformance;
mod databases;
mod durability;
mod embedded;
mod external_users;
mod faults;
mod follow;
mod log;
mod lost_commits;
mod memory;
mod pooler;
mod reads;
mod renewal;
mod rows;
mod states;
mod tls;
mod topologies;
