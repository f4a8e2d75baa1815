//! I/O that stands under hyper on HTTP/1 connections and refuses requests that two parsers could
//! read in two ways.
//!
//! hyper repairs or drops much of that before a layer sees the request: a second equal
//! `Content-Length`, `Content-Length` beside `Transfer-Encoding`, lines that end with a bare LF. A
//! gateway must not: the peer behind it may repair it in another way (request smuggling, RFC 9112,
//! section 11.2). [`Strict`] follows the framing of what comes in ([`Scanner`], pure) and passes a
//! head on only when it is complete and in order. Bytes go straight into hyper's buffer and are
//! looked at there; only the start of a head that a read cuts off is kept aside. What hyper could not
//! parse it would answer by itself, with an empty 400 that nobody counts: that is refused here, too.
//!
//! **A head that is refused** never reaches hyper. In its place hyper gets a stand-in, and the
//! service, which numbers its requests, learns from the [`Link`] that request `n` is a refusal and
//! what to answer; so the answer comes after those to earlier pipelined requests, and hyper closes
//! the connection after it. When nobody holds the `Link`, hyper gets bytes that it refuses itself.
//! **A body that breaks its framing** ends with an I/O error of kind `InvalidData`, which carries
//! the [`Violation`]: the request fails in whoever reads its body.
//!
//! **Tunnels**: after a request with `Upgrade`, or a `CONNECT`, only the response decides whether
//! HTTP follows. What the client sends is held until [`Link::answer`] says so.
//!
//! It does not know deadlines, and does not judge what is well-formed but wrong (the syntax of a
//! host, a path): that is for layers. It stands between the transport (TLS) and hyper, and not on
//! HTTP/2 connections. The `serve` layer does all of that.
//!
//! ```
//! use std::sync::Arc;
//! use portcullis_layers::strict::{Counters, Limits, Strict, Violation};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let (mut client, server) = tokio::io::duplex(1024);
//! let counters = Arc::new(Counters::default());
//! let (mut io, link) = Strict::new(server, Limits::default(), counters.clone());
//! client.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\nHost: a\n\n").await?;
//! let mut seen = [0; 28];
//! io.read_exact(&mut seen).await?;
//! assert_eq!(&seen, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
//! // What follows is a stand-in for the request that was refused.
//! assert!(io.read(&mut [0; 1024]).await? > 0);
//! assert_eq!(link.refusal(1), None);
//! assert_eq!(link.refusal(2), Some(Violation::BareLf));
//! assert_eq!(counters.get(Violation::BareLf), 1);
//! # Ok(()) }
//! ```

mod line;
mod link;
mod scan;
mod violation;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use link::{Link, Phase};
pub use scan::{Limits, Scanned, Scanner, Stop};
pub use violation::{Counters, Violation};

/// hyper takes it for a request; the service knows from the [`Link`] that it is none.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";

/// No parser takes it for a request.
const POISON: &[u8] = b"\0\r\n\r\n";

/// What is read before there is a parser: most heads fit.
const FIRST_READ: usize = 2 * 1024;

/// How much a client may send ahead while the answer to its request for a tunnel is open.
const MAX_AHEAD: usize = 16 * 1024;

/// How much is read and thrown away of what a client still sends when its connection is closed, so
/// that the answer is not lost in the reset that unread bytes cause (RFC 9112, section 9.6). More than
/// most limits of bodies, so that clients hear of a 413; the time for it is limited as well.
const MAX_LINGER: usize = 4 * 1024 * 1024;

/// The I/O of an HTTP/1 connection that passes only unambiguous requests.
#[derive(Debug)]
pub struct Strict<I> {
    io: I,
    link: Arc<Link>,
    counters: Arc<Counters>,
    scanner: Scanner,
    mode: Mode,
    /// Bytes that hyper has not got: `sent..ready` it may have, the rest is the start of a head.
    held: Vec<u8>,
    sent: usize,
    ready: usize,
    eof: bool,
    shut: bool,
    lingered: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Http,
    Undecided,
    Tunnel,
    Refused,
    Broken(Violation),
}

impl<I> Strict<I> {
    /// Puts the scanner over the I/O of a fresh connection.
    pub fn new(io: I, limits: Limits, counters: Arc<Counters>) -> (Self, Arc<Link>) {
        let link = Arc::new(Link::default());
        let strict = Self {
            io,
            link: link.clone(),
            counters,
            scanner: Scanner::new(limits),
            mode: Mode::Http,
            held: Vec::new(),
            sent: 0,
            ready: 0,
            eof: false,
            shut: false,
            lingered: 0,
        };
        (strict, link)
    }

    /// Scans what just came into `buf` after `from`, and leaves in it what hyper may see.
    fn pass(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        let fresh = &buf.filled()[from..];
        if self.held.is_empty() {
            let scanned = self.scanner.scan(fresh);
            if scanned.stop.is_none() {
                self.held.extend_from_slice(&fresh[scanned.good..]);
            }
            buf.set_filled(from + scanned.good);
            self.follow(scanned.stop);
        } else {
            self.held.extend_from_slice(fresh);
            buf.set_filled(from);
            self.scan_held();
        }
        self.note();
    }

    fn scan_held(&mut self) {
        let scanned = self.scanner.scan(&self.held);
        self.sent = 0;
        self.ready = scanned.good;
        if scanned.stop.is_some() {
            self.held.truncate(scanned.good);
        }
        self.follow(scanned.stop);
    }

    fn follow(&mut self, stop: Option<Stop>) {
        match stop {
            Some(Stop::Head(violation)) => self.refuse(violation),
            Some(Stop::Body(violation)) => {
                self.counters.count(violation);
                self.link.break_off(violation);
                self.mode = Mode::Broken(violation);
            }
            None if self.scanner.is_undecided() => {
                self.link.ask_for_tunnel(self.scanner.heads());
                self.mode = Mode::Undecided;
            }
            None => {}
        }
    }

    /// Ends the stream of requests with a refusal, after the bytes in `held` that are in order.
    fn refuse(&mut self, violation: Violation) {
        self.counters.count(violation);
        self.link.refuse(self.scanner.heads() + 1, violation);
        self.mode = Mode::Refused;
        self.held.truncate(self.ready);
        let heard = Arc::strong_count(&self.link) > 1;
        self.held.extend_from_slice(if heard { STAND_IN } else { POISON });
        self.ready = self.held.len();
    }

    /// Gives hyper what it may have, as far as it fits.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let count = (self.ready - self.sent).min(buf.remaining());
        buf.put_slice(&self.held[self.sent..self.sent + count]);
        self.sent += count;
        if self.sent == self.ready {
            if self.ready == self.held.len() {
                self.held = Vec::new();
            } else {
                self.held.drain(..self.ready);
            }
            (self.sent, self.ready) = (0, 0);
            self.note();
        }
    }

    fn note(&self) {
        // An empty line between requests is not yet the start of one.
        let partial = self.mode == Mode::Http && self.held.len() - self.ready > b"\r\n".len();
        self.link.set_read(self.scanner.heads(), partial);
    }

    fn must_linger(&self) -> bool {
        let unread = match self.mode {
            Mode::Refused | Mode::Broken(_) => true,
            // The start of a first head has no answer that could be lost.
            Mode::Http => self.scanner.heads() > 0 && !self.scanner.is_between_requests(),
            Mode::Undecided | Mode::Tunnel => false,
        };
        unread && !self.eof && self.lingered < MAX_LINGER
    }
}

impl<I: AsyncRead + Unpin> Strict<I> {
    /// Ready when the first bytes of the connection are there, or its end. Whoever waits for that before it
    /// makes a parser over this keeps no buffers for a client that has nothing to say yet.
    pub fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; FIRST_READ];
        let mut buf = ReadBuf::new(&mut bytes);
        // An end or an error is found again by the next read.
        if ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)).is_ok() && !buf.filled().is_empty() {
            self.held.extend_from_slice(buf.filled());
            self.scan_held();
            self.note();
        }
        Poll::Ready(())
    }

    /// Reads and forgets. Ready at the end of the stream.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waste = [0; 4096];
        while !self.eof && self.lingered < MAX_LINGER {
            let mut buf = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.lingered += buf.filled().len(),
                _ => self.eof = true,
            }
        }
        Poll::Ready(())
    }

    /// While it is open whether HTTP follows: keeps what comes, and notices when the client leaves.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.held.len() < MAX_AHEAD {
            let from = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            if buf.filled().len() == from {
                self.eof = true;
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(&buf.filled()[from..]);
            buf.set_filled(from);
        }
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.sent < this.ready {
                this.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            match this.mode {
                Mode::Tunnel => return Pin::new(&mut this.io).poll_read(cx, buf),
                Mode::Broken(violation) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
                // Not the end of the stream: hyper would drop the answer that it is writing.
                Mode::Refused => return Poll::Pending,
                Mode::Undecided => match this.link.decision(cx.waker()) {
                    None => return this.poll_ahead(cx, buf),
                    Some(true) => {
                        this.mode = Mode::Tunnel;
                        this.ready = this.held.len();
                    }
                    Some(false) => {
                        this.mode = Mode::Http;
                        this.scanner.resume();
                        this.scan_held();
                        this.note();
                    }
                },
                Mode::Http => {
                    if this.link.is_late() {
                        this.refuse(Violation::Timeout);
                        continue;
                    }
                    let from = buf.filled().len();
                    ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                    if buf.filled().len() == from {
                        this.eof = true;
                        return Poll::Ready(Ok(()));
                    }
                    this.pass(buf, from);
                    if buf.filled().len() > from {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.link.set_writing(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.link.set_writing(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shut {
            this.link.set_closing();
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.shut = true;
        }
        if this.must_linger() {
            ready!(this.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pair() -> (DuplexStream, Strict<DuplexStream>, Arc<Link>) {
        let (client, server) = duplex(64 * 1024);
        let (strict, link) = Strict::new(server, Limits::default(), Arc::default());
        (client, strict, link)
    }

    async fn read(io: &mut Strict<DuplexStream>) -> String {
        let mut bytes = vec![0; 64 * 1024];
        let count = io.read(&mut bytes).await.expect("reads");
        String::from_utf8(bytes[..count].to_vec()).expect("is text")
    }

    #[tokio::test]
    async fn a_head_is_passed_on_when_it_is_complete() {
        let (mut client, mut io, link) = pair();
        client.write_all(b"GET / HTTP/1.1\r\nHo").await.expect("writes");
        let mut bytes = [0; 64];
        assert!(tokio_test::task::spawn(io.read(&mut bytes)).poll().is_pending());
        assert_eq!(link.phase(), (Phase::Head, 0));
        client.write_all(b"st: a\r\n\r\nGET /").await.expect("writes");
        assert_eq!(read(&mut io).await, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(link.phase(), (Phase::Busy, 1));
        link.answered();
        assert_eq!(link.phase(), (Phase::Head, 1));
    }

    #[tokio::test]
    async fn what_came_before_there_was_a_parser_is_read_first() {
        for (first, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", std::str::from_utf8(STAND_IN).expect("text")),
        ] {
            let (mut client, mut io, link) = pair();
            let mut begun = tokio_test::task::spawn(std::future::poll_fn(|cx| io.poll_begun(cx)));
            assert!(begun.poll().is_pending());
            client.write_all(first.as_bytes()).await.expect("writes");
            assert!(begun.is_woken() && begun.poll().is_ready());
            drop(begun);
            assert_eq!(read(&mut io).await, expected);
            assert_eq!(link.refusal(1).is_some(), expected.as_bytes() == STAND_IN);
        }
        let (client, mut io, _link) = pair();
        drop(client);
        std::future::poll_fn(|cx| io.poll_begun(cx)).await;
        assert_eq!(io.read(&mut [0; 1]).await.expect("an end"), 0);
    }

    #[tokio::test]
    async fn a_refused_head_is_replaced_and_nothing_is_read_after_it() {
        let (mut client, mut io, link) = pair();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("writes");
        client.write_all(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n").await.expect("writes");
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("writes");
        assert_eq!(read(&mut io).await, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(read(&mut io).await.as_bytes(), STAND_IN);
        assert_eq!(link.refusal(2), Some(Violation::SpaceBeforeColon));
        let mut bytes = [0; 64];
        assert!(tokio_test::task::spawn(io.read(&mut bytes)).poll().is_pending());
    }

    #[tokio::test]
    async fn without_a_listener_hyper_refuses_by_itself() {
        let (mut client, mut io, link) = pair();
        drop(link);
        client.write_all(b"GET / HTTP/1.1\n\n").await.expect("writes");
        assert_eq!(read(&mut io).await.as_bytes(), POISON);
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error_that_carries_the_violation() {
        let (mut client, mut io, link) = pair();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}5\nhello").as_bytes()).await.expect("writes");
        assert_eq!(read(&mut io).await, format!("{head}5"));
        let error = io.read_u8().await.expect_err("the chunk is broken");
        let violation = error.get_ref().and_then(|source| source.downcast_ref::<Violation>());
        assert_eq!(violation, Some(&Violation::BareLf));
        assert_eq!(link.violation(), Some(Violation::BareLf));
    }

    #[tokio::test]
    async fn what_follows_a_request_for_a_tunnel_waits_for_the_answer() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
        for accepted in [true, false] {
            let (mut client, mut io, link) = pair();
            client.write_all(format!("{head}\0raw").as_bytes()).await.expect("writes");
            assert_eq!(read(&mut io).await, head);
            let mut bytes = [0; 64];
            let mut reading = tokio_test::task::spawn(io.read(&mut bytes));
            assert!(reading.poll().is_pending());
            link.answer(1, accepted);
            assert!(reading.is_woken());
            drop(reading);
            if accepted {
                assert_eq!(read(&mut io).await, "\0raw");
                client.write_all(b"\nmore").await.expect("writes");
                assert_eq!(read(&mut io).await, "\nmore");
            } else {
                assert_eq!(read(&mut io).await.as_bytes(), STAND_IN);
                assert_eq!(link.refusal(2), Some(Violation::RequestLine));
            }
        }
    }

    #[tokio::test]
    async fn closing_waits_for_what_the_client_still_sends() {
        let (mut client, mut io, _link) = pair();
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\nhi")
            .await
            .expect("writes");
        read(&mut io).await;
        let mut closing = tokio_test::task::spawn(io.shutdown());
        assert!(closing.poll().is_pending());
        client.write_all(b"more").await.expect("writes");
        client.shutdown().await.expect("shuts down");
        assert!(closing.poll().is_ready());
    }
}
