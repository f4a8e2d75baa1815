//! Following a log live, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::StreamExt;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::events;
use super::input::{context, query};
use super::openapi::{parameter, security};
use super::problem::Problem;
use crate::config::{FieldError, field};
use crate::control::logs::{Log, filter};
use crate::control::schema::{self, Field};
use crate::control::{Control, Error};
use crate::logs::{Place, Search, Writer};

/// Where it answers.
pub const PATH: &str = "/logs/follow";

/// So many followers at once: each one reads the store.
const FOLLOWERS: usize = 100;

/// Fields of a search that mean nothing here.
pub const WINDOW: [&str; 6] = ["hours", "since", "until", "limit", "offset", "cursor"];

/// Follows a log: `log` says which, and the fields of a search say what of it. `Last-Event-ID` goes on
/// behind an event. The stream ends when the caller's token does.
pub(super) fn follow(control: Arc<Control>) -> MethodRouter {
    let fields: Arc<[Field]> = schema::fields_of::<Search>().into();
    let places = Arc::new(Semaphore::new(FOLLOWERS));
    get(move |request: Request| {
        let (control, fields, places) = (control.clone(), fields.clone(), places.clone());
        async move { open(&control, &fields, places, request).unwrap_or_else(IntoResponse::into_response) }
    })
}

/// What it takes and gives, for OpenAPI.
pub(super) fn describe(generator: &mut SchemaGenerator) -> Value {
    let mut schema = Search::json_schema(generator);
    let fields = schema.get_mut("properties").map(Value::take).unwrap_or_default();
    let log = Log::json_schema(generator).to_value();
    let fields = fields.as_object().cloned().unwrap_or_default().into_iter();
    // What comes is not in a window and not in pages.
    let fields = fields.filter(|(name, _)| !WINDOW.contains(&name.as_str()));
    let mut parameters = vec![parameter("query", "log", log, false)];
    parameters.extend(fields.map(|(name, schema)| parameter("query", &name, schema, false)));
    let after = json!({
        "type": "string",
        "description": "The id of the last event that was seen: goes on behind it.",
    });
    parameters.push(parameter("header", "Last-Event-ID", after, false));
    json!({
        "operationId": "follow_logs",
        "summary": "Follow a log live",
        "description": "Follow a log live, as server-sent events: the `data` of each is a record as JSON, its `id` can be \
                        sent back as `Last-Event-ID`. The logs `diagnostics`, `audit` and `oauth` need the scope `admin`.\n\n\
                        On the command line: `portcullis log follow`",
        "tags": ["log"],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Events until the caller leaves, or its token ends",
                "content": { "text/event-stream": { "schema": { "type": "string" } } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
        "security": security(Log::Requests.access()),
    })
}

fn open(
    control: &Arc<Control>,
    fields: &[Field],
    places: Arc<Semaphore>,
    request: Request,
) -> Result<Response, Problem> {
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
    let after = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<Place>().ok());
    let place = events::place(places, "the logs")?;

    let writers = &control.writers;
    let writers = match log {
        // Requests that are calls stand in the log of these.
        Log::Requests => vec![&writers.requests, &writers.mcp],
        Log::Diagnostics => vec![&writers.diagnostics],
        Log::Audit => vec![&writers.audit],
        Log::Oauth => vec![&writers.oauth],
        Log::Mcp => vec![&writers.mcp],
    };
    let written = writers.into_iter().map(Writer::written).collect();
    let hits = crate::logs::follow(control.store.clone(), log.stream(), filter, after.as_ref(), written);
    let hits = hits.map(move |hit| {
        // Held as long as somebody follows.
        let _ = &place;
        Ok::<_, Infallible>(match hit {
            Ok(followed) => Event::default().id(followed.place.to_string()).data(followed.record.to_string()),
            Err(error) => Event::default().event("error").data(error.to_string()),
        })
    });
    Ok(events::answer_until_expiry(&ctx.caller, hits))
}
