//! What a client of 2026-07-28 says, as a server with sessions reads it, and the reverse. Nothing here asks or waits.

use http::StatusCode;
use serde_json::{Value, json};

use crate::mcp_bridge::era::own_info;
use crate::mcp_bridge::protocol::{LATEST_LEGACY, LEGACY, LOG_LEVELS, MODERN, code, is_cacheable, meta};
use crate::mcp_bridge::rpc::{Notification, Object, Request, code_of, error};

/// Methods that the new revision does not have, though an old server might answer them.
const GONE: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Whether a client of the new revision may call this.
pub(super) fn is_known(method: &str) -> bool {
    // Tasks of 2025-11-25 are not those of the extension.
    !GONE.contains(&method) && !method.starts_with("tasks/")
}

/// What a client says of itself with each request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct About {
    pub(super) client_info: Value,
    pub(super) capabilities: Object,
    /// The least level of log messages that it wants; none where it wants none.
    pub(super) level: Option<String>,
}

impl About {
    /// None: the level is none that there is.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let about = request.meta();
        let get = |name| about.and_then(|about| about.get(name));
        let level = match get(meta::LOG_LEVEL) {
            None => None,
            Some(level) => Some(level.as_str().filter(|level| LOG_LEVELS.contains(level))?.to_owned()),
        };
        Some(Self {
            client_info: get(meta::CLIENT_INFO)
                .filter(|info| info.is_object())
                .cloned()
                .unwrap_or_else(own_info),
            capabilities: get(meta::CAPABILITIES).and_then(Value::as_object).cloned().unwrap_or_default(),
            level,
        })
    }

    /// Whether the client can be asked anything in the middle of a request.
    pub(super) fn can_be_asked(&self) -> bool {
        ["elicitation", "sampling", "roots"].iter().any(|one| self.capabilities.contains_key(*one))
    }
}

/// The beginning of a session for such a client.
pub(super) fn initialize(about: &About) -> Request {
    let mut params = Object::new();
    params.insert("protocolVersion".into(), LATEST_LEGACY.into());
    params.insert("capabilities".into(), Value::Object(about.capabilities.clone()));
    params.insert("clientInfo".into(), about.client_info.clone());
    Request { id: 0.into(), method: "initialize".into(), params }
}

/// The revision that a server has chosen, if it is one that the bridge knows.
pub(super) fn chosen(initialized: &Object) -> Option<&'static str> {
    let version = initialized.get("protocolVersion")?.as_str()?;
    LEGACY.into_iter().find(|known| *known == version)
}

/// The answer to `server/discover`, of that to `initialize`.
pub(super) fn discover_result(initialized: &Object, version: &str) -> Object {
    let mut capabilities =
        initialized.get("capabilities").and_then(Value::as_object).cloned().unwrap_or_default();
    capabilities.remove("tasks");
    let mut result = Object::new();
    // Old clients pass to the server: both is spoken here.
    result.insert("supportedVersions".into(), json!([MODERN, version]));
    result.insert("capabilities".into(), Value::Object(capabilities));
    if let Some(instructions) = initialized.get("instructions").filter(|text| text.is_string()) {
        result.insert("instructions".into(), instructions.clone());
    }
    complete("server/discover", result, initialized.get("serverInfo"))
}

/// A request as one of a session.
pub(super) fn request(modern: &Request, id: u64) -> Request {
    let mut params = modern.params.clone();
    params.remove("inputResponses");
    params.remove("requestState");
    if let Some(Value::Object(about)) = params.get_mut("_meta") {
        for name in [meta::VERSION, meta::CLIENT_INFO, meta::CAPABILITIES, meta::LOG_LEVEL] {
            about.remove(name);
        }
        if about.is_empty() {
            params.remove("_meta");
        }
    }
    Request { id: id.into(), method: modern.method.clone(), params }
}

/// A result as the new revision has it. Nothing is known of how long it holds, or for whom: it is not kept.
pub(super) fn complete(method: &str, mut result: Object, server: Option<&Value>) -> Object {
    result.insert("resultType".into(), "complete".into());
    if is_cacheable(method) {
        result.insert("ttlMs".into(), 0.into());
        result.insert("cacheScope".into(), "private".into());
    }
    if let Some(server) = server.filter(|server| server.is_object()) {
        let about = result.entry("_meta").or_insert_with(|| json!({}));
        if let Value::Object(about) = about {
            about.entry(meta::SERVER_INFO).or_insert_with(|| server.clone());
        }
    }
    result
}

/// An error, and the status that it has in the new revision.
pub(super) fn failed(mut legacy: Object) -> (StatusCode, Object) {
    match code_of(&legacy) {
        Some(code::LEGACY_RESOURCE_NOT_FOUND) => {
            legacy.insert("code".into(), code::INVALID_PARAMS.into());
            (StatusCode::OK, legacy)
        }
        // The client could follow the link if it said that it can; the old server does not ask who can't.
        Some(code::LEGACY_URL_ELICITATION_REQUIRED) => {
            let message =
                legacy.get("message").and_then(Value::as_str).unwrap_or("a link must be opened first");
            let mut error = error(code::MISSING_CAPABILITY, message);
            error.insert("data".into(), json!({ "requiredCapabilities": { "elicitation": { "url": {} } } }));
            (StatusCode::BAD_REQUEST, error)
        }
        // Some servers of both eras say it to old clients, too; what is missing tells that it is this.
        Some(code::MISSING_CAPABILITY) if names_capabilities(&legacy) => (StatusCode::BAD_REQUEST, legacy),
        // Codes that mean something now which they did not mean to the server.
        Some(code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION) => {
            legacy.insert("code".into(), code::INTERNAL.into());
            (StatusCode::OK, legacy)
        }
        Some(code::METHOD_NOT_FOUND) => (StatusCode::NOT_FOUND, legacy),
        _ => (StatusCode::OK, legacy),
    }
}

fn names_capabilities(error: &Object) -> bool {
    error.get("data").and_then(|data| data.get("requiredCapabilities")).is_some_and(Value::is_object)
}

/// A question of the server as the client gets it. The error is for the server: the client can't be asked.
pub(super) fn question(asked: &Request, about: &About) -> Result<Value, Object> {
    let able = |what: &str, how: &str| {
        about.capabilities.get(what).is_some_and(|able| how.is_empty() || able.get(how).is_some())
    };
    let url = asked.params.get("mode").is_some_and(|mode| mode == "url");
    let can = match asked.method.as_str() {
        "elicitation/create" if url => able("elicitation", "url"),
        "elicitation/create" => {
            able("elicitation", "") && (able("elicitation", "form") || !able("elicitation", "url"))
        }
        "sampling/createMessage" => {
            let tools = asked.params.contains_key("tools") || asked.params.contains_key("toolChoice");
            able("sampling", if tools { "tools" } else { "" })
        }
        "roots/list" => able("roots", ""),
        _ => false,
    };
    if !can {
        let message = format!("the client does not take {}", asked.method);
        return Err(error(code::METHOD_NOT_FOUND, message));
    }
    let mut params = asked.params.clone();
    params.remove("elicitationId");
    params.remove("task");
    if let Some(Value::Object(about)) = params.get_mut("_meta") {
        about.remove(meta::PROGRESS_TOKEN);
        if about.is_empty() {
            params.remove("_meta");
        }
    }
    if asked.method == "elicitation/create" {
        params.entry("mode").or_insert_with(|| "form".into());
    }
    let mut question = json!({ "method": asked.method });
    if !params.is_empty() {
        question["params"] = Value::Object(params);
    }
    Ok(question)
}

/// The links of an error that says that the user has to follow them first, as questions to the client.
pub(super) fn links(error: &Object, about: &About) -> Option<Vec<Value>> {
    if code_of(error) != Some(code::LEGACY_URL_ELICITATION_REQUIRED) {
        return None;
    }
    let links = error.get("data")?.get("elicitations")?.as_array()?;
    let mut questions = Vec::with_capacity(links.len());
    for link in links {
        let params = link.as_object().cloned()?;
        if params.get("mode").is_none_or(|mode| mode != "url") {
            return None;
        }
        let asked = Request { id: Value::Null, method: "elicitation/create".into(), params };
        questions.push(question(&asked, about).ok()?);
    }
    (!questions.is_empty()).then_some(questions)
}

/// The result that asks a client for more.
pub(super) fn input_required(questions: Object, state: &str) -> Object {
    let mut result = Object::new();
    result.insert("resultType".into(), "input_required".into());
    result.insert("inputRequests".into(), Value::Object(questions));
    result.insert("requestState".into(), state.into());
    result
}

/// A notification in the middle of a request. None for those that the client did not ask for.
pub(super) fn notification(legacy: &Notification, level: Option<&str>) -> Option<Value> {
    match legacy.method.as_str() {
        "notifications/progress" => Some(legacy.to_value()),
        "notifications/message" => {
            let rank = |level: &str| LOG_LEVELS.iter().position(|known| *known == level);
            let wanted = rank(level?)?;
            let said = legacy.params.get("level").and_then(Value::as_str).and_then(rank)?;
            (said >= wanted).then(|| legacy.to_value())
        }
        _ => None,
    }
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

    fn request_of(method: &str, params: Value) -> Request {
        Request { id: "a".into(), method: method.into(), params: object(params) }
    }

    fn about(capabilities: Value) -> About {
        About { client_info: json!({}), capabilities: object(capabilities), level: None }
    }

    #[test]
    fn methods_that_are_gone_are_unknown() {
        for (method, known) in [
            ("tools/call", true),
            ("completion/complete", true),
            ("com.example/own", true),
            ("ping", false),
            ("initialize", false),
            ("logging/setLevel", false),
            ("resources/subscribe", false),
            ("tasks/get", false),
        ] {
            assert_eq!(is_known(method), known, "{method}");
        }
    }

    #[test]
    fn a_request_becomes_one_of_a_session() {
        let modern = request_of(
            "tools/call",
            json!({
                "name": "run", "arguments": {}, "inputResponses": {}, "requestState": "s",
                "_meta": {
                    meta::VERSION: MODERN, meta::CLIENT_INFO: { "name": "c" }, meta::CAPABILITIES: { "roots": {} },
                    meta::LOG_LEVEL: "error", "progressToken": 1,
                },
            }),
        );
        let about = About::of(&modern).expect("a level");
        assert_eq!(about.level.as_deref(), Some("error"));
        assert!(about.can_be_asked());
        let legacy = request(&modern, 5);
        assert_eq!(
            legacy.to_value(),
            json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {
                "name": "run", "arguments": {}, "_meta": { "progressToken": 1 } } })
        );
        assert_eq!(
            Value::Object(initialize(&about).params),
            json!({ "protocolVersion": LATEST_LEGACY, "capabilities": { "roots": {} }, "clientInfo": { "name": "c" } })
        );
        let strange = request_of("tools/list", json!({ "_meta": { meta::LOG_LEVEL: "loud" } }));
        assert_eq!(About::of(&strange), None);
    }

    #[test]
    fn a_server_chooses_one_of_the_known_revisions() {
        for (version, expected) in [
            (json!("2024-11-05"), Some("2024-11-05")),
            (json!("2025-11-25"), Some("2025-11-25")),
            (json!(MODERN), None),
            (json!("1999-01-01"), None),
            (json!(7), None),
        ] {
            assert_eq!(chosen(&object(json!({ "protocolVersion": version }))), expected);
        }
    }

    #[test]
    fn discovery_tells_what_initialize_told() {
        let initialized = object(json!({
            "protocolVersion": "2025-06-18", "capabilities": { "tools": {}, "tasks": {} },
            "serverInfo": { "name": "s", "version": "1" }, "instructions": "hello",
        }));
        assert_eq!(
            Value::Object(discover_result(&initialized, "2025-06-18")),
            json!({
                "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "instructions": "hello",
                "supportedVersions": [MODERN, "2025-06-18"], "capabilities": { "tools": {} },
                "_meta": { meta::SERVER_INFO: { "name": "s", "version": "1" } },
            })
        );
    }

    #[test]
    fn results_say_that_they_are_complete_and_must_not_be_kept() {
        let of = |method| Value::Object(complete(method, object(json!({ "x": 1 })), None));
        assert_eq!(
            of("tools/list"),
            json!({ "x": 1, "resultType": "complete", "ttlMs": 0, "cacheScope": "private" })
        );
        assert_eq!(of("tools/call"), json!({ "x": 1, "resultType": "complete" }));
        let server = json!({ "name": "s" });
        let own = object(json!({ "_meta": { "own": 1 } }));
        assert_eq!(
            complete("x", own, Some(&server))["_meta"],
            json!({ "own": 1, meta::SERVER_INFO: server })
        );
    }

    #[test]
    fn errors_have_the_code_and_status_of_the_new_revision() {
        for (code, status, expected) in [
            (-32002, 200, -32602),
            (-32042, 400, -32021),
            (-32601, 404, -32601),
            (-32020, 200, -32603),
            (-32021, 200, -32603),
            (-32602, 200, -32602),
            (-1, 200, -1),
        ] {
            let (found, error) = failed(object(json!({ "code": code, "message": "m" })));
            assert_eq!((found.as_u16(), code_of(&error)), (status, Some(expected)), "{code}");
            assert_eq!(error["message"], "m");
        }
        let data = json!({ "requiredCapabilities": { "sampling": {} } });
        let missing = object(json!({ "code": -32021, "message": "m", "data": data }));
        assert_eq!(failed(missing.clone()), (StatusCode::BAD_REQUEST, missing));
    }

    #[test]
    fn only_what_the_client_can_do_is_asked_of_it() {
        for (method, params, able, expected) in [
            ("elicitation/create", json!({}), json!({ "elicitation": {} }), true),
            ("elicitation/create", json!({}), json!({ "elicitation": { "url": {} } }), false),
            ("elicitation/create", json!({ "mode": "url" }), json!({ "elicitation": {} }), false),
            ("elicitation/create", json!({ "mode": "url" }), json!({ "elicitation": { "url": {} } }), true),
            ("sampling/createMessage", json!({}), json!({ "sampling": {} }), true),
            ("sampling/createMessage", json!({ "tools": [] }), json!({ "sampling": {} }), false),
            ("sampling/createMessage", json!({ "tools": [] }), json!({ "sampling": { "tools": {} } }), true),
            ("roots/list", json!({}), json!({ "roots": {} }), true),
            ("roots/list", json!({}), json!({}), false),
            ("other/thing", json!({}), json!({ "roots": {} }), false),
        ] {
            let found = question(&request_of(method, params.clone()), &about(able.clone()));
            assert_eq!(found.is_ok(), expected, "{method} {params} {able}");
        }
    }

    #[test]
    fn a_question_has_the_shape_of_the_new_revision() {
        let asked = request_of(
            "elicitation/create",
            json!({ "message": "?", "elicitationId": "1", "task": {}, "_meta": { "progressToken": 1 } }),
        );
        assert_eq!(
            question(&asked, &about(json!({ "elicitation": {} }))),
            Ok(json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "?" } }))
        );
        assert_eq!(
            question(&request_of("roots/list", json!({})), &about(json!({ "roots": {} }))),
            Ok(json!({ "method": "roots/list" }))
        );
    }

    #[test]
    fn links_that_must_be_opened_become_questions() {
        let error = object(json!({ "code": -32042, "message": "login", "data": { "elicitations": [
            { "mode": "url", "url": "https://a.example", "message": "Log in", "elicitationId": "7" },
        ]}}));
        let able = about(json!({ "elicitation": { "url": {} } }));
        assert_eq!(
            links(&error, &able),
            Some(vec![json!({ "method": "elicitation/create", "params": {
                "mode": "url", "url": "https://a.example", "message": "Log in" } })])
        );
        assert_eq!(links(&error, &about(json!({}))), None);
        assert_eq!(links(&object(json!({ "code": -1 })), &able), None);
        assert_eq!(links(&object(json!({ "code": -32042, "data": { "elicitations": [] } })), &able), None);
    }

    #[test]
    fn log_messages_come_only_where_they_were_asked_for() {
        let note = |level: &str| Notification {
            method: "notifications/message".into(),
            params: object(json!({ "level": level, "data": "x" })),
        };
        for (said, wanted, expected) in [
            ("error", None, false),
            ("error", Some("warning"), true),
            ("warning", Some("warning"), true),
            ("info", Some("warning"), false),
            ("odd", Some("debug"), false),
        ] {
            assert_eq!(notification(&note(said), wanted).is_some(), expected, "{said} {wanted:?}");
        }
        let other = Notification { method: "notifications/tools/list_changed".into(), params: Object::new() };
        assert_eq!(notification(&other, Some("debug")), None);
    }
}
