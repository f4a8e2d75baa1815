//! What the upstream of a host is: an MCP server, a protected resource (RFC 9728), or something else.
//!
//! MCP servers are told by what they answer to a GET for an event stream at their endpoint, which changes nothing: a
//! stream, or an error of JSON-RPC. Who refuses the GET is sent a `ping`, the one request of MCP that needs no session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::response::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use jiff::Timestamp;
use portcullis_layers::forward::{Client, Forward, Target, Timeouts};
use portcullis_layers::resource_metadata::Published;
use portcullis_layers::{Body, BoxError};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Probes;
use super::call::{Answer, call, reason};
use super::kept::Kept;
use crate::config::access::Site;
use crate::config::resolve::{Destination, of_proxy};
use crate::config::{HostPattern, Proxy};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a finding counts.
const AGE: Duration = Duration::from_secs(60);

/// How many upstreams are looked at at once.
const AT_ONCE: usize = 8;

/// Of how many hosts findings are kept.
const HOSTS: usize = 1024;

/// Where MCP servers are, unless the host says.
const USUAL: &str = "/mcp";

const EVENTS: &str = "text/event-stream";

/// What was seen, and when.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    /// None when the upstream could not be looked at.
    pub(crate) seen: Option<Seen>,
    /// When it was, or was tried.
    pub(crate) at: Option<Timestamp>,
    /// The same for people.
    pub(crate) detail: String,
}

/// What an upstream shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It speaks MCP, or asks for tokens as a protected resource does.
    pub(crate) itself: bool,
    /// It publishes metadata of its own (RFC 9728).
    pub(crate) metadata: bool,
}

impl Finding {
    /// Nobody was asked; why.
    pub(crate) fn none(detail: &str) -> Self {
        Self { seen: None, at: None, detail: detail.to_owned() }
    }
}

/// What a finding is about: when one of them changes, it is another.
type Subject = (Arc<Target>, String);

#[derive(Debug)]
pub(super) struct UpstreamProbes {
    kept: Mutex<HashMap<HostPattern, Arc<Kept<Subject, Finding>>>>,
    turns: Semaphore,
}

impl Default for UpstreamProbes {
    fn default() -> Self {
        Self { kept: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl UpstreamProbes {
    fn of(&self, host: &HostPattern) -> Arc<Kept<Subject, Finding>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= HOSTS && !kept.contains_key(host) {
            // Those that somebody waits for stay.
            kept.retain(|_, one| Arc::strong_count(one) > 1);
        }
        Arc::clone(kept.entry(host.clone()).or_default())
    }
}

impl Probes {
    /// Looks at the upstream of a host, and at nothing else.
    pub(crate) async fn upstream(&self, site: &Site, proxy: &Proxy) -> Finding {
        if !proxy.enabled {
            return Finding::none("it is switched off");
        }
        let timeouts = Timeouts { connect: LIMIT, head: LIMIT, body_idle: Some(LIMIT) };
        let target = match of_proxy(proxy, timeouts) {
            Destination::Upstream(target) => target,
            Destination::Builtin(_) => return Finding::none("its target is built in"),
            Destination::Unavailable(why) => return Finding::none(&why),
        };
        let Some(host) = proxy.proxy_hostname.host() else {
            return Finding::none("a wildcard has no name to ask its upstream for");
        };
        let endpoint = proxy.resource_endpoint.as_ref().map_or(USUAL, |path| path.as_str()).to_owned();
        // As clients have it: servers that fear DNS rebinding compare it.
        let Ok(host) = HeaderValue::try_from(format!("{host}{}", site.port_suffix)) else {
            return Finding::none("its name can't be sent");
        };
        let upstream = Asked { client: &self.client, target: &target, host: &host, endpoint: &endpoint };
        let look = async {
            // Never closed. Waiting for a turn is not the upstream's fault.
            let _turn = self.upstreams.turns.acquire().await;
            let asked = tokio::time::timeout(LIMIT, upstream.look());
            let (seen, detail) = match asked.await {
                Ok(Ok((seen, detail))) => (Some(seen), detail),
                Ok(Err(error)) => (None, format!("the upstream can't be reached: {}", reason(&error))),
                Err(_) => (None, format!("the upstream does not answer within {LIMIT:?}")),
            };
            Finding { seen, at: Some(Timestamp::now()), detail }
        };
        let subject = (Arc::clone(&target), endpoint.clone());
        self.upstreams.of(&proxy.proxy_hostname).get(subject, AGE, look).await
    }
}

/// An upstream that is looked at.
struct Asked<'a> {
    client: &'a Client,
    target: &'a Arc<Target>,
    host: &'a HeaderValue,
    endpoint: &'a str,
}

impl Asked<'_> {
    async fn look(&self) -> Result<(Seen, String), BoxError> {
        let endpoint = self.endpoint;
        let (itself, how) = self.itself().await?;
        let forward = Forward::new(self.client, Arc::clone(self.target), CancellationToken::new())?;
        let metadata =
            Published::new(forward.into_service(), self.host.clone(), endpoint).ask().await.is_some();
        let has = if metadata { "has metadata of its own (RFC 9728)" } else { "has no metadata of its own" };
        Ok((Seen { itself, metadata }, format!("{endpoint} {how}; the upstream {has}")))
    }

    /// Whether it shows what it is at its endpoint, and by what.
    async fn itself(&self) -> Result<(bool, String), BoxError> {
        let first = self.send(self.request(Method::GET, Body::empty())).await?;
        if let Some(what) = speaks(&first) {
            return Ok((true, format!("answers a GET with {what}")));
        }
        let status = first.parts.status;
        if !refuses_get(&first.parts) {
            return Ok((false, format!("answers a GET with {} and nothing of MCP", status.as_u16())));
        }
        let ping = self.send(self.request(Method::POST, PING.into())).await?;
        Ok(match speaks(&ping) {
            Some(what) => (true, format!("answers a ping with {what}")),
            None => {
                let status = ping.parts.status.as_u16();
                (false, format!("answers a ping with {status} and nothing of MCP"))
            }
        })
    }

    fn request(&self, method: Method, body: Body) -> http::Request<Body> {
        let mut request = http::Request::new(body);
        let headers = request.headers_mut();
        let accept = if method == Method::GET { EVENTS } else { "application/json, text/event-stream" };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.insert(HOST, self.host.clone());
        *request.method_mut() = method;
        // Prefixes of paths are paths.
        *request.uri_mut() = self.endpoint.parse().unwrap_or(Uri::from_static("/"));
        request
    }

    async fn send(&self, request: http::Request<Body>) -> Result<Answer, BoxError> {
        let is_get = request.method() == Method::GET;
        let enough = |parts: &Parts, read: &[u8]| {
            // A stream that was asked for begins when there is something to say, and need not end.
            let stream = is_events(parts);
            stream && (is_get && parts.status.is_success() || event(read).is_some())
        };
        call(self.client, Target::clone(self.target), request, enough).await
    }
}

/// The Model Context Protocol, basic utilities: may be sent before a session begins.
const PING: &str = r#"{"jsonrpc":"2.0","id":"portcullis","method":"ping"}"#;

fn is_events(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(EVENTS))
}

/// Whether there is something that takes other requests than GET, or another one than ours.
fn refuses_get(parts: &Parts) -> bool {
    let allow = parts.headers.get(ALLOW).and_then(|allow| allow.to_str().ok());
    match parts.status {
        StatusCode::METHOD_NOT_ALLOWED => {
            allow.is_none_or(|allow| allow.split(',').any(|method| method.trim() == "POST"))
        }
        StatusCode::BAD_REQUEST | StatusCode::NOT_ACCEPTABLE | StatusCode::UNPROCESSABLE_ENTITY => true,
        _ => false,
    }
}

/// What of an answer only MCP servers and protected resources say.
fn speaks(answer: &Answer) -> Option<&'static str> {
    let parts = &answer.parts;
    if is_events(parts) {
        let message = event(&answer.body).is_some_and(is_message);
        let stream = parts.status.is_success() && answer.body.is_empty();
        return match (message, stream) {
            (true, _) => Some("a message of JSON-RPC"),
            (false, true) => Some("an event stream"),
            (false, false) => None,
        };
    }
    if answer.kind() == "application/json" && is_message(&answer.body) {
        return Some("a message of JSON-RPC");
    }
    let challenges = parts.headers.get_all(WWW_AUTHENTICATE).into_iter();
    let mut challenges = challenges.filter_map(|challenge| challenge.to_str().ok());
    // RFC 9728, section 5.1: where that leads is not followed.
    let names_metadata = challenges.any(|challenge| challenge.contains("resource_metadata="));
    (parts.status == StatusCode::UNAUTHORIZED && names_metadata)
        .then_some("a challenge of a protected resource")
}

/// The data of the first event that is whole.
fn event(read: &[u8]) -> Option<&[u8]> {
    let whole = &read[..=read.iter().rposition(|byte| *byte == b'\n')?];
    whole.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data:"))
}

fn is_message(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok_and(|value| value["jsonrpc"] == "2.0")
}

#[cfg(test)]
mod tests;
