//! Writes of one turn of an HTTP/2 connection, gathered into one.
//!
//! h2 flushes after every frame that carries data: with TLS below, each response would be a record
//! and a system call of its own. Here what it writes stays until the connection has nothing more to
//! say for the moment, and [`Gathered::poll_flush`] sends it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is kept at most: a TLS record.
const LIMIT: usize = 16 * 1024;

/// The I/O that h2 gets. Its `poll_flush` does nothing.
#[derive(Debug)]
pub(super) struct Gather<I>(Arc<Mutex<Held<I>>>);

/// The other handle: sends what was gathered.
#[derive(Debug)]
pub(super) struct Gathered<I>(Arc<Mutex<Held<I>>>);

#[derive(Debug)]
struct Held<I> {
    io: I,
    bytes: Vec<u8>,
    sent: usize,
    unflushed: bool,
}

pub(super) fn gather<I>(io: I) -> (Gather<I>, Gathered<I>) {
    let held = Arc::new(Mutex::new(Held { io, bytes: Vec::new(), sent: 0, unflushed: false }));
    (Gather(held.clone()), Gathered(held))
}

// Both handles are used by the task of the connection only: nobody ever waits here.
fn lock<I>(held: &Mutex<Held<I>>) -> MutexGuard<'_, Held<I>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<I: AsyncWrite + Unpin> Gathered<I> {
    /// Sends what was gathered.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        if !held.unflushed {
            return Poll::Ready(Ok(()));
        }
        held.poll_flush(cx)
    }
}

impl<I: AsyncWrite + Unpin> Held<I> {
    /// Hands everything to the I/O below.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.bytes[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        // An idle connection keeps no buffer.
        (self.bytes, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Whether bytes of this count should go past the buffer, once it is empty.
    fn poll_passes(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<io::Result<bool>> {
        self.unflushed = true;
        if self.bytes.len() + count > LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(count > LIMIT))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gather<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gather<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let held = &mut *lock(&self.0);
        if ready!(held.poll_passes(cx, buf.len()))? {
            return Pin::new(&mut held.io).poll_write(cx, buf);
        }
        held.bytes.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let held = &mut *lock(&self.0);
        let count = bufs.iter().map(|buf| buf.len()).sum();
        if ready!(held.poll_passes(cx, count))? {
            return Pin::new(&mut held.io).poll_write_vectored(cx, bufs);
        }
        held.bytes.reserve(count);
        bufs.iter().for_each(|buf| held.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = &mut *lock(&self.0);
        ready!(held.poll_flush(cx))?;
        Pin::new(&mut held.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn writes_wait_for_the_flush_and_keep_their_order() {
        let (mut client, server) = duplex(1024);
        let (mut io, gathered) = gather(server);
        io.write_all(b"one ").await.expect("writes");
        io.flush().await.expect("does nothing");
        let bufs = [IoSlice::new(b"two "), IoSlice::new(b"three")];
        assert_eq!(io.write_vectored(&bufs).await.expect("writes"), 9);
        let mut bytes = [0; 64];
        assert!(tokio_test::task::spawn(client.read(&mut bytes)).poll().is_pending());

        std::future::poll_fn(|cx| gathered.poll_flush(cx)).await.expect("flushes");
        let count = client.read(&mut bytes).await.expect("reads");
        assert_eq!(&bytes[..count], b"one two three");
    }

    #[tokio::test]
    async fn what_is_large_passes_after_what_was_there_before() {
        let (mut client, server) = duplex(4 * LIMIT);
        let (mut io, _gathered) = gather(server);
        io.write_all(b"small").await.expect("writes");
        io.write_all(&[b'x'; LIMIT + 1]).await.expect("writes");
        let mut bytes = vec![0; 5 + LIMIT + 1];
        client.read_exact(&mut bytes).await.expect("reads");
        assert!(bytes.starts_with(b"smallx") && bytes.ends_with(b"x"));
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_stops_the_writer() {
        let (_client, server) = duplex(16);
        let (mut io, gathered) = gather(server);
        io.write_all(&[b'x'; LIMIT]).await.expect("is kept");
        let more = [b'x'; LIMIT];
        assert!(tokio_test::task::spawn(io.write(&more)).poll().is_pending());
        let mut flush = tokio_test::task::spawn(std::future::poll_fn(|cx| gathered.poll_flush(cx)));
        assert!(flush.poll().is_pending());
    }

    #[tokio::test]
    async fn shutting_down_sends_the_rest() {
        let (mut client, server) = duplex(1024);
        let (mut io, _gathered) = gather(server);
        io.write_all(b"goodbye").await.expect("writes");
        io.shutdown().await.expect("shuts down");
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "goodbye");
    }
}
