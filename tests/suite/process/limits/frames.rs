//! HTTP/2 by hand, to do what a well-behaved client cannot (RFC 9113).

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::server;
use crate::support::client::Client;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of a `RST_STREAM` or `GOAWAY`.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header without indexing: `name` is its number in the static table.
fn header(name: u8, value: &str) -> Vec<u8> {
    let name = if name < 15 { vec![name] } else { vec![15, name - 15] };
    [&name[..], &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// `POST` to Validate, over `http`; then what is added.
fn request(more: &[u8]) -> Vec<u8> {
    let path = header(4, "/latchkey.v1.AuthService/Validate");
    [&[0x83, 0x86], &path[..], &header(1, "latchkey"), &header(31, "application/grpc"), more].concat()
}

/// Headers of this many bytes, as RFC 9113 section 6.5.2 counts them, in frames.
fn large_request(stream: u32, size: usize) -> Vec<u8> {
    let mut more = Vec::new();
    let mut left = size;
    while left > 200 {
        // A name of one letter, and 32 for the entry.
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

struct Socket(TcpStream);

impl Socket {
    async fn connect(address: SocketAddr) -> Self {
        let mut socket = Self(TcpStream::connect(address).await.unwrap());
        socket.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        socket.send(&frame(SETTINGS, 0, 0, &[])).await;
        socket
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The server may have hung up.
        let _ = self.0.write_all(bytes).await;
    }

    /// The next frame; none where the server has hung up.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], stream, payload })
    }

    /// The first frame that is of one of these kinds.
    async fn first(&mut self, kinds: &[u8]) -> Frame {
        let found = async {
            loop {
                let frame = self.next().await.unwrap_or_else(|| panic!("the server hung up without a word"));
                if kinds.contains(&frame.kind) {
                    return frame;
                }
            }
        };
        timeout(Duration::from_secs(5), found).await.unwrap_or_else(|_| panic!("the server says nothing"))
    }
}

async fn still_serves(client: &Client) {
    super::works(client).await;
}

#[tokio::test]
async fn the_limits_are_announced_and_streams_beyond_them_are_refused() {
    let (process, client, _data) = server(&[("SERVER__MAX_STREAMS", "5")]).await;
    let mut socket = Socket::connect(process.grpc).await;
    let settings = socket.first(&[SETTINGS]).await.payload;
    let setting = |id: u16| {
        let pairs = settings.chunks(6).map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), &pair[2..]));
        pairs
            .filter(|(found, _)| *found == id)
            .map(|(_, value)| u32::from_be_bytes(value.try_into().unwrap()))
            .next()
    };
    assert_eq!(setting(3), Some(5), "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(6), Some(16 * 1024), "SETTINGS_MAX_HEADER_LIST_SIZE");

    for number in 0..7 {
        socket.send(&frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[]))).await;
    }
    for number in [5, 6] {
        let refused = socket.first(&[RST_STREAM, GOAWAY, HEADERS]).await;
        assert_eq!((refused.kind, refused.stream), (RST_STREAM, 2 * number + 1), "{refused:?}");
        assert_eq!(refused.code(), REFUSED_STREAM);
    }
    still_serves(&client).await;
}

#[tokio::test]
async fn a_flood_of_streams_that_are_opened_and_reset_is_cut_off() {
    let (process, client, _data) = server(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    let mut flood = Vec::new();
    for number in 0..2000 {
        flood.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[])));
        flood.extend(frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    socket.send(&flood).await;
    assert_eq!(socket.first(&[GOAWAY]).await.code(), ENHANCE_YOUR_CALM);
    still_serves(&client).await;
}

#[tokio::test]
async fn a_flood_of_streams_that_the_server_must_reset_is_cut_off() {
    let (process, client, _data) = server(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    let mut flood = Vec::new();
    for number in 0..500 {
        flood.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[])));
        // A window that large is an error of the stream.
        flood.extend(frame(WINDOW_UPDATE, 0, 2 * number + 1, &[0x7f, 0xff, 0xff, 0xff]));
    }
    socket.send(&flood).await;
    assert_eq!(socket.first(&[GOAWAY]).await.code(), ENHANCE_YOUR_CALM);
    still_serves(&client).await;
}

#[tokio::test]
async fn headers_over_16_kib_are_refused() {
    let (process, client, _data) = server(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    // 200 in the static table: the call has reached a method, which answers for its missing message.
    socket.send(&large_request(1, 15 * 1024)).await;
    socket.send(&frame(DATA, 1, 1, &[])).await;
    let served = socket.first(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert_eq!((served.kind, served.payload[0]), (HEADERS, 0x88), "{served:?}");

    socket.send(&large_request(3, 18 * 1024)).await;
    let refused = socket.first(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert!(refused.kind != HEADERS || refused.payload[0] != 0x88, "served: {refused:?}");
    still_serves(&client).await;
}
