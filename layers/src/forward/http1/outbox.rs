//! What is on its way to the upstream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::head::{self, Framing};

/// A piece of a body that is smaller is copied behind what goes before it: one buffer is cheaper to
/// write than several.
const COPIED: usize = 2 * 1024;

/// A buffer that was larger than this is not kept for the next request.
const KEPT: usize = 4 * 1024;

/// Bytes that wait for the upstream to take them: one piece of a body at most, and what frames it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    before: Vec<u8>,
    sent: usize,
    data: Bytes,
    after: &'static [u8],
    unflushed: bool,
}

impl Outbox {
    /// Room for a head, or for the end of a body.
    pub(super) const fn text(&mut self) -> &mut Vec<u8> {
        &mut self.before
    }

    /// Adds a piece of a body. There must be [room](Self::has_room).
    pub(super) fn push(&mut self, data: Bytes, framing: Framing) {
        let after: &[u8] = if framing == Framing::Chunked {
            self.push_size(data.len());
            b"\r\n"
        } else {
            b""
        };
        if data.len() <= COPIED {
            self.before.extend_from_slice(&data);
            self.before.extend_from_slice(after);
        } else {
            (self.data, self.after) = (data, after);
        }
    }

    fn push_size(&mut self, size: usize) {
        use std::io::Write as _;
        // Writing to a Vec does not fail.
        let _ = write!(self.before, "{size:x}\r\n");
    }

    /// Adds the end of a chunked body.
    pub(super) fn push_end(&mut self, trailers: Option<&HeaderMap>) {
        self.before.extend_from_slice(b"0\r\n");
        match trailers {
            Some(trailers) => head::write_fields(&mut self.before, trailers),
            None => self.before.extend_from_slice(b"\r\n"),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() && self.after.is_empty() && self.before.len() < KEPT
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.before.len() && self.data.is_empty() && self.after.is_empty() && !self.unflushed
    }

    /// Ready when everything has gone.
    pub(super) fn poll_drain<I: AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let before = &self.before[self.sent..];
            let count = if self.data.is_empty() && self.after.is_empty() {
                if before.is_empty() {
                    break;
                }
                ready!(Pin::new(&mut *io).poll_write(cx, before))?
            } else {
                let pieces = [IoSlice::new(before), IoSlice::new(&self.data), IoSlice::new(self.after)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &pieces))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        self.before.clear();
        self.sent = 0;
        // An empty piece still holds the memory that it was cut from.
        self.data = Bytes::new();
        if self.before.capacity() > KEPT {
            self.before = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.unflushed = true;
        let step = count.min(self.before.len() - self.sent);
        self.sent += step;
        count -= step;
        let step = count.min(self.data.len());
        self.data.advance(step);
        count -= step;
        self.after = &self.after[count..];
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    async fn sent(outbox: &mut Outbox, room: usize) -> String {
        let (mut io, mut upstream) = duplex(room);
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            upstream.read_to_string(&mut text).await.expect("text");
            text
        });
        poll_fn(|cx| outbox.poll_drain(&mut io, cx)).await.expect("open");
        drop(io);
        reader.await.expect("no panic")
    }

    #[tokio::test]
    async fn pieces_are_framed_and_keep_their_order_however_little_is_taken_at_once() {
        for (size, room) in [(3, 1), (3, 1024), (COPIED + 1, 7), (COPIED + 1, 1 << 20)] {
            let data = "x".repeat(size);
            let mut outbox = Outbox::default();
            outbox.text().extend_from_slice(b"head\r\n\r\n");
            outbox.push(Bytes::from(data.clone()), Framing::Chunked);
            assert_eq!(sent(&mut outbox, room).await, format!("head\r\n\r\n{size:x}\r\n{data}\r\n"));
            assert!(outbox.is_empty());
            outbox.push(Bytes::from(data.clone()), Framing::Length(9));
            assert_eq!(sent(&mut outbox, room).await, data);
            outbox.push_end(None);
            assert_eq!(sent(&mut outbox, room).await, "0\r\n\r\n");
        }
    }

    #[tokio::test]
    async fn trailers_stand_behind_the_last_chunk() {
        let mut outbox = Outbox::default();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("42"));
        outbox.push_end(Some(&trailers));
        assert_eq!(sent(&mut outbox, 64).await, "0\r\nx-sum: 42\r\n\r\n");
    }
}
