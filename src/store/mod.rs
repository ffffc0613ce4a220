//! Outbound: what the domain asks of the world, on SQLite, Redis, the file system and HTTP.
//!
//! A backend keeps bytes under keys ([`raw::RawRegisters`]) and knows nothing of sessions. [`encoded`]
//! turns any of them into the domain's ports, with the one [`codec`].

pub mod audit;
pub mod binding;
pub mod cache;
pub mod clock;
pub mod codec;
pub mod decoded;
pub mod embedded;
pub mod encoded;
pub mod gathered;
pub mod key_files;
mod permissions;
pub mod raw;
pub mod redis;
pub mod secret_file;
pub mod sql;
pub mod tls_files;
pub mod webhook;
