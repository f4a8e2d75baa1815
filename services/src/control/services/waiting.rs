//! Waiting until a service is what its document wants, with what is heard meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::config::{Entity, Service};
use crate::control::Context;
use crate::docker::{Docker, Known, Status};

/// What pulling, building and making may take beside the time that a container has to become ready.
const PATIENCE: Duration = Duration::from_secs(900);

/// What it may take until requests go to containers that are ready.
const SERVED: Duration = Duration::from_secs(5);

/// What is known of a service when its document, or a later one, is in force and nothing more happens.
pub(super) async fn settled(docker: &Docker, ctx: &Context, service: &Service) -> Result<Known, Error> {
    let name = &service.service_name;
    let end = Instant::now() + PATIENCE + docker.policy.start;
    let mut board = docker.board.subscribe();
    let (mut told, mut seen) = (None, false);
    docker.wake.notify_one();
    loop {
        let known = board.borrow_and_update().get(name).cloned();
        if known.as_ref().is_none_or(|known| known.status == Status::Deleting) && seen {
            return Err(Error::Conflict(format!("the service {name} was deleted meanwhile")));
        }
        if let Some(known) = known.filter(|known| known.version >= service.version()) {
            seen = true;
            if told != Some(known.status) {
                told = Some(known.status);
                ctx.progress.report(format!("{name} is {}", super::super::operation::word(&known.status)));
            }
            if known.status.is_settled() {
                served(docker, ctx).await?;
                return Ok(Known::clone(&known));
            }
        }
        tokio::select! {
            changed = board.changed() => if changed.is_err() { return Err(Error::Draining) },
            () = ctx.cancel.cancelled() => return Err(Error::Cancelled),
            () = tokio::time::sleep_until(end) => {
                return Err(Error::EngineFailed(format!("the service {name} is still not what it shall be")));
            }
        }
    }
}

/// Waits until requests go where services are by now: whoever is answered asks the new container.
async fn served(docker: &Docker, ctx: &Context) -> Result<(), Error> {
    let serial = docker.switchboard.current().serial;
    let mut served = docker.switchboard.on_served();
    tokio::select! {
        _ = served.wait_for(|served| *served >= serial) => Ok(()),
        () = ctx.cancel.cancelled() => Err(Error::Cancelled),
        () = tokio::time::sleep(SERVED) => Ok(()),
    }
}

/// Whether it went well; else what went wrong.
pub(super) fn check(service: &Service, known: &Known) -> Result<(), Error> {
    let name = &service.service_name;
    let reason = known.last_error.as_deref();
    let ended_well = || known.containers.iter().all(|one| one.exit_code.is_none_or(|code| code == 0));
    match (known.status, reason) {
        (Status::Running | Status::Stopped | Status::Elsewhere, None) => Ok(()),
        (Status::Exited, _) if ended_well() => Ok(()),
        (Status::Unknown, reason) => {
            Err(Error::EngineAway(reason.unwrap_or("the Docker engine does not answer").to_owned()))
        }
        (status, reason) => Err(Error::EngineFailed(format!(
            "the service {name} is {}: {}",
            super::super::operation::word(&status),
            reason.unwrap_or("see its logs")
        ))),
    }
}

/// Waits until the document of a service that is being deleted is gone.
pub(super) async fn gone(
    docker: &Docker,
    ctx: &Context,
    service: &Service,
    patience: Duration,
) -> Result<bool, Error> {
    let mut board = docker.board.subscribe();
    docker.wake.notify_one();
    let end = Instant::now() + patience;
    loop {
        let known = board.borrow_and_update().get(&service.service_name).cloned();
        if known.is_none() {
            return Ok(true);
        }
        tokio::select! {
            changed = board.changed() => if changed.is_err() { return Err(Error::Draining) },
            () = ctx.cancel.cancelled() => return Err(Error::Cancelled),
            () = tokio::time::sleep_until(end) => return Ok(false),
        }
    }
}
