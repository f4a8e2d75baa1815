//! The API for this machine: over the admin socket, or, where it is switched on, from a loopback address.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use http::header::{CONTENT_TYPE, FORWARDED, HOST, ORIGIN};
use http::{HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use portcullis_layers::drain::Drain;
use portcullis_layers::{BoxError, Request, RequestContext};
use portcullis_services::control::Caller;
use tokio::net::{UnixListener, UnixStream};
use tower::{Layer, Service};
use tracing::{debug, warn};

use crate::builtin::Streams;
use crate::listen::BREATH;

/// Headers by which a proxy on this machine shows itself.
const PROXY_HEADERS: [HeaderName; 5] = [
    FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("PORTCULLIS_DATA: another portcullis runs on {}: stop it, or use another folder", .0.display())]
    Taken(PathBuf),
    /// The system refuses.
    #[error("PORTCULLIS_DATA: can't make the admin socket {}", path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the admin socket, for its owner only. What a dead process left is replaced.
///
/// # Errors
///
/// When another process answers on it, or the system refuses.
pub fn bind(path: &Path) -> Result<StdListener, SocketError> {
    let fail = |source| SocketError::System { path: path.to_owned(), source };
    if StdStream::connect(path).is_ok() {
        return Err(SocketError::Taken(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    // The folder has mode 0700, so that nobody gets in between these two steps.
    let listener = StdListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Serves the API on the admin socket: whoever could open it is admin.
pub(crate) async fn serve(listener: UnixListener, router: Router, streams: Streams, drain: Drain) {
    // Whoever follows a log must not hold up the end.
    let listed = axum::middleware::from_fn(move |request, next| streams.clone().list(request, next));
    let router = router.layer(listed).layer(axum::Extension(Caller::Local));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.stopping().cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                drain.spawn(connection(stream, router.clone(), drain.clone()));
            }
            Err(error) => {
                warn!(%error, "can't accept on the admin socket");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, router: Router, drain: Drain) {
    let service = TowerToHyperService::new(router);
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = drain.stopping().cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => outcome,
                () = drain.killed().cancelled() => return,
            }
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "a connection on the admin socket broke");
    }
}

/// Marks requests that come from this machine and through nobody, where `PORTCULLIS_LOCAL_ADMIN=loopback`.
#[derive(Debug, Clone)]
pub struct LocalAdminLayer {
    rule: Option<Arc<[IpNet]>>,
}

impl LocalAdminLayer {
    /// Nobody is marked.
    pub const fn off() -> Self {
        Self { rule: None }
    }

    /// Marks them, but nobody of these networks: whoever sends PROXY protocol speaks for others, even where a header
    /// names no client (`UNKNOWN`, `LOCAL`).
    pub fn loopback(balancers: impl IntoIterator<Item = IpNet>) -> Self {
        Self { rule: Some(balancers.into_iter().collect()) }
    }
}

impl<S> Layer<S> for LocalAdminLayer {
    type Service = LocalAdmin<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LocalAdmin { inner, rule: self.rule.clone() }
    }
}

/// See [`LocalAdminLayer`].
#[derive(Debug, Clone)]
pub struct LocalAdmin<S> {
    inner: S,
    rule: Option<Arc<[IpNet]>>,
}

impl<S: Service<Request>> Service<Request> for LocalAdmin<S>
where
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> S::Future {
        if self.rule.as_ref().is_some_and(|balancers| is_local(&mut request, balancers)) {
            request.extensions_mut().insert(Caller::Local);
        }
        self.inner.call(request)
    }
}

/// A browser's page from elsewhere, a proxy on this machine, or a client behind PROXY protocol is not local.
fn is_local(request: &mut Request, balancers: &[IpNet]) -> bool {
    let loopback = RequestContext::of(request.extensions_mut()).conn.as_ref().is_some_and(|conn| {
        let peer = conn.peer.ip().to_canonical();
        let is_balancer = balancers.iter().any(|network| network.contains(&peer));
        peer.is_loopback() && !is_balancer && conn.client.0 == conn.peer
    });
    let headers = request.headers();
    let safe = request.method().is_safe()
        || headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    loopback
        && safe
        && !PROXY_HEADERS.iter().any(|name| headers.contains_key(name))
        && authority(request).is_some_and(|host| is_loopback_host(&host))
        && is_own_origin(headers)
}

fn authority(request: &Request) -> Option<String> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str)).map(str::to_ascii_lowercase)
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost"
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// No `Origin` at all, or that of the very host that is asked.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, authority)| host == Some(authority))
}
