//! Whether the headers of a request say the same as its body (revision 2026-07-28, Streamable HTTP, "Headers").
//!
//! Nothing here decides by a header. But what stands behind may, or another gateway before it: so one that says another
//! thing than the body is refused, in every revision. That they are *there* only 2026-07-28 asks for.
//!
//! Which argument a `Mcp-Param-*` header is about only the tool's schema says, so it has to be the text of *some*
//! argument; which one is for the server to check.

use std::borrow::Cow;
use std::collections::HashMap;

use http::{HeaderMap, HeaderName};

use super::message::{Message, Payload};
use super::rules::{Call, Object};

/// The revision that made these headers a duty, and did away with sessions. Revisions are dates and compare as texts.
pub(super) const FIRST_WITH_HEADERS: &str = "2026-07-28";
pub(super) const FIRST_WITHOUT_SESSIONS: &str = FIRST_WITH_HEADERS;
/// The last revision that had batches.
pub(super) const LAST_WITH_BATCHES: &str = "2025-03-26";

/// The revision of a request; absent: the client has not said, or speaks one that had no such header.
pub(super) static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The session of a request.
pub(super) static SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// What a request is traced by.
pub(super) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

static METHOD: HeaderName = HeaderName::from_static("mcp-method");
static NAME: HeaderName = HeaderName::from_static("mcp-name");
const PARAM: &str = "mcp-param-";
/// The most arguments that are repeated in headers.
const MAX_PARAMS: usize = 32;

/// Headers and body disagree (`-32020`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Disagreement {
    /// A header has to be there.
    #[error("the header {0} is missing")]
    Missing(&'static HeaderName),
    /// A header is there more than once, or is no text.
    #[error("the header {0} is there more than once, or is not printable ASCII")]
    Unreadable(HeaderName),
    /// A header says something else than the body.
    #[error("the header {0} does not say what the body says")]
    Other(HeaderName),
}

/// Compares the headers of a POST with its body.
///
/// # Errors
///
/// The first header that says something else, or is missing.
pub(super) fn agree(headers: &HeaderMap, payload: &Payload<'_>) -> Result<(), Disagreement> {
    let version = single(headers, &PROTOCOL_VERSION)?;
    let due = version.is_some_and(|version| version >= FIRST_WITH_HEADERS);
    for message in payload.messages() {
        let claimed = message.params.meta.as_ref().and_then(|meta| meta.version.as_deref());
        match (claimed, version) {
            (Some(claimed), Some(version)) if claimed != version => {
                return Err(Disagreement::Other(PROTOCOL_VERSION.clone()));
            }
            (Some(claimed), None) if claimed >= FIRST_WITH_HEADERS => {
                return Err(Disagreement::Missing(&PROTOCOL_VERSION));
            }
            _ => {}
        }
        if !message.method.is_empty() {
            names(headers, message, due)?;
        }
    }
    Ok(())
}

fn names(headers: &HeaderMap, message: &Message<'_>, due: bool) -> Result<(), Disagreement> {
    match single(headers, &METHOD)? {
        Some(method) if method != message.method => return Err(Disagreement::Other(METHOD.clone())),
        None if due => return Err(Disagreement::Missing(&METHOD)),
        _ => {}
    }
    // A call without a name is refused elsewhere.
    let Ok(call) = Call::of(message) else { return Ok(()) };
    // A completion is about something that has a name, but is not named by it.
    let object = if message.method == "completion/complete" { Object::Nothing } else { call.object };
    match (single(headers, &NAME)?, object.name()) {
        (Some(header), Some(name)) if decoded(header).as_deref() != Some(name) => {
            return Err(Disagreement::Other(NAME.clone()));
        }
        (None, Some(_)) if due => return Err(Disagreement::Missing(&NAME)),
        _ => {}
    }
    params(headers, &call)
}

/// Whether each repeated argument is among the arguments, all of them found in one pass.
fn params(headers: &HeaderMap, call: &Call<'_>) -> Result<(), Disagreement> {
    let mut wanted: HashMap<Cow<'_, str>, &HeaderName> = HashMap::new();
    for name in headers.keys().filter(|name| name.as_str().starts_with(PARAM)) {
        let other = || Disagreement::Other(name.clone());
        let text = single(headers, name)?.and_then(decoded).ok_or_else(other)?;
        wanted.insert(text, name);
        if wanted.len() > MAX_PARAMS {
            return Err(other());
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    if let Some(arguments) = call.arguments.as_ref().and_then(|arguments| arguments.read().ok().flatten()) {
        arguments.take_written(&mut wanted);
    }
    match wanted.into_values().next() {
        Some(name) => Err(Disagreement::Other(name.clone())),
        None => Ok(()),
    }
}

/// The only value of a header.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Disagreement> {
    let mut values = headers.get_all(name).iter();
    let unreadable = || Disagreement::Unreadable(name.clone());
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| unreadable()),
        (Some(_), Some(_)) => Err(unreadable()),
    }
}

/// What a value stands for: `=?base64?…?=` is text that no header can hold.
fn decoded(value: &str) -> Option<Cow<'_, str>> {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(inner) => String::from_utf8(BASE64_STANDARD.decode(inner).ok()?).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&str, &str)], body: &str) -> Result<(), Disagreement> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, http::HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        agree(&map, &Payload::read(body.as_bytes()).expect("a message"))
    }

    #[test]
    fn headers_say_what_the_body_says_or_the_request_is_refused() {
        const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"weather",
            "arguments":{"where":{"city":"Zürich"},"days":3,"deep":true},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        const OLD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"weather","arguments":{"days":3}}}"#;
        const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        const READ: &str =
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///é"}}"#;
        const RESPONSE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let new = ("MCP-Protocol-Version", "2026-07-28");
        let old = ("MCP-Protocol-Version", "2025-11-25");
        let (call, name) = (("Mcp-Method", "tools/call"), ("Mcp-Name", "weather"));
        let other = |header: &str| Err(Disagreement::Other(header.parse().expect("a name")));
        let twice = |header: &str| Err(Disagreement::Unreadable(header.parse().expect("a name")));
        for (headers, body, expected) in [
            (vec![], OLD, Ok(())),
            (vec![old], OLD, Ok(())),
            (vec![old, call, name], OLD, Ok(())),
            (vec![new, call, name], CALL, Ok(())),
            (vec![new, call, name], OLD, Ok(())),
            (vec![new, ("Mcp-Method", "tools/list")], LIST, Ok(())),
            (vec![new], RESPONSE, Ok(())),
            (vec![new, call], CALL, Err(Disagreement::Missing(&NAME))),
            (vec![new, name], CALL, Err(Disagreement::Missing(&METHOD))),
            (vec![call, name], CALL, Err(Disagreement::Missing(&PROTOCOL_VERSION))),
            (vec![old, call, name], CALL, other(PROTOCOL_VERSION.as_str())),
            (vec![new, new, call, name], CALL, twice(PROTOCOL_VERSION.as_str())),
            (vec![new, call, call, name], CALL, twice(METHOD.as_str())),
            (vec![new, call, ("Mcp-Name", "other")], CALL, other(NAME.as_str())),
            (vec![new, call, ("Mcp-Name", "Weather")], CALL, other(NAME.as_str())),
            (vec![new, ("Mcp-Method", "TOOLS/CALL"), name], CALL, other(METHOD.as_str())),
            // Older revisions know none of them, but who stands behind might believe them.
            (vec![("Mcp-Method", "tools/list")], OLD, other(METHOD.as_str())),
            (vec![("Mcp-Name", "other")], OLD, other(NAME.as_str())),
            // Base64 for what no header can hold.
            (vec![new, call, ("Mcp-Name", "=?base64?d2VhdGhlcg==?=")], CALL, Ok(())),
            (vec![new, call, ("Mcp-Name", "=?base64?d2VhdGhlcg?=")], CALL, other(NAME.as_str())),
            (
                vec![new, ("Mcp-Method", "resources/read"), ("Mcp-Name", "=?base64?ZmlsZTovLy/DqQ==?=")],
                READ,
                Ok(()),
            ),
            (vec![new, call, name, ("Mcp-Param-Days", "3")], CALL, Ok(())),
            (vec![new, call, name, ("Mcp-Param-Deep", "true")], CALL, Ok(())),
            (vec![new, call, name, ("Mcp-Param-City", "=?base64?WsO8cmljaA==?=")], CALL, Ok(())),
            (vec![new, call, name, ("Mcp-Param-Days", "4")], CALL, other("mcp-param-days")),
            (vec![("Mcp-Param-Days", "4")], OLD, other("mcp-param-days")),
            (vec![("Mcp-Param-Days", "4")], LIST, other("mcp-param-days")),
        ] {
            assert_eq!(verdict(&headers, body), expected, "{headers:?} {body}");
        }
    }
}
