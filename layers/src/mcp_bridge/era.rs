//! Which era a client speaks, and which the upstream.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};
use smol_str::SmolStr;
use tokio::time::{Instant, timeout};

use super::headers;
use super::protocol::{LEGACY, MODERN, code, header, is_modern, meta};
use super::rpc::{Message, Object, Request, code_of};
use super::settings::Settings;
use super::upstream::{Content, Reply, Upstream, next_piece};

/// Names of upstreams that are remembered. Hosts come and go; what is forgotten is asked for again.
const REMEMBERED: usize = 4096;

/// An answer that says nothing for certain counts for this long.
const DOUBT: Duration = Duration::from_secs(30);

/// What was learned counts at least this long, whatever answers say: or each request could make the bridge ask.
const LEAST_AGE: Duration = Duration::from_secs(5);

/// What the head of a client's request says of its era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Legacy,
    Modern,
    /// Only the body tells.
    Nothing,
}

impl Said {
    pub(super) fn by(parts: &Parts) -> Self {
        match parts.headers.get(header::VERSION).map(|version| version.to_str()) {
            Some(Ok(version)) if is_modern(version) => Self::Modern,
            Some(_) => Self::Legacy,
            // Servers of the new era give no session ids.
            None if parts.headers.contains_key(header::SESSION) => Self::Legacy,
            None => Self::Nothing,
        }
    }

    /// The same of a body, where the head says nothing.
    pub(super) fn by_message(message: &Message) -> Self {
        match message {
            Message::Request(request) if request.method != "initialize" => {
                match request.meta().and_then(|meta| meta.get(meta::VERSION)) {
                    Some(_) => Self::Modern,
                    None => Self::Legacy,
                }
            }
            _ => Self::Legacy,
        }
    }
}

/// What the upstream speaks.
#[derive(Debug, Clone)]
pub(super) enum Speaks {
    Legacy,
    /// The new era and no other; with its answer to `server/discover`.
    Modern(Arc<Object>),
    /// Every client's own.
    Both,
    /// It would not say: clients see for themselves.
    Unknown,
}

/// What the upstreams speak, as it was when they were last asked.
#[derive(Default)]
pub(super) struct Eras(Mutex<HashMap<SmolStr, Arc<Kept>>>);

#[derive(Default)]
struct Kept {
    known: Mutex<Option<Known>>,
    /// Held while the upstream is asked: who waits for it finds what came of it.
    asking: tokio::sync::Mutex<()>,
}

struct Known {
    speaks: Speaks,
    since: Instant,
    until: Instant,
}

impl Eras {
    fn kept(&self, name: &SmolStr) -> Arc<Kept> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED && !all.contains_key(name) {
            all.clear();
        }
        Arc::clone(all.entry(name.clone()).or_default())
    }

    /// What the upstream speaks; it is asked where that is not known.
    pub(super) async fn of(&self, settings: &Settings, upstream: impl FnOnce() -> Upstream) -> Speaks {
        let kept = self.kept(&settings.upstream);
        if let Some(speaks) = kept.now() {
            return speaks;
        }
        // Whoever waits longer than an answer takes goes on without one.
        let Ok(_asking) = timeout(settings.probe_time, kept.asking.lock()).await else {
            return Speaks::Unknown;
        };
        if let Some(speaks) = kept.now() {
            return speaks;
        }
        let (speaks, age) = match timeout(settings.probe_time, ask(&upstream())).await {
            Ok(Some(speaks)) => (speaks, settings.era_age),
            // It may be that it is not for this caller: what it said to another one holds on.
            Ok(None) => (kept.before().unwrap_or(Speaks::Unknown), LEAST_AGE),
            // Some old servers say nothing at all to what they don't know.
            Err(_) => (Speaks::Legacy, DOUBT),
        };
        let since = Instant::now();
        let known = Known { speaks: speaks.clone(), since, until: since + age };
        *kept.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        speaks
    }

    /// An answer does not fit what was learned: the upstream is asked again.
    pub(super) fn doubt(&self, settings: &Settings) {
        let kept = self.kept(&settings.upstream);
        let mut known = kept.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *known {
            known.until = known.until.min(known.since + LEAST_AGE);
        }
    }
}

impl Kept {
    /// What was learned last, whether or not it still counts.
    fn before(&self) -> Option<Speaks> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|known| known.speaks.clone())
    }

    fn now(&self) -> Option<Speaks> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|known| Instant::now() < known.until).map(|known| known.speaks.clone())
    }
}

impl fmt::Debug for Eras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Eras")
    }
}

/// The request that asks a server of the new era what it is.
pub(super) fn discover(client_info: &Value, capabilities: &Value) -> Request {
    let params = json!({ "_meta": {
        meta::VERSION: MODERN, meta::CLIENT_INFO: client_info, meta::CAPABILITIES: capabilities,
    }});
    let params = if let Value::Object(params) = params { params } else { Object::new() };
    Request { id: 0.into(), method: "server/discover".to_owned(), params }
}

/// What the gateway calls itself where it asks for nobody.
pub(super) fn own_info() -> Value {
    json!({ "name": "portcullis", "version": env!("CARGO_PKG_VERSION") })
}

async fn ask(upstream: &Upstream) -> Option<Speaks> {
    let request = discover(&own_info(), &json!({}));
    let reply = upstream.post(&request.to_value(), headers::of_request(&request, &[])).await.ok()?;
    let status = reply.status;
    judge(status, answer_in(reply).await.as_ref())
}

async fn answer_in(reply: Reply) -> Option<Message> {
    match reply.content {
        Content::Message(message) => Some(message),
        Content::Other(_) => None,
        Content::Events(mut events) => loop {
            let piece = next_piece(&mut events).await.ok()??;
            if let Some(answer @ Message::Answer(_)) = piece.message {
                return Some(answer);
            }
        },
    }
}

/// What an answer to `server/discover` says; none where it says nothing about eras.
fn judge(status: StatusCode, message: Option<&Message>) -> Option<Speaks> {
    if let Some(Message::Answer(answer)) = message {
        match &answer.outcome {
            Ok(result) => {
                let versions = result.get("supportedVersions");
                return Some(match spoken(versions) {
                    (true, true) => Speaks::Both,
                    (true, false) => Speaks::Modern(Arc::new(result.clone())),
                    (false, _) => Speaks::Legacy,
                });
            }
            Err(error) => {
                let data = error.get("data");
                match code_of(error) {
                    Some(code::UNSUPPORTED_VERSION) => {
                        // Versions that the bridge does not know are none that it could carry anything to.
                        let (_, old) = spoken(data.and_then(|data| data.get("supported")));
                        return Some(if old { Speaks::Legacy } else { Speaks::Both });
                    }
                    // Only servers of the new era answer so, but about the request and not about the era.
                    Some(code::HEADER_MISMATCH | code::MISSING_CAPABILITY) => return None,
                    _ => {}
                }
            }
        }
    }
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => None,
        status if status.is_client_error() || status.is_success() => Some(Speaks::Legacy),
        _ => None,
    }
}

/// Whether there is the new revision among these, and an old one.
fn spoken(versions: Option<&Value>) -> (bool, bool) {
    let versions = versions.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    versions.fold((false, false), |(new, old), version| {
        (new || version == MODERN, old || LEGACY.contains(&version))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(headers: &[(&str, &str)]) -> Said {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Said::by(&request.body(()).expect("valid").into_parts().0)
    }

    #[test]
    fn the_head_of_a_request_tells_its_era() {
        assert_eq!(said(&[("MCP-Protocol-Version", "2026-07-28")]), Said::Modern);
        assert_eq!(said(&[("MCP-Protocol-Version", "2025-06-18")]), Said::Legacy);
        assert_eq!(said(&[("Mcp-Session-Id", "x")]), Said::Legacy);
        let both = [("Mcp-Session-Id", "x"), ("MCP-Protocol-Version", "2026-07-28")];
        assert_eq!(said(&both), Said::Modern, "servers of the new era ignore session ids");
        assert_eq!(said(&[]), Said::Nothing);
    }

    #[test]
    fn a_body_tells_its_era() {
        for (method, meta, expected) in [
            ("initialize", json!({}), Said::Legacy),
            ("initialize", json!({ meta::VERSION: MODERN }), Said::Legacy),
            ("tools/list", json!({}), Said::Legacy),
            ("tools/list", json!({ meta::VERSION: MODERN }), Said::Modern),
        ] {
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": { "_meta": meta } });
            assert_eq!(Said::by_message(&Message::of(message).expect("a message")), expected, "{method}");
        }
    }

    fn judged(status: u16, answer: &Value) -> &'static str {
        let message = Message::of(answer.clone()).ok();
        match judge(StatusCode::from_u16(status).expect("valid"), message.as_ref()) {
            Some(Speaks::Legacy) => "legacy",
            Some(Speaks::Modern(_)) => "modern",
            Some(Speaks::Both) => "both",
            Some(Speaks::Unknown) | None => "unknown",
        }
    }

    #[test]
    fn an_answer_to_the_question_tells_the_era() {
        let versions =
            |list: &[&str]| json!({ "jsonrpc": "2.0", "id": 0, "result": { "supportedVersions": list } });
        let error = |code: i64, data: Value| json!({ "jsonrpc": "2.0", "id": 0, "error": { "code": code, "message": "", "data": data } });
        for (status, answer, expected) in [
            (200, versions(&[MODERN]), "modern"),
            (200, versions(&[MODERN, "2025-11-25"]), "both"),
            (200, versions(&["2025-11-25"]), "legacy"),
            (200, versions(&[]), "legacy"),
            (400, error(code::UNSUPPORTED_VERSION, json!({ "supported": ["2025-06-18"] })), "legacy"),
            (400, error(code::UNSUPPORTED_VERSION, json!({ "supported": ["2028-01-01"] })), "both"),
            (400, error(code::HEADER_MISMATCH, json!(null)), "unknown"),
            (404, error(code::METHOD_NOT_FOUND, json!(null)), "legacy"),
            (200, error(code::METHOD_NOT_FOUND, json!(null)), "legacy"),
            (400, error(-32000, json!(null)), "legacy"),
            (400, json!(null), "legacy"),
            (404, json!(null), "legacy"),
            (405, json!(null), "legacy"),
            (202, json!(null), "legacy"),
            (401, json!(null), "unknown"),
            (403, error(-32000, json!(null)), "unknown"),
            (429, json!(null), "unknown"),
            (302, json!(null), "unknown"),
            (500, json!(null), "unknown"),
            (503, json!(null), "unknown"),
        ] {
            assert_eq!(judged(status, &answer), expected, "{status} {answer}");
        }
    }
}
