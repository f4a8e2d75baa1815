//! Learns the client's address from PROXY protocol, versions 1 and 2.
//!
//! A load balancer that forwards bytes hides the client behind its own address, and says who the client is in a
//! header before the first byte. Anybody could write such a header. So there is one rule and no guessing: a peer of a
//! trusted network *must* send one, and from any other peer none is looked for, so that not one of its bytes is
//! touched and the peer stays the client.
//!
//! It does not tell who may connect, and does not look at what follows the header. What else a header of version 2
//! says (ALPN, authority, TLS) can be read with [`header::parse`]; this layer believes the address only.
//!
//! It must stand first on a connection, before `tls`: the header comes before the `ClientHello`.
//!
//! A connection whose header is malformed, or not complete within the deadline, is closed, counted and logged here:
//! for whoever accepts connections that is no error. The errors of this service are those of the inner one. With a
//! [`Drain`](ProxyProtocolLayer::drain) a header that is not complete when it stops is not waited for.
//!
//! ```
//! use portcullis_layers::accept::Accepted;
//! use portcullis_layers::prefixed::Prefixed;
//! use portcullis_layers::proxy_protocol::ProxyProtocolLayer;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let service = ServiceBuilder::new()
//!     .layer(ProxyProtocolLayer::new(vec!["10.0.0.0/8".parse()?]))
//!     .service(service_fn(|mut connection: Accepted<Prefixed<DuplexStream>>| async move {
//!         assert_eq!(connection.client.0, "192.0.2.7:40000".parse().unwrap());
//!         let mut text = String::new();
//!         connection.io.read_to_string(&mut text).await?;
//!         assert_eq!(text, "hello");
//!         Ok::<_, BoxError>(())
//!     }));
//!
//! let (ours, mut balancer) = tokio::io::duplex(1024);
//! balancer.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nhello").await?;
//! drop(balancer);
//! service.oneshot(Accepted::new(ours, "10.0.0.1:443".parse()?, "10.0.0.2:5000".parse()?)).await
//! # }
//! ```

pub mod header;
pub mod tlv;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either, FutureExt, ready};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{debug, warn};

use self::header::{Addresses, HeaderError, Parsed, parse};
use crate::accept::Accepted;
use crate::context::ClientAddr;
use crate::drain::Drain;
use crate::prefixed::Prefixed;

/// A load balancer sends the header in the first segment; this leaves room for one that is lost.
const DEADLINE: Duration = Duration::from_secs(5);

/// Room for a header and the `ClientHello` behind it, so that one read fetches both.
const FIRST_READ: usize = 2048;

/// What became of connections. For metrics; every field only grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// A valid header came from a trusted peer.
    pub accepted: AtomicU64,
    /// The peer is not trusted: no header was looked for.
    pub direct: AtomicU64,
    /// Closed: the bytes are no header.
    pub malformed: AtomicU64,
    /// Closed: no whole header within the deadline.
    pub timed_out: AtomicU64,
    /// The peer went before its header was whole. Health checks that only connect are counted here.
    pub closed: AtomicU64,
    /// Closed before the header was whole, because the process was told to stop.
    pub stopped: AtomicU64,
}

/// Makes [`ProxyProtocol`] services.
#[derive(Debug, Clone)]
pub struct ProxyProtocolLayer {
    settings: Arc<Settings>,
}

#[derive(Debug, Clone)]
struct Settings {
    trusted: Vec<IpNet>,
    deadline: Duration,
    drain: Drain,
    counters: Arc<Counters>,
}

impl ProxyProtocolLayer {
    /// Requires the header from peers of these networks, and from nobody else.
    ///
    /// A peer with an IPv4-mapped address is one of the IPv4 network.
    pub fn new(trusted: Vec<IpNet>) -> Self {
        let (drain, counters) = (Drain::new(), Arc::default());
        Self { settings: Arc::new(Settings { trusted, deadline: DEADLINE, drain, counters }) }
    }

    /// The time within which the whole header must have come; 5 seconds unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        Arc::make_mut(&mut self.settings).deadline = deadline;
        self
    }

    /// Ends connections whose header is not whole when this stops. Unless set, they have their time.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        Arc::make_mut(&mut self.settings).drain = drain;
        self
    }

    /// What became of the connections of all services that this layer makes.
    pub fn counters(&self) -> Arc<Counters> {
        self.settings.counters.clone()
    }
}

impl<S> Layer<S> for ProxyProtocolLayer {
    type Service = ProxyProtocol<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ProxyProtocol { inner, settings: self.settings.clone() }
    }
}

/// Reads the header of connections from trusted peers. See the [module](self).
#[derive(Debug, Clone)]
pub struct ProxyProtocol<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, I> Service<Accepted<I>> for ProxyProtocol<S>
where
    S: Service<Accepted<Prefixed<I>>, Response = (), Error: Send, Future: Send> + Clone + Send + 'static,
    I: AsyncRead + Unpin + Send + 'static,
{
    type Response = ();
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<(), S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Accepted<I>) -> Self::Future {
        let clone = self.inner.clone();
        // The clone may not be ready, the service that `poll_ready` was called on is.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        if !self.settings.trusts(connection.peer.ip()) {
            self.settings.counters.direct.fetch_add(1, Ordering::Relaxed);
            return Box::pin(inner.call(connection.map_io(Prefixed::empty)));
        }
        let header: BoxFuture<'_, _> = Box::pin(self.settings.clone().open(connection));
        Box::pin(header.then(move |opened| match opened {
            Some(connection) => Either::Left(inner.call(connection)),
            None => Either::Right(ready(Ok(()))),
        }))
    }
}

impl Settings {
    fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|network| network.contains(&peer))
    }

    /// The connection behind its header; `None` when it was refused.
    async fn open<I: AsyncRead + Unpin>(
        self: Arc<Self>,
        mut connection: Accepted<I>,
    ) -> Option<Accepted<Prefixed<I>>> {
        let read = tokio::time::timeout(self.deadline, read_header(&mut connection.io));
        let read = match self.drain.stopping().run_until_cancelled(read).await {
            Some(read) => read.unwrap_or(Err(Failure::Deadline(self.deadline))),
            None => Err(Failure::Stopped),
        };
        match read {
            Ok((addresses, rest)) => {
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                if let Some(Addresses { source, .. }) = addresses {
                    connection.client = ClientAddr(source);
                }
                Some(connection.map_io(|io| Prefixed::new(rest, io)))
            }
            Err(failure) => {
                let (counter, quiet) = match failure {
                    Failure::Malformed(_) => (&self.counters.malformed, false),
                    Failure::Deadline(_) => (&self.counters.timed_out, false),
                    // Health checks do so all day.
                    Failure::Closed(0) => (&self.counters.closed, true),
                    Failure::Closed(_) | Failure::Io(_) => (&self.counters.closed, false),
                    Failure::Stopped => (&self.counters.stopped, true),
                };
                counter.fetch_add(1, Ordering::Relaxed);
                let peer = connection.peer;
                if quiet {
                    debug!(%peer, %failure, "PROXY protocol failed");
                } else {
                    warn!(%peer, %failure, "PROXY protocol failed");
                }
                None
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Malformed(HeaderError),
    #[error("no whole header within {0:?}")]
    Deadline(Duration),
    #[error("closed after {0} bytes of a header")]
    Closed(usize),
    #[error("{0}")]
    Io(io::Error),
    #[error("closed because the process stops")]
    Stopped,
}

/// What the header says, and the client's first bytes, which came with it.
async fn read_header<I: AsyncRead + Unpin>(io: &mut I) -> Result<(Option<Addresses>, Bytes), Failure> {
    let mut read = BytesMut::with_capacity(FIRST_READ);
    loop {
        match parse(&read) {
            Parsed::Complete { header, consumed } => {
                let addresses = header.addresses;
                if consumed == read.len() {
                    return Ok((addresses, Bytes::new()));
                }
                read.advance(consumed);
                return Ok((addresses, read.freeze()));
            }
            Parsed::Invalid(error) => return Err(Failure::Malformed(error)),
            // Bounded: the parser refuses a header beyond its limit as soon as the length is there.
            Parsed::NeedMore(missing) => read.reserve(missing),
        }
        if io.read_buf(&mut read).await.map_err(Failure::Io)? == 0 {
            return Err(Failure::Closed(read.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tower::{ServiceExt, service_fn};

    use super::*;

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";

    fn layer() -> ProxyProtocolLayer {
        ProxyProtocolLayer::new(vec![
            "10.0.0.0/8".parse().expect("a network"),
            "fd00::/8".parse().expect("one"),
        ])
    }

    fn connection(io: DuplexStream, peer: &str) -> Accepted<DuplexStream> {
        Accepted::new(io, "10.0.0.1:443".parse().expect("an address"), peer.parse().expect("an address"))
    }

    /// Runs one connection; gives the client and the bytes that the inner service saw, if it was called.
    async fn run(layer: &ProxyProtocolLayer, peer: &str, io: DuplexStream) -> Option<(SocketAddr, Vec<u8>)> {
        let seen = Arc::new(Mutex::new(None));
        let note = seen.clone();
        let service = layer.layer(service_fn(move |mut connection: Accepted<Prefixed<DuplexStream>>| {
            let note = note.clone();
            async move {
                let mut bytes = Vec::new();
                connection.io.read_to_end(&mut bytes).await.expect("reads");
                *note.lock().expect("lock") = Some((connection.client.0, bytes));
                Ok::<_, Infallible>(())
            }
        }));
        service.oneshot(connection(io, peer)).await.expect("infallible");
        seen.lock().expect("lock").take()
    }

    /// A stream that holds these bytes and ends behind them.
    async fn stream(bytes: &[u8]) -> DuplexStream {
        let (near, mut far) = tokio::io::duplex(bytes.len().max(1));
        far.write_all(bytes).await.expect("fits");
        near
    }

    fn client(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    #[tokio::test]
    async fn a_trusted_peer_names_the_client() {
        let layer = layer();
        for peer in ["10.1.2.3:999", "[::ffff:10.1.2.3]:999", "[fd00::1]:999"] {
            let io = stream(&[HEADER, b"hello"].concat()).await;
            let seen = run(&layer, peer, io).await;
            assert_eq!(seen, Some((client("192.0.2.7:40000"), b"hello".to_vec())), "{peer}");
        }
        assert_eq!(layer.counters().accepted.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn no_byte_of_another_peer_is_touched() {
        let layer = layer();
        for peer in ["192.0.2.1:999", "[::ffff:192.0.2.1]:999", "[2001:db8::1]:999"] {
            let seen = run(&layer, peer, stream(HEADER).await).await;
            assert_eq!(seen, Some((client(peer), HEADER.to_vec())));
        }
        assert_eq!(layer.counters().direct.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn another_peer_need_not_send_anything_before_the_inner_service_runs() {
        let (io, _silent) = tokio::io::duplex(1);
        let service =
            layer().layer(service_fn(async |_: Accepted<Prefixed<DuplexStream>>| Ok::<_, Infallible>(())));
        service.oneshot(connection(io, "192.0.2.1:999")).await.expect("infallible");
    }

    #[tokio::test]
    async fn without_an_address_the_peer_stays_the_client() {
        let mut local = Vec::new();
        header::encode_v2(None, &[], true, &mut local).expect("fits");
        for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
            let io = stream(&[header, b"hello"].concat()).await;
            let seen = run(&layer(), "10.0.0.2:999", io).await;
            assert_eq!(seen, Some((client("10.0.0.2:999"), b"hello".to_vec())));
        }
    }

    #[tokio::test]
    async fn a_trusted_peer_without_a_valid_header_is_closed_and_counted() {
        let layer = layer();
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 1.1.1.1\r\n", b"\x16\x03\x01"] {
            assert_eq!(run(&layer, "10.0.0.2:999", stream(bytes).await).await, None);
        }
        assert_eq!(layer.counters().malformed.load(Ordering::Relaxed), 3);
        for bytes in [&b""[..], b"PROXY TCP4 1.1"] {
            assert_eq!(run(&layer, "10.0.0.2:999", stream(bytes).await).await, None);
        }
        assert_eq!(layer.counters().closed.load(Ordering::Relaxed), 2);
        assert_eq!(layer.counters().accepted.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_dribbles_beyond_the_deadline_is_cut_off() {
        let layer = layer().deadline(Duration::from_secs(2));
        let (io, mut balancer) = tokio::io::duplex(1);
        let dribble = async {
            for byte in HEADER {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if balancer.write_all(&[*byte]).await.is_err() {
                    return true;
                }
            }
            false
        };
        let (seen, cut_off) = tokio::join!(run(&layer, "10.0.0.2:999", io), dribble);
        assert_eq!(seen, None);
        assert!(cut_off);
        assert_eq!(layer.counters().timed_out.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_stop_ends_what_has_no_whole_header() {
        let drain = Drain::new();
        let layer = layer().drain(drain.clone()).deadline(Duration::from_secs(3600));
        let (io, mut balancer) = tokio::io::duplex(64);
        balancer.write_all(&HEADER[..7]).await.expect("fits");
        let mut running = tokio_test::task::spawn(run(&layer, "10.0.0.2:999", io));
        assert!(running.poll().is_pending());
        drain.stopping().cancel();
        assert!(running.is_woken());
        assert_eq!(running.await, None);
        assert_eq!(layer.counters().stopped.load(Ordering::Relaxed), 1);
        // What was read before a stop is served to its end: that is not this layer's to judge.
        let seen = run(&layer, "192.0.2.1:999", stream(b"hello").await).await;
        assert_eq!(seen, Some((client("192.0.2.1:999"), b"hello".to_vec())));
    }

    #[tokio::test]
    async fn a_header_is_read_in_whatever_pieces_it_comes() {
        let source = "192.0.2.7:40000".parse().expect("an address");
        let addresses = Addresses { source, destination: "198.51.100.1:443".parse().expect("an address") };
        let mut binary = Vec::new();
        let long = "a".repeat(3000);
        header::encode_v2(Some(&addresses), &[tlv::Tlv::Authority(&long)], true, &mut binary).expect("fits");
        for header in [HEADER, &binary] {
            for size in [1, 2, 7, 15, 16, 17, 100] {
                let bytes = [header, b"hello"].concat();
                let (io, mut balancer) = tokio::io::duplex(size);
                let write = async move { balancer.write_all(&bytes).await.expect("all is read") };
                let layer = layer();
                let (seen, ()) = tokio::join!(run(&layer, "10.0.0.2:999", io), write);
                assert_eq!(seen, Some((source, b"hello".to_vec())), "pieces of {size}");
            }
        }
    }
}
