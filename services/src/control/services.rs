//! Docker services: create, list, show, update, rebuild, start, stop, restart, delete. Documents are changed here; the
//! node whose engine it is makes them so, and these wait for that and tell how it goes.

mod create;
mod delete;
mod labelled;
mod labels;
mod list;
mod look;
mod proxy;
mod secrets;
mod tidy;
mod waiting;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use create::{CreateService, ServiceCreated};
pub use delete::DeleteService;
pub use labelled::LabelledHosts;
pub use labels::ListLabels;
pub use list::{ListServices, ServiceInfo, ShowService};
pub use look::{CheckService, ServiceLogs, ServiceStats};
#[cfg(feature = "api")]
pub(crate) use look::{LogsWanted, Reading, follow_logs, follow_stats, log_line};
pub use proxy::CreateServiceProxy;
pub use secrets::{ClearServiceSecret, SetServiceSecret};
pub use tidy::CleanupServices;

use super::operation::{patch, post, put};
use super::{Access, Changes, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::service::Desired;
use crate::config::{Config, FieldError, Service, ServiceName};
use crate::docker::policy::Refusal;
use crate::docker::{Docker, engine, images, spec};

/// Adds the operations of Docker services.
pub fn register(surface: &mut impl Surface) {
    surface.add::<CreateService>();
    surface.add::<ListServices>();
    surface.add::<ShowService>();
    surface.add::<UpdateService>();
    surface.add::<RebuildService>();
    surface.add::<StartService>();
    surface.add::<StopService>();
    surface.add::<RestartService>();
    surface.add::<DeleteService>();
    surface.add::<SetServiceSecret>();
    surface.add::<ClearServiceSecret>();
    surface.add::<ServiceLogs>();
    surface.add::<ServiceStats>();
    surface.add::<CheckService>();
    surface.add::<CreateServiceProxy>();
    surface.add::<CleanupServices>();
    surface.add::<ListLabels>();
}

impl Control {
    /// The same control, for a node that has an engine.
    #[must_use]
    pub fn with_docker(mut self, docker: Docker) -> Self {
        self.docker = Some(docker);
        self
    }

    /// The engine of this node.
    pub(crate) fn docker(&self) -> Result<&Docker, Error> {
        self.docker.as_ref().ok_or_else(|| {
            Error::NoEngine(
                "this node has no Docker engine: set DOCKER_HOST to where one is, e.g. unix:///var/run/docker.sock, \
                 and start it again"
                    .to_owned(),
            )
        })
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Unreachable { .. } | engine::Error::Late => Self::EngineAway(error.to_string()),
            engine::Error::Settings(text) => Self::NoEngine(text),
            other => Self::EngineFailed(other.to_string()),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::invalid(FieldError::new(refusal.field, refusal.value, refusal.detail))
    }
}

impl From<images::Error> for Error {
    fn from(error: images::Error) -> Self {
        match error {
            images::Error::Refused(refusal) => refusal.into(),
            images::Error::Engine(error) => error.into(),
            other => Self::EngineFailed(other.to_string()),
        }
    }
}

/// Refuses what this node's policy would not run; another node judges its own services.
fn admit(docker: &Docker, service: &Service, config: &Config) -> Result<(), Error> {
    let ours = |service: &Service| service.node.as_ref().is_none_or(|node| *node == docker.owner.node);
    if ours(service) {
        if service.container.is_some() {
            return Ok(docker.policy.check_container(service)?);
        }
        spec::fingerprint(service, &docker.policy)?;
        let others = config.services.values().map(|other| &**other).filter(|other| ours(other));
        docker.policy.check_mounts(service, others, &[])?;
    }
    Ok(())
}

/// Refuses to touch a container that somebody else made.
fn check_made_here(service: &Service) -> Result<(), Error> {
    let Some(container) = &service.container else { return Ok(()) };
    Err(Error::Conflict(format!(
        "somebody else made the container {container} of the service {}, so it is only watched: do this with what made \
         it",
        service.service_name
    )))
}

/// Change a Docker service: what is not given stays, `null` brings back the default. New containers start beside the
/// old ones, and requests go there when they are ready; if they do not become so the old ones stay.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateService {
    /// Its name.
    pub service_name: ServiceName,
    /// What changes.
    #[serde(flatten)]
    #[command(flatten)]
    pub changes: Changes<Service>,
}

impl Operation for UpdateService {
    const NAME: &'static str = "update_service";
    const COMMAND: &'static [&'static str] = &["service", "update"];
    const HTTP: Endpoint = put("/services/{service_name}");
    const ALIASES: &'static [Endpoint] = &[patch("/services/{service_name}")];
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        change(control, ctx, &self.service_name, |service| {
            let mut next = self.changes.apply(&service)?;
            next.node = next.node.or_else(|| service.node.clone());
            if next.node != service.node {
                let detail = "can't be changed: delete the service, and create it for the other node";
                let node = next.node.as_ref().map(ToString::to_string);
                return Err(Error::invalid(FieldError::new("node", node, detail)));
            }
            if next.container.is_some() != service.container.is_some() {
                let detail = "can't be given or taken later: delete the service, and create it again";
                return Err(Error::invalid(FieldError::bare("container", detail)));
            }
            let other = (&next.dockerfile_path, &next.build_context, &next.build_args)
                != (&service.dockerfile_path, &service.build_context, &service.build_args);
            if next.dockerfile_path.is_some() && (other || next.build_revision.is_none()) {
                next.build_revision = Some(create::revision());
            }
            Ok(next)
        })
        .await
    }
}

/// Build the image of a service with a Dockerfile again, and run it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RebuildService {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for RebuildService {
    const NAME: &'static str = "rebuild_service";
    const COMMAND: &'static [&'static str] = &["service", "rebuild"];
    const HTTP: Endpoint = post("/services/{service_name}/rebuild");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        let revision = create::revision();
        change(control, ctx, &self.service_name, |service| {
            check_made_here(&service)?;
            if service.dockerfile_path.is_none() {
                return Err(Error::Conflict(format!(
                    "the service {} runs an image that is not built here: update its `image`",
                    service.service_name
                )));
            }
            Ok(Service { build_revision: Some(revision.clone()), ..service })
        })
        .await
    }
}

/// Start a Docker service.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct StartService {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for StartService {
    const NAME: &'static str = "start_service";
    const COMMAND: &'static [&'static str] = &["service", "start"];
    const HTTP: Endpoint = post("/services/{service_name}/start");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        let start = |service| {
            check_made_here(&service)?;
            Ok(Service { desired_state: Desired::Running, ..service })
        };
        change(control, ctx, &self.service_name, start).await
    }
}

/// Stop a Docker service: its hosts answer 503 until it is started.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct StopService {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for StopService {
    const NAME: &'static str = "stop_service";
    const COMMAND: &'static [&'static str] = &["service", "stop"];
    const HTTP: Endpoint = post("/services/{service_name}/stop");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        let stop = |service| {
            check_made_here(&service)?;
            Ok(Service { desired_state: Desired::Stopped, ..service })
        };
        change(control, ctx, &self.service_name, stop).await
    }
}

/// Restart a Docker service: new containers take the place of the old ones when they are ready.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RestartService {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for RestartService {
    const NAME: &'static str = "restart_service";
    const COMMAND: &'static [&'static str] = &["service", "restart"];
    const HTTP: Endpoint = post("/services/{service_name}/restart");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        let restart = |service: Service| {
            check_made_here(&service)?;
            Ok(Service { generation: service.generation + 1, desired_state: Desired::Running, ..service })
        };
        change(control, ctx, &self.service_name, restart).await
    }
}

/// Changes a document, and waits until it is so.
async fn change(
    control: &Control,
    ctx: &Context,
    name: &ServiceName,
    next: impl Fn(Service) -> Result<Service, Error> + Send + Sync,
) -> Result<ServiceInfo, Error> {
    let docker = control.docker()?;
    let edited = control.edit(ctx, name.as_str(), |service: Service, config| {
        if service.deleting {
            return Err(Error::Conflict(format!("the service {name} is being deleted")));
        }
        let next = next(service)?;
        // What policy allows no more may end.
        if next.desired_state == Desired::Running {
            admit(docker, &next, config)?;
        }
        Ok(next)
    });
    let service = edited.await?;
    let known = waiting::settled(docker, ctx, &service).await?;
    // How a container of somebody else does is not what was changed.
    if service.container.is_none() {
        waiting::check(&service, &known)?;
    }
    Ok(ServiceInfo { service, state: known })
}
