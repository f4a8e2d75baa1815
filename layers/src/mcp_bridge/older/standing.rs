//! The standing stream of an old client, fed by `subscriptions/listen`.

use std::sync::Arc;

use http::HeaderValue;
use http::StatusCode;
use http::header::ALLOW;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::memory::Remembered;
use super::session::Session;
use super::translate;
use crate::body::{Body, BoxError, Response};
use crate::mcp::sse::Events;
use crate::mcp_bridge::Caller;
use crate::mcp_bridge::headers;
use crate::mcp_bridge::protocol::code;
use crate::mcp_bridge::rpc::{Failure, Message, Object, Request};
use crate::mcp_bridge::slots::Slot;
use crate::mcp_bridge::stream::{Out, stream};
use crate::mcp_bridge::upstream::{Content, Stop, next_piece};

pub(super) struct Standing {
    pub(super) caller: Caller,
    pub(super) session: Arc<Session>,
    pub(super) remembered: Arc<Remembered>,
    /// Of the server, as it was discovered.
    pub(super) capabilities: Option<Value>,
    pub(super) _slot: Slot,
}

/// There is no such stream.
pub(super) fn none() -> Response {
    let failure = Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "mcp_no_standing_stream",
        code::METHOD_NOT_FOUND,
        "the server has nothing to tell but answers",
    );
    let mut response = failure.response(&Value::Null);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
    response
}

impl Standing {
    pub(super) async fn response(self) -> Result<Response, BoxError> {
        let taken = self.remembered.stand();
        let mut changes = self.remembered.changes();
        changes.mark_unchanged();
        // Asked before the head goes out: whether there is such a stream is the head's to say.
        let first = match self.listen().await {
            Ok(first) => first,
            Err(Stop::Failure(_)) => return Ok(none()),
            Err(stop) => return stop.response(&Value::Null),
        };
        let keep_alive = self.caller.settings.keep_alive;
        Ok(stream(keep_alive, |out| async move {
            out.begin().await;
            self.tell(first, changes, taken, &out).await;
        }))
    }

    /// The server's stream; none as long as there is nothing that it could tell.
    async fn listen(&self) -> Result<Option<Events<Body>>, Stop> {
        let resources = self.remembered.resources();
        let Some(filter) = translate::filter(self.capabilities.as_ref(), &resources) else { return Ok(None) };
        let Value::Object(params) = json!({ "notifications": filter }) else { return Ok(None) };
        let request = Request { id: Value::Null, method: "subscriptions/listen".into(), params };
        let request = translate::request(&request, &self.session, None, false);
        let reply =
            self.caller.upstream.post(&request.to_value(), headers::of_request(&request, &[])).await?;
        match reply.content {
            Content::Events(events) => Ok(Some(events)),
            _ => Err(reply.stop()),
        }
    }

    async fn tell(
        &self,
        mut events: Option<Events<Body>>,
        mut changes: watch::Receiver<u64>,
        mut taken: watch::Receiver<u64>,
        out: &Out,
    ) {
        loop {
            let next = async {
                match &mut events {
                    Some(events) => next_piece(events).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                piece = next => match piece {
                    Ok(Some(piece)) => match piece.message {
                        Some(Message::Notification(note)) => {
                            if let Some(note) = translate::standing_notification(note) {
                                out.send(&note).await;
                            }
                        }
                        // The server ends the subscription; the client may ask for the stream again.
                        Some(Message::Answer(_)) => return,
                        Some(Message::Request(_)) | None => {}
                    },
                    Ok(None) | Err(_) => return,
                },
                // Another filter means another stream; the old one goes when the new one is there.
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    match self.listen().await {
                        Ok(next) => events = next,
                        Err(_) => return,
                    }
                }
                _ = taken.changed() => return,
            }
        }
    }
}

/// Params of requests that only have a URI.
pub(super) fn uri_of(params: &Object) -> Option<&str> {
    params.get("uri").and_then(Value::as_str)
}
