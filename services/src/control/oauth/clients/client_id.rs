//! The id of a client, and how it stands in a path.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands before the URL of a client in a path. No other id has it.
const ENCODED: char = '~';

/// The id of a client. In a path, that of a client that is known by the URL of its document is `~` and the URL in
/// base64url: encoded slashes are refused on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientId(String);

/// A text that is no id of a client.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("expected the id of a client: for one that is a URL, the URL, or ~ and the URL in base64url")]
pub struct InvalidClientId;

impl ClientId {
    /// The id as the client sends it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as it can stand in a path.
    pub(super) fn in_path(id: &str) -> Cow<'_, str> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if id.bytes().all(plain) {
            return Cow::Borrowed(id);
        }
        Cow::Owned(format!("{ENCODED}{}", BASE64.encode(id)))
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        let id = match text.strip_prefix(ENCODED) {
            Some(encoded) => {
                let bytes = BASE64.decode(encoded).map_err(|_| InvalidClientId)?;
                String::from_utf8(bytes).map_err(|_| InvalidClientId)?
            }
            None => text.to_owned(),
        };
        // As long as a URL may be.
        if id.is_empty() || id.len() > 2048 || id.chars().any(char::is_control) {
            return Err(InvalidClientId);
        }
        Ok(Self(id))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Self::in_path(&self.0))
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ClientId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ClientId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const URL: &str = "https://client.example/oauth/client.json";

    #[test]
    fn an_id_that_is_a_url_passes_through_a_path() {
        let id: ClientId = URL.parse().expect("an id");
        let in_path = serde_json::to_value(&id).expect("JSON");
        let text = in_path.as_str().expect("a text");
        assert!(text.starts_with('~') && !text.contains(['/', ':', '%']), "{text}");
        assert_eq!(text.parse::<ClientId>().expect("read back").as_str(), URL);
        let plain: ClientId = serde_json::from_value(json!("dyn_a-b.c")).expect("an id");
        assert_eq!(serde_json::to_value(&plain).expect("JSON"), "dyn_a-b.c");
        for bad in ["", "~", "~!", "~_w", "a\nb", &"x".repeat(2049)] {
            assert!(bad.parse::<ClientId>().is_err(), "{bad:?}");
        }
    }
}
