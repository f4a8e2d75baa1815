//! Which of several upstreams gets a request, and which of them are well.
//!
//! What is known of an upstream is kept with its connections ([`Health`], [`Checked`]), for all targets that have it and
//! across reloads; whose turn it is, and how much may be repeated, belongs to a target. Choosing takes no lock. An
//! upstream that could not be connected to a moment ago comes after those that are well; one that is ejected or that
//! checks found unhealthy gets nothing, unless there is no other: then all are asked, because they can't be worse than
//! a refusal (what Envoy calls panic mode).

mod budget;
mod check;
mod checker;
mod health;
mod pick;
mod settings;
mod status;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use tokio::time::Instant;
use tracing::{info, warn};

use super::pool::{Client, Endpoint};
use super::target::Target;
use crate::context::RequestContext;
use crate::cookies;

use budget::Budget;
use pick::Turns;

pub(super) use check::Checked;
pub(super) use checker::Checks;
pub(super) use health::{Health, InFlight};

pub use check::CheckStatus;
pub use checker::Checker;
pub use health::Counts;
pub use settings::{Balancing, HashOn, HealthCheck, PassiveHealth, Policy, Retries};
pub use status::{RetryCounters, UpstreamState, UpstreamStatus};

/// The upstream is well.
const WELL: u8 = 0;
/// It could not be connected to a moment ago.
const AVOIDED: u8 = 1;
/// It is to get nothing, unless there is no other.
const BAD: u8 = 2;

/// The balance of one target.
pub(super) struct Balance {
    members: Vec<Member>,
    turns: Turns,
    budget: Budget,
    /// Whether all were bad when one was chosen last.
    all_bad: AtomicBool,
    /// Two are not ejected at the same time: together they could be too many.
    ejecting: Mutex<()>,
    epoch: Instant,
}

struct Member {
    endpoint: Arc<Endpoint>,
    checked: Option<Arc<Checked>>,
    weight: f64,
    /// Its name as a number.
    number: u64,
}

/// Why a request may be sent to another upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// No connection, or none that took the request: nothing was sent.
    Unsent,
    /// It may be repeated, and was not answered, or with what is as good as no answer.
    Unanswered,
}

impl Balance {
    /// What the upstreams of a target need; nothing for one that is not even checked.
    pub(super) fn of(client: &Client, target: &Target, endpoints: &[Arc<Endpoint>]) -> Option<Box<Self>> {
        if endpoints.len() < 2 && target.balancing.check.is_none() {
            return None;
        }
        let members = endpoints.iter().zip(&target.upstreams).map(|(endpoint, upstream)| {
            if target.balancing.observed {
                endpoint.health.track();
            }
            let check = target.balancing.check.as_ref();
            Member {
                endpoint: Arc::clone(endpoint),
                checked: check.map(|check| client.checks().of(endpoint, check)),
                weight: f64::from(upstream.weight),
                number: pick::number(endpoint.label.as_bytes()),
            }
        });
        Some(Box::new(Self {
            members: members.collect(),
            turns: Turns::new(endpoints.len()),
            budget: Budget::default(),
            all_bad: AtomicBool::new(false),
            ejecting: Mutex::default(),
            epoch: client.epoch(),
        }))
    }

    /// Notes that a request came.
    pub(super) fn request(&self) {
        self.budget.deposit(self.epoch.elapsed().as_secs());
    }

    /// The upstream for a request, which those in `tried` did not answer.
    pub(super) fn pick(&self, balancing: &Balancing, key: Option<u64>, tried: &[usize]) -> Option<usize> {
        self.choose(balancing, &balancing.policy, key, tried)
    }

    /// The same for something that is to be spread, whatever the policy.
    pub(super) fn pick_in_turn(&self, balancing: &Balancing, tried: &[usize]) -> Option<usize> {
        let policy = match &balancing.policy {
            Policy::LeastConnections => &Policy::LeastConnections,
            _ => &Policy::RoundRobin,
        };
        self.choose(balancing, policy, None, tried)
    }

    fn choose(
        &self,
        balancing: &Balancing,
        policy: &Policy,
        key: Option<u64>,
        tried: &[usize],
    ) -> Option<usize> {
        let mut read = None;
        // Read once, and only where somebody asks.
        let mut now = || *read.get_or_insert_with(|| health::millis(self.epoch.elapsed()).max(1));
        let mut weight = |member: &Member| match balancing.slow_start {
            window if window.is_zero() => member.weight,
            window => member.weight * member.endpoint.health.grown(window, now()),
        };
        let candidates = self.members.iter().enumerate().filter_map(|(index, member)| {
            if member.weight == 0.0 || tried.contains(&index) {
                return None;
            }
            let rank = member.rank(balancing, self.epoch)?;
            let score = match (policy, key) {
                (Policy::Failover, _) => (0.0, index as u64),
                (Policy::Hash(_), Some(key)) => {
                    (-pick::fit(key, member.number, weight(member)), index as u64)
                }
                (Policy::LeastConnections, _) => {
                    let weight = weight(member);
                    let load = f64::from(member.endpoint.health.in_flight() + 1) / weight;
                    (load, self.turns.next(index, weight))
                }
                (Policy::RoundRobin | Policy::Hash(_), _) => (0.0, self.turns.next(index, weight(member))),
            };
            Some((index, rank, score))
        });
        let (index, rank, (_, middle)) = pick::best(candidates)?;
        if !matches!((policy, key), (Policy::Failover, _) | (Policy::Hash(_), Some(_))) {
            self.turns.take(index, weight(&self.members[index]), middle);
        }
        self.members[index].endpoint.health.picked();
        if tried.is_empty() {
            self.note_all_bad(rank == BAD);
        }
        Some(index)
    }

    fn note_all_bad(&self, all_bad: bool) {
        if self.all_bad.load(Ordering::Relaxed) == all_bad
            || self.all_bad.swap(all_bad, Ordering::Relaxed) == all_bad
        {
            return;
        }
        let upstreams: Vec<_> = self.members.iter().map(|member| member.endpoint.label.as_str()).collect();
        let upstreams = upstreams.join(" ");
        if all_bad {
            warn!(upstreams, "no upstream is healthy: all are asked");
        } else {
            info!(upstreams, "an upstream is healthy again");
        }
    }

    /// Counts a request that is on its way to an upstream.
    pub(super) fn begin(&self, index: usize) -> InFlight {
        InFlight::begin(&self.members[index].endpoint)
    }

    /// Takes note of an answer; tells whether it is as good as none.
    pub(super) fn answered(&self, balancing: &Balancing, index: usize, status: u16) -> bool {
        let failed = balancing.passive.as_ref().is_some_and(|passive| passive.statuses.contains(&status));
        if failed {
            self.failed(balancing, index, &Answered(status));
        } else {
            self.members[index].endpoint.health.answered();
        }
        balancing.retries.statuses.contains(&status)
    }

    /// Takes note of a failure.
    pub(super) fn failed(&self, balancing: &Balancing, index: usize, why: &dyn std::error::Error) {
        let in_row = self.members[index].endpoint.health.failed(why);
        if let Some(passive) = &balancing.passive
            && in_row >= passive.consecutive_failures
        {
            self.eject(passive, index);
        }
    }

    fn eject(&self, passive: &PassiveHealth, index: usize) {
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = || self.members.iter().filter(|member| member.weight > 0.0);
        let ejected = in_use().filter(|member| member.is_ejected(self.epoch)).count();
        let count = in_use().count();
        let allowed = (count * usize::from(passive.max_percent) / 100).max(1);
        let member = &self.members[index];
        if count > 1 && ejected < allowed && !member.is_ejected(self.epoch) {
            member.endpoint.health.eject(passive);
        }
    }

    fn has_other(&self, tried: &[usize]) -> bool {
        let mut members = self.members.iter().enumerate();
        members.any(|(index, member)| member.weight > 0.0 && !tried.contains(&index))
    }

    /// The upstream to send a request to once more, after as many as were tried, the last one with them.
    pub(super) fn elsewhere(
        &self,
        client: &Client,
        balancing: &Balancing,
        key: Option<u64>,
        tried: &[usize],
        reason: Reason,
    ) -> Option<usize> {
        let retries = &balancing.retries;
        let most = retries.attempts.map(|attempts| attempts as usize).unwrap_or(match reason {
            Reason::Unsent => self.members.len(),
            Reason::Unanswered => 1,
        });
        if tried.len() > most {
            return None;
        }
        if !self.has_other(tried) {
            return None;
        }
        // Before one is chosen: whose turn it is and who is tried again is only for those who go.
        let counters = client.retries();
        if !self.budget.withdraw(self.epoch.elapsed().as_secs(), retries) {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let next = self.pick(balancing, key, tried)?;
        counters.sent.fetch_add(1, Ordering::Relaxed);
        Some(next)
    }
}

impl Member {
    fn is_ejected(&self, epoch: Instant) -> bool {
        self.endpoint.health.is_ejected(|| health::millis(epoch.elapsed()).max(1))
    }

    /// How much it is wanted; `None`: not at all.
    fn rank(&self, balancing: &Balancing, epoch: Instant) -> Option<u8> {
        let unhealthy = self.checked.as_deref().is_some_and(Checked::is_bad);
        if unhealthy && balancing.fail_when_all_unhealthy {
            return None;
        }
        if unhealthy || (balancing.passive.is_some() && self.is_ejected(epoch)) {
            return Some(BAD);
        }
        let avoided = self.endpoint.health.is_avoided(|| health::millis(epoch.elapsed()).max(1));
        Some(if avoided { AVOIDED } else { WELL })
    }
}

/// An answer that counts as a failure.
#[derive(Debug, thiserror::Error)]
#[error("the answer was {0}")]
struct Answered(u16);

impl Policy {
    /// What decides where a request goes, if this policy looks at requests.
    pub(super) fn key(&self, context: &RequestContext, headers: &HeaderMap) -> Option<u64> {
        let Self::Hash(on) = self else { return None };
        match on {
            HashOn::Client => {
                let text = match context.client_addr()?.ip() {
                    std::net::IpAddr::V4(address) => pick::number(&address.octets()),
                    std::net::IpAddr::V6(address) => pick::number(&address.octets()),
                };
                Some(text)
            }
            HashOn::Header(name) => headers.get(name).map(|value| pick::number(value.as_bytes())),
            HashOn::Cookie(name) => cookies::only(headers, name).map(pick::number),
        }
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.iter().map(|member| &member.endpoint);
        f.debug_tuple("Balance").field(&members.collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests;
