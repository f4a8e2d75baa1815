//! Events in the store: each stands there before it is sent, so that any node can repeat it.
//!
//! Each event is a record with a life time, under an index for its stream. The node that wrote it bounds what it keeps
//! for a session: the oldest events go in the same step that adds a new one. What stands there is sealed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::id::SessionKey;
use super::message::Stored;
use super::options::Options;
use super::seal::Seal;
use crate::store::{
    Expect, MAX_PAGE, Record, RecordCursor, RecordKey, RecordKind, RecordWrite, Result, Store,
};
use crate::vault;

/// The name of the stream that belongs to no request.
pub(super) const STANDING: &str = "s";

/// As many events of a stream are repeated: more than a node keeps, less than would fill a client.
const MAX_REPEATED: usize = 4096;

/// The events in the store.
#[derive(Debug)]
pub(super) struct Journal {
    store: Arc<dyn Store>,
    seal: Seal,
    events: usize,
    bytes: usize,
    age: Duration,
}

/// What this node has written for a session.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    entries: VecDeque<Note>,
    bytes: usize,
}

#[derive(Debug)]
struct Note {
    id: String,
    bytes: usize,
    at: Instant,
}

/// An event as it was read.
#[derive(Debug)]
pub(super) struct Found {
    /// Its place in the store.
    pub(super) cursor: RecordCursor,
    /// The event.
    pub(super) event: Stored,
}

impl Journal {
    pub(super) fn new(store: Arc<dyn Store>, seal: Seal, options: &Options) -> Self {
        let Options { events, event_bytes: bytes, event_age: age, .. } = *options;
        Self { store, seal, events, bytes, age }
    }

    /// Whether an event of so many bytes is kept at all.
    pub(super) const fn takes(&self, bytes: usize) -> bool {
        bytes <= self.bytes
    }

    /// Writes an event into a stream of a session.
    pub(super) async fn write(
        &self,
        session: &SessionKey,
        stream: &str,
        written: &Written,
        event: &Stored,
    ) -> Result<()> {
        let index = index(session, stream);
        let name = format!("{index}.{}", event.id);
        let content = serde_json::to_vec(event).expect("texts and numbers serialise");
        self.commit(written, name, content, self.age, vec![index]).await
    }

    /// Leaves a message for another node, which [takes](Self::take) it by this name.
    pub(super) async fn leave(
        &self,
        written: &Written,
        name: &str,
        message: Vec<u8>,
        life: Duration,
    ) -> Result<()> {
        self.commit(written, name.to_owned(), message, life, Vec::new()).await
    }

    /// What was left by this name.
    pub(super) async fn take(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let key = RecordKey::new(RecordKind::McpEvent, name);
        Ok(self.store.get_record(&key).await?.and_then(|record| self.seal.open(name, &record.value)))
    }

    async fn commit(
        &self,
        written: &Written,
        name: String,
        content: Vec<u8>,
        life: Duration,
        indexes: Vec<String>,
    ) -> Result<()> {
        let unsealed = || vault::Error::Seal { name: name.clone() };
        let value = self.seal.seal(&name, content).ok_or_else(unsealed)?;
        let key = RecordKey::new(RecordKind::McpEvent, name.as_str());
        let mut writes = written.make_room(self, name, value.len());
        writes.push(RecordWrite::Put { key, value, ttl: Some(life), expect: Expect::Any, indexes });
        self.store.commit_records(writes).await
    }

    /// An event from its record; None for one that was sealed by another key, or is of another version.
    fn event(&self, record: &Record) -> Option<Stored> {
        serde_json::from_slice(&self.seal.open(&record.key.id, &record.value)?).ok()
    }

    /// The events of a stream that stand behind `after`, oldest first.
    pub(super) async fn read(
        &self,
        session: &SessionKey,
        stream: &str,
        after: Option<RecordCursor>,
    ) -> Result<Vec<Found>> {
        let index = index(session, stream);
        let mut found = Vec::new();
        let mut before = None;
        'pages: while found.len() < MAX_REPEATED {
            let page = self.store.list_records(RecordKind::McpEvent, Some(&index), before, MAX_PAGE).await?;
            for record in page.records {
                if after.is_some_and(|after| record.cursor <= after) {
                    break 'pages;
                }
                if let Some(event) = self.event(&record) {
                    found.push(Found { cursor: record.cursor, event });
                }
            }
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }

    /// The last event of a stream.
    pub(super) async fn last(&self, session: &SessionKey, stream: &str) -> Result<Option<Found>> {
        let index = index(session, stream);
        let page = self.store.list_records(RecordKind::McpEvent, Some(&index), None, 1).await?;
        let found = page.records.into_iter().next();
        Ok(found.and_then(|record| Some(Found { cursor: record.cursor, event: self.event(&record)? })))
    }

    /// Forgets what this node has written for a session.
    pub(super) async fn forget(&self, written: &Written) -> Result<()> {
        let entries = std::mem::take(&mut *written.ledger()).entries;
        let fresh = entries.into_iter().filter(|entry| entry.at.elapsed() < self.age);
        let writes: Vec<RecordWrite> = fresh.map(|entry| delete(entry.id)).collect();
        if writes.is_empty() { Ok(()) } else { self.store.commit_records(writes).await }
    }
}

impl Written {
    /// Takes note of a new record, and says which older ones must go for it.
    fn make_room(&self, journal: &Journal, id: String, bytes: usize) -> Vec<RecordWrite> {
        let mut ledger = self.ledger();
        ledger.bytes += bytes;
        ledger.entries.push_back(Note { id, bytes, at: Instant::now() });
        let mut gone = Vec::new();
        loop {
            let full = ledger.bytes > journal.bytes || ledger.entries.len() > journal.events;
            let Some(oldest) = ledger.entries.front() else { break };
            let expired = oldest.at.elapsed() >= journal.age;
            if !(expired || full && ledger.entries.len() > 1) {
                break;
            }
            let Some(oldest) = ledger.entries.pop_front() else { break };
            ledger.bytes = ledger.bytes.saturating_sub(oldest.bytes);
            if !expired {
                gone.push(delete(oldest.id));
            }
        }
        gone
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delete(id: String) -> RecordWrite {
    RecordWrite::Delete { key: RecordKey::new(RecordKind::McpEvent, id), expect: Expect::Any }
}

fn index(session: &SessionKey, stream: &str) -> String {
    format!("{}.{stream}", session.as_str())
}
