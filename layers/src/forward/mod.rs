//! The leaf of a proxied route: calls the upstream and relays what it answers.
//!
//! Connections are pooled per worker ([`Client`]), HTTP/1.1 and HTTP/2, plain or over TLS that is
//! verified by default. Bodies and trailers stream both ways, at the pace of whoever reads them.
//! WebSockets and other upgrades become tunnels ([`Tunnels`]), over HTTP/2 as well (RFC 8441).
//! A request is sent a second time only when a connection that had been used before died without a
//! byte of an answer, and the request never left or may be repeated (RFC 9110, section 9.2.2); by the
//! same rule another upstream of the [`Target`] is asked. Which one gets a request, and which of them
//! are well, [`Balancing`] says; a [`Checker`] asks them.
//!
//! What it does *not* do: it adds no forwarding or identity headers and removes none but those for
//! one hop (RFC 9110, section 7.6.1), does not normalise paths, judges no status unless it is told to,
//! and can't relay 1xx answers: hyper's server has no way to send a 103. `Expect`
//! is not forwarded: our server sends `100 Continue` when the upstream's connection is there and
//! the body is asked for. How slowly a client may *read* is for the server below to decide. Trailers
//! of a request go up as they come: our server has taken out what no upstream may believe. Those of a
//! response come down without what may stand in headers only.
//!
//! It stands innermost. Everything before it must have authenticated the request, normalised its
//! path and removed spoofed headers; errors are [`Rejection`]s, for the `respond` layer.
//!
//! ```
//! use portcullis_layers::deadline::Ticker;
//! use portcullis_layers::forward::{Client, Forward, PoolSettings, Target, Tunnels};
//! use portcullis_layers::{Body, Rejection};
//! use tokio_util::sync::CancellationToken;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let client = Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default());
//! // Nobody listens on the discard port.
//! let target = Target::new("http://127.0.0.1:9".parse()?);
//! let forward = Forward::new(&client, target, CancellationToken::new())?;
//!
//! let request = http::Request::get("/").header("host", "app.example").body(Body::empty())?;
//! let error = forward.send(request).await.expect_err("refused");
//! let rejection = error.downcast::<Rejection>().expect("it knows its HTTP meaning");
//! assert_eq!((rejection.status().as_u16(), rejection.code()), (502, "upstream_connect"));
//! # Ok::<_, portcullis_layers::BoxError>(())
//! # }).unwrap();
//! ```

mod balance;
mod connect;
mod download;
mod exchange;
mod hop;
mod http1;
mod io;
mod lease;
mod live;
mod pool;
mod preface;
mod rewrite;
mod target;
mod tls;
mod tunnel;
mod upgrade;
mod upload;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{StatusCode, Version, header};
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::body::{Body, BoxError, BoxFuture, HttpService, Request, RequestBodyError, Response};
use crate::context::OnTunnelEnd;
use crate::rejection::Rejection;

use balance::Balance;
use download::ResponseBody;
use exchange::Exchange;
use lease::{Download, Lease};
use pool::Endpoint;
use tunnel::Tunnel;

pub use balance::{
    Balancing, CheckStatus, Checker, Counts, HashOn, HealthCheck, PassiveHealth, Policy, Retries,
    RetryCounters, UpstreamState, UpstreamStatus,
};
#[doc(hidden)]
pub use http1::{Replayed, replay};
pub use live::{HeldTunnel, LiveStream, StreamKind, Tunnels};
pub use pool::{Client, PoolSettings};
pub use preface::ProxyHeader;
pub use target::{InvalidUpstream, Protocol, Scheme, Target, Timeouts, TlsOptions, Upstream};
pub use tls::TlsSetupError;
pub use upgrade::BadUpgrade;

/// Why a [`Forward`] can't be made of a [`Target`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// The list of upstreams is empty.
    #[error("the target has no upstream")]
    NoUpstream,
    /// TLS towards an upstream can't be set up.
    #[error("TLS towards {upstream} can't be set up")]
    Tls {
        /// Which upstream.
        upstream: SmolStr,
        /// What is wrong with it.
        #[source]
        source: TlsSetupError,
    },
}

/// Calls the upstream. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Forward {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    target: Arc<Target>,
    endpoints: Vec<Arc<Endpoint>>,
    /// Where there is something to choose or to check.
    balance: Option<Box<Balance>>,
    tunnels: CancellationToken,
}

impl Forward {
    /// A leaf for a target. Cancelling `tunnels` closes the tunnels and event streams that began here.
    pub fn new(
        client: &Client,
        target: impl Into<Arc<Target>>,
        tunnels: CancellationToken,
    ) -> Result<Self, InvalidTarget> {
        let target = target.into();
        if target.upstreams.is_empty() {
            return Err(InvalidTarget::NoUpstream);
        }
        let endpoints = target
            .upstreams
            .iter()
            .map(|upstream| {
                client
                    .endpoint(upstream)
                    .map_err(|source| InvalidTarget::Tls { upstream: upstream.label(), source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let balance = Balance::of(client, &target, &endpoints);
        let client = client.clone();
        Ok(Self { shared: Arc::new(Shared { client, target, endpoints, balance, tunnels }) })
    }

    /// The leaf as a boxed service, with one allocation for a call instead of two.
    pub fn into_service(self) -> HttpService {
        HttpService::from_fn(move |request| Arc::clone(&self.shared).send(request, None))
    }

    /// The leaf for requests that only one of the upstreams may have, by its place in the list: it is asked however it
    /// is, and nobody in its stead.
    pub fn only(&self, index: usize) -> Option<HttpService> {
        let shared = Arc::clone(&self.shared);
        let exists = index < shared.endpoints.len();
        exists.then(|| HttpService::from_fn(move |request| Arc::clone(&shared).send(request, Some(index))))
    }

    /// The upstream that something new is to begin at which then stays there, beside those in `tried`: in turn, but for
    /// a policy that looks at how busy they are.
    pub fn in_turn(&self, tried: &[usize]) -> Option<usize> {
        let Shared { balance, target, .. } = &*self.shared;
        match balance {
            Some(balance) => balance.pick_in_turn(&target.balancing, tried),
            None => tried.is_empty().then_some(0),
        }
    }

    /// Sends a request to the upstream. The error is a [`Rejection`].
    pub async fn send(&self, request: Request) -> Result<Response, BoxError> {
        Arc::clone(&self.shared).send(request, None).await
    }
}

impl Service<Request> for Forward {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin(Arc::clone(&self.shared).send(request, None))
    }
}

impl Shared {
    // What the future starts with is used in place: a local of it would be a second copy.
    fn send(
        self: Arc<Self>,
        request: Request,
        only: Option<usize>,
    ) -> impl Future<Output = Result<Response, BoxError>> + Send {
        let mut exchange = Exchange::begin(self, request, only);
        async move {
            let outcome = match &mut exchange {
                Ok(exchange) => match exchange.run().await {
                    Ok((response, lease)) => relay(exchange, response, lease),
                    Err(error) => Err(error),
                },
                Err(error) => Err(std::mem::replace(error, ForwardError::Target)),
            };
            outcome.map_err(|error| Rejection::from(error).into())
        }
    }
}

/// The upstream's response as the client gets it.
fn relay(
    exchange: &mut Exchange,
    response: http::Response<Download>,
    mut lease: Lease,
) -> Result<Response, ForwardError> {
    let Exchange { shared, leaving, handshake, upload, in_flight, .. } = exchange;
    let (handshake, upload, context) = (handshake.take(), upload.take(), leaving.context());
    let in_flight = in_flight.take();
    let (mut parts, mut download) = response.into_parts();
    parts.version = Version::HTTP_11;
    let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    let problem = match &handshake {
        Some(handshake) if switched => handshake.check(&parts.headers),
        Some(handshake) => handshake.check_refusal(parts.status),
        None if switched => Err(BadUpgrade::Unasked),
        None => Ok(()),
    };
    problem.map_err(ForwardError::Upgrade)?;
    hop::clean_response(&mut parts.headers, &shared.target.protected)
        .map_err(|_| ForwardError::AmbiguousResponse)?;
    if let (true, Some(handshake)) = (switched, handshake) {
        let (upstream, early) = lease.into_stream().ok_or(ForwardError::Upgrade(BadUpgrade::Unasked))?;
        parts.status = handshake.answer(&mut parts.headers);
        let on_end = OnTunnelEnd::default();
        parts.extensions.insert(on_end.clone());
        let ticker = shared.client.ticker().clone();
        let registration =
            shared.client.tunnels().register(StreamKind::Tunnel, context, &shared.tunnels, &ticker);
        let client = handshake.client;
        tokio::spawn(Tunnel { client, upstream, early, registration, on_end, ticker, in_flight }.run());
        return Ok(http::Response::from_parts(parts, Body::empty()));
    }
    let whole = download.take_whole(&mut lease);
    if whole.is_some() || download.is_end_stream() {
        lease.finish(upload.as_deref());
        let body = whole.map_or_else(Body::empty, Body::from);
        return Ok(http::Response::from_parts(parts, body));
    }
    let stream = is_event_stream(&parts.headers).then(|| {
        let ticker = shared.client.ticker();
        let tunnels = shared.client.tunnels();
        Box::new(tunnels.register(StreamKind::Events, context, &shared.tunnels, ticker))
    });
    let idle = shared.target.timeouts.body_idle;
    let body = ResponseBody::new(download, lease, upload, idle, shared.client.ticker().deadline(), stream);
    Ok(http::Response::from_parts(parts, Body::new(body.counted(in_flight))))
}

/// Whether a response is a stream of server-sent events, which may go on for ever.
pub fn is_event_stream(headers: &header::HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
            && matches!(value.get(EVENTS.len()), None | Some(b';' | b' ' | b'\t'))
    })
}

/// Why a request was not answered by the upstream, or its answer not relayed to the end.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Checks found none of the upstreams well.
    #[error("no upstream is healthy")]
    NoHealthyUpstream,
    /// The upstream's name has no address.
    #[error("the name of upstream {upstream} was not found")]
    Resolve {
        /// Which upstream.
        upstream: SmolStr,
        /// What the resolver said.
        #[source]
        source: std::io::Error,
    },
    /// The upstream refused the connection or can't be reached.
    #[error("no connection to upstream {upstream}")]
    Unreachable {
        /// Which upstream.
        upstream: SmolStr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The TLS handshake failed, or the certificate is not good.
    #[error("no TLS with upstream {upstream}")]
    Tls {
        /// Which upstream.
        upstream: SmolStr,
        /// What TLS said.
        #[source]
        source: std::io::Error,
    },
    /// No connection in time.
    #[error("no connection to upstream {upstream} within {limit:?}")]
    ConnectTimeout {
        /// Which upstream.
        upstream: SmolStr,
        /// The limit.
        limit: Duration,
    },
    /// No response head in time.
    #[error("no answer from upstream {upstream} within {limit:?}")]
    HeadTimeout {
        /// Which upstream.
        upstream: SmolStr,
        /// The limit.
        limit: Duration,
    },
    /// The connection ended before an answer came.
    #[error("upstream {upstream} closed the connection before it answered")]
    Closed {
        /// Which upstream.
        upstream: SmolStr,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
    /// A fresh connection was closed before the request left.
    #[error("upstream {upstream} took a connection but no request")]
    Unsent {
        /// Which upstream.
        upstream: SmolStr,
    },
    /// What came is no HTTP.
    #[error("upstream {upstream} sent an invalid response")]
    BadResponse {
        /// Which upstream.
        upstream: SmolStr,
        /// What went wrong.
        #[source]
        source: BoxError,
    },
    /// The response's lengths disagree.
    #[error("the upstream's response has content lengths that disagree")]
    AmbiguousResponse,
    /// The upstream's answer to a handshake is no good.
    #[error("the upstream failed to switch protocols")]
    Upgrade(#[source] BadUpgrade),
    /// The client's body failed on the way.
    #[error("the request body ended in an error")]
    RequestBody {
        /// What the body said.
        #[source]
        source: BoxError,
    },
    /// The client stopped sending its body.
    #[error("the client sent nothing of its request body for {limit:?}")]
    RequestStalled {
        /// The limit.
        limit: Duration,
    },
    /// The request's lengths disagree.
    #[error("the request has content lengths that disagree")]
    ContentLength,
    /// The request's target can't be sent to the upstream.
    #[error("the request's target can't be forwarded")]
    Target,
    /// A CONNECT that is no WebSocket handshake.
    #[error("{0} is not supported")]
    Connect(String),
    /// In the middle of a response's body: the upstream stopped sending.
    #[error("the upstream sent nothing of its response body for {limit:?}")]
    ResponseStalled {
        /// The limit.
        limit: Duration,
    },
    /// In the middle of a response's body: it ended early.
    #[error("the upstream's response body ended early")]
    Truncated {
        /// What went wrong.
        #[source]
        source: BoxError,
    },
}

impl From<ForwardError> for Rejection {
    fn from(error: ForwardError) -> Self {
        use ForwardError as E;
        let (status, code, detail) = match error {
            E::RequestBody { source } => return request_body_rejection(source),
            E::NoHealthyUpstream => {
                (StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream", "No upstream is healthy.")
            }
            E::Resolve { .. } => {
                (StatusCode::BAD_GATEWAY, "upstream_dns", "The upstream's name was not found.")
            }
            E::Unreachable { .. } => {
                (StatusCode::BAD_GATEWAY, "upstream_connect", "The upstream can't be reached.")
            }
            E::Tls { .. } => (StatusCode::BAD_GATEWAY, "upstream_tls", "The upstream's TLS is not good."),
            E::ConnectTimeout { .. } => (
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_connect_timeout",
                "The upstream did not take the connection in time.",
            ),
            E::HeadTimeout { .. } | E::ResponseStalled { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "The upstream did not answer in time.")
            }
            E::Closed { .. } | E::Unsent { .. } | E::Truncated { .. } => {
                (StatusCode::BAD_GATEWAY, "upstream_closed", "The upstream closed the connection.")
            }
            E::BadResponse { .. } | E::AmbiguousResponse => {
                (StatusCode::BAD_GATEWAY, "upstream_response", "The upstream's response is not valid.")
            }
            E::Upgrade(_) => (
                StatusCode::BAD_GATEWAY,
                "upstream_upgrade",
                "The upstream did not switch protocols as it was asked to.",
            ),
            E::RequestStalled { .. } => (
                StatusCode::REQUEST_TIMEOUT,
                "request_body_timeout",
                "The request body did not arrive in time.",
            ),
            E::ContentLength => {
                (StatusCode::BAD_REQUEST, "content_length", "The request's content lengths disagree.")
            }
            E::Target => {
                (StatusCode::BAD_REQUEST, "request_target", "The request's target can't be forwarded.")
            }
            E::Connect(_) => {
                (StatusCode::NOT_IMPLEMENTED, "connect", "CONNECT is understood for WebSockets only.")
            }
        };
        Self::new(status, code, detail).with_source(error)
    }
}

/// A layer that limits bodies fails them with its own rejection, which is the answer then.
fn request_body_rejection(source: BoxError) -> Rejection {
    if let Some(error) = RequestBodyError::find(&*source) {
        return error.rejection().with_source(ForwardError::RequestBody { source });
    }
    match source.downcast::<Rejection>() {
        Ok(rejection) => *rejection,
        Err(source) => {
            Rejection::new(StatusCode::BAD_REQUEST, "request_body", "The request body is not valid.")
                .with_source(ForwardError::RequestBody { source })
        }
    }
}
