//! An old client in front of a server of 2026-07-28.

use std::sync::Arc;

use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use self::exchange::Exchange;
pub(super) use self::memory::Memory;
use self::session::Session;
use self::standing::{Standing, uri_of};
use super::fresh::now;
use super::protocol::{LEGACY, LOG_LEVELS, code, header};
use super::rpc::{Answer, Failure, Message, Notification, Object, Request, empty_response, json_response};
use super::upstream::{Content, Stop, next_piece};
use super::{Caller, era, headers, too_long, too_much};
use crate::body::{BoxError, Response};

mod exchange;
mod memory;
mod session;
mod standing;
mod translate;

/// Answers a message of an old client; `discovered` is what the server has said of itself.
pub(super) async fn post(
    caller: Caller,
    parts: &Parts,
    message: Message,
    discovered: &Object,
) -> Result<Response, BoxError> {
    if let Message::Request(request) = &message
        && request.method == "initialize"
    {
        let initialized = timeout(caller.settings.request_time, initialize(&caller, request)).await;
        return match initialized.unwrap_or_else(|_| Err(too_long().into())) {
            Ok(response) => Ok(response),
            Err(stop) => stop.response(&request.id),
        };
    }
    let id = match &message {
        Message::Request(request) => request.id.clone(),
        Message::Notification(_) | Message::Answer(_) => Value::Null,
    };
    let session = match session_of(&caller, parts) {
        Ok(session) => session,
        Err(failure) => return Ok(failure.response(&id)),
    };
    match message {
        Message::Request(request) => call(caller, parts, session, request, discovered).await,
        Message::Notification(note) => {
            notify(&caller, &session, &note);
            Ok(empty_response(StatusCode::ACCEPTED))
        }
        Message::Answer(answer) => Ok(answered(&caller, &session, answer)),
    }
}

/// The standing stream of a session.
pub(super) async fn get(caller: Caller, parts: &Parts, discovered: &Object) -> Result<Response, BoxError> {
    let session = match session_of(&caller, parts) {
        Ok(session) => session,
        Err(failure) => return Ok(failure.response(&Value::Null)),
    };
    let capabilities = discovered.get("capabilities").cloned();
    if !translate::can_tell(capabilities.as_ref()) {
        return Ok(standing::none());
    }
    let Some(slot) = caller.shared.exchanges.take(&caller.subject.bucket) else {
        return Ok(too_much().response(&Value::Null));
    };
    let remembered = caller.shared.older.remember(&session, &caller.subject.bucket, now());
    Standing { caller, session: Arc::new(session), remembered, capabilities, _slot: slot }.response().await
}

/// The end of a session.
pub(super) fn delete(caller: &Caller, parts: &Parts) -> Response {
    match session_of(caller, parts) {
        Ok(session) => {
            caller.shared.older.end(&session, &caller.subject.bucket, now());
            empty_response(StatusCode::NO_CONTENT)
        }
        Err(failure) => failure.response(&Value::Null),
    }
}

fn session_of(caller: &Caller, parts: &Parts) -> Result<Session, Failure> {
    let Some(id) = parts.headers.get(header::SESSION) else {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "mcp_no_session",
            code::INVALID_REQUEST,
            "the request has no Mcp-Session-Id",
        ));
    };
    let opened = id.to_str().ok().and_then(|id| {
        let upstream = &caller.settings.upstream;
        Session::open(&caller.shared.keys, upstream, id, &caller.subject.name, now())
    });
    let session = opened.filter(|session| !caller.shared.older.has_ended(&session.nonce));
    // Clients begin anew then (2025-11-25, transports, "Session Management").
    let session = session.ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_FOUND,
            "mcp_session_unknown",
            code::INVALID_REQUEST,
            "the session is over or not yours",
        )
    })?;
    let version = parts.headers.get(header::VERSION);
    if version.is_none_or(|version| LEGACY.iter().any(|known| version == known)) {
        return Ok(session);
    }
    Err(Failure::new(
        StatusCode::BAD_REQUEST,
        "mcp_version",
        code::INVALID_REQUEST,
        "the protocol version is not one that the session could have",
    ))
}

async fn initialize(caller: &Caller, request: &Request) -> Result<Response, Stop> {
    let version = translate::negotiated(request.params.get("protocolVersion").and_then(Value::as_str));
    let capabilities = translate::capabilities(request.params.get("capabilities"));
    let session = Session::new(
        version,
        capabilities,
        request.params.get("clientInfo"),
        &caller.subject.name,
        now().saturating_add(caller.settings.session_age.as_secs()),
    );
    let Some(id) = session.seal(&caller.shared.keys, &caller.settings.upstream) else {
        return Err(Stop::Failure(Failure::new(
            StatusCode::BAD_REQUEST,
            "mcp_client_too_large",
            code::INVALID_PARAMS,
            "the client says more about itself than a session id can hold",
        )));
    };
    // Asked for this client, not taken from memory: the server may tell each what it may see.
    let discover = era::discover(&session.client_info, &Value::Object(session.capabilities.clone()));
    let discovered = match ask(caller, &discover).await?.outcome {
        Ok(discovered) => discovered,
        Err(error) => {
            caller.shared.eras.doubt(&caller.settings);
            return Err(Stop::Failure(Failure {
                status: StatusCode::OK,
                word: "mcp_discover_failed",
                error,
            }));
        }
    };
    let result = translate::initialize_result(&discovered, version);
    let answer = Answer { id: request.id.clone(), outcome: Ok(result) };
    let mut response = json_response(StatusCode::OK, &answer.to_value());
    let id = HeaderValue::try_from(id).expect("Base64 is a valid header value");
    response.headers_mut().insert(header::SESSION, id);
    Ok(response)
}

/// A request with one answer and nothing between.
async fn ask(caller: &Caller, request: &Request) -> Result<Answer, Stop> {
    let reply = caller.upstream.post(&request.to_value(), headers::of_request(request, &[])).await?;
    match reply.content {
        Content::Message(Message::Answer(answer)) => Ok(answer),
        Content::Events(mut events) => {
            while let Some(piece) = next_piece(&mut events).await? {
                if let Some(Message::Answer(answer)) = piece.message {
                    return Ok(answer);
                }
            }
            Err(super::upstream::unusable("the server ended its stream without an answer").into())
        }
        Content::Message(_) | Content::Other(_) => {
            caller.shared.eras.doubt(&caller.settings);
            Err(reply.stop())
        }
    }
}

async fn call(
    caller: Caller,
    parts: &Parts,
    mut session: Session,
    request: Request,
    discovered: &Object,
) -> Result<Response, BoxError> {
    let capabilities = discovered.get("capabilities");
    if let Some(answer) = answered_here(&caller, &session, &request, capabilities) {
        let answer = Answer { id: request.id, outcome: answer };
        return Ok(json_response(StatusCode::OK, &answer.to_value()));
    }
    if !takes_events(&parts.headers) {
        // Nothing can be asked of a client that does not read streams, so the server should not.
        session.capabilities = Object::new();
    }
    let memory = Arc::clone(&caller.shared.older);
    let Some(underway) = memory.begin(&session.nonce, &request.id) else {
        let failure = Failure::new(
            StatusCode::BAD_REQUEST,
            "mcp_id_in_use",
            code::INVALID_REQUEST,
            "a request with this id is under way",
        );
        return Ok(failure.response(&request.id));
    };
    let Some(slot) = caller.shared.exchanges.take(&caller.subject.bucket) else {
        return Ok(too_much().response(&request.id));
    };
    let level = memory.recall(&session.nonce).and_then(|remembered| remembered.level());
    let logging = capabilities.is_some_and(|all| all.get("logging").is_some());
    let modern = translate::request(&request, &session, level.as_deref(), logging);
    let session = Arc::new(session);
    Exchange { caller, session, memory, id: request.id, request: modern, underway, _slot: slot }
        .response()
        .await
}

fn takes_events(headers: &HeaderMap) -> bool {
    let accepted: Vec<_> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = accepted.join(",").to_ascii_lowercase();
    accepted.is_empty() || all.contains("text/event-stream") || all.contains("*/*")
}

/// The outcome of requests that the new revision has no more.
fn answered_here(
    caller: &Caller,
    session: &Session,
    request: &Request,
    capabilities: Option<&Value>,
) -> Option<Result<Object, Object>> {
    let remembered = || caller.shared.older.remember(session, &caller.subject.bucket, now());
    let unknown = || {
        let message = format!("the server has no {}", request.method);
        Err(super::rpc::error(code::METHOD_NOT_FOUND, message))
    };
    let invalid = |message: &str| Err(super::rpc::error(code::INVALID_PARAMS, message));
    let able = |what: &str| capabilities.is_some_and(|all| all.get(what).is_some());
    Some(match request.method.as_str() {
        "ping" => Ok(Object::new()),
        "logging/setLevel" if !able("logging") => unknown(),
        "logging/setLevel" => match request.params.get("level").and_then(Value::as_str) {
            Some(level) if LOG_LEVELS.contains(&level) => {
                remembered().set_level(level);
                Ok(Object::new())
            }
            _ => invalid("level is no level of log messages"),
        },
        "resources/subscribe" | "resources/unsubscribe" if !translate::can_subscribe(capabilities) => {
            unknown()
        }
        "resources/subscribe" => match uri_of(&request.params) {
            None => invalid("uri is missing"),
            Some(uri) if remembered().subscribe(uri) => Ok(Object::new()),
            Some(_) => invalid("the session is subscribed to as many resources as the gateway carries"),
        },
        "resources/unsubscribe" => match uri_of(&request.params) {
            None => invalid("uri is missing"),
            Some(uri) => {
                remembered().unsubscribe(uri);
                Ok(Object::new())
            }
        },
        // Tasks of 2025-11-25 are not those of the extension; subscriptions are the bridge's own.
        method if method.starts_with("tasks/") || method == "subscriptions/listen" => unknown(),
        _ => return None,
    })
}

fn notify(caller: &Caller, session: &Session, note: &Notification) {
    // The new revision has no notifications of clients over HTTP: this one closes a stream there, the rest ends here.
    if note.method == "notifications/cancelled"
        && let Some(id) = note.params.get("requestId")
    {
        caller.shared.older.cancel(&session.nonce, id);
    }
}

fn answered(caller: &Caller, session: &Session, answer: Answer) -> Response {
    if caller.shared.older.answer(&session.nonce, &answer.id, answer.outcome) {
        return empty_response(StatusCode::ACCEPTED);
    }
    let failure = Failure::new(
        StatusCode::BAD_REQUEST,
        "mcp_no_question",
        code::INVALID_REQUEST,
        "nobody waits here for this answer: the request that asked has ended, or runs on another node",
    );
    failure.with_data(json!({ "id": answer.id })).response(&Value::Null)
}
