//! Outbound: what the domain asks of the world, on SQLite, Redis, the file system and HTTP.
//!
//! A backend keeps bytes under keys ([`backend::Backend`]) and knows nothing of sessions. [`encoded`]
//! turns any of them into the domain's ports, with the one [`codec`].

pub mod audit;
pub mod backend;
pub mod batching;
pub mod binding;
pub mod clock;
pub mod codec;
pub mod codec_store;
pub mod decode_cache;
pub mod embedded;
pub mod key_files;
pub mod near_cache;
mod permissions;
pub mod redis;
pub mod secret_file;
pub mod sql;
pub mod tls_files;
pub mod webhook;
