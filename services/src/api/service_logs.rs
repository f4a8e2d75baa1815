//! Following what the containers of a service write, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::StreamExt;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::events;
use super::input::{context, query};
use super::openapi::{parameter, security};
use super::problem::Problem;
use crate::config::{FieldError, ServiceName, field};
use crate::control::schema::{self, Field};
use crate::control::services::{LogsWanted, follow_logs, log_line};
use crate::control::{Access, Control, Error};

/// Where it answers.
pub const PATH: &str = "/services/{service_name}/logs/follow";

/// So many followers at once: each one holds a connection to the engine.
const FOLLOWERS: usize = 50;

/// Follows the logs of a service, for admins. The stream ends when the container does, or the caller's token.
pub(super) fn follow(control: Arc<Control>) -> MethodRouter {
    let fields: Arc<[Field]> = schema::fields_of::<LogsWanted>().into();
    let places = Arc::new(Semaphore::new(FOLLOWERS));
    get(move |request: Request| {
        let (control, fields, places) = (control.clone(), fields.clone(), places.clone());
        async move {
            match open(&control, &fields, places, request).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(),
            }
        }
    })
}

/// What it takes and gives, for OpenAPI.
pub(super) fn describe(generator: &mut SchemaGenerator) -> Value {
    let mut schema = <LogsWanted as schemars::JsonSchema>::json_schema(generator);
    let fields = schema.get_mut("properties").map(Value::take).unwrap_or_default();
    let name = <ServiceName as schemars::JsonSchema>::json_schema(generator).to_value();
    let mut parameters = vec![parameter("path", "service_name", name, true)];
    let fields = fields.as_object().cloned().unwrap_or_default();
    parameters.extend(fields.into_iter().map(|(name, schema)| parameter("query", &name, schema, false)));
    json!({
        "operationId": "follow_service_logs",
        "summary": "Follow what a Docker service writes",
        "description": "Follow what the containers of a Docker service write, as server-sent events: the `data` of each is \
                        a line. Needs the scope `admin`.\n\nOn the command line: `portcullis service logs NAME --follow`",
        "tags": ["service"],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Events until the service is deleted, the caller leaves, or its token ends",
                "content": { "text/event-stream": { "schema": { "type": "string" } } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
        "security": security(Access::Admin),
    })
}

async fn open(
    control: &Arc<Control>,
    fields: &[Field],
    places: Arc<Semaphore>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let ctx = context(&parts)?;
    ctx.caller.check(Access::Admin)?;
    let name = events::service(&parts, "/logs/follow")?;
    let mut input = Map::new();
    for (name, texts) in query(parts.uri.query().unwrap_or_default())? {
        let kind =
            fields.iter().find(|field| field.name == name).map_or(schema::Kind::Text, |field| field.kind);
        let value = schema::read_given(kind, &texts)
            .map_err(|detail| Error::invalid(FieldError::bare(name.as_str(), detail)))?;
        input.insert(name, value);
    }
    let wanted: LogsWanted = field::read(&Value::Object(input)).map_err(Error::invalid)?;
    let place = events::place(places, "the logs of services")?;
    let lines = follow_logs(control, &name, &wanted).await?;
    let lines = lines.map(move |line| {
        // Held as long as somebody follows.
        let _ = &place;
        Ok::<_, Infallible>(match line {
            // A carriage return would end the field, and then the event.
            Ok(line) => Event::default().data(log_line(line).trim_end_matches('\n').replace('\r', "")),
            Err(error) => Event::default().event("error").data(error.to_string()),
        })
    });
    Ok(events::answer_until_expiry(&ctx.caller, lines))
}
