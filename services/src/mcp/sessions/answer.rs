//! The stream of events that answers a request of a client.
//!
//! An answer that comes at once is sent as it is. Else the client gets an id to come back with, and from then on each
//! event stands in the store before it is sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::{ProgressToken, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::time::timeout;

use super::events::{Events, Sender};
use super::id::{AnswerName, EventId};
use super::message::lost;
use super::notice::What;
use super::session::Session;
use crate::store;

/// How long a message waits for a client that does not read. Then its stream ends, and the client comes back for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request that is under way at this node.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) name: AnswerName,
    pub(super) ask: RequestId,
    pub(super) token: Option<ProgressToken>,
    /// The number of the last event. Held while one is written and sent, so that they keep their order.
    number: tokio::sync::Mutex<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Sender>,
    /// Does the client have an id to come back with?
    primed: bool,
    over: bool,
    /// Has the client come back at another node?
    followed: bool,
}

impl Answer {
    /// A stream that goes to this client.
    pub(super) fn new(name: AnswerName, ask: RequestId, token: Option<ProgressToken>, open: Sender) -> Self {
        let state = State { open: Some(open), ..State::default() };
        Self { name, ask, token, number: tokio::sync::Mutex::new(0), state: Mutex::new(state) }
    }

    /// Gives the client an id to come back with; not when it needs none any more.
    pub(super) fn prime(&self, retry: Duration) -> Option<ServerSseMessage> {
        let mut state = self.state();
        if state.over || state.primed {
            return None;
        }
        state.primed = true;
        Some(ServerSseMessage::priming(EventId::Answer(self.name.clone(), 0).to_string(), retry))
    }

    /// Sends a message. The stream ends with the `last` one.
    pub(super) async fn send(&self, session: &Session, message: ServerJsonRpcMessage, last: bool) {
        let mut number = self.number.lock().await;
        let keeps = {
            let mut state = self.state();
            if state.over {
                return;
            }
            state.over = last;
            let heard = state.open.as_ref().is_some_and(|open| !open.is_closed());
            if !heard && !state.primed {
                // The client has gone, and has nothing to come back with.
                state.open = None;
                return;
            }
            state.primed |= !last;
            state.primed
        };
        let mut event = ServerSseMessage::from_message(message);
        if keeps {
            *number += 1;
            event.event_id = self.keep(session, *number, last, &event).await;
        }
        let open = {
            let mut state = self.state();
            if last { state.open.take() } else { state.open.clone() }
        };
        if let Some(open) = open
            && !matches!(timeout(PATIENCE, open.send(event)).await, Ok(Ok(())))
        {
            let mut state = self.state();
            state.open.take_if(|held| held.same_channel(&open));
        }
        if self.state().followed {
            session.tell(What::More { stream: self.name.stream() }).await;
        }
    }

    /// Writes an event into the store; its id, if it is there.
    async fn keep(
        &self,
        session: &Session,
        number: u64,
        last: bool,
        event: &ServerSseMessage,
    ) -> Option<String> {
        let id = EventId::Answer(self.name.clone(), number).to_string();
        session.keep(&self.name.stream(), id, number, last, event.message.as_deref()?).await
    }

    /// Goes on for a client that has come back and has seen the events up to `seen`.
    pub(super) async fn resume(&self, session: &Session, seen: u64) -> store::Result<Events> {
        let _order = self.number.lock().await;
        let (found, last) = session.repeated(&self.name.stream(), seen).await?;
        let mut state = self.state();
        if last || state.over {
            let missing = (!last).then(|| lost(self.ask.clone()));
            return Ok(Events::only(found.into_iter().chain(missing)));
        }
        let (open, events) = Events::open(found);
        // The stream that the client had before ends.
        state.open = Some(open);
        state.primed = true;
        Ok(events)
    }

    /// The client has come back at another node, which is told from now on.
    pub(super) fn follow(&self) {
        let mut state = self.state();
        state.followed = true;
        state.open = None;
    }

    /// Ends it without an answer.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.over = true;
        state.open = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of another node for whose client this node goes on.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) name: AnswerName,
    /// The client, and the number of the last event that it has.
    client: tokio::sync::Mutex<Option<(Sender, u64)>>,
}

impl Follower {
    /// Follows for a client that has the events up to `seen`.
    pub(super) fn new(name: AnswerName, open: Sender, seen: u64) -> Arc<Self> {
        Arc::new(Self { name, client: tokio::sync::Mutex::new(Some((open, seen))) })
    }

    /// Sends what is new. Whether that was all: the last event, or what there is when the stream is `over`.
    pub(super) async fn look(&self, session: &Session, over: bool) -> store::Result<bool> {
        let mut client = self.client.lock().await;
        let Some((open, seen)) = client.as_mut() else { return Ok(true) };
        let (found, last) = session.repeated_with_numbers(&self.name.stream(), *seen).await?;
        for (number, event) in found {
            // Whoever does not read so much comes back for it.
            if open.try_send(event).is_err() {
                *client = None;
                return Ok(true);
            }
            *seen = number;
        }
        if over
            && !last
            && let Some(ask) = &self.name.ask
        {
            let _ = open.try_send(lost(ask.clone()));
        }
        let ended = last || over || open.is_closed();
        if ended {
            *client = None;
        }
        Ok(ended)
    }
}
