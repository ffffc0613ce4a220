//! A TCP proxy that can fall silent, hang up and come back: what a network does to a connection.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does with what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes everything on.
    Carries,
    /// Keeps connections open and passes nothing on, in either direction: a half-open link.
    Silent,
    /// Passes requests on and swallows the answers.
    SwallowsAnswers,
    /// Passes requests on and keeps the answers until the mood is another one.
    HoldsAnswers,
    /// Passes requests on, and answers each with the answer to the one before.
    LagsBehind,
    /// Closes every connection, and new ones at once.
    HangsUp,
}

pub struct Proxy {
    pub address: SocketAddr,
    mood: Arc<watch::Sender<Mood>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Carries connections to the port `target` on this machine.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(watch::Sender::new(Mood::Carries));
        let accepting = tokio::spawn({
            let mood = Arc::clone(&mood);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(carry(client, target, mood.subscribe()));
                }
            }
        });
        Self { address, mood, accepting }
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.mood.send_replace(Mood::HangsUp);
    }
}

async fn carry(client: TcpStream, target: u16, mut mood: watch::Receiver<Mood>) {
    if *mood.borrow() == Mood::HangsUp {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = copy(from_client, to_server, mood.clone(), false);
    let answers = copy(from_server, to_client, mood.clone(), true);
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = mood.wait_for(|mood| *mood == Mood::HangsUp) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mood: watch::Receiver<Mood>,
    answers: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut before = Vec::new();
    loop {
        let Ok(mut count @ 1..) = from.read(&mut buffer).await else { return };
        let passes = |mood: &Mood| match mood {
            Mood::Carries | Mood::LagsBehind => true,
            Mood::SwallowsAnswers | Mood::HoldsAnswers => !answers,
            Mood::Silent | Mood::HangsUp => false,
        };
        if answers && *mood.borrow() == Mood::SwallowsAnswers {
            continue;
        }
        if answers {
            let last = std::mem::replace(&mut before, buffer[..count].to_vec());
            if *mood.borrow() == Mood::LagsBehind {
                count = last.len();
                buffer[..count].copy_from_slice(&last);
            }
        }
        // Silent: what was read waits, as in the buffers of a network that will come back or not.
        if mood.wait_for(passes).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
