//! Deleting a service: its containers go first, then the document. Whoever dies in between is followed by one who goes
//! on.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, waiting};
use crate::config::{Config, Service, ServiceName, Target};
use crate::control::operation::delete;
use crate::control::ports;
use crate::control::proxies::DeleteProxy;
use crate::control::{Access, Caller, Context, Control, Done, Endpoint, Operation};
use crate::docker::Docker;
use crate::store::{Expect, Kind, Write};
use crate::vault::Vault;

/// What removing containers may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Delete a Docker service with its containers, but for one that somebody else made. Hosts and routes that send requests
/// to it are in the way.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteService {
    /// Its name.
    pub service_name: ServiceName,
    /// Forget it although its engine does not answer: containers may stay there, and `service cleanup` removes them.
    #[serde(default)]
    #[arg(long)]
    pub force: bool,
    /// Delete the hosts whose requests go to it, too.
    #[serde(default)]
    #[arg(long)]
    pub delete_proxy: bool,
}

impl Operation for DeleteService {
    const NAME: &'static str = "delete_service";
    const COMMAND: &'static [&'static str] = &["service", "delete"];
    const HTTP: Endpoint = delete("/services/{service_name}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let name = &self.service_name;
        let service: Service = control.get(name.as_str()).await?;
        let mut done = Done::new("deleted", name);
        if let Some(container) = &service.labelled_by {
            done.also.push(format!("it comes back as long as the container {container} has its labels"));
        }
        let config = control.config().await?;
        forbid_while_used(name, &config, self.delete_proxy)?;
        if self.delete_proxy {
            let target = Target::Service(name.clone());
            for proxy in config.proxies.values().filter(|proxy| proxy.target_url == target) {
                let host = proxy.proxy_hostname.clone();
                let one = DeleteProxy { proxy_hostname: host.clone(), delete_certificate: false };
                one.run(control, ctx).await?;
                done.also.push(format!("proxy {host} deleted"));
            }
        }
        if service.container.is_some() {
            control.delete::<Service>(ctx, name.as_str(), going_with).await?;
            return Ok(done);
        }
        if self.force {
            let secret = |service: &Service, config: &Config| {
                let mut also = ports::release(config, &service.service_name);
                also.push(Vault::delete(&Service::secret_id(&service.service_name), Expect::Any));
                Ok(also)
            };
            if control.docker.is_none() {
                let _: Service = control.delete(ctx, name.as_str(), secret).await?;
                return Ok(done);
            }
        }
        let docker = control.docker()?;
        let marked = mark(control, ctx, name).await?;
        let patience = if self.force { Duration::from_secs(5) } else { PATIENCE };
        if waiting::gone(docker, ctx, &marked, patience).await? {
            return Ok(done);
        }
        if self.force {
            let secret = |service: &Service, _: &Config| {
                Ok(vec![Vault::delete(&Service::secret_id(&service.service_name), Expect::Any)])
            };
            match control.delete::<Service>(ctx, name.as_str(), secret).await {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            done.also.push("its containers may still be there: see `service cleanup`".to_owned());
            return Ok(done);
        }
        let where_it_is = match &service.node {
            Some(node) if *node != docker.owner.node => format!("the node {node}"),
            _ => "the Docker engine".to_owned(),
        };
        Err(Error::EngineAway(format!(
            "the service {name} is marked and goes when {where_it_is} has removed its containers"
        )))
    }
}

/// The steps that go with deleting a service whose container stays, or why it must stay.
pub(super) fn going_with(service: &Service, config: &Config) -> Result<Vec<Write>, Error> {
    forbid_while_used(&service.service_name, config, false)?;
    Ok(ports::release(config, &service.service_name))
}

/// Says in the document that it goes.
async fn mark(control: &Control, ctx: &Context, name: &ServiceName) -> Result<Service, Error> {
    mark_if(control, ctx, name, |_| true).await
}

async fn mark_if(
    control: &Control,
    ctx: &Context,
    name: &ServiceName,
    wanted: impl Fn(&Service) -> bool + Send + Sync,
) -> Result<Service, Error> {
    // Its ports are free at once: containers may take their time.
    let marked = |service: Service, config: &Config| {
        if !wanted(&service) {
            return Err(Error::Conflict(format!("the service {name} is another one by now")));
        }
        let released =
            if service.deleting { Vec::new() } else { ports::release(config, &service.service_name) };
        Ok((Service { deleting: true, ..service }, released))
    };
    control.edit_with(ctx, name.as_str(), marked).await
}

/// Takes back a service that was just made, as far as it goes: what is left is marked, and goes later.
pub(super) async fn take_back(control: &Control, docker: &Docker, service: &Service) {
    // Not cancelled with the operation.
    let ctx = Context::of(Caller::Local);
    // Somebody may have deleted it, or taken it over, since.
    let still = |found: &Service| {
        (&found.created_at, found.config_version) == (&service.created_at, service.config_version)
    };
    let marked = match mark_if(control, &ctx, &service.service_name, still).await {
        Ok(marked) => marked,
        Err(error) => {
            tracing::warn!(service = %service.service_name, %error, "a service that failed stays");
            return;
        }
    };
    if !matches!(waiting::gone(docker, &ctx, &marked, PATIENCE).await, Ok(true)) {
        tracing::warn!(service = %service.service_name, "a service that failed goes when the engine has removed it");
    }
}

fn forbid_while_used(name: &ServiceName, config: &Config, with_hosts: bool) -> Result<(), Error> {
    let users = config.users_of(name).into_iter().filter(|key| !(with_hosts && key.kind == Kind::Proxy));
    let users: Vec<_> = users.map(|key| key.to_string()).collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "the service {name} is the target of {}: delete or change them first, hosts with `delete_proxy`",
        users.join(", ")
    )))
}
