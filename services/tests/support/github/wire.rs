//! Forms, and what answers look like.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value, json};

/// Fields as JSON or XML, if that is what is accepted; else as a form.
pub(super) fn reply(headers: &HeaderMap, fields: Value) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        return Json(fields).into_response();
    }
    let fields: Map<String, Value> = serde_json::from_value(fields).unwrap();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if accept.contains("application/xml") {
        let fields =
            fields.iter().map(|(name, value)| format!("  <{name}>{}</{name}>\n", escape(&text(value))));
        let body = format!("<OAuth>\n{}</OAuth>\n", fields.collect::<String>());
        return ([(header::CONTENT_TYPE, "application/xml; charset=utf-8")], body).into_response();
    }
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", encode(&text(value)))).collect();
    let kind = "application/x-www-form-urlencoded; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], fields.join("&")).into_response()
}

pub(super) fn wrong_fields(error: &str, description: &str) -> Value {
    let more = format!("https://docs.github.com/apps/troubleshooting/#{}", error.replace('_', "-"));
    json!({ "error": error, "error_description": description, "error_uri": more })
}

/// An error of the token endpoint: with status 200.
pub(super) fn wrong(headers: &HeaderMap, error: &str, description: &str) -> Response {
    reply(headers, wrong_fields(error, description))
}

pub(super) fn message(text: &str) -> Value {
    json!({ "message": text, "documentation_url": "https://docs.github.com/rest" })
}

pub(super) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(message("Not Found"))).into_response()
}

pub(super) fn redirect(uri: &str, parameters: &[(&str, &str)]) -> Response {
    let parameters = parameters.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<_> = parameters.map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let separator = if uri.contains('?') { '&' } else { '?' };
    let to = format!("{uri}{separator}{}", query.join("&"));
    (StatusCode::FOUND, [(header::LOCATION, to)], Body::empty()).into_response()
}

/// The scopes of a grant: those that there are, sorted, without what others imply.
pub(super) fn granted(scope: &str) -> Vec<String> {
    let known = ["read:org", "read:user", "user", "user:email"];
    let asked: Vec<_> = scope.split([' ', ',']).collect();
    let implied = |scope: &str| scope.contains("user") && scope != "user" && asked.contains(&"user");
    known
        .iter()
        .filter(|scope| asked.contains(scope) && !implied(scope))
        .map(|&scope| scope.to_owned())
        .collect()
}

/// The pairs of a query or a form.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(a, b)| (decode(a), decode(b)))
        .collect()
}

/// The value of a pair; empty when there is none.
pub fn field<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// So many random bytes in hexadecimal.
pub(super) fn random(bytes: usize) -> String {
    let mut all = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut all).unwrap();
    all.iter().map(|byte| format!("{byte:02x}")).collect()
}
