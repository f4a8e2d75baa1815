//! A client of 2026-07-28 in front of an old server.

use http::StatusCode;
use http::request::Parts;
use serde_json::Value;
use tokio::time::timeout;

use self::exchange::{Exchange, Finished, Step, gone};
pub(super) use self::memory::Memory;
use self::state::{State, digest};
use self::translate::About;
use super::fresh::{now, random_id};
use super::protocol::{MODERN, code, may_ask, meta};
use super::rpc::{Answer, Failure, Message, Object, Request, empty_response, json_response};
use super::stream::{Out, stream};
use super::upstream::{Stop, unusable};
use super::{Caller, headers, too_long, too_much};
use crate::body::{BoxError, Response};

mod exchange;
mod listen;
mod memory;
mod session;
mod source;
mod state;
mod translate;

/// Answers a message of a new client.
pub(super) async fn post(caller: Caller, parts: &Parts, message: Message) -> Result<Response, BoxError> {
    match message {
        Message::Request(request) => {
            let id = request.id.clone();
            let limit = caller.settings.request_time;
            let response = timeout(limit, call(caller, parts, request)).await;
            match response.unwrap_or_else(|_| Err(too_long().into())) {
                Ok(response) => Ok(response),
                Err(stop) => stop.response(&id),
            }
        }
        // The revision has none that mean anything over HTTP.
        Message::Notification(_) => Ok(empty_response(StatusCode::ACCEPTED)),
        Message::Answer(_) => {
            let failure = Failure::new(
                StatusCode::BAD_REQUEST,
                "mcp_unasked_answer",
                code::INVALID_REQUEST,
                "clients of this revision send no answers",
            );
            Ok(failure.response(&Value::Null))
        }
    }
}

async fn call(caller: Caller, parts: &Parts, request: Request) -> Result<Response, Stop> {
    headers::check(&parts.headers, &request)?;
    // Old servers know nothing of such headers; who gave the client the list of tools has to look after them.
    let params = caller.shared.tools.params(&caller.settings.upstream, &request);
    headers::check_params(&parts.headers, &request, &params)?;
    let version = request.meta().and_then(|about| about.get(meta::VERSION)).and_then(Value::as_str);
    if version != Some(MODERN) {
        return Err(unsupported(version.unwrap_or_default()).into());
    }
    if !translate::is_known(&request.method) {
        return Err(Stop::Failure(Failure::new(
            StatusCode::NOT_FOUND,
            "mcp_unknown_method",
            code::METHOD_NOT_FOUND,
            format!("there is no {} in this revision", request.method),
        )));
    }
    let about = About::of(&request).ok_or_else(|| invalid("the log level is none that there is"))?;
    if request.method == "server/discover" {
        return discover(&caller, &request, &about).await;
    }
    let state = request.params.get("requestState").and_then(Value::as_str);
    if let Some(state) = state {
        return go_on(&caller, &request, state).await;
    }
    let slot = caller.shared.exchanges.take(&caller.subject.bucket).ok_or_else(too_much)?;
    if request.method == "subscriptions/listen" {
        return listen::listen(&caller, &request, &about, slot).await;
    }
    let exchange = Exchange::begin(&caller, request.clone(), about, slot).await?;
    answer(caller, request, exchange).await
}

fn unsupported(version: &str) -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        "mcp_version",
        code::UNSUPPORTED_VERSION,
        "the protocol version is not supported",
    )
    .with_data(serde_json::json!({ "supported": [MODERN], "requested": version }))
}

fn invalid(why: &'static str) -> Failure {
    Failure::new(StatusCode::OK, "mcp_invalid_params", code::INVALID_PARAMS, why)
}

async fn discover(caller: &Caller, request: &Request, about: &About) -> Result<Response, Stop> {
    let memory = &caller.shared.newer;
    let (session, key) = memory.lease(caller, about).await?;
    let result = translate::discover_result(&session.initialized, session.version);
    memory.give_back(key, session, caller.settings.idle);
    let answer = Answer { id: request.id.clone(), outcome: Ok(result) };
    Ok(json_response(StatusCode::OK, &answer.to_value()))
}

/// A request that repeats an earlier one with what the server wanted to know.
async fn go_on(caller: &Caller, request: &Request, state: &str) -> Result<Response, Stop> {
    let upstream = &caller.settings.upstream;
    let subject = &caller.subject.name;
    let state =
        State::open(&caller.shared.keys, upstream, state, request, subject, now()).ok_or_else(gone)?;
    let responses = match request.params.get("inputResponses") {
        None => Object::new(),
        Some(Value::Object(responses)) => responses.clone(),
        Some(_) => return Err(invalid("inputResponses is no object").into()),
    };
    let Some(id) = state.exchange else { return repeat(caller, request, &state, &responses).await };
    let mut exchange = caller.shared.newer.unpark(&id, state.round).ok_or_else(gone)?;
    if let Err(failure) = exchange.check(&responses) {
        // It can be answered better.
        caller.shared.newer.park(id, exchange, caller.settings.input_time);
        return Err(failure.into());
    }
    exchange.answered(caller, request, responses).await?;
    answer(caller.clone(), request.clone(), exchange).await
}

/// The links were opened: the request is made anew.
async fn repeat(
    caller: &Caller,
    request: &Request,
    state: &State,
    responses: &Object,
) -> Result<Response, Stop> {
    let accepted = |response: &Value| response.get("action").is_some_and(|action| action == "accept");
    if responses.is_empty() || !responses.values().all(accepted) {
        return Err(invalid("the links that the server needs to be opened were not").into());
    }
    let about = About::of(request).ok_or_else(|| invalid("the log level is none that there is"))?;
    let slot = caller.shared.exchanges.take(&caller.subject.bucket).ok_or_else(too_much)?;
    let mut exchange = Exchange::begin(caller, request.clone(), about, slot).await?;
    exchange.round = state.round;
    answer(caller.clone(), request.clone(), exchange).await
}

/// The response: a message where that is all, else a stream.
async fn answer(caller: Caller, request: Request, mut exchange: Exchange) -> Result<Response, Stop> {
    let limit = caller.settings.request_time;
    let first = exchange.next(&caller).await?;
    let Step::Note(first) = first else {
        let (status, message) = last(&caller, &request, exchange, first)?;
        return Ok(json_response(status, &message));
    };
    Ok(stream(caller.settings.keep_alive, |out| async move {
        let id = request.id.clone();
        out.send(&first).await;
        let end = timeout(limit, follow(&caller, request, exchange, &out)).await;
        let message = end.unwrap_or_else(|_| Err(too_long())).unwrap_or_else(|failure| failure.answer(&id));
        out.send(&message).await;
    }))
}

async fn follow(
    caller: &Caller,
    request: Request,
    mut exchange: Exchange,
    out: &Out,
) -> Result<Value, Failure> {
    loop {
        match exchange.next(caller).await.map_err(Stop::failure)? {
            Step::Note(note) => out.send(&note).await,
            step => return last(caller, &request, exchange, step).map(|(_, message)| message),
        }
    }
}

/// The message that ends the client's request.
fn last(
    caller: &Caller,
    request: &Request,
    mut exchange: Exchange,
    step: Step,
) -> Result<(StatusCode, Value), Failure> {
    let (status, outcome) = match step {
        Step::Done(outcome) => {
            let round = exchange.round;
            match exchange.finish(caller, outcome) {
                Finished::Answer(status, outcome) => (status, outcome),
                Finished::Links(links) if round < caller.settings.rounds => {
                    let names = 1..=links.len();
                    let links = names.map(|name| name.to_string()).zip(links).collect();
                    let state = sealed(caller, request, None, round + 1)?;
                    (StatusCode::OK, Ok(translate::input_required(links, &state)))
                }
                Finished::Links(_) => {
                    return Err(unusable("the server wants links to be opened again and again"));
                }
            }
        }
        Step::Asked | Step::Note(_) => {
            debug_assert!(may_ask(&request.method), "only these take questions");
            let round = exchange.next_round(caller)?;
            let id = random_id();
            let state = sealed(caller, request, Some(id.clone()), round)?;
            let result = translate::input_required(exchange.questions(), &state);
            caller.shared.newer.park(id, exchange, caller.settings.input_time);
            (StatusCode::OK, Ok(result))
        }
    };
    Ok((status, Answer { id: request.id.clone(), outcome }.to_value()))
}

fn sealed(
    caller: &Caller,
    request: &Request,
    exchange: Option<String>,
    round: u32,
) -> Result<String, Failure> {
    let state = State {
        exchange,
        round,
        request: digest(request),
        subject: caller.subject.name.to_string(),
        // Whole seconds: it must not be over before the exchange is.
        expires: now().saturating_add(caller.settings.input_time.as_secs() + 1),
    };
    let sealed = state.seal(&caller.shared.keys, &caller.settings.upstream);
    sealed.ok_or_else(|| unusable("the state of the exchange can't be sealed"))
}
