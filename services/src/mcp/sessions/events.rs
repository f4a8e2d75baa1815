//! The events of one HTTP answer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::answer::Answer;

/// Events that wait for a client that reads more slowly than they come.
const WAITING: usize = 32;

/// Where events for a client go in.
pub(super) type Sender = mpsc::Sender<ServerSseMessage>;

/// The events of one HTTP answer: some that are there already, then those that come.
#[derive(Debug)]
pub(super) struct Events {
    ready: VecDeque<ServerSseMessage>,
    coming: Option<mpsc::Receiver<ServerSseMessage>>,
    grace: Option<Grace>,
}

/// When the client gets an id to come back with.
#[derive(Debug)]
struct Grace {
    sleep: Pin<Box<Sleep>>,
    answer: Arc<Answer>,
    retry: Duration,
}

impl Events {
    /// Some events, and no more.
    pub(super) fn only(ready: impl IntoIterator<Item = ServerSseMessage>) -> Self {
        Self { ready: ready.into_iter().collect(), coming: None, grace: None }
    }

    /// Some events, and then those that are sent.
    pub(super) fn open(ready: impl IntoIterator<Item = ServerSseMessage>) -> (Sender, Self) {
        let (sender, coming) = mpsc::channel(WAITING);
        (sender, Self { coming: Some(coming), ..Self::only(ready) })
    }

    /// Gives the client an id to come back with, unless the answer is there after `grace`.
    pub(super) fn primed_after(mut self, grace: Duration, answer: Arc<Answer>, retry: Duration) -> Self {
        self.grace = Some(Grace { sleep: Box::pin(tokio::time::sleep(grace)), answer, retry });
        self
    }
}

impl Stream for Events {
    type Item = ServerSseMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        if let Some(event) = self.ready.pop_front() {
            return Poll::Ready(Some(event));
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(None) };
        if let Poll::Ready(event) = coming.poll_recv(cx) {
            // An event has an id itself, and the last one needs none.
            self.grace = None;
            return Poll::Ready(event);
        }
        let Some(grace) = &mut self.grace else { return Poll::Pending };
        if grace.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let event = grace.answer.prime(grace.retry);
        self.grace = None;
        // What has come just now has woken us: the task is polled again for it.
        event.map_or(Poll::Pending, |event| Poll::Ready(Some(event)))
    }
}
