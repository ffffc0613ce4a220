//! Counts the `RST_STREAM` frames of a client and ends connections that flood the server with resets.
//!
//! Well-behaved clients reset streams, too: after a pause of the server or of the network, all calls in progress exceed
//! their deadlines, and their resets arrive at once. So the limit is a rate with a large burst. The library limits only
//! the number of pending resets, and closes the connection beyond that.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::admission::Connection;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const FRAME_HEADER_LEN: usize = 9;
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

/// The number of resets that a client may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResetRate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

impl ResetRate {
    /// Returns the rate for clients with up to `max_streams` streams. The burst is eight times that, as after a pause
    /// of two seconds with deadlines of 250 ms. The sustained rate is twice that per second.
    pub(crate) const fn for_streams(max_streams: u32) -> Self {
        Self { burst: max_streams.saturating_mul(8), per_second: max_streams.saturating_mul(2) }
    }
}

/// A connection with a limited rate of resets. Beyond the limit, the library reads the end of the connection as if the
/// client had closed it, and the client receives GOAWAY.
pub(crate) struct FrameMeter<C> {
    connection: C,
    frames: Option<FrameParser>,
    usage: Arc<Connection>,
    go_away: Option<GoAway>,
    /// Ends the reading from the client after the last frame.
    linger: Option<Pin<Box<Sleep>>>,
}

/// Maximum time of reading from the client after the last GOAWAY, until the client closes. Closing a socket with unread
/// data would reset the connection, and the client would lose the GOAWAY and responses. A client can send a request
/// after it has acknowledged the first GOAWAY.
const LINGER: Duration = Duration::from_secs(1);

/// The GOAWAY frame that ends the connection.
struct GoAway {
    frame: Vec<u8>,
    sent: usize,
}

impl<C> FrameMeter<C> {
    /// Wraps a connection that begins with a preface of `preface_len` bytes. Without a rate, nothing is counted.
    pub(crate) fn new(
        connection: C,
        rate: Option<ResetRate>,
        preface_len: usize,
        usage: &Arc<Connection>,
    ) -> Self {
        let frames = rate.map(|rate| FrameParser::new(rate, preface_len));
        Self { connection, frames, usage: Arc::clone(usage), go_away: None, linger: None }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for FrameMeter<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.go_away.is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.connection).poll_read(cx, buffer))?;
        this.usage.note_received();
        if let Some(frames) = &mut this.frames
            && let Some(whole) = frames.receive(&buffer.filled()[before..], Instant::now)
        {
            this.usage.note_reset_flood();
            this.go_away = Some(GoAway { frame: frames.go_away(), sent: 0 });
            buffer.set_filled(before + whole);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FrameMeter<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    /// Sends the own GOAWAY, if there is one, and reads until the client closes. The library has written all of its
    /// frames before.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.frames.is_none() {
            return Pin::new(&mut this.connection).poll_shutdown(cx);
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(go_away) = &mut this.go_away {
            while go_away.sent < go_away.frame.len() {
                let rest = &go_away.frame[go_away.sent..];
                match ready!(Pin::new(&mut this.connection).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    sent => go_away.sent += sent,
                }
            }
        }
        ready!(Pin::new(&mut this.connection).poll_shutdown(cx))?;
        let mut scratch = [0; 4096];
        let mut scratch = ReadBuf::new(&mut scratch);
        // The cooperative budget of the runtime makes this loop yield.
        loop {
            scratch.clear();
            ready!(Pin::new(&mut this.connection).poll_read(cx, &mut scratch))?;
            if scratch.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

/// Finds the frame headers in a stream of bytes and counts resets.
struct FrameParser {
    rate: ResetRate,
    /// Number of bytes until the next frame header.
    skip: usize,
    header: [u8; FRAME_HEADER_LEN],
    header_len: usize,
    last_stream: [u8; 4],
    /// The level of the leaky bucket as of `as_of`, in thousandths of a reset.
    level: u64,
    as_of: Option<Instant>,
    flooded: bool,
}

impl FrameParser {
    const fn new(rate: ResetRate, preface_len: usize) -> Self {
        let (header, last_stream) = ([0; FRAME_HEADER_LEN], [0; 4]);
        let (header_len, level, as_of, flooded) = (0, 0, None, false);
        Self { rate, skip: preface_len, header, header_len, last_stream, level, as_of, flooded }
    }

    /// Parses received bytes. After too many resets, returns the length of the complete frames among them: for the
    /// library, the end of the connection within a frame is an error.
    fn receive(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Option<usize> {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            if self.skip == 0 && self.header_len == 0 && self.flooded {
                return Some(at);
            }
            let length = (FRAME_HEADER_LEN - self.header_len).min(bytes.len() - at);
            if length == 0 {
                return None;
            }
            self.header[self.header_len..self.header_len + length].copy_from_slice(&bytes[at..at + length]);
            self.header_len += length;
            at += length;
            if self.header_len < FRAME_HEADER_LEN {
                return None;
            }
            self.header_len = 0;
            let kind = self.header[3];
            self.skip = self.header[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            match kind {
                HEADERS => self.last_stream.copy_from_slice(&self.header[5..]),
                RST_STREAM => self.count_reset(now()),
                _ => {}
            }
        }
    }

    fn count_reset(&mut self, now: Instant) {
        let passed = self.as_of.map_or(Duration::ZERO, |as_of| now.saturating_duration_since(as_of));
        let drained = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        if drained > 0 || self.as_of.is_none() {
            self.as_of = Some(now);
        }
        self.level = self.level.saturating_sub(drained.saturating_mul(self.rate.per_second.into())) + 1000;
        self.flooded |= self.level > u64::from(self.rate.burst) * 1000;
    }

    /// Returns a GOAWAY frame (RFC 9113 section 6.8).
    fn go_away(&self) -> Vec<u8> {
        let reason = b"too_many_resets";
        let length = u8::try_from(8 + reason.len()).unwrap_or(8);
        let header = [0, 0, length, 7, 0, 0, 0, 0, 0];
        let mut last_stream = self.last_stream;
        last_stream[0] &= 0x7f;
        [&header[..], &last_stream, &ENHANCE_YOUR_CALM, reason].concat()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::admission::Admission;

    const RATE: ResetRate = ResetRate { burst: 10, per_second: 5 };

    fn frame(kind: u8, stream: u8, length: u8) -> Vec<u8> {
        [&[0, 0, length, kind, 0, 0, 0, 0, stream][..], &vec![RST_STREAM; length.into()]].concat()
    }

    /// Returns the number of resets that pass at once.
    fn burst(frames: &mut FrameParser, now: Instant) -> usize {
        (0..1000).take_while(|_| frames.receive(&frame(RST_STREAM, 1, 4), || now).is_none()).count()
    }

    #[test]
    fn a_burst_of_resets_passes_and_then_as_many_as_the_rate_allows() {
        let begun = Instant::now();
        assert_eq!(burst(&mut FrameParser::new(RATE, 0), begun), 10);
        let mut frames = FrameParser::new(RATE, 0);
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            for _ in 0..5 {
                assert_eq!(frames.receive(&frame(RST_STREAM, 1, 4), || now), None, "a sustained rate");
            }
        }
        assert_eq!(burst(&mut frames, begun + Duration::from_secs(100)), 10);
    }

    #[test]
    fn only_resets_count_in_any_chunks() {
        let preface = [RST_STREAM; 24];
        for piece in [1, 2, 5, 9, 13, 1000] {
            let mut frames = FrameParser::new(RATE, preface.len());
            let mut bytes = preface.to_vec();
            for stream in 1..=10 {
                bytes.extend(frame(HEADERS, stream, 100));
                bytes.extend(frame(0, stream, 0));
                bytes.extend(frame(RST_STREAM, stream, 4));
            }
            for piece in bytes.chunks(piece) {
                assert_eq!(frames.receive(piece, Instant::now), None);
            }
            assert_eq!(frames.last_stream, [0, 0, 0, 10]);
            // The bytes after the last reset are cut off in any chunks.
            let mut more = frame(RST_STREAM, 1, 4);
            more.extend(frame(HEADERS, 11, 100));
            let mut whole = 0;
            for piece in more.chunks(piece) {
                match frames.receive(piece, Instant::now) {
                    None => whole += piece.len(),
                    Some(part) => {
                        whole += part;
                        break;
                    }
                }
            }
            assert_eq!(whole, 13, "in chunks of {piece}");
        }
    }

    #[tokio::test]
    async fn a_flood_ends_the_connection_with_a_goaway() {
        let (mut client, server) = duplex(1 << 16);
        let usage = Admission::new(&[], Vec::new()).connection("192.0.2.1".parse().unwrap());
        let mut server = FrameMeter::new(server, Some(RATE), 0, &usage);
        client.write_all(&frame(HEADERS, 7, 1)).await.unwrap();
        for _ in 0..20 {
            client.write_all(&frame(RST_STREAM, 7, 4)).await.unwrap();
        }
        let mut seen = Vec::new();
        server.read_to_end(&mut seen).await.unwrap();
        assert!(seen.len() < 20 * 13, "it ends as if the client had left");
        let closing = tokio::spawn(async move { server.shutdown().await });
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer[..9], [0, 0, 23, 7, 0, 0, 0, 0, 0]);
        assert_eq!(answer[9..17], [0, 0, 0, 7, 0, 0, 0, 11]);
        assert_eq!(&answer[17..], b"too_many_resets");
        drop(client);
        closing.await.unwrap().unwrap();
    }
}
