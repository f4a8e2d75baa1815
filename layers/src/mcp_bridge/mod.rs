//! Carries MCP over between its eras: clients and servers of 2025 have sessions and ask each other over open streams,
//! those of 2026-07-28 have neither.
//!
//! A client that speaks what the upstream speaks is passed untouched; nothing of it is read that would not have to be
//! for knowing that. Else each message is translated:
//!
//! - An old client gets a session from the bridge, sealed in its id, so that every node continues it. What a server
//!   wants to know in the middle of a request (`input_required`) is asked of the client on the stream of that request.
//! - A new client shares sessions with an old server that the bridge holds, one request at a time in each. What the
//!   server asks in the middle of one ends the client's request with `input_required`; the repetition goes on with it.
//!
//! What can't be carried over gets an error in the client's words that says so. Nothing is repeated that may have run.
//! Sessions and sealed states belong to the subject of the request's [`Principal`](crate::Principal), if it has one.
//!
//! Not carried over, because the other era has nothing like it: batches of messages (2025-03-26), tasks, an error in
//! place of an answer to a server's question, the end of an elicitation by link, and that a client's roots have changed.
//!
//! It doesn't check who may call what, and no `Origin`; put it inside the layers that do, and outside those that change
//! headers for the upstream or send requests to it: what it sends there are requests as a client would send them.
//! What waits for a client's answer waits in this process: several nodes need affinity for these requests.
//!
//! ```
//! use portcullis_layers::mcp_bridge::{Keys, Limits, McpBridge, McpBridgeLayer, Settings};
//! use portcullis_layers::{Body, HttpService, Request, Response};
//! use tower::Layer;
//!
//! let upstream = HttpService::from_fn(|_: Request| async { Ok(Response::new(Body::empty())) });
//! let bridge = McpBridge::new(Keys::new([&[7; 32]])?, Limits::default());
//! let service = McpBridgeLayer::new(bridge, Settings::new("/mcp", "files")).layer(upstream);
//! # let _ = service;
//! # Ok::<(), portcullis_layers::mcp_bridge::NoKey>(())
//! ```

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;
use smol_str::{SmolStr, format_smolstr};
use tower_layer::Layer;
use tower_service::Service;

use self::era::{Eras, Said, Speaks};
use self::protocol::code;
use self::rpc::{Failure, Message, Word};
pub use self::settings::{Limits, Settings};
use self::slots::Slots;
use self::tools::Tools;
use self::upstream::{Stop, Upstream, read_body};
use crate::body::{Body, BoxError, BoxFuture, HttpService, Request, Response};
use crate::context::RequestContext;
pub use crate::sealed::{Keys, NoKey};

mod era;
mod fresh;
mod headers;
mod newer;
mod older;
mod protocol;
mod rpc;
mod settings;
mod slots;
mod stream;
mod tools;
mod upstream;

/// What all bridges of a process share. A clone is the same.
#[derive(Clone)]
pub struct McpBridge(Arc<Shared>);

struct Shared {
    keys: Keys,
    eras: Eras,
    tools: Tools,
    exchanges: Slots,
    older: Arc<older::Memory>,
    newer: Arc<newer::Memory>,
}

impl McpBridge {
    /// A bridge that seals with these keys and holds no more than this.
    pub fn new(keys: Keys, limits: Limits) -> Self {
        Self(Arc::new(Shared {
            keys,
            eras: Eras::default(),
            tools: Tools::default(),
            exchanges: Slots::new(limits.exchanges, limits.exchanges_per_subject),
            older: Arc::new(older::Memory::new(limits.sessions)),
            newer: Arc::new(newer::Memory::new(limits)),
        }))
    }
}

impl fmt::Debug for McpBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("McpBridge")
    }
}

/// Bridges the MCP endpoint of a host.
#[derive(Debug, Clone)]
pub struct McpBridgeLayer {
    bridge: McpBridge,
    settings: Arc<Settings>,
}

impl McpBridgeLayer {
    /// A layer for the host with these settings.
    pub fn new(bridge: McpBridge, settings: Settings) -> Self {
        Self { bridge, settings: Arc::new(settings) }
    }
}

impl<S> Layer<S> for McpBridgeLayer
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    type Service = Bridged;

    fn layer(&self, inner: S) -> Bridged {
        Bridged {
            bridge: self.bridge.clone(),
            settings: Arc::clone(&self.settings),
            // One exchange calls it many times, and may outlive the call that began it.
            upstream: HttpService::new(inner),
        }
    }
}

/// A service behind a bridge, by [`McpBridgeLayer`].
#[derive(Debug, Clone)]
pub struct Bridged {
    bridge: McpBridge,
    settings: Arc<Settings>,
    upstream: HttpService,
}

impl Service<Request> for Bridged {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let of_mcp = matches!(*request.method(), Method::POST | Method::GET | Method::DELETE);
        let is = |path: &str| path.trim_end_matches('/') == self.settings.endpoint.trim_end_matches('/');
        if !of_mcp || !is(request.uri().path()) {
            return self.upstream.call(request);
        }
        let bridged = self.clone();
        Box::pin(async move { bridged.answer(request).await })
    }
}

/// On whose behalf the upstream is asked, and with what.
#[derive(Clone)]
struct Caller {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    upstream: Upstream,
    subject: Subject,
}

/// Whose sessions and states these are.
#[derive(Clone)]
struct Subject {
    /// The user's full name; empty where nobody logs in.
    name: SmolStr,
    /// For limits, and for what may be shared: users, or addresses where nobody logs in.
    bucket: SmolStr,
}

impl Subject {
    fn of(parts: &Parts) -> Self {
        let context = RequestContext::get(&parts.extensions);
        let principal = context.and_then(|context| context.principal.as_ref());
        let name = principal.map(|principal| SmolStr::from(principal.full_subject())).unwrap_or_default();
        let address = context.and_then(RequestContext::client_addr);
        let bucket = match address {
            // No user has such a name: addresses begin with a space here.
            Some(address) if name.is_empty() => format_smolstr!(" {}", address.network()),
            _ => name.clone(),
        };
        Self { name, bucket }
    }
}

impl Bridged {
    async fn answer(self, request: Request) -> Result<Response, BoxError> {
        let facts = RequestContext::get(request.extensions()).and_then(|context| context.facts.clone());
        let mut response = self.carried(request).await?;
        if let Some(Word(word)) = response.extensions_mut().remove()
            && let Some(facts) = facts
        {
            let _first_writer_wins = facts.code.set(word);
        }
        Ok(response)
    }

    async fn carried(&self, request: Request) -> Result<Response, BoxError> {
        let (parts, body) = request.into_parts();
        let upstream = || Upstream::new(&self.upstream, &parts, self.settings.max_message);
        let speaks = self.bridge.0.eras.of(&self.settings, upstream).await;
        let caller = || Caller {
            shared: Arc::clone(&self.bridge.0),
            settings: Arc::clone(&self.settings),
            upstream: upstream(),
            subject: Subject::of(&parts),
        };
        let said = Said::by(&parts);
        match (speaks, said) {
            (Speaks::Modern(discovered), Said::Legacy) => match parts.method {
                Method::POST => {
                    let message = match self.message(&parts, body).await? {
                        Ok(message) => message,
                        Err(failure) => return Ok(failure.response(&Value::Null)),
                    };
                    older::post(caller(), &parts, message, &discovered).await
                }
                Method::DELETE => Ok(older::delete(&caller(), &parts)),
                _ => older::get(caller(), &parts, &discovered).await,
            },
            (Speaks::Modern(discovered), Said::Nothing) if parts.method == Method::POST => {
                let bytes = match read_body(body, self.settings.max_message).await {
                    Ok(bytes) => bytes,
                    Err(stop) => return stop.response(&Value::Null),
                };
                // What is no message is the server's to refuse.
                let old = Message::parse(&bytes)
                    .ok()
                    .filter(|message| is_json(&parts) && Said::by_message(message) == Said::Legacy);
                match old {
                    Some(message) => older::post(caller(), &parts, message, &discovered).await,
                    None => self.pass(Request::from_parts(parts, bytes.into())).await,
                }
            }
            (Speaks::Legacy, Said::Modern) => match parts.method {
                Method::POST => {
                    let message = match self.message(&parts, body).await? {
                        Ok(message) => message,
                        Err(failure) => return Ok(failure.response(&Value::Null)),
                    };
                    newer::post(caller(), &parts, message).await
                }
                _ => Ok(no_such_method()),
            },
            (speaks, said) => {
                let post = parts.method == Method::POST;
                let first = post && !parts.headers.contains_key(protocol::header::SESSION);
                let response = self.pass(Request::from_parts(parts, body)).await?;
                // The beginning of what both were thought to speak fails: it may be something else by now.
                let refused = matches!(
                    response.status(),
                    StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
                );
                let known = matches!(
                    (speaks, said),
                    (Speaks::Modern(_), Said::Modern) | (Speaks::Legacy, Said::Legacy | Said::Nothing)
                );
                if first && known && refused {
                    self.bridge.0.eras.doubt(&self.settings);
                }
                Ok(response)
            }
        }
    }

    async fn pass(&self, request: Request) -> Result<Response, BoxError> {
        self.upstream.call(request).await
    }

    async fn message(&self, parts: &Parts, body: Body) -> Result<Result<Message, Failure>, BoxError> {
        if !is_json(parts) {
            return Ok(Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "mcp_no_json",
                code::INVALID_REQUEST,
                "messages are application/json without an encoding",
            )));
        }
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let limit = self.settings.max_message;
        // Who says that it is too long need not send it.
        let body = if length.is_some_and(|length: usize| length > limit) {
            Err(Stop::Failure(upstream::too_large(limit)))
        } else {
            read_body(body, limit).await
        };
        match body {
            Ok(bytes) => Ok(Message::parse(&bytes).map_err(rpc::NoMessage::failure)),
            Err(Stop::Error(error)) => Err(error),
            Err(stop) => Ok(Err(stop.failure())),
        }
    }
}

fn is_json(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") && !parts.headers.contains_key(CONTENT_ENCODING)
}

/// Clients of 2026-07-28 have one method of HTTP.
fn no_such_method() -> Response {
    let mut response = rpc::empty_response(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

/// Nobody waits for ever.
fn too_long() -> Failure {
    Failure::new(
        StatusCode::GATEWAY_TIMEOUT,
        "mcp_request_timeout",
        code::INTERNAL,
        "the request took longer than the gateway waits",
    )
}

/// The subject, or all of them, have as much under way as they may.
fn too_much() -> Failure {
    Failure::new(
        StatusCode::TOO_MANY_REQUESTS,
        "mcp_too_much_under_way",
        code::INTERNAL,
        "as much is under way as the gateway carries at once; try again later",
    )
}

#[cfg(test)]
mod tests;
