//! Tokens that were revoked before they expired, known to every node.
//!
//! A revocation is an entry of [`Stream::Revocations`]; each node reads the stream from its start when
//! it boots and then goes on reading. Each entry ends with the token that it is about, so nothing has
//! to be cleaned up. The node that revokes refuses the token at once, the others within [`POLL`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::auth::Revoked;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::claims::MAX_LIFETIME;
use super::state::seconds;
use crate::store::{Entry, EntryId, Keep, Range, Result, Store, Stream};

/// How often the stream is looked at. Appending hints nobody, and a second is how long nodes may differ: there is
/// time for a look that fails, and for busy machines.
pub const POLL: Duration = Duration::from_millis(250);

/// How often the stream is read from its start, in case the store came back older.
const FULL: Duration = Duration::from_secs(60);

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
            let after = *self.seen();
            let Some((read, last)) = self.read(after).await? else { return Ok(count) };
            count += read;
            *self.seen() = Some(last);
        }
    }

    /// Reads the stream from its start, and goes on from its end: in a store that came back older that is before the
    /// place where this node was.
    async fn read_again(&self) -> Result<()> {
        let mut after = None;
        while let Some((_, last)) = self.read(after).await? {
            after = Some(last);
        }
        *self.seen() = after;
        Ok(())
    }

    /// Reads a page; how many entries it had, and the last of them. None is the end.
    async fn read(&self, after: Option<EntryId>) -> Result<Option<(usize, EntryId)>> {
        let range = Range { after, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: PAGE };
        let page = self.store.range(Stream::Revocations, &range).await?;
        let Some(last) = page.last().map(|logged| logged.id) else { return Ok(None) };
        let revocations = page.iter().filter_map(|logged| {
            serde_json::from_slice::<Revocation>(&logged.record)
                .inspect_err(|error| warn!(id = ?logged.id, %error, "revocation can't be read"))
                .ok()
        });
        let tokens = revocations.map(|revocation| (revocation.jti, revocation.exp));
        self.revoked.extend(tokens, seconds(Timestamp::now()));
        self.grown.send_replace(());
        Ok(Some((page.len(), last)))
    }

    fn seen(&self) -> MutexGuard<'_, Option<EntryId>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the stream until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        // Beside each other: what is new must not wait until a long stream was read again.
        tokio::join!(self.follow(&stop), self.start_again(&stop));
    }

    async fn follow(&self, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
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

    async fn start_again(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(FULL)).await.is_some() {
            self.revoked.purge(seconds(Timestamp::now()));
            match stop.run_until_cancelled(self.read_again()).await {
                Some(Ok(())) => {}
                // `follow` warns of a store that is away.
                Some(Err(error)) => debug!(%error, "revocations can't be read from the start"),
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
    async fn a_store_that_came_back_older_is_followed_from_its_end() {
        let (before, after) =
            (Embedded::in_memory().expect("a store"), Embedded::in_memory().expect("a store"));
        let older: Arc<dyn Store> = Arc::new(after);
        node(&older).revoke("kept", later()).await.expect("stored");
        let reader = node(&older);
        // Where it was in the store that is lost: far behind everything in this one.
        *reader.seen() = Some(EntryId { time: u64::MAX / 2, sequence: 0 });
        assert_eq!(reader.catch_up().await.expect("read"), 0);
        reader.read_again().await.expect("read");
        assert!(reader.revoked.contains(Some("kept"), later()));
        node(&older).revoke("new", later()).await.expect("stored");
        assert_eq!(reader.catch_up().await.expect("read"), 1);
        assert!(reader.revoked.contains(Some("new"), later()));
        // And an empty one from its start.
        let empty: Arc<dyn Store> = Arc::new(before);
        let reader = node(&empty);
        *reader.seen() = Some(EntryId::MAX);
        reader.read_again().await.expect("read");
        assert_eq!(*reader.seen(), None);
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
