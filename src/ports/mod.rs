//! The published ports of this node's services: what the configuration wants listens, and nothing else.

mod listener;
mod requests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::drain::Drain;
use portcullis_layers::relay;
use portcullis_layers::source_networks::Networks;
use portcullis_layers::source_token::SourceToken;
use portcullis_services::applied::Applied;
use portcullis_services::config::resolve::Addresses;
use portcullis_services::config::{Config, NodeName, Port};
use portcullis_services::docker::Switchboard;
use portcullis_services::docker::ports::PortBoard;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::live::Live;

use self::listener::{Opened, Socket};
pub use self::requests::{Front, Requests};

/// How long after a failure a port is tried again.
const AGAIN: Duration = Duration::from_millis(250);

/// The one task that opens and closes ports.
#[derive(Debug)]
pub struct Ports {
    /// The configuration in force.
    pub live: Live,
    /// Where containers are.
    pub containers: Switchboard,
    /// This node.
    pub node: NodeName,
    /// How each port does.
    pub board: PortBoard,
    /// The stack of requests at ports that want a token.
    pub requests: Requests,
    /// How many connections a port may have.
    pub max_connections: usize,
    /// Stops accepting, and waits for the connections.
    pub drain: Drain,
    /// Where connections are served.
    pub runtime: tokio::runtime::Handle,
}

/// What a port is to be.
struct Wanted {
    port: Arc<Port>,
    addresses: relay::Addresses,
    networks: Networks,
    /// `Err`: it wants one, but nobody can tell which.
    token: Result<Option<SourceToken>, &'static str>,
}

impl Ports {
    /// Opens and closes ports until `stop`.
    pub async fn run(self, mut applied: watch::Receiver<Applied>, stop: CancellationToken) {
        let mut containers = self.containers.subscribe();
        let mut opened: HashMap<String, Opened> = HashMap::new();
        loop {
            applied.mark_unchanged();
            let addresses = Arc::clone(&containers.borrow_and_update().addresses);
            let failed = self.look(&mut opened, &addresses);
            let again =
                async { if failed { tokio::time::sleep(AGAIN).await } else { std::future::pending().await } };
            tokio::select! {
                Ok(()) = applied.changed() => {}
                Ok(()) = containers.changed() => {}
                () = again => {}
                () = stop.cancelled() => break,
            }
        }
    }

    /// Makes what listens equal to what shall; whether something failed that may work later.
    fn look(&self, opened: &mut HashMap<String, Opened>, addresses: &Addresses) -> bool {
        let snapshot = self.live.current();
        let wanted: HashMap<String, Wanted> = snapshot
            .config
            .ports
            .iter()
            .filter(|(_, port)| self.is_ours(&snapshot.config, port))
            .map(|(id, port)| (id.clone(), self.want(port, addresses)))
            .collect();
        opened.retain(|id, opened| {
            let stays = wanted.get(id).is_some_and(|wanted| opened.is_at(at(&wanted.port)));
            if !stays {
                info!(port = id, "a published port is closed");
                self.board.forget(id);
            }
            stays
        });
        let mut failed = false;
        for (id, wanted) in wanted {
            let outcome = match wanted.token {
                Ok(_) => self.open(opened, &id, &wanted).map_err(|error| hint(&error)),
                Err(why) => {
                    opened.remove(&id);
                    Err(why.to_owned())
                }
            };
            if let Err(error) = outcome {
                failed = true;
                // Once for each new reason: it is tried every other second.
                if self.board.of(&id).and_then(|state| state.error).as_ref() != Some(&error) {
                    warn!(port = id, error, "a published port can't be opened");
                }
                self.board.fails(&id, error);
            }
        }
        failed
    }

    fn is_ours(&self, config: &Config, port: &Port) -> bool {
        let service = config.services.get(&port.service_name);
        service.is_some_and(|service| {
            !service.deleting && service.node.as_ref().is_none_or(|node| *node == self.node)
        })
    }

    fn want(&self, port: &Arc<Port>, addresses: &Addresses) -> Wanted {
        let containers = addresses.get(&port.service_name).map(Vec::as_slice).unwrap_or_default();
        let addresses = containers.iter().map(|at| SocketAddr::new(at.ip(), port.container_port)).collect();
        let networks = port.source_networks.iter().map(|network| network.0).collect();
        let token = port.require_token.then(|| self.token(port).ok_or("its token can't be read")).transpose();
        Wanted { port: Arc::clone(port), addresses, networks, token }
    }

    fn token(&self, port: &Port) -> Option<SourceToken> {
        let snapshot = self.live.current();
        let (id, view) = (port.secret_id(), snapshot.view.as_ref()?);
        let opened = self.requests.runtime.vault.open(&id, &view.secret(&id)?).ok()?;
        Some(SourceToken::new(str::from_utf8(opened.expose_secret()).ok()?))
    }

    /// Opens a port, or tells the one that is open what has changed.
    fn open(&self, opened: &mut HashMap<String, Opened>, id: &str, wanted: &Wanted) -> io::Result<()> {
        let token = wanted.token.ok().flatten();
        if let Some(open) = opened.get_mut(id) {
            if open.wants(token) {
                open.change(wanted);
                return Ok(());
            }
            // The listener stays; what was let in by another token, or by none, goes.
            let socket = open.socket.clone();
            let again = Opened::start(self, socket, wanted, token);
            self.board.listens(id, Arc::clone(&again.counters));
            opened.insert(id.to_owned(), again);
            return Ok(());
        }
        let socket = {
            let _entered = self.runtime.enter();
            Socket::bind(at(&wanted.port), wanted.port.protocol)?
        };
        let open = Opened::start(self, socket, wanted, token);
        info!(port = id, at = %at(&wanted.port), service = %wanted.port.service_name, "a published port is open");
        self.board.listens(id, Arc::clone(&open.counters));
        opened.insert(id.to_owned(), open);
        Ok(())
    }
}

const fn at(port: &Port) -> SocketAddr {
    SocketAddr::new(port.bind_address.0, port.host_port)
}

/// What an operator can do about it.
fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program of this machine has the port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        _ => error.to_string(),
    }
}
