//! What registrations need of a store.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::store::{Expect, Result};

/// A value as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its name.
    pub id: String,
    /// What [`ClientStore::put`] expects to replace it.
    pub version: u64,
    /// The value.
    pub value: Value,
}

/// Values that end by themselves, and counters. One instance for all nodes: the limits are counted
/// here, and of two nodes that change a value at the same time one wins.
#[async_trait]
pub trait ClientStore: Send + Sync + fmt::Debug + 'static {
    /// One value.
    async fn get(&self, id: &str) -> Result<Option<Kept>>;

    /// Creates ([`Expect::Absent`]) or replaces ([`Expect::Version`]) a value, which ends after `ttl`.
    /// [`Conflict`](crate::store::Error::Conflict) when it is not as expected.
    async fn put(&self, id: &str, value: Value, expect: Expect, ttl: Duration) -> Result<()>;

    /// Removes a value, if there is one.
    async fn delete(&self, id: &str) -> Result<()>;

    /// Registrations behind `after`, and where the next part begins, if there is one.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Kept>, Option<String>)>;

    /// Adds one to a counter, which ends `window` after it was first added to, and returns the sum.
    async fn count(&self, counter: &str, window: Duration) -> Result<u64>;
}

#[cfg(test)]
pub(crate) mod memory {
    //! A store whose time stands still.

    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard};

    use super::*;
    use crate::store::{Error, Key, Kind};

    /// The values with the time that they were last given, and the counters.
    #[derive(Debug, Default)]
    pub(crate) struct Memory {
        state: Mutex<State>,
    }

    #[derive(Debug, Default)]
    pub(crate) struct State {
        pub(crate) values: BTreeMap<String, (Kept, Duration)>,
        pub(crate) counters: BTreeMap<String, (u64, Duration)>,
        pub(crate) puts: usize,
    }

    impl Memory {
        pub(crate) fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().expect("no test panicked with it")
        }
    }

    #[async_trait]
    impl ClientStore for Memory {
        async fn get(&self, id: &str) -> Result<Option<Kept>> {
            Ok(self.state().values.get(id).map(|(kept, _)| kept.clone()))
        }

        async fn put(&self, id: &str, value: Value, expect: Expect, ttl: Duration) -> Result<()> {
            let mut state = self.state();
            let version = state.values.get(id).map(|(kept, _)| kept.version);
            let fits = match expect {
                Expect::Any => true,
                Expect::Absent => version.is_none(),
                Expect::Present => version.is_some(),
                Expect::Version(expected) => version == Some(expected),
            };
            if !fits {
                return Err(Error::Conflict { key: Key::new(Kind::Client, id) });
            }
            state.puts += 1;
            let kept = Kept { id: id.to_owned(), version: version.unwrap_or(0) + 1, value };
            state.values.insert(id.to_owned(), (kept, ttl));
            Ok(())
        }

        async fn delete(&self, id: &str) -> Result<()> {
            self.state().values.remove(id);
            Ok(())
        }

        async fn list(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Kept>, Option<String>)> {
            let state = self.state();
            let behind = state.values.iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
            let page: Vec<_> = behind.take(limit).map(|(_, (kept, _))| kept.clone()).collect();
            let next = page.last().filter(|_| page.len() == limit).map(|kept| kept.id.clone());
            Ok((page, next))
        }

        async fn count(&self, counter: &str, window: Duration) -> Result<u64> {
            let mut state = self.state();
            let (count, _) = state.counters.entry(counter.to_owned()).or_insert((0, window));
            *count += 1;
            Ok(*count)
        }
    }
}
