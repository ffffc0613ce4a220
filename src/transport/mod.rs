//! Connections: the accept loop, HTTP/2 and HTTP/1.1 within bounds, TLS, and their end.

pub mod accept;
pub mod frame_meter;
pub mod inline_executor;
pub mod tls;
