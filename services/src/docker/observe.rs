//! The containers that are there, in our words.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as State, Health as Checked, HealthStatusEnum,
};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::net::TcpStream;

use super::engine::{Engine, Error, Result};
use super::plan::Phase;
use super::{Owner, spec};
use crate::config::ServiceName;
use crate::config::service::DEFAULT_PORT;

/// So many containers are looked at at a time.
const AT_ONCE: usize = 16;

/// How long a port may take to accept.
const PROBE: Duration = Duration::from_secs(1);

/// The longest that is kept of what a failed check said.
const MAX_OUTPUT: usize = 500;

/// What a health check says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// There is none.
    None,
    Starting,
    Healthy,
    /// What it said last.
    Unhealthy(String),
}

/// A container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) service: ServiceName,
    pub(super) spec: String,
    pub(super) replica: u32,
    pub(super) phase: Phase,
    pub(super) state: String,
    pub(super) health: Health,
    pub(super) address: Option<SocketAddr>,
    pub(super) image: String,
    pub(super) exit_code: Option<i64>,
    pub(super) oom_killed: bool,
    pub(super) restarts: i64,
    pub(super) created_at: Option<Timestamp>,
    pub(super) started_at: Option<String>,
    /// Why it could not start.
    pub(super) error: String,
    /// Its volumes and networks are looked at here, not in the document.
    pub(super) ready: bool,
}

/// All containers of an owner.
pub(super) async fn containers(engine: &Engine, owner: &Owner) -> Result<Vec<Container>> {
    let ids = engine.containers(owner).await?;
    let looks = ids.into_iter().map(|id| async move {
        match engine.inspect(&id).await {
            Ok(found) => Ok(Container::of(found)),
            // It went in between.
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let found: Vec<_> = futures_util::stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    found.sort_by(|one, other| {
        (&one.service, one.replica, &one.id).cmp(&(&other.service, other.replica, &other.id))
    });
    Ok(found)
}

/// Whether somebody listens there.
pub(super) async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE, TcpStream::connect(address)).await, Ok(Ok(_)))
}

impl Container {
    fn of(found: ContainerInspectResponse) -> Option<Self> {
        let config = found.config.unwrap_or_default();
        let labels = config.labels.unwrap_or_default();
        let label = |name: &str| labels.get(name).map(String::as_str);
        let state = found.state.unwrap_or_default();
        let status = state.status.unwrap_or(State::EMPTY);
        let phase = match status {
            State::CREATED => Phase::Created,
            State::RUNNING => Phase::Running,
            State::RESTARTING => Phase::Restarting,
            State::EXITED => Phase::Exited,
            State::EMPTY | State::PAUSED | State::REMOVING | State::DEAD | State::STOPPING => Phase::Other,
        };
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let first = found.host_config.and_then(|host| host.network_mode).unwrap_or_default();
        let endpoint = networks.get(&first);
        let ip = endpoint.and_then(|endpoint| {
            let addresses = [endpoint.ip_address.as_deref(), endpoint.global_ipv6_address.as_deref()];
            addresses.into_iter().flatten().find_map(|text| text.parse::<IpAddr>().ok())
        });
        let port = label(spec::PORT).and_then(|port| port.parse().ok()).unwrap_or(DEFAULT_PORT);
        let has_ended = matches!(phase, Phase::Exited | Phase::Restarting);
        Some(Self {
            id: found.id?,
            service: label(spec::SERVICE)?.parse().ok()?,
            spec: label(spec::SPEC)?.to_owned(),
            replica: label(spec::REPLICA)?.parse().ok()?,
            phase,
            state: status.as_ref().to_owned(),
            health: health(state.health),
            address: ip.map(|ip| SocketAddr::new(ip, port)),
            image: config.image.unwrap_or_default(),
            exit_code: state.exit_code.filter(|_| has_ended),
            oom_killed: state.oom_killed.unwrap_or_default(),
            restarts: found.restart_count.unwrap_or_default(),
            created_at: found.created.and_then(|created| created.parse().ok()),
            started_at: state.started_at.filter(|at| !at.starts_with("0001-")),
            error: state.error.unwrap_or_default(),
            ready: false,
        })
    }
}

fn health(checked: Option<Checked>) -> Health {
    let Some(checked) = checked else { return Health::None };
    match checked.status {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => {
            let last = checked.log.unwrap_or_default().pop().and_then(|last| last.output).unwrap_or_default();
            Health::Unhealthy(last.trim().chars().take(MAX_OUTPUT).collect())
        }
        Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) | None => Health::None,
    }
}
