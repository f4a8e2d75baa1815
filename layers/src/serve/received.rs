//! The body of a request: bounded in size and patience, its trailers without what layers trust.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Shared;
use crate::body::{Body, BoxError, Request, RequestBodyError};
use crate::context::{Conn, RequestContext};
use crate::deadline::Deadline;

/// Turns what hyper received into the request of the stacks: with the facts of its connection, and a
/// body that costs nothing where there is none.
pub(super) fn receive(request: http::Request<Incoming>, conn: &Arc<Conn>, shared: &Arc<Shared>) -> Request {
    let mut request = request.map(|body| {
        if body.is_end_stream() { Body::empty() } else { Body::new(Received::new(body, shared.clone())) }
    });
    RequestContext::begin(conn, request.extensions_mut());
    request
}

struct Received {
    body: Incoming,
    shared: Arc<Shared>,
    received: u64,
    deadline: Deadline,
    /// Since when the client is being waited for.
    waiting: Option<Instant>,
    /// How long it was waited for since it last made progress, and the bytes since then.
    waited: Duration,
    since: u64,
    ended: bool,
}

impl Received {
    fn new(body: Incoming, shared: Arc<Shared>) -> Self {
        let deadline = shared.ticker.deadline();
        let (waiting, waited) = (None, Duration::ZERO);
        Self { body, shared, received: 0, deadline, waiting, waited, since: 0, ended: false }
    }

    fn fail(&mut self, error: RequestBodyError) -> BoxError {
        self.ended = true;
        self.deadline.disarm();
        match &error {
            RequestBodyError::TooLarge { .. } => self.shared.counters.large_bodies.count(),
            RequestBodyError::Stalled(_) => self.shared.counters.stalled_bodies.count(),
            RequestBodyError::Malformed(_) => {}
        }
        error.into()
    }

    /// The client let us wait. Fails when that was too long for what came meanwhile.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        let Some(patience) = self.shared.settings.body_stall else { return Poll::Pending };
        if self.waiting.is_none() {
            self.waiting = Some(Instant::now());
            self.deadline.arm(patience.saturating_sub(self.waited));
        }
        ready!(self.deadline.poll_passed(cx));
        Poll::Ready(self.fail(RequestBodyError::Stalled(patience)))
    }

    fn note_progress(&mut self, bytes: u64) {
        self.received += bytes;
        self.since += bytes;
        if let Some(since) = self.waiting.take() {
            self.waited += since.elapsed();
            self.deadline.disarm();
        }
        if self.since >= self.shared.settings.body_progress {
            self.since = 0;
            self.waited = Duration::ZERO;
        }
    }

    fn exceeds(&self, more: u64) -> Option<u64> {
        self.shared.settings.body_limit.filter(|limit| self.received.saturating_add(more) > *limit)
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        // Before the first read, so that a client that waits for 100 (Continue) sends nothing.
        if let Some(limit) = this.exceeds(this.body.size_hint().lower()) {
            return Poll::Ready(Some(Err(this.fail(RequestBodyError::TooLarge { limit }))));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => return this.poll_stall(cx).map(|error| Some(Err(error))),
            Poll::Ready(None) => {
                this.ended = true;
                this.deadline.disarm();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                let error = RequestBodyError::Malformed(error.into());
                return Poll::Ready(Some(Err(this.fail(error))));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(limit) = this.exceeds(bytes) {
            return Poll::Ready(Some(Err(this.fail(RequestBodyError::TooLarge { limit }))));
        }
        this.note_progress(bytes);
        Poll::Ready(Some(Ok(match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(clean(trailers, &this.shared)),
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn clean(mut trailers: HeaderMap, shared: &Shared) -> HeaderMap {
    let names = trailers.keys_len();
    crate::trailers::strip(&mut trailers);
    shared.settings.firewall.scrub(&mut trailers);
    for _ in trailers.keys_len()..names {
        shared.counters.dropped_trailers.count();
    }
    trailers
}
