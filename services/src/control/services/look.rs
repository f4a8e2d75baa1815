//! Looking into the containers of a service: what they write, what they use, and whether they are healthy.

mod logs;
mod stats;

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use logs::ServiceLogs;
pub(crate) use logs::{Wanted as LogsWanted, follow as follow_logs, line as log_line};
pub use stats::ServiceStats;
#[cfg(feature = "api")]
pub(crate) use stats::{Reading, follow as follow_stats};

use super::Error;
use crate::config::{Service, ServiceName};
use crate::control::operation::post;
use crate::control::{Access, Context, Control, Endpoint, Operation};
use crate::docker::state::ContainerState;
use crate::docker::{Docker, Status};

/// The longest that is told of what a check says, in bytes.
const MAX_OUTPUT: usize = 4096;

/// A container's health check that was just run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// The container.
    pub container_id: String,
    /// Which of the replicas it is.
    pub replica: u32,
    /// Whether it is healthy.
    pub healthy: bool,
    /// What was run or tried.
    pub check: String,
    /// The code that the check ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// What it said.
    pub output: String,
}

/// Run the health check of a service now, in each of its running containers: the one of the document, else its image's;
/// else its port has to accept. In a container that somebody else made nothing is run: what its engine found last is
/// told.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CheckService {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for CheckService {
    const NAME: &'static str = "check_service";
    const COMMAND: &'static [&'static str] = &["service", "check"];
    const HTTP: Endpoint = post("/services/{service_name}/check");
    const SCOPE: Access = Access::Admin;
    type Output = Vec<Checked>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Checked>, Error> {
        let (docker, service) = here(control, &self.service_name).await?;
        let mut checked = Vec::new();
        for one in containers(docker, &service, None)?.iter().filter(|one| one.state == "running") {
            checked.push(check(docker, one, service.container.is_none()).await?);
        }
        Ok(checked)
    }
}

async fn check(docker: &Docker, one: &ContainerState, made_here: bool) -> Result<Checked, Error> {
    let found = docker.engine.inspect(&one.id).await?;
    let health = found.config.and_then(|config| config.healthcheck).unwrap_or_default();
    let test = health.test.unwrap_or_default();
    let command = match test.split_first() {
        Some((kind, words)) if kind == "CMD" && !words.is_empty() => Some(words.to_vec()),
        Some((kind, words)) if kind == "CMD-SHELL" => {
            Some(["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(words.iter().cloned()).collect())
        }
        _ => None,
    };
    let (container_id, replica) = (one.id.clone(), one.replica);
    if command.is_some() && !made_here {
        let output = one.health_output.clone().unwrap_or_else(|| one.health.to_owned());
        let (healthy, check) = (one.health == "healthy", "what the engine found last".to_owned());
        return Ok(Checked { container_id, replica, healthy, check, exit_code: None, output });
    }
    let Some(command) = command else {
        let accepts = match one.address {
            Some(address) => crate::docker::accepts(address).await,
            None => false,
        };
        let check =
            one.address.map_or_else(|| "no address".to_owned(), |address| format!("connect to {address}"));
        let output = if accepts { "accepts" } else { "does not accept" }.to_owned();
        return Ok(Checked { container_id, replica, healthy: accepts, check, exit_code: None, output });
    };
    let nanos = health.timeout.and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0);
    let limit = nanos.map_or(Duration::from_secs(30), Duration::from_nanos);
    let text = command.join(" ");
    let (code, output) = docker.engine.exec(&one.id, command, limit, MAX_OUTPUT).await?;
    Ok(Checked { container_id, replica, healthy: code == 0, check: text, exit_code: Some(code), output })
}

/// The service, when this node's engine runs it.
pub(crate) async fn here<'a>(
    control: &'a Control,
    name: &ServiceName,
) -> Result<(&'a Docker, Service), Error> {
    let docker = control.docker()?;
    let service: Service = control.get(name.as_str()).await?;
    match &service.node {
        Some(node) if *node != docker.owner.node => Err(Error::Conflict(format!(
            "the node {node} runs the service {name}: ask that one, this is {}",
            docker.owner.node
        ))),
        _ => Ok((docker, service)),
    }
}

/// The containers of a service, the newest kind first; one replica's, where it is named.
pub(crate) fn containers(
    docker: &Docker,
    service: &Service,
    replica: Option<u32>,
) -> Result<Vec<ContainerState>, Error> {
    let known = docker.board().of(&service.service_name).map(|known| (*known).clone()).unwrap_or_default();
    if known.status == Status::Unknown {
        return Err(Error::EngineAway(known.last_error.unwrap_or_default()));
    }
    let mut all = known.containers;
    all.retain(|one| replica.is_none_or(|replica| one.replica == replica));
    all.sort_by_key(|one| (!one.current, one.replica));
    Ok(all)
}
