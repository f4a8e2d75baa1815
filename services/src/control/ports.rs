//! Published ports of Docker services: given away over all nodes, checked against the machine, released with the service.

mod add;
mod change;
mod look;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

pub use add::AddPort;
pub use change::{RemovePort, UpdatePort};
pub use look::{CheckPort, ListFreePorts, ListPorts, ListServicePorts, PortCheck};

use super::managed::{not_found, remove};
use super::{Control, Error, Secret, Surface};
use crate::config::{Config, Entity, FieldError, Port, PortName, Service, ServiceName, service};
use crate::docker::ports::PortState;
use crate::random;
use crate::store::{Expect, Write};
use crate::vault::Vault;

/// One node at a time gives ports away.
const LEASE: &str = "ports";

/// How long that may take.
const TURN: Duration = Duration::from_secs(10);

/// How often a node that waits for its turn asks.
const ASK: Duration = Duration::from_millis(50);

/// How long a token is, in bytes: shorter ones can be guessed, and longer ones don't fit into every server's headers.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=512;

/// Adds the operations of ports.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListPorts>();
    surface.add::<ListFreePorts>();
    surface.add::<CheckPort>();
    surface.add::<AddPort>();
    surface.add::<ListServicePorts>();
    surface.add::<UpdatePort>();
    surface.add::<RemovePort>();
}

/// A published port, and how it does.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PortInfo {
    /// The port.
    #[serde(flatten)]
    pub port: Port,
    /// How it does.
    pub state: PortState,
}

impl Control {
    /// The configuration as it is in the store at this moment: who has its turn must see what the one before did.
    async fn config_now(&self) -> Result<Arc<Config>, Error> {
        Ok(Arc::clone(&self.mirror.load().await?.config))
    }

    /// Whether this node runs a service.
    fn has_service(&self, config: &Config, name: &ServiceName) -> bool {
        let Some(docker) = &self.docker else { return false };
        let service = config.services.get(name);
        service.is_some_and(|service| service.node.as_ref().is_none_or(|node| *node == docker.owner.node))
    }

    /// Refuses what only the node of a service can check, when another engine's node is asked.
    fn ask_there(&self, config: &Config, name: &ServiceName) -> Result<(), Error> {
        let node = config.services.get(name).and_then(|service| service.node.as_ref());
        match (node, &self.docker) {
            (Some(node), Some(docker)) if *node != docker.owner.node => Err(Error::Conflict(format!(
                "the node {node} runs the service {name}: ask that one, this is {}",
                docker.owner.node
            ))),
            _ => Ok(()),
        }
    }

    /// The port that the containers of a service listen on.
    fn listens_on(&self, wanted: &Service) -> u16 {
        let known =
            || self.docker.as_ref()?.board.of(&wanted.service_name)?.addresses.first().map(SocketAddr::port);
        wanted.internal_port.or_else(known).unwrap_or(service::DEFAULT_PORT)
    }

    fn port_info(&self, config: &Config, port: Port) -> PortInfo {
        let state = if self.has_service(config, &port.service_name) {
            self.docker
                .as_ref()
                .and_then(|docker| docker.ports.of(&port.id()))
                .unwrap_or_else(|| PortState::unknown("pending"))
        } else {
            PortState::unknown("elsewhere")
        };
        PortInfo { port, state }
    }

    fn port_infos(&self, config: &Config, wanted: impl Fn(&Port) -> bool) -> Vec<PortInfo> {
        let ports = config.ports.values().filter(|port| wanted(port));
        ports.map(|port| self.port_info(config, Port::clone(port))).collect()
    }
}

fn refused(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program of this machine has it".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        _ => format!("this machine refuses it: {error}"),
    }
}

#[expect(clippy::ref_option, reason = "the form that serde wants")]
fn reveal<S: serde::Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => Secret::reveal(secret, serializer),
        None => serializer.serialize_none(),
    }
}

/// The steps that release all ports of a service, for the commit that deletes it.
pub(crate) fn release(config: &Config, service: &ServiceName) -> Vec<Write> {
    let ports = config.ports.values().filter(|port| port.service_name == *service);
    ports.flat_map(|port| std::iter::once(remove(&**port)).chain(secrets(port))).collect()
}

fn secrets(port: &Port) -> impl Iterator<Item = Write> + use<> {
    port.require_token.then(|| Vault::delete(&port.secret_id(), Expect::Any)).into_iter()
}

/// That a port is given away already.
fn is_given(port: &Port) -> Error {
    Error::Conflict(format!(
        "{} port {} is the port {} of {}: choose another one",
        port.protocol, port.host_port, port.port_name, port.service_name
    ))
}

fn find<'a>(config: &'a Config, service: &ServiceName, name: &PortName) -> Result<&'a Port, Error> {
    let of = |port: &&Arc<Port>| port.service_name == *service && port.port_name == *name;
    let found = config.ports.values().find(of).map(|port| &**port);
    found.ok_or_else(|| not_found::<Port>(&format!("{service}/{name}")))
}

fn service_of<'a>(config: &'a Config, name: &ServiceName) -> Result<&'a Service, Error> {
    match config.services.get(name) {
        Some(service) if service.deleting => {
            Err(Error::Conflict(format!("the service {name} is being deleted")))
        }
        Some(service) => Ok(service),
        None => Err(not_found::<Service>(name.as_str())),
    }
}

fn check_token(token: &Secret) -> Result<(), Error> {
    let text = token.expose();
    if TOKEN.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let detail = "expected 16 to 512 visible ASCII characters";
    Err(Error::invalid(FieldError::bare("source_token", detail)))
}

/// Does what only one node may do at a time; `work` puts the step that proves it into its commit.
async fn in_turn<T>(
    control: &Control,
    work: impl AsyncFnOnce(Write) -> Result<T, Error>,
) -> Result<T, Error> {
    let holder = random::name("ports-");
    let end = Instant::now() + TURN;
    let lease = loop {
        if let Some(lease) = control.store.acquire(LEASE, &holder, TURN).await? {
            break lease;
        }
        if Instant::now() + ASK > end {
            return Err(Error::Conflict("another node gives ports away just now: try again".to_owned()));
        }
        tokio::time::sleep(ASK).await;
    };
    let outcome = work(Write::Fence { lease: LEASE.to_owned(), number: lease.number }).await;
    if let Err(error) = control.store.release(LEASE, &holder).await {
        tracing::warn!(%error, "the lease of the ports ends by its time only");
    }
    outcome
}
