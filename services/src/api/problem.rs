//! Refusals as problem+json (RFC 9457).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::FieldError;
use crate::control::Error;

/// The body of a refusal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Problem {
    /// The meaning of the status, in words.
    pub title: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// A short, stable word for programs.
    pub code: &'static str,
    /// What is wrong, for people.
    pub detail: String,
    /// What is wrong with which field of the input.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The scopes of which one is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<&'static str>,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            scopes: Vec::new(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let mut problem = Self::new(error.status(), error.code(), error.to_string());
        match error {
            Error::Invalid(errors) => problem.errors = errors,
            Error::Forbidden { scopes } => problem.scopes = scopes,
            _ => {}
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("texts and numbers serialise");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match *response.status_mut() {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::FORBIDDEN if !self.scopes.is_empty() => {
                // RFC 6750, section 3.1: all scopes that would do it; the last one listed always does.
                let scope = self.scopes.last().copied().unwrap_or_default();
                let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
                if let Ok(challenge) = HeaderValue::try_from(challenge) {
                    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                }
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
