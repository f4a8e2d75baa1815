//! Which containers are ready: those whose health check says so; without one, those whose port accepts.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::StreamExt;
use jiff::Timestamp;

use crate::docker::observe::{self, Container, Health};
use crate::docker::plan::Phase;

/// So long somebody who has ended before must run before requests go there.
pub(super) const STEADY: Duration = Duration::from_secs(5);

/// So many ports are tried at a time.
const AT_ONCE: usize = 16;

/// What was found of containers before.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// The ports that have accepted, by container and address, with the start that this is about.
    accepted: HashMap<(String, SocketAddr), Option<String>>,
    oom_killed: HashSet<String>,
}

impl Readiness {
    /// Takes note of what the engine tells once only.
    pub(super) fn note(&mut self, event: EventMessage) {
        if event.action.as_deref() == Some("oom") {
            self.oom_killed.extend(event.actor.and_then(|actor| actor.id));
        }
    }

    /// Finds out which containers are ready.
    pub(super) async fn judge(&mut self, mut found: Vec<&mut Container>) {
        let now = Timestamp::now();
        let mut unknown = Vec::new();
        for (at, one) in found.iter_mut().enumerate() {
            one.oom_killed |= self.oom_killed.contains(&one.id);
            if one.phase != Phase::Running {
                continue;
            }
            let since = one.started_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
            let ran = since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
            if one.restarts > 0 && ran.is_none_or(|ran| ran < STEADY) {
                continue;
            }
            match one.health {
                Health::Healthy => one.ready = one.address.is_some(),
                Health::Starting | Health::Unhealthy(_) => {}
                Health::None => {
                    let Some(address) = one.address else { continue };
                    match self.accepted.get(&(one.id.clone(), address)) {
                        Some(start) if *start == one.started_at => one.ready = true,
                        _ => unknown.push((at, address)),
                    }
                }
            }
        }
        let probes = unknown
            .into_iter()
            .map(|(at, address)| async move { (at, address, observe::accepts(address).await) });
        let mut probes = futures_util::stream::iter(probes).buffer_unordered(AT_ONCE);
        while let Some((at, address, accepts)) = probes.next().await {
            if accepts {
                found[at].ready = true;
                self.accepted.insert((found[at].id.clone(), address), found[at].started_at.clone());
            }
        }
    }

    /// Keeps nothing of containers that are gone.
    pub(super) fn forget(&mut self, there: &HashSet<&str>) {
        self.accepted.retain(|(id, _), _| there.contains(id.as_str()));
        self.oom_killed.retain(|id| there.contains(id.as_str()));
    }
}
