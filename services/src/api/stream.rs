//! Following a log live, as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::{Stream, StreamExt};
use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::input::{context, query};
use super::problem::Problem;
use crate::config::{FieldError, field};
use crate::control::logs::{Log, filter};
use crate::control::schema::{self, Field};
use crate::control::{Caller, Control, Error};
use crate::logs::{Search, now, parse_entry_id};

/// Where it answers.
pub const PATH: &str = "/logs/follow";

/// So many followers at once: each one reads the store.
const FOLLOWERS: usize = 100;

/// How often a comment shows that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Events = Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;

/// Follows a log: `log` says which, and the fields of a search say what of it. `Last-Event-ID` goes on
/// behind an event. The stream ends when the caller's token does.
pub(super) fn follow(control: Arc<Control>) -> MethodRouter {
    let fields: Arc<[Field]> = schema::fields_of::<Search>().into();
    let places = Arc::new(Semaphore::new(FOLLOWERS));
    get(move |request: Request| {
        let (control, fields, places) = (control.clone(), fields.clone(), places.clone());
        async move {
            match open(&control, &fields, places, request) {
                Ok(events) => answer(events),
                Err(problem) => problem.into_response(),
            }
        }
    })
}

fn answer(events: Events) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Other proxies between us and the reader must not gather events.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn open(
    control: &Arc<Control>,
    fields: &[Field],
    places: Arc<Semaphore>,
    request: Request,
) -> Result<Events, Problem> {
    let (parts, _) = request.into_parts();
    let ctx = context(&parts)?;
    let mut log = Log::default();
    let mut input = Map::new();
    for (name, texts) in query(parts.uri.query().unwrap_or_default())? {
        if name == "log" {
            let value = Value::from(texts.into_iter().next_back().unwrap_or_default());
            log = field::read(&value).map_err(|error| Error::invalid(error.within("log")))?;
            continue;
        }
        let kind =
            fields.iter().find(|field| field.name == name).map_or(schema::Kind::Text, |field| field.kind);
        let value = schema::read_given(kind, &texts)
            .map_err(|detail| Error::invalid(FieldError::bare(name.as_str(), detail)))?;
        input.insert(name, value);
    }
    ctx.caller.check(log.access())?;
    let search: Search = field::read(&Value::Object(input)).map_err(Error::invalid)?;
    let filter = filter(&search)?;
    let after = parts.headers.get("last-event-id").and_then(|id| parse_entry_id(id.to_str().ok()?));
    let place = places.try_acquire_owned().map_err(|_| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_followers",
            "too many follow the logs: try again later",
        )
    })?;

    let writer = match log {
        Log::Requests => &control.writers.requests,
        Log::Diagnostics => &control.writers.diagnostics,
        Log::Audit => &control.writers.audit,
    };
    let hits = crate::logs::follow(control.store.clone(), log.stream(), filter, after, writer.written());
    let events = hits.map(move |hit| {
        // Held as long as somebody follows.
        let _ = &place;
        Ok(match hit {
            Ok(hit) => Event::default().id(crate::logs::entry_id(hit.id)).data(hit.record.to_string()),
            Err(error) => Event::default().event("error").data(error.to_string()),
        })
    });
    Ok(match &ctx.caller {
        Caller::Principal(principal) if principal.expires_at > 0 => {
            let left = Duration::from_secs(principal.expires_at).saturating_sub(Duration::from_millis(now()));
            Box::pin(events.take_until(Box::pin(tokio::time::sleep(left))))
        }
        Caller::Principal(_) | Caller::Local | Caller::Anonymous => Box::pin(events),
    })
}
