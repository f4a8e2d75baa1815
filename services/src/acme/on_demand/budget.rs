//! How many names of one domain get a certificate on demand: authorities count by domain, too, and strangers can think
//! of any number of names.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::HostName;

use super::super::policy::OnDemand;
use super::after;
use crate::store::{self, Expect, RecordKey, RecordKind, RecordWrite, Store};

const DAY: Duration = Duration::from_secs(86_400);

/// Let's Encrypt allows 50 new certificates of a registered domain in this time.
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Nodes that count at once overtake each other; each time one of them gets through.
const TRIES: usize = 16;

/// What the names below a wildcard are counted by: the last two labels of its parent. That is the registered domain,
/// which authorities count by, or something above it (`co.uk`): never too small.
fn domain_of(name: &HostName) -> &str {
    let parent = name.parent().unwrap_or(name.as_str());
    match parent.rmatch_indices('.').nth(1) {
        Some((dot, _)) => &parent[dot + 1..],
        None => parent,
    }
}

/// The names that got one lately, by domain; in the store, because all nodes count together, and no start forgets any.
#[derive(Debug)]
pub(super) struct Domains {
    store: Arc<dyn Store>,
    limits: OnDemand,
}

/// The place of one name, to be given back when it gets no certificate.
#[derive(Debug)]
pub(super) struct Place {
    key: RecordKey,
    at: Timestamp,
}

impl Domains {
    /// Allows each domain as many names as these limits say.
    pub(super) fn new(store: Arc<dyn Store>, limits: OnDemand) -> Self {
        Self { store, limits }
    }

    /// Takes the place of one name in its domain, if there is one.
    pub(super) async fn take(&self, name: &HostName, now: Timestamp) -> store::Result<Option<Place>> {
        // No certificate has such a name, so that nobody takes this for what is known of one.
        let key = RecordKey::new(RecordKind::Issuance, format!("on-demand:{}", domain_of(name)));
        let taken = |made: &mut Vec<Timestamp>| {
            made.retain(|time| after(*time, WEEK) > now);
            let today = made.iter().filter(|time| after(**time, DAY) > now).count();
            let is_free = today < self.limits.names && made.len() < self.limits.per_week;
            if is_free {
                made.push(now);
            }
            is_free
        };
        let is_taken = self.change(&key, taken).await?;
        Ok(is_taken.then_some(Place { key, at: now }))
    }

    /// Gives a place back.
    pub(super) async fn give_back(&self, place: Place) -> store::Result<()> {
        let given = |made: &mut Vec<Timestamp>| {
            let at = made.iter().rposition(|time| *time == place.at);
            at.map(|at| made.remove(at)).is_some()
        };
        self.change(&place.key, given).await.map(drop)
    }

    /// Changes what is kept of a domain, where `change` says that it did; tells whether it is so in the store.
    async fn change(
        &self,
        key: &RecordKey,
        change: impl Fn(&mut Vec<Timestamp>) -> bool,
    ) -> store::Result<bool> {
        for _ in 0..TRIES {
            let (mut made, expect): (Vec<Timestamp>, _) = match self.store.get_record(key).await? {
                Some(record) => (record.read()?, Expect::Version(record.version)),
                None => (Vec::new(), Expect::Absent),
            };
            if !change(&mut made) {
                return Ok(false);
            }
            let write = RecordWrite::put(key.clone(), &made, Some(WEEK), expect, Vec::new())?;
            match self.store.commit_records(vec![write]).await {
                Ok(()) => return Ok(true),
                Err(store::Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn host(name: &str) -> HostName {
        name.parse().expect("valid")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn domains(store: &Arc<dyn Store>, names: usize, per_week: usize) -> Domains {
        Domains::new(Arc::clone(store), OnDemand { names, per_week, per_network: 5 })
    }

    fn store() -> Arc<dyn Store> {
        Arc::new(Embedded::in_memory().expect("a store"))
    }

    async fn takes(domains: &Domains, name: &str, second: i64) -> bool {
        domains.take(&host(name), at(second)).await.expect("stored").is_some()
    }

    #[test]
    fn names_are_counted_by_what_an_authority_counts_by_or_more() {
        for (name, domain) in [
            ("t.example.com", "example.com"),
            ("t.a.example.com", "example.com"),
            ("t.c.b.a.example.com", "example.com"),
            ("t.shop.co.uk", "co.uk"),
            ("t.co.uk", "co.uk"),
            // Below a wildcard of one label each name is a domain of its own: they have one budget nevertheless.
            ("t.com", "com"),
            ("t.localhost", "localhost"),
        ] {
            let name = host(name);
            assert_eq!(domain_of(&name), domain, "{name}");
        }
    }

    #[tokio::test]
    async fn all_nodes_and_wildcards_count_together_and_each_domain_for_itself() {
        let store = store();
        let nodes = [domains(&store, 3, 9), domains(&store, 3, 9)];
        let names = [host("t.a.example.com"), host("t.b.example.com")];
        let at_once = (0..8).map(|n| nodes[n % 2].take(&names[n / 4], at(0)));
        let taken = futures_util::future::join_all(at_once).await;
        assert_eq!(taken.iter().filter(|one| one.as_ref().expect("stored").is_some()).count(), 3);
        assert!(takes(&nodes[0], "t.a.example.org", 0).await);
        assert!(!takes(&nodes[1], "t.c.example.com", 86_399).await);
        assert!(takes(&nodes[1], "t.c.example.com", 86_400).await);
    }

    #[tokio::test]
    async fn a_week_has_a_limit_of_its_own() {
        const DAY: i64 = 86_400;
        let store = store();
        let domains = domains(&store, 2, 5);
        let mut taken = Vec::new();
        for day in 0..8 {
            let mut count = 0;
            while takes(&domains, "t.a.example.com", day * DAY).await {
                count += 1;
            }
            taken.push(count);
        }
        assert_eq!(taken, [2, 2, 1, 0, 0, 0, 0, 2]);
        assert!(!takes(&domains, "t.b.example.com", 8 * DAY - 1).await);
    }

    #[tokio::test]
    async fn what_is_given_back_is_free_again() {
        let store = store();
        let domains = domains(&store, 1, 1);
        for second in 0..3 {
            let place = domains.take(&host("t.example.com"), at(second)).await.expect("stored");
            assert!(!takes(&domains, "t.example.com", second).await, "meanwhile it is taken");
            domains.give_back(place.expect("free")).await.expect("stored");
        }
        assert!(takes(&domains, "t.example.com", 3).await);
    }
}
