//! What became of names that somebody asked for on this node.

use std::sync::atomic::AtomicU64;

use super::Verdict;

/// Names that somebody asked for first, by what was decided. For metrics; all only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// They get a certificate.
    pub made: AtomicU64,
    /// They have one, or will have one.
    pub held: AtomicU64,
    /// No rule allows them.
    pub refused: AtomicU64,
    /// Too many names of their domain got one lately.
    pub domain_limit: AtomicU64,
    /// Their client's network has asked for too many.
    pub network_limit: AtomicU64,
    /// Too many wait, or were seen lately.
    pub busy: AtomicU64,
    /// They could not be judged.
    pub failed: AtomicU64,
}

impl Counters {
    pub(super) const fn of(&self, verdict: Verdict) -> &AtomicU64 {
        match verdict {
            Verdict::Made => &self.made,
            Verdict::Held => &self.held,
            Verdict::Refused => &self.refused,
            Verdict::Exhausted => &self.domain_limit,
        }
    }
}
