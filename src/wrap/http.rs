//! Streamable HTTP, as far as there are sessions (MCP, Transports).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::Stream;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Interval;

use super::MAX_MESSAGE;
use super::message::{Bad, Id, Message};
use super::session::{Event, Refused, Session};
use super::sessions::{NoSession, Sessions};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// The revisions that have sessions over this transport.
pub(super) const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// The first revision that has none.
pub(super) const STATELESS: &str = "2026-07-28";

/// From this one on, streams begin with an event without a message, so that clients know by what to come back.
const PRIMED: &str = "2025-11-25";

/// How soon a client comes back that has lost its connection, in milliseconds.
const RETRY: u32 = 1000;

/// How often a silent stream shows that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
struct Site {
    sessions: Arc<Sessions>,
}

/// What clients call.
pub(super) fn router(sessions: Arc<Sessions>) -> Router {
    let path = sessions.settings.path.clone();
    let methods = post(say).get(listen).delete(end);
    Router::new()
        .route(&path, methods)
        .layer(DefaultBodyLimit::max(MAX_MESSAGE))
        .with_state(Site { sessions })
}

/// An error as clients of the protocol read it.
fn refused(status: StatusCode, code: i64, text: &str, id: &Value) -> Response {
    let body = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": text } });
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn invalid(text: &str) -> Response {
    refused(StatusCode::BAD_REQUEST, -32600, text, &Value::Null)
}

impl Site {
    /// Who may speak at all: whoever has the token, which no page of a browser has (DNS rebinding).
    fn admit(&self, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (value, other) = (values.next(), values.next());
        let token = value.filter(|_| other.is_none()).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        let expected = self.sessions.settings.token.expose_secret().as_bytes();
        if token.is_some_and(|token| verify_slices_are_equal(token.as_bytes(), expected).is_ok()) {
            return Ok(());
        }
        let mut response = refused(StatusCode::UNAUTHORIZED, -32600, "A token is needed.", &Value::Null);
        let challenge = if token.is_some() { "Bearer error=\"invalid_token\"" } else { "Bearer" };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        Err(Box::new(response))
    }

    fn session(&self, headers: &HeaderMap) -> Result<Arc<Session>, Box<Response>> {
        let mut values = headers.get_all(SESSION_ID).iter();
        let (Some(id), None) = (values.next(), values.next()) else {
            return Err(Box::new(invalid("Mcp-Session-Id is missing, or there twice")));
        };
        let session = id.to_str().ok().and_then(|id| self.sessions.get(id));
        session.ok_or_else(|| {
            let text = "There is no such session: begin a new one.";
            Box::new(refused(StatusCode::NOT_FOUND, -32001, text, &Value::Null))
        })
    }
}

/// Whether the client speaks a revision that we do.
fn check_version(headers: &HeaderMap) -> Result<(), Box<Response>> {
    let Some(version) = headers.get(PROTOCOL) else { return Ok(()) };
    if version.to_str().is_ok_and(|version| VERSIONS.contains(&version)) {
        return Ok(());
    }
    let body = json!({
        "jsonrpc": "2.0", "id": null,
        "error": {
            "code": -32022, "message": "Unsupported protocol version",
            "data": { "supported": VERSIONS, "requested": version.to_str().unwrap_or_default() },
        },
    });
    Err(Box::new(
        (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response(),
    ))
}

async fn say(State(site): State<Site>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if let Err(response) = site.admit(&parts.headers).and_then(|()| check_version(&parts.headers)) {
        return *response;
    }
    let is_json =
        parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
        });
    if !is_json {
        let text = "The body must be application/json.";
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, -32600, text, &Value::Null);
    }
    let Ok(body) = axum::body::to_bytes(body, MAX_MESSAGE).await else {
        let text = format!("The body must not be longer than {MAX_MESSAGE} bytes.");
        return refused(StatusCode::PAYLOAD_TOO_LARGE, -32600, &text, &Value::Null);
    };
    let message = match Message::read(body.into()) {
        Ok(message) if message.versioned => message,
        Ok(_) | Err(Bad::Message) => return invalid("expected one JSON-RPC 2.0 message"),
        Err(Bad::Json) => return refused(StatusCode::BAD_REQUEST, -32700, "expected JSON", &Value::Null),
    };
    if message.bad_id {
        return invalid("expected a text of at most 1024 bytes, or a number, as id");
    }
    match (message.method.as_deref(), &message.id) {
        (Some("initialize"), Some(_)) => begin(&site, &message).await,
        (Some(_), Some(_)) => ask(&site, &parts.headers, message),
        (Some(_), None) | (None, _) => {
            match site.session(&parts.headers).map(|session| session.tell(message)) {
                Ok(Ok(())) => StatusCode::ACCEPTED.into_response(),
                Ok(Err(error)) => busy(&error, &Value::Null),
                Err(response) => *response,
            }
        }
    }
}

async fn begin(site: &Site, hello: &Message) -> Response {
    let id = hello.id.as_ref().map_or(Value::Null, Id::value);
    let error = match site.sessions.begin(hello).await {
        Ok((session, answer)) => {
            let mut response = ([(CONTENT_TYPE, "application/json")], answer.text).into_response();
            if let Ok(value) = HeaderValue::try_from(session)
                && !value.is_empty()
            {
                response.headers_mut().insert(SESSION_ID, value);
            }
            return response;
        }
        Err(error) => error,
    };
    match &error {
        NoSession::Full | NoSession::Stopping => {
            refused(StatusCode::SERVICE_UNAVAILABLE, -32000, &error.to_string(), &id)
        }
        NoSession::TooLong => refused(StatusCode::PAYLOAD_TOO_LARGE, -32600, &error.to_string(), &id),
        NoSession::Broken(_) => {
            eprintln!("portcullis: {error}");
            refused(StatusCode::BAD_GATEWAY, -32603, "The server can't be started, or does not answer.", &id)
        }
    }
}

fn ask(site: &Site, headers: &HeaderMap, message: Message) -> Response {
    let session = match site.session(headers) {
        Ok(session) => session,
        Err(response) => return *response,
    };
    let id = message.id.as_ref().map_or(Value::Null, Id::value);
    match session.ask(message) {
        Ok(heard) => {
            let primed = headers.get(PROTOCOL).is_some_and(|version| version.as_bytes() >= PRIMED.as_bytes());
            events(Events::new(heard.events, session, Some(heard.stream), primed))
        }
        Err(error) => busy(&error, &id),
    }
}

fn busy(error: &Refused, id: &Value) -> Response {
    let status = match error {
        Refused::Restarting | Refused::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        Refused::SameId => StatusCode::BAD_REQUEST,
    };
    refused(status, -32000, &error.to_string(), id)
}

async fn listen(State(site): State<Site>, headers: HeaderMap) -> Response {
    if let Err(response) = site.admit(&headers).and_then(|()| check_version(&headers)) {
        return *response;
    }
    let takes = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if !takes.flat_map(|value| value.split(',')).any(|one| one.trim().starts_with("text/event-stream")) {
        return refused(
            StatusCode::NOT_ACCEPTABLE,
            -32600,
            "Accept must have text/event-stream.",
            &Value::Null,
        );
    }
    let session = match site.session(&headers) {
        Ok(session) => session,
        Err(response) => return *response,
    };
    let Some(last) = headers.get(LAST_EVENT) else {
        return events(Events::new(session.listen(), session, None, false));
    };
    let stream = last.to_str().ok().and_then(|id| id.split_once('-')?.0.parse().ok());
    match stream.and_then(|stream| session.resume(stream)) {
        Some(heard) => events(Events::new(heard.events, session, Some(heard.stream), false)),
        None => invalid("Nothing is kept any more of the stream that Last-Event-ID names."),
    }
}

async fn end(State(site): State<Site>, headers: HeaderMap) -> Response {
    if let Err(response) = site.admit(&headers) {
        return *response;
    }
    let id = headers.get(SESSION_ID).and_then(|id| id.to_str().ok());
    if id.is_some_and(|id| site.sessions.end(id)) {
        return StatusCode::NO_CONTENT.into_response();
    }
    refused(StatusCode::NOT_FOUND, -32001, "There is no such session.", &Value::Null)
}

fn events(events: Events) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// The messages of a stream. One that is about a request ends with its answer. Dropped before, it can be gone on with: a
/// connection that is lost has cancelled nothing.
struct Events {
    heard: mpsc::Receiver<Event>,
    session: Arc<Session>,
    /// What the stream is called, where it is about a request.
    stream: Option<u64>,
    /// How many events it has had.
    count: u64,
    /// Whether it is still to begin with an event without a message.
    primes: bool,
    alive: Interval,
    done: bool,
}

impl Events {
    fn new(heard: mpsc::Receiver<Event>, session: Arc<Session>, stream: Option<u64>, primes: bool) -> Self {
        let start = tokio::time::Instant::now() + ALIVE;
        let alive = tokio::time::interval_at(start, ALIVE);
        Self { heard, session, stream, count: 0, primes, alive, done: false }
    }

    /// The line with the id of the next event; nothing where none can be come back to.
    fn id(&mut self) -> String {
        let Some(stream) = self.stream else { return String::new() };
        let count = self.count;
        self.count += 1;
        format!("id: {stream}-{count}\n")
    }
}

impl Stream for Events {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.primes) {
            let event = format!("{}retry: {RETRY}\ndata:\n\n", self.id());
            return Poll::Ready(Some(Ok(event.into())));
        }
        if let Poll::Ready(event) = self.heard.poll_recv(cx) {
            let Some(event) = event else {
                self.done = true;
                return Poll::Ready(None);
            };
            self.done = event.last;
            let mut text = format!("event: message\n{}data: ", self.id()).into_bytes();
            text.extend_from_slice(&event.text);
            text.extend_from_slice(b"\n\n");
            return Poll::Ready(Some(Ok(text.into())));
        }
        match self.alive.poll_tick(cx) {
            Poll::Ready(_) => Poll::Ready(Some(Ok(Bytes::from_static(b": alive\n\n")))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.session.touch();
    }
}
