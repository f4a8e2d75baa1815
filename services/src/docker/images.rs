//! Images of services: there already, pulled, or built.

use std::collections::HashMap;

use bollard::query_parameters::BuildImageOptionsBuilder;

use super::context::Context;
use super::dockerfile::{self, Base};
use super::policy::{Policy, Refusal};
use super::spec::{self, ImageFacts};
use super::{Docker, engine};
use crate::config::Service;

/// The longest that is kept of what a failed build said.
const TAIL: usize = 20;

/// What shares of processors are counted in, in microseconds.
const CPU_PERIOD: i32 = 100_000;

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
        if service.image.is_none() {
            check_bases(policy, found.bases.as_deref())?;
        }
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

/// Whether an image that was built before may still run: policy may be another one by now.
fn check_bases(policy: &Policy, bases: Option<&str>) -> Result<(), Refusal> {
    if !policy.judges_images() {
        return Ok(());
    }
    let refused =
        |detail: String| Refusal { field: "dockerfile_path".to_owned(), value: String::new(), detail };
    let bases: Option<Vec<String>> = bases.and_then(|bases| serde_json::from_str(bases).ok());
    let unknown = || refused("was built before it was noted from what: rebuild the service".to_owned());
    for image in bases.ok_or_else(unknown)? {
        policy
            .check_image(&image)
            .map_err(|refusal| refused(format!("begins with {image}: {}", refusal.detail)))?;
    }
    Ok(())
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
    let refused = |value: &str, detail: String| Refusal {
        field: "dockerfile_path".to_owned(),
        value: value.to_owned(),
        detail,
    };
    let built = dockerfile::read(&context.text).map_err(|error| refused("", error.to_string()))?;
    if built.fetches && !policy.build.urls {
        let detail = "has the engine fetch something (ADD of a URL, or of what an argument says), from where its machine is: \
                      expected COPY, or RUN with a program that fetches; PORTCULLIS_DOCKER_BUILD_URLS allows it";
        return Err(refused("", detail.to_owned()).into());
    }
    let mut bases = Vec::new();
    for Base { image, varies } in built.bases {
        if varies && policy.judges_images() {
            let detail = "is chosen by an argument of the build: expected a name that PORTCULLIS_DOCKER_IMAGES can judge";
            return Err(refused(&image, detail.to_owned()).into());
        }
        policy
            .check_image(&image)
            .map_err(|refusal| refused(&image, format!("begins with {image}: {}", refusal.detail)))?;
        bases.push(image);
    }
    docker.ensure_networks(service).await?;
    told(format!("building {name}"));
    let limits = policy.build;
    let network = spec::networks(service, policy).into_iter().next().unwrap_or_default();
    let memory = i32::try_from(limits.memory).unwrap_or(i32::MAX);
    let arguments: HashMap<_, _> = service.build_args.clone().into_iter().collect();
    let mut labels = HashMap::from(spec::owner_labels(owner));
    labels.insert(spec::SERVICE.to_owned(), service.service_name.to_string());
    labels.insert(spec::BASES.to_owned(), serde_json::Value::from(bases).to_string());
    let options = BuildImageOptionsBuilder::new()
        .dockerfile(&dockerfile)
        .t(name)
        .rm(true)
        .forcerm(true)
        .buildargs(&arguments)
        .labels(&labels)
        // Where the service itself will be, not where containers of others are.
        .networkmode(&network)
        .memory(memory)
        .memswap(memory)
        .cpuperiod(CPU_PERIOD)
        .cpuquota((limits.cpus * f64::from(CPU_PERIOD)) as i32)
        .build();
    let mut said = Vec::new();
    let (archive, broken) = context.archive();
    let building = engine.build(options, archive, |line| {
        if said.len() == TAIL {
            said.remove(0);
        }
        said.push(line.clone());
        told(line);
    });
    // The engine ends a build that nobody listens to any more.
    let outcome = tokio::time::timeout(limits.time, building).await.unwrap_or_else(|_| {
        let seconds = limits.time.as_secs();
        Err(engine::Error::Refused(format!(
            "it takes longer than PORTCULLIS_DOCKER_BUILD_TIMEOUT, {seconds} s"
        )))
    });
    outcome.map_err(|error| match (broken.get(), error) {
        // The engine has heard only that there is no more.
        (Some(reason), _) => Error::Build { reason: reason.clone(), said },
        (
            None,
            engine::Error::NotFound(reason)
            | engine::Error::Conflict(reason)
            | engine::Error::Refused(reason),
        ) => Error::Build { reason, said },
        (None, error @ engine::Error::Late) => Error::Build { reason: error.to_string(), said },
        (None, other) => Error::Engine(other),
    })
}
