//! Sessions of MCP clients stay at the upstream that began them, and with the person who began them.
//!
//! Streamable HTTP names a session in the header `Mcp-Session-Id`. Of several upstreams only one knows it. So what a
//! client gets as its session is sealed for its user: the upstream's own id, and which upstream it is. Whoever has the
//! keys, any node, finds the upstream again, and nothing has to be kept. An id that does not open, is another person's, or
//! names an upstream that is no longer there is answered as an unknown session is (404): the client begins anew.
//!
//! Requests without a session, and those of revisions that have none, go to the upstreams in turn, or where
//! [`with_next`](Affinity::with_next) says; the next one is asked when no connection can be made, which means that
//! nothing was sent.
//!
//! It stands inside `auth`, whose principal is whom a session is for, and outside `forward`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ahash::RandomState;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
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

/// What blobs are sealed as. Those of another kind, `mcp affinity`, had their owner in them and not beside them: as this
/// kind they would be nobody's, and open for everybody.
const KIND: &str = "mcp session";

/// Codes of refusals that mean that an upstream has not got the request.
const UNSENT: [&str; 3] = ["upstream_connect", "upstream_dns", "upstream_connect_timeout"];

/// Ids that are remembered as they were opened, to spare the work; then all of them are forgotten.
const REMEMBERED: usize = 1024;

/// A session as the client keeps it. Whose it is need not be in it: for others than its owner, if it has one, it does not
/// open.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// Which upstream.
    at: SmolStr,
    /// What it calls the session.
    id: String,
}

/// A session that was opened.
struct Opened {
    /// Which upstream, by its place.
    at: usize,
    /// What it calls the session.
    id: HeaderValue,
    /// Whose it is.
    who: Option<Arc<Principal>>,
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
    fn of(&self, who: Option<&Arc<Principal>>) -> Option<(usize, HeaderValue)> {
        let is_theirs = match (&self.who, who) {
            // Who sends the same token again is known by that.
            (Some(owner), Some(who)) => Arc::ptr_eq(owner, who) || are_one(owner, who),
            (Some(_), None) => false,
            // What nobody has begun, whoever holds it may go on with: clients log in when a call asks them to.
            (None, _) => true,
        };
        is_theirs.then(|| (self.at, self.id.clone()))
    }
}

/// A subject is unique with its issuer only.
#[inline(never)]
fn are_one(one: &Principal, other: &Principal) -> bool {
    one.issuer == other.issuer && one.subject == other.subject
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
        let (version, session) = described(request.headers());
        let without_sessions = version.is_some_and(|version| version.as_bytes() >= FIRST_WITHOUT_SESSIONS);
        let Some(session) = session.filter(|_| !without_sessions) else {
            if session.is_some() {
                request.headers_mut().remove(SESSION_ID);
            }
            return Box::pin(async move {
                let (at, mut response) = shared.begin(request).await?;
                if without_sessions {
                    response.headers_mut().remove(SESSION_ID);
                } else {
                    shared.seal(at, who.as_deref(), &mut response)?;
                }
                Ok(response)
            });
        };
        let Some((at, id)) = shared.open(session, who.as_ref()) else {
            return Box::pin(ready(Err(unknown().into())));
        };
        let fields = request.headers().len();
        request.headers_mut().insert(SESSION_ID, id);
        // It was there more than once: nobody knows which one is meant.
        if request.headers().len() != fields {
            return Box::pin(ready(Err(unknown().into())));
        }
        // To the upstream of the session.
        let answer = shared.upstreams[at].1.call(request);
        Box::pin(async move {
            let mut answered = answer.await;
            if let Ok(response) = &mut answered {
                shared.seal(at, who.as_deref(), response)?;
            }
            answered
        })
    }
}

impl Shared {
    /// Where the session of a header is, if it is this caller's.
    fn open(&self, value: &HeaderValue, who: Option<&Arc<Principal>>) -> Option<(usize, HeaderValue)> {
        let known = self.opened().get(value.as_bytes()).map(|opened| opened.of(who));
        if let Some(known) = known {
            return known;
        }
        let text = value.to_str().ok()?;
        // Theirs, or nobody's.
        let (sealed, whose) = who.map(Some).into_iter().chain([None]).find_map(|whose| {
            let owned = self.owned(whose.map(Arc::as_ref));
            let sealed: Sealed = self.keys.open(Purpose { kind: KIND, upstream: &owned }, text)?;
            Some((sealed, whose))
        })?;
        let at = self.upstreams.iter().position(|(name, _)| *name == sealed.at)?;
        let opened = Opened { at, id: HeaderValue::try_from(sealed.id).ok()?, who: whose.cloned() };
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
    fn seal(&self, at: usize, who: Option<&Principal>, response: &mut Response) -> Result<(), BoxError> {
        let Some(id) = response.headers_mut().remove(SESSION_ID) else { return Ok(()) };
        let id = id.to_str().ok().filter(|id| id.len() <= MAX_ID);
        let sealed = id.and_then(|id| {
            let sealed = Sealed { at: self.upstreams[at].0.clone(), id: id.to_owned() };
            let text = self.keys.seal(Purpose { kind: KIND, upstream: &self.owned(who) }, &sealed)?;
            HeaderValue::try_from(text).ok()
        });
        let Some(sealed) = sealed else {
            let detail = "The MCP server's answer names a session that is none.";
            return Err(Rejection::new(StatusCode::BAD_GATEWAY, "mcp_bad_session", detail).into());
        };
        response.headers_mut().insert(SESSION_ID, sealed);
        Ok(())
    }

    /// What sessions are of, and whose. The issuer's length tells where the subject begins, whatever the two are called.
    fn owned(&self, who: Option<&Principal>) -> Cow<'_, str> {
        match who {
            Some(Principal { issuer, subject, .. }) => {
                format!("{}\0{}:{issuer}{subject}", self.resource, issuer.len()).into()
            }
            None => Cow::Borrowed(&self.resource),
        }
    }
}

/// The revision that a request is of, and its session, found in one pass.
fn described(headers: &HeaderMap) -> (Option<&HeaderValue>, Option<&HeaderValue>) {
    let (mut version, mut session) = (None, None);
    for (name, value) in headers {
        if *name == SESSION_ID {
            session = session.or(Some(value));
        } else if *name == PROTOCOL_VERSION {
            version = version.or(Some(value));
        }
    }
    (version, session)
}

fn principal(request: &Request) -> Option<Arc<Principal>> {
    RequestContext::get(request.extensions())?.principal.clone()
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

    /// A request of a subject of an issuer, or of nobody.
    fn request(session: Option<&HeaderValue>, who: Option<(&str, &str)>) -> Request {
        let mut request = http::Request::post("/mcp").body(Body::from("{}")).expect("a request");
        if let Some(session) = session {
            request.headers_mut().insert(SESSION_ID, session.clone());
        }
        let principal = |(issuer, subject): (&str, &str)| {
            Arc::new(Principal { issuer: issuer.into(), subject: subject.into(), ..Principal::default() })
        };
        RequestContext::of(request.extensions_mut()).principal = who.map(principal);
        request
    }

    async fn ask(
        affinity: &Affinity,
        session: Option<&HeaderValue>,
        subject: &str,
    ) -> Result<Response, Rejection> {
        affinity.clone().call(request(session, Some(("", subject)))).await.map_err(Rejection::of)
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
    async fn a_session_is_for_whoever_has_begun_it_on_any_node() {
        let seen = Seen::default();
        let keys = || Keys::new([&[7; 32]]).expect("a key");
        let node = || Affinity::new(keys(), "r", [upstream("a", &seen, true)]);
        let ask = async |node: &Affinity, session, who| node.clone().call(request(session, who)).await;
        let begun =
            async |who| ask(&node(), None, who).await.expect("a session").headers()[SESSION_ID].clone();
        let (alices, nobodys) = (begun(Some(("i", "1"))).await, begun(None).await);
        let knows_them = node();
        for (session, who, taken) in [
            (&alices, Some(("i", "1")), true),
            (&alices, Some(("i", "2")), false),
            (&alices, Some(("j", "1")), false),
            (&alices, Some(("", "i1")), false),
            (&alices, Some(("i1", "")), false),
            (&alices, None, false),
            (&nobodys, Some(("i", "2")), true),
            (&nobodys, Some(("j", "1")), true),
            (&nobodys, None, true),
        ] {
            for node in [&knows_them, &node()] {
                assert_eq!(ask(node, Some(session), who).await.is_ok(), taken, "{who:?}");
            }
        }
        // Sealed as it once was: with its owner in it.
        let before = serde_json::json!({"at": "a", "id": "own", "who": ["i", "1"]});
        let purpose = Purpose { kind: "mcp affinity", upstream: "r" };
        let before = HeaderValue::try_from(keys().seal(purpose, &before).expect("sealed")).expect("text");
        for who in [Some(("i", "1")), Some(("i", "2")), None] {
            assert!(ask(&node(), Some(&before), who).await.is_err(), "{who:?}");
        }
        // Nobody knows which of two is meant.
        for more in [&alices, &nobodys] {
            let mut twice = request(Some(&alices), Some(("i", "1")));
            twice.headers_mut().append(SESSION_ID, more.clone());
            let refused = Rejection::of(knows_them.clone().call(twice).await.expect_err("refused"));
            assert_eq!(refused.code(), "mcp_unknown_session");
        }
        // Where none is meant, none of them is sent on.
        let mut stateless = request(Some(&alices), Some(("i", "1")));
        stateless.headers_mut().append(SESSION_ID, nobodys);
        stateless.headers_mut().insert(PROTOCOL_VERSION, HeaderValue::from_static("2026-07-28"));
        knows_them.clone().call(stateless).await.expect("an answer");
        assert_eq!(seen.lock().expect("a lock").last().expect("a request"), "a -");
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
