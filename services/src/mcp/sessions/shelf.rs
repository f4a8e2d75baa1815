//! Sessions in the store: what any node needs to go on with one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rmcp::model::InitializeRequestParams;
use serde::{Deserialize, Serialize};

use super::id::SessionKey;
use super::options::Options;
use super::owner::Owner;
use crate::store::{Error, Expect, RecordKey, RecordKind, RecordWrite, Result, Store};

/// A session as it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Whose it is.
    pub(super) owner: Owner,
    /// The revision of the protocol that was agreed on.
    pub(super) version: String,
    /// What the client said of itself; a handler at another node is told it again.
    pub(super) params: InitializeRequestParams,
    /// When it was made, in seconds since 1970.
    pub(super) created: u64,
    /// When it was used last, about.
    pub(super) seen: u64,
}

/// Why there is no new session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("there are too many sessions")]
    Full,
    #[error(transparent)]
    Store(#[from] Error),
}

/// The sessions in the store.
#[derive(Debug)]
pub(super) struct Shelf {
    store: Arc<dyn Store>,
    life: Duration,
    idle: Duration,
    per_subject: usize,
    total: u64,
}

impl Shelf {
    pub(super) fn new(store: Arc<dyn Store>, options: &Options) -> Self {
        let Options { life, idle, per_subject, total, .. } = *options;
        Self { store, life, idle, per_subject, total }
    }

    /// Puts a new session there. Returns those that had to go for it.
    pub(super) async fn add(
        &self,
        key: &SessionKey,
        kept: &Kept,
    ) -> std::result::Result<Vec<SessionKey>, Refused> {
        let index = kept.owner.index();
        if self.store.count_records(RecordKind::McpSession, None).await? >= self.total {
            return Err(Refused::Full);
        }
        let mut gone = Vec::new();
        let held = self.store.count_records(RecordKind::McpSession, Some(&index)).await?;
        if held >= self.per_subject as u64 {
            gone = self.idlest(&index).await?;
        }
        let mut writes = vec![self.put(key, kept, Expect::Absent)?];
        writes.extend(gone.iter().map(|key| RecordWrite::Delete { key: record(key), expect: Expect::Any }));
        self.store.commit_records(writes).await?;
        Ok(gone)
    }

    /// The sessions of a subject that must go, so that there is room for one more: those that were not used for longest.
    async fn idlest(&self, index: &str) -> Result<Vec<SessionKey>> {
        let page = self
            .store
            .list_records(RecordKind::McpSession, Some(index), None, self.per_subject.saturating_mul(2))
            .await?;
        let mut held: Vec<(u64, SessionKey)> = Vec::with_capacity(page.records.len());
        for found in &page.records {
            // One that can't be read goes first.
            let seen = found.read::<Kept>().map_or(0, |kept| kept.seen);
            held.push((seen, SessionKey::named(&found.key.id)));
        }
        held.sort();
        held.truncate((held.len() + 1).saturating_sub(self.per_subject));
        Ok(held.into_iter().map(|(_, key)| key).collect())
    }

    /// A session, if there is one. One that can't be read is none: it is of another version, and its client begins anew.
    pub(super) async fn get(&self, key: &SessionKey) -> Result<Option<Kept>> {
        let found = self.store.get_record(&record(key)).await?;
        Ok(found.and_then(|found| found.read().ok()))
    }

    /// Says that a session is used. `false`: it has ended elsewhere.
    pub(super) async fn renew(&self, key: &SessionKey, kept: &Kept) -> Result<bool> {
        match self.store.commit_records(vec![self.put(key, kept, Expect::Present)?]).await {
            Ok(()) => Ok(true),
            Err(Error::RecordConflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a session.
    pub(super) async fn remove(&self, key: &SessionKey) -> Result<()> {
        self.store.commit_records(vec![RecordWrite::Delete { key: record(key), expect: Expect::Any }]).await
    }

    fn put(&self, key: &SessionKey, kept: &Kept, expect: Expect) -> Result<RecordWrite> {
        let age = Duration::from_secs(now().saturating_sub(kept.created));
        let ttl = self.idle.min(self.life.saturating_sub(age));
        RecordWrite::put(record(key), kept, Some(ttl), expect, vec![kept.owner.index()])
    }
}

fn record(key: &SessionKey) -> RecordKey {
    RecordKey::new(RecordKind::McpSession, key.as_str())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}
