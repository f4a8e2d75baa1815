//! How often a user may call what.
//!
//! Buckets are refilled steadily (the generic cell rate algorithm: one number for each bucket). There is one for each
//! user and each tool, or one for all tools of a limit. They are kept in memory, so each node counts for itself, and at
//! most [`MOST`] of them: beyond that the bucket goes that is nearest to being full, which loses its user the least.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use tokio::time::Instant;

use super::rules::{Object, Selector};

/// The most buckets. Each is a few words.
pub const MOST: usize = SHARDS * MOST_OF_A_SHARD;

const SHARDS: usize = 16;
/// A full shard is searched for the bucket to go.
const MOST_OF_A_SHARD: usize = 2048;

/// A limit of how often a user may call something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limit {
    /// What is counted.
    pub what: Selector,
    /// So many calls in [`per`](Self::per), in the long run.
    pub calls: u32,
    /// See [`calls`](Self::calls).
    pub per: Duration,
    /// So many at once. At least one.
    pub burst: u32,
    /// Whether all that is counted shares a bucket; otherwise each tool has its own.
    pub together: bool,
}

/// The limits of a host.
#[derive(Debug, Clone, Default)]
pub struct Limits(Vec<Counting>);

/// A limit, with what need not be found out for each call.
#[derive(Debug, Clone)]
struct Counting {
    limit: Limit,
    /// What it is told apart by from others.
    number: u64,
    /// The time that a call costs, in nanoseconds.
    interval: u64,
    /// How far a bucket may be from full for one more call, in nanoseconds.
    spare: u64,
}

impl From<Vec<Limit>> for Limits {
    fn from(limits: Vec<Limit>) -> Self {
        Self(limits.into_iter().map(Counting::of).collect())
    }
}

impl Limits {
    /// Whether nothing is limited.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The buckets of all hosts and users; it outlives changes of the limits.
#[derive(Debug)]
pub struct Buckets {
    shards: Vec<Mutex<Shard>>,
    hashes: RandomState,
    begun: Instant,
}

/// When each bucket will be full again, by its key.
type Shard = HashMap<u64, u64, RandomState>;

/// Too many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many calls: try again in {} s", .after.as_secs())]
pub struct TooMany {
    /// When there is room again, in whole seconds.
    pub after: Duration,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hashes: RandomState::new(),
            begun: Instant::now(),
        }
    }
}

impl Buckets {
    /// Counts a call of a user at a host against every limit that is for it.
    ///
    /// # Errors
    ///
    /// When one of the buckets is empty. The call is then counted in none.
    pub fn take(
        &self,
        host: &str,
        user: &str,
        limits: &Limits,
        method: &str,
        object: Object<'_>,
    ) -> Result<(), TooMany> {
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let ruled = || limits.0.iter().filter(|one| one.limit.what.covers(method, object));
        // Two with the same key would share a bucket: nobody can tell beforehand which, and there are few of so many.
        let key = |Counting { limit, number, .. }: &Counting| {
            let name = if limit.together { None } else { Some((method, object.name())) };
            self.hashes.hash_one((host, user, number, name))
        };
        for (taken, limit) in ruled().enumerate() {
            // Asked and counted at once: calls that come together must not all find the same room.
            let wait = self.with(key(limit), |shard, key| limit.count(shard, key, now));
            if wait > 0 {
                // What one limit refuses must not use up another one.
                for limit in ruled().take(taken) {
                    self.with(key(limit), |shard, key| {
                        if let Some(full_at) = shard.get_mut(&key) {
                            *full_at = full_at.saturating_sub(limit.interval);
                        }
                    });
                }
                return Err(TooMany { after: Duration::from_secs(wait.div_ceil(1_000_000_000)) });
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(&self, key: u64, act: impl FnOnce(&mut Shard, u64) -> T) -> T {
        let at = (key % SHARDS as u64) as usize;
        act(&mut self.shards[at].lock().unwrap_or_else(PoisonError::into_inner), key)
    }
}

/// Drops the buckets that are full again, which are as good as none; if there are none, the fullest.
fn make_room(shard: &mut Shard, now: u64) {
    shard.retain(|_, full_at| *full_at > now);
    if shard.len() >= MOST_OF_A_SHARD
        && let Some(fullest) = shard.iter().min_by_key(|(_, full_at)| **full_at).map(|(key, _)| *key)
    {
        shard.remove(&fullest);
    }
}

impl Counting {
    fn of(limit: Limit) -> Self {
        let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(&limit);
        let per = u64::try_from(limit.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = (per / u64::from(limit.calls.max(1))).max(1);
        let spare = interval.saturating_mul(u64::from(limit.burst.max(1) - 1));
        Self { limit, number, interval, spare }
    }

    /// Counts a call, or says how long there is no room for it, in nanoseconds.
    fn count(&self, shard: &mut Shard, key: u64, now: u64) -> u64 {
        let known = shard.get_mut(&key);
        let full_at = known.as_ref().map_or(0, |full_at| **full_at);
        let wait = full_at.saturating_sub(now).saturating_sub(self.spare);
        if wait > 0 {
            return wait;
        }
        let full_at = full_at.max(now).saturating_add(self.interval);
        match known {
            Some(known) => *known = full_at,
            None => begin(shard, key, full_at, now),
        }
        0
    }
}

/// Begins a bucket.
#[cold]
fn begin(shard: &mut Shard, key: u64, full_at: u64, now: u64) {
    if shard.len() >= MOST_OF_A_SHARD {
        make_room(shard, now);
    }
    shard.insert(key, full_at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(calls: u32, burst: u32) -> Limit {
        Limit {
            what: Selector { tools: vec!["*".into()], ..Selector::default() },
            calls,
            per: Duration::from_secs(60),
            burst,
            together: false,
        }
    }

    fn call(buckets: &Buckets, user: &str, limits: &Limits, tool: &str) -> Option<u64> {
        let taken = buckets.take("a.example", user, limits, "tools/call", Object::Tool(tool));
        taken.err().map(|refused| refused.after.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_is_emptied_at_once_and_refilled_steadily() {
        let (buckets, limits) = (Buckets::default(), vec![limit(6, 3)].into());
        for expected in [None, None, None, Some(10), Some(10)] {
            assert_eq!(call(&buckets, "alice", &limits, "x"), expected);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        for expected in [None, Some(10)] {
            assert_eq!(call(&buckets, "alice", &limits, "x"), expected);
        }
        tokio::time::advance(Duration::from_secs(600)).await;
        for expected in [None, None, None, Some(10)] {
            assert_eq!(call(&buckets, "alice", &limits, "x"), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn users_tools_and_hosts_have_buckets_of_their_own() {
        let (buckets, limits) = (Buckets::default(), vec![limit(1, 1)].into());
        assert_eq!(call(&buckets, "alice", &limits, "x"), None);
        assert_eq!(call(&buckets, "alice", &limits, "y"), None);
        assert_eq!(call(&buckets, "bob", &limits, "x"), None);
        assert_eq!(call(&buckets, "alice", &limits, "x"), Some(60));
        assert!(buckets.take("b.example", "alice", &limits, "tools/call", Object::Tool("x")).is_ok());
        assert!(buckets.take("a.example", "alice", &limits, "tools/list", Object::Nothing).is_ok());
        let together = vec![Limit { together: true, ..limit(1, 1) }].into();
        assert_eq!(call(&buckets, "alice", &together, "x"), None);
        assert_eq!(call(&buckets, "alice", &together, "y"), Some(60));
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_limit_refuses_counts_for_no_other() {
        let (buckets, wide) = (Buckets::default(), Limit { together: true, ..limit(60, 3) });
        let both = vec![wide.clone(), limit(1, 1)].into();
        assert_eq!(call(&buckets, "alice", &both, "x"), None);
        for _ in 0..10 {
            assert_eq!(call(&buckets, "alice", &both, "x"), Some(60));
        }
        assert_eq!(call(&buckets, "alice", &vec![wide].into(), "y"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn buckets_do_not_grow_beyond_their_bound_and_an_empty_one_stays() {
        let (buckets, limits) = (Buckets::default(), vec![limit(1, 1)].into());
        let wide = vec![limit(60_000, 10)].into();
        assert_eq!(call(&buckets, "alice", &limits, "x"), None);
        for n in 0..MOST * 2 {
            call(&buckets, "alice", &wide, &n.to_string());
        }
        assert!(buckets.len() <= MOST);
        assert_eq!(call(&buckets, "alice", &limits, "x"), Some(60), "who floods the map gains nothing");
    }
}
