//! Connections: the accept loop, HTTP/2 and HTTP/1.1 within bounds, TLS, and their end.

pub mod accept;
pub mod connection;
mod drain;
mod frame_meter;
pub mod http1;
mod inline_executor;
pub mod peer;
pub mod server;
pub mod tls;
