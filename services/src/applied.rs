//! What this node serves, for whoever reports or waits for it.

use crate::config::Problem;
use crate::store::Revision;

/// What this node serves: published by whoever swaps snapshots.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The configuration that is in force; `None` before the first.
    pub revision: Option<Revision>,
    /// How many hosts are served: those that are enabled.
    pub hosts: usize,
    /// How many certificates are loaded.
    pub certificates: usize,
    /// Whether the HTTPS port is served.
    pub https: bool,
    /// Whether the configuration comes from the node's own copy, because the store was away or replaced at start.
    pub from_copy: bool,
    /// The state of a store that is another one than what is served, or older, and that nobody has accepted yet.
    pub replaced: Option<Revision>,
    /// What is not in force.
    pub problems: Vec<Problem>,
}
