//! From a request to the input of an operation: path, query and body become one struct.

use axum::extract::{FromRequestParts, RawPathParams};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, IF_MATCH, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use portcullis_layers::RequestContext;
use serde_json::{Map, Value};

use super::problem::Problem;
use crate::config::{FieldError, field};
use crate::control::schema::{self, Field, Kind};
use crate::control::{Caller, Context, Error, Operation, Progress};

/// Reads the input of an operation. `tail` is what must still follow a field of the path that may have slashes.
pub(super) async fn read<O: Operation>(
    mut parts: Parts,
    body: axum::body::Body,
    fields: &[Field],
    tail: &str,
) -> Result<O, Problem> {
    let writes = parts.method != Method::GET && parts.method != Method::HEAD;
    let mut input = Map::new();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await.map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "bad_path", format!("the path can't be read: {error}"))
    })?;
    for (name, text) in &params {
        let text = text.strip_suffix('/').filter(|_| !tail.is_empty()).unwrap_or(text);
        let text = text.strip_suffix(tail).ok_or_else(|| {
            let detail =
                format!("there is nothing at {}: expected {tail} at its end, see /docs", parts.uri.path());
            Problem::new(StatusCode::NOT_FOUND, "no_such_path", detail)
        })?;
        put(&mut input, name, value(fields, name, vec![text.to_owned()])?)?;
    }
    for (name, texts) in query(parts.uri.query().unwrap_or_default())? {
        let value = value(fields, &name, texts)?;
        put(&mut input, &name, value)?;
    }
    if writes {
        for (name, value) in body_fields(&parts.headers, body, O::BODY_LIMIT).await? {
            put(&mut input, &name, value)?;
        }
    }
    Ok(field::read(&Value::Object(input)).map_err(Error::invalid)?)
}

/// The circumstances of a request. Identity comes from what the listener or the auth layer noted, never from headers.
pub(super) fn context(parts: &Parts) -> Result<Context, Problem> {
    let known = RequestContext::get(&parts.extensions);
    let caller = match parts.extensions.get::<Caller>() {
        Some(caller) => caller.clone(),
        None => known.and_then(|known| known.principal.clone()).map_or(Caller::Anonymous, Caller::Principal),
    };
    Ok(Context {
        client: known.and_then(RequestContext::client_addr).map(|client| client.ip()),
        request_id: known.and_then(|known| known.id).map(|id| id.to_string()),
        if_match: if_match(&parts.headers)?,
        progress: parts.extensions.get::<Progress>().cloned().unwrap_or_default(),
        ..Context::of(caller)
    })
}

/// The version in `If-Match`: ETags here are versions in quotes.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version =
        text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    version.map(Some).ok_or_else(|| {
        let detail = "expected one entity tag as the API gave it, such as \"3\"";
        Error::invalid(FieldError::new("If-Match", text, detail)).into()
    })
}

/// A page of another site must not use the reader's credentials here. JSON alone is no fence for requests without a body.
pub(super) fn refuse_cross_site(parts: &Parts) -> Result<(), Problem> {
    let refuse = || {
        let detail = "this request comes from a page of another site";
        Err(Problem::new(StatusCode::FORBIDDEN, "cross_site", detail))
    };
    if let Some(site) = parts.headers.get("sec-fetch-site") {
        return if site == "same-origin" || site == "none" { Ok(()) } else { refuse() };
    }
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let host = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| parts.headers.get(HOST).and_then(|host| host.to_str().ok()));
    match (authority, host) {
        (Some(authority), Some(host)) if authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => refuse(),
    }
}

/// Adds a field that may have been given elsewhere in the request, if both say the same.
fn put(input: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Problem> {
    let same = |a: &Value, b: &Value| match (a, b) {
        (Value::String(a), Value::String(b)) => a.eq_ignore_ascii_case(b),
        _ => a == b,
    };
    match input.get(name) {
        Some(present) if !same(present, &value) => {
            let detail = format!("is {present} in the path or the query: expected the same, or leave it out");
            Err(Error::invalid(FieldError::new(name, value, detail)).into())
        }
        Some(_) => Ok(()),
        None => {
            input.insert(name.to_owned(), value);
            Ok(())
        }
    }
}

fn value(fields: &[Field], name: &str, texts: Vec<String>) -> Result<Value, Problem> {
    let kind = fields.iter().find(|field| field.name == name).map_or(Kind::Text, |field| field.kind);
    schema::read_given(kind, &texts).map_err(|detail| {
        Error::invalid(FieldError::new(name, texts.into_iter().next_back().unwrap_or_default(), detail))
            .into()
    })
}

/// The fields of a query, in order, repeated ones together.
pub(super) fn query(query: &str) -> Result<Vec<(String, Vec<String>)>, Problem> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "bad_query", "the query is not UTF-8"))
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, "true"));
        let (name, text) = (decode(name)?, decode(text)?);
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, texts)) => texts.push(text),
            None => fields.push((name, vec![text])),
        }
    }
    Ok(fields)
}

/// The fields of a body: a JSON object, or nothing.
async fn body_fields(
    headers: &HeaderMap,
    body: axum::body::Body,
    limit: usize,
) -> Result<Map<String, Value>, Problem> {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    if kind.is_some_and(|kind| !is_json(kind)) {
        let detail = "expected application/json or application/merge-patch+json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Error::TooLarge { limit }.into());
    }
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Error::TooLarge { limit }.into()),
        Err(_) => return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", "the body broke off")),
    };
    if body.is_empty() {
        return Ok(Map::new());
    }
    if kind.is_none() {
        let detail = "a body needs a Content-Type: expected application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Error::invalid(FieldError::bare("", "expected a JSON object")).into()),
        Err(error) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is no JSON: {error}")))
        }
    }
}

fn is_json(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let fields = query("a=1&b=x+y%26z&a=2&flag").expect("valid");
        let expected = [("a", vec!["1", "2"]), ("b", vec!["x y&z"]), ("flag", vec!["true"])];
        let expected =
            expected.map(|(name, texts)| (name.to_owned(), texts.into_iter().map(str::to_owned).collect()));
        assert_eq!(fields, expected);
        assert!(query("a=%ff").is_err());
    }

    #[test]
    fn json_is_known_by_its_type() {
        for (kind, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("text/plain; application/json", false),
        ] {
            assert_eq!(is_json(kind), json, "{kind}");
        }
    }
}
