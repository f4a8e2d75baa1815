//! The Model Context Protocol in front of somebody else's server: who may call which tool, with what arguments, how
//! often; and a record of each call.
//!
//! [`McpLayer`] reads the JSON-RPC messages that a client posts, within bounds, and has each judged before the server
//! sees it: by [`Rules`], and by [`Limits`] of how often. Lists in answers are cut down to
//! what the caller may use. Whatever else passes is passed on as it came, answers event by event. A client that lacks a
//! scope is told which ones the call needs (403 `insufficient_scope`), so that it can get them.
//!
//! It authenticates nobody, checks neither `Host` nor `Origin`, keeps no sessions, and never sends anything twice. It
//! does not check that arguments fit a tool's schema.
//!
//! Where it stands: inside `auth` and `allowlist`, which find the principal; outside `headers` and `forward`.
//!
//! All that it refuses is a JSON-RPC error with the HTTP status that goes with it, for clients read both.
//!
//! ```
//! use std::sync::Arc;
//! use portcullis_layers::mcp::rules::{Effect, Rule, Rules, Selector};
//! use portcullis_layers::mcp::{McpLayer, Policy};
//! use portcullis_layers::{Body, BoxError, HttpService, Rejection, Request, Response};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # tokio_test::block_on(async {
//! let what = Selector { tools: vec!["delete_*".into()], ..Selector::default() };
//! let rules = Rules { rules: vec![Rule { what, effect: Effect::Deny, ..Rule::default() }], ..Rules::default() };
//! let layer = McpLayer::new(Policy { rules: Arc::new(rules), ..Policy::new("/mcp") });
//! let server = HttpService::from_fn(|_: Request| async { Ok(Response::new(Body::from("{}"))) });
//! let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_all"}}"#;
//! let request = http::Request::post("/mcp").header("content-type", "application/json").body(Body::from(body))?;
//! let refusal = ServiceBuilder::new().layer(layer).service(server).oneshot(request).await.expect_err("denied");
//! assert_eq!(Rejection::of(refusal).status(), 403);
//! # Ok::<_, BoxError>(())
//! # }).expect("served");
//! ```

mod answer;
pub mod arguments;
pub mod call;
mod decide;
pub mod error;
mod headers;
mod json;
pub mod lists;
pub mod message;
mod outcome;
pub mod pins;
pub mod rates;
mod resources;
pub mod rules;
pub mod sse;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use http_body::Body as _;
use smol_str::SmolStr;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use self::answer::Treatment;
use self::call::{Caller, Calls, Sink};
use self::decide::{Plan, decide};
use self::headers::Fields;
use self::pins::Pins;
use self::rates::{Buckets, Limits};
use self::rules::Rules;
use crate::auth;
use crate::body::{Body, BoxError, BoxFuture, Request, RequestBodyError, Response};
use crate::context::RequestContext;
use crate::glob;
use crate::readings;
use crate::rejection::Rejection;

/// The longest request and the longest answer where nobody says otherwise, in bytes.
pub const USUAL_BOUND: usize = 4 << 20;

/// What a host says about its MCP server.
#[derive(Clone)]
pub struct Policy {
    /// The path of the server; what is below it is its, too.
    pub endpoint: SmolStr,
    /// Whether requests for other paths go on unread, if no route is for them. A server may listen there, too.
    pub other_paths: bool,
    /// Who may call what.
    pub rules: Arc<Rules>,
    /// How often.
    pub limits: Limits,
    /// Which definitions of tools are approved, if somebody looks at them.
    pub pins: Option<Arc<Pins>>,
    /// The longest request, in bytes.
    pub max_request: usize,
    /// The longest event or JSON of an answer, in bytes.
    pub max_answer: usize,
    /// Whether lists show what the caller could use with more scopes.
    pub list_attainable: bool,
    /// What the host demands of tokens: the challenge, and which scopes can be had. `None`: it asks for no token.
    pub auth: Option<Arc<auth::Policy>>,
    /// What the limits count in.
    pub buckets: Arc<Buckets>,
    /// Where the records of calls go.
    pub sink: Arc<dyn Sink>,
    /// Whether the record of a request that is one call tells of the call, too, where there is a log of requests outside
    /// ([`access_log`](crate::access_log)): then only the others are records of their own.
    pub with_requests: bool,
}

impl Policy {
    /// A policy that lets everything through that is a message, and keeps no records.
    pub fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            other_paths: false,
            rules: Arc::default(),
            limits: Limits::default(),
            pins: None,
            max_request: USUAL_BOUND,
            max_answer: USUAL_BOUND,
            list_attainable: false,
            auth: None,
            buckets: Arc::default(),
            sink: Arc::new(|_: &call::Record<'_>| {}),
            with_requests: false,
        }
    }

    /// Whether a path is the server's, in any reading that it might have of it.
    fn is_for(&self, path: &str) -> bool {
        holds(path, |path| glob::starts_path(&self.endpoint, path))
    }

    /// Whether it is to servers that route without regard to case: no client needs it, and nobody else looks after it.
    fn is_almost_for(&self, path: &str) -> bool {
        let endpoint = self.endpoint.to_ascii_lowercase();
        holds(path, |path| glob::starts_path(&endpoint, &path.to_ascii_lowercase()))
    }
}

/// Whether it is so of any reading of a path.
fn holds(path: &str, at: impl Fn(&str) -> bool) -> bool {
    at(path) || readings::is_ambiguous(path) && readings::others(path).iter().any(|other| at(other))
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("endpoint", &self.endpoint)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// Adds [`Mcp`] to a stack.
#[derive(Debug, Clone)]
pub struct McpLayer {
    policy: Arc<Policy>,
}

impl McpLayer {
    /// Guards a server by this policy.
    pub fn new(policy: impl Into<Arc<Policy>>) -> Self {
        Self { policy: policy.into() }
    }
}

impl<S> Layer<S> for McpLayer {
    type Service = Mcp<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Mcp { inner, policy: Arc::clone(&self.policy) }
    }
}

/// Judges what goes to an MCP server. See the [module](self).
#[derive(Debug, Clone)]
pub struct Mcp<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> Service<Request> for Mcp<S>
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Into<BoxFuture<Result<Response, BoxError>>> + Send,
{
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let policy = Arc::clone(&self.policy);
        if !policy.is_for(request.uri().path()) {
            let context = RequestContext::get(request.extensions());
            let routed = context.is_some_and(|context| context.route.is_some());
            if (routed || policy.other_paths) && !policy.is_almost_for(request.uri().path()) {
                return self.inner.call(request).into();
            }
            let detail = "There is only an MCP server on this host, at another path.";
            let refusal = Rejection::new(StatusCode::NOT_FOUND, "not_mcp_endpoint", detail);
            return Box::pin(std::future::ready(Err(refusal.into())));
        }
        // The clone that is ready is the one to be called: the other one may not be yet.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        match *request.method() {
            Method::POST => Box::pin(post(policy, inner, request)),
            // OPTIONS: a preflight that nobody outside has answered.
            Method::GET | Method::DELETE | Method::OPTIONS => Box::pin(without_body(policy, inner, request)),
            _ => {
                let text = "An MCP server takes POST, GET and DELETE.";
                let body = error::document(None, error::INVALID_REQUEST, text);
                let refusal = error::rejection(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    text.to_owned(),
                    body,
                )
                .with_header(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
                Box::pin(std::future::ready(Err(refusal.into())))
            }
        }
    }
}

/// A stream of what the server has to say, or the end of a session.
async fn without_body<S>(
    policy: Arc<Policy>,
    mut inner: S,
    mut request: Request,
) -> Result<Response, BoxError>
where
    S: Service<Request> + Send,
    S::Future: Into<BoxFuture<Result<Response, BoxError>>>,
{
    // Some servers let a header say that a request is a POST in truth.
    if !request.body().is_end_stream() {
        let text = "Only a POST has a body here.";
        let body = error::document(None, error::INVALID_REQUEST, text);
        let refusal = error::rejection(StatusCode::BAD_REQUEST, "mcp_unexpected_body", text.to_owned(), body);
        return Err(refusal.into());
    }
    // Nobody could judge what goes through a tunnel. An offer of HTTP/2 may be passed over (RFC 9110, section 7.8).
    let upgrade = request.headers_mut().remove(UPGRADE);
    if upgrade.is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"h2c")) {
        let text = "There is no other protocol at an MCP server than HTTP.";
        let body = error::document(None, error::INVALID_REQUEST, text);
        let refusal = error::rejection(StatusCode::NOT_IMPLEMENTED, "mcp_upgrade", text.to_owned(), body);
        return Err(refusal.into());
    }
    let calls = calls(&policy, &Fields::of(request.headers()), RequestContext::get(request.extensions()));
    request.headers_mut().remove(ACCEPT_ENCODING);
    // Answers of calls may come on it, when a client goes on where it has lost its connection.
    let plan = Plan { lists: true, asks: request.method() == Method::GET, batch: false };
    answered(inner.call(request).into(), Treatment::of(policy, plan), calls).await
}

/// Messages of the client.
#[expect(
    clippy::manual_async_fn,
    reason = "what it begins with is used in place; arguments of an async function are there twice"
)]
fn post<S>(
    policy: Arc<Policy>,
    mut inner: S,
    mut request: Request,
) -> impl Future<Output = Result<Response, BoxError>> + Send
where
    S: Service<Request> + Send,
    S::Future: Into<BoxFuture<Result<Response, BoxError>>>,
{
    async move {
        let body = std::mem::replace(request.body_mut(), Body::empty());
        let fields = Fields::of(request.headers());
        let mut calls = calls(&policy, &fields, RequestContext::get(request.extensions()));
        let body = match read(&fields, body, policy.max_request).await {
            Ok(body) => body,
            Err(refusal) => {
                calls.refuse(refusal.status(), None, error::INVALID_REQUEST);
                return Err(refusal.into());
            }
        };
        let accepts_encodings = fields.accepts_encodings;
        let plan = decide(&policy, &request, &fields, &body, &mut calls)?;
        // Nobody could read what is compressed on its way back.
        if accepts_encodings {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        *request.body_mut() = Body::from(body);
        answered(inner.call(request).into(), Treatment::of(policy, plan), calls).await
    }
}

/// What the server answers, as the client gets it.
async fn answered(
    answer: BoxFuture<Result<Response, BoxError>>,
    treatment: Treatment,
    calls: Box<Calls>,
) -> Result<Response, BoxError> {
    let mut response = match answer.await {
        Ok(response) => response,
        Err(error) => return Err(failed(error, calls)),
    };
    match answer::pass(&mut response, treatment, calls)? {
        None => Ok(response),
        Some(later) => later.await,
    }
}

/// The calls of a request, of which nothing is known yet but who makes them.
fn calls(policy: &Policy, fields: &Fields<'_>, context: Option<&RequestContext>) -> Box<Calls> {
    Box::new(Calls::of(Caller {
        sink: Arc::clone(&policy.sink),
        facts: context.and_then(|context| context.facts.clone()).filter(|_| policy.with_requests),
        begun: Instant::now(),
        id: context.and_then(|context| context.id),
        client: context.and_then(RequestContext::client_addr),
        host: context.and_then(|context| context.host.clone()),
        principal: context.and_then(|context| context.principal.clone()),
        session: fields.session.first().map(|id| call::session_digest(id.as_bytes())),
        protocol: fields.version.text().map(Into::into),
        trace: fields.traceparent.text().and_then(call::traceparent),
    }))
}

/// The body of a message.
async fn read(fields: &Fields<'_>, body: Body, limit: usize) -> Result<Bytes, Rejection> {
    if let Err(text) = readable(fields) {
        let body = error::document(None, error::INVALID_REQUEST, text);
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(error::rejection(status, "mcp_media_type", text.to_owned(), body));
    }
    message::gather(body, limit).await.map_err(unread)
}

/// Whether the body is one that others read as we do: JSON, in UTF-8, not compressed.
fn readable(fields: &Fields<'_>) -> Result<(), &'static str> {
    const JSON: &str = "The body must be `application/json` in UTF-8.";
    if !fields.content_encoding.is_absent() {
        return Err("The body must not be compressed.");
    }
    let value = fields.content_type.only().ok_or(JSON)?;
    // As all clients have it.
    if value == "application/json" {
        return Ok(());
    }
    let mut parts = value.to_str().map_err(|_| JSON)?.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    if is_json && parts.all(headers::is_utf8) { Ok(()) } else { Err(JSON) }
}

/// What a body that can't be had means.
#[cold]
fn unread(error: BoxError) -> Rejection {
    match RequestBodyError::find(&*error).map(RequestBodyError::rejection) {
        Some(known) => in_protocol(known, None).with_source(error),
        None => Rejection::of(error),
    }
}

/// What it means that the server could not be asked.
#[cold]
fn failed(error: BoxError, mut calls: Box<Calls>) -> BoxError {
    let rejection = Rejection::of(error);
    calls.status = Some(rejection.status().as_u16());
    if rejection.body().is_some() {
        return rejection.into();
    }
    let id = match &calls.pending[..] {
        [only] => only.id.as_deref(),
        _ => None,
    };
    in_protocol(rejection, id).into()
}

/// A refusal in the form that clients of the protocol read.
fn in_protocol(rejection: Rejection, id: Option<&str>) -> Rejection {
    let code = if rejection.status().is_server_error() { error::INTERNAL } else { error::INVALID_REQUEST };
    let body = error::document(id, code, rejection.detail());
    let mut rejection = rejection.with_body(body);
    rejection.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    rejection
}

/// The path that was asked for, for what is demanded of tokens.
fn path(request: &Request) -> &str {
    let context = RequestContext::get(request.extensions());
    let asked = context.and_then(|context| context.asked.as_ref());
    asked.map_or_else(|| request.uri().path(), |asked| asked.path())
}

#[cfg(test)]
mod tests;
