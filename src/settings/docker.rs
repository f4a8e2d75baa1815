//! Settings of the Docker engine, and of what services in containers may be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args};
use portcullis_services::config::NodeName;
use portcullis_services::docker::engine::USUAL_SOCKET;
use portcullis_services::docker::policy::{BuildLimits, HostRule, ImagePattern, NEVER};
use portcullis_services::docker::{self, Connection, Engine, Owner, Policy};

use super::seconds;

/// The Docker engine, and what services may be.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Docker services")]
pub struct Docker {
    /// The Docker engine: unix:///PATH or tcp://HOST:PORT. Default: unix:///var/run/docker.sock if that is there, else
    /// none.
    #[arg(long, env = "DOCKER_HOST")]
    pub docker_host: Option<String>,

    /// The version of the engine's API that is spoken, e.g. 1.44. Default: the engine's own.
    #[arg(long, env = "DOCKER_API_VERSION")]
    pub docker_api_version: Option<String>,

    /// Whether the engine is spoken to over TLS, as with DOCKER_CERT_PATH; any value but 0 and empty.
    #[arg(long, env = "DOCKER_TLS_VERIFY")]
    pub docker_tls_verify: Option<String>,

    /// The folder of ca.pem, cert.pem and key.pem for TLS; the last two may be missing where the engine asks for none.
    #[arg(long, env = "DOCKER_CERT_PATH")]
    pub docker_cert_path: Option<PathBuf>,

    /// The name of this node. Nodes that share a store and run services need names of their own.
    #[arg(long, env = "PORTCULLIS_NODE_NAME", default_value = "main")]
    pub node_name: NodeName,

    /// Images that services may run and be built from, e.g. nginx:*,ghcr.io/owner/*. Default: all.
    #[arg(long, env = "PORTCULLIS_DOCKER_IMAGES", value_delimiter = ',')]
    pub docker_images: Vec<ImagePattern>,

    /// Whether images must be named by their digest.
    #[arg(long, env = "PORTCULLIS_DOCKER_REQUIRE_DIGEST", default_value_t = false, action = ArgAction::Set)]
    pub docker_require_digest: bool,

    /// Folders of the engine's machine that services may mount, and what is below them. Default: none.
    #[arg(long, env = "PORTCULLIS_DOCKER_MOUNTS", value_delimiter = ',', value_parser = absolute)]
    pub docker_mounts: Vec<PathBuf>,

    /// Capabilities that services may ask for beside the few that stock images need. Default: none.
    #[arg(long, env = "PORTCULLIS_DOCKER_CAPABILITIES", value_delimiter = ',', value_parser = capability)]
    pub docker_capabilities: Vec<String>,

    /// The network that services join; made when it is missing.
    #[arg(long, env = "PORTCULLIS_DOCKER_NETWORK", default_value = "portcullis")]
    pub docker_network: String,

    /// Further networks that services may join. Default: none.
    #[arg(long, env = "PORTCULLIS_DOCKER_NETWORKS", value_delimiter = ',')]
    pub docker_networks: Vec<String>,

    /// Volumes of the engine that services may mount although they were not made for services, e.g. shared-*. Default:
    /// none.
    #[arg(long, env = "PORTCULLIS_DOCKER_VOLUMES", value_delimiter = ',')]
    pub docker_volumes: Vec<String>,

    /// Whether services may be of containers that somebody else made, and that are only watched.
    #[arg(long, env = "PORTCULLIS_DOCKER_ADOPT", default_value_t = false, action = ArgAction::Set)]
    pub docker_adopt: bool,

    /// Whether labels of containers that somebody else made, e.g. portcullis.host=app.example.com, make hosts.
    #[arg(long, env = "PORTCULLIS_DOCKER_LABELS", default_value_t = false, action = ArgAction::Set)]
    pub docker_labels: bool,

    /// Hosts that labels may make, e.g. *.apps.example.com. Default: all but the issuer's.
    #[arg(long, env = "PORTCULLIS_DOCKER_LABEL_HOSTS", value_delimiter = ',')]
    pub docker_label_hosts: Vec<HostRule>,

    /// The folder below which build contexts are.
    #[arg(long, env = "PORTCULLIS_DOCKER_CONTEXTS", default_value = "contexts")]
    pub docker_contexts: PathBuf,

    /// The memory of each step of a build, 6m to 2g; 0: all there is.
    #[arg(long, env = "PORTCULLIS_DOCKER_BUILD_MEMORY", default_value = "2g", value_parser = memory)]
    pub docker_build_memory: u64,

    /// The processors of each step of a build.
    #[arg(long, env = "PORTCULLIS_DOCKER_BUILD_CPUS", default_value_t = 2.0, value_parser = cpus)]
    pub docker_build_cpus: f64,

    /// Seconds that a build may take in all.
    #[arg(long, env = "PORTCULLIS_DOCKER_BUILD_TIMEOUT", default_value = "1800", value_parser = seconds)]
    pub docker_build_timeout: Duration,

    /// Whether builds may ADD what is somewhere in the net: the engine fetches that from where its machine is.
    #[arg(long, env = "PORTCULLIS_DOCKER_BUILD_URLS", default_value_t = false, action = ArgAction::Set)]
    pub docker_build_urls: bool,

    /// The most processes of a container.
    #[arg(long, env = "PORTCULLIS_DOCKER_PIDS", default_value_t = 512, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    pub docker_pids: i64,

    /// How large a log file of a container grows, e.g. 10m.
    #[arg(long, env = "PORTCULLIS_DOCKER_LOG_SIZE", default_value = "10m", value_parser = size)]
    pub docker_log_size: String,

    /// How many log files of a container are kept.
    #[arg(long, env = "PORTCULLIS_DOCKER_LOG_FILES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub docker_log_files: u32,

    /// Seconds that a new container may take until it is ready.
    #[arg(long, env = "PORTCULLIS_DOCKER_START_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub docker_start_timeout: Duration,

    /// Seconds that an old container may still answer what it was asked before it is replaced.
    #[arg(long, env = "PORTCULLIS_DOCKER_DRAIN", default_value = "10", value_parser = seconds)]
    pub docker_drain: Duration,

    /// Seconds that a container may take to end before it is killed.
    #[arg(long, env = "PORTCULLIS_DOCKER_STOP_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub docker_stop_timeout: Duration,
}

impl Docker {
    /// The engine of this node, when there is one.
    ///
    /// # Errors
    ///
    /// The variable that is wrong, and what would be right.
    pub fn engine(&self, issuer: &str) -> Result<Option<docker::Docker>, (&'static str, String)> {
        let usual = || Path::new(USUAL_SOCKET).exists().then(|| format!("unix://{USUAL_SOCKET}"));
        let host = self.docker_host.clone().filter(|host| !host.trim().is_empty()).or_else(usual);
        let Some(host) = host else { return Ok(None) };
        let wants_tls =
            self.docker_tls_verify.as_deref().is_some_and(|text| !matches!(text.trim(), "" | "0"));
        let folder = match (&self.docker_cert_path, wants_tls) {
            (Some(folder), _) => Some(folder.clone()),
            (None, true) => {
                return Err((
                    "DOCKER_CERT_PATH",
                    "is needed beside DOCKER_TLS_VERIFY: the folder of ca.pem, cert.pem and key.pem"
                        .to_owned(),
                ));
            }
            (None, false) => None,
        };
        let connection = Connection::parse(host.trim(), folder).map_err(|detail| ("DOCKER_HOST", detail))?;
        let version = self.docker_api_version.as_deref().filter(|version| !version.trim().is_empty());
        let engine = Engine::new(connection, version);
        let engine = engine.map_err(|detail| ("DOCKER_API_VERSION", detail))?;
        engine.check().map_err(|detail| ("DOCKER_CERT_PATH", detail))?;
        let owner = Owner { deployment: issuer.to_owned(), node: self.node_name.clone() };
        let policy = self.policy(engine.socket());
        Ok(Some(docker::Docker::new(engine, owner, policy)))
    }

    fn policy(&self, socket: Option<&Path>) -> Policy {
        let usual = Policy::default();
        let mut sockets = usual.sockets;
        sockets.extend(socket.map(Path::to_owned));
        Policy {
            images: self.docker_images.clone(),
            digests: self.docker_require_digest,
            paths: self.docker_mounts.clone(),
            capabilities: self.docker_capabilities.clone(),
            network: self.docker_network.clone(),
            networks: self.docker_networks.clone(),
            contexts: self.docker_contexts.clone(),
            pids: self.docker_pids,
            volumes: self.docker_volumes.clone(),
            build: BuildLimits {
                memory: self.docker_build_memory,
                cpus: self.docker_build_cpus,
                time: self.docker_build_timeout,
                urls: self.docker_build_urls,
            },
            log: (self.docker_log_size.clone(), self.docker_log_files),
            start: self.docker_start_timeout,
            drain: self.docker_drain,
            stop: self.docker_stop_timeout,
            sockets,
            adopt: self.docker_adopt,
            labels: self.docker_labels,
            label_hosts: self.docker_label_hosts.clone(),
        }
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text.trim());
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !path.is_absolute() || !plain {
        return Err(format!(
            "{text:?} is no folder that can be mounted: write an absolute path without `..`"
        ));
    }
    Ok(path.to_owned())
}

fn capability(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_uppercase();
    let plain = name.strip_prefix("CAP_").unwrap_or(&name);
    if plain.is_empty() || NEVER.contains(&plain) {
        return Err(format!("{text:?} is never given: it is as good as being root on the engine's machine"));
    }
    Ok(plain.to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    // Engines refuse less than 6 MiB.
    let bytes = portcullis_services::config::service::memory_bytes(text);
    let bytes = bytes.filter(|bytes| *bytes == 0 || (6 << 20..=2 << 30).contains(bytes));
    bytes.ok_or_else(|| format!("{text:?} is no memory for a build: write 6m to 2g, or 0 for all there is"))
}

fn cpus(text: &str) -> Result<f64, String> {
    let cpus = text.trim().parse().ok().filter(|cpus| (0.01..=1024.0).contains(cpus));
    cpus.ok_or_else(|| format!("{text:?} is no number of processors: write e.g. 2 or 0.5"))
}

fn size(text: &str) -> Result<String, String> {
    match portcullis_services::config::service::memory_bytes(text) {
        Some(4096..) => Ok(text.trim().to_ascii_lowercase()),
        _ => Err(format!("{text:?} is no size of a file: write e.g. 10m")),
    }
}
