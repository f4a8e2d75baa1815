//! The session of an old client with a server that has none: what the client said at its beginning, in its id.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mcp_bridge::fresh::random_id;
use crate::mcp_bridge::rpc::Object;
use crate::sealed::{Keys, Purpose};

const KIND: &str = "session";

/// Larger descriptions of a client lose what is not needed to serve it: the id is a header of every request.
const LARGE: usize = 2048;

/// Members of a client's description that nobody needs to serve it.
const DECORATION: [&str; 4] = ["icons", "description", "websiteUrl", "title"];

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Session {
    /// Tells sessions apart.
    #[serde(rename = "n")]
    pub(super) nonce: String,
    /// The revision that was agreed on.
    #[serde(rename = "v")]
    pub(super) version: String,
    /// What the client can do, in the words of the new revision.
    #[serde(rename = "c")]
    pub(super) capabilities: Object,
    /// What the client calls itself.
    #[serde(rename = "i")]
    pub(super) client_info: Value,
    /// Whose session it is; empty where nobody logs in.
    #[serde(rename = "s")]
    pub(super) subject: String,
    /// Seconds since 1970.
    #[serde(rename = "e")]
    pub(super) expires: u64,
}

impl Session {
    pub(super) fn new(
        version: &str,
        mut capabilities: Object,
        client_info: Option<&Value>,
        subject: &str,
        expires: u64,
    ) -> Self {
        let mut client_info = client_info.and_then(Value::as_object).cloned().unwrap_or_default();
        if Value::Object(client_info.clone()).to_string().len() > LARGE {
            client_info.retain(|name, _| !DECORATION.contains(&name.as_str()));
        }
        if Value::Object(capabilities.clone()).to_string().len() > LARGE {
            capabilities.remove("experimental");
            capabilities.remove("extensions");
        }
        Self {
            nonce: random_id(),
            version: version.to_owned(),
            capabilities,
            client_info: Value::Object(client_info),
            subject: subject.to_owned(),
            expires,
        }
    }

    /// The id that the client gets. None for one that says too much about itself.
    pub(super) fn seal(&self, keys: &Keys, upstream: &str) -> Option<String> {
        keys.seal(Purpose { kind: KIND, upstream }, self)
    }

    /// The session of an id, if it is this subject's and not over.
    pub(super) fn open(keys: &Keys, upstream: &str, id: &str, subject: &str, now: u64) -> Option<Self> {
        let session: Self = keys.open(Purpose { kind: KIND, upstream }, id)?;
        (session.subject == subject && now < session.expires).then_some(session)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("version", &self.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys() -> Keys {
        Keys::new([&[3; 32]]).expect("a key")
    }

    fn sealed(client_info: &Value, capabilities: Value) -> Option<String> {
        let Value::Object(capabilities) = capabilities else { panic!("an object") };
        Session::new("2025-06-18", capabilities, Some(client_info), "ann", 100).seal(&keys(), "up")
    }

    #[test]
    fn a_session_opens_for_its_subject_and_upstream_until_it_is_over() {
        let id = sealed(&json!({ "name": "c" }), json!({ "roots": {} })).expect("small");
        let session = Session::open(&keys(), "up", &id, "ann", 99).expect("hers");
        assert_eq!((session.version.as_str(), &session.client_info), ("2025-06-18", &json!({ "name": "c" })));
        for (upstream, subject, now) in
            [("other", "ann", 99), ("up", "bob", 99), ("up", "", 99), ("up", "ann", 100)]
        {
            assert!(
                Session::open(&keys(), upstream, &id, subject, now).is_none(),
                "{upstream} {subject} {now}"
            );
        }
    }

    #[test]
    fn two_sessions_of_one_client_are_two() {
        let new = || Session::new("2025-06-18", Object::new(), None, "ann", 1);
        assert_ne!(new().nonce, new().nonce);
    }

    #[test]
    fn an_id_stays_small() {
        let long = "x".repeat(20_000);
        let id = sealed(
            &json!({ "name": "c", "icons": [{ "src": long }], "description": long }),
            json!({ "roots": {}, "experimental": { "x": { "y": long } } }),
        );
        let id = id.expect("what it needs is small");
        assert!(id.len() < 512, "{}", id.len());
        assert_eq!(sealed(&json!({ "name": long }), json!({})), None);
    }

    #[test]
    fn a_session_shows_nothing_of_its_client() {
        let session = Session::new("2025-06-18", Object::new(), None, "ann", 1);
        assert_eq!(format!("{session:?}"), "Session { version: \"2025-06-18\", .. }");
    }
}
