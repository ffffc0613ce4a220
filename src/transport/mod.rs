//! Connections: accept loop, TLS, HTTP/2 and HTTP/1.1 with limits, and drain.
//!
//! A connection that has to end (age, eviction, shutdown) sends GOAWAY. Then its streams end with trailers, and it
//! closes once no request is in progress and its client has closed, or has had a second to read the rest.

pub mod accept;
pub mod body;
pub mod connection;
mod drain;
mod frame_meter;
pub mod http1;
pub mod http2;
pub mod inline_executor;
pub mod peer;
pub mod server;
pub mod tls;
