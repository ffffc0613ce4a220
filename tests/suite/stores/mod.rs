//! One suite of behaviour for every store, and what is special to each.

mod stand;
pub mod tables;

mod access;
mod accounts;
mod binding;
mod callers;
mod codec;
mod conformance;
mod databases;
mod embedded;
mod external_users;
mod faults;
mod follow;
mod log;
mod memory;
mod pooler;
mod reads;
mod renewal;
mod rows;
mod states;
