//! The codes of JSON-RPC errors, and what a client is told in one.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use crate::access_log::escape;
use crate::rejection::Rejection;

/// The body is no JSON (JSON-RPC 2.0, section 5.1).
pub const PARSE: i64 = -32700;
/// The body is no valid message (JSON-RPC 2.0, section 5.1).
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method (JSON-RPC 2.0, section 5.1).
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The arguments can't be judged (JSON-RPC 2.0, section 5.1).
pub const INVALID_PARAMS: i64 = -32602;
/// The answer is of no use, or there is none (JSON-RPC 2.0, section 5.1).
pub const INTERNAL: i64 = -32603;
/// Headers and body disagree (Model Context Protocol, revision 2026-07-28).
pub const HEADER_MISMATCH: i64 = -32020;
/// The rules forbid the call. One of ours, from the range that JSON-RPC leaves to servers.
pub const FORBIDDEN: i64 = -32080;
/// Too many calls. One of ours.
pub const TOO_MANY: i64 = -32081;

/// One JSON-RPC error. `id` is JSON text; without one the member is left out, as revision 2026-07-28 has it.
pub fn document(id: Option<&str>, code: i64, message: &str) -> String {
    let mut out = Vec::with_capacity(96 + message.len());
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id.as_bytes());
        out.push(b',');
    }
    out.extend_from_slice(format!("\"error\":{{\"code\":{code},\"message\":\"").as_bytes());
    escape(&mut out, message);
    out.extend_from_slice(b"\"}}");
    String::from_utf8(out).expect("made of texts")
}

/// A refusal with JSON-RPC errors as its body, one or a batch of them.
pub fn rejection(status: StatusCode, word: &'static str, detail: String, body: String) -> Rejection {
    Rejection::new(status, word, detail).with_body(body).with_header(CONTENT_TYPE, JSON)
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_json_whatever_it_says() {
        let text = document(Some("\"a\""), FORBIDDEN, "not \"this\"\n");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["id"], "a");
        assert_eq!(value["error"]["message"], "not \"this\"\n");
        assert_eq!(value["error"]["code"], -32080);
        assert!(!document(None, PARSE, "x").contains("\"id\""));
    }
}
