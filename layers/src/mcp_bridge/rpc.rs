//! JSON-RPC messages as the bridge takes them apart, and its own errors as clients read them.

use std::borrow::Cow;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::protocol::code;
use crate::body::{Body, Response};
use crate::mcp::message::check_shape;

/// The members of an object.
pub(super) type Object = Map<String, Value>;

/// One message of either side.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Request(Request),
    Notification(Notification),
    Answer(Answer),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// Text or a whole number.
    pub(super) id: Value,
    pub(super) method: String,
    pub(super) params: Object,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notification {
    pub(super) method: String,
    pub(super) params: Object,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Absent or null where the sender could not tell what it answers.
    pub(super) id: Value,
    pub(super) outcome: Outcome,
}

/// A result, or the `error` member.
pub(super) type Outcome = Result<Object, Object>;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoMessage {
    #[error("the body is not JSON")]
    Json,
    #[error("batches of messages are not carried over to a server of the other era")]
    Batch,
    #[error("the body is no JSON-RPC 2.0 message")]
    Shape,
    #[error("the body is nested too deeply, or has too many values")]
    Unwieldy,
}

impl NoMessage {
    pub(super) fn failure(self) -> Failure {
        let code = if self == Self::Json { code::PARSE } else { code::INVALID_REQUEST };
        Failure::new(StatusCode::BAD_REQUEST, "mcp_no_message", code, self.to_string())
    }
}

impl Message {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoMessage> {
        // A tree of it is kept, and may be a hundred times as large.
        check_shape(bytes).map_err(|_| NoMessage::Unwieldy)?;
        Self::of(serde_json::from_slice(bytes).map_err(|_| NoMessage::Json)?)
    }

    pub(super) fn of(value: Value) -> Result<Self, NoMessage> {
        let mut message = match value {
            Value::Object(message) => message,
            Value::Array(_) => return Err(NoMessage::Batch),
            _ => return Err(NoMessage::Shape),
        };
        if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(NoMessage::Shape);
        }
        let id = message.remove("id").unwrap_or_default();
        if let Some(method) = message.remove("method") {
            let Value::String(method) = method else { return Err(NoMessage::Shape) };
            let params = match message.remove("params") {
                None | Some(Value::Null) => Object::new(),
                Some(Value::Object(params)) => params,
                Some(_) => return Err(NoMessage::Shape),
            };
            return match id {
                Value::Null => Ok(Self::Notification(Notification { method, params })),
                id if is_id(&id) => Ok(Self::Request(Request { id, method, params })),
                _ => Err(NoMessage::Shape),
            };
        }
        let outcome = match (message.remove("result"), message.remove("error")) {
            (Some(Value::Object(result)), None) => Ok(result),
            (None, Some(Value::Object(error))) => Err(error),
            _ => return Err(NoMessage::Shape),
        };
        if !(id.is_null() || is_id(&id)) || (id.is_null() && outcome.is_ok()) {
            return Err(NoMessage::Shape);
        }
        Ok(Self::Answer(Answer { id, outcome }))
    }
}

fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

impl Request {
    pub(super) fn to_value(&self) -> Value {
        json!({ "jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params })
    }

    /// The tool, prompt or resource that the request is about.
    pub(super) fn name(&self) -> Option<&str> {
        let member = match self.method.as_str() {
            "tools/call" | "prompts/get" => "name",
            "resources/read" => "uri",
            _ => return None,
        };
        self.params.get(member)?.as_str()
    }

    pub(super) fn meta(&self) -> Option<&Object> {
        self.params.get("_meta")?.as_object()
    }
}

impl Notification {
    pub(super) fn to_value(&self) -> Value {
        let mut message = json!({ "jsonrpc": "2.0", "method": self.method });
        if !self.params.is_empty() {
            message["params"] = Value::Object(self.params.clone());
        }
        message
    }
}

impl Answer {
    pub(super) fn to_value(&self) -> Value {
        match &self.outcome {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": self.id, "result": result }),
            Err(error) => json!({ "jsonrpc": "2.0", "id": self.id, "error": error }),
        }
    }
}

/// The `error` member of an answer.
pub(super) fn error(code: i64, message: impl Into<String>) -> Object {
    let mut error = Object::new();
    error.insert("code".to_owned(), code.into());
    error.insert("message".to_owned(), Value::String(message.into()));
    error
}

/// The code of an `error` member.
pub(super) fn code_of(error: &Object) -> Option<i64> {
    error.get("code").and_then(Value::as_i64)
}

/// An error that the bridge itself answers with: a status for HTTP, a word for the log, the rest for the client.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) word: &'static str,
    pub(super) error: Object,
}

impl Failure {
    pub(super) fn new(
        status: StatusCode,
        word: &'static str,
        code: i64,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, word, error: error(code, message.into()) }
    }

    #[must_use]
    pub(super) fn with_data(mut self, data: Value) -> Self {
        self.error.insert("data".to_owned(), data);
        self
    }

    /// The answer to the request with this id; null where it could not be read.
    pub(super) fn answer(self, id: &Value) -> Value {
        let mut answer = json!({ "jsonrpc": "2.0", "error": self.error });
        if !id.is_null() {
            answer["id"] = id.clone();
        }
        answer
    }

    pub(super) fn response(self, id: &Value) -> Response {
        let (status, word) = (self.status, self.word);
        let mut response = json_response(status, &self.answer(id));
        response.extensions_mut().insert(Word(word));
        response
    }
}

/// The word for the log in the extensions of an answer, until it leaves the bridge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(pub(super) &'static str);

/// A response with one message in it.
pub(super) fn json_response(status: StatusCode, message: &Value) -> Response {
    let mut response = Response::new(Body::from(message.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response without a body.
pub(super) fn empty_response(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "request"),
            (r#"{"jsonrpc":"2.0","id":"a","method":"ping","params":{}}"#, "request"),
            (r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, "notification"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "answer"),
            (r#"{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#, "answer"),
        ] {
            let message = Message::parse(text.as_bytes()).expect(text);
            let found = match message {
                Message::Request(_) => "request",
                Message::Notification(_) => "notification",
                Message::Answer(_) => "answer",
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (text, expected) in [
            ("", NoMessage::Json),
            ("{", NoMessage::Json),
            ("[]", NoMessage::Batch),
            ("1", NoMessage::Shape),
            (r#"{"id":1,"method":"ping"}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","id":1}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, NoMessage::Shape),
            (r#"{"jsonrpc":"2.0","result":{}}"#, NoMessage::Shape),
        ] {
            assert_eq!(Message::parse(text.as_bytes()), Err(expected), "{text}");
        }
    }
}
