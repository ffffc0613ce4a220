//! An HTTP/2 client that sends single frames, also those that no correct client sends (RFC 9113).

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_HEADERS: u8 = 4;

pub const REFUSED_STREAM: u32 = 7;
pub const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a `RST_STREAM` or `GOAWAY`.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes a header without indexing; `name` is its number in the static table.
pub fn header(name: u8, value: &str) -> Vec<u8> {
    let name = if name < 15 { vec![name] } else { vec![15, name - 15] };
    [&name[..], &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// `POST` to Validate, over `http`; then what is added.
pub fn request(more: &[u8]) -> Vec<u8> {
    request_to("/latchkey.v1.AuthService/Validate", more)
}

/// `POST` to this path, over `http`; then what is added.
pub fn request_to(path: &str, more: &[u8]) -> Vec<u8> {
    let path = header(4, path);
    [&[0x83, 0x86], &path[..], &header(1, "latchkey"), &header(31, "application/grpc"), more].concat()
}

/// Headers of this many bytes, as RFC 9113 section 6.5.2 counts them, in frames.
pub fn large_request(stream: u32, size: usize) -> Vec<u8> {
    let mut more = Vec::new();
    let mut left = size;
    while left > 200 {
        // An entry counts its name of one letter, its value and 32 bytes.
        more.extend([0, 1, b'x', 100]);
        more.extend([b'y'; 100]);
        left -= 133;
    }
    let block = request(&more);
    let (first, rest) = block.split_at(block.len().min(8000));
    let flags = |last: bool| if last { END_HEADERS } else { 0 };
    let mut frames = frame(HEADERS, flags(rest.is_empty()), stream, first);
    let mut parts = rest.chunks(8000).peekable();
    while let Some(part) = parts.next() {
        frames.extend(frame(CONTINUATION, flags(parts.peek().is_none()), stream, part));
    }
    frames
}

pub struct Socket(pub TcpStream);

impl Socket {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), &[]).await
    }

    /// Opens an HTTP/2 connection with these settings over a TCP connection.
    pub async fn over(connection: TcpStream, settings: &[(u16, u32)]) -> Self {
        let mut socket = Self(connection);
        socket.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let pairs = settings.iter().map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        socket.send(&frame(SETTINGS, 0, 0, &pairs.collect::<Vec<_>>().concat())).await;
        socket
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The server may have closed the connection.
        let _ = self.0.write_all(bytes).await;
    }

    /// Reads the next frame, or `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], stream, payload })
    }

    /// Reads frames up to the first of one of these kinds.
    pub async fn first(&mut self, kinds: &[u8]) -> Frame {
        let found = async {
            loop {
                let frame = self
                    .next()
                    .await
                    .unwrap_or_else(|| panic!("the server closed the connection without a frame"));
                if kinds.contains(&frame.kind) {
                    return frame;
                }
            }
        };
        timeout(Duration::from_secs(5), found).await.unwrap_or_else(|_| panic!("the server sends no frame"))
    }
}

/// Connects from another address of this machine.
pub async fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}
