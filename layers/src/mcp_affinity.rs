//! Sessions of MCP clients stay at the upstream that began them, and with the person who began them.
//!
//! Streamable HTTP names a session in the header `Mcp-Session-Id`. Of several upstreams only one knows it. So what a
//! client gets as its session is sealed: the upstream's own id, which upstream it is, and whose it is. Whoever has the
//! keys, any node, finds the upstream again, and nothing has to be kept. An id that does not open, is another person's, or
//! names an upstream that is no longer there is answered as an unknown session is (404): the client begins anew.
//!
//! Requests without a session, and those of revisions that have none, go to the upstreams in turn, or where
//! [`with_next`](Affinity::with_next) says; the next one is asked when no connection can be made, which means that
//! nothing was sent.
//!
//! It stands inside `auth`, whose principal is whom a session is for, and outside `forward`.

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ahash::RandomState;
use http::header::{CONTENT_TYPE, Entry};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tower_service::Service;

use crate::body::{Body, BoxError, BoxFuture, HttpService, Request, Response};
use crate::context::{Principal, RequestContext};
use crate::rejection::Rejection;
use crate::sealed::{Keys, Purpose};

/// The header that names a session.
const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

const FIRST_WITHOUT_SESSIONS: &[u8] = b"2026-07-28";

/// The longest id of an upstream's session that is taken.
const MAX_ID: usize = 2048;

/// What blobs are sealed as.
const KIND: &str = "mcp affinity";

/// Codes of refusals that mean that an upstream has not got the request.
const UNSENT: [&str; 3] = ["upstream_connect", "upstream_dns", "upstream_connect_timeout"];

/// Ids that are remembered as they were opened, to spare the work; then all of them are forgotten.
const REMEMBERED: usize = 1024;

/// A session as the client keeps it.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// Which upstream.
    at: SmolStr,
    /// What it calls the session.
    id: String,
    /// Whose it is.
    who: Option<(SmolStr, SmolStr)>,
}

/// A session that was opened.
struct Opened {
    /// Which upstream, by its place.
    at: usize,
    /// What it calls the session.
    id: HeaderValue,
    /// Whose it is.
    who: Option<(SmolStr, SmolStr)>,
}

/// Sends each session's requests to its upstream. A clone is a reference count.
#[derive(Clone)]
pub struct Affinity {
    shared: Arc<Shared>,
}

struct Shared {
    keys: Keys,
    /// What the sessions are of: a blob of another host opens for nobody.
    resource: String,
    upstreams: Vec<(SmolStr, HttpService)>,
    next: Next,
    opened: Mutex<HashMap<Box<[u8]>, Opened, RandomState>>,
}

/// Where something new begins: the place of an upstream that is not among those that could not be reached.
type Next = Box<dyn Fn(&[usize]) -> Option<usize> + Send + Sync>;

/// One after the other.
fn in_turn(count: usize) -> Next {
    let next = AtomicUsize::new(0);
    Box::new(move |tried| match tried.last() {
        None => Some(next.fetch_add(1, Ordering::Relaxed).checked_rem(count)?),
        Some(last) => Some((last + 1) % count).filter(|at| !tried.contains(at)),
    })
}

impl Opened {
    /// Where it is, for whose it is.
    fn of(&self, who: Option<&Principal>) -> Option<(usize, HeaderValue)> {
        let is_theirs = match (&self.who, who) {
            // A subject is unique with its issuer only.
            (Some((issuer, subject)), Some(who)) => *issuer == who.issuer && *subject == who.subject,
            (Some(_), None) => false,
            // What nobody has begun, whoever holds it may go on with: clients log in when a call asks them to.
            (None, _) => true,
        };
        is_theirs.then(|| (self.at, self.id.clone()))
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.shared.upstreams.iter().map(|(name, _)| name);
        f.debug_struct("Affinity").field("upstreams", &names.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Affinity {
    /// For the upstreams of one resource, each with the name by which it is found again.
    pub fn new(
        keys: Keys,
        resource: impl Into<String>,
        upstreams: impl IntoIterator<Item = (SmolStr, HttpService)>,
    ) -> Self {
        Self::choosing(keys, resource, upstreams, None)
    }

    /// The same, where something else than their order says which upstream begins something new: `next` gets the places
    /// of those that could not be reached.
    pub fn with_next(
        keys: Keys,
        resource: impl Into<String>,
        upstreams: impl IntoIterator<Item = (SmolStr, HttpService)>,
        next: impl Fn(&[usize]) -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        Self::choosing(keys, resource, upstreams, Some(Box::new(next)))
    }

    fn choosing(
        keys: Keys,
        resource: impl Into<String>,
        upstreams: impl IntoIterator<Item = (SmolStr, HttpService)>,
        next: Option<Next>,
    ) -> Self {
        let upstreams: Vec<_> = upstreams.into_iter().collect();
        let next = next.unwrap_or_else(|| in_turn(upstreams.len()));
        let (resource, opened) = (resource.into(), Mutex::default());
        Self { shared: Arc::new(Shared { keys, resource, upstreams, next, opened }) }
    }
}

impl Service<Request> for Affinity {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let who = principal(&request);
        // Revisions without sessions have no use for one (2026-07-28); revisions compare as texts.
        let version = request.headers().get(PROTOCOL_VERSION);
        let without_sessions = version.is_some_and(|version| version.as_bytes() >= FIRST_WITHOUT_SESSIONS);
        let at = match request.headers_mut().entry(SESSION_ID) {
            Entry::Occupied(entry) if without_sessions => {
                entry.remove_entry_mult();
                None
            }
            Entry::Occupied(mut entry) => {
                let single = entry.iter().nth(1).is_none();
                let opened = single.then(|| shared.open(entry.get(), who.as_deref())).flatten();
                let Some((at, id)) = opened else { return Box::pin(ready(Err(unknown().into()))) };
                entry.insert(id);
                Some(at)
            }
            Entry::Vacant(_) => None,
        };
        match at {
            // To the upstream of the session.
            Some(at) => {
                let answer = shared.upstreams[at].1.call(request);
                Box::pin(async move { shared.seal(at, who.as_deref(), answer.await?) })
            }
            None => Box::pin(async move {
                let (at, mut response) = shared.begin(request).await?;
                if without_sessions {
                    response.headers_mut().remove(SESSION_ID);
                    return Ok(response);
                }
                shared.seal(at, who.as_deref(), response)
            }),
        }
    }
}

impl Shared {
    /// Where the session of a header is, if it is this caller's.
    fn open(&self, value: &HeaderValue, who: Option<&Principal>) -> Option<(usize, HeaderValue)> {
        let known = self.opened().get(value.as_bytes()).map(|opened| opened.of(who));
        if let Some(known) = known {
            return known;
        }
        let sealed: Sealed = self.keys.open(self.purpose(), value.to_str().ok()?)?;
        let at = self.upstreams.iter().position(|(name, _)| *name == sealed.at)?;
        let opened = Opened { at, id: HeaderValue::try_from(sealed.id).ok()?, who: sealed.who };
        let found = opened.of(who);
        let mut all = self.opened();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(value.as_bytes().into(), opened);
        found
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Opened, RandomState>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the next upstream that can be reached.
    async fn begin(&self, request: Request) -> Result<(usize, Response), BoxError> {
        let mut at = (self.next)(&[]).ok_or_else(unwell)?;
        if self.upstreams.len() == 1 {
            return Ok((at, self.upstream(at)?.call(request).await?));
        }
        let (parts, body) = request.into_parts();
        // What the edge has read can be sent to another one; a stream can't.
        let body = match body.into_whole() {
            Ok(body) => body,
            Err(body) => {
                let request = Request::from_parts(parts, body);
                return Ok((at, self.upstream(at)?.call(request).await?));
            }
        };
        let mut tried = Vec::new();
        loop {
            let request = Request::from_parts(parts.clone(), Body::from(body.clone()));
            let rejection = match self.upstream(at)?.call(request).await {
                Ok(response) => return Ok((at, response)),
                Err(error) => Rejection::of(error),
            };
            tried.push(at);
            match (self.next)(&tried) {
                Some(next) if UNSENT.contains(&rejection.code()) => at = next,
                _ => return Err(rejection.into()),
            }
        }
    }

    fn upstream(&self, at: usize) -> Result<&HttpService, BoxError> {
        self.upstreams.get(at).map(|(_, service)| service).ok_or_else(|| nowhere().into())
    }

    /// Gives the client something to keep in place of the upstream's own id.
    fn seal(&self, at: usize, who: Option<&Principal>, mut response: Response) -> Result<Response, BoxError> {
        let Some(id) = response.headers_mut().remove(SESSION_ID) else { return Ok(response) };
        let id = id.to_str().ok().filter(|id| id.len() <= MAX_ID);
        let sealed = id.and_then(|id| {
            let who = who.map(|who| (who.issuer.clone(), who.subject.clone()));
            let sealed = Sealed { at: self.upstreams[at].0.clone(), id: id.to_owned(), who };
            HeaderValue::try_from(self.keys.seal(self.purpose(), &sealed)?).ok()
        });
        let Some(sealed) = sealed else {
            let detail = "The MCP server's answer names a session that is none.";
            return Err(Rejection::new(StatusCode::BAD_GATEWAY, "mcp_bad_session", detail).into());
        };
        response.headers_mut().insert(SESSION_ID, sealed);
        Ok(response)
    }

    fn purpose(&self) -> Purpose<'_> {
        Purpose { kind: KIND, upstream: &self.resource }
    }
}

fn principal(request: &Request) -> Option<Arc<Principal>> {
    request.extensions().get::<RequestContext>()?.principal.clone()
}

/// What servers say of a session that they don't know; clients begin anew then.
fn unknown() -> Rejection {
    let detail = "There is no such session: begin a new one.";
    let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
    let mut rejection = Rejection::new(StatusCode::NOT_FOUND, "mcp_unknown_session", detail).with_body(body);
    rejection.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    rejection
}

/// Nobody may begin anything new.
fn unwell() -> Rejection {
    Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream", "No upstream is healthy.")
}

fn nowhere() -> Rejection {
    Rejection::new(StatusCode::BAD_GATEWAY, "upstream_connect", "There is no upstream.")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Arc<Mutex<Vec<String>>>;

    /// An upstream that names a session by itself, or can't be reached.
    fn upstream(name: &'static str, seen: &Seen, reachable: bool) -> (SmolStr, HttpService) {
        let seen = Arc::clone(seen);
        let service = HttpService::from_fn(move |request: Request| {
            let id = request.headers().get(SESSION_ID).map(|id| id.to_str().expect("text").to_owned());
            seen.lock().expect("a lock").push(format!("{name} {}", id.as_deref().unwrap_or("-")));
            async move {
                if !reachable {
                    return Err(nowhere().into());
                }
                let mut response = Response::new(Body::empty());
                if id.is_none() {
                    response.headers_mut().insert(SESSION_ID, HeaderValue::from_static("own"));
                }
                Ok(response)
            }
        });
        (name.into(), service)
    }

    fn request(session: Option<&HeaderValue>, subject: &str) -> Request {
        let mut request = http::Request::post("/mcp").body(Body::from("{}")).expect("a request");
        if let Some(session) = session {
            request.headers_mut().insert(SESSION_ID, session.clone());
        }
        let principal = Principal { subject: subject.into(), ..Principal::default() };
        RequestContext::of(request.extensions_mut()).principal = Some(Arc::new(principal));
        request
    }

    async fn ask(
        affinity: &Affinity,
        session: Option<&HeaderValue>,
        subject: &str,
    ) -> Result<Response, Rejection> {
        affinity.clone().call(request(session, subject)).await.map_err(Rejection::of)
    }

    #[tokio::test]
    async fn a_session_stays_where_it_began_and_with_whom() {
        let seen = Seen::default();
        let keys = || Keys::new([&[7; 32]]).expect("a key");
        let both = || [upstream("a", &seen, true), upstream("b", &seen, true)];
        let affinity = Affinity::new(keys(), "https://tools.example/mcp", both());
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let response = ask(&affinity, None, "1").await.expect("a session");
            let sealed = response.headers()[SESSION_ID].clone();
            assert!(!sealed.to_str().expect("text").contains("own"));
            sessions.push(sealed);
        }
        // Another node with the same keys.
        let other = Affinity::new(keys(), "https://tools.example/mcp", both());
        for (session, name) in sessions.iter().zip(["a", "b"]) {
            for node in [&affinity, &other] {
                ask(node, Some(session), "1").await.expect("an answer");
                assert_eq!(seen.lock().expect("a lock").last().expect("a request"), &format!("{name} own"));
            }
        }
        let before = seen.lock().expect("a lock").len();
        let elsewhere = Affinity::new(keys(), "https://other.example/mcp", both());
        let fewer = Affinity::new(keys(), "https://tools.example/mcp", [upstream("b", &seen, true)]);
        let forged = HeaderValue::from_static("own");
        for (node, session, subject) in [
            (&affinity, &sessions[0], "2"),
            (&affinity, &forged, "1"),
            (&elsewhere, &sessions[0], "1"),
            (&fewer, &sessions[0], "1"),
        ] {
            let refused = ask(node, Some(session), subject).await.expect_err("refused");
            assert_eq!((refused.status().as_u16(), refused.code()), (404, "mcp_unknown_session"));
        }
        assert_eq!(seen.lock().expect("a lock").len(), before, "no upstream has heard of it");
    }

    #[tokio::test]
    async fn a_new_session_begins_where_somebody_is() {
        let seen = Seen::default();
        let keys = Keys::new([&[7; 32]]).expect("a key");
        let affinity = Affinity::new(keys, "r", [upstream("a", &seen, false), upstream("b", &seen, true)]);
        let response = ask(&affinity, None, "1").await.expect("a session");
        ask(&affinity, Some(&response.headers()[SESSION_ID]), "1").await.expect("an answer");
        assert_eq!(*seen.lock().expect("a lock"), ["a -", "b -", "b own"]);
    }

    #[tokio::test]
    async fn something_else_may_say_where_a_session_begins() {
        let seen = Seen::default();
        let keys = || Keys::new([&[7; 32]]).expect("a key");
        let all = || [upstream("a", &seen, true), upstream("b", &seen, false), upstream("c", &seen, true)];
        // The first one is to get nothing new.
        let next = |tried: &[usize]| [1, 2].into_iter().find(|at| !tried.contains(at));
        let affinity = Affinity::with_next(keys(), "r", all(), next);
        let response = ask(&affinity, None, "1").await.expect("a session");
        ask(&affinity, Some(&response.headers()[SESSION_ID]), "1").await.expect("an answer");
        assert_eq!(*seen.lock().expect("a lock"), ["b -", "c -", "c own"]);
        // What has begun there stays there.
        let before = Affinity::new(keys(), "r", all());
        let response = ask(&before, None, "1").await.expect("a session");
        ask(&affinity, Some(&response.headers()[SESSION_ID]), "1").await.expect("an answer");
        assert_eq!(seen.lock().expect("a lock").last().expect("a request"), "a own");
        let refused = ask(&Affinity::with_next(keys(), "r", all(), |_| None), None, "1").await;
        assert_eq!(refused.expect_err("nobody").code(), "no_healthy_upstream");
    }
}
