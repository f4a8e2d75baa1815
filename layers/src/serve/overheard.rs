//! What HTTP/2 refuses below the service, read from what is sent.
//!
//! A malformed request never gets to a service: its stream is reset, or its connection ended (RFC 9113,
//! section 8.1.1), and nobody is told. But the frames that say so pass here on their way to the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::settings::Counters;
use crate::strict::Violation;

/// What was refused on one connection.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: AtomicU64,
    first: OnceLock<Violation>,
}

impl Refusals {
    pub(super) fn note(&self, violation: Violation, counters: &Counters) {
        counters.refused.count(violation);
        self.count.fetch_add(1, Ordering::Relaxed);
        // Only the first is told of.
        let _ = self.first.set(violation);
    }

    /// How many there were, and why the first.
    pub(super) fn get(&self) -> Option<(u64, Violation)> {
        self.first.get().map(|first| (self.count.load(Ordering::Relaxed), *first))
    }
}

/// I/O of an HTTP/2 connection that counts the errors that are sent over it.
#[derive(Debug)]
pub(super) struct Overheard<I> {
    io: I,
    frames: Frames,
    refusals: Arc<Refusals>,
    counters: Arc<Counters>,
}

impl<I> Overheard<I> {
    pub(super) fn new(io: I, counters: Arc<Counters>) -> (Self, Arc<Refusals>) {
        let refusals = Arc::<Refusals>::default();
        (Self { io, frames: Frames::default(), refusals: refusals.clone(), counters }, refusals)
    }

    fn note(&mut self, sent: &[u8]) {
        let Self { frames, refusals, counters, .. } = self;
        frames.follow(sent, |said| match said {
            Said::Refused(violation) => refusals.note(violation, counters),
            Said::Ended => counters.http2_errors.count(),
        });
    }
}

/// What a frame says about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// A request was not passed on.
    Refused(Violation),
    /// The connection ends with an error.
    Ended,
}

const HEAD: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// A `:status` that stands in no table, as a literal to be indexed (RFC 7541, section 6.2.1).
const STATUS: u8 = 0x48;
/// The longest block that is only that: the byte above, the length, and three digits.
const BARE: usize = 5;

/// Follows a stream of frames (RFC 9113, section 4.1) over payloads by arithmetic.
#[derive(Debug, Default)]
struct Frames {
    /// The start of the present frame, up to its error code if it has one.
    start: [u8; HEAD + 8],
    filled: usize,
    /// Bytes of a payload that nobody looks at.
    skip: usize,
}

impl Frames {
    fn follow(&mut self, mut bytes: &[u8], mut say: impl FnMut(Said)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            let wanted = self.wanted();
            let count = (wanted - self.filled).min(bytes.len());
            self.start[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            // A head may turn out to have more behind it that matters.
            if self.filled == self.wanted() {
                self.said().into_iter().for_each(&mut say);
                self.skip = self.length() + HEAD - self.filled;
                self.filled = 0;
            }
        }
    }

    /// How much of the frame has to be seen.
    fn wanted(&self) -> usize {
        if self.filled < HEAD {
            return HEAD;
        }
        let code = match self.start[3] {
            HEADERS => 1,
            RST_STREAM => 4,
            GOAWAY => 8,
            _ => 0,
        };
        HEAD + self.length().min(code)
    }

    const fn length(&self) -> usize {
        let [high, middle, low, ..] = self.start;
        (high as usize) << 16 | (middle as usize) << 8 | low as usize
    }

    fn said(&self) -> Option<Said> {
        let code = self.start[..self.filled].last_chunk().copied().map_or(0, u32::from_be_bytes);
        match (self.start[3], code) {
            // PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR (RFC 9113, section 7): what
            // we end for reasons of our own has others.
            (RST_STREAM, 1 | 3 | 5 | 6) => Some(Said::Refused(Violation::Http2)),
            // A status in full and no field, not even a date: the answer of h2 to a head beyond its limit. A
            // second one on a connection is a reference to the first, and not told from trailers.
            (HEADERS, _) if self.length() <= BARE && self.start[HEAD..self.filled] == [STATUS] => {
                Some(Said::Refused(Violation::HeadTooLarge))
            }
            (GOAWAY, 1..) => Some(Said::Ended),
            _ => None,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Overheard<I> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Overheard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.note(&buf[..count]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut left)) = written {
            for buf in bufs {
                let count = left.min(buf.len());
                self.note(&buf[..count]);
                left -= count;
            }
        }
        written
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    #[inline]
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn errors_are_heard_however_the_bytes_are_cut() {
        let all = [
            frame(4, &[0; 6]),
            frame(RST_STREAM, &[0, 0, 0, 1]),
            // Looks like a reset, but is data.
            frame(0, &frame(RST_STREAM, &[0, 0, 0, 1])),
            frame(HEADERS, b"x"),
            frame(HEADERS, b"\x48\x03431"),
            frame(HEADERS, b"\x48\x03431\x61"),
            frame(HEADERS, b""),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(4, &[]),
            frame(RST_STREAM, &[0, 0, 0, 3]),
            // Stopping in order, before and after an error with words.
            frame(GOAWAY, &[0, 0, 0, 1, 0, 0, 0, 0]),
            frame(GOAWAY, b"\0\0\0\x01\0\0\0\x0btoo many"),
            frame(RST_STREAM, &[0, 0, 0, 1]),
        ]
        .concat();
        for size in 1..=all.len() {
            let (mut frames, mut heard) = (Frames::default(), Vec::new());
            for piece in all.chunks(size) {
                frames.follow(piece, |said| heard.push(said));
            }
            let malformed = Said::Refused(Violation::Http2);
            let large = Said::Refused(Violation::HeadTooLarge);
            let expected = [malformed, large, malformed, Said::Ended, malformed];
            assert_eq!(heard, expected, "pieces of {size}");
        }
    }
}
