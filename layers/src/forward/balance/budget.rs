//! How many requests may be sent again: a share of those that came in the last seconds, and a few beside them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::settings::Retries;

/// How many seconds are counted.
const WINDOW: u64 = 10;

/// Counts what happened in each of the last seconds. When one ends while somebody counts, a count may be lost.
#[derive(Debug, Default)]
pub(super) struct Budget {
    seconds: [Second; WINDOW as usize],
}

#[derive(Debug, Default)]
struct Second {
    /// Which one, plus one.
    at: AtomicU64,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl Budget {
    fn second(&self, now: u64) -> &Second {
        let second = &self.seconds[(now % WINDOW) as usize];
        let at = second.at.load(Ordering::Relaxed);
        if at != now + 1
            && second.at.compare_exchange(at, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            second.requests.store(0, Ordering::Relaxed);
            second.retries.store(0, Ordering::Relaxed);
        }
        second
    }

    /// Notes a request, at this second.
    pub(super) fn deposit(&self, now: u64) {
        self.second(now).requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a retry out, if there is one left.
    pub(super) fn withdraw(&self, now: u64, retries: &Retries) -> bool {
        let this = self.second(now);
        let (mut asked, mut spent) = (0, 0);
        for second in &self.seconds {
            if second.at.load(Ordering::Relaxed) + WINDOW > now + 1 {
                asked += u64::from(second.requests.load(Ordering::Relaxed));
                spent += u64::from(second.retries.load(Ordering::Relaxed));
            }
        }
        let allowed = asked * u64::from(retries.percent) / 100 + u64::from(retries.per_second) * WINDOW;
        let is_left = spent < allowed;
        if is_left {
            this.retries.fetch_add(1, Ordering::Relaxed);
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(budget: &Budget, now: u64, retries: &Retries) -> usize {
        std::iter::repeat_with(|| budget.withdraw(now, retries)).take_while(|left| *left).take(10_000).count()
    }

    #[test]
    fn retries_are_a_share_of_what_came_lately_and_a_few() {
        let retries = Retries { percent: 20, per_second: 1, ..Retries::default() };
        let budget = Budget::default();
        assert_eq!(spend(&budget, 0, &retries), 10);
        for now in 0..5 {
            (0..100).for_each(|_| budget.deposit(now));
        }
        assert_eq!(spend(&budget, 5, &retries), 100);
        assert_eq!(spend(&budget, 9, &retries), 0);
        // The requests are forgotten one second after the other, and so is what was spent.
        assert_eq!(spend(&budget, 15, &retries), 10);
        assert_eq!(spend(&budget, 1000, &retries), 10);
        let none = Retries { percent: 0, per_second: 0, ..Retries::default() };
        assert_eq!(spend(&Budget::default(), 0, &none), 0);
    }
}
