//! Bounds and times of sessions.

use std::time::Duration;

/// Bounds and times.
#[derive(Debug, Clone)]
pub struct Options {
    /// A session ends this long after it was made.
    pub life: Duration,
    /// A session ends when it was not used for this long. An open stream counts as use.
    pub idle: Duration,
    /// How often the store is told at most that a session is used.
    pub renew: Duration,
    /// A session that is not used for this long leaves the node's memory; its next request brings it back.
    pub resident: Duration,
    /// Sessions of a subject: one more, and the one that was not used for the longest time ends.
    pub per_subject: usize,
    /// Sessions in all: one more is refused.
    pub total: u64,
    /// Sessions in a node's memory.
    pub open: usize,
    /// Requests of a session that are under way at a node.
    pub requests: usize,
    /// Events that a node keeps for a session,
    pub events: usize,
    /// their bytes,
    pub event_bytes: usize,
    /// and how long they can be asked for.
    pub event_age: Duration,
    /// How soon a client comes back that has lost a stream.
    pub retry: Duration,
    /// An answer that is there this soon is sent as it is: nobody could resume it, so it need not be kept.
    pub grace: Duration,
    /// How often the store is asked what other nodes say.
    pub poll: Duration,
    /// How long a node counts as alive after its last word. It speaks three times as often.
    pub alive: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(24 * 3600),
            idle: Duration::from_secs(2 * 3600),
            renew: Duration::from_secs(60),
            resident: Duration::from_secs(5 * 60),
            per_subject: 64,
            total: 100_000,
            open: 16_384,
            requests: 64,
            events: 256,
            event_bytes: 4 << 20,
            event_age: Duration::from_secs(10 * 60),
            retry: Duration::from_secs(3),
            grace: Duration::from_millis(25),
            poll: Duration::from_millis(250),
            alive: Duration::from_secs(15),
        }
    }
}
