//! The containers that are there, in our words.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as State, EndpointSettings, Health as Checked,
    HealthStatusEnum,
};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::net::TcpStream;

use super::engine::{Engine, Error, Result};
use super::owner::Owner;
use super::plan::Phase;
use super::spec;
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

/// All containers of an owner; those of `known` are not looked at again.
pub(super) async fn containers(
    engine: &Engine,
    owner: &Owner,
    known: &HashMap<String, Container>,
) -> Result<Vec<Container>> {
    let ids = engine.containers(owner).await?;
    let looks = ids.into_iter().map(|id| async move {
        if let Some(known) = known.get(&id) {
            return Ok(Some(known.clone()));
        }
        match engine.inspect(&id).await {
            Ok(found) => Ok(Container::of(found, owner)),
            // It went in between.
            Err(Error::NotFound(_)) => Ok(None),
            // One that nobody can look at is none of the others' business.
            Err(error @ Error::Refused(_)) => {
                tracing::warn!(container = id, %error, "a container can't be looked at");
                Ok(None)
            }
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

/// Whether the container of a name is one of an owner.
pub(super) async fn is_ours(engine: &Engine, name: &str, owner: &Owner) -> Result<bool> {
    match engine.inspect(name).await {
        Ok(found) => Ok(Container::of(found, owner).is_some()),
        // It went in between.
        Err(Error::NotFound(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether somebody listens there.
pub(super) async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE, TcpStream::connect(address)).await, Ok(Ok(_)))
}

impl Container {
    /// Labels alone prove nothing: an image may have them, too. The name is one that only its owner gives.
    fn of(found: ContainerInspectResponse, owner: &Owner) -> Option<Self> {
        let labels = found.config.as_ref()?.labels.as_ref()?;
        let label = |name: &str| labels.get(name).map(String::as_str);
        let port = label(spec::PORT).and_then(|port| port.parse().ok()).unwrap_or(DEFAULT_PORT);
        let (service, spec, replica): (ServiceName, _, _) = (
            label(spec::SERVICE)?.parse().ok()?,
            label(spec::SPEC)?.to_owned(),
            label(spec::REPLICA)?.parse().ok()?,
        );
        let name = spec::container_name(&service, replica, &spec, owner);
        if name_of(&found) != Some(&name) {
            return None;
        }
        let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let first = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
        let endpoint = networks.and_then(|networks| networks.get(first.unwrap_or_default()));
        let address = endpoint.and_then(ip).map(|ip| SocketAddr::new(ip, port));
        Some(Self { spec, replica, ..Self::seen(found, service, address)? })
    }

    /// A container whose service and address are known.
    pub(super) fn seen(
        found: ContainerInspectResponse,
        service: ServiceName,
        address: Option<SocketAddr>,
    ) -> Option<Self> {
        let state = found.state.unwrap_or_default();
        let status = state.status.unwrap_or(State::EMPTY);
        let phase = match status {
            State::CREATED => Phase::Created,
            State::RUNNING => Phase::Running,
            State::RESTARTING => Phase::Restarting,
            State::EXITED => Phase::Exited,
            State::DEAD => Phase::Dead,
            State::EMPTY | State::PAUSED | State::REMOVING | State::STOPPING => Phase::Other,
        };
        let has_ended = matches!(phase, Phase::Exited | Phase::Restarting);
        Some(Self {
            id: found.id?,
            spec: String::new(),
            service,
            replica: 0,
            phase,
            state: status.as_ref().to_owned(),
            health: health(state.health),
            address,
            image: found.config.and_then(|config| config.image).unwrap_or_default(),
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

/// What the engine calls a container.
pub(super) fn name_of(found: &ContainerInspectResponse) -> Option<&str> {
    found.name.as_deref().map(|name| name.trim_start_matches('/'))
}

/// The address of an endpoint of a container.
pub(super) fn ip(endpoint: &EndpointSettings) -> Option<IpAddr> {
    let addresses = [endpoint.ip_address.as_deref(), endpoint.global_ipv6_address.as_deref()];
    addresses.into_iter().flatten().find_map(|text| text.parse().ok())
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
