//! Who is next: turns by weight, and the upstream of a key. Apart from the turns it is pure; nothing waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// The turn of an upstream of weight 1 is as long as this. Small enough for years of turns, large enough for weights.
const SCALE: f64 = (1 << 20) as f64;

/// Gives each upstream its turns, by weights that may change at any time.
///
/// An upstream's turns follow each other on a line, each as long as its weight is small, and whoever's next turn has the
/// earliest middle comes next. So the turns of one are spread evenly between those of the others. Whoever was left out
/// for a while goes on where the others are now, and has nothing to make up for.
#[derive(Debug)]
pub(super) struct Turns {
    /// Where the next turn of each begins.
    begins: Box<[AtomicU64]>,
    /// How far all are.
    now: AtomicU64,
}

impl Turns {
    pub(super) fn new(count: usize) -> Self {
        Self { begins: (0..count).map(|_| AtomicU64::new(0)).collect(), now: AtomicU64::new(0) }
    }

    /// The middle of the next turn: the smallest one is next.
    pub(super) fn next(&self, index: usize, weight: f64) -> u64 {
        let length = length(weight);
        self.begin(self.begins[index].load(Ordering::Relaxed), length) + length / 2
    }

    /// Takes a turn, whose middle was this when it was chosen. Of two that do so at the same time each gets one.
    pub(super) fn take(&self, index: usize, weight: f64, middle: u64) {
        let (begins, length) = (&self.begins[index], length(weight));
        let known = begins.load(Ordering::Relaxed);
        let begin = self.begin(known, length);
        if begins.compare_exchange(known, begin + length, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            begins.fetch_add(length, Ordering::Relaxed);
        }
        self.now.fetch_max(middle, Ordering::Relaxed);
    }

    fn begin(&self, begin: u64, length: u64) -> u64 {
        let now = self.now.load(Ordering::Relaxed);
        // The next turn of whoever takes part ends after the middle of the last one that anybody took.
        if begin + length < now { now } else { begin }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 1 to 10000 times the scale"
)]
fn length(weight: f64) -> u64 {
    (SCALE / weight.max(0.0001)).max(1.0) as u64
}

/// How well an upstream fits a key: the largest number wins (weighted rendezvous hashing). When one comes or goes, only
/// the keys that it wins move, and each has its share of them by weight.
#[expect(clippy::cast_precision_loss, reason = "53 bits are there")]
pub(super) fn fit(key: u64, upstream: u64, weight: f64) -> f64 {
    let hash = mix(key ^ mix(upstream)) >> 11;
    // In the open interval from 0 to 1: its logarithm is below 0.
    let part = (hash as f64 + 0.5) / (1_u64 << 53) as f64;
    weight / -part.ln()
}

/// A number for a text, the same on all nodes and in all releases (FNV-1a).
pub(super) fn number(text: &[u8]) -> u64 {
    let of = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(text.iter().fold(0xcbf2_9ce4_8422_2325, of))
}

/// Spreads what differs in a few bits over all of them (the finalizer of SplitMix64).
pub(super) const fn mix(mut number: u64) -> u64 {
    number ^= number >> 30;
    number = number.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number ^= number >> 27;
    number = number.wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// One of several: its place, its rank and its score.
type Candidate = (usize, u8, (f64, u64));

/// The best of them: the lowest rank, then the lowest score.
pub(super) fn best(candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    for one in candidates {
        if best.is_none_or(|best| (one.1, one.2) < (best.1, best.2)) {
            best = Some(one);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(turns: &Turns, weights: &[f64], count: usize) -> Vec<usize> {
        let next = || {
            let all = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
            let all = all.map(|(at, weight)| (at, 0, (0.0, turns.next(at, *weight))));
            let (at, _, (_, middle)) = best(all).expect("one of them");
            turns.take(at, weights[at], middle);
            at
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn shares(taken: &[usize], count: usize) -> Vec<usize> {
        (0..count).map(|at| taken.iter().filter(|taken| **taken == at).count()).collect()
    }

    #[test]
    fn each_has_its_share_and_nobody_has_it_at_once() {
        for weights in [&[1.0, 1.0, 1.0][..], &[5.0, 1.0, 1.0], &[1000.0, 1.0], &[3.0, 2.0], &[1.0]] {
            let sum: f64 = weights.iter().sum();
            let rounds = 10.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and whole")]
            let taken = turns(&Turns::new(weights.len()), weights, (sum * rounds) as usize);
            for (at, share) in shares(&taken, weights.len()).into_iter().enumerate() {
                let expected = weights[at] * rounds;
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let off = (share as f64 - expected).abs();
                assert!(off <= 2.0, "{weights:?}: {at} had {share} of {expected} turns");
            }
        }
        let taken = turns(&Turns::new(3), &[5.0, 1.0, 1.0], 700);
        let longest = taken.chunk_by(|one, other| one == other).map(<[_]>::len).max();
        assert!(longest <= Some(5), "{longest:?} in a row, of a weight of 5 to 2");
    }

    #[test]
    fn who_comes_back_makes_up_for_nothing() {
        let all = Turns::new(2);
        turns(&all, &[1.0, 0.0], 1000);
        let taken = turns(&all, &[1.0, 1.0], 100);
        assert_eq!(shares(&taken, 2), [50, 50]);
        // Nor is a small weight left out for ever because the others are ahead.
        let taken = turns(&all, &[1000.0, 1.0], 5005);
        assert!((4..=6).contains(&shares(&taken, 2)[1]), "{:?}", shares(&taken, 2));
    }

    #[test]
    fn turns_that_are_taken_at_the_same_time_are_all_taken() {
        let all = Turns::new(3);
        let counts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| shares(&turns(&all, &[2.0, 1.0, 1.0], 10_000), 3))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let total = |at: usize| counts.iter().map(|shares| shares[at]).sum::<usize>();
        assert!(total(0).abs_diff(20_000) < 1000, "{counts:?}");
        assert!(total(1).abs_diff(total(2)) < 1000, "{counts:?}");
    }

    fn home(key: u64, upstreams: &[(&str, f64)]) -> usize {
        let all = upstreams.iter().enumerate();
        let all = all.map(|(at, (name, weight))| (at, 0, (-fit(key, number(name.as_bytes()), *weight), 0)));
        best(all).expect("one of them").0
    }

    #[test]
    fn a_key_stays_unless_its_own_upstream_goes() {
        let names = ["http://a:80", "http://b:80", "http://c:80", "http://d:80"].map(|name| (name, 1.0));
        let keys = || (0..8000_u64).map(|key| number(&key.to_le_bytes()));
        for key in keys() {
            let (before, after) = (home(key, &names), home(key, &names[..3]));
            assert!(before == 3 || before == after, "{key} moved from {before} to {after}");
        }
        let homes: Vec<_> = keys().map(|key| home(key, &names)).collect();
        for share in shares(&homes, 4) {
            assert!(share.abs_diff(2000) < 200, "{share} of 2000");
        }
        // A larger weight only ever draws keys to itself.
        let mut heavier = names;
        heavier[1].1 = 3.0;
        let mut drawn = 0;
        for (key, before) in keys().zip(homes) {
            let after = home(key, &heavier);
            assert!(after == before || after == 1);
            drawn += usize::from(after == 1);
        }
        assert!(drawn.abs_diff(4000) < 300, "{drawn} of 4000");
    }
}
