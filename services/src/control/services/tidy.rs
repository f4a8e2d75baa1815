//! What is left over: containers of this node whose service is gone, and images that were built for services that are.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::service::BUILT;
use crate::config::{Config, ServiceName};
use crate::control::operation::post;
use crate::control::{Access, Context, Control, Endpoint, Operation};
use crate::docker::Docker;

/// What was left over.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Cleanup {
    /// What was done, in words.
    pub message: String,
    /// Whether nothing was removed, because it was only looked for.
    pub dry_run: bool,
    /// Containers of services that are gone.
    pub containers_removed: Vec<Leftover>,
    /// Images that were built for services, and that none runs.
    pub images_removed: Vec<String>,
    /// Services without any container: their node makes them again as long as they shall run.
    pub without_container: Vec<String>,
}

/// A container without a service.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Leftover {
    /// The container.
    pub container_id: String,
    /// The service that it was of.
    pub service_name: String,
    /// What the engine says of it.
    pub state: String,
}

/// Find containers of this node whose service is gone, and images that were built for none: they are removed with
/// `remove`.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CleanupServices {
    /// Remove what is found; without this it is only looked for.
    #[serde(default)]
    #[arg(long)]
    pub remove: bool,
}

impl Operation for CleanupServices {
    const NAME: &'static str = "cleanup_services";
    const COMMAND: &'static [&'static str] = &["service", "cleanup"];
    const HTTP: Endpoint = post("/services/cleanup");
    const SCOPE: Access = Access::Admin;
    type Output = Cleanup;

    async fn run(self, control: &Control, _: &Context) -> Result<Cleanup, Error> {
        let docker = control.docker()?;
        // A replaced store knows nothing of what runs: it must not take it away.
        if control.applied.borrow().replaced.is_some() {
            return Err(Error::StoreReplaced);
        }
        // First what is there, then what is wanted: what was created in between is no leftover.
        let (found, built) =
            (crate::docker::containers(docker).await?, docker.engine.built_images(&docker.owner).await?);
        let config = control.config().await?;
        let (containers, without_container) = containers(docker, &config, found);
        let used: Vec<_> = config.services.values().map(|service| service.image_name()).collect();
        let images: Vec<_> =
            built.into_iter().filter(|image| image.starts_with(BUILT) && !used.contains(image)).collect();
        if self.remove {
            for one in &containers {
                docker.engine.remove(&one.container_id).await?;
            }
            for image in &images {
                docker.engine.remove_image(image).await?;
            }
        }
        let verb = if self.remove { "removed" } else { "found" };
        let message = format!("{verb} {} containers and {} images", containers.len(), images.len());
        let dry_run = !self.remove;
        Ok(Cleanup {
            message,
            dry_run,
            containers_removed: containers,
            images_removed: images,
            without_container,
        })
    }
}

fn containers(
    docker: &Docker,
    config: &Config,
    found: Vec<(String, ServiceName, String)>,
) -> (Vec<Leftover>, Vec<String>) {
    let node = &docker.owner.node;
    let ours = |service: &crate::config::Service| {
        service.container.is_none() && service.node.as_ref().is_none_or(|other| other == node)
    };
    let without = config
        .services
        .values()
        .filter(|service| ours(service) && !found.iter().any(|(_, name, _)| *name == service.service_name));
    let without = without.map(|service| service.service_name.to_string()).collect();
    let left =
        found.into_iter().filter(|(_, name, _)| !config.services.get(name).is_some_and(|one| ours(one)));
    let left = left.map(|(container_id, name, state)| Leftover {
        container_id,
        service_name: name.to_string(),
        state,
    });
    (left.collect(), without)
}
