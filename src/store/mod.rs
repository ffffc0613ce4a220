//! The outbound adapters: the domain's ports on SQLite, Redis, SQL databases, the file system and HTTP.
//!
//! A backend ([`backend::Backend`]) stores bytes under keys and knows nothing about sessions. [`codec_store`]
//! implements the domain's ports over any backend with the [`codec`]; [`batching`] and [`near_cache`] decorate them.

pub mod audit;
pub mod backend;
pub mod backup;
pub mod batching;
pub mod binding;
pub mod clock;
pub mod codec;
pub mod codec_store;
pub mod decode_cache;
pub mod embedded;
pub mod key_files;
pub mod metered;
pub mod near_cache;
mod permissions;
pub mod redis;
pub mod restore;
pub mod secret_file;
pub mod sql;
pub mod tls_files;
pub mod webhook;
