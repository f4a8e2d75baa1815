//! Runs hyper on a connection, over an HTTP service.
//!
//! [`Serve`] is a service of [`Accepted`] connections: its future ends with the connection. ALPN
//! chooses: `h2` is HTTP/2, everything else HTTP/1 over [`Strict`](crate::strict::Strict), which
//! refuses requests that could be read in two ways. For every request it inserts one
//! [`RequestContext`](crate::context::RequestContext) with the facts of the connection, and turns
//! the body into a [`Body`](crate::body::Body) that is bounded ([`Settings`]), whose errors are
//! [`RequestBodyError`](crate::body::RequestBodyError)s, and whose trailers carry nothing that a
//! layer would trust.
//!
//! Deadlines are those of a [`Ticker`], none a timer of its own. What is silent but alive (events,
//! tunnels) is never ended: only a client that keeps us waiting is, for a head, for a body that
//! somebody reads, or for taking what is ready to be sent.
//!
//! On *stop* HTTP/1 connections close after the response and HTTP/2 connections say GOAWAY and
//! finish their streams; on *kill* they are dropped. A tunnel leaves the connection when it starts:
//! whoever runs it listens to the same [`Drain`].
//!
//! It stands last in a connection stack, after PROXY protocol and TLS. It doesn't judge what is
//! well-formed: `CONNECT` without a protocol, `*` and absolute targets arrive as they are
//! (`normalize` decides). It doesn't answer errors of the service: those close the connection, so
//! the service should have `respond` in it. hyper writes the `Date` header, and answers
//! `Expect: 100-continue` when the body is first read. hyper's HTTP/1 server cannot pass on
//! informational responses, so a `103 Early Hints` from an upstream is lost.
//!
//! ```
//! use portcullis_layers::accept::Accepted;
//! use portcullis_layers::body::Body;
//! use portcullis_layers::context::RequestContext;
//! use portcullis_layers::deadline::Ticker;
//! use portcullis_layers::drain::Drain;
//! use portcullis_layers::serve::{ServeLayer, Settings};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tower::{Layer, Service, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let hello = service_fn(|mut request: portcullis_layers::Request| async move {
//!     let client = RequestContext::of(request.extensions_mut()).client_addr().expect("serve sets it");
//!     Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(format!("hello {}", client.ip()))))
//! });
//! let mut serve = ServeLayer::new(Settings::default(), Ticker::new(1), Drain::new()).layer(hello);
//!
//! let (mut client, server) = tokio::io::duplex(1024);
//! let addr = "192.0.2.1:4711".parse()?;
//! let connection = tokio::spawn(serve.call(Accepted::new(server, addr, addr)));
//! client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
//! let mut text = String::new();
//! client.read_to_string(&mut text).await?;
//! assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nhello 192.0.2.1"));
//! connection.await??;
//! # Ok(()) }
//! ```

mod call;
mod flight;
mod gather;
mod http1;
mod http2;
mod overheard;
mod preface;
mod received;
mod settings;
mod stall;
mod watch;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

pub use settings::{Counter, Counters, Http2, Settings};

use crate::accept::Accepted;
use crate::body::{BoxError, BoxFuture, Request};
use crate::deadline::Ticker;
use crate::drain::Drain;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    ticker: Ticker,
    drain: Drain,
    counters: Arc<Counters>,
    http1: hyper::server::conn::http1::Builder,
}

/// Makes a [`Serve`] of an HTTP service.
#[derive(Debug, Clone)]
pub struct ServeLayer {
    shared: Arc<Shared>,
}

impl ServeLayer {
    /// Serves with these settings, until the drain stops it. Make one for the process: its
    /// counters count for all stacks that it is in.
    pub fn new(settings: Settings, ticker: Ticker, drain: Drain) -> Self {
        let http1 = http1::builder(&settings);
        Self { shared: Arc::new(Shared { settings, ticker, drain, counters: Arc::default(), http1 }) }
    }

    /// What connections were ended for.
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }
}

impl<S> Layer<S> for ServeLayer {
    type Service = Serve<S>;

    fn layer(&self, service: S) -> Serve<S> {
        Serve { service, shared: self.shared.clone() }
    }
}

/// A service of connections over a service of requests.
#[derive(Debug, Clone)]
pub struct Serve<S> {
    service: S,
    shared: Arc<Shared>,
}

impl<I, S, B> Service<Accepted<I>> for Serve<S>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = ();
    type Error = BoxError;
    type Future = BoxFuture<Result<(), BoxError>>;

    /// Always ready: readiness of the service is asked for each request.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, accepted: Accepted<I>) -> Self::Future {
        let (service, shared) = (self.service.clone(), self.shared.clone());
        let (io, conn) = accepted.into_parts();
        match &conn.tls {
            Some(tls) if tls.alpn == Some("h2") => Box::pin(http2::serve(io, conn, service, shared)),
            None if shared.settings.h2c => Box::pin(async move {
                match preface::read(io, &shared).await? {
                    (io, true) => http2::serve(io, conn, service, shared).await,
                    (io, false) => http1::serve(io, conn, service, shared).await,
                }
            }),
            _ => Box::pin(http1::serve(io, conn, service, shared)),
        }
    }
}
