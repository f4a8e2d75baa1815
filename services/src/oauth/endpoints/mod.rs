//! The endpoints of the authorization server: each family in a file, joined to one router here.
//!
//! | file | endpoints |
//! | --- | --- |
//! | `published.rs` | metadata (RFC 8414, OpenID Connect Discovery), `/jwks` |
//! | `authorize.rs`, `consent.rs`, `upstream.rs`, `upstream_token.rs` | `/authorize`, `/consent`, `/callback`: a client asks, the user agrees and signs in |
//! | `wanted.rs`, `lookup.rs`, `session.rs` | what is asked for, by which client, in whose browser |
//! | `code.rs` | what an authorization ends with: a code, or a question |
//! | `token.rs`, `answer.rs` | `/token`, by grant type, and its answer |
//! | `redemption.rs`, `refresh.rs`, `client_credentials.rs` | `/token`: for a code, a refresh token, for the client itself |
//! | `exchange.rs`, `assertion_grant.rs` | `/token`: a token for a token, or for another issuer's assertion |
//! | `device.rs` | `/device/code`, `/device`: a device asks, and its user agrees in a browser |
//! | `checks.rs` | the events of checks that fail |
//! | `membership.rs` | what somebody is to a host |
//! | `userinfo.rs` | `/userinfo` |
//! | `logout.rs` | `/logout` |
//! | `host_session.rs` | `/login`, and the sessions of browsers on protected hosts |
//! | `register.rs` | `/register`: clients register themselves (RFC 7591, RFC 7592) |
//! | `introspect.rs`, `revoke.rs` | `/introspect`, `/revoke`: what a token is worth, and its end |
//! | `verify.rs` | `/verify`: other proxies ask whether a request may pass |
//!
//! They are called behind `normalize`, with a [`RequestContext`] that says who the client is, and an
//! [`OAuthHost`] that says where it came in: paths are those behind the issuer. Requests and answers are pure below [`server`](super::server); what is kept is behind
//! [`AuthorizationServer`].

mod answer;
mod assertion_grant;
mod authorize;
mod checks;
mod client_credentials;
mod client_request;
mod code;
mod consent;
mod device;
mod exchange;
mod host_session;
mod introspect;
mod logout;
mod lookup;
mod membership;
mod published;
mod redemption;
mod refresh;
mod register;
mod revoke;
mod session;
mod token;
mod upstream;
mod upstream_token;
mod userinfo;
mod verify;
mod wanted;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use http::header::{ALLOW, HeaderMap, SET_COOKIE};
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use portcullis_layers::{HostName, RequestContext};
use smol_str::SmolStr;

pub(crate) use self::checks::is_check;
pub(crate) use self::verify::Hosts;
pub use self::verify::Original;
use super::authorization_server::{AuthorizationServer, Event};
use super::host::OAuthHost;
use super::login::LoginError;
use super::server::error::{ErrorCode, OAuthError};
use super::server::metadata::path;
use super::server::pages::ErrorPage;
use super::server::params::{MAX_BYTES, Params};
use super::server::redirect::RedirectTarget;
use crate::store;

/// The router of an authorization server. It stands in front of the routes of the issuer's host, and of those
/// that act for it.
pub fn router(server: &Arc<AuthorizationServer>) -> Router {
    let mut router = Router::new();
    for (path, methods) in [
        (path::JWKS, serve(server, published::jwks)),
        (path::AUTHORIZE, serve(server, authorize::authorize)),
        (path::CONSENT, serve(server, consent::consent)),
        (path::CALLBACK, serve(server, upstream::callback)),
        (path::TOKEN, serve(server, token::token)),
        (path::DEVICE_CODE, serve(server, device::code)),
        (path::DEVICE, serve(server, device::page)),
        (path::DEVICE_TOKEN, serve(server, token::device_token)),
        (path::USERINFO, serve(server, userinfo::userinfo)),
        (path::LOGOUT, serve(server, logout::logout)),
        (path::LOGIN, serve(server, host_session::login)),
        (path::HOST_SESSION, serve(server, host_session::begin)),
        (path::HOST_LOGOUT, serve(server, host_session::end)),
        (path::REGISTER, serve(server, register::register)),
        (path::INTROSPECT, serve(server, introspect::introspect)),
        (path::REVOKE, serve(server, revoke::revoke)),
        (path::VERIFY, forward_auth(server)),
    ] {
        router = router.route(path, methods);
    }
    let registration = format!("{}{{id}}", path::REGISTRATIONS);
    router
        .route(&registration, serve(server, register::manage))
        .fallback(serve(server, published::well_known))
}

/// A handler: it finds what it needs in an [`Asked`].
fn serve<F>(
    server: &Arc<AuthorizationServer>,
    handler: impl Fn(Asked) -> F + Clone + Send + Sync + 'static,
) -> MethodRouter
where
    F: Future<Output = http::Response<Bytes>> + Send + 'static,
{
    let server = Arc::clone(server);
    any(move |request: Request| {
        let (server, handler) = (Arc::clone(&server), handler.clone());
        async move {
            let asked = Asked::read(server, request).await;
            // OAuth 2.1, section 1.5: what goes over the wire here is worth stealing.
            if !asked.secure {
                let error = OAuthError::new(ErrorCode::InvalidRequest, "https is required");
                return error.json().map(Body::from);
            }
            handler(asked).await.map(Body::from)
        }
    })
}

/// Other proxies ask with the whole head of a request, and perhaps with a body that never comes.
fn forward_auth(server: &Arc<AuthorizationServer>) -> MethodRouter {
    let server = Arc::clone(server);
    any(move |request: Request| {
        let server = Arc::clone(&server);
        async move { verify::verify(server, request).await.map(Body::from) }
    })
}

/// A request to one of the endpoints.
struct Asked {
    server: Arc<AuthorizationServer>,
    now: Timestamp,
    method: Method,
    /// The path and the query behind it, without `?`.
    path: String,
    query: String,
    headers: HeaderMap,
    /// The host that was asked.
    host: Option<OAuthHost>,
    /// Whether it came over HTTPS.
    secure: bool,
    /// Who asks.
    client: Option<IpAddr>,
    request_id: Option<SmolStr>,
    /// The body; none when it is too large or broke off.
    body: Option<Bytes>,
}

impl Asked {
    async fn read(server: Arc<AuthorizationServer>, request: Request) -> Self {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BYTES).await.ok();
        let context = RequestContext::get(&parts.extensions);
        Self {
            now: server.now(),
            server,
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            host: parts.extensions.get::<OAuthHost>().cloned(),
            secure: context.is_some_and(|context| context.scheme() == "https"),
            client: context.and_then(RequestContext::client_addr).map(|client| client.ip()),
            request_id: context.and_then(|context| context.id.as_ref()).map(|id| id.to_string().into()),
            headers: parts.headers,
            body,
        }
    }

    /// Whether this asks for a page or a redirect, or for the head of one, of which the router keeps the body back
    /// (RFC 9110, section 9.1).
    fn is_get(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Whether the issuer's own host was asked, rather than one that acts for it.
    fn is_at_issuer(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.is_issuer)
    }

    /// The host that acts for the issuer, where it was asked.
    fn acting_host(&self) -> Option<&HostName> {
        self.host.as_ref().filter(|host| !host.is_issuer).map(|host| &host.name)
    }

    /// The path of an endpoint on the issuer's host.
    fn local(&self, path: &str) -> String {
        format!("{}{path}", self.server.issuer.path())
    }

    /// The parameters of the query.
    fn query(&self) -> Result<Params, OAuthError> {
        Ok(Params::parse(self.query.as_bytes())?)
    }

    /// The whole body.
    fn body(&self) -> Result<&Bytes, OAuthError> {
        let why = "the body is larger than 64 KiB, or broke off";
        self.body.as_ref().ok_or_else(|| OAuthError::new(ErrorCode::InvalidRequest, why))
    }

    /// The parameters of a form in the body (RFC 6749, section 3.2).
    fn form(&self) -> Result<Params, OAuthError> {
        if !Params::is_form(&self.headers) {
            let why = "the body must be application/x-www-form-urlencoded";
            return Err(OAuthError::new(ErrorCode::InvalidRequest, why));
        }
        Ok(Params::parse(self.body()?)?)
    }

    /// An event of this request.
    fn event<'a>(&'a self, kind: &'static str, error: Option<&'a OAuthError>) -> Event<'a> {
        Event {
            kind,
            error: error.map(|error| error.code().as_str()),
            detail: error.map(OAuthError::description),
            client_ip: self.client,
            host: self.host.as_ref().map(|host| host.name.as_str()),
            request_id: self.request_id.as_deref(),
            ..Event::default()
        }
    }

    /// A page about an error that no client can be told.
    fn error_page(&self, error: &OAuthError) -> http::Response<Bytes> {
        let sign_out = self.server.issuer.endpoint(path::LOGOUT);
        let request_id = self.request_id.as_deref();
        let page = ErrorPage { error, request_id, sign_out: Some(&sign_out), back: None };
        page.response(&self.server.pages)
    }

    /// A page about an error of a client that anybody may have made: a link tells the client, and no redirect that
    /// would make this host the way to any other (RFC 9700, section 4.11.2).
    fn error_link(&self, error: &OAuthError, target: &RedirectTarget) -> http::Response<Bytes> {
        let back = target.error_location(error);
        let request_id = self.request_id.as_deref();
        let page = ErrorPage { error, request_id, sign_out: None, back: Some(&back) };
        page.response(&self.server.pages)
    }

    /// The answer to a method that is none here.
    fn method_not_allowed(allowed: &'static str) -> http::Response<Bytes> {
        let mut response = http::Response::new(Bytes::new());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        response
    }
}

/// The store is away: what a client can do is to try again.
fn unavailable(error: &store::Error) -> OAuthError {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the authorization server can't reach its store"
    );
    OAuthError::new(ErrorCode::TemporarilyUnavailable, "try again in a while")
}

/// Something is wrong with us.
fn internal(error: &(dyn std::error::Error + 'static)) -> OAuthError {
    tracing::error!(error, "the authorization server failed");
    OAuthError::new(ErrorCode::ServerError, "something went wrong here")
}

impl From<LoginError> for OAuthError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Unknown => Self::new(ErrorCode::ExpiredToken, error.to_string()),
            LoginError::Store(error) => unavailable(&error),
            LoginError::Vault(error) => internal(&error),
        }
    }
}

/// Adds cookies to an answer.
fn with_cookies(
    mut response: http::Response<Bytes>,
    cookies: impl IntoIterator<Item = HeaderValue>,
) -> http::Response<Bytes> {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
