//! How an upstream is, as far as requests tell. It lives as long as the connections to it, across reloads.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use smol_str::SmolStr;
use tokio::time::Instant;
use tracing::{info, warn};

use super::settings::PassiveHealth;
use crate::forward::pool::Endpoint;

/// For how long an upstream that could not be connected to is asked last.
const AVOID: Duration = Duration::from_secs(5);

/// The longest text of a failure that is kept, in bytes.
const MAX_TEXT: usize = 300;

/// What became of the requests to one upstream. Times are milliseconds after `epoch`; 0 is none.
#[derive(Debug)]
pub(in crate::forward) struct Health {
    label: SmolStr,
    epoch: Instant,
    /// Whether it is one of several, or checked: only then every request counts.
    tracked: AtomicBool,
    /// Whether it was ever connected to.
    reached: AtomicBool,
    in_flight: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU64,
    in_row: AtomicU32,
    avoid_until: AtomicU64,
    ejected_until: AtomicU64,
    /// Since when its share grows.
    grows_from: AtomicU64,
    told: Mutex<Told>,
}

/// What is written seldom, and read by people.
#[derive(Debug)]
struct Told {
    since: SystemTime,
    last_failure: Option<(SystemTime, String)>,
    /// Ejections that followed each other closely.
    ejected: u32,
    /// The end of the last one.
    ejected_to: u64,
}

/// What is counted of one upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests on their way, to the last byte of their answers.
    pub in_flight: u32,
    /// Requests that were sent, or meant to be.
    pub requests: u64,
    /// Those that failed: no connection, no answer, one that came too late or that counts as a failure.
    pub failures: u64,
    /// How often it was ejected.
    pub ejections: u64,
}

impl Health {
    pub(in crate::forward) fn new(label: SmolStr, epoch: Instant) -> Self {
        Self {
            label,
            epoch,
            tracked: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            in_row: AtomicU32::new(0),
            avoid_until: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            grows_from: AtomicU64::new(millis(epoch.elapsed())),
            told: Mutex::new(Told {
                since: SystemTime::now(),
                last_failure: None,
                ejected: 0,
                ejected_to: 0,
            }),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the epoch, never 0.
    pub(in crate::forward) fn now(&self) -> u64 {
        millis(self.epoch.elapsed()).max(1)
    }

    pub(super) fn track(&self) {
        self.tracked.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tracked(&self) -> bool {
        self.tracked.load(Ordering::Relaxed)
    }

    pub(super) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            in_flight: self.in_flight(),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            ejections: self.ejections.load(Ordering::Relaxed),
        }
    }

    pub(super) fn since(&self) -> SystemTime {
        self.told().since
    }

    pub(super) fn last_failure(&self) -> Option<(SystemTime, String)> {
        self.told().last_failure.clone()
    }

    /// A connection stands.
    pub(in crate::forward) fn connected(&self) {
        if !self.reached.load(Ordering::Relaxed) {
            self.reached.store(true, Ordering::Relaxed);
        }
        if self.is_unreachable() && self.avoid_until.swap(0, Ordering::Relaxed) != 0 {
            self.grow();
            self.changed("reachable");
        }
    }

    /// No connection can be made: it is asked last for a while.
    pub(in crate::forward) fn avoid(&self) {
        let before = self.avoid_until.swap(self.now() + millis(AVOID), Ordering::Relaxed);
        if before == 0 && self.is_tracked() {
            self.told().since = SystemTime::now();
            warn!(upstream = %self.label, state = "unreachable", "upstream changed its state");
        }
    }

    /// Whether connecting failed a moment ago.
    pub(super) fn is_avoided(&self, now: impl FnOnce() -> u64) -> bool {
        let until = self.avoid_until.load(Ordering::Relaxed);
        until != 0 && now() < until
    }

    /// Takes note that a request goes there. Where connecting failed, it is the only one for a while: an upstream that
    /// answers to nothing costs each of them the time that connecting may take.
    pub(super) fn picked(&self) {
        let until = self.avoid_until.load(Ordering::Relaxed);
        if until != 0 {
            let now = self.now();
            if until <= now {
                let next = now + millis(AVOID);
                let _lost =
                    self.avoid_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Whether connecting has failed, and has not worked since.
    pub(super) fn is_unreachable(&self) -> bool {
        self.avoid_until.load(Ordering::Relaxed) != 0
    }

    /// Its share begins to grow.
    pub(super) fn grow(&self) {
        self.grows_from.store(self.now(), Ordering::Relaxed);
    }

    /// How much of its share it has by now.
    #[expect(clippy::cast_precision_loss, reason = "times are short")]
    pub(super) fn grown(&self, window: Duration, now: u64) -> f64 {
        let (age, window) = (now.saturating_sub(self.grows_from.load(Ordering::Relaxed)), millis(window));
        // Never nothing: who gets nothing can't show that it is well.
        if age >= window { 1.0 } else { (age as f64 / window as f64).max(0.1) }
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        if self.in_row.load(Ordering::Relaxed) != 0 {
            self.in_row.store(0, Ordering::Relaxed);
        }
        // By a connection that had stood all the time.
        if self.is_unreachable() {
            self.connected();
        }
    }

    /// A request failed; tells how many have, one after the other.
    pub(in crate::forward) fn failed(&self, why: &dyn Error) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.told().last_failure = Some((SystemTime::now(), text_of(why)));
        self.in_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Gives it nothing for a while.
    pub(super) fn eject(&self, settings: &PassiveHealth) {
        let now = self.now();
        let mut told = self.told();
        if now.saturating_sub(told.ejected_to) > millis(settings.max_ejection) {
            told.ejected = 0;
        }
        told.ejected += 1;
        let time = settings.ejection.saturating_mul(told.ejected).min(settings.max_ejection);
        told.ejected_to = now + millis(time).max(1);
        told.since = SystemTime::now();
        let why = told.last_failure.as_ref().map(|(_, why)| why.clone());
        self.ejected_until.store(told.ejected_to, Ordering::Relaxed);
        drop(told);
        self.in_row.store(0, Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        warn!(
            upstream = %self.label,
            state = "ejected",
            seconds = time.as_secs_f64(),
            error = why,
            "upstream changed its state"
        );
    }

    /// Whether it is ejected. Who notices first that this is over says so.
    pub(super) fn is_ejected(&self, now: impl FnOnce() -> u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        if now() < until {
            return true;
        }
        if self.ejected_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.grows_from.fetch_max(until, Ordering::Relaxed);
            self.changed("returned");
        }
        false
    }

    /// When it is to have requests again.
    pub(super) fn ejected_until(&self) -> Option<SystemTime> {
        let left = self.ejected_until.load(Ordering::Relaxed).checked_sub(self.now())?;
        Some(SystemTime::now() + Duration::from_millis(left))
    }

    fn changed(&self, state: &'static str) {
        self.told().since = SystemTime::now();
        if self.is_tracked() {
            info!(upstream = %self.label, state, "upstream changed its state");
        }
    }
}

/// A request on its way to an upstream. It is over when this is dropped.
#[derive(Debug)]
pub(in crate::forward) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.health.in_flight.fetch_add(1, Ordering::Relaxed);
        endpoint.health.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.health.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An error with its causes, as one bounded text. There is nothing of a request in the errors of connections.
pub(super) fn text_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a text can't fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
