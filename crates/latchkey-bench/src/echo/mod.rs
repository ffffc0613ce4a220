//! The bare echo: a server with the messages of `Validate` that always returns the same session.

pub mod http2;
pub mod service;
pub mod session;
