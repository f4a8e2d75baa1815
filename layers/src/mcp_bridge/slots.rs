//! How much one subject, and all of them, may hold at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use smol_str::SmolStr;

/// A number of places.
#[derive(Clone)]
pub(super) struct Slots(Arc<Inner>);

struct Inner {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<SmolStr, usize>,
}

/// One place, free again when this is dropped.
pub(super) struct Slot {
    slots: Slots,
    by: SmolStr,
}

impl Slots {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Inner { all, each, taken: Mutex::default() }))
    }

    /// A place, if there is one left for this subject.
    pub(super) fn take(&self, by: &SmolStr) -> Option<Slot> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.0.all || taken.by.get(by).is_some_and(|&own| own >= self.0.each) {
            return None;
        }
        taken.all += 1;
        *taken.by.entry(by.clone()).or_default() += 1;
        Some(Slot { slots: self.clone(), by: by.clone() })
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Slot {
    /// Whose place it is.
    pub(super) fn by(&self) -> &str {
        &self.by
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Entry::Occupied(mut own) = taken.by.entry(self.by.clone()) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("all", &self.0.all).field("each", &self.0.each).finish_non_exhaustive()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_for_each_and_for_all() {
        let slots = Slots::new(3, 2);
        let (ann, bob) = (SmolStr::from("ann"), SmolStr::from("bob"));
        let first = slots.take(&ann).expect("free");
        let _second = slots.take(&ann).expect("free");
        assert!(slots.take(&ann).is_none(), "two are hers");
        let _third = slots.take(&bob).expect("free");
        assert!(slots.take(&bob).is_none(), "three are all");
        drop(first);
        assert!(slots.take(&bob).is_some());
        assert_eq!(slots.in_use(), 2);
    }
}
