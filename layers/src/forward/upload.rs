//! The body of a request on its way up. Frames flow as they are asked for; nothing is gathered.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Body, BoxError};
use crate::context::Facts;
use crate::deadline::{Deadline, Ticker};

use super::ForwardError;

/// A request as it goes to an upstream.
pub(super) type Outgoing = http::Request<RequestBody>;

/// What becomes of a request's body, seen from the exchange: the connection holds the body itself.
#[derive(Debug, Default)]
pub(super) struct Upload {
    moved: AtomicU64,
    waiting: AtomicBool,
    done: AtomicBool,
    stopped: AtomicBool,
    driver: AtomicWaker,
    failure: Mutex<Option<ForwardError>>,
}

impl Upload {
    /// Bytes that went up so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether the upstream is ready for more and the client has not sent it.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether the whole body went up.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Ends the body with an error: nobody wants the rest of it.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.driver.wake();
    }

    /// Why the client's body failed, if it did. The first caller gets it.
    pub(super) fn take_failure(&self) -> Option<ForwardError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: ForwardError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// The error that ends a request's body towards the upstream; hyper then drops the connection
/// (HTTP/2: resets the stream), so that half a request is never taken for a whole one.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the request body was given up")]
struct Aborted;

/// The body of a request on its way to the upstream.
pub(super) enum RequestBody {
    /// No body; may be sent again.
    Empty,
    Upload(Box<Uploading>),
}

pub(super) struct Uploading {
    body: Body,
    upload: Arc<Upload>,
    facts: Option<Arc<Facts>>,
    idle: Option<Duration>,
    deadline: Deadline,
}

impl RequestBody {
    pub(super) fn new(
        body: Body,
        facts: Option<&Arc<Facts>>,
        idle: Option<Duration>,
        ticker: &Ticker,
    ) -> (Self, Option<Arc<Upload>>) {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let upload = Arc::new(Upload::default());
        let uploading = Uploading {
            body,
            upload: Arc::clone(&upload),
            facts: facts.cloned(),
            idle,
            deadline: ticker.deadline(),
        };
        (Self::Upload(Box::new(uploading)), Some(upload))
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Uploading {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(polled) = self.poll_client(cx) else { return Poll::Ready(Some(Err(Aborted.into()))) };
        match polled {
            Poll::Pending => {
                self.upload.waiting.store(true, Ordering::Relaxed);
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.upload.waiting.store(false, Ordering::Relaxed);
                self.upload.done.store(true, Ordering::Release);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                let count = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.upload.moved.fetch_add(count, Ordering::Relaxed);
                self.upload.waiting.store(false, Ordering::Relaxed);
                if let Some(facts) = &self.facts {
                    facts.received.fetch_add(count, Ordering::Relaxed);
                }
                self.deadline.disarm();
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.upload.done.store(true, Ordering::Release);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(source))) => {
                self.upload.fail(ForwardError::RequestBody { source });
                Poll::Ready(Some(Err(Aborted.into())))
            }
        }
    }

    /// `None` when the body is to be given up.
    #[expect(clippy::type_complexity, reason = "the type of poll_frame")]
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Option<Poll<Option<Result<Frame<Bytes>, BoxError>>>> {
        self.upload.driver.register(cx.waker());
        if self.upload.stopped.load(Ordering::Acquire) {
            return None;
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(idle) = self.idle
        {
            if !self.deadline.is_armed() {
                self.deadline.arm(idle);
            }
            if self.deadline.poll_passed(cx).is_ready() {
                self.upload.fail(ForwardError::RequestStalled { limit: idle });
                return None;
            }
        }
        Some(polled)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload(uploading) => uploading.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(uploading) => uploading.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(uploading) => uploading.body.size_hint(),
        }
    }
}
