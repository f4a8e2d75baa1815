//! Relays connections and datagrams to whoever is behind a port at the moment.
//!
//! [`Relay`] is the leaf of a stack of connections: it connects to one of its [`Destinations`] and carries bytes both
//! ways. [`UdpRelay`] does the same for datagrams. Neither looks at what it carries: for HTTP see
//! [`forward`](crate::forward). Destinations may change at any time. Who comes just when there is none waits for one,
//! for as long as [`Settings::patience`] says; connections that stand are left to their ends.
//!
//! It does not tell who may connect: see [`source_networks`](crate::source_networks).
//!
//! ```
//! use portcullis_layers::Accepted;
//! use portcullis_layers::drain::Drain;
//! use portcullis_layers::relay::{Destinations, Relay, Settings};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), portcullis_layers::BoxError> {
//! let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let (_addresses, destinations) = Destinations::channel(vec![server.local_addr()?]);
//! let relay = Relay::new(destinations, Settings::default(), Drain::new());
//!
//! let (mut client, ours) = duplex(64);
//! let connection = Accepted::new(ours, "127.0.0.1:14000".parse()?, "127.0.0.1:5000".parse()?);
//! let relayed = tokio::spawn(relay.oneshot(connection));
//! let (mut served, _) = server.accept().await?;
//! served.write_all(b"hello").await?;
//! drop(served);
//! let mut text = String::new();
//! client.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//! drop(client);
//! relayed.await??;
//! # Ok(())
//! # }
//! ```

mod counted;
mod destinations;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tower_service::Service;

use crate::accept::Accepted;
use crate::drain::Drain;

use counted::Counted;

pub use destinations::{Addresses, Destinations};
pub use udp::UdpRelay;

/// How long somebody who was refused by all destinations waits until they are tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A connection to one destination.
    pub connect: Duration,
    /// All of the search for a destination.
    pub patience: Duration,
    /// After this long without a datagram in either direction a client of UDP counts as gone.
    pub idle: Duration,
    /// So many clients of UDP at once; datagrams of others are dropped.
    pub max_clients: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            patience: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            max_clients: 256,
        }
    }
}

/// What was relayed. For metrics and whoever asks; all but `open` only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections, or clients of UDP, that are relayed now.
    pub open: AtomicU64,
    /// Those that were taken.
    pub taken: AtomicU64,
    /// Those that nobody was there for.
    pub failed: AtomicU64,
    /// Those that were refused because of where they came from, or because there were too many.
    pub refused: AtomicU64,
    /// Bytes from clients.
    pub received: AtomicU64,
    /// Bytes to clients.
    pub sent: AtomicU64,
}

/// Counts somebody as open as long as it lives.
#[derive(Debug)]
pub struct Open(Arc<Counters>);

impl Open {
    /// Counts one more.
    pub fn new(counters: &Arc<Counters>) -> Self {
        counters.taken.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection was not relayed.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// There was no destination for as long as somebody waits.
    #[error("no destination within {0:?}")]
    Nowhere(Duration),
    /// No destination took the connection.
    #[error("no connection to {address} or another destination")]
    Unreachable {
        /// The one that was tried last.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Carries bytes between clients and destinations. A clone is a few reference counts.
#[derive(Debug, Clone)]
pub struct Relay {
    destinations: Destinations,
    settings: Settings,
    drain: Drain,
    counters: Arc<Counters>,
}

impl Relay {
    /// To these destinations, until `drain` kills.
    pub fn new(destinations: Destinations, settings: Settings, drain: Drain) -> Self {
        Self { destinations, settings, drain, counters: Arc::default() }
    }

    /// What this and its clones have relayed.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    async fn run<I: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut connection: Accepted<I>,
    ) -> Result<(), RelayError> {
        let Self { destinations, settings, drain, counters } = self;
        let found = tokio::select! {
            found = connect(&destinations, settings) => found,
            () = drain.stopping().cancelled() => return Ok(()),
        };
        let destination = found.inspect_err(|_| {
            counters.failed.fetch_add(1, Ordering::Relaxed);
        })?;
        let mut destination = Counted::new(destination, Arc::clone(&counters));
        let _open = Open::new(&counters);
        let copied = tokio::select! {
            copied = copy_bidirectional(&mut connection.io, &mut destination) => copied,
            () = drain.killed().cancelled() => return Ok(()),
        };
        // How connections end: a reset, most of the time.
        if let Err(error) = copied {
            tracing::trace!(%error, "a relayed connection broke");
        }
        Ok(())
    }
}

impl<I> Service<Accepted<I>> for Relay
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Response = ();
    type Error = RelayError;
    type Future = BoxFuture<'static, Result<(), RelayError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Accepted<I>) -> Self::Future {
        Box::pin(self.clone().run(connection))
    }
}

/// A connection to the next destination that takes one.
async fn connect(destinations: &Destinations, settings: Settings) -> Result<TcpStream, RelayError> {
    let end = Instant::now() + settings.patience;
    let mut changes = destinations.clone();
    let mut failure = RelayError::Nowhere(settings.patience);
    loop {
        let addresses = changes.look();
        for address in addresses {
            let until = end.min(Instant::now() + settings.connect);
            let connected = timeout_at(until, TcpStream::connect(address)).await;
            let source = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    // Small answers must not wait; a stream that can't be told so works all the same.
                    let _hint = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(source) => source,
            };
            failure = RelayError::Unreachable { address, source };
            if Instant::now() >= end {
                return Err(failure);
            }
        }
        let again = Instant::now() + AGAIN;
        if again >= end {
            sleep_until(end).await;
            return Err(failure);
        }
        // Whoever was refused may be served in a moment: a container that starts has its address first.
        let _either = timeout(AGAIN, changes.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tower::ServiceExt;

    use super::*;

    /// A server that sends its name and then whatever it gets.
    async fn server(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(name.as_bytes()).await?;
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    fn open(relay: &Relay) -> (DuplexStream, JoinHandle<Result<(), RelayError>>) {
        let (client, ours) = duplex(64);
        let local = SocketAddr::from(([127, 0, 0, 1], 14000));
        (client, tokio::spawn(relay.clone().oneshot(Accepted::new(ours, local, local))))
    }

    async fn name(client: &mut DuplexStream) -> String {
        let mut name = [0; 1];
        client.read_exact(&mut name).await.expect("a name");
        String::from_utf8(name.into()).expect("text")
    }

    fn quick() -> Settings {
        Settings { patience: Duration::from_secs(5), ..Settings::default() }
    }

    /// Nobody listens there.
    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound")
    }

    #[tokio::test]
    async fn connections_go_to_all_destinations_in_turn() {
        let (_keep, destinations) = Destinations::channel(vec![server("a").await, server("b").await]);
        let relay = Relay::new(destinations, quick(), Drain::new());
        let mut names = Vec::new();
        for _ in 0..4 {
            let (mut client, relayed) = open(&relay);
            names.push(name(&mut client).await);
            client.write_all(b"echo").await.expect("sent");
            client.shutdown().await.expect("half closed");
            let mut echoed = String::new();
            client.read_to_string(&mut echoed).await.expect("echoed");
            assert_eq!(echoed, "echo", "what is on its way when one side closes arrives");
            relayed.await.expect("no panic").expect("relayed");
        }
        names.sort();
        assert_eq!(names, ["a", "a", "b", "b"]);
        let counters = relay.counters();
        assert_eq!(counters.taken.load(Ordering::Relaxed), 4);
        assert_eq!(counters.open.load(Ordering::Relaxed), 0);
        assert_eq!(counters.received.load(Ordering::Relaxed), 16);
        assert_eq!(counters.sent.load(Ordering::Relaxed), 20);
    }

    #[tokio::test]
    async fn a_destination_that_refuses_is_passed_over() {
        let (_keep, destinations) = Destinations::channel(vec![closed().await, server("b").await]);
        let relay = Relay::new(destinations, quick(), Drain::new());
        for _ in 0..4 {
            assert_eq!(name(&mut open(&relay).0).await, "b");
        }
    }

    #[tokio::test]
    async fn who_comes_while_there_is_no_destination_waits_for_one() {
        let (addresses, destinations) = Destinations::channel(Vec::new());
        let relay = Relay::new(destinations, quick(), Drain::new());
        let (mut client, _relayed) = open(&relay);
        tokio::task::yield_now().await;
        addresses.send_replace([server("a").await].into());
        assert_eq!(name(&mut client).await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_forever() {
        let (_keep, destinations) = Destinations::channel(Vec::new());
        let relay = Relay::new(destinations, quick(), Drain::new());
        let (_client, relayed) = open(&relay);
        let error = relayed.await.expect("no panic").expect_err("nobody is there");
        assert_eq!(error.to_string(), "no destination within 5s");
        assert_eq!(relay.counters().failed.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_end_of_the_process_ends_what_is_relayed_only_when_it_kills() {
        let (_keep, destinations) = Destinations::channel(vec![server("a").await]);
        let drain = Drain::new();
        let relay = Relay::new(destinations, quick(), drain.clone());
        let (mut client, relayed) = open(&relay);
        assert_eq!(name(&mut client).await, "a");
        drain.stopping().cancel();
        client.write_all(b"x").await.expect("it goes on");
        assert_eq!(name(&mut client).await, "x");
        drain.killed().cancel();
        relayed.await.expect("no panic").expect("no error of the connection");
    }
}
