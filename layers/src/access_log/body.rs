//! The response body as the access log watches it: the record is emitted when it has ended.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::{HeaderMap, Method, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::entry::Entry;
use super::sink::Sink;

pin_project! {
    /// Passes frames on and counts their bytes.
    ///
    /// The record is emitted when the body has ended or failed, or when this is dropped: then the
    /// client is gone, unless all bytes that were promised had been handed over.
    pub struct LogBody<B, K>
    where
        K: Sink,
    {
        #[pin]
        inner: B,
        entry: Option<Entry<K>>,
        // How many bytes make the body complete, where that is known in advance.
        expected: Option<u64>,
    }
}

impl<B: Body, K: Sink> LogBody<B, K> {
    /// Watches a body, for the answer to `entry` with this head.
    pub(super) fn watch(inner: B, mut entry: Entry<K>, status: StatusCode, headers: &HeaderMap) -> Self {
        // A server drops such bodies unread: RFC 9110, section 6.4.1.
        let bodiless = entry.method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let expected = inner.size_hint().exact().or_else(|| content_length(headers));
        entry.outcome.complete = bodiless || expected == Some(0) || inner.is_end_stream();
        Self { inner, entry: Some(entry), expected }
    }
}

impl<B, K: Sink> LogBody<B, K> {
    /// Passes a body on unwatched: the record waits for the end of a tunnel.
    pub(super) const fn pass(inner: B) -> Self {
        Self { inner, entry: None, expected: None }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<B, K> Body for LogBody<B, K>
where
    B: Body,
    B::Error: fmt::Display,
    K: Sink,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let Some(entry) = this.entry.as_mut() else { return Poll::Ready(frame) };
        let outcome = &mut entry.outcome;
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    outcome.sent += data.remaining() as u64;
                }
                // A server may drop the body now without asking for an end that it knows of.
                outcome.complete |= *this.expected == Some(outcome.sent) || this.inner.is_end_stream();
            }
            Some(Err(error)) => {
                outcome.body_failed = true;
                outcome.cause = Some(error.to_string());
                *this.entry = None;
            }
            None => {
                outcome.complete = true;
                *this.entry = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B, K: Sink> fmt::Debug for LogBody<B, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBody").field("ended", &self.entry.is_none()).finish_non_exhaustive()
    }
}
