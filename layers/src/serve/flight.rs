//! A bound on what the responses of one HTTP/2 connection keep in memory.
//!
//! HTTP/2 buffers per stream, so that a client with a hundred streams that it does not read costs a
//! hundred buffers. Here every piece that hyper is given is charged to its stream and to the
//! connection, and released as its bytes are written. When the connection's account is full, a
//! stream gets its next piece only when its last one is gone; so none is ever stuck because others
//! are, and the bound is the account and one piece for each stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::body::BoxError;

/// What a stream is given at once: a frame of the default size.
const PIECE: usize = 16 * 1024;

/// The account of a connection.
#[derive(Debug)]
pub(super) struct Flight {
    used: AtomicUsize,
    limit: usize,
}

impl Flight {
    pub(super) const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }
}

/// The account of a stream.
#[derive(Debug)]
pub(super) struct Stream {
    waiting: AtomicUsize,
    sent: AtomicU64,
    empty: AtomicWaker,
    flight: Arc<Flight>,
}

impl Stream {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        Self { waiting: AtomicUsize::new(0), sent: AtomicU64::new(0), empty: AtomicWaker::new(), flight }
    }

    /// Whether the client could take more, and how much it has taken.
    pub(super) fn progress(&self) -> (bool, u64) {
        (self.waiting.load(Ordering::Acquire) > 0, self.sent.load(Ordering::Relaxed))
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let full = || {
            self.waiting.load(Ordering::Acquire) > 0
                && self.flight.used.load(Ordering::Relaxed) >= self.flight.limit
        };
        if !full() {
            return Poll::Ready(());
        }
        self.empty.register(cx.waker());
        if full() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn charge(self: &Arc<Self>, bytes: Bytes) -> Piece {
        self.waiting.fetch_add(bytes.len(), Ordering::AcqRel);
        self.flight.used.fetch_add(bytes.len(), Ordering::Relaxed);
        Piece { bytes, stream: self.clone() }
    }

    fn release(&self, count: usize) {
        self.flight.used.fetch_sub(count, Ordering::Relaxed);
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        if self.waiting.fetch_sub(count, Ordering::AcqRel) == count {
            self.empty.wake();
        }
    }
}

/// Bytes that are charged to a stream until they are written or given up.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    stream: Arc<Stream>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if count > 0 {
            self.stream.release(count);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.stream.release(self.bytes.len());
        }
    }
}

pin_project! {
    /// A response body that gives no more than its stream may hold.
    pub(super) struct Metered<B> {
        #[pin]
        body: Option<B>,
        rest: Bytes,
        stream: Arc<Stream>,
    }
}

impl<B> Metered<B> {
    pub(super) const fn new(body: B, stream: Arc<Stream>) -> Self {
        Self { body: Some(body), rest: Bytes::new(), stream }
    }

    pub(super) const fn full(bytes: Bytes, stream: Arc<Stream>) -> Self {
        Self { body: None, rest: bytes, stream }
    }
}

impl<B> http_body::Body for Metered<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let mut this = self.project();
        ready!(this.stream.poll_room(cx));
        if this.rest.is_empty() {
            let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
            match ready!(body.poll_frame(cx)).transpose().map_err(Into::into)?.map(Frame::into_data) {
                None => return Poll::Ready(None),
                Some(Ok(data)) => *this.rest = data,
                Some(Err(frame)) => {
                    return Poll::Ready(frame.into_trailers().ok().map(|fields| Ok(Frame::trailers(fields))));
                }
            }
        }
        let size = this.rest.len().min(PIECE);
        let piece = this.rest.split_to(size);
        Poll::Ready(Some(Ok(Frame::data(this.stream.charge(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let Some(body) = &self.body else { return SizeHint::with_exact(rest) };
        let inner = body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn body(bytes: usize, flight: &Arc<Flight>) -> Metered<Full<Bytes>> {
        let stream = Arc::new(Stream::new(flight.clone()));
        Metered::new(Full::new(Bytes::from(vec![0; bytes])), stream)
    }

    fn next(body: &mut Metered<Full<Bytes>>) -> Option<Piece> {
        let mut frame = tokio_test::task::spawn(body.frame());
        match frame.poll() {
            Poll::Ready(Some(frame)) => frame.expect("no error").into_data().ok(),
            _ => None,
        }
    }

    #[test]
    fn a_full_account_lets_each_stream_have_one_piece() {
        let flight = Arc::new(Flight::new(2 * PIECE));
        let (mut first, mut second) = (body(4 * PIECE, &flight), body(4 * PIECE, &flight));
        let mut held: Vec<_> = std::iter::from_fn(|| next(&mut first)).collect();
        assert_eq!(held.len(), 2);
        let only = next(&mut second).expect("a stream without a piece gets one");
        assert!(next(&mut second).is_none());
        held.clear();
        drop(only);
        assert_eq!(flight.used.load(Ordering::Relaxed), 0);
        assert!(next(&mut first).is_some() && next(&mut second).is_some());
    }

    #[test]
    fn a_stream_that_waits_is_woken_when_its_bytes_are_written() {
        let flight = Arc::new(Flight::new(1));
        let mut body = body(2 * PIECE, &flight);
        let mut piece = next(&mut body).expect("the first piece is free");
        let mut frame = tokio_test::task::spawn(body.frame());
        assert!(frame.poll().is_pending());
        piece.advance(PIECE - 1);
        assert!(!frame.is_woken());
        piece.advance(1);
        assert!(frame.is_woken());
    }
}
