//! Headers that repeat what a request of 2026-07-28 says in its body.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use super::protocol::{MODERN, code, header, meta};
use super::rpc::{Failure, Object, Request};

const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// How many parameters of one tool are repeated at most, and how deep they are looked for.
const MAX_PARAMS: usize = 32;
const MAX_DEPTH: usize = 8;

/// A parameter of a tool that is repeated in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Param {
    header: HeaderName,
    path: Vec<String>,
}

impl Param {
    /// How much it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        self.header.as_str().len() + self.path.iter().map(String::len).sum::<usize>()
    }

    /// Where it stands in the arguments of a call, if it does.
    fn value<'a>(&self, request: &'a Request) -> Option<&'a Value> {
        self.path.iter().try_fold(request.params.get("arguments")?, |at, key| at.get(key))
    }
}

/// The headers of a request to a server of 2026-07-28.
pub(super) fn of_request(request: &Request, params: &[Param]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3 + params.len());
    headers.insert(header::VERSION, HeaderValue::from_static(MODERN));
    headers.insert(header::METHOD, encoded(&request.method));
    if let Some(name) = request.name() {
        headers.insert(header::NAME, encoded(name));
    }
    for param in params {
        if let Some(text) = param.value(request).and_then(text_of) {
            headers.insert(param.header.clone(), encoded(&text));
        }
    }
    headers
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// A value as a header: as it is where that is safe, else its bytes in Base64.
fn encoded(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && text.trim_matches([' ', '\t']).len() == text.len()
        && !(text.starts_with(ENCODED.0) && text.ends_with(ENCODED.1));
    let value = if plain {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::try_from(format!("{}{}{}", ENCODED.0, STANDARD.encode(text), ENCODED.1))
    };
    value.expect("visible ASCII is a valid header value")
}

fn decoded(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    match text.strip_prefix(ENCODED.0).and_then(|rest| rest.strip_suffix(ENCODED.1)) {
        Some(base64) => String::from_utf8(STANDARD.decode(base64).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

/// The parameters that a tool's `inputSchema` wants repeated. Annotations that the protocol does not allow are not
/// followed: the server's own clients would not show such a tool at all.
pub(super) fn params_of(schema: &Value) -> Vec<Param> {
    let mut found = Vec::new();
    collect(schema, &mut Vec::new(), &mut found);
    let mut seen = HashSet::new();
    if found.iter().all(|param| seen.insert(param.header.clone())) { found } else { Vec::new() }
}

fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Param>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    if path.len() >= MAX_DEPTH {
        return;
    }
    for (name, property) in properties {
        path.push(name.clone());
        if let Some(wanted) = property.get("x-mcp-header").and_then(Value::as_str)
            && matches!(property.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean"))
            && !wanted.is_empty()
            && found.len() < MAX_PARAMS
            && let Ok(header) = format!("{}{wanted}", header::PARAM_PREFIX).parse()
        {
            found.push(Param { header, path: path.clone() });
        }
        collect(property, path, found);
        path.pop();
    }
}

/// Whether the headers of a request say what its body says, and the body says what each request has to: what a
/// server of 2026-07-28 checks before anything else.
pub(super) fn check(headers: &HeaderMap, request: &Request) -> Result<(), Failure> {
    let empty = Object::new();
    let meta = request.meta().unwrap_or(&empty);
    let version = meta.get(meta::VERSION).and_then(Value::as_str);
    let capabilities = meta.get(meta::CAPABILITIES).and_then(Value::as_object);
    let (Some(version), Some(_)) = (version, capabilities) else {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "mcp_no_meta",
            code::INVALID_PARAMS,
            format!("the request's _meta lacks {} or {}", meta::VERSION, meta::CAPABILITIES),
        ));
    };
    agree(headers, &header::VERSION, Some(version))?;
    agree(headers, &header::METHOD, Some(&request.method))?;
    agree(headers, &header::NAME, request.name())
}

/// Whether the parameters that a tool wants to be repeated are.
pub(super) fn check_params(headers: &HeaderMap, request: &Request, params: &[Param]) -> Result<(), Failure> {
    for param in params {
        match param.value(request).filter(|value| !value.is_null()) {
            // What no header can say has none, and none is missed.
            Some(value) => {
                if let Some(text) = text_of(value) {
                    agree(headers, &param.header, Some(&text))?;
                }
            }
            None if headers.contains_key(&param.header) => return Err(mismatch(&param.header)),
            None => {}
        }
    }
    Ok(())
}

fn agree(headers: &HeaderMap, name: &HeaderName, body: Option<&str>) -> Result<(), Failure> {
    let mut values = headers.get_all(name).iter();
    let said = values.next().map(decoded);
    // A name where the method has none says nothing that anybody would believe.
    if body.is_none() && *name == header::NAME {
        return Ok(());
    }
    if said.is_some_and(|said| said.as_deref() == body && body.is_some()) && values.next().is_none() {
        return Ok(());
    }
    Err(mismatch(name))
}

fn mismatch(name: &HeaderName) -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        "mcp_header_mismatch",
        code::HEADER_MISMATCH,
        format!("the header {name} is missing or differs from the body"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mcp_bridge::rpc::Message;

    fn request(method: &str, params: &Value) -> Request {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        match Message::of(message).expect("a message") {
            Message::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_encoded_as_the_specification_says() {
        for (text, expected) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("", ""),
        ] {
            let value = encoded(text);
            assert_eq!(value, expected, "{text}");
            assert_eq!(decoded(&value).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_request_says_its_method_name_and_parameters_in_headers() {
        let schema = json!({ "type": "object", "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "deep": { "type": "object", "properties": { "n": { "type": "integer", "x-mcp-header": "N" } } },
            "dry": { "type": "boolean", "x-mcp-header": "Dry" },
            "none": { "type": "string", "x-mcp-header": "None" },
            "float": { "type": "number", "x-mcp-header": "Float" },
            "list": { "type": "array", "items": { "properties": { "x": { "type": "string", "x-mcp-header": "X" } } } },
            "bad": { "type": "string", "x-mcp-header": "a b" },
        }});
        let request = request(
            "tools/call",
            &json!({ "name": "run", "arguments": {
                "region": "us-west1", "deep": { "n": -7 }, "dry": true, "none": null, "float": 1.5, "bad": "x"
            } }),
        );
        let headers = of_request(&request, &params_of(&schema));
        let mut found: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "mcp-method: \"tools/call\"",
                "mcp-name: \"run\"",
                "mcp-param-dry: \"true\"",
                "mcp-param-n: \"-7\"",
                "mcp-param-region: \"us-west1\"",
                "mcp-protocol-version: \"2026-07-28\"",
            ]
        );
    }

    #[test]
    fn parameters_that_want_the_same_header_get_none() {
        let schema = json!({ "properties": {
            "a": { "type": "string", "x-mcp-header": "Same" }, "b": { "type": "string", "x-mcp-header": "same" }
        }});
        assert_eq!(params_of(&schema), []);
    }

    #[test]
    fn parameters_must_be_repeated_as_they_are() {
        let schema = json!({ "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "n": { "type": "integer", "x-mcp-header": "N" },
        }});
        let params = params_of(&schema);
        let check = |arguments: Value, headers: &[(&'static str, &'static str)]| {
            let call = request("tools/call", &json!({ "name": "run", "arguments": arguments }));
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            check_params(&headers, &call, &params).map_err(|failure| failure.error["code"].clone())
        };
        let differs = Err(json!(code::HEADER_MISMATCH));
        let region = ("mcp-param-region", "eu");
        assert_eq!(check(json!({ "region": "eu", "n": 7 }), &[region, ("mcp-param-n", "7")]), Ok(()));
        assert_eq!(check(json!({ "region": "eu" }), &[("mcp-param-region", "=?base64?ZXU=?=")]), Ok(()));
        assert_eq!(check(json!({ "region": null }), &[]), Ok(()));
        assert_eq!(check(json!({ "n": 1.5 }), &[]), Ok(()), "no header can say it");
        assert_eq!(check(json!({}), &[]), Ok(()));
        assert_eq!(check(json!({ "region": "eu" }), &[]), differs, "missing");
        assert_eq!(check(json!({ "region": "us" }), &[region]), differs, "another one");
        assert_eq!(check(json!({}), &[region]), differs, "of nothing");
    }

    #[test]
    fn headers_must_say_what_the_body_says() {
        let meta = json!({ meta::VERSION: MODERN, meta::CAPABILITIES: {} });
        let call = request("tools/call", &json!({ "name": "run", "_meta": meta }));
        let good = of_request(&call, &[]);
        assert_eq!(check(&good, &call), Ok(()));
        for name in [header::VERSION, header::METHOD, header::NAME] {
            for value in [None, Some("other"), Some("=?base64?!?=")] {
                let mut headers = good.clone();
                headers.remove(&name);
                headers.extend(value.map(|value| (name.clone(), HeaderValue::from_static(value))));
                let failure = check(&headers, &call).expect_err("differs");
                assert_eq!(failure.error["code"], code::HEADER_MISMATCH, "{name}: {value:?}");
            }
            let mut twice = good.clone();
            twice.append(&name, HeaderValue::from_static("other"));
            assert!(check(&twice, &call).is_err(), "{name} twice");
        }
        let list = request("tools/list", &json!({ "_meta": meta }));
        assert_eq!(check(&of_request(&list, &[]), &list), Ok(()));
        for meta in [json!({}), json!({ meta::VERSION: MODERN }), json!({ meta::CAPABILITIES: {} })] {
            let list = request("tools/list", &json!({ "_meta": meta }));
            let failure = check(&of_request(&list, &[]), &list).expect_err("says too little");
            assert_eq!(failure.error["code"], code::INVALID_PARAMS);
        }
    }
}
