//! Who may use a session: a service in front of rmcp's.
//!
//! rmcp lets anybody go on with any session whose id they know. Here a session that is another's gets the same answer,
//! after the same work, as one that does not exist. New sessions are put into the store before their clients know of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use rmcp::model::ProtocolVersion;
use serde_json::json;
use tower::Service;

use super::asking::{Asking, Trouble};
use super::owner::Owner;
use super::{Error, Found, Sessions};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What is answered.
type Answer = Response<BoxBody<Bytes, Infallible>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    sessions: Arc<Sessions>,
}

impl<S> Guard<S> {
    /// Guards a service whose session manager has these sessions.
    pub(super) const fn new(inner: S, sessions: Arc<Sessions>) -> Self {
        Self { inner, sessions }
    }

    /// The sessions, whose [`Sessions::run`] must run.
    pub const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Answer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone was not asked whether it is ready: https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let sessions = Arc::clone(&self.sessions);
        Box::pin(async move { Ok(answer(inner, &sessions, request).await) })
    }
}

async fn answer<S, B>(mut inner: S, sessions: &Sessions, mut request: Request<B>) -> Answer
where
    S: Service<Request<B>, Response = Answer, Error = Infallible>,
{
    let owner = Owner::of(request.extensions());
    if !has_sessions(request.headers()) {
        // Nobody gets at a session by a version that has none.
        request.headers_mut().remove(SESSION);
    }
    let mut ids = request.headers().get_all(SESSION).iter();
    let (id, more) = (ids.next().cloned(), ids.next().is_some());
    if more {
        return refusal(StatusCode::BAD_REQUEST, -32600, "there is more than one Mcp-Session-Id");
    }
    let mut kept = None;
    if let Some(id) = &id {
        match sessions.admit(id.to_str().unwrap_or_default(), &owner).await {
            Ok(Found::Here) => {}
            Ok(Found::Kept(found)) => kept = Some(Arc::new(*found)),
            Ok(Found::Nothing) => return unknown(),
            Err(_) => return unavailable(),
        }
    }
    let ends = id.is_some() && request.method() == Method::DELETE;
    let (begins, is_kept) = (id.is_none(), kept.is_some());
    let (response, trouble) = Asking::new(owner, kept, ends).within(inner.call(request)).await;
    let Ok(mut response) = response;
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR
        && let Some(trouble) = trouble
    {
        return match trouble {
            Trouble::Unavailable => unavailable(),
            Trouble::Ended => unknown(),
            Trouble::TooLarge => {
                refusal(StatusCode::PAYLOAD_TOO_LARGE, -32600, "the message is too large for this session")
            }
        };
    }
    if is_kept && response.status() == StatusCode::NOT_FOUND {
        // Another request was about to bring it back, and could not, or has gone. The session is there all the same.
        return unavailable();
    }
    if begins && let Some(id) = response.headers().get(SESSION).and_then(|id| id.to_str().ok()) {
        match sessions.settle(id).await {
            Ok(true) => {}
            Ok(false) => drop(response.headers_mut().remove(SESSION)),
            Err(Error::Full) => {
                return later(refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    -32603,
                    "there are too many sessions: end one, or try again later",
                ));
            }
            Err(_) => return unavailable(),
        }
    }
    response
}

/// Whether the version that a request names has sessions. Without one, or with one that is not ours, rmcp decides.
pub fn has_sessions(headers: &HeaderMap) -> bool {
    let version = headers.get(VERSION).and_then(|version| version.to_str().ok());
    version.is_none_or(|version| version < ProtocolVersion::V_2026_07_28.as_str())
}

fn unknown() -> Answer {
    // The specification asks for 404; the code is that of other servers.
    refusal(StatusCode::NOT_FOUND, -32001, "there is no such session: initialize a new one")
}

fn unavailable() -> Answer {
    later(refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        -32603,
        "sessions are not available at the moment: try again later",
    ))
}

fn later(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
    answer
}

fn refusal(status: StatusCode, code: i32, message: &str) -> Answer {
    let body = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": message } });
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
