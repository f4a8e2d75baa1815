//! What is told of upstreams: to operators, and to metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use smol_str::SmolStr;

use super::check::{CheckStatus, Checked};
use super::health::Counts;
use super::settings::HealthCheck;
use crate::forward::pool::{Client, Endpoint};
use crate::forward::target::Upstream;

/// How an upstream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpstreamState {
    /// It gets requests.
    Healthy,
    /// Nothing is known of it yet.
    Unknown,
    /// It was not to be connected to when that was tried last; a moment later it is tried again.
    Unreachable,
    /// It gets nothing for a while because of what became of requests.
    Ejected,
    /// It gets nothing because of what checks found.
    Unhealthy,
}

impl UpstreamState {
    /// As a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How an upstream is, and what became of requests to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// `scheme://host:port`.
    pub label: SmolStr,
    /// How it is.
    pub state: UpstreamState,
    /// Since when.
    pub since: SystemTime,
    /// Until when it is ejected.
    pub ejected_until: Option<SystemTime>,
    /// What was counted; `None` for one that is neither one of several nor checked, or that nobody observes.
    pub counts: Option<Counts>,
    /// When a request failed last, and why.
    pub last_failure: Option<(SystemTime, String)>,
    /// What checks found, where there are any.
    pub check: Option<CheckStatus>,
}

/// What becomes of requests that could be sent to another upstream.
#[derive(Debug, Default)]
pub struct RetryCounters {
    pub(in crate::forward) sent: AtomicU64,
    pub(in crate::forward) refused: AtomicU64,
}

impl RetryCounters {
    /// Those that were.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Those that were not, because too many had been lately.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl UpstreamStatus {
    fn of(endpoint: &Endpoint, checked: Option<&Checked>) -> Self {
        let health = &endpoint.health;
        let check = checked.map(Checked::status);
        let found = check.as_ref().and_then(|check| check.healthy);
        let ejected = health.is_ejected(|| health.now());
        let state = match found {
            Some(false) => UpstreamState::Unhealthy,
            _ if ejected => UpstreamState::Ejected,
            _ if health.is_unreachable() => UpstreamState::Unreachable,
            Some(true) => UpstreamState::Healthy,
            None if check.is_none() && health.was_reached() => UpstreamState::Healthy,
            None => UpstreamState::Unknown,
        };
        let of_check = check.as_ref().filter(|_| {
            matches!(state, UpstreamState::Unhealthy | UpstreamState::Healthy | UpstreamState::Unknown)
        });
        Self {
            label: endpoint.label.clone(),
            state,
            since: of_check.map_or_else(|| health.since(), |check| check.since.max(health.since())),
            ejected_until: ejected.then(|| health.ejected_until()).flatten(),
            counts: health.is_tracked().then(|| health.counts()),
            last_failure: health.last_failure(),
            check,
        }
    }
}

impl Client {
    /// How an upstream is that some target has, where it is checked so.
    pub fn upstream_status(
        &self,
        upstream: &Upstream,
        check: Option<&HealthCheck>,
    ) -> Option<UpstreamStatus> {
        let endpoint = self.known_endpoint(upstream)?;
        let checked = check.and_then(|check| self.checks().get(&endpoint, check));
        Some(UpstreamStatus::of(&endpoint, checked.as_deref()))
    }
}
