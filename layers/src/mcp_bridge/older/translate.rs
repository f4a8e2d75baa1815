//! What an old client says, as a server of 2026-07-28 reads it, and the reverse. Nothing here asks or waits.

use serde_json::{Value, json};

use super::session::Session;
use crate::mcp_bridge::protocol::{LATEST_LEGACY, LEGACY, MODERN, code, meta};
use crate::mcp_bridge::rpc::{Notification, Object, Request, error};

/// Old revisions know no level of their own for requests: a client that never asks for one gets these messages.
const LEVEL_UNASKED: &str = "info";

/// The revision that a client gets that asks for this one.
pub(super) fn negotiated(asked: Option<&str>) -> &'static str {
    LEGACY.into_iter().find(|version| Some(*version) == asked).unwrap_or(LATEST_LEGACY)
}

/// What a client can do, in the words of the new revision. Tasks are another thing there, and nobody is told any more
/// that roots have changed.
pub(super) fn capabilities(legacy: Option<&Value>) -> Object {
    let mut capabilities = legacy.and_then(Value::as_object).cloned().unwrap_or_default();
    capabilities.remove("tasks");
    if let Some(roots) = capabilities.get_mut("roots") {
        *roots = json!({});
    }
    for one in ["elicitation", "sampling"] {
        if capabilities.get(one).is_some_and(|one| !one.is_object()) {
            capabilities.remove(one);
        }
    }
    capabilities
}

/// The answer to `initialize`, of that to `server/discover`.
pub(super) fn initialize_result(discovered: &Object, version: &str) -> Object {
    let mut capabilities =
        discovered.get("capabilities").and_then(Value::as_object).cloned().unwrap_or_default();
    capabilities.remove("tasks");
    let info = discovered.get("_meta").and_then(|meta| meta.get(meta::SERVER_INFO));
    let info = info.or_else(|| discovered.get("serverInfo")).filter(|info| info.is_object()).cloned();
    let mut result = Object::new();
    result.insert("protocolVersion".into(), version.into());
    result.insert("capabilities".into(), Value::Object(capabilities));
    // It must be there, and the server need not say it.
    result.insert("serverInfo".into(), info.unwrap_or_else(|| json!({ "name": "unknown", "version": "0" })));
    if let Some(instructions) = discovered.get("instructions").filter(|text| text.is_string()) {
        result.insert("instructions".into(), instructions.clone());
    }
    result
}

/// A request of a session, so that it can stand alone.
pub(super) fn request(legacy: &Request, session: &Session, level: Option<&str>, logging: bool) -> Request {
    let mut params = legacy.params.clone();
    // They mean something to the server now that they did not mean to the client.
    params.remove("inputResponses");
    params.remove("requestState");
    params.remove("task");
    let mut about = match params.remove("_meta") {
        Some(Value::Object(about)) => about,
        _ => Object::new(),
    };
    about.insert(meta::VERSION.into(), MODERN.into());
    about.insert(meta::CLIENT_INFO.into(), session.client_info.clone());
    about.insert(meta::CAPABILITIES.into(), Value::Object(session.capabilities.clone()));
    about.remove(meta::LOG_LEVEL);
    if logging {
        about.insert(meta::LOG_LEVEL.into(), level.unwrap_or(LEVEL_UNASKED).into());
    }
    params.insert("_meta".into(), Value::Object(about));
    Request { id: 1.into(), method: legacy.method.clone(), params }
}

/// The same request with what the server wanted to know.
pub(super) fn retry(request: &Request, round: u32, responses: Object, state: Option<&Value>) -> Request {
    let mut retry = request.clone();
    // Requests are told apart by their ids, also those that repeat each other.
    retry.id = (u64::from(round) + 1).into();
    retry.params.remove("requestState");
    retry.params.insert("inputResponses".into(), Value::Object(responses));
    if let Some(state) = state {
        retry.params.insert("requestState".into(), state.clone());
    }
    retry
}

/// What a result says.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Complete(Object),
    InputRequired {
        asked: Object,
        state: Option<Value>,
    },
    /// Nothing that an old client could be told.
    Unknown,
}

/// A result without what only the new revision has.
pub(super) fn result(method: &str, mut modern: Object) -> Outcome {
    match modern.remove("resultType") {
        None => {}
        Some(Value::String(kind)) if kind == "complete" => {}
        Some(Value::String(kind)) if kind == "input_required" => {
            let asked = match modern.remove("inputRequests") {
                Some(Value::Object(asked)) => asked,
                _ => Object::new(),
            };
            let state = modern.remove("requestState").filter(Value::is_string);
            return Outcome::InputRequired { asked, state };
        }
        Some(_) => return Outcome::Unknown,
    }
    modern.remove("ttlMs");
    modern.remove("cacheScope");
    if let Some(Value::Object(about)) = modern.get_mut("_meta") {
        about.remove(meta::SERVER_INFO);
        if about.is_empty() {
            modern.remove("_meta");
        }
    }
    match method {
        "tools/call" => object_content(&mut modern),
        "tools/list" => object_schemas(&mut modern),
        _ => {}
    }
    Outcome::Complete(modern)
}

/// Until 2025-11-25 structured content is an object; other content is told as text.
fn object_content(result: &mut Object) {
    if result.get("structuredContent").is_none_or(Value::is_object) {
        return;
    }
    let content = result.remove("structuredContent").unwrap_or_default();
    let blocks = result.entry("content").or_insert_with(|| json!([]));
    if let Value::Array(blocks) = blocks
        && blocks.is_empty()
    {
        blocks.push(json!({ "type": "text", "text": content.to_string() }));
    }
}

/// Likewise, a schema of results is one of objects; clients check results against it.
fn object_schemas(result: &mut Object) {
    let tools = result.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten();
    for tool in tools.filter_map(Value::as_object_mut) {
        let is_object = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "object");
        if tool.get("outputSchema").is_some_and(|schema| !is_object(schema)) {
            tool.remove("outputSchema");
        }
    }
}

/// What a server wants to know of the client, as a request to it. Else the capability that the client lacks.
pub(super) fn question(id: &str, asked: &Value, session: &Session) -> Result<Value, Object> {
    let method = asked.get("method").and_then(Value::as_str).unwrap_or_default();
    let mut params = asked.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    let able = |path: &[&str]| {
        let mut at = session.capabilities.get(path[0]);
        for step in &path[1..] {
            at = at.and_then(|at| at.get(step));
        }
        at.is_some()
    };
    let lacks = |capabilities: Value| {
        let mut error = error(
            code::MISSING_CAPABILITY,
            format!(
                "the server asks for {method} in the middle of this request, which the client did not declare"
            ),
        );
        error.insert("data".into(), json!({ "requiredCapabilities": capabilities }));
        error
    };
    match method {
        "elicitation/create" if params.get("mode").is_some_and(|mode| mode == "url") => {
            if !able(&["elicitation", "url"]) {
                return Err(lacks(json!({ "elicitation": { "url": {} } })));
            }
            // The revision that has such links tells them apart by this.
            params.insert("elicitationId".into(), id.into());
        }
        "elicitation/create" => {
            // Whoever names no mode means forms (2025-11-25, elicitation, "Capabilities").
            let form = able(&["elicitation", "form"]) || !able(&["elicitation", "url"]);
            if !able(&["elicitation"]) || !form {
                return Err(lacks(json!({ "elicitation": { "form": {} } })));
            }
            if session.version.as_str() < LATEST_LEGACY {
                params.remove("mode");
            }
        }
        "sampling/createMessage" => {
            if !able(&["sampling"]) {
                return Err(lacks(json!({ "sampling": {} })));
            }
            if (params.contains_key("tools") || params.contains_key("toolChoice"))
                && !able(&["sampling", "tools"])
            {
                return Err(lacks(json!({ "sampling": { "tools": {} } })));
            }
        }
        "roots/list" => {
            if !able(&["roots"]) {
                return Err(lacks(json!({ "roots": {} })));
            }
        }
        _ => {
            return Err(error(
                code::INTERNAL,
                "the server asks for something that the protocol does not know",
            ));
        }
    }
    Ok(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
}

/// A notification on the stream of a request. None for those that an old client does not know.
pub(super) fn notification(modern: &Notification) -> Option<Value> {
    matches!(modern.method.as_str(), "notifications/progress" | "notifications/message")
        .then(|| modern.to_value())
}

/// A notification on the standing stream.
pub(super) fn standing_notification(mut modern: Notification) -> Option<Value> {
    if !matches!(
        modern.method.as_str(),
        "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
            | "notifications/resources/updated"
    ) {
        return None;
    }
    if let Some(Value::Object(about)) = modern.params.get_mut("_meta") {
        about.remove(meta::SUBSCRIPTION);
        if about.is_empty() {
            modern.params.remove("_meta");
        }
    }
    Some(modern.to_value())
}

/// What a standing stream is to be told, of a server with these capabilities. None: there is nothing to tell.
pub(super) fn filter(capabilities: Option<&Value>, resources: &[String]) -> Option<Value> {
    let able = |what: &str, how: &str| {
        capabilities
            .and_then(|all| all.get(what)?.get(how))
            .is_some_and(|able| able.as_bool().unwrap_or(false))
    };
    let mut filter = Object::new();
    for (what, member) in [
        ("tools", "toolsListChanged"),
        ("prompts", "promptsListChanged"),
        ("resources", "resourcesListChanged"),
    ] {
        if able(what, "listChanged") {
            filter.insert(member.into(), true.into());
        }
    }
    if !resources.is_empty() && able("resources", "subscribe") {
        filter.insert("resourceSubscriptions".into(), json!(resources));
    }
    (!filter.is_empty()).then_some(Value::Object(filter))
}

/// Whether clients can subscribe to single resources.
pub(super) fn can_subscribe(capabilities: Option<&Value>) -> bool {
    let subscribe = capabilities.and_then(|all| all.get("resources")?.get("subscribe"));
    subscribe.and_then(Value::as_bool).unwrap_or(false)
}

/// Whether a server of these capabilities may ever have something to tell on a standing stream.
pub(super) fn can_tell(capabilities: Option<&Value>) -> bool {
    can_subscribe(capabilities) || filter(capabilities, &[]).is_some()
}

/// An error, as old clients know it: that of a resource that is not there had a code of its own.
pub(super) fn failed(method: &str, mut modern: Object) -> Object {
    let missing = method == "resources/read"
        && modern.get("code").and_then(Value::as_i64) == Some(code::INVALID_PARAMS)
        && modern.get("data").is_some_and(|data| data.get("uri").is_some());
    if missing {
        modern.insert("code".into(), code::LEGACY_RESOURCE_NOT_FOUND.into());
    }
    modern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    fn session(version: &str, able: Value) -> Session {
        Session {
            nonce: "n".into(),
            version: version.into(),
            capabilities: object(able),
            client_info: json!({ "name": "c", "version": "1" }),
            subject: "ann".into(),
            expires: 0,
        }
    }

    #[test]
    fn a_client_gets_the_revision_that_it_asks_for_or_the_newest_with_sessions() {
        for version in LEGACY {
            assert_eq!(negotiated(Some(version)), version);
        }
        for version in [None, Some("2024-01-01"), Some(MODERN), Some("")] {
            assert_eq!(negotiated(version), LATEST_LEGACY, "{version:?}");
        }
    }

    #[test]
    fn capabilities_lose_what_is_another_thing_now() {
        let legacy = json!({
            "roots": { "listChanged": true }, "tasks": { "list": {} }, "sampling": { "tools": {} },
            "elicitation": true, "experimental": { "x": {} },
        });
        let expected = json!({ "roots": {}, "sampling": { "tools": {} }, "experimental": { "x": {} } });
        assert_eq!(Value::Object(capabilities(Some(&legacy))), expected);
        assert_eq!(capabilities(None), Object::new());
    }

    #[test]
    fn initialize_is_answered_by_what_was_discovered() {
        let discovered = object(json!({
            "resultType": "complete", "supportedVersions": [MODERN], "ttlMs": 1, "cacheScope": "public",
            "capabilities": { "tools": { "listChanged": true }, "logging": {} }, "instructions": "be kind",
            "_meta": { meta::SERVER_INFO: { "name": "s", "version": "2" } },
        }));
        assert_eq!(
            Value::Object(initialize_result(&discovered, "2025-06-18")),
            json!({
                "protocolVersion": "2025-06-18", "capabilities": { "tools": { "listChanged": true }, "logging": {} },
                "serverInfo": { "name": "s", "version": "2" }, "instructions": "be kind",
            })
        );
        let silent = initialize_result(&Object::new(), "2025-06-18");
        assert_eq!(silent["serverInfo"]["name"], "unknown");
    }

    #[test]
    fn a_request_says_itself_who_asks() {
        let legacy = Request {
            id: "a".into(),
            method: "tools/call".into(),
            params: object(json!({
                "name": "run", "arguments": { "x": 1 }, "requestState": "mine", "inputResponses": {}, "task": {},
                "_meta": { "progressToken": 7, meta::CAPABILITIES: { "forged": {} }, meta::LOG_LEVEL: "debug" },
            })),
        };
        let session = session(LATEST_LEGACY, json!({ "roots": {} }));
        let about = |logging: Value| {
            let mut about = json!({
                "progressToken": 7, meta::VERSION: MODERN, meta::CAPABILITIES: { "roots": {} },
                meta::CLIENT_INFO: { "name": "c", "version": "1" },
            });
            if !logging.is_null() {
                about[meta::LOG_LEVEL] = logging;
            }
            json!({ "name": "run", "arguments": { "x": 1 }, "_meta": about })
        };
        let params = |level, logging| Value::Object(request(&legacy, &session, level, logging).params);
        assert_eq!(params(Some("error"), true), about(json!("error")));
        assert_eq!(params(None, true), about(json!("info")));
        assert_eq!(params(Some("error"), false), about(Value::Null), "the server has no log messages");
    }

    #[test]
    fn a_retry_has_another_id_and_the_servers_own_state() {
        let first = Request {
            id: 1.into(),
            method: "tools/call".into(),
            params: object(json!({ "name": "run", "requestState": "old" })),
        };
        let second = retry(&first, 1, object(json!({ "k": {} })), Some(&json!("new")));
        assert_eq!(second.id, json!(2));
        assert_eq!(
            Value::Object(second.params.clone()),
            json!({ "name": "run", "inputResponses": { "k": {} }, "requestState": "new" })
        );
        assert!(!retry(&second, 2, Object::new(), None).params.contains_key("requestState"));
    }

    #[test]
    fn results_lose_what_old_clients_do_not_know() {
        let of = |method, modern| match result(method, object(modern)) {
            Outcome::Complete(result) => Value::Object(result),
            other => panic!("{other:?}"),
        };
        let about = json!({ meta::SERVER_INFO: {}, "own": 1 });
        assert_eq!(
            of(
                "tools/list",
                json!({ "resultType": "complete", "ttlMs": 5, "cacheScope": "public", "_meta": about, "tools": [
                    { "name": "a", "outputSchema": { "type": "array" } },
                    { "name": "b", "outputSchema": { "type": "object" } },
                ]})
            ),
            json!({ "_meta": { "own": 1 }, "tools": [{ "name": "a" }, { "name": "b", "outputSchema": { "type": "object" } }] })
        );
        assert_eq!(
            of("tools/call", json!({ "content": [], "structuredContent": [1, 2] })),
            json!({ "content": [{ "type": "text", "text": "[1,2]" }] })
        );
        let kept = json!({ "content": [], "structuredContent": { "a": 1 } });
        assert_eq!(of("tools/call", kept.clone()), kept);
        assert_eq!(
            result("tools/call", object(json!({ "resultType": "task", "taskId": "1" }))),
            Outcome::Unknown
        );
    }

    #[test]
    fn a_result_may_ask_for_more() {
        let modern = json!({ "resultType": "input_required", "inputRequests": { "k": { "method": "roots/list" } }, "requestState": "s" });
        assert_eq!(
            result("tools/call", object(modern)),
            Outcome::InputRequired {
                asked: object(json!({ "k": { "method": "roots/list" } })),
                state: Some("s".into())
            }
        );
    }

    #[test]
    fn only_what_the_client_can_do_is_asked_of_it() {
        let elicit = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "?" } });
        let link = json!({ "method": "elicitation/create", "params": { "mode": "url", "url": "https://a.example" } });
        let sample = json!({ "method": "sampling/createMessage", "params": { "messages": [] } });
        let tools = json!({ "method": "sampling/createMessage", "params": { "messages": [], "tools": [] } });
        let roots = json!({ "method": "roots/list" });
        for (asked, able, expected) in [
            (&elicit, json!({ "elicitation": {} }), true),
            (&elicit, json!({ "elicitation": { "form": {} } }), true),
            (&elicit, json!({ "elicitation": { "url": {} } }), false),
            (&elicit, json!({ "sampling": {} }), false),
            (&link, json!({ "elicitation": {} }), false),
            (&link, json!({ "elicitation": { "url": {} } }), true),
            (&sample, json!({ "sampling": {} }), true),
            (&sample, json!({}), false),
            (&tools, json!({ "sampling": {} }), false),
            (&tools, json!({ "sampling": { "tools": {} } }), true),
            (&roots, json!({ "roots": {} }), true),
            (&roots, json!({}), false),
            (&json!({ "method": "ping" }), json!({ "roots": {} }), false),
            (&json!(7), json!({ "roots": {} }), false),
        ] {
            let found = question("1", asked, &session(LATEST_LEGACY, able.clone()));
            assert_eq!(found.is_ok(), expected, "{asked} {able}");
        }
    }

    #[test]
    fn a_question_has_the_shape_of_the_clients_revision() {
        let able = json!({ "elicitation": { "form": {}, "url": {} } });
        let form = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "?" } });
        let ask = |version, asked| question("q", asked, &session(version, able.clone())).expect("able");
        assert_eq!(
            ask("2025-06-18", &form),
            json!({ "jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": { "message": "?" } })
        );
        assert_eq!(ask(LATEST_LEGACY, &form)["params"]["mode"], "form");
        let link = json!({ "method": "elicitation/create", "params": { "mode": "url" } });
        assert_eq!(ask(LATEST_LEGACY, &link)["params"]["elicitationId"], "q");
    }

    #[test]
    fn a_standing_stream_is_told_what_the_server_can_tell() {
        let able = json!({
            "tools": { "listChanged": true }, "prompts": {}, "resources": { "subscribe": true, "listChanged": false },
        });
        let uris = ["file:///a".to_owned()];
        assert_eq!(
            filter(Some(&able), &uris),
            Some(json!({ "toolsListChanged": true, "resourceSubscriptions": uris }))
        );
        assert_eq!(filter(Some(&json!({ "tools": {} })), &uris), None);
        assert!(can_tell(Some(&json!({ "resources": { "subscribe": true } }))));
        assert!(!can_tell(Some(&json!({ "tools": {} }))));
        assert!(!can_tell(None));
    }

    #[test]
    fn notifications_lose_the_subscription_that_only_the_bridge_has() {
        let note = |method: &str, params| Notification { method: method.into(), params: object(params) };
        let updated = note(
            "notifications/resources/updated",
            json!({ "uri": "u", "_meta": { meta::SUBSCRIPTION: 1 } }),
        );
        assert_eq!(
            standing_notification(updated),
            Some(
                json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "u" } })
            )
        );
        assert_eq!(standing_notification(note("notifications/subscriptions/acknowledged", json!({}))), None);
        let progress = note("notifications/progress", json!({ "progressToken": 1, "progress": 2 }));
        assert_eq!(notification(&progress), Some(progress.to_value()));
        assert_eq!(notification(&note("notifications/cancelled", json!({}))), None);
    }

    #[test]
    fn a_missing_resource_has_the_code_that_old_clients_know() {
        let error = |code: i64, data| object(json!({ "code": code, "message": "x", "data": data }));
        let of = |method, error| failed(method, error)["code"].clone();
        assert_eq!(of("resources/read", error(code::INVALID_PARAMS, json!({ "uri": "u" }))), -32002);
        assert_eq!(of("resources/read", error(code::INVALID_PARAMS, json!(null))), -32602);
        assert_eq!(of("tools/call", error(code::INVALID_PARAMS, json!({ "uri": "u" }))), -32602);
    }
}
