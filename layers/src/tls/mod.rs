//! Ends TLS: reads the `ClientHello`, picks the certificate by server name, does the handshake.
//!
//! TLS 1.2 and 1.3 with aws-lc-rs; ALPN offers `h2` and `http/1.1`. Of the key exchanges that both ends know
//! (X25519, P-256, P-384, and the hybrid X25519MLKEM768, which also resists quantum computers) the one that the
//! client prefers is taken, and so it is with cipher suites. One long-lived configuration with one ticket key, which
//! renews itself, serves all connections: sessions are resumed (statelessly, RFC 5077 and RFC 8446, section 4.6.1)
//! after any change of certificates.
//!
//! What half-open handshakes cost is bounded: in time by one deadline from the first byte to the last, in memory by
//! a number of handshakes ([`TlsLayer::max_pending`]) of at most 64 KiB each, usually 15. When there are too
//! many, the one that has waited longest is closed, so that silent connections don't keep others out. With a
//! [`Drain`](TlsLayer::drain) they end when it stops: nobody has asked for anything yet.
//!
//! A name that nobody claims is refused with the alert `unrecognized_name` (RFC 6066, section 3). Failed handshakes
//! are counted and logged here, with the peer and the server name as soon as there is one: at `warn` when the
//! client had named a host, at `debug` otherwise. For whoever accepts connections they are no errors: the errors of
//! this service are those of the inner one.
//!
//! A certificate authority that validates a name with TLS-ALPN-01 (RFC 8737) gets the certificate that it waits for
//! where [`challenges`](TlsLayer::challenges) are set.
//!
//! A response of a certificate's OCSP responder that somebody has put there ([`Certified::staple`]) is shown to clients
//! that ask for one, until its time is over. Putting another one there touches neither connections nor configurations.
//!
//! It does not ask clients for certificates, does not take early data (which could be replayed), and does not decide
//! whether a request's host fits the certificate: `normalize` does, with [`TlsInfo`].
//!
//! It must stand behind `proxy_protocol`, whose header comes before the `ClientHello`, and before `serve`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use portcullis_layers::accept::Accepted;
//! use portcullis_layers::tls::{CertificateTable, Certified, Resolver, TlsLayer, TlsStream};
//! use tokio::io::{AsyncWriteExt, DuplexStream};
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["a.example".to_owned()])?;
//! # let (chain_pem, key_pem) = (cert.pem(), signing_key.serialize_pem());
//! let certified = Arc::new(Certified::from_pem(chain_pem.as_bytes(), key_pem.as_bytes())?);
//! let mut table = CertificateTable::new(None);
//! table.serve("a.example", certified)?;
//! let resolver = Arc::new(Resolver::new(table));
//!
//! let service = ServiceBuilder::new()
//!     .layer(TlsLayer::new(resolver.clone())?)
//!     .service(service_fn(|mut connection: Accepted<TlsStream<DuplexStream>>| async move {
//!         let tls = connection.tls.as_ref().expect("written by the layer");
//!         let greeting = format!("{} over {}", tls.sni.as_ref().unwrap(), tls.version);
//!         connection.io.write_all(greeting.as_bytes()).await?;
//!         connection.io.shutdown().await?;
//!         Ok::<_, BoxError>(())
//!     }));
//! // Later, from anywhere: `resolver.swap(table)`.
//! # let (ours, theirs) = tokio::io::duplex(4096);
//! # let accepted = Accepted::new(ours, "192.0.2.1:443".parse()?, "192.0.2.2:4000".parse()?);
//! # let mut roots = tokio_rustls::rustls::RootCertStore::empty();
//! # roots.add(cert.der().clone())?;
//! # let client = tokio_rustls::rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
//! # let client = async move {
//! #     let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
//! #     let mut io = connector.connect("a.example".try_into()?, theirs).await?;
//! #     let mut text = String::new();
//! #     tokio::io::AsyncReadExt::read_to_string(&mut io, &mut text).await?;
//! #     assert_eq!(text, "a.example over TLSv1.3");
//! #     Ok::<_, BoxError>(())
//! # };
//! # tokio::try_join!(service.oneshot(accepted), client)?;
//! # Ok(())
//! # }
//! ```

mod certified;
mod pending;
mod resolver;
mod staple;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Abortable, BoxFuture, Either, FutureExt, ready};
use rustls::server::{Acceptor, NoServerSessionStorage, ResolvesServerCertUsingSni};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{debug, warn};

pub use self::certified::{Certified, CertifiedError};
use self::pending::Pending;
pub use self::resolver::{CertificateTable, Certificates, Resolver};
use crate::accept::Accepted;
use crate::context::TlsInfo;
use crate::drain::Drain;
use crate::names::{HostName, InvalidHostName};

pub use tokio_rustls::server::TlsStream;

/// Long enough for a lost packet or two on a slow link.
const DEADLINE: Duration = Duration::from_secs(10);

/// In memory 64 MiB at the very worst (a `ClientHello` that never ends), 12 MiB for connections that say nothing.
const MAX_PENDING: usize = 1024;

const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// What a certificate authority asks for when it validates a name, and nobody else (RFC 8737, section 6.2).
const ACME: &[u8] = b"acme-tls/1";

/// Knows the certificates that answer TLS-ALPN-01 challenges.
pub trait AlpnChallenges: Send + Sync + 'static {
    /// The certificate for a name that is being validated (RFC 8737, section 3), with its key; `None` when none is. Who
    /// asks is told, so that strangers who try names can be slowed down.
    ///
    /// It is no [`Certified`]: no client but an authority's would take it, for its critical extension.
    fn challenge(&self, name: &HostName, client: IpAddr) -> BoxFuture<'static, Option<Arc<CertifiedKey>>>;
}

impl<T: AlpnChallenges + ?Sized> AlpnChallenges for Arc<T> {
    fn challenge(&self, name: &HostName, client: IpAddr) -> BoxFuture<'static, Option<Arc<CertifiedKey>>> {
        (**self).challenge(name, client)
    }
}

/// Is told of hosts that have no certificate of their own when somebody wants one.
pub trait Demand: Send + Sync + 'static {
    /// A client asked for a name that some host claims, and is served with the fallback. Names that nobody claims,
    /// addresses and clients without a name are never told of.
    ///
    /// This is called in the middle of the handshake, on the thread of the connection: it must not wait for anything.
    /// Anybody can have it called with any name below a wildcard, as often as he likes.
    fn missed(&self, name: &HostName, client: IpAddr);
}

impl<T: Demand + ?Sized> Demand for Arc<T> {
    fn missed(&self, name: &HostName, client: IpAddr) {
        (**self).missed(name, client);
    }
}

/// What became of handshakes. For metrics; every field only grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes that succeeded.
    pub handshakes: AtomicU64,
    /// How many of them resumed a session.
    pub resumed: AtomicU64,
    /// No TLS, no common version, cipher or protocol, a client that does not trust us, or a lost connection.
    pub failed: AtomicU64,
    /// Refused: no host claims the server name.
    pub unrecognized: AtomicU64,
    /// Not done within the deadline.
    pub timed_out: AtomicU64,
    /// Closed to make room for others.
    pub evicted: AtomicU64,
    /// Closed because the process was told to stop.
    pub stopped: AtomicU64,
    /// TLS-ALPN-01 challenges that were answered.
    pub challenges: AtomicU64,
}

/// Makes [`Tls`] services.
#[derive(Clone)]
pub struct TlsLayer {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    certificates: Arc<dyn Certificates>,
    challenges: Option<Arc<dyn AlpnChallenges>>,
    demand: Option<Arc<dyn Demand>>,
    /// Everything but the certificate.
    config: Arc<ServerConfig>,
    deadline: Duration,
    pending: Arc<Pending>,
    drain: Drain,
    counters: Arc<Counters>,
}

impl TlsLayer {
    /// Serves these certificates.
    ///
    /// # Errors
    ///
    /// When the system gives no random numbers for the ticket key.
    pub fn new(certificates: impl Certificates + 'static) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(certified::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        config.alpn_protocols = ALPN.map(Vec::from).into();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        // Tickets need no storage; the default one would be a lock that all workers meet at.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            settings: Arc::new(Settings {
                certificates: Arc::new(certificates),
                challenges: None,
                demand: None,
                config: Arc::new(config),
                deadline: DEADLINE,
                pending: Arc::new(Pending::new(MAX_PENDING)),
                drain: Drain::new(),
                counters: Arc::default(),
            }),
        })
    }

    /// The time for the whole handshake, from the first byte of the `ClientHello`; 10 seconds unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        Arc::make_mut(&mut self.settings).deadline = deadline;
        self
    }

    /// How many handshakes may be under way, over all services that this layer makes; 1024 unless set.
    #[must_use]
    pub fn max_pending(mut self, limit: usize) -> Self {
        Arc::make_mut(&mut self.settings).pending = Arc::new(Pending::new(limit));
        self
    }

    /// Ends handshakes that are under way when this stops. Unless set, they have their time.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        Arc::make_mut(&mut self.settings).drain = drain;
        self
    }

    /// Answers the TLS-ALPN-01 challenges of a certificate authority (RFC 8737). Such a connection is closed after its
    /// handshake: nothing else may be said on it. Unless set, it is refused as one that asks for an unknown protocol.
    #[must_use]
    pub fn challenges(mut self, challenges: impl AlpnChallenges) -> Self {
        Arc::make_mut(&mut self.settings).challenges = Some(Arc::new(challenges));
        self
    }

    /// Tells of names that are served with the fallback. The handshake does not wait for what becomes of it.
    #[must_use]
    pub fn demand(mut self, demand: impl Demand) -> Self {
        Arc::make_mut(&mut self.settings).demand = Some(Arc::new(demand));
        self
    }

    /// What became of the handshakes of all services that this layer makes.
    pub fn counters(&self) -> Arc<Counters> {
        self.settings.counters.clone()
    }
}

impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLayer")
            .field("deadline", &self.deadline)
            .field("pending", &self.pending)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TlsLayer {
    type Service = Tls<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Tls { inner, settings: self.settings.clone() }
    }
}

/// Does the TLS handshake of connections. See the [module](self).
#[derive(Debug, Clone)]
pub struct Tls<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, I> Service<Accepted<I>> for Tls<S>
where
    S: Service<Accepted<TlsStream<I>>, Response = (), Error: Send, Future: Send> + Clone + Send + 'static,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
        // In a box of its own, which is gone when the handshake is, and no block around both: an idle
        // connection holds only what serving it needs.
        let handshake: BoxFuture<'_, _> = Box::pin(self.settings.clone().open(connection));
        Box::pin(handshake.then(move |opened| match opened {
            Some(connection) => Either::Left(inner.call(connection)),
            None => Either::Right(ready(Ok(()))),
        }))
    }
}

impl Settings {
    /// The connection behind its handshake; `None` when that failed.
    async fn open<I>(self: Arc<Self>, connection: Accepted<I>) -> Option<Accepted<TlsStream<I>>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let Accepted { io, local, peer, client, .. } = connection;
        let mut sni = None;
        let (registration, place) = self.pending.enter();
        let handshake = tokio::time::timeout(self.deadline, self.handshake(io, client.0.ip(), &mut sni));
        let handshake = Abortable::new(handshake, registration);
        let outcome = match self.drain.stopping().run_until_cancelled(handshake).await {
            Some(Ok(Ok(outcome))) => outcome,
            Some(Ok(Err(_))) => Err(Failure::Deadline(self.deadline)),
            Some(Err(_)) => Err(Failure::Evicted),
            None => Err(Failure::Stopped),
        };
        drop(place);
        match outcome {
            Ok((io, certified)) => {
                let tls = Some(self.settled(io.get_ref().1, sni, &certified));
                Some(Accepted { io, local, peer, client, tls })
            }
            Err(failure) => {
                self.counter(&failure).fetch_add(1, Ordering::Relaxed);
                match sni {
                    // No fault of the client.
                    Some(sni) if !matches!(failure, Failure::Stopped | Failure::Validated) => {
                        warn!(%peer, client = %client.0, %sni, %failure, "TLS handshake failed");
                    }
                    _ => debug!(%peer, client = %client.0, %failure, "TLS connection ended"),
                }
                None
            }
        }
    }

    /// From the `ClientHello` on; `sni` is known to the caller whatever comes after it.
    async fn handshake<I>(
        &self,
        io: I,
        client: IpAddr,
        sni: &mut Option<HostName>,
    ) -> Result<(TlsStream<I>, Arc<Certified>), Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(Failure::ClientHello)?;
        match requested(start.client_hello().server_name()) {
            Ok(name) => *sni = name,
            Err(error) => return Err(refuse(start, Failure::InvalidName(error)).await),
        }
        if let Some(challenges) = self.challenges.as_deref()
            && start.client_hello().alpn().is_some_and(|mut offered| offered.any(|one| one == ACME))
        {
            return Err(self.validate(start, challenges, sni.as_ref(), client).await);
        }
        let Some(certified) = self.certificates.certificate(sni.as_ref()) else {
            let failure = if sni.is_some() { Failure::Unrecognized } else { Failure::NoName };
            return Err(refuse(start, failure).await);
        };
        // Now, because clients that don't trust the fallback never get to the end.
        if let (true, Some(demand), Some(name)) = (certified.fallback, &self.demand, sni.as_ref()) {
            demand.missed(name, client);
        }
        let stream = start.into_stream(certified.config(&self.config)).await.map_err(Failure::Handshake)?;
        Ok((stream, certified))
    }

    /// Shows an authority the certificate that it waits for, and closes.
    async fn validate<I>(
        &self,
        start: StartHandshake<I>,
        challenges: &dyn AlpnChallenges,
        name: Option<&HostName>,
        client: IpAddr,
    ) -> Failure
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let key = match name {
            Some(name) => challenges.challenge(name, client).await,
            None => None,
        };
        let Some(key) = key else { return refuse(start, Failure::Unrecognized).await };
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = certified::always(key);
        config.alpn_protocols = vec![ACME.to_vec()];
        match start.into_stream(Arc::new(config)).await {
            Ok(mut stream) => {
                let _gone = stream.shutdown().await;
                Failure::Validated
            }
            Err(error) => Failure::Handshake(error),
        }
    }

    fn settled(
        &self,
        session: &rustls::ServerConnection,
        sni: Option<HostName>,
        certified: &Certified,
    ) -> TlsInfo {
        self.counters.handshakes.fetch_add(1, Ordering::Relaxed);
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.counters.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            // The only other one that is configured.
            _ => "TLSv1.3",
        };
        let alpn = session.alpn_protocol();
        let alpn = ALPN.into_iter().find(|protocol| alpn == Some(protocol.as_bytes()));
        TlsInfo { version, sni, alpn, names: certified.names.clone() }
    }

    fn counter(&self, failure: &Failure) -> &AtomicU64 {
        match failure {
            Failure::ClientHello(_) | Failure::Handshake(_) | Failure::NoName => &self.counters.failed,
            Failure::InvalidName(_) | Failure::Unrecognized => &self.counters.unrecognized,
            Failure::Deadline(_) => &self.counters.timed_out,
            Failure::Evicted => &self.counters.evicted,
            Failure::Stopped => &self.counters.stopped,
            Failure::Validated => &self.counters.challenges,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no ClientHello: {0}")]
    ClientHello(io::Error),
    #[error("server name is not valid: {0}")]
    InvalidName(InvalidHostName),
    #[error("no host claims the server name")]
    Unrecognized,
    #[error("no server name and no fallback certificate")]
    NoName,
    #[error("{0}")]
    Handshake(io::Error),
    #[error("not done within {0:?}")]
    Deadline(Duration),
    #[error("closed to make room for others")]
    Evicted,
    #[error("closed because the process stops")]
    Stopped,
    /// No failure for the authority: there is no connection to go on with.
    #[error("a certificate authority has validated the name")]
    Validated,
}

impl Failure {
    /// The alert's number (RFC 8446, section 6), where it is for us to send one.
    const fn alert(&self) -> u8 {
        match self {
            Self::NoName => 109,
            _ => 112,
        }
    }
}

/// The host that a client asks for. An address is not a name that may stand there (RFC 6066, section 3); it
/// counts as none, since some clients send it.
fn requested(name: Option<&str>) -> Result<Option<HostName>, InvalidHostName> {
    let host = name.map(str::parse::<HostName>).transpose()?;
    Ok(host.filter(|host| !host.is_ip()))
}

/// Tells the client why, as far as it listens. rustls would say `access_denied`, which browsers explain wrongly.
async fn refuse<I: AsyncWrite + Unpin>(start: StartHandshake<I>, failure: Failure) -> Failure {
    // A fatal alert, not encrypted, in the record version that TLS 1.3 uses, too (RFC 8446, section 5.1).
    let record = [21, 3, 3, 0, 2, 2, failure.alert()];
    let mut io = start.io;
    // Who has gone by now won't miss it.
    if io.write_all(&record).await.is_ok() {
        let _gone = io.shutdown().await;
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use rustls::client::Resumption;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::sync::mpsc;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream as ClientStream;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

    fn certified(names: &[&str]) -> Arc<Certified> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().expect("generates");
        let certificate =
            rcgen::CertificateParams::new(names).expect("valid").self_signed(&key).expect("signs");
        let certified = Certified::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
        Arc::new(certified.expect("loads"))
    }

    /// A layer over a table, and a client that trusts the given certificates.
    struct Bench {
        layer: TlsLayer,
        resolver: Arc<Resolver>,
        client: ClientConfig,
        settled: mpsc::UnboundedSender<TlsInfo>,
        infos: mpsc::UnboundedReceiver<TlsInfo>,
    }

    fn table(certificates: &[&Arc<Certified>], fallback: Option<&Arc<Certified>>) -> CertificateTable {
        let mut table = CertificateTable::new(fallback.cloned());
        for certified in certificates {
            table.serve_names(certified).expect("valid");
        }
        table
    }

    fn client(trusted: &[&Arc<Certified>], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certified in trusted {
            roots.add(certified.key.cert[0].clone()).expect("a certificate");
        }
        ClientConfig::builder_with_provider(Arc::new(certified::provider()))
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    impl Bench {
        fn new(certificates: &[&Arc<Certified>], fallback: Option<&Arc<Certified>>) -> Self {
            let resolver = Arc::new(Resolver::new(table(certificates, fallback)));
            let layer = TlsLayer::new(resolver.clone()).expect("random numbers");
            let trusted: Vec<_> = certificates.iter().copied().chain(fallback).collect();
            let (settled, infos) = mpsc::unbounded_channel();
            Self { layer, resolver, client: client(&trusted, BOTH), settled, infos }
        }

        /// Serves one connection with an echo that greets first.
        fn accept(&self) -> DuplexStream {
            let settled = self.settled.clone();
            let service =
                self.layer.layer(service_fn(move |connection: Accepted<TlsStream<DuplexStream>>| {
                    let settled = settled.clone();
                    async move {
                        settled.send(connection.tls.expect("written by the layer")).expect("the bench lives");
                        let mut io = connection.io;
                        io.write_all(b"!").await.expect("the client reads");
                        let mut byte = [0];
                        while io.read(&mut byte).await.is_ok_and(|count| count > 0) {
                            io.write_all(&byte).await.expect("the client reads");
                        }
                        Ok::<_, Infallible>(())
                    }
                }));
            let (ours, theirs) = tokio::io::duplex(16 * 1024);
            let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
            tokio::spawn(service.oneshot(Accepted::new(ours, address(443), address(4000))));
            theirs
        }

        async fn connect_as(
            &self,
            config: ClientConfig,
            host: &str,
        ) -> io::Result<ClientStream<DuplexStream>> {
            let host = ServerName::try_from(host.to_owned()).expect("valid");
            let mut io = TlsConnector::from(Arc::new(config)).connect(host, self.accept()).await?;
            // The greeting; tickets come before it.
            assert_eq!(io.read_u8().await?, b'!');
            Ok(io)
        }

        async fn connect(&self, host: &str) -> io::Result<ClientStream<DuplexStream>> {
            self.connect_as(self.client.clone(), host).await
        }
    }

    fn served(io: &ClientStream<DuplexStream>, certified: &Certified) -> bool {
        let chain = io.get_ref().1.peer_certificates().expect("a certificate");
        chain[0] == certified.key.cert[0]
    }

    async fn echoes(io: &mut ClientStream<DuplexStream>) -> bool {
        io.write_all(b"x").await.expect("open");
        io.read_u8().await.is_ok_and(|byte| byte == b'x')
    }

    #[tokio::test]
    async fn the_server_name_picks_the_certificate() {
        let (own, wildcard, fallback) = (
            certified(&["a.example"]),
            certified(&["*.b.example"]),
            certified(&["waiting.test", "192.0.2.1"]),
        );
        let bench = Bench::new(&[&wildcard, &own], Some(&fallback));
        let mut hosts = table(&[&wildcard, &own], Some(&fallback));
        hosts.claim("waiting.test").expect("valid");
        bench.resolver.swap(hosts);
        for (host, expected) in [
            ("a.example", &own),
            ("A.Example", &own),
            ("x.b.example", &wildcard),
            ("waiting.test", &fallback),
            // No SNI is sent for an address.
            ("192.0.2.1", &fallback),
        ] {
            let io = bench.connect(host).await.unwrap_or_else(|error| panic!("{host}: {error}"));
            assert!(served(&io, expected), "{host}");
        }
        assert_eq!(bench.layer.counters().handshakes.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn a_name_that_nobody_claims_gets_its_alert() {
        let own = certified(&["a.example"]);
        let bench = Bench::new(&[&own], Some(&own));
        for versions in [BOTH, &[&rustls::version::TLS12]] {
            let outcome = bench.connect_as(client(&[&own], versions), "b.example").await;
            assert!(outcome.is_err_and(|error| error.to_string().contains("UnrecognisedName")));
        }
        assert_eq!(bench.layer.counters().unrecognized.load(Ordering::Relaxed), 2);
        let bench = Bench::new(&[&own], None);
        let outcome = bench.connect("192.0.2.1").await;
        assert!(outcome.is_err_and(|error| error.to_string().contains("MissingExtension")));
    }

    #[tokio::test]
    async fn what_was_settled_is_told() {
        let own = certified(&["a.example", "*.a.example"]);
        let mut bench = Bench::new(&[&own], None);
        let cases: [(_, &[&[u8]], _, _); 4] = [
            (BOTH, &[b"h2", b"http/1.1"], "TLSv1.3", Some("h2")),
            (BOTH, &[b"http/1.1", b"h2"], "TLSv1.3", Some("h2")),
            (&[&rustls::version::TLS12], &[b"http/1.1"], "TLSv1.2", Some("http/1.1")),
            (BOTH, &[], "TLSv1.3", None),
        ];
        for (versions, offered, version, alpn) in cases {
            let mut config = client(&[&own], versions);
            config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
            let io = bench.connect_as(config, "a.example").await.expect("connects");
            assert_eq!(io.get_ref().1.alpn_protocol(), alpn.map(str::as_bytes));
            let info = bench.infos.recv().await.expect("told");
            assert_eq!((info.version, info.alpn), (version, alpn));
            assert_eq!(info.sni.as_ref().map(HostName::as_str), Some("a.example"));
            assert!(info.names.cover(&"b.a.example".parse().expect("valid")));
        }
    }

    #[tokio::test]
    async fn a_client_that_speaks_none_of_our_protocols_is_refused() {
        let own = certified(&["a.example"]);
        let bench = Bench::new(&[&own], None);
        let mut config = bench.client.clone();
        config.alpn_protocols = vec![b"smtp".to_vec()];
        let outcome = bench.connect_as(config, "a.example").await;
        assert!(outcome.is_err_and(|error| error.to_string().contains("NoApplicationProtocol")));
        assert_eq!(bench.layer.counters().failed.load(Ordering::Relaxed), 1);
    }

    /// One name is being validated.
    struct One(&'static str, Arc<CertifiedKey>);

    impl AlpnChallenges for One {
        fn challenge(&self, name: &HostName, _: IpAddr) -> BoxFuture<'static, Option<Arc<CertifiedKey>>> {
            let found = (name.as_str() == self.0).then(|| self.1.clone());
            ready(found).boxed()
        }
    }

    #[tokio::test]
    async fn an_authority_gets_its_answer_and_nothing_more() {
        let (own, challenge) = (certified(&["a.example"]), certified(&["a.example"]));
        let mut bench = Bench::new(&[&own], None);
        bench.layer = bench.layer.challenges(One("a.example", challenge.key.clone()));
        let mut authority = client(&[&challenge], BOTH);
        authority.alpn_protocols = vec![ACME.to_vec()];
        let connector = TlsConnector::from(Arc::new(authority.clone()));
        let name = ServerName::try_from("a.example").expect("valid");
        let mut io = connector.connect(name, bench.accept()).await.expect("validated");
        assert!(served(&io, &challenge));
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(ACME));
        assert_eq!(io.read(&mut [0]).await.expect("closed"), 0, "nobody serves it");
        // A name that nobody validates now has no certificate to show.
        let outcome = bench.connect_as(authority, "b.example").await;
        assert!(outcome.is_err_and(|error| error.to_string().contains("UnrecognisedName")));
        // And everybody else is served as ever.
        assert!(served(&bench.connect("a.example").await.expect("connects"), &own));
        let counters = bench.layer.counters();
        assert_eq!(counters.challenges.load(Ordering::Relaxed), 1);
        assert_eq!(counters.handshakes.load(Ordering::Relaxed), 1);
    }

    /// Notes what it is told.
    struct Told(mpsc::UnboundedSender<(String, IpAddr)>);

    impl Demand for Told {
        fn missed(&self, name: &HostName, client: IpAddr) {
            self.0.send((name.as_str().to_owned(), client)).expect("the test lives");
        }
    }

    #[tokio::test]
    async fn who_is_served_with_the_fallback_is_told_of_and_nobody_else() {
        let own = certified(&["own.b.example"]);
        let fallback = certified(&["any.b.example", "a.any.b.example", "192.0.2.1"]);
        let fallback = Arc::new(Certified::clone(&fallback).as_fallback());
        let mut bench = Bench::new(&[&own], Some(&fallback));
        let mut hosts = table(&[&own], Some(&fallback));
        hosts.claim("*.b.example").expect("valid");
        bench.resolver.swap(hosts);
        let (sender, mut told) = mpsc::unbounded_channel();
        bench.layer = bench.layer.demand(Told(sender));
        // A certificate of its own, no name at all, and names that nobody claims.
        assert!(served(&bench.connect("own.b.example").await.expect("connects"), &own));
        assert!(served(&bench.connect("192.0.2.1").await.expect("connects"), &fallback));
        for unknown in ["a.any.b.example", "b.example", "other.example"] {
            assert!(bench.connect(unknown).await.is_err(), "{unknown}");
        }
        assert!(told.try_recv().is_err());
        assert!(served(&bench.connect("any.b.example").await.expect("served at once"), &fallback));
        let client = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(told.try_recv().expect("told"), ("any.b.example".to_owned(), client));
        // One that does not trust the fallback, as browsers don't, is told of, too.
        assert!(bench.connect_as(client_of(&own), "any.b.example").await.is_err());
        assert_eq!(told.try_recv().expect("told").0, "any.b.example");
        assert!(told.try_recv().is_err());
    }

    fn client_of(trusted: &Arc<Certified>) -> ClientConfig {
        client(&[trusted], BOTH)
    }

    #[tokio::test]
    async fn without_challenges_their_protocol_is_unknown() {
        let own = certified(&["a.example"]);
        let bench = Bench::new(&[&own], None);
        let mut authority = bench.client.clone();
        authority.alpn_protocols = vec![ACME.to_vec()];
        let outcome = bench.connect_as(authority, "a.example").await;
        assert!(outcome.is_err_and(|error| error.to_string().contains("NoApplicationProtocol")));
    }

    #[tokio::test]
    async fn a_swap_touches_no_connection_and_no_session() {
        for versions in [BOTH, &[&rustls::version::TLS12]] {
            let (before, after) = (certified(&["a.example"]), certified(&["a.example"]));
            let bench = Bench::new(&[&before], None);
            let mut config = client(&[&before, &after], versions);
            config.resumption = Resumption::in_memory_sessions(8);
            let mut open = bench.connect_as(config.clone(), "a.example").await.expect("connects");
            assert!(served(&open, &before));

            bench.resolver.swap(table(&[&after], None));
            assert!(echoes(&mut open).await);
            let mut resumed = bench.connect_as(config, "a.example").await.expect("connects");
            assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            assert!(echoes(&mut resumed).await);
            let fresh = bench.connect_as(client(&[&after], versions), "a.example").await.expect("connects");
            assert!(served(&fresh, &after));
            let counters = bench.layer.counters();
            assert_eq!(counters.handshakes.load(Ordering::Relaxed), 3);
            assert_eq!(counters.resumed.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn a_removed_host_is_refused_even_to_a_client_with_a_ticket() {
        let own = certified(&["a.example"]);
        let bench = Bench::new(&[&own], None);
        bench.connect("a.example").await.expect("connects");
        bench.resolver.swap(CertificateTable::default());
        let outcome = bench.connect("a.example").await;
        assert!(outcome.is_err_and(|error| error.to_string().contains("UnrecognisedName")));
    }

    #[tokio::test]
    async fn what_is_no_tls_is_closed_and_counted() {
        let own = certified(&["a.example"]);
        let bench = Bench::new(&[&own], None);
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0x16, 3, 1, 0xff, 0xff],
            &[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        ] {
            let mut io = bench.accept();
            io.write_all(bytes).await.expect("fits");
            io.shutdown().await.expect("open");
            let mut answer = Vec::new();
            io.read_to_end(&mut answer).await.expect("closed");
            assert!(answer.is_empty() || answer[0] == 21, "an alert or nothing: {answer:?}");
        }
        assert_eq!(bench.layer.counters().failed.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_client_that_does_not_trust_us_is_counted() {
        let (own, other) = (certified(&["a.example"]), certified(&["a.example"]));
        let bench = Bench::new(&[&own], None);
        assert!(bench.connect_as(client(&[&other], BOTH), "a.example").await.is_err());
        let counters = bench.layer.counters();
        while counters.failed.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(counters.handshakes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_has_one_deadline_from_the_first_byte_to_the_last() {
        let own = certified(&["a.example"]);
        let mut bench = Bench::new(&[&own], None);
        bench.layer = bench.layer.deadline(Duration::from_secs(3));
        let begun = tokio::time::Instant::now();
        let mut silent = bench.accept();
        assert_eq!(silent.read(&mut [0]).await.expect("closed"), 0);

        // A ClientHello, and then nothing: what the server answers is never confirmed.
        let mut session = rustls::ClientConnection::new(
            Arc::new(bench.client.clone()),
            ServerName::try_from("a.example").expect("valid"),
        )
        .expect("a client");
        let mut hello = Vec::new();
        session.write_tls(&mut hello).expect("writes");
        let mut halfway = bench.accept();
        let (first, last) = hello.split_at(hello.len() - 1);
        halfway.write_all(first).await.expect("open");
        tokio::time::sleep(Duration::from_secs(2)).await;
        halfway.write_all(last).await.expect("open");
        let mut answer = Vec::new();
        halfway.read_to_end(&mut answer).await.expect("closed");
        assert!(answer.len() > 100);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(6) && took < Duration::from_secs(7), "{took:?}");
        assert_eq!(bench.layer.counters().timed_out.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_handshakes_at_once_and_no_connection() {
        let own = certified(&["a.example"]);
        let mut bench = Bench::new(&[&own], None);
        let drain = Drain::new();
        bench.layer = bench.layer.drain(drain.clone()).deadline(Duration::from_secs(3600));
        let mut io = bench.connect("a.example").await.expect("connects");
        let (mut silent, mut half) = (bench.accept(), bench.accept());
        half.write_all(b"\x16\x03\x01").await.expect("open");
        let begun = tokio::time::Instant::now();
        drain.stopping().cancel();
        for stream in [&mut silent, &mut half] {
            assert_eq!(stream.read(&mut [0]).await.expect("closed"), 0);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(echoes(&mut io).await, "what stands is for others to end");
        assert_eq!(bench.layer.counters().stopped.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_others_out() {
        let own = certified(&["a.example"]);
        let mut bench = Bench::new(&[&own], None);
        bench.layer = bench.layer.max_pending(4);
        let mut silent: Vec<_> = (0..16).map(|_| bench.accept()).collect();
        let mut io = bench.connect("a.example").await.expect("connects");
        assert!(echoes(&mut io).await);
        for early in &mut silent[..13] {
            assert_eq!(early.read(&mut [0]).await.expect("closed"), 0);
        }
        assert_eq!(bench.layer.counters().evicted.load(Ordering::Relaxed), 13);
    }

    #[test]
    fn server_names_become_hosts() {
        for (name, expected) in [
            (None, Ok(None)),
            (Some("A.Example"), Ok(Some("a.example"))),
            (Some("a.example."), Ok(Some("a.example"))),
            (Some("192.0.2.1"), Ok(None)),
            (Some("a..example"), Err(InvalidHostName::EmptyLabel)),
            (Some("a b"), Err(InvalidHostName::Character)),
            (Some("a.1"), Err(InvalidHostName::Address)),
        ] {
            let host = requested(name);
            let host = host.as_ref().map(|host| host.as_ref().map(HostName::as_str));
            assert_eq!(host, expected.as_ref().map(|expected| *expected), "{name:?}");
        }
    }
}
