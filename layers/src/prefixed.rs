//! I/O that replays bytes already read.
//!
//! A layer that looks at the start of a stream reads more than it consumes; what is left over goes
//! back in front of the stream. Writes pass through untouched, and once the replayed bytes are
//! consumed, reads do, too: nothing is copied and no memory is held.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that starts with bytes that were read from it before.
#[derive(Debug)]
pub struct Prefixed<I> {
    prefix: Bytes,
    io: I,
}

impl<I> Prefixed<I> {
    /// Puts `prefix` in front of what `io` still has to say.
    pub const fn new(prefix: Bytes, io: I) -> Self {
        Self { prefix, io }
    }

    /// A stream with nothing to replay.
    pub const fn empty(io: I) -> Self {
        Self::new(Bytes::new(), io)
    }

    /// What has not been replayed yet.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The stream below.
    pub const fn get_ref(&self) -> &I {
        &self.io
    }

    /// The bytes that have not been replayed yet, and the stream below.
    pub fn into_parts(self) -> (Bytes, I) {
        (self.prefix, self.io)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..count]);
        if count == self.prefix.len() {
            // Not `advance`: an empty slice would still hold the buffer that it came from.
            self.prefix = Bytes::new();
        } else {
            self.prefix.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn replayed_bytes_come_first_whatever_the_size_of_reads() {
        for size in 1..8 {
            let io = tokio_test::io::Builder::new().read(b" world").build();
            let mut io = Prefixed::new(Bytes::from_static(b"hello"), io);
            let mut text = Vec::new();
            let mut chunk = vec![0; size];
            loop {
                match io.read(&mut chunk).await.expect("reads") {
                    0 => break,
                    count => text.extend_from_slice(&chunk[..count]),
                }
            }
            assert_eq!(text, b"hello world", "reads of {size}");
            assert!(io.prefix().is_empty());
        }
    }

    #[tokio::test]
    async fn writes_pass_before_the_prefix_is_consumed() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut io = Prefixed::new(Bytes::from_static(b"in"), near);
        io.write_all(b"out").await.expect("writes");
        io.shutdown().await.expect("shuts down");
        let mut text = String::new();
        far.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "out");
        assert_eq!(io.into_parts().0, "in");
    }

    #[tokio::test]
    async fn an_empty_read_buffer_consumes_nothing() {
        let mut io = Prefixed::new(Bytes::from_static(b"x"), tokio::io::empty());
        assert_eq!(io.read(&mut []).await.expect("reads"), 0);
        assert_eq!(io.prefix(), b"x");
    }
}
