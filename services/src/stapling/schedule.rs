//! When a responder is asked again. Pure: chance is an argument, from 0 to 1.

use std::time::Duration;

use jiff::Timestamp;

use super::response::Verdict;

/// However soon an answer ends, its responder is left alone for this long.
const SHORTEST: Duration = Duration::from_secs(10);

/// However long an answer lasts, it is asked again after this: what is revoked must become known.
const LONGEST: Duration = Duration::from_secs(4 * 86_400);

/// The pause after a failure: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// After an answer: in the middle of its time, give or take a tenth of it. One that is past its middle already, as those
/// out of caches are, has half of what is left.
pub(super) fn after_answer(verdict: &Verdict, now: Timestamp, chance: f64) -> Timestamp {
    let length = |from: Timestamp| Duration::try_from(verdict.until.duration_since(from)).unwrap_or_default();
    let part = chance.mul_add(0.2, 0.4);
    let in_whole = after(verdict.this_update, length(verdict.this_update).mul_f64(part));
    let in_rest = after(now, length(now).mul_f64(part));
    let at = if in_whole > now { in_whole } else { in_rest };
    at.clamp(after(now, SHORTEST), after(now, LONGEST))
}

/// After so many failures, one at least: a pause that doubles each time, and up to a quarter more.
pub(super) fn after_failure(failures: u32, now: Timestamp, chance: f64) -> Timestamp {
    let doubled = PAUSE.0.saturating_mul(1 << failures.saturating_sub(1).min(16));
    after(now, doubled.min(PAUSE.1).mul_f64(chance.mul_add(0.25, 1.0)))
}

/// A time so long after another one.
pub(super) fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn verdict(this_update: i64, until: i64) -> Verdict {
        Verdict { revoked_at: None, this_update: at(this_update), until: at(until) }
    }

    #[test]
    fn an_answer_is_refreshed_around_its_middle() {
        let days = verdict(0, 100 * HOUR);
        for (chance, hour) in [(0.0, 40), (0.5, 50), (1.0, 60)] {
            assert_eq!(after_answer(&days, at(HOUR), chance), at(hour * HOUR));
        }
        // Past its middle: half of the rest.
        assert_eq!(after_answer(&days, at(80 * HOUR), 0.5), at(90 * HOUR));
        assert_eq!(after_answer(&verdict(0, 60), at(0), 0.5), at(30));
        // Never at once, and never much later.
        assert_eq!(after_answer(&verdict(0, 60), at(59), 1.0), at(69));
        assert_eq!(after_answer(&verdict(0, 9000 * HOUR), at(0), 0.5), at(96 * HOUR));
    }

    #[test]
    fn failures_are_further_and_further_apart() {
        let pause = |failures, chance| after_failure(failures, at(0), chance).as_second();
        assert_eq!([1, 2, 3, 4].map(|failures| pause(failures, 0.0)), [5, 10, 20, 40]);
        assert_eq!((pause(0, 0.0), pause(100, 0.0), pause(u32::MAX, 1.0)), (5, 3600, 4500));
    }
}
