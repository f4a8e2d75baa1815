//! What is known of each service now: in memory, for whoever asks or waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::ServiceName;

/// How it goes with a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody has looked yet.
    #[default]
    Pending,
    /// Its image is pulled or built, or its containers are made.
    Preparing,
    /// Its containers run, but are not ready yet.
    Starting,
    /// All of its containers are ready.
    Running,
    /// Some of its containers are ready.
    Degraded,
    /// New containers start beside the ones that serve.
    Updating,
    /// Its containers run, but fail their health check.
    Unhealthy,
    /// Its containers end again and again; the engine waits longer each time before it starts them.
    CrashLoop,
    /// Its containers have ended, and shall not start again.
    Exited,
    /// Its containers can't be made.
    Failed,
    /// Its containers end because they shall.
    Stopping,
    /// It shall not run, and does not.
    Stopped,
    /// Its containers are being removed.
    Deleting,
    /// Another node runs it: that one knows.
    Elsewhere,
    /// The engine does not answer.
    Unknown,
}

impl Status {
    /// Whether it stays so unless something happens.
    pub const fn is_settled(self) -> bool {
        !matches!(
            self,
            Self::Pending
                | Self::Preparing
                | Self::Starting
                | Self::Updating
                | Self::Stopping
                | Self::Deleting
        )
    }
}

/// A container of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ContainerState {
    /// The engine's name of it.
    pub id: String,
    /// Which of the replicas it is, from 0 on.
    pub replica: u32,
    /// Whether it is what the document wants now.
    pub current: bool,
    /// What the engine says of it: `created`, `running`, `restarting`, `exited` and the like.
    pub state: String,
    /// What the health check says: `none`, `starting`, `healthy` or `unhealthy`.
    pub health: &'static str,
    /// What the last failed check said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_output: Option<String>,
    /// Whether requests may go there.
    pub ready: bool,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// The image that it runs.
    pub image: String,
    /// The code that it ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Whether it was ended because it wanted more memory than its limit.
    pub oom_killed: bool,
    /// How often the engine has started it again.
    pub restarts: i64,
    /// When it was started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
}

/// What is known of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Known {
    /// How it goes.
    pub status: Status,
    /// The version of the document that this is about.
    pub version: u64,
    /// Its containers.
    pub containers: Vec<ContainerState>,
    /// Where requests go.
    pub addresses: Vec<SocketAddr>,
    /// What went wrong last with what the document wants now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// What is known of all services.
pub type All = Arc<BTreeMap<ServiceName, Arc<Known>>>;

/// Where that is written and read. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Board(watch::Sender<All>);

impl Default for Board {
    fn default() -> Self {
        Self(watch::Sender::new(All::default()))
    }
}

impl Board {
    /// Writes what is known now.
    pub(super) fn write(&self, all: BTreeMap<ServiceName, Known>) {
        self.0.send_if_modified(|known| {
            let same = known.len() == all.len()
                && known.iter().zip(&all).all(|((name, one), (other, now))| name == other && **one == *now);
            if !same {
                let shared = all.into_iter().map(|(name, one)| (name, Arc::new(one)));
                *known = Arc::new(shared.collect());
            }
            !same
        });
    }

    /// What is known of all.
    pub fn all(&self) -> All {
        self.0.borrow().clone()
    }

    /// What is known of one.
    pub fn of(&self, name: &ServiceName) -> Option<Arc<Known>> {
        self.0.borrow().get(name).cloned()
    }

    /// Wakes whoever waits for a change.
    pub fn subscribe(&self) -> watch::Receiver<All> {
        self.0.subscribe()
    }
}
