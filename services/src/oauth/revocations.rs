//! Tokens that were revoked before they expired, known to every node.
//!
//! A revocation is an entry of [`Stream::Revocations`]; each node reads the stream from its start when
//! it boots and then goes on reading. Each entry ends with the token that it is about, so nothing has
//! to be cleaned up. The node that revokes refuses the token at once, the others within [`POLL`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::auth::Revoked;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::claims::MAX_LIFETIME;
use super::state::seconds;
use crate::store::{Entry, EntryId, Keep, Range, Result, Store, Stream};

/// How often the stream is looked at. Appending hints nobody, and a second is how long nodes may differ.
pub const POLL: Duration = Duration::from_millis(500);

/// Every so many polls the stream is read from its start, in case the store came back older: a minute.
const POLLS_PER_FULL_READ: u32 = 120;

/// How many entries are asked for at once.
const PAGE: usize = 1000;

/// As long as the longest token lives. The number only bounds the store, far beyond what grants can yield: what it
/// made forgotten could be good again.
const KEEP: Keep = Keep { entries: 1 << 20, age: MAX_LIFETIME };

/// What an entry says.
#[derive(Debug, Serialize, Deserialize)]
struct Revocation {
    jti: SmolStr,
    exp: u64,
}

/// Revokes tokens and follows what other nodes revoke.
#[derive(Debug)]
pub struct Revocations {
    store: Arc<dyn Store>,
    revoked: Arc<Revoked>,
    // The last entry that was read. Held only to read and write it, never while waiting.
    seen: Mutex<Option<EntryId>>,
    // Says that the set has grown.
    grown: watch::Sender<()>,
}

impl Revocations {
    /// Feeds this set from this store.
    pub fn new(store: Arc<dyn Store>, revoked: Arc<Revoked>) -> Self {
        Self { store, revoked, seen: Mutex::new(None), grown: watch::Sender::new(()) }
    }

    /// The revoked tokens.
    pub const fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// Changes when there are more of them.
    pub fn grown(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }

    /// Revokes a token by its `jti`, until its `exp`. This node refuses it even if the store can't be told.
    ///
    /// # Errors
    ///
    /// When the store can't be told: other nodes still take the token, so the caller must not say that it is done.
    pub async fn revoke(&self, token_id: &str, expires_at: u64) -> Result<()> {
        self.revoke_all(&[(token_id.into(), expires_at)]).await
    }

    /// Revokes tokens by `jti` and `exp`, as [`Self::revoke`] does.
    ///
    /// # Errors
    ///
    /// When the store can't be told.
    pub async fn revoke_all(&self, tokens: &[(SmolStr, u64)]) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        self.revoked.extend(tokens.iter().cloned(), seconds(now));
        self.grown.send_replace(());
        let time = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let entry = |(jti, exp): &(SmolStr, u64)| {
            let revocation = Revocation { jti: jti.clone(), exp: *exp };
            let record = serde_json::to_vec(&revocation).expect("a text and a number serialise");
            Entry { time, record: record.into(), tags: Vec::new() }
        };
        self.store.append(Stream::Revocations, tokens.iter().map(entry).collect(), KEEP).await
    }

    /// Reads what is new in the stream; the first time, all of it. Returns the number of entries.
    ///
    /// # Errors
    ///
    /// When the store can't be read; what was read before stays revoked.
    pub async fn catch_up(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            let after = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let range =
                Range { after, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: PAGE };
            let page = self.store.range(Stream::Revocations, &range).await?;
            let Some(last) = page.last().map(|logged| logged.id) else { return Ok(count) };
            count += page.len();
            let revocations = page.iter().filter_map(|logged| {
                serde_json::from_slice::<Revocation>(&logged.record)
                    .inspect_err(|error| warn!(id = ?logged.id, %error, "revocation can't be read"))
                    .ok()
            });
            let tokens = revocations.map(|revocation| (revocation.jti, revocation.exp));
            self.revoked.extend(tokens, seconds(Timestamp::now()));
            self.grown.send_replace(());
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        }
    }

    /// Follows the stream until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut polls, mut failing) = (0, false);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            polls += 1;
            if polls == POLLS_PER_FULL_READ {
                polls = 0;
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.revoked.purge(seconds(Timestamp::now()));
            }
            match stop.run_until_cancelled(self.catch_up()).await {
                Some(Ok(_)) if failing => {
                    failing = false;
                    info!("revocations are read again");
                }
                Some(Err(error)) if !failing => {
                    failing = true;
                    warn!(%error, "revocations of other nodes can't be read");
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn node(store: &Arc<dyn Store>) -> Arc<Revocations> {
        Arc::new(Revocations::new(Arc::clone(store), Arc::default()))
    }

    fn later() -> u64 {
        seconds(Timestamp::now()) + 600
    }

    #[tokio::test]
    async fn a_node_that_starts_reads_all_revocations() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let one = node(&store);
        for n in 0..PAGE + 1 {
            one.revoke(&n.to_string(), later()).await.expect("stored");
        }
        one.revoke("expired", 1).await.expect("stored");
        let two = node(&store);
        assert_eq!(two.catch_up().await.expect("read"), PAGE + 2);
        assert!(two.revoked.contains(Some("0"), later()) && two.revoked.contains(Some("1000"), later()));
        assert_eq!(two.revoked.len(), PAGE + 1, "a token that has expired needs no place");
        assert_eq!(two.catch_up().await.expect("read"), 0);
    }

    #[tokio::test]
    async fn an_entry_that_can_not_be_read_hides_no_other() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let time = 1000 * seconds(Timestamp::now());
        let entry = Entry { time, record: "{}".into(), tags: Vec::new() };
        store.append(Stream::Revocations, vec![entry], KEEP).await.expect("stored");
        node(&store).revoke("t1", later()).await.expect("stored");
        let reader = node(&store);
        assert_eq!(reader.catch_up().await.expect("read"), 2);
        assert!(reader.revoked.contains(Some("t1"), later()));
    }

    #[tokio::test]
    async fn a_running_node_learns_what_another_one_revokes() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let (one, two) = (node(&store), node(&store));
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&two).run(stop.clone()));
        one.revoke("t1", later()).await.expect("stored");
        assert!(one.revoked.contains(Some("t1"), later()), "the node that revokes refuses at once");
        let learned = async {
            while !two.revoked.contains(Some("t1"), later()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), learned).await.expect("learned in time");
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("ended").expect("no panic");
    }
}
