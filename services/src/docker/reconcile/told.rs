//! What is told of a service: from what is wanted, what is there, and what was tried. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::LOOP;
use crate::config::service::{Desired, Restart};
use crate::config::{Entity, Service};
use crate::docker::Status;
use crate::docker::foreign::Found;
use crate::docker::observe::{Container, Health};
use crate::docker::plan::{Phase, Plan};
use crate::docker::state::{ContainerState, Known};

/// Where it comes from.
pub(super) struct Facts<'a> {
    pub(super) service: &'a Service,
    pub(super) spec: &'a str,
    pub(super) containers: &'a [&'a Container],
    pub(super) plan: &'a Plan,
    pub(super) busy: bool,
    pub(super) failure: Option<(&'a str, Timestamp)>,
    /// How long a container may take until it is ready.
    pub(super) patience: Duration,
}

/// What is known of a service.
pub(super) fn known(facts: &Facts<'_>) -> Known {
    let Facts { service, containers, plan, .. } = facts;
    let (status, trouble) = status(facts);
    let failure =
        facts.failure.filter(|_| !matches!(status, Status::Running | Status::Stopped | Status::Deleting));
    // An old container may serve well while the new one failed.
    let failure = failure.or(facts.failure.filter(|_| !all_ready(facts)));
    Known {
        status,
        version: service.version(),
        containers: containers.iter().map(|one| state(one, facts.spec)).collect(),
        addresses: addresses(containers, &plan.serving),
        last_error: failure.map(|(reason, _)| reason.to_owned()).or(trouble),
        retry_at: failure.map(|(_, at)| at),
    }
}

/// What is known of one that policy does not allow any more.
pub(super) fn refused(
    service: &Service,
    containers: &[&Container],
    serving: &[String],
    reason: String,
) -> Known {
    Known {
        status: Status::Failed,
        version: service.version(),
        containers: containers.iter().map(|one| state(one, "")).collect(),
        addresses: addresses(containers, serving),
        last_error: Some(reason),
        retry_at: None,
    }
}

/// What is known of a service of a container that somebody else made.
pub(super) fn foreign(service: &Service, found: Option<&Found>, patience: Duration) -> Known {
    let one = found.and_then(|found| found.container.as_ref());
    let trouble = found.and_then(|found| found.trouble.clone());
    let (status, last_error) = match (one, trouble) {
        (_, Some(trouble)) => (Status::Failed, Some(trouble)),
        // It is looked at next time.
        (None, None) => (Status::Pending, None),
        (Some(one), None) => of_others(one, patience),
    };
    Known {
        status,
        version: service.version(),
        containers: one.map(|one| state(one, "")).into_iter().collect(),
        addresses: one.filter(|one| one.ready).and_then(|one| one.address).into_iter().collect(),
        last_error,
        retry_at: None,
    }
}

fn of_others(one: &Container, patience: Duration) -> (Status, Option<String>) {
    let since = one.started_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok()).or(one.created_at);
    let ran = since.and_then(|since| Duration::try_from(Timestamp::now().duration_since(since)).ok());
    let late = ran.is_some_and(|ran| ran > patience);
    match (&one.phase, &one.health) {
        (Phase::Running, _) if one.ready => (Status::Running, None),
        (Phase::Running | Phase::Restarting, _) if one.restarts >= LOOP => {
            (Status::CrashLoop, Some(ending(one)))
        }
        (Phase::Running, Health::Unhealthy(said)) => (Status::Unhealthy, Some(unhealthy(said))),
        (Phase::Running, Health::None) if late => (Status::Unhealthy, Some(silent(one, patience))),
        (Phase::Running | Phase::Restarting, _) => (Status::Starting, None),
        (Phase::Exited | Phase::Dead, _) => (Status::Exited, Some(ending(one))),
        (Phase::Created, _) => (Status::Stopped, Some("the container was not started yet".to_owned())),
        (Phase::Other, _) => (Status::Unhealthy, Some(format!("the container is {}", one.state))),
    }
}

/// Why a new container will not become ready; `None` while it may.
pub(super) fn failed(one: &Container, service: &Service, patience: Duration) -> Option<String> {
    let age = one.created_at.and_then(|at| Duration::try_from(Timestamp::now().duration_since(at)).ok());
    let late = age.is_some_and(|age| age > patience);
    match (&one.phase, &one.health) {
        (Phase::Restarting | Phase::Running, _) if one.restarts >= LOOP => Some(ending(one)),
        (Phase::Exited, _) if !starts_again(one, service.restart_policy) => Some(ending(one)),
        (Phase::Running, Health::Unhealthy(said)) => Some(unhealthy(said)),
        (Phase::Running, Health::None) if late => Some(silent(one, patience)),
        _ if late => Some(format!("the container is not ready after {} s", patience.as_secs())),
        _ => None,
    }
}

fn all_ready(facts: &Facts<'_>) -> bool {
    let ready = facts.containers.iter().filter(|one| one.spec == facts.spec && one.ready).count();
    ready >= facts.service.replicas as usize
}

fn status(facts: &Facts<'_>) -> (Status, Option<String>) {
    let Facts { service, spec, containers, plan, .. } = facts;
    if service.deleting {
        return (Status::Deleting, None);
    }
    if service.desired_state == Desired::Stopped {
        let runs = containers.iter().any(|one| matches!(one.phase, Phase::Running | Phase::Restarting));
        return (if runs { Status::Stopping } else { Status::Stopped }, None);
    }
    if all_ready(facts) {
        return (Status::Running, None);
    }
    if plan.updating {
        // After a failure what serves is the old one, and that is how it stays for now.
        let status = if facts.failure.is_some() && !facts.busy { Status::Running } else { Status::Updating };
        return (status, None);
    }
    let current = || containers.iter().filter(|one| one.spec == *spec && !one.ready);
    if let Some(reason) = current().find(|one| one.restarts >= LOOP).map(|one| ending(one)) {
        return (partly(facts, Status::CrashLoop), Some(reason));
    }
    if facts.busy {
        return (Status::Preparing, None);
    }
    if facts.failure.is_some() {
        return (partly(facts, Status::Failed), None);
    }
    for one in current() {
        match (&one.phase, &one.health) {
            (Phase::Exited, _) if !starts_again(one, service.restart_policy) => {
                return (partly(facts, Status::Exited), Some(ending(one)));
            }
            (Phase::Running, Health::Unhealthy(said)) => {
                return (partly(facts, Status::Unhealthy), Some(unhealthy(said)));
            }
            (Phase::Running, Health::None) if failed(one, service, facts.patience).is_some() => {
                return (partly(facts, Status::Unhealthy), Some(silent(one, facts.patience)));
            }
            (Phase::Other, _) => {
                return (partly(facts, Status::Unhealthy), Some(format!("a container is {}", one.state)));
            }
            _ => {}
        }
    }
    // Those that are missing are about to come.
    (Status::Starting, None)
}

/// What troubles some containers leaves those that are ready.
const fn partly(facts: &Facts<'_>, trouble: Status) -> Status {
    if facts.plan.serving.is_empty() { trouble } else { Status::Degraded }
}

fn starts_again(one: &Container, restart: Restart) -> bool {
    match restart {
        Restart::Always | Restart::UnlessStopped => true,
        Restart::OnFailure => one.exit_code != Some(0),
        Restart::No => false,
    }
}

fn ending(one: &Container) -> String {
    let how = match one.exit_code {
        _ if one.oom_killed => "was ended because it wanted more memory than its limit".to_owned(),
        Some(code) => format!("ended with code {code}"),
        None => "ended".to_owned(),
    };
    let again = if one.restarts > 0 {
        format!(", and was started again {} times", one.restarts)
    } else {
        String::new()
    };
    let error = if one.error.is_empty() { String::new() } else { format!(": {}", one.error) };
    format!("the container {how}{again}{error}")
}

fn unhealthy(said: &str) -> String {
    if said.is_empty() {
        "its health check fails".to_owned()
    } else {
        format!("its health check fails: {said}")
    }
}

fn silent(one: &Container, patience: Duration) -> String {
    let port = one.address.map(|address| address.port()).unwrap_or_default();
    format!("its port {port} does not accept connections after {} s", patience.as_secs())
}

fn addresses(containers: &[&Container], serving: &[String]) -> Vec<SocketAddr> {
    let serves = |one: &&&Container| serving.contains(&one.id);
    containers.iter().filter(serves).filter_map(|one| one.address).collect()
}

fn state(one: &Container, spec: &str) -> ContainerState {
    let (health, health_output) = match &one.health {
        Health::None => ("none", None),
        Health::Starting => ("starting", None),
        Health::Healthy => ("healthy", None),
        Health::Unhealthy(said) => ("unhealthy", Some(said.clone())),
    };
    ContainerState {
        id: one.id.clone(),
        replica: one.replica,
        current: one.spec == spec,
        state: one.state.clone(),
        health,
        health_output,
        ready: one.ready,
        address: one.address,
        image: one.image.clone(),
        exit_code: one.exit_code,
        oom_killed: one.oom_killed,
        restarts: one.restarts,
        started_at: one.started_at.clone(),
    }
}
