//! A bounded cache of what is built for names that anybody may make up.
//!
//! Nothing is built while a lock is held, so one slow build holds up nobody else. A name that was asked for once
//! only competes with others of its kind; names that are asked for again have a place of their own, in two
//! generations, of which the older one goes when the younger one is full. So whoever asks for ever new names makes
//! us build what they ask for, but takes no place from names that are in use.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, so that workers seldom meet at one.
const SHARDS: usize = 16;

/// Values of a shard that were asked for once.
const NEW: usize = 16;
/// Values of a generation, of which a shard has two.
const GENERATION: usize = 24;

/// Keeps a thousand values.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K, V> {
    new: HashMap<K, V>,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        let shard = || Shard { new: HashMap::new(), young: HashMap::new(), old: HashMap::new() };
        Self { shards: std::array::from_fn(|_| Mutex::new(shard())), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    /// The value of a key, built now if it is not there; `None` when it can't be built, which is not kept.
    pub(crate) fn get_or_build(&self, key: &K, build: impl FnOnce() -> Option<V>) -> Option<V> {
        // What is evicted is dropped when the lock is gone: that may take longer than all else.
        let (found, _evicted) = self.shard(key).get(key);
        if found.is_some() {
            return found;
        }
        let built = build()?;
        let mut shard = self.shard(key);
        // Who was faster has given it away already: there is to be one.
        if let Some(other) = shard.peek(key) {
            return Some(other.clone());
        }
        let evicted = shard.insert(key.clone(), built.clone());
        drop(shard);
        drop(evicted);
        Some(built)
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Clone> Shard<K, V> {
    fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key)).or_else(|| self.new.get(key))
    }

    /// The value, which has a place among those that are in use from now on, and what had to go for that.
    fn get(&mut self, key: &K) -> (Option<V>, HashMap<K, V>) {
        if let Some(value) = self.young.get(key) {
            return (Some(value.clone()), HashMap::new());
        }
        let Some((key, value)) = self.old.remove_entry(key).or_else(|| self.new.remove_entry(key)) else {
            return (None, HashMap::new());
        };
        let mut evicted = HashMap::new();
        if self.young.len() >= GENERATION {
            evicted = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        self.young.insert(key, value.clone());
        (Some(value), evicted)
    }

    fn insert(&mut self, key: K, value: V) -> HashMap<K, V> {
        let full = self.new.len() >= NEW;
        let evicted = if full { std::mem::take(&mut self.new) } else { HashMap::new() };
        self.new.insert(key, value);
        evicted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    impl<K, V> Recent<K, V> {
        fn len(&self) -> usize {
            let lens = self.shards.iter().map(|shard| {
                let shard = shard.lock().unwrap();
                shard.new.len() + shard.young.len() + shard.old.len()
            });
            lens.sum()
        }
    }

    #[test]
    fn ever_new_names_take_no_place_from_those_in_use_and_memory_is_bounded() {
        let names = Recent::default();
        let get =
            |name: usize, may_build: bool| names.get_or_build(&name, || may_build.then(|| Arc::new(name)));
        let used = 0..100;
        for name in used.clone() {
            assert!(get(name, true).is_some() && get(name, true).is_some());
        }
        let before: Vec<_> = used.clone().map(|name| get(name, false)).collect();
        for name in 1_000_000..1_100_000 {
            get(name, true).unwrap();
            assert!(names.len() <= 1024);
        }
        for (name, before) in used.zip(before) {
            let now = get(name, false).expect("it is still there");
            assert!(Arc::ptr_eq(&now, &before.unwrap()));
        }
    }

    #[test]
    fn names_that_are_asked_for_again_make_room_for_each_other() {
        let names = Recent::default();
        for name in 0..100_000 {
            for _ in 0..2 {
                names.get_or_build(&name, || Some(name)).unwrap();
            }
            // In use all the time.
            names.get_or_build(&usize::MAX, || (name == 0).then_some(1)).expect("it stays");
            assert!(names.len() <= 1024);
        }
    }

    #[test]
    fn nobody_waits_for_another_build_and_all_get_the_same() {
        const THREADS: usize = 64;
        let names = Arc::new(Recent::default());
        let (all, builds) = (Arc::new(Barrier::new(THREADS)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..THREADS)
            .map(|at| {
                let (names, all, builds) = (Arc::clone(&names), Arc::clone(&all), Arc::clone(&builds));
                thread::spawn(move || {
                    // More names than shards, and each asked for by several: no build ends before all have begun.
                    let name = at % (THREADS / 2);
                    let got = names.get_or_build(&name, || {
                        all.wait();
                        Some(Arc::new(builds.fetch_add(1, Ordering::Relaxed)))
                    });
                    (name, got.unwrap())
                })
            })
            .collect();
        for thread in threads {
            let (name, got) = thread.join().unwrap();
            let now = names.get_or_build(&name, || None).expect("it was kept");
            assert!(Arc::ptr_eq(&got, &now), "{name}");
        }
    }

    #[test]
    fn what_can_not_be_built_is_tried_again() {
        let names = Recent::default();
        assert_eq!(names.get_or_build(&1, || None), None);
        assert_eq!(names.get_or_build(&1, || Some(2)), Some(2));
        assert_eq!(names.get_or_build(&1, || Some(3)), Some(2));
    }
}
