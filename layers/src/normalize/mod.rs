//! One reading of every request, fixed before anything compares a host or a path.
//!
//! Decides the one authority, brings the path into its normal form (and forwards what was compared,
//! or refuses), removes headers that only we may set, takes the client's address from trusted proxies,
//! and answers 421 when the connection's certificate is not good for the host. Behind it a request's
//! URI is in origin form, `Host` is there once and canonical, whatever the version of HTTP.
//!
//! It does not judge raw HTTP/1 framing (the `strict` module does, below hyper), does not look at query,
//! body or trailers, and knows no hosts or routes: `//` and `;` stay in a path as data, and the `route`
//! layer refuses where they would step over a route. A fragment never reaches it: `strict` refuses it.
//!
//! It must stand outside everything that reads a host, a path, an identity header or a client address.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::normalize::{NormalizeLayer, Settings};
//! use portcullis_layers::{BoxError, RequestContext};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let inner = service_fn(|mut request: Request<()>| async move {
//!     assert_eq!(request.uri(), "/b?q=%2e");
//!     assert!(!request.headers().contains_key("x-auth-user"));
//!     Ok::<_, BoxError>(RequestContext::of(request.extensions_mut()).host.clone())
//! });
//! let request = Request::get("/a/%2e%2e/b?q=%2e")
//!     .header("host", "Example.COM")
//!     .header("x-auth-user", "admin")
//!     .body(())?;
//! let host = NormalizeLayer::new(Settings::default()).layer(inner).oneshot(request).await?;
//! assert_eq!(host.unwrap().as_str(), "example.com");
//! # Ok(())
//! # }
//! ```

mod authority;
mod client;
mod connection;
mod firewall;
pub mod path;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use tower_layer::Layer;
use tower_service::Service;

pub use self::authority::{Authority, AuthorityError};
pub use self::client::{Source, TrustedProxies};
pub use self::firewall::{Dropped, Firewall};
pub use self::path::{PathError, PathRules};
use crate::body::BoxError;
use crate::context::{Conn, RequestContext};
use crate::future::Gate;
use crate::header_prefix::HeaderPrefix;
use crate::names::HostName;
use crate::rejection::Rejection;

/// What [`NormalizeLayer`] can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Headers that start so are ours alone. `X-Auth-` by default.
    pub identity_prefixes: Vec<HeaderPrefix>,
    /// More headers to remove, beside the fixed list of [`Firewall`].
    pub removed: Vec<HeaderName>,
    /// Whose word about the client we take. Nobody's by default.
    pub trusted_proxies: TrustedProxies,
    /// What a path may contain.
    pub path: PathRules,
    /// The longest path with its query. 16 KiB by default; RFC 9110, section 4.1 asks for 8000 octets at least.
    pub max_uri: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            identity_prefixes: vec![HeaderPrefix::default()],
            removed: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            path: PathRules::default(),
            max_uri: 16 * 1024,
        }
    }
}

/// Applies [`Normalize`].
#[derive(Debug, Clone)]
pub struct NormalizeLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    firewall: Firewall,
    trusted_proxies: TrustedProxies,
    path: PathRules,
    max_uri: usize,
}

impl NormalizeLayer {
    /// The layer with these settings.
    pub fn new(settings: Settings) -> Self {
        let Settings { identity_prefixes, removed, trusted_proxies, path, max_uri } = settings;
        let firewall = Firewall::new(identity_prefixes, removed);
        Self { shared: Arc::new(Shared { firewall, trusted_proxies, path, max_uri }) }
    }

    /// What removes headers: it has the counters, and is good for trailers, too.
    pub fn firewall(&self) -> &Firewall {
        &self.shared.firewall
    }
}

impl<S> Layer<S> for NormalizeLayer {
    type Service = Normalize<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Normalize { inner, shared: self.shared.clone() }
    }
}

/// Hands on requests that can be read in one way only.
#[derive(Debug, Clone)]
pub struct Normalize<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B> Service<http::Request<B>> for Normalize<S>
where
    S: Service<http::Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match self.shared.settle(&mut request) {
            Ok(()) => Gate::pass(self.inner.call(request)),
            Err(error) => Gate::refuse(Rejection::from(error)),
        }
    }
}

impl Shared {
    fn settle<B>(&self, request: &mut http::Request<B>) -> Result<(), NormalizeError> {
        check_target(request)?;
        let authority = Authority::of(request.uri(), request.headers())?;
        let host = authority.host().clone();
        let context = RequestContext::of(request.extensions_mut());
        // First of all the host, so that the log has it when the rest is refused.
        if let Some(facts) = &context.facts {
            let _ = facts.host.set(host.clone());
        }
        if let Some(conn) = &context.conn {
            check_certificate(conn, &host)?;
        }
        let hop = context.conn.as_ref().map(|conn| conn.client.ip());
        context.host = Some(host);

        if let Some(uri) = self.origin_form(request.uri())? {
            *request.uri_mut() = uri;
        }
        if let Some(hop) = hop.filter(|hop| self.trusted_proxies.contains(*hop)) {
            let believed = self.trusted_proxies.believe(hop, request.headers());
            let context = RequestContext::of(request.extensions_mut());
            context.scheme = believed.scheme;
            context.client = believed.client;
            if let (Some(client), Some(facts)) = (believed.client, &context.facts) {
                let _ = facts.client.set(client);
            }
        }
        let headers = request.headers_mut();
        connection::settle(headers);
        self.firewall.scrub(headers);
        set_host(headers, &authority)
    }

    /// The URI in origin form with a normal path, or `None` if it is that already.
    fn origin_form(&self, uri: &Uri) -> Result<Option<Uri>, NormalizeError> {
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if target.len() > self.max_uri {
            return Err(NormalizeError::TooLong(self.max_uri));
        }
        let path = path::normalize(uri.path(), self.path)?;
        let same = matches!(path, std::borrow::Cow::Borrowed(_)) && target.starts_with('/');
        if same && uri.authority().is_none() {
            return Ok(None);
        }
        let target = match uri.path_and_query() {
            Some(target) if same => target.clone(),
            _ => {
                let text = match uri.query() {
                    Some(query) => format!("{path}?{query}"),
                    None => path.into_owned(),
                };
                PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| NormalizeError::Target)?
            }
        };
        Ok(Some(Uri::from(target)))
    }
}

/// Refuses forms of the request target that mean nothing here (RFC 9112, section 3.2).
fn check_target<B>(request: &http::Request<B>) -> Result<(), NormalizeError> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        // With a path it is an extended CONNECT (RFC 8441), which h2 lets through only with `:protocol`.
        let extended = request.version() == Version::HTTP_2 && uri.scheme().is_some();
        return if extended { Ok(()) } else { Err(NormalizeError::Connect) };
    }
    match uri.path_and_query() {
        None => Err(NormalizeError::Target),
        Some(target) if target.as_str() == "*" && request.method() == Method::OPTIONS => {
            Err(NormalizeError::ServerOptions)
        }
        Some(target) => match target.as_str().as_bytes() {
            [b'/', ..] => Ok(()),
            // `http://host?query`: an empty path is `/` (RFC 9110, section 4.2.3).
            [b'?', ..] if uri.authority().is_some() => Ok(()),
            _ => Err(NormalizeError::Target),
        },
    }
}

/// Whether the host may be asked for on this connection (RFC 9110, section 7.4).
fn check_certificate(conn: &Conn, host: &HostName) -> Result<(), NormalizeError> {
    match conn.tls.as_ref().and_then(|tls| tls.sni.as_ref().map(|sni| (sni, &tls.names))) {
        Some((sni, names)) if sni != host && !names.cover(host) => {
            Err(NormalizeError::Misdirected { host: host.clone(), sni: sni.clone() })
        }
        _ => Ok(()),
    }
}

/// Leaves exactly one `Host`, in canonical form, for whoever forwards it.
fn set_host(headers: &mut HeaderMap, authority: &Authority) -> Result<(), NormalizeError> {
    if !authority.is_canonical() || !headers.contains_key(HOST) {
        let value = HeaderValue::try_from(authority.to_string()).map_err(|_| NormalizeError::Target)?;
        headers.insert(HOST, value);
    }
    Ok(())
}

/// Why a request was not handed on.
#[derive(Debug, thiserror::Error)]
pub enum NormalizeError {
    /// No authority, several, or an invalid one.
    #[error("no single valid host")]
    Authority(#[from] AuthorityError),
    /// The path can be read in more than one way, or in none.
    #[error("no single valid path")]
    Path(#[from] PathError),
    /// A request target in a form that has no meaning here.
    #[error("invalid request target")]
    Target,
    /// Path and query are longer than the limit.
    #[error("request target longer than {0} bytes")]
    TooLong(usize),
    /// CONNECT asks a forward proxy for a tunnel; this is none.
    #[error("CONNECT without a protocol")]
    Connect,
    /// `OPTIONS *`, which asks about the server as a whole.
    #[error("OPTIONS for the whole server")]
    ServerOptions,
    /// The connection's certificate is not good for the host.
    #[error("host {host} on a connection made for {sni}")]
    Misdirected {
        /// The request's host.
        host: HostName,
        /// The name in the TLS handshake.
        sni: HostName,
    },
}

impl From<NormalizeError> for Rejection {
    fn from(error: NormalizeError) -> Self {
        let (status, code, detail) = match &error {
            NormalizeError::Authority(reason) => (
                StatusCode::BAD_REQUEST,
                "invalid_host",
                format!("The request needs exactly one valid host: {reason}."),
            ),
            NormalizeError::Path(reason) => (
                StatusCode::BAD_REQUEST,
                "invalid_path",
                format!("The path of the request is ambiguous or invalid: {reason}."),
            ),
            NormalizeError::Target => (
                StatusCode::BAD_REQUEST,
                "invalid_target",
                "The request target must be a path or a URL.".to_owned(),
            ),
            NormalizeError::TooLong(limit) => {
                (StatusCode::URI_TOO_LONG, "uri_too_long", format!("The URL is longer than {limit} bytes."))
            }
            NormalizeError::Connect => (
                StatusCode::METHOD_NOT_ALLOWED,
                "connect_refused",
                "This server is not a forward proxy.".to_owned(),
            ),
            // A no-op that lets a client test the server (RFC 9110, section 9.3.7).
            NormalizeError::ServerOptions => (StatusCode::NO_CONTENT, "server_options", String::new()),
            NormalizeError::Misdirected { host, .. } => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                format!("This connection was made for another host than {host}; open a new one."),
            ),
        };
        let rejection = Self::new(status, code, detail);
        match error {
            // 405 must say what is allowed (RFC 9110, section 15.5.6).
            NormalizeError::Connect => rejection
                .with_header(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
            NormalizeError::Misdirected { .. } => rejection.with_source(error),
            _ => rejection,
        }
    }
}

#[cfg(test)]
mod tests;
