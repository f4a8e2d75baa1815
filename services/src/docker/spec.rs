//! From a service to a container: what it may be, or which policy refuses it. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use secrecy::{ExposeSecret, SecretString};

use super::owner::Owner;
use super::policy::{Policy, Refusal, USUAL_CAPABILITIES};
use crate::config::service::{DEFAULT_PORT, Restart, Source, Volume, memory_bytes};
use crate::config::{Service, ServiceName};

/// The service that a container is of.
pub const SERVICE: &str = "portcullis.service";
/// The node that owns it.
pub const NODE: &str = "portcullis.node";
/// The deployment that owns it.
pub const DEPLOYMENT: &str = "portcullis.deployment";
/// What it was made from.
pub const SPEC: &str = "portcullis.spec";
/// Which replica it is.
pub const REPLICA: &str = "portcullis.replica";
/// What an image was built from.
pub const BASES: &str = "portcullis.bases";
/// The port that it listens on.
pub const PORT: &str = "portcullis.port";

/// What can be written although the root can't. Images have nothing there that must stay.
const SCRATCH: [&str; 4] = ["/tmp", "/run", "/var/run", "/var/tmp"];

/// What can be written, too, and begins with what the image has there: programs miss their folders otherwise.
const KEPT: [&str; 2] = ["/var/cache", "/var/log"];

/// In many images the first of each is a link to the second.
const LINKED: [(&str, &str); 2] = [("/var/run", "/run"), ("/var/tmp", "/tmp")];

const SCRATCH_OPTIONS: &str = "rw,noexec,nosuid,nodev,size=64m,mode=1777";

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// The engine's name of it.
    pub id: String,
    /// The lowest TCP port that it exposes.
    pub port: Option<u16>,
    /// The user that it runs as.
    pub user: Option<String>,
    /// What it was built from, if it was built for a service.
    pub bases: Option<String>,
}

/// The values of a service's secret variables.
pub type Secrets = BTreeMap<String, SecretString>;

/// A container of a service.
pub fn container(
    service: &Service,
    replica: u32,
    secrets: &Secrets,
    image: &ImageFacts,
    policy: &Policy,
    owner: &Owner,
) -> Result<ContainerCreateBody, Refusal> {
    let port = service.internal_port.or(image.port).unwrap_or(DEFAULT_PORT);
    let value = |name: &str| secrets.get(name).map(|value| value.expose_secret().to_owned());
    let mut body = body(service, policy, value)?;
    // By its labels a volume is known as one that was made for a service.
    for mount in body.host_config.iter_mut().flat_map(|host| host.mounts.iter_mut().flatten()) {
        if mount.typ == Some(MountType::VOLUME) && mount.source.is_some() {
            let labels = Some(HashMap::from(owner_labels(owner)));
            mount.volume_options = Some(MountVolumeOptions { labels, ..MountVolumeOptions::default() });
        }
    }
    // What is judged is what runs: the name may mean another image a moment later.
    if !image.id.is_empty() {
        body.image = Some(image.id.clone());
    }
    let labels = body.labels.get_or_insert_default();
    labels.extend(owner_labels(owner));
    labels.insert(SERVICE.to_owned(), service.service_name.to_string());
    labels.insert(SPEC.to_owned(), fingerprint(service, policy)?);
    labels.insert(REPLICA.to_owned(), replica.to_string());
    labels.insert(PORT.to_owned(), port.to_string());
    // Programs that can be told where to listen are told by this name.
    if !service.environment.contains_key("PORT") && !service.secrets.contains_key("PORT") {
        body.env.get_or_insert_default().push(format!("PORT={port}"));
    }
    // Names of machines have no underscores, and end with a letter or a digit.
    body.hostname = Some(service.service_name.as_str().replace('_', "-").trim_end_matches('-').to_owned());
    // Other services find it by its name. On a network of others it would stand for whoever has that name there.
    let first = networks(service, policy).into_iter().next().unwrap_or_default();
    let aliases = (first == policy.network).then(|| vec![service.service_name.to_string()]);
    let alias = EndpointSettings { aliases, ..Default::default() };
    body.networking_config =
        Some(NetworkingConfig { endpoints_config: Some(HashMap::from([(first, alias)])) });
    Ok(body)
}

/// The labels by which a node finds its own containers.
pub fn owner_labels(owner: &Owner) -> [(String, String); 4] {
    [
        (DEPLOYMENT.to_owned(), owner.deployment.clone()),
        (NODE.to_owned(), owner.node.to_string()),
        ("managed".to_owned(), "true".to_owned()),
        ("created_by".to_owned(), "portcullis".to_owned()),
    ]
}

/// Whether a container with these labels is one that a portcullis makes for a service.
pub fn is_made_here(labels: &HashMap<String, String>) -> bool {
    labels.contains_key(DEPLOYMENT)
}

/// What a container is called: the same for the same wish, so that nobody makes it twice.
pub fn container_name(name: &ServiceName, replica: u32, fingerprint: &str, owner: &Owner) -> String {
    let whose = short(&digest(&SHA256, format!("{}\n{}", owner.deployment, owner.node).as_bytes()), 3);
    format!("portcullis-{name}-{whose}-{fingerprint}-{replica}")
}

/// What tells one wish from another. Secret values are not in it: they are known by the names of their values.
pub fn fingerprint(service: &Service, policy: &Policy) -> Result<String, Refusal> {
    let body = body(service, policy, |name| service.secrets.get(name).cloned())?;
    let wish = serde_json::json!({
        // By way of a value, whose maps have an order.
        "body": serde_json::to_value(body).unwrap_or_default(),
        "generation": service.generation,
        "networks": networks(service, policy),
        "port": service.internal_port,
    });
    Ok(short(&digest(&SHA256, wish.to_string().as_bytes()), 6))
}

fn short(digest: &aws_lc_rs::digest::Digest, bytes: usize) -> String {
    digest.as_ref().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The networks of a service; its address is the one on the first.
pub fn networks(service: &Service, policy: &Policy) -> Vec<String> {
    if service.networks.is_empty() { vec![policy.network.clone()] } else { service.networks.clone() }
}

/// Everything but what differs between the replicas.
fn body(
    service: &Service,
    policy: &Policy,
    secret: impl Fn(&str) -> Option<String>,
) -> Result<ContainerCreateBody, Refusal> {
    if service.image.is_some() {
        policy.check_image(&service.image_name())?;
    } else {
        policy.context(service.build_context.as_deref())?;
    }
    let mut env: Vec<_> = service.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    for name in service.secrets.keys() {
        let value = secret(name).ok_or_else(|| Refusal {
            field: format!("secrets.{name}"),
            value: String::new(),
            detail: "its value is not in the vault: set it again".to_owned(),
        })?;
        env.push(format!("{name}={value}"));
    }
    let filled = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Ok(ContainerCreateBody {
        image: Some(service.image_name()),
        cmd: filled(&service.command),
        env: Some(env),
        user: service.user.clone(),
        labels: Some(service.labels.clone().into_iter().collect()),
        healthcheck: service.healthcheck.as_ref().map(health),
        host_config: Some(host_config(service, policy)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(service: &Service, policy: &Policy) -> Result<HostConfig, Refusal> {
    let mut mounts = mounts(service, policy)?;
    let taken: Vec<_> = mounts.iter().filter_map(|mount| mount.target.clone()).collect();
    let below = |path: &str| taken.iter().any(|target| Path::new(target).starts_with(path));
    // What was mounted below the one would be hidden by the other where they are the same folder.
    let hides = |path: &str| LINKED.iter().any(|(link, folder)| *link == path && below(folder));
    let free = |path: &&str| !taken.iter().any(|target| target == *path) && !hides(path);
    let mut tmpfs = HashMap::new();
    if service.read_only_root {
        let scratch = SCRATCH.iter().copied().filter(free);
        tmpfs.extend(scratch.map(|path| (path.to_owned(), SCRATCH_OPTIONS.to_owned())));
        mounts.extend(KEPT.iter().copied().filter(free).map(|path| Mount {
            target: Some(path.to_owned()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        }));
    }
    let mut capabilities: Vec<_> = USUAL_CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
    for (index, name) in service.capabilities.iter().enumerate() {
        let name = policy.check_capability(&format!("capabilities[{index}]"), name)?;
        if !capabilities.contains(&name) {
            capabilities.push(name);
        }
    }
    let networks = networks(service, policy);
    for (index, name) in networks.iter().enumerate() {
        policy.check_network(&format!("networks[{index}]"), name)?;
    }
    let memory = memory_bytes(&service.memory_limit).and_then(|bytes| i64::try_from(bytes).ok());
    let (size, files) = &policy.log;
    let log = [("max-size".to_owned(), size.clone()), ("max-file".to_owned(), files.to_string())];
    Ok(HostConfig {
        memory,
        // What does not fit shall not go to the disk instead.
        memory_swap: memory,
        nano_cpus: Some((service.cpu_limit * 1e9) as i64),
        pids_limit: Some(policy.pids),
        network_mode: networks.into_iter().next(),
        restart_policy: Some(RestartPolicy {
            name: Some(restart(service.restart_policy)),
            maximum_retry_count: None,
        }),
        readonly_rootfs: Some(service.read_only_root),
        tmpfs: Some(tmpfs),
        mounts: Some(mounts),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(capabilities),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        publish_all_ports: Some(false),
        ipc_mode: Some("private".to_owned()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from(log)),
        }),
        init: Some(false),
        ..HostConfig::default()
    })
}

fn mounts(service: &Service, policy: &Policy) -> Result<Vec<Mount>, Refusal> {
    let mut mounts = Vec::new();
    for (index, text) in service.volumes.iter().enumerate() {
        let field = format!("volumes[{index}]");
        let volume = text.parse::<Volume>().map_err(|error| Refusal {
            field: field.clone(),
            value: text.clone(),
            detail: error.to_string(),
        })?;
        let (typ, source) = match volume.source {
            Source::Named(name) => (MountType::VOLUME, name),
            Source::Path(path) => {
                policy.check_path(&field, &path)?;
                (MountType::BIND, path)
            }
        };
        mounts.push(Mount {
            target: Some(volume.target),
            source: Some(source),
            typ: Some(typ),
            read_only: Some(volume.read_only),
            ..Mount::default()
        });
    }
    Ok(mounts)
}

const fn restart(policy: Restart) -> RestartPolicyNameEnum {
    match policy {
        Restart::No => RestartPolicyNameEnum::NO,
        Restart::Always => RestartPolicyNameEnum::ALWAYS,
        Restart::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
        Restart::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
    }
}

fn health(check: &crate::config::service::HealthCheck) -> HealthConfig {
    let nanos = |seconds: u32| Some(i64::from(seconds) * 1_000_000_000);
    HealthConfig {
        test: Some(check.test.clone()),
        interval: nanos(check.interval_seconds),
        timeout: nanos(check.timeout_seconds),
        retries: Some(check.retries.into()),
        start_period: nanos(check.start_period_seconds),
        start_interval: None,
    }
}

#[cfg(test)]
mod tests;
