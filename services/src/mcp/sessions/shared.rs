//! What the sessions of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rmcp::model::ServerJsonRpcMessage;
use tokio::time::Instant;
use tracing::{info, warn};

use super::id::{NodeName, SessionKey};
use super::journal::Journal;
use super::message::Stored;
use super::notice::{Board, What};
use super::options::Options;
use super::seal::Seal;
use super::shelf::Shelf;
use crate::store::{ItemKey, Result, Store};

/// The items by which nodes say that they are alive.
const ALIVE: &str = "mcp-node";

/// A node's name, its counters, and its ways to the store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: NodeName,
    pub(super) options: Options,
    pub(super) shelf: Shelf,
    pub(super) journal: Journal,
    pub(super) board: Board,
    store: Arc<dyn Store>,
    started: Instant,
    count: AtomicU64,
    /// When the node last said that it is alive, in milliseconds since its start; 0 for never.
    spoken: AtomicU64,
    away: AtomicBool,
    /// When the store was there again after an outage; 0 for never.
    back: AtomicU64,
}

impl Shared {
    pub(super) fn new(store: Arc<dyn Store>, key: &[u8; 32], options: Options) -> Self {
        let name = NodeName::new();
        Self {
            shelf: Shelf::new(Arc::clone(&store), &options),
            journal: Journal::new(Arc::clone(&store), Seal::new(key), &options),
            board: Board::new(Arc::clone(&store), name.clone()),
            store,
            name,
            options,
            started: Instant::now(),
            count: AtomicU64::new(0),
            spoken: AtomicU64::new(0),
            away: AtomicBool::new(false),
            back: AtomicU64::new(0),
        }
    }

    /// A number that this node has not given before.
    pub(super) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Milliseconds since the node's start, at least 1.
    pub(super) fn clock(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// How long ago a time of [`Self::clock`] was.
    pub(super) fn since(&self, time: u64) -> Duration {
        Duration::from_millis(self.clock().saturating_sub(time))
    }

    /// Says that this node is alive, unless it has just said so.
    pub(super) async fn speak(&self) {
        let spoken = self.spoken.load(Ordering::Relaxed);
        if spoken > 0 && self.since(spoken) < self.options.alive / 3 {
            return;
        }
        let result = self.store.put_item(&alive(&self.name), b"1", self.options.alive).await;
        if self.told(result).is_some() {
            self.spoken.store(self.clock(), Ordering::Relaxed);
        }
    }

    /// Says that this node goes.
    pub(super) async fn farewell(&self) {
        let result = self.store.take_item(&alive(&self.name)).await;
        self.told(result);
    }

    /// Whether a node is alive. Right after an outage of the store any may be: none could say so.
    pub(super) async fn is_alive(&self, node: &NodeName) -> Result<bool> {
        let heard = self.store.get_item(&alive(node)).await;
        let back = self.back.load(Ordering::Relaxed);
        let was_away = self.away.load(Ordering::Relaxed) || back > 0 && self.since(back) < self.options.alive;
        Ok(heard?.is_some() || was_away)
    }

    /// Tells the other nodes, if that is possible.
    pub(super) async fn tell(&self, session: &SessionKey, what: What) {
        let result = self.board.tell(session, what).await;
        self.told(result);
    }

    /// What came of a step that is not worth a request's failure. An outage is logged once.
    pub(super) fn told<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    self.back.store(self.clock(), Ordering::Relaxed);
                    info!("MCP sessions have their store again");
                }
                Some(value)
            }
            Err(error) => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "MCP sessions are without their store: streams can't be resumed meanwhile");
                }
                None
            }
        }
    }

    /// An event as it is kept, and whether it is that event: one that is too large is kept as an error.
    pub(super) fn stored(
        &self,
        id: String,
        number: u64,
        last: bool,
        message: &ServerJsonRpcMessage,
    ) -> Option<(Stored, bool)> {
        let raw = serde_json::value::to_raw_value(message).ok()?;
        if self.journal.takes(raw.get().len()) {
            return Some((Stored { id, number, last, message: raw }, true));
        }
        // An answer must not be missing altogether: its client would wait for it.
        let ask = match message {
            ServerJsonRpcMessage::Response(response) => Some(response.id.clone()),
            ServerJsonRpcMessage::Error(error) => error.id.clone(),
            ServerJsonRpcMessage::Request(_) | ServerJsonRpcMessage::Notification(_) => None,
        }?;
        let told =
            "the answer was too large to be kept until the client came back for it: ask for less at once";
        let error = rmcp::model::ErrorData::internal_error(told, None);
        let message = serde_json::value::to_raw_value(&ServerJsonRpcMessage::error(error, Some(ask))).ok()?;
        Some((Stored { id, number, last, message }, false))
    }
}

fn alive(node: &NodeName) -> ItemKey {
    ItemKey { kind: ALIVE, id: node.as_str().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Error;
    use crate::store::embedded::Embedded;

    #[tokio::test(start_paused = true)]
    async fn after_an_outage_nobody_is_dead_for_a_while() {
        let store = Arc::new(Embedded::in_memory().expect("a store"));
        let shared = Shared::new(store, &[1; 32], Options::default());
        let other = NodeName::new();
        assert!(!shared.is_alive(&other).await.expect("a store"));
        let outage = Error::Corrupt { place: "here".to_owned(), source: "away".into() };
        shared.told::<()>(Err(outage));
        assert!(shared.is_alive(&other).await.expect("a store"), "it may be there, and can't say so");
        shared.told(Ok(()));
        assert!(shared.is_alive(&other).await.expect("a store"), "it has had no time to say so");
        tokio::time::advance(shared.options.alive).await;
        assert!(!shared.is_alive(&other).await.expect("a store"));
    }
}
