//! Where messages of an old server come from: the answer to a request, or the standing stream of a session.

use std::fmt;

use http::StatusCode;

use crate::body::{Body, BoxFuture};
use crate::mcp::sse::Events;
use crate::mcp_bridge::rpc::Message;
use crate::mcp_bridge::upstream::{Content, Piece, Reply, Stop, next_piece};

#[derive(Default)]
pub(super) enum Source {
    /// Nothing comes from here.
    #[default]
    Nothing,
    /// The server has not answered yet; what it asks meanwhile comes from elsewhere.
    Opening(BoxFuture<Result<Reply, Stop>>),
    /// A reply that has come and was not looked at.
    Opened(Box<Reply>),
    Open(Box<Events<Body>>),
}

/// What comes.
#[derive(Debug)]
pub(super) enum Came {
    Piece(Piece),
    /// The only message.
    Message(Message),
    /// No message, but an answer of this status.
    Refused(Reply),
    /// The end of the stream.
    End,
}

impl Source {
    pub(super) fn opening(reply: impl Future<Output = Result<Reply, Stop>> + Send + 'static) -> Self {
        Self::Opening(Box::pin(reply))
    }

    /// Waits until the server has answered.
    pub(super) async fn opened(&mut self) {
        if let Self::Opening(reply) = self {
            *self = match reply.await {
                Ok(reply) => Self::Opened(Box::new(reply)),
                Err(_) => Self::Nothing,
            };
        }
    }

    /// The next message. Whoever stops waiting for it loses nothing. From nothing, nothing ever comes.
    pub(super) async fn next(&mut self) -> Result<Came, Stop> {
        loop {
            match self {
                Self::Nothing => return std::future::pending().await,
                Self::Open(events) => {
                    let piece = next_piece(events).await;
                    if !matches!(piece, Ok(Some(_))) {
                        *self = Self::Nothing;
                    }
                    return Ok(piece?.map_or(Came::End, Came::Piece));
                }
                Self::Opening(reply) => match reply.await {
                    Ok(reply) => *self = Self::Opened(Box::new(reply)),
                    Err(stop) => {
                        *self = Self::Nothing;
                        return Err(stop);
                    }
                },
                Self::Opened(_) => {
                    let Self::Opened(reply) = std::mem::take(self) else { continue };
                    let Reply { status, headers, content } = *reply;
                    match content {
                        Content::Events(events) => *self = Self::Open(Box::new(events)),
                        Content::Message(message)
                            if status != StatusCode::NOT_FOUND || !is_lost(&message) =>
                        {
                            return Ok(Came::Message(message));
                        }
                        content => return Ok(Came::Refused(Reply { status, headers, content })),
                    }
                }
            }
        }
    }
}

/// Whether a message says that the session is not known, and nothing of a request: it has no id then.
fn is_lost(message: &Message) -> bool {
    matches!(message, Message::Answer(answer) if answer.id.is_null())
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Source(nothing)",
            Self::Opening(_) => "Source(opening)",
            Self::Opened(_) => "Source(opened)",
            Self::Open(_) => "Source(open)",
        })
    }
}
