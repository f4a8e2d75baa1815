//! A histogram of durations in fixed space, for percentiles.
//!
//! Buckets grow with the value: below 64 µs each microsecond has its own, above that each power of two
//! is cut into 32. A percentile is the upper end of its bucket, so it is at most 1/32 (3.2 %) too high.

/// How many low bits of a value survive: 2^5 buckets for each power of two.
const PRECISION: u32 = 5;

/// About 12 days; what takes longer counts as this.
const MAX: u64 = (1 << 40) - 1;

const BUCKETS: usize = index(MAX) + 1;

/// A histogram of durations in microseconds, in fixed space; percentiles are at most 3.2 % too high.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, micros: u64) {
        let micros = micros.min(MAX);
        self.counts[index(micros)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(micros);
        self.max = self.max.max(micros);
    }

    /// How many were counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their mean in microseconds, exactly; 0 when there are none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The value in microseconds that `percent` of all do not exceed; 0 when there are none.
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(index).min(self.max);
            }
        }
        self.max
    }
}

const fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PRECISION + 1);
    ((shift as usize) << PRECISION) + (value >> shift) as usize
}

/// The largest value of a bucket.
const fn upper(index: usize) -> u64 {
    let shift = (index >> PRECISION).saturating_sub(1);
    let low = (index - (shift << PRECISION)) as u64;
    ((low + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_its_bucket() {
        for value in (0..200).chain((0..40).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let upper = upper(index(value));
            assert!(upper >= value && upper - value <= value / 32, "{value} {upper}");
            assert!(index(upper + 1) == index(value) + 1, "{value} {upper}");
        }
        assert!(index(MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_are_right_to_three_percent() {
        let mut histogram = Histogram::default();
        for value in 1..=10_000 {
            histogram.record(value);
        }
        assert!((histogram.mean() - 5000.5).abs() < f64::EPSILON);
        for (percent, expected) in [(50.0, 5000.0), (95.0, 9500.0), (99.0, 9900.0), (100.0, 10_000.0)] {
            let found = histogram.percentile(percent) as f64;
            assert!(found >= expected && found <= expected * 1.032, "{percent}: {found}");
        }
    }

    #[test]
    fn nothing_and_too_much_are_fine() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile(99.0), histogram.mean()), (0, 0.0));
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile(50.0), MAX);
    }
}
