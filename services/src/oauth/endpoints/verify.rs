//! Forward authentication: another proxy asks whether it may let a request pass (nginx `auth_request`, Traefik
//! `ForwardAuth`, Caddy `forward_auth`).
//!
//! The host that the request is for has a document here, which decides as it does for requests that we forward
//! ourselves: lists, scopes, excepted paths, routes with rules of their own. The answer is 200 with identity
//! headers, 401 or 403; anything else says that the question is not clear, and must not be taken for a yes.
//!
//! | parameter | means |
//! | --- | --- |
//! | `scope` | scopes that the request needs beside those of the host's rules |
//! | `rd=1` | a browser without a session on a host with `auth_mode: redirect` gets 302 to the login page instead of 401 |
//!
//! Anybody may ask, and state any host: what they learn is what their own token is worth there, which the host
//! itself would tell them as well.

mod hosts;
mod original;

use std::sync::Arc;

use axum::extract::Request;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};
use portcullis_layers::{BoxError, Facts, HostName, Principal, Rejection, RequestContext};
use serde::Serialize;

pub(crate) use self::hosts::Hosts;
use self::hosts::{Demands, Question};
pub use self::original::Original;
use crate::oauth::AuthorizationServer;
use crate::oauth::server::error::json;
use crate::oauth::server::params::Params;
use crate::oauth::server::scope::Scopes;

/// A refusal, for the log of the other proxy.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
    error_description: &'a str,
}

/// Any method: each proxy has its own. The body is not looked at.
pub(super) async fn verify(server: Arc<AuthorizationServer>, request: Request) -> Response<Bytes> {
    match judged(&server, request).await {
        Ok(yes) => {
            let mut response = Response::new(Bytes::new());
            *response.headers_mut() = yes.into_parts().0.headers;
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => refusal(&Rejection::of(error)),
    }
}

async fn judged(
    server: &AuthorizationServer,
    request: Request,
) -> Result<portcullis_layers::Response, BoxError> {
    let (mut parts, _body) = request.into_parts();
    let bad = |why: String| Rejection::new(StatusCode::BAD_REQUEST, "invalid_request", why);
    let context = RequestContext::of(&mut parts.extensions).clone();
    if context.scheme() != "https" {
        return Err(bad("https is required".to_owned()).into());
    }
    let params = Params::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let params = params.map_err(|error| bad(error.to_string()))?;
    let scopes = params.get("scope").map_err(|error| bad(error.to_string()))?;
    let scopes = scopes.map(Scopes::parse).transpose().map_err(|error| bad(error.to_string()))?;
    let redirect = params.get("rd").map_err(|error| bad(error.to_string()))?;
    let demands = Demands::new(scopes.as_ref(), redirect == Some("1"));
    let original = parts.extensions.get::<Original>();
    let original = original.ok_or_else(|| bad("no header tells of another request".to_owned()))?;
    let stated = original.stated().map_err(|error| bad(error.to_string()))?;
    let config = server.served().ok_or_else(|| {
        let detail = "The configuration is not known yet.";
        Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail)
    })?;
    let facts = context.facts.clone();
    let host = stated.host.clone();
    let question = Question { stated, demands, headers: parts.headers, context };
    let (outcome, principal) = server.forward_auth.judge(server, &config, question).await;
    if let Some(facts) = facts {
        note(&facts, host, &outcome, principal);
    }
    outcome
}

/// Leaves what was decided for the log of requests, which is where other proxies' users are looked for as well: an
/// event for each would push out what the log of events is for. Each fact is written once.
fn note(
    facts: &Facts,
    host: HostName,
    outcome: &Result<portcullis_layers::Response, BoxError>,
    principal: Option<Arc<Principal>>,
) {
    let _ = facts.about.set(host);
    if let Some(principal) = principal {
        let _ = facts.principal.set(principal);
    }
    let refusal = outcome.as_ref().err().and_then(|error| error.downcast_ref::<Rejection>());
    let Some(refusal) = refusal else { return };
    let _ = facts.code.set(refusal.code());
    if let Some(check) = refusal.check() {
        let _ = facts.check.set(check);
    }
    if let Some(cause) = std::error::Error::source(refusal) {
        let _ = facts.cause.set(cause.to_string());
    }
}

fn refusal(rejection: &Rejection) -> Response<Bytes> {
    if let Some(cause) = std::error::Error::source(rejection) {
        tracing::debug!(cause, code = rejection.code(), "forward authentication says no");
    }
    let body = Refusal { error: rejection.code(), error_description: rejection.detail() };
    let mut response = json(rejection.status(), &body);
    for (name, value) in rejection.headers() {
        response.headers_mut().append(name, value.clone());
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
