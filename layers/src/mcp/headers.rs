//! Whether the headers of a request say the same as its body (revision 2026-07-28, Streamable HTTP, "Headers").
//!
//! Nothing here decides by a header. But what stands behind may, or another gateway before it: so one that says another
//! thing than the body is refused, in every revision. That they are *there* only 2026-07-28 asks for.
//!
//! Which argument a `Mcp-Param-*` header is about only the tool's schema says, so it has to be the text of *some*
//! argument; which one is for the server to check.

use std::borrow::Cow;
use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::message::{Message, Payload};
use super::rules::{Call, Object};

/// The revision that made these headers a duty, and did away with sessions. Revisions are dates and compare as texts.
pub(super) const FIRST_WITH_HEADERS: &str = "2026-07-28";
pub(super) const FIRST_WITHOUT_SESSIONS: &str = FIRST_WITH_HEADERS;
/// The last revision that had batches.
pub(super) const LAST_WITH_BATCHES: &str = "2025-03-26";

/// The revision of a request; absent: the client has not said, or speaks one that had no such header.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const PARAM: &str = "mcp-param-";
/// The most arguments that are repeated in headers.
const MAX_PARAMS: usize = 32;

/// A header.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Field<'a> {
    /// It is not there.
    #[default]
    Absent,
    /// It is there once.
    Once(&'a HeaderValue),
    /// It is there more than once.
    Often(&'a HeaderValue),
}

/// The headers of a request that matter here, found in one pass.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) content_type: Field<'a>,
    pub(super) content_encoding: Field<'a>,
    /// What a request is traced by.
    pub(super) traceparent: Field<'a>,
    /// The session of a request.
    pub(super) session: Field<'a>,
    pub(super) version: Field<'a>,
    method: Field<'a>,
    name: Field<'a>,
    params: Vec<(&'a HeaderName, &'a HeaderValue)>,
    /// Whether there is an `Accept-Encoding`.
    pub(super) accepts_encodings: bool,
}

impl<'a> Field<'a> {
    pub(super) const fn add(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(first) | Self::Often(first) => Self::Often(first),
        };
    }

    /// The first value.
    pub(super) const fn first(self) -> Option<&'a HeaderValue> {
        match self {
            Self::Absent => None,
            Self::Once(value) | Self::Often(value) => Some(value),
        }
    }

    /// The first value, if it is text.
    pub(super) fn text(self) -> Option<&'a str> {
        text(self.first()?)
    }

    /// The only value.
    pub(super) const fn only(self) -> Option<&'a HeaderValue> {
        match self {
            Self::Once(value) => Some(value),
            Self::Absent | Self::Often(_) => None,
        }
    }

    pub(super) const fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The text of the only value there may be.
    fn single(self, name: HeaderName) -> Result<Option<&'a str>, Disagreement> {
        match self {
            Self::Absent => Ok(None),
            Self::Once(value) => text(value).map(Some).ok_or(Disagreement::Unreadable(name)),
            Self::Often(_) => Err(Disagreement::Unreadable(name)),
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let mut all = Self::default();
        for (name, value) in headers {
            let field = match name.as_str() {
                "content-type" => &mut all.content_type,
                "content-encoding" => &mut all.content_encoding,
                "traceparent" => &mut all.traceparent,
                "mcp-session-id" => &mut all.session,
                "mcp-protocol-version" => &mut all.version,
                "mcp-method" => &mut all.method,
                "mcp-name" => &mut all.name,
                "accept-encoding" => {
                    all.accepts_encodings = true;
                    continue;
                }
                other => {
                    if other.starts_with(PARAM) {
                        all.params.push((name, value));
                    }
                    continue;
                }
            };
            field.add(value);
        }
        all
    }
}

/// The text of a value: printable ASCII. Not inlined: there are many short ones in many places.
#[inline(never)]
fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// Whether a parameter of a media type leaves it at UTF-8: it says so, or nothing about that.
pub(super) fn is_utf8(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let name = name.trim().to_ascii_lowercase();
    let value = value.trim().trim_matches('"').to_ascii_lowercase();
    // `charset*` is another way to say it (RFC 8187).
    !name.starts_with("charset") || name == "charset" && matches!(&*value, "utf-8" | "utf8")
}

/// Headers and body disagree (`-32020`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Disagreement {
    /// A header has to be there.
    #[error("the header {0} is missing")]
    Missing(HeaderName),
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
pub(super) fn agree(fields: &Fields<'_>, payload: &Payload<'_>) -> Result<(), Disagreement> {
    let version = fields.version.single(PROTOCOL_VERSION)?;
    let due = version.is_some_and(|version| version >= FIRST_WITH_HEADERS);
    let given = !fields.method.is_absent() || !fields.name.is_absent() || !fields.params.is_empty();
    for message in payload.messages() {
        let claimed = message.params.meta.as_ref().and_then(|meta| meta.version.as_deref());
        match (claimed, version) {
            (Some(claimed), Some(version)) if claimed != version => {
                return Err(Disagreement::Other(PROTOCOL_VERSION));
            }
            (Some(claimed), None) if claimed >= FIRST_WITH_HEADERS => {
                return Err(Disagreement::Missing(PROTOCOL_VERSION));
            }
            _ => {}
        }
        if (due || given) && !message.method.is_empty() {
            names(fields, message, due)?;
        }
    }
    Ok(())
}

fn names(fields: &Fields<'_>, message: &Message<'_>, due: bool) -> Result<(), Disagreement> {
    match fields.method.single(METHOD)? {
        Some(method) if method != message.method => return Err(Disagreement::Other(METHOD)),
        None if due => return Err(Disagreement::Missing(METHOD)),
        _ => {}
    }
    // A call without a name is refused elsewhere.
    let Ok(call) = Call::of(message) else { return Ok(()) };
    // A completion is about something that has a name, but is not named by it.
    let object = if message.method == "completion/complete" { Object::Nothing } else { call.object };
    match (fields.name.single(NAME)?, object.name()) {
        (Some(header), Some(name)) if decoded(header).as_deref() != Some(name) => {
            return Err(Disagreement::Other(NAME));
        }
        (None, Some(_)) if due => return Err(Disagreement::Missing(NAME)),
        _ => {}
    }
    params(&fields.params, &call)
}

/// Whether each repeated argument is among the arguments, all of them found in one pass.
fn params(fields: &[(&HeaderName, &HeaderValue)], call: &Call<'_>) -> Result<(), Disagreement> {
    if fields.is_empty() {
        return Ok(());
    }
    let mut wanted: HashMap<Cow<'_, str>, &HeaderName> = HashMap::new();
    for (at, (name, value)) in fields.iter().enumerate() {
        let other = || Disagreement::Other((*name).clone());
        if at == MAX_PARAMS {
            return Err(other());
        }
        if fields[..at].iter().any(|(before, _)| before == name) {
            return Err(Disagreement::Unreadable((*name).clone()));
        }
        let text = value.to_str().map_err(|_| Disagreement::Unreadable((*name).clone()))?;
        wanted.insert(decoded(text).ok_or_else(other)?, name);
    }
    if let Some(arguments) = call.arguments.as_ref().and_then(|arguments| arguments.read().ok().flatten()) {
        arguments.take_written(&mut wanted);
    }
    match wanted.into_values().next() {
        Some(name) => Err(Disagreement::Other(name.clone())),
        None => Ok(()),
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
        agree(&Fields::of(&map), &Payload::read(body.as_bytes()).expect("a message"))
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
            (vec![new, call], CALL, Err(Disagreement::Missing(NAME))),
            (vec![new, name], CALL, Err(Disagreement::Missing(METHOD))),
            (vec![call, name], CALL, Err(Disagreement::Missing(PROTOCOL_VERSION))),
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
