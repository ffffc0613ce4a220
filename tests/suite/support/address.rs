//! Addresses for servers that cannot choose a port themselves, and for clients that must find no server.

use std::net::{SocketAddr, TcpListener};

/// Returns an address on this machine that nobody listens on.
pub fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Returns a port that is free for now: another process may take it before a server does.
pub fn free_port() -> u16 {
    unused_address().port()
}
