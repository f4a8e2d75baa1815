//! One port that listens.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use portcullis_layers::drain::Drain;
use portcullis_layers::relay::{self, Counters, Destinations, Open, Relay, Settings, UdpRelay};
use portcullis_layers::source_networks::{Networks, NotAdmitted, SourceNetworksLayer};
use portcullis_layers::source_token::SourceToken;
use portcullis_layers::{Accepted, BoxError};
use portcullis_services::config::port::PortProtocol;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::{Layer, Service, ServiceExt};
use tracing::{debug, warn};

use super::{Ports, Wanted};
use crate::listen::{BREATH, KEEP_ALIVE};

/// How many connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// A socket that is bound.
#[derive(Debug, Clone)]
pub(super) enum Socket {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
}

impl Socket {
    pub(super) fn bind(at: SocketAddr, protocol: PortProtocol) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(at);
        match protocol {
            PortProtocol::Tcp => {
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
                // A port that was closed a moment ago can be opened again.
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&at.into())?;
                socket.listen(BACKLOG)?;
                Ok(Self::Tcp(Arc::new(TcpListener::from_std(socket.into())?)))
            }
            PortProtocol::Udp => {
                let socket = std::net::UdpSocket::bind(at)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(Arc::new(UdpSocket::from_std(socket)?)))
            }
        }
    }

    fn is_at(&self, at: SocketAddr) -> bool {
        let local = match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        local.is_ok_and(|local| local == at)
    }
}

/// A port that listens. Dropped, it closes, and so do its connections.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) counters: Arc<Counters>,
    token: Option<SourceToken>,
    addresses: watch::Sender<relay::Addresses>,
    networks: watch::Sender<Networks>,
    _open: DropGuard,
}

impl Opened {
    pub(super) fn is_at(&self, at: SocketAddr) -> bool {
        self.socket.is_at(at)
    }

    pub(super) fn wants(&self, token: Option<SourceToken>) -> bool {
        self.token == token
    }

    /// Tells connections of what is other now.
    pub(super) fn change(&self, wanted: &Wanted) {
        replace(&self.addresses, &wanted.addresses);
        replace(&self.networks, &wanted.networks);
    }

    /// Serves a socket.
    pub(super) fn start(ports: &Ports, socket: Socket, wanted: &Wanted, token: Option<SourceToken>) -> Self {
        let addresses = watch::Sender::new(Arc::clone(&wanted.addresses));
        let networks = watch::Sender::new(Arc::clone(&wanted.networks));
        let closed = CancellationToken::new();
        let (settings, destinations) = (Settings::default(), Destinations::new(addresses.subscribe()));
        let admitted = SourceNetworksLayer::new(networks.subscribe());
        let accept = |listener: &Arc<TcpListener>, counters: &Arc<Counters>| Accept {
            listener: Arc::clone(listener),
            counters: Arc::clone(counters),
            permits: Arc::new(Semaphore::new(ports.max_connections)),
            closed: closed.clone(),
            drain: ports.drain.clone(),
        };
        let serve = |accept| drop(ports.runtime.spawn(ports.drain.track(accept)));
        let counters = match (&socket, token) {
            (Socket::Udp(socket), _) => {
                let relay = UdpRelay::new(Arc::clone(socket), destinations, networks.subscribe(), settings);
                let counters = Arc::clone(relay.counters());
                ports.runtime.spawn(relay.run(closed.clone()));
                counters
            }
            (Socket::Tcp(listener), None) => {
                let relay = Relay::new(destinations, settings, ports.drain.clone());
                let counters = Arc::clone(relay.counters());
                serve(accept(listener, &counters).run(admitted.layer(relay), false).boxed());
                counters
            }
            (Socket::Tcp(listener), Some(token)) => {
                let counters = Arc::default();
                let stack = ports.requests.stack(token, addresses.subscribe(), closed.clone());
                serve(accept(listener, &counters).run(admitted.layer(stack), true).boxed());
                counters
            }
        };
        Self { socket, counters, token, addresses, networks, _open: closed.drop_guard() }
    }
}

/// Accepts the connections of a port.
struct Accept {
    listener: Arc<TcpListener>,
    counters: Arc<Counters>,
    permits: Arc<Semaphore>,
    closed: CancellationToken,
    drain: Drain,
}

impl Accept {
    /// Until it is closed; `counts`: the stack does not count by itself.
    async fn run<S>(self, stack: S, counts: bool)
    where
        S: Service<Accepted<TcpStream>, Response = (), Error = BoxError, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let mut connections = JoinSet::new();
        let stopping = self.drain.stopping().child_token();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                // The connections end with the set.
                () = self.closed.cancelled() => return,
                () = stopping.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "can't accept connections at a published port");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let (Ok(permit), Ok(local)) =
                (Arc::clone(&self.permits).try_acquire_owned(), stream.local_addr())
            else {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            tell(&stream);
            let connection = stack.clone().oneshot(Accepted::new(stream, local, peer));
            let counters = Arc::clone(&self.counters);
            connections.spawn(async move {
                let _permit = permit;
                let _counted = counts.then(|| Open::new(&counters));
                if let Err(error) = connection.await {
                    if error.is::<NotAdmitted>() {
                        counters.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    debug!(%peer, error = &*error as &dyn std::error::Error, "a connection to a published port ended");
                }
            });
        }
        // Who comes now is refused at once, not kept waiting by a socket that nobody accepts from.
        let _closed = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        // Nobody new; those that stand go on until the process kills them.
        let ended = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => {}
            () = self.closed.cancelled() => {}
        }
    }
}

/// Small answers must not wait, and peers that are gone be found out. What can't be told so works all the same.
fn tell(stream: &TcpStream) {
    let _hint = stream.set_nodelay(true);
    let alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
    let _hint = SockRef::from(stream).set_tcp_keepalive(&alive);
}

fn replace<T: PartialEq + Clone>(sender: &watch::Sender<T>, value: &T) {
    sender.send_if_modified(|current| {
        let changed = current != value;
        if changed {
            current.clone_from(value);
        }
        changed
    });
}
