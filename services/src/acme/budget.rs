//! How many orders are made at an authority: it counts, too, and refuses all of us when there were too many.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::renewal::after;
use crate::store::{self, Expect, RecordKey, RecordKind, RecordWrite, Store};

/// Let's Encrypt allows an account 300 orders in three hours.
const PERIOD: Duration = Duration::from_secs(3 * 3600);

/// How long nobody asks an authority that has just said that it was asked too often: a minute, then twice as long each
/// time. It may have meant one certificate only, so that it is not long.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest of these times.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What is known of one authority.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ledger {
    /// When orders were made lately, the first one first.
    made: VecDeque<Timestamp>,
    /// Until when nobody asks it, because of what it has said.
    #[serde(default)]
    paused: Option<Timestamp>,
    /// How often in a row it has said so.
    #[serde(default)]
    refusals: u32,
}

/// Why there is no room for another order at an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Our own limit is reached until then.
    Limit(Timestamp),
    /// It has had too many requests, and is left alone until then.
    Paused(Timestamp),
}

impl Full {
    /// When there is room again.
    pub(crate) const fn until(self) -> Timestamp {
        match self {
            Self::Limit(until) | Self::Paused(until) => until,
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(until) => {
                write!(f, "our own limit of orders at this authority is reached until {until}")
            }
            Self::Paused(until) => {
                write!(f, "this authority has had too many requests and is left alone until {until}")
            }
        }
    }
}

impl Ledger {
    fn prune(&mut self, now: Timestamp) {
        while self.made.front().is_some_and(|first| after(*first, PERIOD) <= now) {
            self.made.pop_front();
        }
        self.paused = self.paused.filter(|until| *until > now);
    }

    /// What is in the way of another order. Whoever insists is not kept by a pause.
    fn full(&self, limit: usize, insists: bool) -> Option<Full> {
        let older = self.made.len().checked_sub(limit);
        let limited = older.map(|older| Full::Limit(after(self.made[older], PERIOD)));
        limited.or_else(|| self.paused.filter(|_| !insists).map(Full::Paused))
    }
}

/// The orders that were made lately, by authority; kept in the store, so that a start forgets none.
#[derive(Debug)]
pub(super) struct Budget {
    store: Arc<dyn Store>,
    limit: usize,
    known: Mutex<HashMap<String, Ledger>>,
}

/// The place of one order, to be given back when none was made.
#[derive(Debug)]
pub(super) struct Place {
    directory: String,
    at: Timestamp,
}

impl Budget {
    pub(super) fn new(store: Arc<dyn Store>, limit: usize) -> Self {
        Self { store, limit: limit.max(1), known: Mutex::default() }
    }

    /// What is in the way of an order at an authority, if something is.
    pub(super) async fn room(
        &self,
        directory: &str,
        insists: bool,
        now: Timestamp,
    ) -> store::Result<Option<Full>> {
        self.with(directory, now, |ledger| (ledger.full(self.limit, insists), false)).await
    }

    /// Takes the place of one order at an authority.
    pub(super) async fn take(
        &self,
        directory: &str,
        insists: bool,
        now: Timestamp,
    ) -> store::Result<Result<Place, Full>> {
        let taken = |ledger: &mut Ledger| match ledger.full(self.limit, insists) {
            Some(full) => (Err(full), false),
            None => {
                ledger.made.push_back(now);
                (Ok(Place { directory: directory.to_owned(), at: now }), true)
            }
        };
        self.with(directory, now, taken).await
    }

    /// Gives a place back: the authority has made no order.
    pub(super) async fn give_back(&self, place: Place, now: Timestamp) -> store::Result<()> {
        let given = |ledger: &mut Ledger| {
            let at = ledger.made.iter().rposition(|made| *made == place.at);
            ((), at.and_then(|at| ledger.made.remove(at)).is_some())
        };
        self.with(&place.directory, now, given).await
    }

    /// The authority has made an order: it has enough of us no more.
    pub(super) async fn made(&self, directory: &str, now: Timestamp) -> store::Result<()> {
        let accepted = |ledger: &mut Ledger| {
            let was_refused = ledger.refusals > 0 || ledger.paused.is_some();
            (ledger.refusals, ledger.paused) = (0, None);
            ((), was_refused)
        };
        self.with(directory, now, accepted).await
    }

    /// The authority says that it was asked too often: nobody asks it for a while, or until it allows that.
    pub(super) async fn pause(
        &self,
        directory: &str,
        retry_after: Option<Timestamp>,
        now: Timestamp,
    ) -> store::Result<()> {
        let refused = |ledger: &mut Ledger| {
            let pause = PAUSE.saturating_mul(1 << ledger.refusals.min(8)).min(LONGEST_PAUSE);
            let until = after(now, pause);
            ledger.paused = ledger.paused.max(Some(retry_after.map_or(until, |at| at.min(until))));
            ledger.refusals = ledger.refusals.saturating_add(1);
            ((), true)
        };
        self.with(directory, now, refused).await
    }

    /// Forgets what is known, because another node has gone on counting.
    pub(super) async fn forget(&self) {
        self.known.lock().await.clear();
    }

    /// Reads a ledger, and writes it when it was changed.
    async fn with<T>(
        &self,
        directory: &str,
        now: Timestamp,
        change: impl FnOnce(&mut Ledger) -> (T, bool),
    ) -> store::Result<T> {
        let key = key(directory);
        let mut known = self.known.lock().await;
        if !known.contains_key(directory) {
            let record = self.store.get_record(&key).await?;
            let ledger = record.map(|record| record.read()).transpose()?.unwrap_or_default();
            known.insert(directory.to_owned(), ledger);
        }
        let ledger = known.entry(directory.to_owned()).or_default();
        ledger.prune(now);
        let (outcome, is_changed) = change(ledger);
        if is_changed {
            let write = RecordWrite::put(key, ledger, Some(PERIOD), Expect::Any, Vec::new())?;
            self.store.commit_records(vec![write]).await?;
        }
        Ok(outcome)
    }
}

/// How many orders were made lately at an authority, as the store knows, and what is in the way of another one.
pub(crate) async fn used(
    store: &dyn Store,
    directory: &str,
    limit: usize,
    insists: bool,
    now: Timestamp,
) -> store::Result<(usize, Option<Full>)> {
    let record = store.get_record(&key(directory)).await?;
    let mut ledger: Ledger = record.map(|record| record.read()).transpose()?.unwrap_or_default();
    ledger.prune(now);
    Ok((ledger.made.len(), ledger.full(limit.max(1), insists)))
}

/// No certificate has such a name.
fn key(directory: &str) -> RecordKey {
    let hash = digest::digest(&digest::SHA256, directory.as_bytes());
    let hash = BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]);
    RecordKey::new(RecordKind::Issuance, format!("orders:{hash}"))
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    async fn take(budget: &Budget, directory: &str, second: i64) -> Result<Place, Full> {
        budget.take(directory, false, at(second)).await.expect("stored")
    }

    #[tokio::test]
    async fn what_was_made_counts_after_a_start_too() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let used =
            async |directory, second| used(&*store, directory, 2, false, at(second)).await.expect("stored");
        let full = |second| Full::Limit(at(second));
        let before = Budget::new(Arc::clone(&store), 2);
        take(&before, "one", 0).await.expect("room");
        assert_eq!(used("one", 1).await, (1, None));
        take(&before, "one", 100).await.expect("room");
        assert_eq!(used("one", 200).await, (2, Some(full(3 * 3600))));
        assert_eq!(used("one", 3 * 3600).await, (1, None));
        assert_eq!(used("other", 200).await, (0, None));
        let after = Budget::new(Arc::clone(&store), 2);
        assert_eq!(after.room("one", true, at(200)).await.expect("stored"), Some(full(3 * 3600)));
        assert_eq!(take(&after, "one", 200).await.expect_err("full"), full(3 * 3600));
        take(&after, "other", 200).await.expect("room");
        take(&after, "one", 3 * 3600).await.expect("room");
        assert_eq!(take(&after, "one", 3 * 3600).await.expect_err("full"), full(3 * 3600 + 100));
    }

    #[tokio::test]
    async fn what_was_not_made_does_not_count() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let budget = Budget::new(Arc::clone(&store), 1);
        for second in 0..3 {
            let place = take(&budget, "one", second).await.expect("room");
            assert!(take(&budget, "one", second).await.is_err(), "meanwhile it counts");
            budget.give_back(place, at(second)).await.expect("stored");
        }
        assert_eq!(used(&*store, "one", 1, false, at(3)).await.expect("stored"), (0, None));
    }

    #[tokio::test]
    async fn who_has_had_too_many_requests_is_left_alone_longer_each_time() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let budget = Budget::new(Arc::clone(&store), 9);
        for pause in [60, 120, 240, 480, 600, 600] {
            budget.pause("one", None, at(0)).await.expect("stored");
            assert_eq!(take(&budget, "one", 1).await.expect_err("paused"), Full::Paused(at(pause)));
        }
        assert_eq!(
            used(&*store, "one", 9, false, at(1)).await.expect("stored").1,
            Some(Full::Paused(at(600)))
        );
        let insists = budget.take("one", true, at(1)).await.expect("stored");
        assert!(insists.is_ok(), "who insists may");
        take(&budget, "one", 600).await.expect("the time is over");
        budget.made("one", at(601)).await.expect("stored");
        budget.pause("one", Some(at(615)), at(610)).await.expect("stored");
        let full = take(&budget, "one", 611).await.expect_err("paused");
        assert_eq!(full, Full::Paused(at(615)), "it begins anew, and the authority's word counts");
        take(&budget, "other", 611).await.expect("another one");
    }
}
