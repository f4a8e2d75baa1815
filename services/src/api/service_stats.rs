//! Following what the containers of a service use, as server-sent events: `follow=true` where one reading is answered.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use futures_util::StreamExt;
use http::{Method, Uri};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::events;
use super::input::{context, query};
use super::openapi::parameter;
use super::problem::Problem;
use crate::config::FieldError;
use crate::control::services::{Reading, ServiceStats, follow_stats};
use crate::control::{Control, Error};

/// Where it answers.
pub const PATH: &str = "/services/{service_name}/stats";

/// The field that asks for it.
const FOLLOW: &str = "follow";

/// So many followers at once: each one holds connections to the engine.
const FOLLOWERS: usize = 50;

/// Lets whoever asks for it follow; all others get what `methods` answer.
pub(super) fn or_follow(control: Arc<Control>, methods: MethodRouter) -> MethodRouter {
    let places = Arc::new(Semaphore::new(FOLLOWERS));
    methods.route_layer(from_fn(move |mut request: Request, next: Next| {
        let (control, places) = (Arc::clone(&control), Arc::clone(&places));
        async move {
            match wants_to_follow(&mut request) {
                Ok(false) => next.run(request).await,
                Ok(true) => open(&control, places, request).await.unwrap_or_else(IntoResponse::into_response),
                Err(problem) => problem.into_response(),
            }
        }
    }))
}

/// What it adds to the operation, for OpenAPI.
pub(super) fn describe(operation: &mut Value) {
    let schema = json!({
        "type": "boolean",
        "default": false,
        "description": "Go on with a reading of each container each second, as server-sent events: the `data` of each is \
                        one of `containers` as JSON, and an event `end` tells that a container has ended",
    });
    if let Some(parameters) = operation["parameters"].as_array_mut() {
        parameters.push(parameter("query", FOLLOW, schema, false));
    }
    operation["responses"]["200"]["content"]["text/event-stream"] = json!({ "schema": { "type": "string" } });
}

/// Whether the query asks for it; takes the field away, which the operation does not know.
fn wants_to_follow(request: &mut Request) -> Result<bool, Problem> {
    let asked = request.uri().query().unwrap_or_default();
    let fields = query(asked)?;
    let Some((_, texts)) = fields.iter().find(|(name, _)| name == FOLLOW) else { return Ok(false) };
    let follows = match texts.last().map(String::as_str) {
        Some("true") => request.method() == Method::GET,
        Some("false") => false,
        other => {
            let detail = "expected `true` or `false`";
            return Err(Error::invalid(FieldError::new(FOLLOW, other.unwrap_or_default(), detail)).into());
        }
    };
    if follows && let Some((name, _)) = fields.iter().find(|(name, _)| name != FOLLOW) {
        let detail = "is no field here: expected none beside `follow`";
        return Err(Error::invalid(FieldError::bare(name.as_str(), detail)).into());
    }
    let rest = asked.split('&').filter(|pair| pair.split('=').next() != Some(FOLLOW));
    let rest = format!("{}?{}", request.uri().path(), rest.collect::<Vec<_>>().join("&"));
    if let Ok(uri) = rest.trim_end_matches('?').parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    Ok(follows)
}

async fn open(control: &Arc<Control>, places: Arc<Semaphore>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let ctx = context(&parts)?;
    control.admit::<ServiceStats>(&ctx)?;
    let name = events::service(&parts, "/stats")?;
    let place = events::place(places, "what services use")?;
    let readings = follow_stats(control, &name).await?;
    let readings = readings.map(move |reading| {
        // Held as long as somebody follows.
        let _ = &place;
        Ok::<_, Infallible>(match reading {
            Ok(Reading::Used(one)) => match serde_json::to_string(&one) {
                Ok(text) => Event::default().data(text),
                Err(error) => Event::default().event("error").data(error.to_string()),
            },
            Ok(Reading::Ended(id)) => {
                Event::default().event("end").data(format!("the container {id} has ended"))
            }
            Err(error) => Event::default().event("error").data(error.to_string()),
        })
    });
    Ok(events::answer_until_expiry(&ctx.caller, readings))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn the_field_is_read_and_taken_away() {
        let asked = |uri: &str| {
            let mut request = Request::get(uri).body(Body::empty()).expect("a request");
            wants_to_follow(&mut request).map(|follows| (follows, request.uri().to_string()))
        };
        for (uri, follows, rest) in [
            ("/services/web/stats", false, "/services/web/stats"),
            ("/services/web/stats?follow=true", true, "/services/web/stats"),
            ("/services/web/stats?follow", true, "/services/web/stats"),
            ("/services/web/stats?follow=false&x=1", false, "/services/web/stats?x=1"),
        ] {
            let found = asked(uri).unwrap_or_else(|_| panic!("{uri}"));
            assert_eq!(found, (follows, rest.to_owned()), "{uri}");
        }
        for wrong in ["/services/web/stats?follow=maybe", "/services/web/stats?follow=true&lines=3"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
