//! Addresses for servers that cannot choose a port themselves, and for clients that must find no server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Returns an address on this machine that nobody listens on.
pub fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Returns a port that is free for now: another process may take it before a server does.
pub fn free_port() -> u16 {
    unused_address().port()
}

/// Returns a free port for a server that may restart. The system does not give it to outgoing connections, which
/// could take it meanwhile, or even connect to themselves while the server is down.
pub fn server_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..1000).map(|_| rand::random_range(10_000..32_000)).find(is_free).unwrap()
}
