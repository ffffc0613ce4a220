//! Follows the frames that a client sends, to end connections that flood the server with resets.
//!
//! A client may reset a stream at any time, and honest ones do: a pause of the server, or of the network, makes all
//! calls under way exceed their deadlines, and their resets arrive at once. So resets are bounded as a rate over time
//! with a generous burst. The library bounds only how many wait at a time, and closes the connection beyond that.

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
const HEAD: usize = 9;
const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];

/// How many resets a client may send: so many at once, and so many a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResetRate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

impl ResetRate {
    /// What clients need that may have this many streams open: eight times all of them at once, as after a pause of two
    /// seconds with deadlines of a quarter, and twice all of them in every second.
    pub(crate) const fn of(max_streams: u32) -> Self {
        Self { burst: max_streams.saturating_mul(8), per_second: max_streams.saturating_mul(2) }
    }
}

/// A connection whose client must not reset streams faster than a rate. If it does, the connection ends for the library
/// as if the client had closed it, and the client is sent a GOAWAY.
pub(crate) struct FrameMeter<C> {
    connection: C,
    frames: Option<Frames>,
    account: Arc<Connection>,
    goodbye: Option<Goodbye>,
}

/// How long what a client still sends is read, so that the system does not reset the connection, which would lose the
/// GOAWAY.
const LINGER: Duration = Duration::from_secs(1);

/// The last frame, how much of it was sent, and the time to read what still comes.
struct Goodbye {
    frame: Vec<u8>,
    sent: usize,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<C> FrameMeter<C> {
    /// A connection that begins with so many bytes that are no frames. Without a rate it is not metered.
    pub(crate) fn new(
        connection: C,
        rate: Option<ResetRate>,
        preface: usize,
        account: &Arc<Connection>,
    ) -> Self {
        let frames = rate.map(|rate| Frames::new(rate, preface));
        Self { connection, frames, account: Arc::clone(account), goodbye: None }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for FrameMeter<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.goodbye.is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.connection).poll_read(cx, buffer))?;
        if let Some(frames) = &mut this.frames
            && let Some(whole) = frames.follow(&buffer.filled()[before..], Instant::now)
        {
            this.account.note_reset_flood();
            this.goodbye = Some(Goodbye { frame: frames.go_away(), sent: 0, lingering: None });
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

    /// The library has written all of its frames before.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(goodbye) = &mut this.goodbye else {
            return Pin::new(&mut this.connection).poll_shutdown(cx);
        };
        let lingering = goodbye.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if lingering.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        while goodbye.sent < goodbye.frame.len() {
            let rest = &goodbye.frame[goodbye.sent..];
            match ready!(Pin::new(&mut this.connection).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => goodbye.sent += sent,
            }
        }
        ready!(Pin::new(&mut this.connection).poll_shutdown(cx))?;
        let mut scratch = [0; 4096];
        let mut scratch = ReadBuf::new(&mut scratch);
        // The runtime makes it give way to others now and then.
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

/// Follows frames as they come in pieces.
struct Frames {
    rate: ResetRate,
    /// Bytes that belong to no head of a frame.
    skip: usize,
    head: [u8; HEAD],
    in_head: usize,
    last_stream: [u8; 4],
    /// Resets that count, in thousandths, as of then.
    level: u64,
    as_of: Option<Instant>,
    flooded: bool,
}

impl Frames {
    const fn new(rate: ResetRate, preface: usize) -> Self {
        let (head, last_stream) = ([0; HEAD], [0; 4]);
        let (in_head, level, as_of, flooded) = (0, 0, None, false);
        Self { rate, skip: preface, head, in_head, last_stream, level, as_of, flooded }
    }

    /// Follows what has come. Once there are too many resets, how much of it belongs to whole frames: the library takes
    /// the end of the connection within a frame for an error.
    fn follow(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Option<usize> {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            if self.skip == 0 && self.in_head == 0 && self.flooded {
                return Some(at);
            }
            let part = (HEAD - self.in_head).min(bytes.len() - at);
            if part == 0 {
                return None;
            }
            self.head[self.in_head..self.in_head + part].copy_from_slice(&bytes[at..at + part]);
            self.in_head += part;
            at += part;
            if self.in_head < HEAD {
                return None;
            }
            self.in_head = 0;
            let kind = self.head[3];
            self.skip = self.head[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            match kind {
                HEADERS => self.last_stream.copy_from_slice(&self.head[5..]),
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

    /// RFC 9113 section 6.8.
    fn go_away(&self) -> Vec<u8> {
        let reason = b"too_many_resets";
        let length = u8::try_from(8 + reason.len()).unwrap_or(8);
        let head = [0, 0, length, 7, 0, 0, 0, 0, 0];
        let mut last_stream = self.last_stream;
        last_stream[0] &= 0x7f;
        [&head[..], &last_stream, &ENHANCE_YOUR_CALM, reason].concat()
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

    /// How many resets pass at once, at this time.
    fn burst(frames: &mut Frames, now: Instant) -> usize {
        (0..1000).take_while(|_| frames.follow(&frame(RST_STREAM, 1, 4), || now).is_none()).count()
    }

    #[test]
    fn a_burst_of_resets_passes_and_then_as_many_as_the_rate_allows() {
        let begun = Instant::now();
        assert_eq!(burst(&mut Frames::new(RATE, 0), begun), 10);
        let mut frames = Frames::new(RATE, 0);
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            for _ in 0..5 {
                assert_eq!(frames.follow(&frame(RST_STREAM, 1, 4), || now), None, "a sustained rate");
            }
        }
        assert_eq!(burst(&mut frames, begun + Duration::from_secs(100)), 10);
    }

    #[test]
    fn only_resets_count_however_the_frames_are_cut() {
        let preface = [RST_STREAM; 24];
        for piece in [1, 2, 5, 9, 13, 1000] {
            let mut frames = Frames::new(RATE, preface.len());
            let mut bytes = preface.to_vec();
            for stream in 1..=10 {
                bytes.extend(frame(HEADERS, stream, 100));
                bytes.extend(frame(0, stream, 0));
                bytes.extend(frame(RST_STREAM, stream, 4));
            }
            for piece in bytes.chunks(piece) {
                assert_eq!(frames.follow(piece, Instant::now), None);
            }
            assert_eq!(frames.last_stream, [0, 0, 0, 10]);
            // What comes after the last frame that counts is cut off, wherever its pieces end.
            let mut more = frame(RST_STREAM, 1, 4);
            more.extend(frame(HEADERS, 11, 100));
            let mut whole = 0;
            for piece in more.chunks(piece) {
                match frames.follow(piece, Instant::now) {
                    None => whole += piece.len(),
                    Some(part) => {
                        whole += part;
                        break;
                    }
                }
            }
            assert_eq!(whole, 13, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_flood_ends_the_connection_with_a_goaway() {
        let (mut client, server) = duplex(1 << 16);
        let account = Admission::new(&[], Vec::new()).connection("192.0.2.1".parse().unwrap());
        let mut server = FrameMeter::new(server, Some(RATE), 0, &account);
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
