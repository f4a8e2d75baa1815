//! Answers that are server-sent events (WHATWG HTML, section 9.2), for as long as the caller may have them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use crate::control::Caller;
use crate::logs::now;

/// How often a comment shows that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Answers with events.
pub(super) fn answer(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Other proxies between us and the reader must not gather events.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The same with events that end when the caller's token does.
pub(super) fn answer_until_expiry(
    caller: &Caller,
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    match caller {
        Caller::Principal(principal) if principal.expires_at > 0 => {
            let left = Duration::from_secs(principal.expires_at).saturating_sub(Duration::from_millis(now()));
            answer(events.take_until(Box::pin(tokio::time::sleep(left))))
        }
        Caller::Principal(_) | Caller::Local | Caller::Anonymous => answer(events),
    }
}

/// A place among those who follow something at once, if there is one left.
pub(super) fn place(places: Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Problem> {
    places.try_acquire_owned().map_err(|_| {
        let detail = format!("too many follow {what}: try again later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", detail)
    })
}

/// The service that a path names before its end.
#[cfg(feature = "docker")]
pub(super) fn service(
    parts: &http::request::Parts,
    end: &str,
) -> Result<crate::config::ServiceName, crate::control::Error> {
    use crate::config::FieldError;
    use crate::control::Error;

    let path = parts.uri.path().trim_end_matches('/');
    let name = path.strip_suffix(end).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    name.parse().map_err(|error: crate::config::names::Expected| {
        Error::invalid(FieldError::new("service_name", name, error.to_string()))
    })
}
