//! The stream of events that belongs to no request: what a client gets by GET.
//!
//! A message goes to one stream only: that of the client's latest GET, at whichever node. Earlier ones stay open
//! without messages, because a client with several of them would else open one after the other for ever.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::time::timeout;

use super::events::{Events, Sender};
use super::id::EventId;
use super::journal::{Found, STANDING};
use super::notice::{What, now};
use super::session::Session;
use crate::store::{RecordCursor, Result};

/// Streams of a session that stay open beside the latest one.
const IDLE: usize = 8;

/// How long a message waits for a client that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Held while events are written and sent, so that they keep their order.
    sent: tokio::sync::Mutex<Sent>,
    listeners: Mutex<Listeners>,
}

/// What the client has.
#[derive(Debug, Default)]
struct Sent {
    /// The place of the last event of other nodes.
    seen: Option<RecordCursor>,
    /// The number of the last event of this node.
    own: u64,
    /// When the client began to listen, milliseconds since 1970; 0 when nothing had come before.
    from: u64,
    /// Has it ever?
    listened: bool,
}

#[derive(Debug, Default)]
struct Listeners {
    turn: u64,
    open: Option<(u64, Sender)>,
    idle: VecDeque<(u64, Sender)>,
}

impl Standing {
    /// Sends a message to whoever listens, here or at another node.
    pub(super) async fn send(&self, session: &Session, message: ServerJsonRpcMessage) {
        let mut sent = self.sent.lock().await;
        let number = session.number();
        let mut event = ServerSseMessage::from_message(message);
        if let Some(message) = event.message.as_deref() {
            let id = EventId::Standing { node: session.node().clone(), time: now(), number }.to_string();
            event.event_id = session.keep(STANDING, id, number, false, message).await;
        }
        if self.deliver(event).await {
            sent.own = number;
        } else {
            session.tell(What::More { stream: STANDING.to_owned() }).await;
        }
    }

    /// Opens the stream for a client, behind the last event that it has.
    pub(super) async fn listen(&self, session: &Session, after: Option<&EventId>) -> Result<Events> {
        let mut sent = self.sent.lock().await;
        // What a new session's client could not hear yet is for its first stream.
        let all = after.is_some() || session.is_new() && !sent.listened;
        let mut ready = Vec::new();
        let mut seen = None;
        let mut last = None;
        // Everything that comes into an empty stream is new, whatever the clock says of the node that it comes from.
        let mut empty = false;
        if all {
            let found = session.standing(None).await;
            empty = found.as_ref().is_ok_and(Vec::is_empty);
            // Who comes back for something is told to try again; who comes for the first time needs no store.
            let mut found = if after.is_some() { found? } else { session.told(found).unwrap_or_default() };
            seen = found.last().map(|last| last.cursor);
            if let Some(after) = after {
                found = behind(found, after);
            }
            ready.extend(found.iter().filter_map(|found| found.event.event()));
        } else {
            match session.last_standing().await {
                Some(Some(found)) => {
                    seen = Some(found.cursor);
                    last = Some(found.event.id);
                }
                Some(None) => empty = true,
                None => {}
            }
        }
        let from = if empty { 0 } else { now() };
        if session.primes() && ready.is_empty() && after.is_none() {
            let (node, number) = (session.node().clone(), session.number());
            let id = last.unwrap_or_else(|| EventId::Standing { node, time: from, number }.to_string());
            ready.push(ServerSseMessage::priming(id, session.retry()));
        }
        *sent = Sent { seen: seen.max(sent.seen), own: session.number(), from, listened: true };
        let (open, events) = Events::open(ready);
        let turn = self.listeners().take_turn(open);
        session.tell(What::Listening { turn }).await;
        Ok(events)
    }

    /// Sends what other nodes have for the client.
    pub(super) async fn look(&self, session: &Session) -> Result<()> {
        let mut sent = self.sent.lock().await;
        if !self.is_heard() {
            return Ok(());
        }
        for Found { cursor, event } in session.standing(sent.seen).await? {
            let fresh = match event.id.parse() {
                Ok(EventId::Standing { node, number, .. }) if node == *session.node() => number > sent.own,
                Ok(EventId::Standing { time, .. }) => sent.seen.is_some() || time >= sent.from,
                Ok(EventId::Answer(..)) | Err(_) => false,
            };
            if fresh
                && let Some(event) = event.event()
                && !self.deliver(event).await
            {
                return Ok(());
            }
            sent.seen = Some(cursor);
        }
        Ok(())
    }

    /// A node says that it has the client's latest stream, maybe this one.
    pub(super) fn moved(&self, here: bool, turn: u64) {
        let mut listeners = self.listeners();
        if !here {
            listeners.rest();
        } else if listeners.open.is_none() {
            // Another node said so before, and this one was late to hear it.
            let place = listeners.idle.iter().position(|(held, _)| *held == turn);
            listeners.open = place.and_then(|place| listeners.idle.remove(place));
        }
    }

    /// Whether a client listens here.
    pub(super) fn is_heard(&self) -> bool {
        self.listeners().open.as_ref().is_some_and(|(_, open)| !open.is_closed())
    }

    /// Whether there is any stream here, silent ones included.
    pub(super) fn is_open(&self) -> bool {
        let mut listeners = self.listeners();
        listeners.idle.retain(|(_, open)| !open.is_closed());
        !listeners.idle.is_empty() || listeners.open.as_ref().is_some_and(|(_, open)| !open.is_closed())
    }

    /// Ends all streams.
    pub(super) fn close(&self) {
        let mut listeners = self.listeners();
        listeners.open = None;
        listeners.idle.clear();
    }

    async fn deliver(&self, event: ServerSseMessage) -> bool {
        let Some((turn, open)) = self.listeners().open.clone() else { return false };
        let done = matches!(timeout(PATIENCE, open.send(event)).await, Ok(Ok(())));
        if !done {
            self.listeners().open.take_if(|(held, _)| *held == turn);
        }
        done
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listeners {
    fn take_turn(&mut self, open: Sender) -> u64 {
        self.rest();
        self.turn += 1;
        self.open = Some((self.turn, open));
        self.turn
    }

    /// The stream that had the messages goes on without them.
    fn rest(&mut self) {
        self.idle.retain(|(_, open)| !open.is_closed());
        self.idle.extend(self.open.take().filter(|(_, open)| !open.is_closed()));
        while self.idle.len() > IDLE {
            self.idle.pop_front();
        }
    }
}

/// The events behind one of them. When that is not kept, those that may be later: one event twice is better than one
/// that is missing.
fn behind(mut found: Vec<Found>, last: &EventId) -> Vec<Found> {
    let ids = || found.iter().map(|found| found.event.id.parse::<EventId>());
    if let Some(place) = ids().rposition(|id| id.as_ref() == Ok(last)) {
        return found.split_off(place + 1);
    }
    found.retain(|found| found.event.id.parse().is_ok_and(|id| may_follow(&id, last)));
    found
}

fn may_follow(one: &EventId, last: &EventId) -> bool {
    match (one, last) {
        (EventId::Standing { node, number, .. }, EventId::Standing { node: there, number: before, .. })
            if node == there =>
        {
            number > before
        }
        // Clocks count milliseconds only.
        (EventId::Standing { time, .. }, EventId::Standing { time: then, .. }) => time >= then,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::sessions::id::NodeName;

    #[test]
    fn what_may_be_later_is_not_lost() {
        let (here, there) = (NodeName::new(), NodeName::new());
        let at = |node: &NodeName, time, number| EventId::Standing { node: node.clone(), time, number };
        // What a stream begins with is in no store: the first event has to be found by its time.
        let first = at(&here, 1000, 5);
        for (id, follows) in [
            (at(&here, 1000, 6), true),
            (at(&there, 1000, 1), true),
            (at(&there, 1001, 1), true),
            // A clock may go back; a node's numbers don't.
            (at(&here, 999, 6), true),
            (at(&here, 1001, 4), false),
            (at(&here, 1000, 5), false),
            (at(&there, 999, 9), false),
        ] {
            assert_eq!(may_follow(&id, &first), follows, "{id}");
        }
    }
}
