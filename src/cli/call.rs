//! An operation as a request to the API.

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_services::control::commands::Asked;
use serde_json::{Map, Value};

/// What may stand in a path segment or a query value as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What may stand as it is where a value may be several segments.
const SEGMENTS: &AsciiSet = &UNRESERVED.remove(b'/').remove(b':');

/// A request to the API, ready to be sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

impl Call {
    /// Puts each field of the input where the endpoint wants it: path, else body, or the query where there is no body.
    pub(crate) fn of(asked: Asked<'_>) -> Self {
        let Asked { endpoint, input, .. } = asked;
        let mut fields = match input {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.retain(|_, value| {
            !value.is_null() || endpoint.method == Method::PUT || endpoint.method == Method::PATCH
        });
        let mut path = String::new();
        for segment in endpoint.path.split('/').skip(1) {
            path.push('/');
            match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => {
                    let bare = name.trim_start_matches('*');
                    let keep = if bare == name { UNRESERVED } else { SEGMENTS };
                    let value = fields.remove(bare).map(|value| plain(&value)).unwrap_or_default();
                    path.extend(utf8_percent_encode(&value, keep));
                }
                None => path.push_str(segment),
            }
        }
        let bodiless = endpoint.method == Method::GET || endpoint.method == Method::DELETE;
        if !bodiless {
            return Self { method: endpoint.method.clone(), path, body: Some(Value::Object(fields)) };
        }
        let query: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(&plain(value), UNRESERVED)))
            .collect();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        Self { method: endpoint.method.clone(), path, body: None }
    }
}

/// A value as text: lists with commas, anything deeper as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(|item| !item.is_object() && !item.is_array()) => {
            list.iter().map(plain).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
