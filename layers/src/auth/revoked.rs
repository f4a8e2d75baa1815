//! The ids of tokens that were revoked before they expired.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use smol_str::SmolStr;

/// Ids are kept this much longer than the token lives, in seconds: more than any leeway of a verifier.
const SLACK: u64 = 600;

/// How many ids are kept unless another number is asked for: about 16 MiB.
const CAPACITY: usize = 1 << 17;

/// The revoked token ids, shared by every verifier of a process.
///
/// Bounded: when it is full, the ids of the tokens that expire first make room, and from then on every
/// token that expires so early is refused. So a revoked token never comes back, at the price that some
/// good ones have to be renewed early. A look-up of a verifier's cache costs one atomic load, because
/// the lock is taken only after a revocation.
#[derive(Debug)]
pub struct Revoked {
    // Moves after each revocation, so that cached verdicts are looked at again.
    generation: AtomicU64,
    set: RwLock<Set>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Set {
    expiries: HashMap<SmolStr, u64>,
    // Tokens that expire at this time or before are refused.
    floor: u64,
}

impl Default for Revoked {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Revoked {
    /// An empty set for this many ids.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { generation: AtomicU64::new(0), set: RwLock::default(), capacity: capacity.max(1) }
    }

    /// Revokes a token by its `jti`, until its `exp` (seconds since 1970).
    pub fn revoke(&self, token_id: impl Into<SmolStr>, expires_at: u64, now: u64) {
        self.extend([(token_id.into(), expires_at)], now);
    }

    /// Revokes many tokens at once.
    pub fn extend(&self, tokens: impl IntoIterator<Item = (SmolStr, u64)>, now: u64) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        for (token_id, expires_at) in tokens {
            // What is below the floor is refused anyway: read again, it must not push the floor up.
            if expires_at.saturating_add(SLACK) <= now || expires_at <= set.floor {
                continue;
            }
            set.expiries.insert(token_id, expires_at);
            if set.expiries.len() > self.capacity {
                set.make_room(now, self.capacity);
            }
        }
        drop(set);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Forgets the ids of tokens that have expired.
    pub fn purge(&self, now: u64) {
        self.set.write().unwrap_or_else(PoisonError::into_inner).purge(now);
    }

    /// Whether a token is revoked.
    pub fn contains(&self, token_id: Option<&str>, expires_at: u64) -> bool {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        expires_at <= set.floor || token_id.is_some_and(|id| set.expiries.contains_key(id))
    }

    /// All revoked ids with the expiry of their tokens, e.g. to keep them over a restart.
    pub fn list(&self) -> Vec<(SmolStr, u64)> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        set.expiries.iter().map(|(id, expires_at)| (id.clone(), *expires_at)).collect()
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.set.read().unwrap_or_else(PoisonError::into_inner).expiries.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Set {
    fn purge(&mut self, now: u64) {
        self.expiries.retain(|_, expires_at| expires_at.saturating_add(SLACK) > now);
    }

    /// Frees a sixteenth at once, so that a full set does not pay for each further id.
    fn make_room(&mut self, now: u64, capacity: usize) {
        self.purge(now);
        if self.expiries.len() <= capacity {
            return;
        }
        let mut expiries: Vec<u64> = self.expiries.values().copied().collect();
        let (_, floor, _) = expiries.select_nth_unstable(capacity / 16);
        self.floor = self.floor.max(*floor);
        self.expiries.retain(|_, expires_at| *expires_at > self.floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_forgotten_after_their_tokens_have_expired() {
        let revoked = Revoked::default();
        revoked.revoke("a", 1_000, 0);
        revoked.revoke("late", 10, 5_000);
        assert!(revoked.contains(Some("a"), 1_000) && !revoked.contains(Some("b"), 1_000));
        assert!(!revoked.contains(None, 1_000));
        assert_eq!(revoked.len(), 1, "a token that has long expired needs no place");
        revoked.purge(1_000);
        assert_eq!(revoked.list(), [("a".into(), 1_000)]);
        revoked.purge(1_000 + SLACK);
        assert!(revoked.is_empty());
    }

    #[test]
    fn a_full_set_forgets_no_revocation() {
        let revoked = Revoked::with_capacity(32);
        for n in 0..100_u64 {
            revoked.revoke(n.to_string(), 10_000 + n, 0);
        }
        assert!(revoked.len() <= 32);
        for n in 0..100_u64 {
            assert!(revoked.contains(Some(&n.to_string()), 10_000 + n), "{n} came back");
        }
        assert!(!revoked.contains(Some("other"), 20_000));
        let kept = revoked.list();
        for n in 0..100_u64 {
            revoked.revoke(n.to_string(), 10_000 + n, 0);
        }
        assert_eq!(revoked.len(), kept.len(), "read again, it changes nothing");
    }

    #[test]
    fn each_revocation_moves_the_generation() {
        let revoked = Revoked::default();
        let before = revoked.generation();
        revoked.revoke("a", 1_000, 0);
        assert_ne!(revoked.generation(), before);
    }
}
