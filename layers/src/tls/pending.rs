//! The bound on handshakes that are not done yet.
//!
//! Who opens connections and says nothing must not keep others out. So a full house
//! refuses nobody at the door: the handshake that has been waiting longest goes. A client whose
//! handshake takes a few round trips is hit only by an attacker who opens that many connections
//! within them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{AbortHandle, AbortRegistration};

/// Handshakes under way, in the order in which they began.
// One lock for all workers: it is held for two map operations of a handshake that costs a hundred times as much.
#[derive(Debug)]
pub(super) struct Pending {
    limit: usize,
    handshakes: Mutex<Handshakes>,
}

#[derive(Debug, Default)]
struct Handshakes {
    next: u64,
    waiting: BTreeMap<u64, AbortHandle>,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), handshakes: Mutex::default() }
    }

    /// Lets a handshake in, and the oldest out where there are too many.
    pub(super) fn enter(&self) -> (AbortRegistration, Place<'_>) {
        let (handle, registration) = AbortHandle::new_pair();
        let mut handshakes = self.lock();
        let id = handshakes.next;
        handshakes.next += 1;
        let full = handshakes.waiting.len() >= self.limit;
        let oldest = if full { handshakes.waiting.pop_first() } else { None };
        handshakes.waiting.insert(id, handle);
        drop(handshakes);
        if let Some((_, oldest)) = oldest {
            oldest.abort();
        }
        (registration, Place { pending: self, id })
    }

    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one handshake; leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pending.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{Abortable, Aborted};

    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_when_there_are_too_many() {
        let pending = Pending::new(2);
        let (first, _first) = pending.enter();
        let (second, second_place) = pending.enter();
        drop(second_place);
        let (third, _third) = pending.enter();
        let mut first = Abortable::new(std::future::pending::<()>(), first);
        assert!(!first.is_aborted());
        let (fourth, _fourth) = pending.enter();
        assert_eq!((&mut first).await, Err(Aborted));
        for kept in [second, third, fourth] {
            assert_eq!(Abortable::new(async {}, kept).await, Ok(()));
        }
        assert_eq!(pending.lock().waiting.len(), 2);
    }
}
