//! State that each worker thread has a piece of: pools, caches, log buffers.
//!
//! A lock around each piece keeps the type safe wherever it is called from, and costs a few
//! instructions, because a worker meets nobody at its own piece.

use std::cell::Cell;
use std::fmt;
use std::sync::{Mutex, PoisonError};

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Names the current thread as worker `index`. Call once, first thing in the thread.
pub fn enter_worker(index: usize) {
    WORKER.set(index);
}

/// The index of the current worker; 0 on a thread that never called [`enter_worker`].
pub fn current_worker() -> usize {
    WORKER.get()
}

/// One `T` for each worker.
pub struct PerWorker<T>(Box<[Shard<T>]>);

// A cache line of its own for each worker, so that neighbours don't slow each other down.
#[repr(align(128))]
struct Shard<T>(Mutex<T>);

impl<T> PerWorker<T> {
    /// Makes the pieces; an index beyond them wraps around.
    pub fn new(workers: usize, make: impl FnMut() -> T) -> Self {
        let mut make = make;
        Self((0..workers.max(1)).map(|_| Shard(Mutex::new(make()))).collect())
    }

    /// The number of pieces.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: there is always at least one piece.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Works on the current worker's piece.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        self.with_shard(current_worker(), work)
    }

    /// Works on the piece of a given worker.
    pub fn with_shard<R>(&self, index: usize, work: impl FnOnce(&mut T) -> R) -> R {
        let shard = &self.0[index % self.0.len()];
        work(&mut shard.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Works on every piece in turn.
    pub fn for_each(&self, mut work: impl FnMut(&mut T)) {
        for index in 0..self.0.len() {
            self.with_shard(index, &mut work);
        }
    }
}

impl<T> fmt::Debug for PerWorker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerWorker").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_works_on_its_own_piece() {
        let counts = PerWorker::new(2, || 0);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let counts = &counts;
                scope.spawn(move || {
                    enter_worker(worker);
                    for _ in 0..=worker {
                        counts.with(|count| *count += 1);
                    }
                });
            }
        });
        let mut seen = Vec::new();
        counts.for_each(|count| seen.push(*count));
        assert_eq!(seen, [1, 2]);
    }
}
