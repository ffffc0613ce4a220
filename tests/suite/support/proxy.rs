//! A TCP proxy that does to connections what networks and failing peers do.
//!
//! Proxies run on a runtime of their own, so a test that blocks or is slow does not slow them down.

mod duplicate;
mod peer;

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};

use self::duplicate::Duplicates;
use self::peer::Origin;
pub use self::peer::Peer;

static PROXIES: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards everything.
    Forward,
    /// Keeps connections open and forwards nothing in either direction until the mode changes, as a partition that
    /// ends before a time-out of TCP.
    Stall,
    /// Forwards requests and drops the responses.
    DropResponses,
    /// Forwards requests and holds the responses back until the mode changes.
    HoldResponses,
    /// Forwards requests, and answers each with the response to the previous one.
    ShiftResponses,
    /// Closes every connection, and each new one at once.
    Disconnect,
    /// Forwards each chunk, of 16 KiB at most, after this time: a round trip takes twice as long.
    Delay(Duration),
    /// Forwards one byte at a time in both directions, with this pause after each.
    Drip(Duration),
    /// Accepts connections and never forwards nor closes them: a host that lost its power. Connections that saw this
    /// mode stay so when it ends, as half-open connections; only `Disconnect` and `Refuse` close them.
    BlackHole,
    /// Sends each command of the Redis protocol twice, and drops the response to the second. It closes connections
    /// that were opened in another mode, because it does not know where in them a command begins.
    Duplicate,
    /// Forwards requests, and replaces the responses by as many random bytes, which depend on this seed only.
    Garbage(u64),
    /// Forwards requests, and closes a connection in the middle of the next response.
    CutMidResponse,
    /// Closes every connection and the listener: new connections are refused, as by a host without the server. The
    /// proxy listens on the same port again when the mode changes. It is a mode for all peers only.
    Refuse,
}

impl ProxyMode {
    fn closes(self) -> bool {
        matches!(self, Self::Disconnect | Self::Refuse)
    }

    /// Whether bytes of this direction leave the proxy.
    fn passes(self, is_response: bool) -> bool {
        match self {
            Self::DropResponses | Self::HoldResponses => !is_response,
            Self::Stall | Self::BlackHole | Self::Disconnect | Self::Refuse => false,
            _ => true,
        }
    }
}

/// The mode for everybody, and those for some peers, of which the last that fits counts.
#[derive(Debug, Clone)]
struct Rules {
    default: ProxyMode,
    of_peers: Vec<(Peer, ProxyMode)>,
}

pub struct Proxy {
    pub address: SocketAddr,
    target: Arc<AtomicU16>,
    rules: Arc<watch::Sender<Rules>>,
    listens: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy for the port `target` on this machine.
    pub async fn to(target: u16) -> Self {
        let bind = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = PROXIES.spawn(bind).await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(AtomicU16::new(target));
        let rules = Rules { default: ProxyMode::Forward, of_peers: Vec::new() };
        let rules = Arc::new(watch::Sender::new(rules));
        let (listening, listens) = watch::channel(true);
        let accepting = PROXIES.spawn(accept(listener, Arc::clone(&target), rules.subscribe(), listening));
        Self { address, target, rules, listens, accepting }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Forwards new connections to another port: a server that starts after its proxy.
    pub fn retarget(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }

    /// Sets the mode for all peers and ends the modes of single peers.
    pub fn set(&self, mode: ProxyMode) {
        self.rules.send_replace(Rules { default: mode, of_peers: Vec::new() });
    }

    /// Sets the mode for the connections of some peers. The last mode that fits a peer counts.
    pub fn set_for(&self, peer: Peer, mode: ProxyMode) {
        assert!(mode != ProxyMode::Refuse, "a proxy has one listener for all peers");
        self.rules.send_modify(|rules| {
            rules.of_peers.retain(|(other, _)| *other != peer);
            rules.of_peers.push((peer, mode));
        });
    }

    /// Waits until the listener is closed in the mode `Refuse`, and open in every other.
    pub async fn settled(&self) {
        let listens = self.rules.borrow().default != ProxyMode::Refuse;
        self.listens.clone().wait_for(|now| *now == listens).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(ProxyMode::Disconnect);
    }
}

async fn accept(
    mut listener: TcpListener,
    target: Arc<AtomicU16>,
    mut rules: watch::Receiver<Rules>,
    listening: watch::Sender<bool>,
) {
    let address = listener.local_addr().unwrap();
    let refuses = |rules: &Rules| rules.default == ProxyMode::Refuse;
    loop {
        let connections = rules.clone();
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            is_over = async { rules.wait_for(refuses).await.is_err() } => if is_over { return } else { None },
        };
        match accepted {
            Some(Ok((client, peer))) => {
                let origin = Arc::new(Origin::new(peer, address.port()));
                let modes = Modes { rules: connections, origin };
                tokio::spawn(forward(client, target.load(Ordering::Relaxed), modes));
            }
            // No file descriptors are left.
            Some(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            None => {
                drop(listener);
                let reserved = reserve(address).await;
                listening.send_replace(false);
                if rules.wait_for(|rules| !refuses(rules)).await.is_err() {
                    return;
                }
                listener = reserved.listen(1024).unwrap();
                listening.send_replace(true);
            }
        }
    }
}

/// Binds a socket that does not listen: nobody else gets the port, and connections are refused.
async fn reserve(address: SocketAddr) -> TcpSocket {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        if socket.bind(address).is_ok() {
            return socket;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The modes of one connection.
#[derive(Clone)]
struct Modes {
    rules: watch::Receiver<Rules>,
    origin: Arc<Origin>,
}

impl Modes {
    fn now(&self) -> ProxyMode {
        Self::of(&self.rules.borrow(), &self.origin)
    }

    /// Waits for a mode that fits. Returns `None` at the end of the proxy.
    async fn wait_for(&mut self, fits: impl Fn(ProxyMode) -> bool) -> Option<ProxyMode> {
        let mut found = ProxyMode::Forward;
        let origin = &self.origin;
        let is_fit = |rules: &Rules| {
            found = Self::of(rules, origin);
            fits(found)
        };
        self.rules.wait_for(is_fit).await.ok()?;
        Some(found)
    }

    fn of(rules: &Rules, origin: &Origin) -> ProxyMode {
        let of_peer = rules.of_peers.iter().rev().find(|(peer, _)| origin.is(*peer));
        of_peer.map_or(rules.default, |(_, mode)| *mode)
    }
}

async fn forward(client: TcpStream, target: u16, mut modes: Modes) {
    let mode = modes.now();
    if mode.closes() {
        return;
    }
    if mode == ProxyMode::BlackHole {
        modes.wait_for(ProxyMode::closes).await;
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let duplicates = (mode == ProxyMode::Duplicate).then(Arc::<Duplicates>::default);
    let mut requests = pin!(copy(from_client, to_server, modes.clone(), duplicates.clone(), false));
    let mut responses = pin!(copy(from_server, to_client, modes.clone(), duplicates.clone(), true));
    let ends = |mode: ProxyMode| {
        mode.closes() || mode == ProxyMode::BlackHole || mode == ProxyMode::Duplicate && duplicates.is_none()
    };
    let end = tokio::select! {
        () = &mut requests => None,
        () = &mut responses => None,
        end = modes.wait_for(ends) => end,
    };
    if end == Some(ProxyMode::BlackHole) {
        // The sockets stay open, and nobody reads from them.
        modes.wait_for(ProxyMode::closes).await;
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut modes: Modes,
    duplicates: Option<Arc<Duplicates>>,
    is_response: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut previous = Vec::new();
    let mut random = None;
    let mut commands = duplicate::Frames::default();
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let mut chunk = buffer[..count].to_vec();
        if let Some(duplicates) = &duplicates {
            let twice = modes.now() == ProxyMode::Duplicate;
            let frames = if is_response {
                duplicates.responses(&mut commands, &chunk)
            } else {
                duplicates.requests(&mut commands, &chunk, twice)
            };
            let Ok(frames) = frames else { return };
            chunk = frames;
        }
        if is_response && modes.now() == ProxyMode::DropResponses {
            continue;
        }
        // In the other modes the bytes wait, as in the buffers of a network that may come back.
        let Some(mode) = modes.wait_for(|mode| mode.passes(is_response)).await else { return };
        if is_response {
            let last = std::mem::replace(&mut previous, chunk.clone());
            match mode {
                ProxyMode::ShiftResponses => chunk = last,
                ProxyMode::Garbage(seed) => {
                    random.get_or_insert_with(|| StdRng::seed_from_u64(seed)).fill_bytes(&mut chunk);
                }
                ProxyMode::CutMidResponse => {
                    let _ = to.write_all(&chunk[..middle(&chunk)]).await;
                    return;
                }
                _ => {}
            }
        }
        match mode {
            ProxyMode::Drip(pause) => {
                if drip(&mut to, &chunk, pause, &modes).await.is_err() {
                    return;
                }
                continue;
            }
            ProxyMode::Delay(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// Returns a place in the middle of a response of the Redis protocol, which always ends with a line.
fn middle(chunk: &[u8]) -> usize {
    let middle = chunk.len() / 2;
    if chunk[..middle].ends_with(b"\r\n") { middle - 1 } else { middle }
}

/// Writes one byte at a time for as long as the mode lasts, and then the rest.
async fn drip(to: &mut OwnedWriteHalf, chunk: &[u8], pause: Duration, modes: &Modes) -> std::io::Result<()> {
    for (written, byte) in chunk.iter().enumerate() {
        if modes.now() != ProxyMode::Drip(pause) {
            return to.write_all(&chunk[written..]).await;
        }
        to.write_all(&[*byte]).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
