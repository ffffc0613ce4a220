//! The peers of a proxy, told apart by where their connections come from.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::OnceLock,
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

/// Where a connection to a proxy comes from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) peer: SocketAddr,
    pub(super) proxy: u16,
    /// `None` if its process has closed it.
    socket: OnceLock<Option<String>>,
    /// Whether a process has the socket. It is asked for every chunk, and mostly about one process.
    owner: OnceLock<(u32, bool)>,
}

impl Origin {
    pub(super) fn new(peer: SocketAddr, proxy: u16) -> Self {
        Self { peer, proxy, socket: OnceLock::new(), owner: OnceLock::new() }
    }

    pub(super) fn is(&self, peer: Peer) -> bool {
        let ip = self.peer.ip();
        match peer {
            Peer::Nodes => ip != IpAddr::V4(Ipv4Addr::LOCALHOST),
            Peer::Node(address) => ip == IpAddr::V4(address),
            Peer::Clients => ip == IpAddr::V4(Ipv4Addr::LOCALHOST),
            Peer::Process(id) => ip == IpAddr::V4(Ipv4Addr::LOCALHOST) && self.belongs_to(id),
        }
    }

    fn belongs_to(&self, process: u32) -> bool {
        let Some(socket) = self.socket() else { return false };
        let (asked, belongs) = *self.owner.get_or_init(|| (process, has(process, socket)));
        if asked == process { belongs } else { has(process, socket) }
    }

    /// Returns the name of the socket at the other end, as a link in `/proc` shows it.
    fn socket(&self) -> Option<&str> {
        let find = || {
            // The kernel finds one connection among many thousands faster than a test, which has to read them all.
            let inode = (0..3).find_map(|_| self.inode_by_ss().or_else(|| self.inode_by_table()))?;
            Some(format!("socket:[{inode}]"))
        };
        self.socket.get_or_init(find).as_deref()
    }

    fn inode_by_ss(&self) -> Option<u64> {
        let (local, remote) = (format!("sport = :{}", self.peer.port()), format!("dport = :{}", self.proxy));
        let found = Command::new("ss").args(["-Htne", &local, &remote]).output().ok()?;
        let found = String::from_utf8(found.stdout).ok()?;
        found.split_whitespace().find_map(|word| word.strip_prefix("ino:")?.parse().ok())
    }

    fn inode_by_table(&self) -> Option<u64> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let (local, remote) = (format!(":{:04X}", self.peer.port()), format!(":{:04X}", self.proxy));
        table.lines().skip(1).find_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let is_it = columns.get(1)?.ends_with(&local) && columns.get(2)?.ends_with(&remote);
            // A socket that its process has closed has none.
            columns.get(9)?.parse().ok().filter(|inode| is_it && *inode != 0)
        })
    }
}

fn has(process: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}
