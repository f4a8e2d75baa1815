//! What was found, kept for a while. One looks at a time; who comes meanwhile gets what that one finds.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A finding about something that is told apart by `K`.
#[derive(Debug)]
pub(super) struct Kept<K, T> {
    // Held while somebody looks. Who goes away meanwhile leaves nothing.
    last: Mutex<Option<(Instant, K, T)>>,
}

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self { last: Mutex::new(None) }
    }
}

impl<K: PartialEq, T: Clone> Kept<K, T> {
    /// What was found of `key` within `age`, or is found now.
    pub(super) async fn get(&self, key: K, age: Duration, look: impl Future<Output = T>) -> T {
        let mut last = self.last.lock().await;
        if let Some((at, of, found)) = &*last
            && *of == key
            && at.elapsed() < age
        {
            return found.clone();
        }
        let found = look.await;
        *last = Some((Instant::now(), key, found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const AGE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn one_looks_for_all_and_what_it_finds_ages() {
        let (kept, looks) = (Kept::default(), AtomicU32::new(0));
        let look = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            looks.fetch_add(1, Ordering::Relaxed) + 1
        };
        let both = tokio::join!(kept.get("a", AGE, look()), kept.get("a", AGE, look()));
        assert_eq!(both, (1, 1));
        assert_eq!(kept.get("b", AGE, look()).await, 2, "something else");
        tokio::time::advance(AGE).await;
        assert_eq!(kept.get("b", AGE, look()).await, 3);
    }
}
