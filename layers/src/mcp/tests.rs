mod answers;
mod hiding;
mod records;

use std::sync::Mutex;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};

use super::rates::Limit;
use super::rules::{Effect, Rule, Selector};
use super::*;
use crate::access_log::AccessLogLayer;
use crate::auth::{Audience, Challenge, Grants, OwnScope};
use crate::context::{ClientAddr, Facts, Principal, RouteMatch};
use crate::users::Users;

/// What a scripted server answers.
type Script = fn(&Value) -> http::Response<Body>;

/// An edge in front of a scripted server.
struct Edge {
    service: Mcp<HttpServer>,
    records: Arc<Mutex<Vec<Value>>>,
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

type HttpServer = crate::body::HttpService;

fn edge(
    script: impl Fn(&Value) -> http::Response<Body> + Clone + Send + Sync + 'static,
    change: impl FnOnce(&mut Policy),
) -> Edge {
    let records = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut policy = Policy::new("/mcp");
    let kept = Arc::clone(&records);
    policy.sink = Arc::new(move |record: &call::Record<'_>| {
        let mut line = Vec::new();
        record.encode(&mut line);
        kept.lock().expect("kept").push(serde_json::from_slice(&line).expect("JSON"));
    });
    change(&mut policy);
    let requests = Arc::clone(&seen);
    let server = crate::body::HttpService::new(service_fn(move |request: Request| {
        let (script, requests) = (script.clone(), Arc::clone(&requests));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            requests.lock().expect("kept").push((parts.headers, body.clone()));
            Ok::<_, BoxError>(script(&serde_json::from_slice(&body).unwrap_or(Value::Null)))
        }
    }));
    Edge { service: McpLayer::new(policy).layer(server), records, seen }
}

/// What the client gets: status, headers, and the body, as far as it came.
struct Got {
    status: u16,
    headers: HeaderMap,
    body: String,
    broken: bool,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().expect("an error")
    }
}

impl Edge {
    async fn send(&self, request: Request) -> Got {
        match self.service.clone().oneshot(request).await {
            Ok(response) => {
                let (parts, mut body) = response.into_parts();
                let (mut text, mut broken) = (Vec::new(), false);
                while let Some(frame) = body.frame().await {
                    match frame.map(Frame::into_data) {
                        Ok(Ok(data)) => text.extend_from_slice(&data),
                        Ok(Err(_)) => {}
                        Err(_) => broken = true,
                    }
                }
                let body = String::from_utf8(text).expect("text");
                Got { status: parts.status.as_u16(), headers: parts.headers, body, broken }
            }
            Err(error) => {
                let refusal = Rejection::of(error);
                let body = refusal.body().expect("clients of the protocol read a body").to_owned();
                assert_eq!(refusal.headers()[CONTENT_TYPE], "application/json");
                let headers = refusal.headers().clone();
                Got { status: refusal.status().as_u16(), headers, body, broken: false }
            }
        }
    }

    async fn post(&self, body: &str) -> Got {
        self.send(post_of(body, None)).await
    }

    async fn call(&self, who: Option<Principal>, method: &str, params: Value) -> Got {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        self.send(post_of(&body, who)).await
    }

    fn records(&self) -> Vec<Value> {
        std::mem::take(&mut *self.records.lock().expect("kept"))
    }

    fn seen(&self) -> Vec<(HeaderMap, Bytes)> {
        std::mem::take(&mut *self.seen.lock().expect("kept"))
    }
}

fn post_of(body: &str, who: Option<Principal>) -> Request {
    let request = http::Request::post("/mcp").header(CONTENT_TYPE, "application/json");
    let mut request = request.body(Body::from(body.to_owned())).expect("a request");
    let context = RequestContext::of(request.extensions_mut());
    context.principal = who.map(Arc::new);
    context.host = Some("a.example".parse().expect("a host"));
    context.client = Some(ClientAddr(([192, 0, 2, 1], 5).into()));
    request
}

fn alice(scopes: &[&str]) -> Principal {
    Principal {
        subject: "7".into(),
        username: Some("alice".into()),
        scopes: scopes.iter().map(SmolStr::new).collect(),
        client_id: Some("client".into()),
        ..Principal::default()
    }
}

fn answer_of(kind: &'static str, body: impl Into<Body>) -> http::Response<Body> {
    http::Response::builder().header(CONTENT_TYPE, kind).body(body.into()).expect("a response")
}

fn json_of(message: &Value) -> http::Response<Body> {
    answer_of("application/json", message.to_string())
}

/// Answers every call, and every list with three tools.
fn server(message: &Value) -> http::Response<Body> {
    if message["id"].is_null() {
        return http::Response::builder().status(202).body(Body::empty()).expect("a response");
    }
    let result = match message["method"].as_str() {
        Some("tools/list") => {
            json!({ "tools": [{ "name": "read" }, { "name": "write" }, { "name": "delete" }], "nextCursor": "c" })
        }
        _ => json!({ "content": [{ "type": "text", "text": "done" }] }),
    };
    json_of(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}

fn rule(id: &str, tool: &str, effect: Effect, scopes: &[&str]) -> Rule {
    let what = Selector { tools: vec![tool.into()], ..Selector::default() };
    let scopes = scopes.iter().map(SmolStr::new).collect();
    Rule { id: id.into(), what, effect, scopes, ..Rule::default() }
}

/// `read` is for all, `write` for who has `mcp:write`, nobody may delete.
fn ruled(policy: &mut Policy) {
    let rules = vec![
        rule("reading", "read", Effect::Allow, &[]),
        rule("writing", "write", Effect::Allow, &["mcp:write"]),
    ];
    policy.rules = Arc::new(Rules { rules, default: Effect::Deny });
    let challenge = Challenge::new("mcp").resource_metadata("https://a.example/.well-known/x");
    let mut auth = auth::Policy::new([Audience::new("https://a.example/mcp")], challenge);
    auth.any_scope = vec!["mcp:read".into()];
    auth.grants = Some(Arc::new(Grants {
        allowed: Users::parse(["alice"]).expect("users"),
        free: ["mcp:read", "mcp:write"].map(|name| OwnScope { name: name.into(), users: None }).into(),
        ..Grants::default()
    }));
    policy.auth = Some(Arc::new(auth));
}

#[tokio::test]
async fn what_is_allowed_passes_byte_for_byte_and_leaves_a_record() {
    let edge = edge(server, ruled);
    let body = r#" {"jsonrpc":"2.0", "id":"a","method":"tools/call","params":{"name":"read","arguments":{"x":1.0}}}"#;
    let mut request = post_of(body, Some(alice(&[])));
    let headers = request.headers_mut();
    headers.insert("accept-encoding", HeaderValue::from_static("gzip"));
    headers.insert("mcp-session-id", HeaderValue::from_static("secret-session"));
    headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", HeaderValue::from_static(trace));
    let got = edge.send(request).await;
    assert_eq!((got.status, got.json()["result"]["content"][0]["text"].as_str()), (200, Some("done")));
    let (seen, sent) = edge.seen().pop().expect("the server was asked");
    assert_eq!(sent, body);
    assert!(!seen.contains_key("accept-encoding") && seen.contains_key("mcp-session-id"));
    let [record] = &edge.records()[..] else { panic!("one record") };
    for (key, value) in [
        ("auth_user", json!("alice")),
        ("auth_client_id", json!("client")),
        ("client_ip", json!("192.0.2.1")),
        ("proxy_hostname", json!("a.example")),
        ("mcp_method", json!("tools/call")),
        ("mcp_name", json!("read")),
        ("mcp_call_id", json!("\"a\"")),
        ("mcp_protocol", json!("2025-11-25")),
        ("decision", json!("allow")),
        ("rule", json!("reading")),
        ("status_code", json!(200)),
        ("traceparent", json!(trace)),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
    assert!(record["response_time_ms"].is_number() && record["is_error"].is_null());
    assert!(!record.to_string().contains("secret-session") && record["mcp_session"].is_string());
}

#[tokio::test]
async fn what_is_forbidden_never_reaches_the_server() {
    let edge = edge(server, ruled);
    let got = edge.call(Some(alice(&["mcp:read"])), "tools/call", json!({ "name": "delete" })).await;
    assert_eq!((got.status, got.code(), got.json()["id"].clone()), (403, error::FORBIDDEN, json!(1)));
    assert!(!got.headers.contains_key("www-authenticate"), "no token would help");
    let [record] = &edge.records()[..] else { panic!("one record") };
    assert_eq!((&record["decision"], &record["rpc_error"]), (&json!("deny"), &json!(error::FORBIDDEN)));
    assert!(record["rule"].is_null() && record["unanswered"].is_null());
    assert!(edge.seen().is_empty());
}

#[tokio::test]
async fn who_lacks_a_scope_is_told_all_that_the_call_needs() {
    let edge = edge(server, ruled);
    let write = json!({ "name": "write" });
    let got = edge.call(Some(alice(&["mcp:read"])), "tools/call", write.clone()).await;
    assert_eq!((got.status, got.code()), (403, error::FORBIDDEN));
    let challenge = got.headers["www-authenticate"].to_str().expect("text");
    for part in [
        "Bearer ",
        "error=\"insufficient_scope\"",
        "scope=\"mcp:read mcp:write\"",
        "resource_metadata=\"https://a.example/",
    ] {
        assert!(challenge.contains(part), "{challenge}");
    }
    assert_eq!(edge.records()[0]["decision"], "step_up");
    // Whom the lists keep the scope from would go round in circles.
    let bob = Principal { username: Some("bob".into()), ..alice(&["mcp:read"]) };
    let got = edge.call(Some(bob), "tools/call", write.clone()).await;
    assert_eq!((got.status, got.headers.contains_key("www-authenticate")), (403, false));
    assert_eq!(edge.records()[0]["decision"], "deny");
    // Nobody is known: a login could help.
    let got = edge.call(None, "tools/call", write.clone()).await;
    assert_eq!(got.status, 401);
    let challenge = got.headers["www-authenticate"].to_str().expect("text");
    assert!(
        challenge.contains("scope=\"mcp:read mcp:write\"") && !challenge.contains("error="),
        "{challenge}"
    );
    assert!(edge.seen().is_empty());
    let got = edge.call(Some(alice(&["mcp:read", "mcp:write"])), "tools/call", write).await;
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn lists_show_what_the_caller_may_use() {
    let names = |got: &Got| -> String {
        let tools = got.json()["result"]["tools"].as_array().expect("a list").clone();
        let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().expect("a name")).collect();
        names.join(" ")
    };
    let edge_of = |with_attainable| {
        edge(server, move |policy| {
            ruled(policy);
            policy.list_attainable = with_attainable;
        })
    };
    for (who, with_attainable, expected) in [
        (alice(&["mcp:read"]), false, "read"),
        (alice(&["mcp:read"]), true, "read write"),
        (alice(&["mcp:read", "mcp:write"]), false, "read write"),
    ] {
        let got = edge_of(with_attainable).call(Some(who), "tools/list", json!({})).await;
        assert_eq!(
            (names(&got), got.json()["result"]["nextCursor"].as_str()),
            (expected.to_owned(), Some("c"))
        );
        assert_eq!(got.headers["content-length"], got.body.len().to_string());
    }
    let open = edge(server, |_| {});
    assert_eq!(names(&open.call(None, "tools/list", json!({})).await), "read write delete");
}

#[tokio::test]
async fn no_cache_may_give_to_others_what_depends_on_who_asks() {
    const RESULT: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"cacheScope\":\"public\"}}";
    const EVENT: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"cacheScope\":\"public\"}}\n\n";
    let scripts: [Script; 4] = [
        |_| answer_of("application/json", RESULT),
        |_| answer_of("application/json", streamed(vec![Ok(RESULT)])),
        |_| answer_of("text/event-stream", EVENT),
        |_| answer_of("text/event-stream", streamed(vec![Ok(EVENT)])),
    ];
    for script in scripts {
        let got = edge(script, ruled).call(Some(alice(&[])), "server/discover", json!({})).await;
        assert!(got.body.contains("\"cacheScope\":\"private\""), "{}", got.body);
    }
}

#[tokio::test]
async fn messages_that_are_none_are_answered_in_the_protocols_form() {
    let edge = edge(server, |policy| policy.max_request = 200);
    for (body, status, code) in [
        ("{", 400, error::PARSE),
        ("", 400, error::PARSE),
        ("[]", 400, error::INVALID_REQUEST),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            400,
            error::INVALID_REQUEST,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, 400, error::INVALID_PARAMS),
        (&"x".repeat(201), 413, error::INVALID_REQUEST),
    ] {
        let got = edge.post(body).await;
        assert_eq!((got.status, got.code()), (status, code), "{body}");
    }
    assert!(edge.seen().is_empty());
    assert_eq!(edge.records().iter().filter(|record| record["decision"] == "refused").count(), 6);
}

#[tokio::test]
async fn only_plain_json_in_utf_8_is_read() {
    let edge = edge(server, |_| {});
    for (name, value, status) in [
        ("content-type", "application/json; charset=UTF-8", 200),
        ("content-type", "Application/JSON;charset=\"utf-8\"", 200),
        ("content-type", "application/json; charset=utf-16", 415),
        ("content-type", "text/plain", 415),
        ("content-type", "application/json, text/plain", 415),
        ("content-encoding", "gzip", 415),
        ("content-encoding", "identity", 415),
    ] {
        let mut request = post_of(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, None);
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        assert_eq!(edge.send(request).await.status, status, "{name}: {value}");
        assert_eq!(edge.records()[0]["status_code"], status, "{name}: {value}");
    }
    for (method, path, body, status) in [
        (Method::GET, "/mcp", "", 202),
        (Method::DELETE, "/mcp", "", 202),
        (Method::GET, "/mcp", "{}", 400),
        (Method::DELETE, "/mcp", "{}", 400),
        (Method::PUT, "/mcp", "", 405),
        (Method::HEAD, "/mcp", "", 405),
        (Method::POST, "/mcp/", "{", 400),
        (Method::POST, "/mcp/x", "{", 400),
        (Method::POST, "/mcp;x", "{", 400),
        (Method::POST, "//mcp", "{", 400),
    ] {
        let request =
            http::Request::builder().method(&method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body)).expect("a request");
        assert_eq!(edge.send(request).await.status, status, "{method} {path} {body}");
    }
}

#[tokio::test]
async fn other_paths_are_no_way_around() {
    let asked = async |change: fn(&mut Policy), routed: bool| {
        let edge = edge(server, change);
        let mut request = http::Request::post("/messages").body(Body::from("x")).expect("a request");
        if routed {
            let found = RouteMatch { id: "r".into(), index: 0 };
            RequestContext::of(request.extensions_mut()).route = Some(found);
        }
        edge.service.oneshot(request).await.map_err(|error| Rejection::of(error).status().as_u16()).map(drop)
    };
    assert_eq!(asked(|_| {}, false).await, Err(404));
    assert_eq!(asked(|_| {}, true).await, Ok(()), "a route says where it leads");
    assert_eq!(asked(|policy| policy.other_paths = true, false).await, Ok(()));
}

#[tokio::test]
async fn headers_that_say_another_thing_are_refused_before_any_rule() {
    let edge = edge(server, ruled);
    let body = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"delete"}}"#;
    let mut request = post_of(body, Some(alice(&[])));
    request.headers_mut().insert("mcp-name", HeaderValue::from_static("read"));
    let got = edge.send(request).await;
    assert_eq!((got.status, got.code(), got.json()["id"].clone()), (400, error::HEADER_MISMATCH, json!(5)));
    assert!(edge.seen().is_empty());
}

#[tokio::test]
async fn a_batch_passes_as_a_whole_or_not_at_all() {
    let script: Script = |messages| {
        let answers = messages.as_array().expect("a batch").iter().filter(|one| !one["id"].is_null());
        let answers: Vec<_> = answers
            .map(|one| json!({ "jsonrpc": "2.0", "id": one["id"], "result": { "isError": one["id"] == 2 } }))
            .collect();
        json_of(&answers.into())
    };
    let edge = edge(script, ruled);
    let call = |id: u8, tool: &str| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool } });
    let ping = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let send = async |batch: Value, version: Option<&'static str>| {
        let mut request = post_of(&batch.to_string(), Some(alice(&[])));
        if let Some(version) = version {
            request.headers_mut().insert("mcp-protocol-version", HeaderValue::from_static(version));
        }
        edge.send(request).await
    };
    let got = send(json!([call(1, "read"), ping, call(2, "read")]), Some("2025-03-26")).await;
    assert_eq!((got.status, got.json().as_array().expect("a batch").len()), (200, 2));
    let records = edge.records();
    let failed: Vec<_> = records.iter().map(|record| record["is_error"] == true).collect();
    assert_eq!(failed, [false, true]);
    assert!(records.iter().all(|record| record["unanswered"].is_null()));
    edge.seen();

    let got = send(json!([call(1, "read"), ping, call(2, "delete")]), None).await;
    assert_eq!(got.status, 403);
    let answer = got.json();
    let ids: Vec<_> = answer.as_array().expect("a batch").iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!(2)]);
    let got = send(json!([call(1, "read")]), Some("2025-06-18")).await;
    assert_eq!((got.status, got.code()), (400, error::INVALID_REQUEST));
    assert!(edge.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn too_many_calls_are_429_with_the_time_to_wait() {
    let edge = edge(server, |policy| {
        ruled(policy);
        let what = Selector { tools: vec!["*".into()], ..Selector::default() };
        let per = std::time::Duration::from_secs(60);
        policy.limits = vec![Limit { what, calls: 2, per, burst: 2, together: false }].into();
    });
    let read = json!({ "name": "read" });
    for expected in [200, 200, 429] {
        assert_eq!(edge.call(Some(alice(&[])), "tools/call", read.clone()).await.status, expected);
    }
    let got = edge.call(Some(alice(&[])), "tools/call", read.clone()).await;
    assert_eq!((got.code(), got.headers["retry-after"].to_str().ok()), (error::TOO_MANY, Some("30")));
    assert_eq!(edge.records().last().expect("a record")["decision"], "rate_limited");
    assert_eq!(edge.seen().len(), 2);
    let denied = edge.call(Some(alice(&[])), "tools/call", json!({ "name": "delete" })).await;
    assert_eq!(denied.status, 403, "what is refused anyway is not counted");
    tokio::time::advance(std::time::Duration::from_secs(30)).await;
    assert_eq!(edge.call(Some(alice(&[])), "tools/call", read).await.status, 200);
}

/// A body of frames, and of an error at the end if it is asked for.
fn streamed(frames: Vec<Result<&'static str, &'static str>>) -> Body {
    let frames = frames.into_iter().map(|frame| {
        frame.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))).map_err(BoxError::from)
    });
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn what_the_gateway_can_not_do_is_said_in_the_protocols_form() {
    let server = crate::body::HttpService::from_fn(async |_| {
        Err(Rejection::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "Too late.").into())
    });
    let mcp = McpLayer::new(Policy::new("/mcp")).layer(server);
    let body = r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#;
    let refusal = Rejection::of(mcp.oneshot(post_of(body, None)).await.expect_err("no server"));
    assert_eq!((refusal.status().as_u16(), refusal.code()), (504, "upstream_timeout"));
    let answer: Value = serde_json::from_str(refusal.body().expect("a body")).expect("JSON");
    assert_eq!((answer["id"].as_i64(), answer["error"]["code"].as_i64()), (Some(9), Some(error::INTERNAL)));
}

#[tokio::test]
async fn a_method_that_a_revision_no_longer_has_is_unknown_whatever_it_lacks() {
    let edge = edge(|_| json_of(&json!({})), |_| ());
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" });
    for (params, status, code) in
        [(json!({ "_meta": meta }), 404, error::METHOD_NOT_FOUND), (json!({}), 400, error::INVALID_PARAMS)]
    {
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            let mut request = post_of(&body.to_string(), None);
            if status == 404 {
                request.headers_mut().insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
                request.headers_mut().insert("mcp-method", HeaderValue::from_static(method));
            }
            let got = edge.send(request).await;
            assert_eq!((got.status, got.code()), (status, code), "{method}");
        }
    }
    assert!(edge.seen().is_empty());
}
