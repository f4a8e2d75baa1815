//! Request ids: a random prefix and a counter for each thread, so that making one costs nothing.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use crate::context::RequestId;

thread_local! {
    static NEXT: Cell<RequestId> = Cell::new(RequestId(prefix(), 0));
}

/// The next id of this thread. Ids are unique, not secret.
pub(super) fn next() -> RequestId {
    let id = NEXT.get();
    NEXT.set(RequestId(id.0, id.1.wrapping_add(1)));
    id
}

/// The standard library seeds this hasher from the operating system; the time tells threads apart
/// that would share a seed.
fn prefix() -> u64 {
    RandomState::new().hash_one((SystemTime::now(), std::thread::current().id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_make_the_same_id() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..100).map(|_| next()).collect::<Vec<_>>())).collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
