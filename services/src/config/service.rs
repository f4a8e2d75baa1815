//! A Docker service: containers that one node's engine runs, and that routes and hosts can name.
//!
//! The document says what is wanted; `docker::reconcile` makes it so. Values of secret variables are sealed in the
//! vault: the document knows their names only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balancing::{self, Balanced, First, LoadBalancing, PassiveHealth, Retries};
use super::field::FieldError;
use super::names::{NodeName, ServiceName};
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

mod check;
mod foreign;
mod volume;

#[cfg(feature = "docker")]
pub(crate) use check::is_variable;
pub use check::memory_bytes;
pub use volume::{Source, Volume};

/// The port where nothing says another one.
pub const DEFAULT_PORT: u16 = 8080;

/// Containers that one node's engine runs, or one that somebody else made there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name; hosts and routes name it, and externals have none of these.
    pub service_name: ServiceName,
    /// The image that it runs; pulled when it is missing. Either this, `dockerfile_path` or `container`.
    #[serde(default)]
    pub image: Option<String>,
    /// The Dockerfile that its image is built from, in the build context.
    #[serde(default)]
    pub dockerfile_path: Option<String>,
    /// The folder that is built, below PORTCULLIS_DOCKER_CONTEXTS. Default: that folder itself.
    #[serde(default)]
    pub build_context: Option<String>,
    /// The name of a container that somebody else made, as Compose does: it is watched, and never touched.
    #[serde(default)]
    pub container: Option<String>,
    /// The network that the address of `container` is on. Default: PORTCULLIS_DOCKER_NETWORK, else its only one.
    #[serde(default)]
    pub network: Option<String>,
    /// Arguments of the build.
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    /// Which build is wanted: another one is another image.
    #[serde(default)]
    pub build_revision: Option<String>,
    /// The port that it listens on. Default: the first that its image exposes, else 8080.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub internal_port: Option<u16>,
    /// Variables of its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Variables whose values are sealed, with the name of the value that is wanted.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// What it runs instead of its image's command.
    #[serde(default)]
    pub command: Vec<String>,
    /// What is mounted: `NAME:/path[:ro]` for a volume, `/host/path:/path[:ro]` for a folder that policy allows.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The networks that it joins; its address is the one on the first. Default: PORTCULLIS_DOCKER_NETWORK.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Labels of its containers.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The most memory of a container, e.g. `512m` or `2g`.
    #[serde(default = "memory")]
    pub memory_limit: String,
    /// The most processors of a container: 0.01 to 32.
    #[serde(default = "one")]
    pub cpu_limit: f64,
    /// Whether a container that ends is started again.
    #[serde(default)]
    pub restart_policy: Restart,
    /// How it is told whether a container is healthy. Default: its image's check; else its port has to accept.
    #[serde(default)]
    pub healthcheck: Option<HealthCheck>,
    /// How requests are spread over its containers, for routes, and for hosts that do not say.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// How its containers are asked from outside whether they are well, beside `healthcheck`, which is asked inside;
    /// the same.
    #[serde(default)]
    pub health_check: Option<balancing::HealthCheck>,
    /// When a container gets nothing for a while because of what became of requests; the same.
    #[serde(default)]
    pub passive_health: Option<PassiveHealth>,
    /// When a request is sent to another container; the same.
    #[serde(default)]
    pub retries: Retries,
    /// Whether the root of its file system is read-only; `/tmp`, `/run` and the like can be written in any case.
    #[serde(default = "yes")]
    pub read_only_root: bool,
    /// The user that it runs as, e.g. `1000:1000`. Default: its image's.
    #[serde(default)]
    pub user: Option<String>,
    /// Capabilities beyond the few that every service has; policy must allow them.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// How many containers run: 1 to 32.
    #[serde(default = "replica")]
    #[schemars(range(min = 1, max = 32))]
    pub replicas: u32,
    /// Whether it shall run.
    #[serde(default)]
    pub desired_state: Desired,
    /// The node whose engine runs it. Default: the node that creates it.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Grows with each restart that was asked for.
    #[serde(default)]
    pub generation: u64,
    /// The container whose labels made it: `NODE/CONTAINER`.
    #[serde(default)]
    pub labelled_by: Option<String>,
    /// Whether its containers are being removed; then the document goes, too.
    #[serde(default)]
    pub deleting: bool,
    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

fn memory() -> String {
    "512m".to_owned()
}

const fn one() -> f64 {
    1.0
}

const fn yes() -> bool {
    true
}

const fn replica() -> u32 {
    1
}

/// Whether a container that ends is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    No,
    /// Always.
    Always,
    /// Always, unless it was stopped.
    #[default]
    UnlessStopped,
    /// When it ends with another code than 0.
    OnFailure,
}

/// Whether a service shall run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// It shall run.
    #[default]
    Running,
    /// It shall not.
    Stopped,
}

/// How it is told whether a container is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// `["CMD", PROGRAM, ARGUMENT…]`, `["CMD-SHELL", COMMAND]`, or `["NONE"]` against the check of the image.
    pub test: Vec<String>,
    /// Seconds between two checks.
    #[serde(default = "interval")]
    pub interval_seconds: u32,
    /// Seconds that a check may take.
    #[serde(default = "interval")]
    pub timeout_seconds: u32,
    /// So many failures in a row make it unhealthy.
    #[serde(default = "retries")]
    pub retries: u32,
    /// Seconds after the start in which failures do not count.
    #[serde(default)]
    pub start_period_seconds: u32,
}

const fn interval() -> u32 {
    10
}

const fn retries() -> u32 {
    3
}

impl Service {
    /// What it says of its containers, as upstreams.
    pub fn balanced(&self) -> Balanced<'_> {
        Balanced {
            first: First::Service,
            field: "upstreams",
            more: &[],
            load_balancing: &self.load_balancing,
            health_check: self.health_check.as_ref(),
            passive_health: self.passive_health.as_ref(),
            retries: &self.retries,
        }
    }

    /// The name of the secret with the values of its secret variables.
    pub fn secret_id(name: &ServiceName) -> String {
        format!("service-environment:{name}")
    }

    /// The image that its containers run: the one that it names, or the one that is built for it.
    pub fn image_name(&self) -> String {
        self.image.clone().unwrap_or_else(|| {
            let revision = self.build_revision.as_deref().unwrap_or("0");
            format!("{BUILT}{}:{revision}", self.service_name)
        })
    }

    /// What it runs, in a word: its image, or the container of somebody else.
    pub fn runs(&self) -> String {
        self.container
            .as_ref()
            .map_or_else(|| self.image_name(), |container| format!("container:{container}"))
    }
}

/// What the names of images begin with that are built for services.
pub const BUILT: &str = "portcullis-service/";

impl Entity for Service {
    const KIND: Kind = Kind::Service;
    const NOUN: &'static str = "service";
    const ID: &'static str = "service_name";
    const REQUIRED: &'static [&'static str] = &["service_name"];
    const ELSEWHERE: &'static [(&'static str, &'static str)] = &[
        ("secrets", "set_service_secret"),
        ("build_revision", "rebuild_service"),
        ("generation", "restart_service"),
        ("deleting", "delete_service"),
    ];
    const ARGUMENTS: &'static [&'static str] = &["service_name"];
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        ("name", "service_name"),
        ("port", "internal_port"),
        ("memory", "memory_limit"),
        ("cpu", "cpu_limit"),
        ("dockerfile", "dockerfile_path"),
    ];

    fn id(&self) -> String {
        self.service_name.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = check::problems(self);
        self.balanced().check(&mut problems);
        problems
    }

    fn references(&self, _: &Config, _: &mut Vec<FieldError>) -> Vec<Key> {
        Vec::new()
    }
}
