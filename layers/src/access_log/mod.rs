//! One record per request, made of what every layer below has learned.
//!
//! [`AccessLogLayer`] gives each request an id and a place for [`Facts`], in the
//! [`RequestContext`], and watches the answer. When its body has ended or failed, when the client has
//! left, or when the tunnel that began with it has closed, it hands one [`Record`] to a [`Sink`].
//!
//! It does not read bodies, wait for a sink, choose what is logged, or turn errors into answers. It
//! never sees `Authorization` or cookies, and queries are redacted. Bytes of request bodies are what
//! `forward` counted.
//!
//! It must stand outermost, around `respond`: what it notes is then what the client got. Sinks of
//! this module: `()`, any function, two others at once ([`Tee`]), [`Queue`] with its [`Deliver`],
//! [`Lines`], and `RedisStreams` (feature `access-log-redis`).
//!
//! ```
//! use portcullis_layers::access_log::{AccessLogLayer, Record};
//! use portcullis_layers::{Body, Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let (sender, records) = std::sync::mpsc::channel();
//! let service = ServiceBuilder::new()
//!     .layer(AccessLogLayer::new(move |record: &Record<'_>| {
//!         let mut line = Vec::new();
//!         record.encode(&mut line);
//!         sender.send(String::from_utf8(line).unwrap()).unwrap();
//!     }))
//!     .service(service_fn(async |_: Request| Ok::<_, std::convert::Infallible>(Response::new(Body::from("hello")))));
//!
//! let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
//! assert!(response.headers().contains_key("x-correlation-id"));
//! let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
//! assert_eq!(body.to_bytes(), "hello");
//! assert!(records.recv().unwrap().contains(r#""status_code":200"#));
//! # });
//! ```

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderName, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::{Facts, OnTunnelEnd, RequestContext};

mod body;
mod capture;
mod entry;
mod id;
mod lines;
mod queue;
pub(crate) mod record;
#[cfg(feature = "access-log-redis")]
mod redis;
mod sink;

use self::capture::Captured;
use self::entry::{Entry, Outcome};

pub use self::body::LogBody;
pub use self::capture::redact;
pub use self::lines::Lines;
pub use self::queue::{Counts, Deliver, FLUSH_EVERY, Line, Queue, Undelivered};
pub use self::record::{Record, escape};
#[cfg(feature = "access-log-redis")]
pub use self::redis::RedisStreams;
pub use self::sink::{Sink, Tee};

/// The header in which the client learns the id of its request, unless another one is set.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// Adds [`AccessLog`].
#[derive(Debug, Clone)]
pub struct AccessLogLayer<K> {
    settings: Arc<Settings<K>>,
}

#[derive(Debug)]
struct Settings<K> {
    sink: K,
    header: Option<HeaderName>,
}

impl<K> AccessLogLayer<K> {
    /// Logs to a sink, and names the request in the response's [`CORRELATION_ID`] header.
    pub fn new(sink: K) -> Self {
        Self { settings: Arc::new(Settings { sink, header: Some(CORRELATION_ID) }) }
    }
}

impl<K: Clone> AccessLogLayer<K> {
    /// The response header that carries our id of the request; `None`: no header.
    #[must_use]
    pub fn response_header(self, header: Option<HeaderName>) -> Self {
        Self { settings: Arc::new(Settings { sink: self.settings.sink.clone(), header }) }
    }
}

impl<S, K> Layer<S> for AccessLogLayer<K> {
    type Service = AccessLog<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessLog { inner, settings: Arc::clone(&self.settings) }
    }
}

/// Notes each request that passes. See the [module](self).
pub struct AccessLog<S, K> {
    inner: S,
    settings: Arc<Settings<K>>,
}

impl<S: Clone, K> Clone for AccessLog<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), settings: Arc::clone(&self.settings) }
    }
}

impl<S, K> fmt::Debug for AccessLog<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("header", &self.settings.header).finish_non_exhaustive()
    }
}

impl<S, K, B, R> Service<Request<B>> for AccessLog<S, K>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body,
    K: Sink,
{
    type Response = Response<LogBody<R, K>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, K>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let begun = Instant::now();
        let captured = Captured::of(&request);
        let context = RequestContext::of(request.extensions_mut());
        let entry = Entry {
            settings: Arc::clone(&self.settings),
            facts: Arc::clone(context.facts.get_or_insert_with(Arc::<Facts>::default)),
            conn: context.conn.clone(),
            client: context.client_addr(),
            id: *context.id.get_or_insert_with(id::next),
            begun,
            method: request.method().clone(),
            version: request.version(),
            captured,
            outcome: Outcome::default(),
        };
        ResponseFuture { inner: self.inner.call(request), entry: Some(entry) }
    }
}

pin_project! {
    /// The future of [`AccessLog`]. Dropped before there is an answer, it says that the client left.
    pub struct ResponseFuture<F, K>
    where
        K: Sink,
    {
        #[pin]
        inner: F,
        entry: Option<Entry<K>>,
    }
}

impl<F, K, R, E> Future for ResponseFuture<F, K>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body,
    K: Sink,
{
    type Output = Result<Response<LogBody<R, K>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.inner.poll(cx));
        let mut entry = this.entry.take().expect("a future is not polled after it is ready");
        match outcome {
            Ok(response) => Poll::Ready(Ok(answered(response, entry))),
            Err(error) => {
                entry.failed();
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F, K: Sink> fmt::Debug for ResponseFuture<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

fn answered<R: http_body::Body, K: Sink>(
    response: Response<R>,
    mut entry: Entry<K>,
) -> Response<LogBody<R, K>> {
    let (mut head, body) = response.into_parts();
    entry.outcome.status = Some(head.status.as_u16());
    entry.outcome.first_byte = Some(entry.begun.elapsed());
    if let Some(name) = &entry.settings.header {
        head.headers.insert(name.clone(), entry.id.to_header());
    }
    let body = if let Some(tunnel) = head.extensions.get::<OnTunnelEnd>() {
        entry.outcome.tunnel = true;
        tunnel.set(move |end| entry.tunnel_ended(end));
        LogBody::pass(body)
    } else {
        LogBody::watch(body, entry, head.status, &head.headers)
    };
    Response::from_parts(head, body)
}

#[cfg(test)]
mod tests;
