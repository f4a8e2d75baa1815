//! A message, read as far as it takes to find its place. Its text goes on as it is, and no tree is made of it, which can be
//! a hundred times as large.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The longest id or token of progress, in bytes.
const MAX_ID: usize = 1024;

/// What ends a line.
const BREAKS: [char; 2] = ['\n', '\r'];

/// The id of a request, or a token of progress, as JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Id(Box<str>);

/// A message in one line.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) text: String,
    /// Whether it says that it is JSON-RPC 2.0.
    pub(super) versioned: bool,
    pub(super) id: Option<Id>,
    /// Whether there is an id that is none.
    pub(super) bad_id: bool,
    pub(super) method: Option<Box<str>>,
    /// Whether it is an answer that is an error.
    pub(super) failed: bool,
    /// The token by which news of the request are known.
    pub(super) progress: Option<Id>,
    /// The token of the request that it is news of.
    pub(super) news_of: Option<Id>,
    /// The request that it cancels.
    pub(super) cancels: Option<Id>,
}

/// Why something is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// No JSON.
    Json,
    /// JSON, but no object, or one whose members can't be what they are called.
    Message,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "progressToken")]
    token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "requestId")]
    request: Option<&'a RawValue>,
}

/// What is there, `null` as well.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// An object's members; none of what is no object.
fn members<'a>(raw: Option<&'a RawValue>) -> Params<'a> {
    let object = raw.map(RawValue::get).filter(|text| text.starts_with('{'));
    object.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

impl Id {
    fn read(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        if text.len() > MAX_ID || text.starts_with(['{', '[']) {
            return None;
        }
        Self::of(&serde_json::from_str(text).ok()?)
    }

    /// A text or a number.
    pub(super) fn of(value: &Value) -> Option<Self> {
        matches!(value, Value::String(_) | Value::Number(_)).then(|| Self(value.to_string().into()))
    }

    pub(super) fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }
}

impl Message {
    /// Reads one.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, Bad> {
        let mut text = String::from_utf8(bytes).map_err(|_| Bad::Json)?;
        text.truncate(text.trim_end().len());
        if !text.trim_start().starts_with('{') {
            return Err(if serde_json::from_str::<&RawValue>(&text).is_ok() {
                Bad::Message
            } else {
                Bad::Json
            });
        }
        let envelope: Envelope<'_> = serde_json::from_str(&text)
            .map_err(|error| if error.is_data() { Bad::Message } else { Bad::Json })?;
        let method = match envelope.method {
            None => None,
            Some(method) => Some(serde_json::from_str(method.get()).map_err(|_| Bad::Message)?),
        };
        let (params, id) = (members(envelope.params), envelope.id.and_then(Id::read));
        let is = |name: &str| method.as_deref() == Some(name);
        let given = |raw: Option<&RawValue>| raw.and_then(Id::read);
        let progress = given(members(params.meta).token);
        let news_of = given(params.token.filter(|_| is("notifications/progress")));
        let cancels = given(params.request.filter(|_| is("notifications/cancelled")));
        let versioned = envelope.jsonrpc.is_some_and(|version| version.get() == "\"2.0\"");
        let (bad_id, failed) = (envelope.id.is_some() && id.is_none(), envelope.error.is_some());
        if text.contains(BREAKS) {
            // JSON has none in texts; outside of them they are blanks.
            text = text.replace(BREAKS, " ");
        }
        Ok(Self { text, versioned, id, bad_id, method, failed, progress, news_of, cancels })
    }

    /// One that was made here.
    #[cfg(test)]
    pub(super) fn of(value: &Value) -> Result<Self, Bad> {
        Self::read(value.to_string().into_bytes())
    }

    /// Whether it asks for nothing and is no news.
    pub(super) const fn is_answer(&self) -> bool {
        self.method.is_none()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Message, Bad> {
        Message::read(text.as_bytes().to_vec())
    }

    fn id(value: &Value) -> Option<Id> {
        Id::of(value)
    }

    #[test]
    fn what_finds_the_place_is_read_and_the_text_stays() {
        let text = r#"{"jsonrpc":"2.0","id":"\u0061","method":"tools/call","params":{"z":1,"a":[{}],"_meta":{"progressToken":7}}}"#;
        let message = read(text).expect("a message");
        assert_eq!(message.text, text);
        assert_eq!((message.id, message.progress), (id(&json!("a")), id(&json!(7))));
        assert!(message.versioned && !message.bad_id && message.method.as_deref() == Some("tools/call"));
        let news = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": "t" } });
        assert_eq!(Message::of(&news).expect("a message").news_of, id(&json!("t")));
        let ends =
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } });
        assert_eq!(Message::of(&ends).expect("a message").cancels, id(&json!(5)));
        let answer = read("{\"id\": 1,\r\n \"error\": {}}\n").expect("a message");
        assert!(answer.is_answer() && answer.failed && !answer.versioned && !answer.text.contains('\n'));
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        for (text, bad) in [
            ("", Bad::Json),
            ("hello", Bad::Json),
            ("{", Bad::Json),
            ("{\"id\":1", Bad::Json),
            ("{\"params\":[\"a\nb\"]}", Bad::Json),
            ("{}{}", Bad::Json),
            ("[]", Bad::Message),
            ("7", Bad::Message),
            ("{\"id\":1,\"id\":2}", Bad::Message),
            ("{\"method\":7}", Bad::Message),
        ] {
            assert_eq!(read(text).err(), Some(bad), "{text:?}");
        }
        assert_eq!(Message::read(b"{\"a\":\"\xff\"}".to_vec()).err(), Some(Bad::Json));
        for text in ["{\"id\":null}", "{\"id\":[]}", &format!("{{\"id\":\"{}\"}}", "x".repeat(MAX_ID))] {
            assert!(read(text).expect("a message").bad_id, "{text:.20}");
        }
    }
}
