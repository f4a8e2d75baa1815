//! The body of a response on its way to the client. Frames flow as they are asked for; nothing is gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::body::BoxError;
use crate::deadline::Deadline;
use crate::trailers;

use super::ForwardError;
use super::balance::InFlight;
use super::lease::{Download, Lease};
use super::live::Registration;
use super::upload::Upload;

/// The body of a response on its way to the client. When it has ended well its connection goes
/// back to the pool; when it is dropped before, the connection is closed.
pub(super) struct ResponseBody {
    body: Download,
    /// `None` when nothing more comes.
    lease: Option<Lease>,
    /// An error that is told with the next poll.
    truncated: Option<BoxError>,
    upload: Option<Arc<Upload>>,
    idle: Option<Duration>,
    deadline: Deadline,
    stream: Option<Box<Registration>>,
    /// Until the last byte the upstream is at work.
    in_flight: Option<InFlight>,
}

impl ResponseBody {
    /// `stream` is given for event streams: they have no idle limit, and end when they are closed.
    pub(super) const fn new(
        body: Download,
        lease: Lease,
        upload: Option<Arc<Upload>>,
        idle: Option<Duration>,
        deadline: Deadline,
        stream: Option<Box<Registration>>,
    ) -> Self {
        Self { body, lease: Some(lease), truncated: None, upload, idle, deadline, stream, in_flight: None }
    }

    /// Counts the exchange until this ends.
    pub(super) fn counted(mut self, in_flight: Option<InFlight>) -> Self {
        self.in_flight = in_flight;
        self
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish(self.upload.as_deref());
        }
        self.stream = None;
        self.in_flight = None;
        self.deadline.disarm();
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BoxError>> {
        let (Some(limit), None) = (self.idle, &self.stream) else { return Poll::Pending };
        if !self.deadline.is_armed() {
            self.deadline.arm(limit);
        }
        self.deadline.poll_passed(cx).map(|()| Err(ForwardError::ResponseStalled { limit }.into()))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(stream) = &mut this.stream
            && stream.poll_closed(cx).is_ready()
        {
            // An end, not an error: the client of an event stream comes back and is checked anew.
            this.lease = None;
            this.stream = None;
        }
        let Some(lease) = &mut this.lease else { return Poll::Ready(None) };
        if let Some(source) = this.truncated.take() {
            this.lease = None;
            // The answer may have broken off because the client broke off what it sent.
            let cause = this.upload.as_deref().and_then(Upload::take_failure);
            return Poll::Ready(Some(Err(cause.unwrap_or(ForwardError::Truncated { source }).into())));
        }
        match this.body.poll_frame(lease, cx) {
            Poll::Pending => this.poll_idle(cx).map(Some),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.deadline.disarm();
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.end();
                }
                Poll::Ready(Some(Ok(clean(frame))))
            }
            Poll::Ready(Some(Err(source))) => {
                // Later, so that the server has sent on what came before: an error ends its connection.
                this.truncated = Some(source);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// No field that the client could take for one of the headers that we answer for.
fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers::strip(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload
            && !upload.is_done()
        {
            upload.stop();
        }
    }
}
