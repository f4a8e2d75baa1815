//! Images of services: there already, pulled, or built.

use std::collections::HashMap;

use bollard::query_parameters::BuildImageOptionsBuilder;

use super::context::Context;
use super::policy::Refusal;
use super::spec::{self, ImageFacts};
use super::{Docker, engine};
use crate::config::Service;

/// The longest that is kept of what a failed build said.
const TAIL: usize = 20;

/// Why a service has no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Policy does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine can't be asked.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// It can't be pulled.
    #[error("the image {image} can't be pulled: {reason}")]
    Pull {
        /// The image.
        image: String,
        /// What the engine says.
        reason: String,
    },
    /// It can't be built.
    #[error("the image can't be built: {reason}{}", tail(.said))]
    Build {
        /// What the engine says.
        reason: String,
        /// What the build said last.
        said: Vec<String>,
    },
}

fn tail(said: &[String]) -> String {
    if said.is_empty() { String::new() } else { format!("; it said last:\n{}", said.join("\n")) }
}

/// The image of a service, pulled or built if it is missing; `told` hears how far it is.
pub async fn ensure(
    docker: &Docker,
    service: &Service,
    mut told: impl FnMut(String) + Send,
) -> Result<ImageFacts, Error> {
    let Docker { engine, policy, .. } = docker;
    let name = service.image_name();
    if service.image.is_some() {
        policy.check_image(&name)?;
    }
    if let Some(found) = engine.image(&name).await? {
        return Ok(found);
    }
    if service.image.is_some() {
        told(format!("pulling {name}"));
        engine.pull(&name, &mut told).await.map_err(|error| match error {
            engine::Error::NotFound(reason)
            | engine::Error::Conflict(reason)
            | engine::Error::Refused(reason) => Error::Pull { image: name.clone(), reason },
            other => Error::Engine(other),
        })?;
    } else {
        build(docker, service, &name, &mut told).await?;
    }
    let missing = || engine::Error::NotFound(format!("the image {name}, although it was just made"));
    Ok(engine.image(&name).await?.ok_or_else(missing)?)
}

async fn build(
    docker: &Docker,
    service: &Service,
    name: &str,
    told: &mut (impl FnMut(String) + Send),
) -> Result<(), Error> {
    let Docker { engine, policy, owner, .. } = docker;
    let folder = policy.context(service.build_context.as_deref())?;
    let dockerfile = service.dockerfile_path.clone().unwrap_or_else(|| "Dockerfile".to_owned());
    let (contexts, wanted) = (policy.contexts.clone(), dockerfile.clone());
    let opened = tokio::task::spawn_blocking(move || Context::open(&contexts, &folder, &wanted)).await;
    let context = match opened {
        Ok(Ok(context)) => context,
        Ok(Err(error)) => {
            let (field, value) = (error.field.to_owned(), String::new());
            return Err(Refusal { field, value, detail: error.detail }.into());
        }
        Err(_) => {
            return Err(Error::Build {
                reason: "its context could not be read".to_owned(),
                said: Vec::new(),
            });
        }
    };
    // What it is built from runs as well.
    for base in context.bases() {
        policy.check_image(&base).map_err(|refusal| Refusal {
            field: "dockerfile_path".to_owned(),
            detail: format!("begins with {base}: {}", refusal.detail),
            ..refusal
        })?;
    }
    told(format!("building {name}"));
    let arguments: HashMap<_, _> = service.build_args.clone().into_iter().collect();
    let mut labels = HashMap::from(spec::owner_labels(owner));
    labels.insert(spec::SERVICE.to_owned(), service.service_name.to_string());
    let options = BuildImageOptionsBuilder::new()
        .dockerfile(&dockerfile)
        .t(name)
        .rm(true)
        .forcerm(true)
        .buildargs(&arguments)
        .labels(&labels)
        .build();
    let mut said = Vec::new();
    let outcome = engine
        .build(options, context.archive(), |line| {
            if said.len() == TAIL {
                said.remove(0);
            }
            said.push(line.clone());
            told(line);
        })
        .await;
    outcome.map_err(|error| match error {
        engine::Error::NotFound(reason)
        | engine::Error::Conflict(reason)
        | engine::Error::Refused(reason) => Error::Build { reason, said },
        other => Error::Engine(other),
    })
}
