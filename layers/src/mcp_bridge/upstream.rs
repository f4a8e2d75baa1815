//! The upstream, asked on behalf of one request of a client.

use std::fmt;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::protocol::{code, header};
use super::rpc::{Failure, Message};
use crate::body::{Body, BoxError, HttpService, Request, RequestBodyError, Response};
use crate::mcp::sse::{Events, EventsError};

/// What belongs to the client's own request and not to those that the bridge makes of it.
const OF_THE_CLIENT: [HeaderName; 15] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    header::VERSION,
    header::SESSION,
    header::LAST_EVENT_ID,
    header::METHOD,
];

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_AND_EVENTS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Where and as whom the upstream is asked. It may hold credentials, so it shows nothing of itself.
#[derive(Clone)]
pub(super) struct Upstream {
    service: HttpService,
    uri: Uri,
    headers: HeaderMap,
    extensions: Extensions,
    max_message: usize,
}

/// What the upstream answers.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Message(Message),
    Events(Events<Body>),
    /// Nothing of the protocol: an empty answer, or one of whatever stands in front of the server.
    Other(Body),
}

/// Why a request can't go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bridge says why.
    Failure(Failure),
    /// The upstream's own answer says why: whoever is not logged in has to be told so by it.
    Response(Box<Response>),
    /// The upstream could not be asked.
    Error(BoxError),
}

/// One event of a stream.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) id: Option<String>,
    pub(super) retry: Option<u64>,
    pub(super) message: Option<Message>,
}

impl Upstream {
    pub(super) fn new(service: &HttpService, parts: &Parts, max_message: usize) -> Self {
        let mut headers = parts.headers.clone();
        for name in &OF_THE_CLIENT {
            headers.remove(name);
        }
        let repeated: Vec<_> =
            headers.keys().filter(|name| name.as_str().starts_with("mcp-")).cloned().collect();
        for name in repeated {
            headers.remove(name);
        }
        Self {
            service: service.clone(),
            uri: parts.uri.clone(),
            headers,
            extensions: parts.extensions.clone(),
            max_message,
        }
    }

    fn request(&self, method: Method, headers: HeaderMap, accept: HeaderValue, body: Body) -> Request {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.extensions_mut() = self.extensions.clone();
        let all = request.headers_mut();
        all.clone_from(&self.headers);
        all.extend(headers);
        all.insert(ACCEPT, accept);
        request
    }

    /// Sends a message.
    pub(super) async fn post(&self, message: &Value, headers: HeaderMap) -> Result<Reply, Stop> {
        let body = Bytes::from(message.to_string());
        let length = HeaderValue::from(body.len());
        let mut request = self.request(Method::POST, headers, JSON_AND_EVENTS, body.into());
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        request.headers_mut().insert(CONTENT_LENGTH, length);
        self.send(request).await
    }

    /// Asks for the stream of a session, or for the rest of one.
    pub(super) async fn get(&self, headers: HeaderMap) -> Result<Reply, Stop> {
        self.send(self.request(Method::GET, headers, EVENTS, Body::empty())).await
    }

    /// Ends a session.
    pub(super) async fn delete(&self, headers: HeaderMap) -> Result<Reply, Stop> {
        self.send(self.request(Method::DELETE, headers, JSON_AND_EVENTS, Body::empty())).await
    }

    async fn send(&self, request: Request) -> Result<Reply, Stop> {
        let (parts, body) = self.service.call(request).await.map_err(Stop::Error)?.into_parts();
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let encoding = parts.headers.get(CONTENT_ENCODING);
        let encoded = encoding.is_some_and(|encoding| encoding != "identity");
        let content = match kind.as_str() {
            "application/json" | "text/event-stream" if encoded => {
                return Err(Stop::Failure(unusable("the server's answer is in an encoding not asked for")));
            }
            "text/event-stream" if parts.status == StatusCode::OK => {
                Content::Events(Events::new(body, self.max_message))
            }
            "application/json" => {
                let bytes = gather(body, self.max_message).await?;
                match Message::parse(&bytes) {
                    Ok(message) => Content::Message(message),
                    Err(_) if parts.status.is_success() => {
                        return Err(Stop::Failure(unusable("the server's answer is no JSON-RPC message")));
                    }
                    Err(_) => Content::Other(bytes.into()),
                }
            }
            _ => Content::Other(body),
        };
        Ok(Reply { status: parts.status, headers: parts.headers, content })
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstream")
    }
}

async fn gather(body: Body, limit: usize) -> Result<Bytes, Stop> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Stop::Failure(unusable("the server's answer is larger than the gateway carries")))
        }
        Err(error) => Err(Stop::Error(error)),
    }
}

/// The upstream answered with something that can't be carried over.
pub(super) fn unusable(why: &'static str) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, "mcp_upstream_unusable", code::INTERNAL, why)
}

impl Reply {
    /// The answer as it is, for a client that has to see it: a login that is missing, a server that is not there.
    /// Answers that mean something else in the other era are none of these.
    pub(super) fn stop(self) -> Stop {
        let means_session = matches!(
            self.status,
            StatusCode::BAD_REQUEST
                | StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_ACCEPTABLE
                | StatusCode::GONE
        );
        let Self { status, mut headers, content } = self;
        match content {
            Content::Other(body) if !status.is_success() && !means_session => {
                headers.remove(header::SESSION);
                let mut response = Response::new(body);
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Stop::Response(Box::new(response))
            }
            _ => Stop::Failure(
                unusable("the server does not answer as one of its era does")
                    .with_data(serde_json::json!({ "status": status.as_u16() })),
            ),
        }
    }
}

impl Stop {
    /// What a client without an answer yet gets.
    pub(super) fn response(self, id: &Value) -> Result<Response, BoxError> {
        match self {
            Self::Failure(failure) => Ok(failure.response(id)),
            Self::Response(response) => Ok(*response),
            Self::Error(error) => Err(error),
        }
    }

    /// What it means in the middle of a stream, where there is no status any more.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Failure(failure) => failure,
            Self::Response(response) => unusable("the server refused to go on")
                .with_data(serde_json::json!({ "status": response.status().as_u16() })),
            // The cause may say where the upstream is.
            Self::Error(_) => unusable("the connection to the server broke"),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// The next event that means something. None at the end of the stream.
pub(super) async fn next_piece(events: &mut Events<Body>) -> Result<Option<Piece>, Stop> {
    loop {
        let event = match events.next().await {
            None => return Ok(None),
            Some(Ok(event)) => event,
            Some(Err(EventsError::Broken(error))) => return Err(Stop::Error(error)),
            Some(Err(EventsError::TooLong(_))) => {
                return Err(unusable("an event of the server is larger than the gateway carries").into());
            }
        };
        let id = event.id().map(str::to_owned);
        let retry = event.retry();
        let message = match event.data().filter(|data| !data.is_empty()) {
            None => None,
            Some(data) => Some(
                Message::parse(data)
                    .map_err(|_| unusable("an event of the server is no JSON-RPC message"))?,
            ),
        };
        if message.is_some() || id.is_some() || retry.is_some() {
            return Ok(Some(Piece { id, retry, message }));
        }
    }
}

/// The body of a client's request, within a bound.
pub(super) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Stop> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit).into()),
        Err(error) => Err(Stop::Error(client_error(error))),
    }
}

/// An error of the client's body already knows what it means to the client; it must not count as ours.
fn client_error(error: BoxError) -> BoxError {
    match RequestBodyError::find(&*error).map(RequestBodyError::rejection) {
        Some(rejection) => Box::new(rejection.with_source(error)),
        None => error,
    }
}

/// A message of a client has more bytes than it may.
pub(super) fn too_large(limit: usize) -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "mcp_message_too_large",
        code::INVALID_REQUEST,
        format!("the message is larger than {limit} bytes"),
    )
}
