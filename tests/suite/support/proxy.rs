//! A TCP proxy that can stall, drop, hold or shift responses, and disconnect: what a network does to a connection.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards everything.
    Forward,
    /// Keeps connections open and forwards nothing in either direction, as a half-open connection.
    Stall,
    /// Forwards requests and drops the responses.
    DropResponses,
    /// Forwards requests and holds the responses back until the mode changes.
    HoldResponses,
    /// Forwards requests, and answers each with the response to the previous one.
    ShiftResponses,
    /// Closes every connection, and each new one at once.
    Disconnect,
}

pub struct Proxy {
    pub address: SocketAddr,
    mode: Arc<watch::Sender<ProxyMode>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy for the port `target` on this machine.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::Sender::new(ProxyMode::Forward));
        let accepting = tokio::spawn({
            let mode = Arc::clone(&mode);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(forward(client, target, mode.subscribe()));
                }
            }
        });
        Self { address, mode, accepting }
    }

    pub fn set(&self, mode: ProxyMode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.mode.send_replace(ProxyMode::Disconnect);
    }
}

async fn forward(client: TcpStream, target: u16, mut mode: watch::Receiver<ProxyMode>) {
    if *mode.borrow() == ProxyMode::Disconnect {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = copy(from_client, to_server, mode.clone(), false);
    let responses = copy(from_server, to_client, mode.clone(), true);
    tokio::select! {
        () = requests => {}
        () = responses => {}
        _ = mode.wait_for(|mode| *mode == ProxyMode::Disconnect) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<ProxyMode>,
    is_response: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut previous = Vec::new();
    loop {
        let Ok(mut count @ 1..) = from.read(&mut buffer).await else { return };
        let passes = |mode: &ProxyMode| match mode {
            ProxyMode::Forward | ProxyMode::ShiftResponses => true,
            ProxyMode::DropResponses | ProxyMode::HoldResponses => !is_response,
            ProxyMode::Stall | ProxyMode::Disconnect => false,
        };
        if is_response && *mode.borrow() == ProxyMode::DropResponses {
            continue;
        }
        if is_response {
            let last = std::mem::replace(&mut previous, buffer[..count].to_vec());
            if *mode.borrow() == ProxyMode::ShiftResponses {
                count = last.len();
                buffer[..count].copy_from_slice(&last);
            }
        }
        // In the other modes the bytes wait, as in the buffers of a network that may come back.
        if mode.wait_for(passes).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
