//! One suite of behaviour for every store, and what is special to each.

#[macro_use]
mod stand;

mod accounts;
mod codec;
mod conformance;
mod embedded;
mod faults;
mod log;
mod memory;
mod states;
