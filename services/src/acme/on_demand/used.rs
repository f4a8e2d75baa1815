//! When it was last noted that a name is used.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::after;

/// How often it is noted that a name is used.
const DAY: Duration = Duration::from_secs(86_400);

/// Until when nobody needs to note again that a name is used: as many as there are names, and each handshake looks at
/// its own one only.
#[derive(Debug)]
pub struct Noted(AtomicI64);

impl Default for Noted {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Noted {
    /// Whether it is to be noted.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        is_due(self.0.load(Ordering::Relaxed), now)
    }

    /// The same for one caller only: whoever gets `true` is to note it.
    pub(super) fn claim(&self, now: Timestamp) -> bool {
        let until = self.0.load(Ordering::Relaxed);
        let next = after(now, DAY).as_second();
        is_due(until, now)
            && self.0.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// It could not be noted: somebody is to try again then.
    pub(super) fn retry_at(&self, then: Timestamp) {
        self.0.store(then.as_second(), Ordering::Relaxed);
    }
}

/// A clock that was set back does not make a name look unused for years.
fn is_due(until: i64, now: Timestamp) -> bool {
    until <= now.as_second() || until > after(now, DAY).as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_day_is_to_note_it() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let noted = Noted::default();
        assert!(noted.is_due(at(0)) && noted.claim(at(0)));
        assert!(!noted.is_due(at(0)) && !noted.claim(at(86_399)));
        assert!(noted.claim(at(86_400)));
        noted.retry_at(at(86_460));
        assert!(!noted.claim(at(86_459)));
        assert!(noted.claim(at(86_460)));
        assert!(noted.is_due(at(0)), "a clock that was set back");
    }
}
