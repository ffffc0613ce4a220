//! The peers of a proxy, told apart by where their connections come from.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// Whose connections a mode is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The servers of a topology, each of which connects from a loopback address of its own.
    Nodes,
    /// The server that connects from this address.
    Node(Ipv4Addr),
    /// Everybody who connects from 127.0.0.1: Latchkey and the tests.
    Clients,
    /// The process of this id. It is found through `/proc`, so it exists on Linux only.
    Process(u32),
}

impl Peer {
    pub(super) fn fits(self, peer: SocketAddr, proxy: u16) -> bool {
        match self {
            Self::Nodes => peer.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Node(address) => peer.ip() == IpAddr::V4(address),
            Self::Clients => peer.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Process(id) => socket(peer, proxy).is_some_and(|socket| has(id, &socket)),
        }
    }
}

/// Returns the name of the socket at the other end of a connection, as a link in `/proc` shows it.
fn socket(peer: SocketAddr, proxy: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (format!(":{:04X}", peer.port()), format!(":{proxy:04X}"));
    let inode = table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let is_it = columns.get(1)?.ends_with(&local) && columns.get(2)?.ends_with(&remote);
        is_it.then(|| columns.get(9).copied()).flatten()
    })?;
    Some(format!("socket:[{inode}]"))
}

fn has(process: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}
