//! Services in containers: what documents want is made so on this node's engine, again and again.
//!
//! `plan` decides from what is there, [`spec`] says what a container may be, [`reconcile`] does it. What is known of
//! each service is in [`state`], and where its ready containers are in [`addresses`]. Nothing on the request path comes
//! by here.

pub mod addresses;
mod claim;
mod connection;
mod context;
mod dockerfile;
pub mod engine;
pub(crate) mod foreign;
pub mod images;
pub(crate) mod labels;
mod observe;
mod owner;
mod plan;
pub mod policy;
pub mod ports;
pub mod reconcile;
pub mod spec;
pub mod state;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Mutex, Notify, watch};

pub use addresses::Switchboard;
pub use connection::Connection;
pub use engine::Engine;
pub use labels::{Claim, ClaimState};
pub use owner::Owner;
pub use policy::Policy;
pub use ports::PortBoard;
pub use reconcile::Reconciler;
pub use state::{Board, Known, Status};

use crate::config::service::{Source, Volume};
use crate::config::{NodeName, Service};

/// What operations use of the engine. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Docker {
    pub(crate) engine: Engine,
    pub(crate) owner: Owner,
    pub(crate) policy: Arc<Policy>,
    pub(crate) board: Board,
    pub(crate) wake: Arc<Notify>,
    pub(crate) ports: PortBoard,
    pub(crate) switchboard: Switchboard,
    /// The containers of others that have labels of ours.
    pub(crate) looked: watch::Sender<Arc<labels::Looked>>,
    /// What became of what these ask for.
    pub(crate) claims: watch::Sender<Arc<Vec<Claim>>>,
    /// Engines make two networks of one name when two ask at the same time.
    networks: Arc<Mutex<()>>,
}

impl Docker {
    /// The engine of a node.
    pub fn new(engine: Engine, owner: Owner, policy: Policy) -> Self {
        Self {
            engine,
            owner,
            policy: Arc::new(policy),
            board: Board::default(),
            wake: Arc::default(),
            ports: PortBoard::default(),
            switchboard: Switchboard::default(),
            looked: watch::Sender::new(Arc::default()),
            claims: watch::Sender::new(Arc::default()),
            networks: Arc::default(),
        }
    }

    /// The node whose engine it is.
    pub const fn node(&self) -> &NodeName {
        &self.owner.node
    }

    /// Where the containers of services are.
    pub const fn switchboard(&self) -> &Switchboard {
        &self.switchboard
    }

    /// Where the engine is.
    pub fn connection(&self) -> &Connection {
        self.engine.connection()
    }

    /// How the ports that are published here do.
    pub const fn ports(&self) -> &PortBoard {
        &self.ports
    }

    /// Makes the networks of a service where there are none.
    pub(crate) async fn ensure_networks(&self, service: &Service) -> engine::Result<()> {
        let _one_at_a_time = self.networks.lock().await;
        for network in spec::networks(service, &self.policy) {
            self.engine.ensure_network(&network, &self.owner).await?;
        }
        Ok(())
    }

    /// Whether everything may be mounted that a service wants, looked at just before that happens: neither folders nor
    /// volumes are ours alone.
    pub(crate) async fn check_mounts(
        &self,
        service: &Service,
        beside: &[Arc<Service>],
    ) -> Result<(), images::Error> {
        let is_folder = |text: &String| matches!(text.parse(), Ok(Volume { source: Source::Path(_), .. }));
        let mounted = match service.volumes.iter().any(is_folder) {
            true => self.engine.mounted(&self.owner.deployment).await?,
            false => Vec::new(),
        };
        self.policy.check_mounts(service, beside.iter().map(|other| &**other), &mounted)?;
        for (index, text) in service.volumes.iter().enumerate() {
            let Ok(Volume { source: Source::Named(name), .. }) = text.parse() else { continue };
            // One that is missing is made with the labels of its owner.
            let owner = self.engine.volume_owner(&name).await?;
            if owner.is_some_and(|deployment| deployment != self.owner.deployment) {
                self.policy.check_volume(&format!("volumes[{index}]"), &name)?;
            }
        }
        Ok(())
    }

    /// What is known of the services.
    pub const fn board(&self) -> &Board {
        &self.board
    }
}

/// Whether somebody listens there.
pub(crate) async fn accepts(address: std::net::SocketAddr) -> bool {
    observe::accepts(address).await
}

/// The containers of this node: id, service and state.
pub(crate) async fn containers(
    docker: &Docker,
) -> engine::Result<Vec<(String, crate::config::ServiceName, String)>> {
    let found = observe::containers(&docker.engine, &docker.owner, &HashMap::new()).await?;
    Ok(found.into_iter().map(|one| (one.id, one.service, one.state)).collect())
}
