//! Requests at ports that want a token: the front of the edge, the token, and then the containers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use portcullis_layers::forward::{Balancing, Forward, Policy, Target, Upstream};
use portcullis_layers::forwarded::ForwardedLayer;
use portcullis_layers::relay::{Addresses, Settings};
use portcullis_layers::source_token::{SourceToken, SourceTokenLayer};
use portcullis_layers::{Accepted, BoxError, HttpService, Rejection, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::runtime::Runtime;

/// What makes a stack of connections of a service of requests.
pub type Front = Arc<dyn Fn(HttpService) -> Connections + Send + Sync>;

/// A stack of connections.
pub(super) type Connections = BoxCloneSyncService<Accepted<TcpStream>, (), BoxError>;

/// Makes the stacks of requests.
#[derive(Clone)]
pub struct Requests {
    /// The front of the edge.
    pub front: Front,
    /// Pools and limits.
    pub runtime: Arc<Runtime>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Requests {
    /// For requests with a token, to containers at these addresses. Cancelling `closed` ends the tunnels.
    pub(super) fn stack(
        &self,
        token: SourceToken,
        addresses: watch::Receiver<Addresses>,
        closed: CancellationToken,
    ) -> Connections {
        let containers = Arc::new(Containers {
            runtime: Arc::clone(&self.runtime),
            addresses,
            closed,
            built: Mutex::default(),
        });
        let leaf = HttpService::from_fn(move |request| Arc::clone(&containers).send(request));
        let stack = ServiceBuilder::new()
            .layer(SourceTokenLayer::new(token))
            // Who has asked, for whoever answers.
            .layer(ForwardedLayer::new())
            .service(leaf);
        (self.front)(HttpService::flat(stack))
    }
}

/// The containers behind a port.
struct Containers {
    runtime: Arc<Runtime>,
    addresses: watch::Receiver<Addresses>,
    closed: CancellationToken,
    /// The way to them, as they were when it was made.
    built: Mutex<Option<(Addresses, Forward)>>,
}

impl Containers {
    async fn send(self: Arc<Self>, request: Request) -> Result<Response, BoxError> {
        self.way().await?.send(request).await
    }

    /// The way to them; who comes just when there is none waits for one.
    async fn way(&self) -> Result<Forward, BoxError> {
        let mut addresses = self.addresses.clone();
        let there = tokio::time::timeout(
            Settings::default().patience,
            addresses.wait_for(|addresses| !addresses.is_empty()),
        )
        .await;
        let Ok(Ok(addresses)) = there.map(|there| there.map(|there| Arc::clone(&there))) else {
            let detail = "No container of this port's service is ready.";
            return Err(Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "no_container", detail).into());
        };
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, way)) = &*built
            && *of == addresses
        {
            return Ok(way.clone());
        }
        let upstreams = addresses.iter().map(|at| format!("http://{at}").parse::<Upstream>());
        let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;
        let first = upstreams.first().cloned().ok_or("there is an address")?;
        // Containers are all the same.
        let balancing = Balancing { policy: Policy::RoundRobin, ..Balancing::default() };
        let target = Target { upstreams, balancing, timeouts: self.runtime.timeouts, ..Target::new(first) };
        let way = Forward::new(&self.runtime.client, target, self.closed.clone())?;
        *built = Some((addresses, way.clone()));
        Ok(way)
    }
}
