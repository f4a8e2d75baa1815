//! Messages as they are kept: JSON, which comes back as it was, whatever it is.

use rmcp::model::{
    ClientJsonRpcMessage, CustomNotification, CustomRequest, CustomResult, ErrorData, JsonRpcMessage,
    RequestId, ServerJsonRpcMessage, ServerNotification, ServerRequest, ServerResult,
};
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// An event as it stands in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Its id.
    pub(super) id: String,
    /// Its place in its stream, where one node writes all of it.
    pub(super) number: u64,
    /// Whether its stream ends with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) last: bool,
    /// The message.
    pub(super) message: Box<RawValue>,
}

impl Stored {
    /// The event to send. `None` for what is no message: only a hand can have written it.
    pub(super) fn event(&self) -> Option<ServerSseMessage> {
        let mut event = ServerSseMessage::from_message(server_message(&self.message)?);
        event.event_id = Some(self.id.clone());
        Some(event)
    }
}

/// A server's message from its JSON. It is not sorted into rmcp's types: a result that fits two of them would lose what
/// the first one does not know.
fn server_message(json: &RawValue) -> Option<ServerJsonRpcMessage> {
    #[derive(Deserialize)]
    struct Parts {
        id: Option<RequestId>,
        method: Option<String>,
        params: Option<Value>,
        result: Option<Value>,
        error: Option<ErrorData>,
    }
    let Parts { id, method, params, result, error } = serde_json::from_str(json.get()).ok()?;
    // rmcp writes none as `null`, which is no form of parameters (JSON-RPC 2.0, section 4.2).
    let params = params.or_else(|| Some(Value::Object(Map::new())));
    Some(match (id, method, result, error) {
        (id, None, None, Some(error)) => JsonRpcMessage::error(error, id),
        (Some(id), None, Some(result), None) => {
            JsonRpcMessage::response(ServerResult::CustomResult(CustomResult(result)), id)
        }
        (Some(id), Some(method), None, None) => {
            JsonRpcMessage::request(ServerRequest::CustomRequest(CustomRequest::new(method, params)), id)
        }
        (None, Some(method), None, None) => JsonRpcMessage::notification(
            ServerNotification::CustomNotification(CustomNotification::new(method, params)),
        ),
        _ => return None,
    })
}

/// A client's message from the JSON that another node has passed on.
pub(super) fn client_message(json: &[u8]) -> Option<ClientJsonRpcMessage> {
    serde_json::from_slice(json).ok()
}

/// An answer that is no result.
pub(super) fn refusal(ask: Option<RequestId>, error: ErrorData) -> ServerSseMessage {
    ServerSseMessage::from_message(JsonRpcMessage::error(error, ask))
}

/// What a client gets whose request was under way where nobody knows of it any more.
pub(super) fn lost(ask: RequestId) -> ServerSseMessage {
    let told = "the request was interrupted, and its answer is lost: it may or may not have been carried out. \
                Look before you repeat it";
    refusal(Some(ask), ErrorData::internal_error(told, None))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        for message in [
            json!({ "jsonrpc": "2.0", "id": 1, "result": { "content": [], "structuredContent": { "x": 1 }, "new": [1] } }),
            json!({ "jsonrpc": "2.0", "id": "a", "result": {} }),
            json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32603, "message": "m", "data": { "a": 1 } } }),
            json!({ "jsonrpc": "2.0", "id": "n.1.0", "method": "elicitation/create", "params": { "message": "?" } }),
            json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progress": 1, "x": 2 } }),
        ] {
            let raw = serde_json::value::to_raw_value(&message).expect("JSON");
            let back = server_message(&raw).expect("a message");
            assert_eq!(serde_json::to_value(back).expect("JSON"), message);
        }
        for message in [
            json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }),
            json!({ "jsonrpc": "2.0", "id": "n.1.0", "method": "roots/list" }),
        ] {
            let raw = serde_json::value::to_raw_value(&message).expect("JSON");
            let back = serde_json::to_value(server_message(&raw).expect("a message")).expect("JSON");
            assert_eq!(back["params"], json!({}), "{back}");
        }
        for bad in ["1", "{}", r#"{"id":1}"#, r#"{"id":1,"method":"m","result":{}}"#] {
            let raw = RawValue::from_string(bad.to_owned()).expect("JSON");
            assert!(server_message(&raw).is_none(), "{bad}");
        }
    }
}
