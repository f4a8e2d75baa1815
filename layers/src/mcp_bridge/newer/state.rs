//! The state that a client repeats when it answers an old server's questions: which exchange goes on, and where.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mcp_bridge::rpc::Request;
use crate::sealed::{Keys, Purpose};

const KIND: &str = "request state";

#[derive(Serialize, Deserialize)]
pub(super) struct State {
    /// The exchange that waits; none where the request is to be made once more.
    #[serde(rename = "x")]
    pub(super) exchange: Option<String>,
    /// How often the server has asked.
    #[serde(rename = "r")]
    pub(super) round: u32,
    /// The request that asked: the state is of use with no other.
    #[serde(rename = "d")]
    pub(super) request: String,
    /// Whose request it was; empty where nobody logs in.
    #[serde(rename = "s")]
    pub(super) subject: String,
    /// Seconds since 1970.
    #[serde(rename = "e")]
    pub(super) expires: u64,
}

impl State {
    pub(super) fn seal(&self, keys: &Keys, upstream: &str) -> Option<String> {
        keys.seal(Purpose { kind: KIND, upstream }, self)
    }

    /// The state in a request, if it is of this request, this subject's and not over.
    pub(super) fn open(
        keys: &Keys,
        upstream: &str,
        text: &str,
        request: &Request,
        subject: &str,
        now: u64,
    ) -> Option<Self> {
        let state: Self = keys.open(Purpose { kind: KIND, upstream }, text)?;
        let holds = state.subject == subject && now < state.expires && state.request == digest(request);
        holds.then_some(state)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("round", &self.round).finish_non_exhaustive()
    }
}

/// A digest of what makes a request the same: its method, and its parameters but for those that say who asks and what
/// was answered.
pub(super) fn digest(request: &Request) -> String {
    let mut context = Context::new(&SHA256);
    add(&mut context, &Value::from(request.method.as_str()));
    let mut names: Vec<_> = request.params.keys().collect();
    names.sort();
    for name in names {
        if !matches!(name.as_str(), "_meta" | "inputResponses" | "requestState") {
            add(&mut context, &Value::from(name.as_str()));
            add(&mut context, &request.params[name]);
        }
    }
    URL_SAFE_NO_PAD.encode(context.finish())
}

/// A digest of a value.
pub(super) fn fingerprint(value: &Value) -> String {
    let mut context = Context::new(&SHA256);
    add(&mut context, value);
    URL_SAFE_NO_PAD.encode(context.finish())
}

/// Adds a value so that the order of members does not matter, and no two values look alike.
fn add(context: &mut Context, value: &Value) {
    match value {
        Value::Array(items) => {
            context.update(b"[");
            items.iter().for_each(|item| add(context, item));
            context.update(b"]");
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            context.update(b"{");
            for (name, value) in members {
                add(context, &Value::from(name.as_str()));
                add(context, value);
            }
            context.update(b"}");
        }
        single => {
            context.update(single.to_string().as_bytes());
            context.update(b",");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(text: &str) -> Request {
        let params = serde_json::from_str(text).expect("an object");
        Request { id: 1.into(), method: "tools/call".into(), params }
    }

    #[test]
    fn a_repetition_is_the_same_request() {
        let first = request(r#"{"name":"run","arguments":{"a":1,"b":[2]},"_meta":{"progressToken":1}}"#);
        let again = request(
            r#"{"arguments":{"b":[2],"a":1},"name":"run","inputResponses":{"1":{}},"requestState":"s"}"#,
        );
        assert_eq!(digest(&first), digest(&again));
        for other in [
            r#"{"name":"run","arguments":{"a":1,"b":[3]}}"#,
            r#"{"name":"run","arguments":{"a":1,"b":2}}"#,
            r#"{"name":"other","arguments":{"a":1,"b":[2]}}"#,
            r#"{"name":"run"}"#,
        ] {
            assert_ne!(digest(&first), digest(&request(other)), "{other}");
        }
        let other = Request { method: "prompts/get".into(), ..request(r#"{"name":"run"}"#) };
        assert_ne!(digest(&other), digest(&request(r#"{"name":"run"}"#)));
    }

    #[test]
    fn a_state_opens_for_its_request_and_subject_until_it_is_over() {
        let keys = Keys::new([&[4; 32]]).expect("a key");
        let call = request(r#"{"name":"run"}"#);
        let state = State {
            exchange: Some("x".into()),
            round: 2,
            request: digest(&call),
            subject: "ann".into(),
            expires: 100,
        };
        let text = state.seal(&keys, "up").expect("small");
        let open = |upstream, call: &Request, subject, now| {
            State::open(&keys, upstream, &text, call, subject, now).map(|state| state.round)
        };
        assert_eq!(open("up", &call, "ann", 99), Some(2));
        assert_eq!(open("other", &call, "ann", 99), None);
        assert_eq!(open("up", &request(r#"{"name":"other"}"#), "ann", 99), None);
        assert_eq!(open("up", &call, "bob", 99), None);
        assert_eq!(open("up", &call, "ann", 100), None);
        assert!(!format!("{state:?}").contains("ann"));
        assert_eq!(json!(state.exchange), json!("x"));
    }
}
