//! When it is time for a certificate's successor. Pure.

use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Certificate;

/// What is known of an authority's opinion about when to renew a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// Which certificate it is about, by its fingerprint.
    pub fingerprint: String,
    /// What the authority has said, if it says anything.
    #[serde(default)]
    pub window: Option<Window>,
    /// When to ask again.
    pub ask_at: Timestamp,
}

/// When an authority wants a certificate to be renewed (RFC 9773, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From when on.
    pub start: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// The moment in it that was chosen for this certificate.
    pub at: Timestamp,
    /// Where the authority explains itself.
    #[serde(default)]
    pub explanation: Option<String>,
}

impl Window {
    /// A moment within the window, spread evenly over certificates, and the same however often it is chosen
    /// (section 4.2, which asks for a random one).
    pub fn choose(fingerprint: &str, start: Timestamp, end: Timestamp) -> Timestamp {
        let length = u128::try_from(end.duration_since(start).as_nanos()).unwrap_or(0);
        let part = length * u128::from(spread(fingerprint)) / u128::from(u32::MAX);
        after(start, Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX)))
    }
}

/// When a certificate is to be renewed: when its authority says so, else when the smaller of `before` and a third of
/// its life is left. None when nothing is known of its life.
pub fn renew_at(certificate: &Certificate, advice: Option<&Advice>, before: Duration) -> Option<Timestamp> {
    let (start, end) = (certificate.issued_at?, certificate.expires_at?);
    let fingerprint = certificate.fingerprint.as_deref().unwrap_or_default();
    let life = Duration::try_from(end.duration_since(start)).unwrap_or_default();
    let left = before.min(life / 3);
    // Those that were issued together need not be renewed together: up to a tenth of what is left then, earlier.
    let early = left.mul_f64(0.1 * f64::from(spread(fingerprint)) / f64::from(u32::MAX));
    let latest = end.checked_sub(left).ok()?;
    let by_age = latest.checked_sub(early).ok()?;
    let window =
        advice.filter(|advice| advice.fingerprint == fingerprint).and_then(|advice| advice.window.as_ref());
    // Whatever an authority says, a certificate that ends is no good.
    Some(window.map_or(by_age, |window| window.at.min(latest_moment(end, life))))
}

/// A tenth of its life before the end.
fn latest_moment(end: Timestamp, life: Duration) -> Timestamp {
    end.checked_sub(life / 10).unwrap_or(end)
}

/// How long to wait after so many failures: two minutes, then twice as long each time, up to six hours. At most five
/// attempts fall into one hour, which is what authorities allow a name.
pub fn back_off(failures: u32, fingerprint: &str) -> Duration {
    let base =
        Duration::from_secs(120).saturating_mul(1 << failures.min(8)).min(Duration::from_secs(6 * 3600));
    base + base.mul_f64(0.1 * f64::from(spread(fingerprint)) / f64::from(u32::MAX))
}

/// A number that is spread evenly over certificates.
fn spread(text: &str) -> u32 {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A time so long after another one.
pub(super) fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn day(number: u64) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_secs(number * DAY))
    }

    fn certificate(days: u64) -> Certificate {
        let name = "a".parse().expect("valid");
        Certificate {
            issued_at: Some(day(0)),
            expires_at: Some(day(days)),
            fingerprint: Some("sha256:00".to_owned()),
            ..Certificate::wanted(name, Vec::new())
        }
    }

    #[test]
    fn a_third_of_the_life_is_left_or_the_threshold() {
        let month = Duration::from_secs(30 * DAY);
        for (life, earliest, latest) in [(90, 57, 60), (6, 3, 4), (365, 332, 335), (45, 28, 30)] {
            let at = renew_at(&certificate(life), None, month).expect("known");
            assert!(at >= day(earliest) && at <= day(latest), "{life}: {at}");
        }
        assert_eq!(renew_at(&Certificate { expires_at: None, ..certificate(90) }, None, month), None);
    }

    #[test]
    fn the_authority_knows_better_but_not_later_than_the_end() {
        let month = Duration::from_secs(30 * DAY);
        let advice = |fingerprint: &str, at| Advice {
            fingerprint: fingerprint.to_owned(),
            window: Some(Window { start: at, end: at, at, explanation: None }),
            ask_at: at,
        };
        let own = certificate(90);
        assert_eq!(renew_at(&own, Some(&advice("sha256:00", day(5))), month), Some(day(5)));
        assert_eq!(renew_at(&own, Some(&advice("sha256:00", day(85))), month), Some(day(81)));
        let of_another = renew_at(&own, Some(&advice("sha256:01", day(5))), month).expect("known");
        assert!(of_another > day(50), "{of_another}");
        let silent = Advice { window: None, ..advice("sha256:00", day(5)) };
        assert_eq!(renew_at(&own, Some(&silent), month), renew_at(&own, None, month));
    }

    #[test]
    fn moments_are_spread_over_the_window() {
        let chosen: Vec<_> = (0..100).map(|n| Window::choose(&n.to_string(), day(10), day(20))).collect();
        assert!(chosen.iter().all(|at| (day(10)..=day(20)).contains(at)));
        let early = chosen.iter().filter(|at| **at < day(15)).count();
        assert!((25..75).contains(&early), "{early}");
        assert_eq!(Window::choose("a", day(10), day(20)), Window::choose("a", day(10), day(20)));
        assert_eq!(Window::choose("a", day(20), day(10)), day(20), "a window that is none");
    }

    #[test]
    fn five_attempts_at_most_fall_into_an_hour() {
        let mut time = Duration::ZERO;
        let begun = (0..).map(|failures| {
            let at = time;
            time += back_off(failures, "a");
            at
        });
        assert_eq!(begun.take_while(|at| *at < Duration::from_secs(3600)).count(), 5);
        assert!(back_off(u32::MAX, "a") <= Duration::from_secs(7 * 3600));
    }
}
