//! Registrations in the records of a store, and the end of their grants.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use super::registration::{EndGrants, PREFIX};
use super::store::{ClientStore, Kept};
use crate::oauth::consents::Consents;
use crate::oauth::grants::Grants;
use crate::oauth::state::Filter;
use crate::store::{Error, Expect, Key, Kind, RecordKey, RecordKind, RecordWrite, Result, Store};

/// The list of the registrations. Counters are records of the same kind and on no list.
pub const REGISTERED: &str = "registered";

/// How often others may be faster with the same counter.
const ATTEMPTS: usize = 32;

/// Keeps registrations as records.
pub struct ClientRecords {
    store: Arc<dyn Store>,
}

impl ClientRecords {
    /// Those of a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

impl fmt::Debug for ClientRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRecords").finish_non_exhaustive()
    }
}

#[async_trait]
impl ClientStore for ClientRecords {
    async fn get(&self, id: &str) -> Result<Option<Kept>> {
        let record = self.store.get_record(&key(id)).await?;
        record
            .map(|record| Ok(Kept { id: id.to_owned(), version: record.version, value: record.read()? }))
            .transpose()
    }

    async fn put(&self, id: &str, value: Value, expect: Expect, ttl: Duration) -> Result<()> {
        let indexes = id.starts_with(PREFIX).then(|| REGISTERED.to_owned()).into_iter().collect();
        let write = RecordWrite::put(key(id), &value, Some(ttl), expect, indexes)?;
        self.store.commit_records(vec![write]).await.map_err(|error| match error {
            Error::RecordConflict { key } => Error::Conflict { key: Key::new(Kind::Client, key.id) },
            other => other,
        })
    }

    async fn delete(&self, id: &str) -> Result<()> {
        let write = RecordWrite::Delete { key: key(id), expect: Expect::Any };
        self.store.commit_records(vec![write]).await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Kept>, Option<String>)> {
        // What is no cursor of ours begins anew: there is nothing to skip.
        let after = after.and_then(|after| after.parse().ok());
        let page = self.store.list_records(RecordKind::Client, Some(REGISTERED), after, limit).await?;
        let next = page.next.map(|next| next.to_string());
        let kept = page.records.into_iter().filter_map(|record| {
            let value = record.read().ok()?;
            Some(Kept { id: record.key.id, version: record.version, value })
        });
        Ok((kept.collect(), next))
    }

    async fn count(&self, counter: &str, window: Duration) -> Result<u64> {
        let key = key(&format!("count/{counter}"));
        for _ in 0..ATTEMPTS {
            let (sum, expect, left) = match self.store.get_record(&key).await? {
                None => (0, Expect::Absent, window),
                Some(record) => {
                    let sum: u64 = record.read()?;
                    (sum, Expect::Version(record.version), left(record.until, window))
                }
            };
            let sum = sum.saturating_add(1);
            let write = RecordWrite::put(key.clone(), &sum, Some(left), expect, Vec::new())?;
            match self.store.commit_records(vec![write]).await {
                Ok(()) => return Ok(sum),
                Err(Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict { key: Key::new(Kind::Client, key.id) })
    }
}

/// What is left of a counter's window, which its first count began.
fn left(until: Option<u64>, window: Duration) -> Duration {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let left = until.map_or(window, |until| Duration::from_millis(until.saturating_sub(now)));
    left.clamp(Duration::from_millis(1), window)
}

fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Client, id)
}

/// Ends what a client was given: its grants, and what users have agreed to.
#[derive(Debug)]
pub struct ClientGrants {
    grants: Grants,
    consents: Consents,
}

impl ClientGrants {
    /// Ends those of a deployment.
    pub const fn new(grants: Grants, consents: Consents) -> Self {
        Self { grants, consents }
    }
}

#[async_trait]
impl EndGrants for ClientGrants {
    async fn end_grants(&self, client_id: &str) -> Result<()> {
        let client = Filter::Client(client_id);
        self.grants.revoke_all(client, Timestamp::now()).await?;
        self.consents.forget_all(client).await?;
        Ok(())
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::embedded::Embedded;

    const HOUR: Duration = Duration::from_secs(3600);

    fn records() -> ClientRecords {
        ClientRecords::new(Arc::new(Embedded::in_memory().expect("memory")))
    }

    #[tokio::test]
    async fn registrations_are_listed_and_counters_are_not() {
        let records = records();
        for id in ["dyn_a", "dyn_b", "dyn_c"] {
            records.put(id, json!({ "id": id }), Expect::Absent, HOUR).await.expect("stored");
        }
        assert_eq!(records.count("total", HOUR).await.expect("counted"), 1);
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let (page, next) = records.list(after.as_deref(), 2).await.expect("read");
            seen.extend(page.into_iter().map(|kept| kept.id));
            after = next;
            if after.is_none() {
                break;
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, ["dyn_a", "dyn_b", "dyn_c"]);
    }

    #[tokio::test]
    async fn of_two_that_change_a_registration_one_wins() {
        let records = records();
        records.put("dyn_a", json!(1), Expect::Absent, HOUR).await.expect("stored");
        let taken = records.put("dyn_a", json!(2), Expect::Absent, HOUR).await;
        assert!(matches!(taken, Err(Error::Conflict { .. })), "{taken:?}");
        let kept = records.get("dyn_a").await.expect("read").expect("there");
        records.put("dyn_a", json!(3), Expect::Version(kept.version), HOUR).await.expect("replaced");
        let late = records.put("dyn_a", json!(4), Expect::Version(kept.version), HOUR).await;
        assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
        records.delete("dyn_a").await.expect("deleted");
        assert!(records.get("dyn_a").await.expect("read").is_none());
    }

    #[tokio::test]
    async fn counts_at_the_same_time_are_all_counted() {
        let records = Arc::new(records());
        let counts = (0..8).map(|_| {
            let records = Arc::clone(&records);
            tokio::spawn(async move { records.count("host/1", HOUR).await.expect("counted") })
        });
        let counts: Vec<_> = counts.collect();
        let mut sums = Vec::new();
        for count in counts {
            sums.push(count.await.expect("no panic"));
        }
        sums.sort_unstable();
        assert_eq!(sums, (1..=8).collect::<Vec<_>>());
        assert_eq!(records.count("host/2", HOUR).await.expect("counted"), 1);
    }
}
