//! An event stream to a client that is written by a future: it runs while the client reads and ends with it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use http_body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use super::protocol::header;
use crate::body::{Body, BoxError, BoxFuture, Response};
use crate::mcp::sse::{Outgoing, heartbeat};

/// Events that wait for the client; then the upstream waits, too.
const WAITING: usize = 4;

/// Where a stream is written to.
#[derive(Debug)]
pub(super) struct Out(mpsc::Sender<Bytes>);

impl Out {
    /// Writes a message. A client that has gone is no error: who writes goes with it.
    pub(super) async fn send(&self, message: &Value) {
        let data = message.to_string();
        let event = Outgoing { data: Some(data.as_bytes()), ..Outgoing::default() };
        let _gone = self.0.send(event.to_bytes()).await;
    }

    /// Begins the stream, with an event that means nothing: the head alone would wait for the first one.
    pub(super) async fn begin(&self) {
        let _gone = self.0.send(heartbeat()).await;
    }
}

struct Driven {
    work: Option<BoxFuture<()>>,
    written: mpsc::Receiver<Bytes>,
    keep_alive: Duration,
    quiet: Pin<Box<Sleep>>,
}

/// The response with such a stream.
pub(super) fn stream<F>(keep_alive: Duration, work: impl FnOnce(Out) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, written) = mpsc::channel(WAITING);
    let work: BoxFuture<()> = Box::pin(work(Out(sender)));
    let body = Driven { work: Some(work), written, keep_alive, quiet: Box::pin(sleep(keep_alive)) };
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

impl Driven {
    fn frame(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = Instant::now() + self.keep_alive;
        self.quiet.as_mut().reset(next);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Poll::Ready(Some(bytes)) = self.written.poll_recv(cx) {
                return self.frame(bytes);
            }
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            if work.as_mut().poll(cx).is_ready() {
                self.work = None;
                continue;
            }
            if let Poll::Ready(Some(bytes)) = self.written.poll_recv(cx) {
                return self.frame(bytes);
            }
            if self.quiet.as_mut().poll(cx).is_ready() {
                return self.frame(heartbeat());
            }
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_stream_says_what_its_future_writes_and_ends_with_it() {
        let response = stream(SECOND, |out| async move {
            for number in 0..10 {
                out.send(&json!(number)).await;
            }
        });
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let expected: String = (0..10).map(|number| format!("data: {number}\n\n")).collect();
        assert_eq!(body, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_lives() {
        let response = stream(SECOND, |out| async move {
            sleep(SECOND * 5 / 2).await;
            out.send(&json!("late")).await;
        });
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, ":\n\n:\n\ndata: \"late\"\n\n");
    }

    #[tokio::test]
    async fn the_future_goes_with_its_client() {
        struct Gone(Arc<AtomicBool>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let gone = Arc::new(AtomicBool::new(false));
        let guard = Gone(Arc::clone(&gone));
        let response = stream(SECOND, |out| async move {
            let _guard = guard;
            out.begin().await;
            std::future::pending::<()>().await;
        });
        let mut body = response.into_body();
        assert!(body.frame().await.is_some());
        assert!(!gone.load(Ordering::Relaxed));
        drop(body);
        assert!(gone.load(Ordering::Relaxed));
    }
}
