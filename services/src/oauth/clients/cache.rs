//! What was fetched, kept by the rules of HTTP (RFC 9111) within bounds of our own.
//!
//! One fetch runs for a URL, however many ask for it: its failure is that of all who came while it ran, and of nobody
//! who comes later, so that whoever mends a document is seen to have done so. Who must not be called without end has
//! a [back-off](HttpCache::backing_off). A failure never replaces what is still fresh.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use super::ssrf::{Answer, FetchError, Guard, HttpsUrl};

/// Unless the host says how long.
const USUAL: Duration = Duration::from_secs(10 * 60);

/// Whatever the host says: at least this long, or every request could cost a fetch,
const SHORTEST: Duration = Duration::from_secs(60);

/// and at most this long, so that a client that was taken over can be taken back.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a value of a document.
type Parse<T, E> = fn(&HttpsUrl, &[u8]) -> Result<T, E>;

/// Values by URL.
pub(super) struct HttpCache<T, E> {
    guard: Arc<Guard>,
    parse: Parse<T, E>,
    capacity: usize,
    back_off: Duration,
    slots: Mutex<HashMap<String, Arc<Slot<T, E>>>>,
}

struct Slot<T, E> {
    used_at: AtomicI64,
    /// How many fetches have come to an end.
    ended: AtomicU64,
    // Held during a fetch: who waits for it finds what came of it.
    state: tokio::sync::Mutex<State<T, E>>,
}

struct State<T, E> {
    good: Option<Good<T>>,
    failed: Option<Failed<E>>,
}

/// The last fetch, if it failed.
struct Failed<E> {
    /// Which one of [`Slot::ended`] it was.
    number: u64,
    /// When it may be tried again.
    until: Timestamp,
    error: Arc<CacheError<E>>,
}

struct Good<T> {
    value: Arc<T>,
    etag: Option<HeaderValue>,
    fetched_at: Timestamp,
    fresh_until: Timestamp,
}

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum CacheError<E> {
    /// It could not be fetched. Why is for logs: who chooses the URL must not learn which names and addresses there
    /// are where only we can look.
    #[error("it can't be fetched")]
    Fetch(#[source] FetchError),
    /// What was fetched is not good.
    #[error("{0}")]
    Invalid(E),
    /// All places are taken by fetches that are under way, or there were too many.
    #[error("too many documents are being fetched")]
    Busy,
}

impl<T, E> HttpCache<T, E> {
    pub(super) fn new(guard: Arc<Guard>, capacity: usize, parse: Parse<T, E>) -> Self {
        Self { guard, parse, capacity, back_off: Duration::ZERO, slots: Mutex::default() }
    }

    /// Does not try again what has just failed: for URLs that anybody can have us fetch by asking something else.
    #[must_use]
    pub(super) fn backing_off(self, pause: Duration) -> Self {
        Self { back_off: pause, ..self }
    }

    /// The value at a URL, fetched if there is none that is fresh.
    pub(super) async fn get(&self, url: &HttpsUrl, now: Timestamp) -> Result<Arc<T>, Arc<CacheError<E>>> {
        self.get_newer(url, Timestamp::MIN, now).await
    }

    /// Whether [`get`](Self::get) would answer without another fetch: by what is fresh, by a failure that is not
    /// to be tried again yet, or by the fetch that is under way.
    pub(super) fn is_known(&self, url: &HttpsUrl, now: Timestamp) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(url.as_str()).is_some_and(|slot| {
            slot.state.try_lock().map_or(true, |state| {
                state.good.as_ref().is_some_and(|good| now < good.fresh_until)
                    || state.failed.as_ref().is_some_and(|failed| now < failed.until)
            })
        })
    }

    /// What was fetched last from a URL, fresh or not, if it is still kept.
    pub(super) async fn last(&self, url: &HttpsUrl) -> Option<Arc<T>> {
        let slot = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.get(url.as_str())?)
        };
        let state = slot.state.lock().await;
        state.good.as_ref().map(|good| Arc::clone(&good.value))
    }

    /// The value at a URL, fetched unless one was since `since`. If that fails, what is fresh still counts.
    pub(super) async fn get_newer(
        &self,
        url: &HttpsUrl,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Arc<T>, Arc<CacheError<E>>> {
        self.get_newer_if(url, since, now, || true).await
    }

    /// The same, but that it is asked before a fetch whether there may be one. If not, what is fresh still counts.
    pub(super) async fn get_newer_if(
        &self,
        url: &HttpsUrl,
        since: Timestamp,
        now: Timestamp,
        may_fetch: impl FnOnce() -> bool,
    ) -> Result<Arc<T>, Arc<CacheError<E>>> {
        let slot = self.slot(url, now).ok_or_else(|| Arc::new(CacheError::Busy))?;
        let ended = slot.ended.load(Ordering::Acquire);
        let state = &mut *slot.state.lock().await;
        let fresh = state.good.as_ref().filter(|good| now < good.fresh_until);
        if let Some(good) = fresh
            && good.fetched_at >= since
        {
            return Ok(Arc::clone(&good.value));
        }
        let fresh = fresh.map(|good| Arc::clone(&good.value));
        if let Some(failed) = &state.failed
            && (failed.number > ended || now < failed.until)
        {
            return fresh.ok_or_else(|| Arc::clone(&failed.error));
        }
        if !may_fetch() {
            return fresh.ok_or_else(|| Arc::new(CacheError::Busy));
        }
        let outcome = self.fetch(url, state.good.as_ref(), now).await;
        let number = slot.ended.fetch_add(1, Ordering::AcqRel) + 1;
        match outcome {
            Ok(good) => {
                let value = Arc::clone(&good.value);
                *state = State { good: Some(good), failed: None };
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                let until = later(now, self.back_off);
                state.failed = Some(Failed { number, until, error: Arc::clone(&error) });
                fresh.ok_or(error)
            }
        }
    }

    async fn fetch(
        &self,
        url: &HttpsUrl,
        known: Option<&Good<T>>,
        now: Timestamp,
    ) -> Result<Good<T>, CacheError<E>> {
        let asked = known.and_then(|known| known.etag.as_ref());
        let answer = self.guard.get(url, asked).await.map_err(CacheError::Fetch)?;
        let until = |max_age: Option<Duration>| later(now, max_age.unwrap_or(USUAL).clamp(SHORTEST, LONGEST));
        match (answer, known) {
            (Answer::Document { body, etag, max_age }, _) => {
                let value = Arc::new((self.parse)(url, &body).map_err(CacheError::Invalid)?);
                Ok(Good { value, etag, fetched_at: now, fresh_until: until(max_age) })
            }
            (Answer::NotModified { max_age }, Some(known)) => Ok(Good {
                value: Arc::clone(&known.value),
                etag: known.etag.clone(),
                fetched_at: now,
                fresh_until: until(max_age),
            }),
            (Answer::NotModified { .. }, None) => {
                Err(CacheError::Fetch(FetchError::Status(http::StatusCode::NOT_MODIFIED)))
            }
        }
    }

    /// The place for a URL. When all are taken the one that was used longest ago goes, those without a value first.
    fn slot(&self, url: &HttpsUrl, now: Timestamp) -> Option<Arc<Slot<T, E>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(url.as_str()) {
            slot.used_at.store(now.as_second(), Ordering::Relaxed);
            return Some(Arc::clone(slot));
        }
        if slots.len() >= self.capacity {
            let idle = slots.iter().filter(|(_, slot)| Arc::strong_count(slot) == 1);
            let worth = |slot: &Slot<T, E>| {
                let good = slot.state.try_lock().is_ok_and(|state| state.good.is_some());
                (good, slot.used_at.load(Ordering::Relaxed))
            };
            let least = idle.min_by_key(|(_, slot)| worth(slot)).map(|(url, _)| url.clone())?;
            slots.remove(&least);
        }
        let state = tokio::sync::Mutex::new(State { good: None, failed: None });
        let used_at = AtomicI64::new(now.as_second());
        let slot = Arc::new(Slot { used_at, ended: AtomicU64::new(0), state });
        slots.insert(url.as_str().to_owned(), Arc::clone(&slot));
        Some(slot)
    }

    /// How many have the place of a URL in hand.
    #[cfg(test)]
    fn waiting(&self, url: &HttpsUrl) -> usize {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(url.as_str()).map_or(0, |slot| Arc::strong_count(slot) - 1)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl<T, E> fmt::Debug for HttpCache<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// A time that much later, or the last one there is.
pub(super) fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add(jiff::SignedDuration::try_from(pause).unwrap_or(jiff::SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
