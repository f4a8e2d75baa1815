//! Tokens that were verified already, so that a signature is checked once per token and not once per request.
//!
//! Found by a random-keyed hash, believed only after all bytes were compared. What can change after a
//! token was verified (time, keys, revocations) is not decided here: an entry carries what it was
//! verified against, and the verifier compares. Failures are not kept.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::token::Verified;

/// Tokens of usual size times the number of entries; longer tokens get fewer places.
const BYTES_PER_ENTRY: usize = 1024;

/// One worker's cache, in two generations: what was not asked for while one filled up is forgotten with the next.
#[derive(Debug)]
pub(super) struct TokenCache {
    young: Tokens,
    old: Tokens,
    young_bytes: usize,
    // Of each generation.
    entries: usize,
}

type Tokens = HashMap<u64, Entry, BuildHasherDefault<AlreadyHashed>>;

#[derive(Debug)]
pub(super) struct Entry {
    token: Box<str>,
    pub(super) verified: Arc<Verified>,
    /// Which issuer's keys it was verified with, and their generation at that time.
    pub(super) issuer: usize,
    pub(super) keys: u64,
    /// The generation of revocations at which it was last found not revoked.
    pub(super) revoked: u64,
}

impl Entry {
    pub(super) fn new(token: &str, verified: Arc<Verified>, issuer: usize, keys: u64, revoked: u64) -> Self {
        Self { token: token.into(), verified, issuer, keys, revoked }
    }
}

impl TokenCache {
    /// A cache for about this many tokens.
    pub(super) fn new(entries: usize) -> Self {
        let half = (entries / 2).max(1);
        Self { young: Tokens::default(), old: Tokens::default(), young_bytes: 0, entries: half }
    }

    /// Finds a token.
    pub(super) fn get(&mut self, hash: u64, token: &str) -> Option<&mut Entry> {
        if self.young.get(&hash).is_none_or(|entry| *entry.token != *token) {
            if self.old.get(&hash).is_none_or(|entry| *entry.token != *token) {
                return None;
            }
            let entry = self.old.remove(&hash)?;
            self.insert(hash, entry);
        }
        self.young.get_mut(&hash)
    }

    /// Keeps a token; one with the same hash makes room.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        let full = self.young.len() >= self.entries || self.young_bytes >= self.entries * BYTES_PER_ENTRY;
        if full {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.young_bytes = 0;
        }
        self.young_bytes += entry.token.len();
        self.young.insert(hash, entry);
    }

    /// Forgets a token.
    pub(super) fn remove(&mut self, hash: u64) {
        self.young.remove(&hash);
        self.old.remove(&hash);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Principal;

    fn entry(token: &str) -> Entry {
        Entry::new(token, Arc::new(Verified::new(Principal::default(), 0)), 0, 0, 0)
    }

    #[test]
    fn a_hash_alone_is_no_proof() {
        let mut cache = TokenCache::new(8);
        cache.insert(1, entry("a"));
        assert!(cache.get(1, "a").is_some());
        assert!(cache.get(1, "b").is_none(), "another token with the same hash was believed");
        cache.insert(1, entry("b"));
        assert!(cache.get(1, "b").is_some() && cache.get(1, "a").is_none());
    }

    #[test]
    fn the_number_of_tokens_is_bounded_and_those_in_use_stay() {
        let mut cache = TokenCache::new(16);
        for n in 0..1_000_u64 {
            cache.insert(n, entry(&n.to_string()));
            assert!(n == 0 || cache.get(0, "0").is_some(), "the token in use was forgotten at {n}");
            assert!(cache.len() <= 17, "{} tokens", cache.len());
        }
        assert!(cache.get(1, "1").is_none());
    }

    #[test]
    fn the_bytes_of_tokens_are_bounded() {
        let mut cache = TokenCache::new(8);
        for n in 0..100 {
            cache.insert(n, entry(&"x".repeat(3 * BYTES_PER_ENTRY)));
        }
        assert!(cache.len() <= 4, "{} long tokens", cache.len());
    }

    #[test]
    fn a_removed_token_is_gone_from_both_generations() {
        let mut cache = TokenCache::new(2);
        cache.insert(1, entry("a"));
        cache.insert(2, entry("b"));
        cache.remove(1);
        cache.remove(2);
        assert_eq!(cache.len(), 0);
    }
}
