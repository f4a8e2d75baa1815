//! The layer over servers in memory, message by message.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::mpsc;

use super::protocol::{MODERN, header, meta};
use super::rpc::json_response;
use super::*;
use crate::context::Principal;
use crate::mcp::sse::{Events, Outgoing};

/// What a server was asked.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The HTTP method of what has no message, else the method of the message.
    fn what(&self) -> String {
        match self.json().get("method").and_then(Value::as_str) {
            Some(method) => method.to_owned(),
            None if self.method == Method::POST => "answer".to_owned(),
            None => self.method.to_string(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A server that answers by this function.
fn server(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> (HttpService, Log) {
    let log = Log::default();
    let seen_by = Arc::clone(&log);
    let answer = Arc::new(answer);
    let service = HttpService::from_fn(move |request: Request| {
        let (log, answer) = (Arc::clone(&seen_by), Arc::clone(&answer));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let seen = Seen { method: parts.method, headers: parts.headers, body };
            log.lock().expect("a lock").push(seen.clone());
            Ok(answer(&seen))
        }
    });
    (service, log)
}

fn whats(log: &Log) -> Vec<String> {
    log.lock().expect("a lock").iter().map(Seen::what).collect()
}

fn last(log: &Log) -> Seen {
    log.lock().expect("a lock").last().expect("asked").clone()
}

fn result(seen: &Seen, result: &Value) -> Response {
    json_response(StatusCode::OK, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "result": result }))
}

fn failed(seen: &Seen, status: u16, code: i64) -> Response {
    let status = StatusCode::from_u16(status).expect("valid");
    let error = json!({ "code": code, "message": "no" });
    json_response(status, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error }))
}

/// An event stream that a test writes, and whether it was dropped.
fn events() -> (mpsc::UnboundedSender<Value>, Response) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Value>();
    let stream = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|message| {
            let data = message?.to_string();
            let event = Outgoing { data: Some(data.as_bytes()), ..Outgoing::default() }.to_bytes();
            Some(Ok::<_, BoxError>(http_body::Frame::data(event)))
        })
    });
    let mut response = Response::new(Body::new(http_body_util::StreamBody::new(stream)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    (sender, response)
}

fn bridge() -> McpBridge {
    McpBridge::new(Keys::new([&[9; 32]]).expect("a key"), Limits::default())
}

fn bridged(upstream: HttpService) -> Bridged {
    McpBridgeLayer::new(bridge(), Settings::new("/mcp", "up")).layer(upstream)
}

/// A client of the bridge.
#[derive(Clone)]
struct Client {
    service: Bridged,
    user: Option<&'static str>,
    headers: Vec<(&'static str, String)>,
}

impl Client {
    fn of(service: &Bridged, user: &'static str) -> Self {
        Self { service: service.clone(), user: Some(user), headers: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    async fn send(&self, method: Method, body: impl Into<Body>) -> Response {
        let mut request = Request::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = "/mcp".parse().expect("a path");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        for (name, value) in &self.headers {
            headers.insert(*name, value.parse().expect("a value"));
        }
        if let Some(user) = self.user {
            let principal = Principal { subject: user.into(), ..Principal::default() };
            RequestContext::of(request.extensions_mut()).principal = Some(Arc::new(principal));
        }
        self.service.clone().call(request).await.expect("an answer")
    }

    async fn post(&self, message: &Value) -> Response {
        self.send(Method::POST, message.to_string()).await
    }

    /// A session of an old client.
    async fn initialized(self, capabilities: &Value) -> Self {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": { "name": "c", "version": "1" } });
        let response =
            self.post(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).await;
        assert_eq!(response.status(), StatusCode::OK);
        let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        self.with("mcp-session-id", id).with("mcp-protocol-version", "2025-11-25")
    }

    /// A request of the new era.
    async fn ask(&self, method: &str, params: &Value, capabilities: &Value) -> Response {
        let mut params = params.clone();
        params["_meta"][meta::VERSION] = MODERN.into();
        params["_meta"][meta::CAPABILITIES] = capabilities.clone();
        let name = params.get("name").and_then(Value::as_str).map(str::to_owned);
        let mut client =
            self.clone().with("mcp-protocol-version", MODERN).with("mcp-method", method.to_owned());
        client.headers.extend(name.map(|name| ("mcp-name", name)));
        client.post(&json!({ "jsonrpc": "2.0", "id": "q", "method": method, "params": params })).await
    }
}

async fn body(response: Response) -> Bytes {
    response.into_body().collect().await.expect("a body").to_bytes()
}

async fn message(response: Response) -> Value {
    serde_json::from_slice(&body(response).await).expect("JSON")
}

async fn next(events: &mut Events<Body>) -> Value {
    loop {
        let event = events.next().await.expect("not over").expect("an event");
        if let Some(data) = event.data() {
            return serde_json::from_slice(data).expect("JSON");
        }
    }
}

fn stream_of(response: Response) -> Events<Body> {
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    Events::new(response.into_body(), 1 << 20)
}

/// A server of the new era: `call` answers what is not discovery.
fn modern(call: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> (HttpService, Log) {
    server(move |seen| match seen.what().as_str() {
        "server/discover" => result(
            seen,
            &json!({
                "resultType": "complete", "supportedVersions": [MODERN], "ttlMs": 0, "cacheScope": "private",
                "capabilities": { "tools": { "listChanged": true }, "logging": {}, "resources": { "subscribe": true } },
                "_meta": { meta::SERVER_INFO: { "name": "new", "version": "1" } },
            }),
        ),
        _ => call(seen),
    })
}

/// An old server without standing streams: `call` answers what does not begin or end a session.
fn legacy(call: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> (HttpService, Log) {
    standing_legacy(move |seen| match seen.what().as_str() {
        "GET" => rpc::empty_response(StatusCode::METHOD_NOT_ALLOWED),
        _ => call(seen),
    })
}

/// An old server: `call` answers what does not begin or end a session, and `GET`.
fn standing_legacy(call: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> (HttpService, Log) {
    let sessions = AtomicUsize::new(0);
    server(move |seen| match seen.what().as_str() {
        "server/discover" => failed(seen, 400, -32000),
        "initialize" => {
            let mut response = result(
                seen,
                &json!({
                    "protocolVersion": "2025-06-18", "serverInfo": { "name": "old", "version": "1" },
                    "capabilities": { "tools": { "listChanged": true }, "logging": {} },
                }),
            );
            let id = format!("s{}", sessions.fetch_add(1, Ordering::Relaxed));
            response.headers_mut().insert(header::SESSION, id.parse().expect("valid"));
            response
        }
        "notifications/initialized" | "notifications/cancelled" => rpc::empty_response(StatusCode::ACCEPTED),
        "logging/setLevel" => result(seen, &json!({})),
        "DELETE" => rpc::empty_response(StatusCode::NO_CONTENT),
        _ => call(seen),
    })
}

#[tokio::test]
async fn the_same_era_on_both_sides_passes_byte_by_byte() {
    // Not as anybody would write it: were it read, it would be written otherwise.
    const TEXT: &str = r#"{ "method":"tools/list" , "id":1,"jsonrpc":"2.0","params":{"_meta":{}}}"#;
    let echo = |seen: &Seen| Response::new(Body::from(seen.body.clone()));
    for (upstream, versions) in
        [(modern(echo), [MODERN, MODERN]), (legacy(echo), ["2025-06-18", "2025-11-25"])]
    {
        let (service, log) = upstream;
        let service = bridged(service);
        for version in versions {
            let client =
                Client::of(&service, "ann").with("mcp-protocol-version", version).with("mcp-param-x", "y");
            let response = client.send(Method::POST, TEXT).await;
            assert_eq!(body(response).await, TEXT);
            let seen = last(&log);
            assert_eq!((seen.body.as_ref(), seen.header("mcp-param-x")), (TEXT.as_bytes(), Some("y")));
        }
        let questions = whats(&log).iter().filter(|what| *what == "server/discover").count();
        assert_eq!(questions, 1, "the era is asked for once");
    }
}

#[tokio::test]
async fn other_paths_and_methods_pass_without_a_question() {
    let (service, log) = legacy(|_| Response::new(Body::empty()));
    let mut service = bridged(service);
    for (method, path) in [(Method::POST, "/other"), (Method::OPTIONS, "/mcp"), (Method::POST, "/mcp/x")] {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().expect("a path");
        *request.method_mut() = method;
        service.call(request).await.expect("an answer");
    }
    assert_eq!(log.lock().expect("a lock").len(), 3);
}

#[tokio::test]
async fn a_server_that_speaks_both_eras_sees_its_clients_as_they_are() {
    let (service, log) = server(|seen| match seen.what().as_str() {
        "server/discover" => result(seen, &json!({ "supportedVersions": [MODERN, "2025-11-25"] })),
        _ => Response::new(Body::from(seen.body.clone())),
    });
    let service = bridged(service);
    for version in [MODERN, "2025-11-25"] {
        let client = Client::of(&service, "ann").with("mcp-protocol-version", version);
        assert_eq!(body(client.send(Method::POST, "as it is").await).await, "as it is");
    }
    assert_eq!(log.lock().expect("a lock").len(), 3);
}

#[tokio::test]
async fn a_server_that_wants_a_login_says_so_itself() {
    let (service, log) = server(|_| {
        let mut response = rpc::empty_response(StatusCode::UNAUTHORIZED);
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer"));
        response
    });
    let service = bridged(service);
    for _ in 0..2 {
        let response = Client::of(&service, "ann").post(&json!({})).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    assert_eq!(log.lock().expect("a lock").len(), 3, "it is not asked again at once");
}

#[tokio::test(start_paused = true)]
async fn the_era_is_asked_for_again_when_it_is_old_or_in_doubt() {
    let (service, log) = modern(|seen| failed(seen, 400, -32000));
    let service = bridged(service);
    let ask = || async {
        let client = Client::of(&service, "ann").with("mcp-protocol-version", MODERN);
        client.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
        whats(&log).iter().filter(|what| *what == "server/discover").count()
    };
    assert_eq!(ask().await, 1);
    assert_eq!(ask().await, 1, "not more often than every few seconds");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(ask().await, 2, "its answers did not look like those of its era");
    let (service, log) = modern(|seen| result(seen, &json!({})));
    let service = bridged(service);
    let client = Client::of(&service, "ann").with("mcp-protocol-version", MODERN);
    for (seconds, asked) in [(0, 1), (500, 1), (101, 2)] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        client.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
        assert_eq!(whats(&log).iter().filter(|what| *what == "server/discover").count(), asked);
    }
}

#[tokio::test]
async fn an_old_client_gets_a_session_with_a_new_server() {
    let (service, log) = modern(|seen| {
        result(seen, &json!({ "resultType": "complete", "ttlMs": 5, "cacheScope": "public", "tools": [] }))
    });
    let service = bridged(service);
    let client = Client::of(&service, "ann").initialized(&json!({ "roots": { "listChanged": true } })).await;
    let asked = last(&log);
    assert_eq!(asked.json()["params"]["_meta"][meta::CLIENT_INFO]["name"], "c");

    let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(client.post(&note).await.status(), StatusCode::ACCEPTED);
    assert_eq!(last(&log).what(), "server/discover", "notifications end here");

    let list = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": { "cursor": "x" } });
    assert_eq!(
        message(client.post(&list).await).await,
        json!({ "jsonrpc": "2.0", "id": 7, "result": { "tools": [] } })
    );
    let seen = last(&log);
    assert_eq!(seen.header("mcp-protocol-version"), Some(MODERN));
    assert_eq!(seen.header("mcp-method"), Some("tools/list"));
    assert_eq!(seen.header("mcp-session-id"), None);
    assert_eq!(
        seen.json()["params"],
        json!({ "cursor": "x", "_meta": {
            meta::VERSION: MODERN, meta::CAPABILITIES: { "roots": {} }, meta::LOG_LEVEL: "info",
            meta::CLIENT_INFO: { "name": "c", "version": "1" },
        }})
    );
}

#[tokio::test]
async fn a_session_continues_on_every_node_and_for_its_subject_only() {
    let node = || {
        let (service, _) = modern(|seen| result(seen, &json!({})));
        bridged(service)
    };
    let client = Client::of(&node(), "ann").initialized(&json!({})).await;
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    for (user, status) in [(Some("ann"), 200), (Some("bob"), 404), (None, 404)] {
        let elsewhere = Client { service: node(), user, ..client.clone() };
        assert_eq!(elsewhere.post(&ping).await.status().as_u16(), status, "{user:?}");
    }
    let forged = Client::of(&node(), "ann").with("mcp-session-id", "x");
    assert_eq!(forged.post(&ping).await.status(), StatusCode::NOT_FOUND);
    let none = Client::of(&node(), "ann").with("mcp-protocol-version", "2025-06-18");
    assert_eq!(none.post(&ping).await.status(), StatusCode::BAD_REQUEST);
    let strange = client.clone().with("mcp-protocol-version", "2020-01-01");
    assert_eq!(strange.post(&ping).await.status(), StatusCode::BAD_REQUEST);

    assert_eq!(client.send(Method::DELETE, "").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(client.post(&ping).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_level_of_log_messages_goes_with_each_request() {
    let (service, log) = modern(|seen| result(seen, &json!({ "tools": [] })));
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    let set = |level: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": { "level": level } });
    assert!(message(client.post(&set("loud")).await).await.get("error").is_some());
    assert_eq!(message(client.post(&set("error")).await).await["result"], json!({}));
    client.post(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" })).await;
    assert_eq!(last(&log).json()["params"]["_meta"][meta::LOG_LEVEL], "error");
}

fn call(id: u64) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "run", "arguments": {} } })
}

/// A server of the new era that asks twice before it answers.
fn asking() -> (HttpService, Log) {
    modern(|seen| {
        let params = &seen.json()["params"];
        let elicit =
            json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "who?" } });
        let roots = json!({ "method": "roots/list" });
        match params["requestState"].as_str() {
            None => result(
                seen,
                &json!({ "resultType": "input_required", "inputRequests": { "who": elicit, "where": roots }, "requestState": "1" }),
            ),
            Some("1") => result(
                seen,
                &json!({ "resultType": "input_required", "inputRequests": { "again": elicit }, "requestState": "2" }),
            ),
            Some(_) => result(
                seen,
                &json!({ "resultType": "complete", "content": [], "structuredContent": params["inputResponses"] }),
            ),
        }
    })
}

#[tokio::test]
async fn what_a_new_server_wants_to_know_is_asked_on_the_stream_of_the_request() {
    let (service, log) = asking();
    let client =
        Client::of(&bridged(service), "ann").initialized(&json!({ "elicitation": {}, "roots": {} })).await;
    let mut events = stream_of(client.post(&call(5)).await);
    for expected in [vec!["roots/list", "elicitation/create"], vec!["elicitation/create"]] {
        let mut asked = Vec::new();
        for _ in &expected {
            asked.push(next(&mut events).await);
        }
        let mut methods: Vec<_> = asked.iter().map(|question| question["method"].clone()).collect();
        methods.sort_by_key(|method| std::cmp::Reverse(method.to_string()));
        assert_eq!(methods, expected);
        for question in asked {
            let result = match question["method"].as_str() {
                Some("roots/list") => json!({ "roots": [] }),
                _ => json!({ "action": "accept", "content": { "name": "ann" } }),
            };
            let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
            let stranger = Client { user: Some("bob"), ..client.clone() };
            assert_eq!(stranger.post(&answer).await.status(), StatusCode::NOT_FOUND);
            assert_eq!(client.post(&answer).await.status(), StatusCode::ACCEPTED);
            assert_eq!(client.post(&answer).await.status(), StatusCode::BAD_REQUEST, "nobody waits any more");
        }
    }
    let answer = next(&mut events).await;
    assert_eq!(answer["id"], 5);
    let expected = json!({ "again": { "action": "accept", "content": { "name": "ann" } } });
    assert_eq!(answer["result"], json!({ "content": [], "structuredContent": expected }));
    assert!(events.next().await.is_none(), "the answer ends the stream");
    let rounds: Vec<_> = log.lock().expect("a lock").iter().map(Seen::json).collect();
    let ids: Vec<_> =
        rounds.iter().filter(|seen| seen["method"] == "tools/call").map(|seen| &seen["id"]).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[tokio::test]
async fn a_client_that_can_not_be_asked_gets_an_error() {
    let (service, _) = asking();
    let client = Client::of(&bridged(service), "ann").initialized(&json!({ "roots": {} })).await;
    let mut events = stream_of(client.post(&call(5)).await);
    let answer = next(&mut events).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(5), &json!(-32021)));
    assert_eq!(answer["error"]["data"]["requiredCapabilities"], json!({ "elicitation": { "form": {} } }));
}

#[tokio::test]
async fn a_client_that_refuses_a_question_ends_its_request() {
    let (service, _) = asking();
    let client =
        Client::of(&bridged(service), "ann").initialized(&json!({ "elicitation": {}, "roots": {} })).await;
    let mut events = stream_of(client.post(&call(5)).await);
    let question = next(&mut events).await;
    let error = json!({ "code": -1, "message": "never" });
    client.post(&json!({ "jsonrpc": "2.0", "id": question["id"], "error": error })).await;
    let _other = next(&mut events).await;
    let answer = next(&mut events).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["data"]["error"]), (&json!(-1), &error));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_ends_its_request() {
    let (service, _) = asking();
    let client =
        Client::of(&bridged(service), "ann").initialized(&json!({ "elicitation": {}, "roots": {} })).await;
    let mut events = stream_of(client.post(&call(5)).await);
    let question = next(&mut events).await;
    let _other = next(&mut events).await;
    let answer = next(&mut events).await;
    assert!(answer["error"]["message"].as_str().expect("text").contains("in time"));
    let late = client.post(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": {} })).await;
    assert_eq!(late.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_server_that_asks_without_end_is_stopped() {
    let (service, log) = modern(|seen| {
        let roots = json!({ "method": "roots/list" });
        result(seen, &json!({ "resultType": "input_required", "inputRequests": { "r": roots } }))
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({ "roots": {} })).await;
    let mut events = stream_of(client.post(&call(5)).await);
    let error = loop {
        let message = next(&mut events).await;
        if message.get("error").is_some() {
            break message;
        }
        let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "roots": [] } });
        assert_eq!(client.post(&answer).await.status(), StatusCode::ACCEPTED);
    };
    assert!(error["error"]["message"].as_str().expect("text").contains("more often"));
    assert_eq!(whats(&log).iter().filter(|what| *what == "tools/call").count(), 11);
}

#[tokio::test]
async fn progress_passes_and_a_cancelled_request_closes_the_servers_stream() {
    let (opened, mut streams) = mpsc::unbounded_channel();
    let (service, _) = modern(move |_| {
        let (sender, response) = events();
        opened.send(sender).expect("open");
        response
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    let mut answer = stream_of(client.post(&call(5)).await);
    let server = streams.recv().await.expect("asked");
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 1, "progress": 2 } });
    server.send(progress.clone()).expect("open");
    server.send(json!({ "jsonrpc": "2.0", "id": 9, "method": "roots/list" })).expect("open");
    assert_eq!(next(&mut answer).await, progress);
    let note = |id: u64| json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
    client.post(&note(4)).await;
    client.post(&note(5)).await;
    assert!(answer.next().await.is_none(), "no answer is wanted");
    drop(answer);
    server.closed().await;
}

#[tokio::test]
async fn a_client_that_goes_takes_the_servers_stream_with_it() {
    let (opened, mut streams) = mpsc::unbounded_channel();
    let (service, _) = modern(move |_| {
        let (sender, response) = events();
        opened.send(sender).expect("open");
        response
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    let answer = client.post(&call(5)).await;
    let server = streams.recv().await.expect("asked");
    drop(answer);
    server.closed().await;
    assert_eq!(client.service.bridge.0.exchanges.in_use(), 0);
}

#[tokio::test]
async fn a_server_that_misses_a_header_is_asked_what_it_wants_there() {
    let (service, log) = modern(|seen| match seen.what().as_str() {
        "tools/list" => result(
            seen,
            &json!({ "tools": [{ "name": "run", "inputSchema": { "properties": {
                "region": { "type": "string", "x-mcp-header": "Region" } } } }] }),
        ),
        _ if seen.header("mcp-param-region") == Some("eu") => result(seen, &json!({ "content": [] })),
        _ => failed(seen, 400, -32020),
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    let mut call = call(5);
    call["params"]["arguments"] = json!({ "region": "eu" });
    for _ in 0..2 {
        assert_eq!(message(client.post(&call).await).await["result"], json!({ "content": [] }));
    }
    let asked = whats(&log);
    assert_eq!(asked[2..], ["tools/call", "tools/list", "tools/call", "tools/call"]);
}

#[tokio::test]
async fn errors_of_a_new_server_do_not_look_like_the_end_of_the_session() {
    let (service, _) = modern(|seen| match seen.what().as_str() {
        "tools/list" => failed(seen, 404, -32601),
        "prompts/list" => rpc::empty_response(StatusCode::NOT_FOUND),
        _ => rpc::empty_response(StatusCode::SERVICE_UNAVAILABLE),
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    for (method, status, code) in [
        ("tools/list", 200, json!(-32601)),
        ("prompts/list", 502, json!(-32603)),
        ("tasks/list", 200, json!(-32601)),
    ] {
        let response = client.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": method })).await;
        assert_eq!(response.status().as_u16(), status, "{method}");
        assert_eq!(message(response).await["error"]["code"], code, "{method}");
    }
    let response = client.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/list" })).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_standing_stream_tells_what_the_session_is_subscribed_to() {
    let (opened, mut streams) = mpsc::unbounded_channel();
    let (service, log) = modern(move |_| {
        let (sender, response) = events();
        opened.send(sender).expect("open");
        response
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    let mut standing = stream_of(client.send(Method::GET, "").await);
    let first = streams.recv().await.expect("asked");
    assert_eq!(last(&log).json()["params"]["notifications"], json!({ "toolsListChanged": true }));
    first
        .send(json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": { "_meta": { meta::SUBSCRIPTION: 1 } } }))
        .expect("open");
    let expected = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
    assert_eq!(next(&mut standing).await, expected);

    let subscribe = json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": { "uri": "file:///a" } });
    assert_eq!(message(client.post(&subscribe).await).await["result"], json!({}));
    let told = tokio::spawn(async move { next(&mut standing).await });
    let second = streams.recv().await.expect("asked again");
    first.closed().await;
    assert_eq!(
        last(&log).json()["params"]["notifications"],
        json!({ "toolsListChanged": true, "resourceSubscriptions": ["file:///a"] })
    );
    let updated = json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": "file:///a" } });
    second.send(updated.clone()).expect("open");
    assert_eq!(told.await.expect("told"), updated);
}

#[tokio::test]
async fn a_message_has_a_bound_on_both_sides() {
    let (service, _) = modern(|seen| result(seen, &json!({ "tools": "x".repeat(5000) })));
    let settings = Settings { max_message: 4096, ..Settings::new("/mcp", "up") };
    let service = McpBridgeLayer::new(bridge(), settings).layer(service);
    let client = Client::of(&service, "ann").initialized(&json!({})).await;
    let mut large = call(1);
    large["params"]["arguments"]["x"] = "x".repeat(5000).into();
    assert_eq!(client.post(&large).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(client.post(&call(1)).await.status(), StatusCode::BAD_GATEWAY);
    let text = client.clone().with("content-type", "text/plain");
    assert_eq!(text.post(&call(1)).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let batch = client.post(&json!([call(1)])).await;
    assert_eq!(batch.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_subject_has_no_more_under_way_than_it_may() {
    let limits = Limits { exchanges_per_subject: 2, ..Limits::default() };
    let (service, _) = modern(|_| {
        let (sender, response) = events();
        // Nobody ever closes it.
        std::mem::drop(tokio::spawn(async move { sender.closed().await }));
        response
    });
    let bridge = McpBridge::new(Keys::new([&[9; 32]]).expect("a key"), limits);
    let service = McpBridgeLayer::new(bridge, Settings::new("/mcp", "up")).layer(service);
    let ann = Client::of(&service, "ann").initialized(&json!({})).await;
    let bob = Client::of(&service, "bob").initialized(&json!({})).await;
    let _first = ann.post(&call(1)).await;
    let second = ann.post(&call(2)).await;
    assert_eq!(ann.post(&call(2)).await.status(), StatusCode::BAD_REQUEST, "the id is in use");
    assert_eq!(ann.post(&call(3)).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(bob.post(&call(3)).await.status(), StatusCode::OK);
    drop(second);
    assert_eq!(ann.post(&call(3)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_new_client_discovers_an_old_server() {
    let (service, log) = legacy(|seen| result(seen, &json!({ "tools": [] })));
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    let found = message(client.ask("server/discover", &json!({}), &json!({})).await).await;
    assert_eq!(found["result"]["supportedVersions"], json!([MODERN, "2025-06-18"]));
    assert_eq!(found["result"]["_meta"][meta::SERVER_INFO]["name"], "old");
    let list = message(client.ask("tools/list", &json!({ "cursor": "c" }), &json!({})).await).await;
    assert_eq!(list["id"], "q");
    assert_eq!(list["result"]["resultType"], "complete");
    assert_eq!((&list["result"]["ttlMs"], &list["result"]["cacheScope"]), (&json!(0), &json!("private")));
    let seen = last(&log);
    assert_eq!((seen.header("mcp-session-id"), seen.header("mcp-method")), (Some("s0"), None));
    assert_eq!(seen.header("mcp-protocol-version"), Some("2025-06-18"));
    assert_eq!(seen.json()["params"], json!({ "cursor": "c" }));
    assert_eq!(whats(&log)[1..], ["initialize", "notifications/initialized", "tools/list"], "one session");
}

#[tokio::test]
async fn a_new_client_is_held_to_its_revision() {
    let (service, log) = legacy(|seen| result(seen, &json!({})));
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    for (response, status, code) in [
        (client.ask("ping", &json!({}), &json!({})).await, 404, -32601),
        (client.ask("resources/subscribe", &json!({}), &json!({})).await, 404, -32601),
        (client.clone().with("mcp-protocol-version", MODERN).post(&call(1)).await, 400, -32602),
        (client.clone().with("mcp-protocol-version", "2027-01-01").post(&call(1)).await, 400, -32602),
    ] {
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(message(response).await["error"]["code"], code);
    }
    let params = json!({ "_meta": { meta::VERSION: "2027-01-01", meta::CAPABILITIES: {} } });
    let newer = client.clone().with("mcp-protocol-version", "2027-01-01").with("mcp-method", "tools/list");
    let response =
        newer.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params })).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let error = message(response).await["error"].clone();
    assert_eq!((&error["code"], &error["data"]["supported"]), (&json!(-32022), &json!([MODERN])));
    for method in [Method::GET, Method::DELETE] {
        let response = client.clone().with("mcp-protocol-version", MODERN).send(method, "").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(whats(&log), ["server/discover"], "none of it went to the server");
}

/// An old server that asks in the middle of a call, and answers when it is answered.
fn asking_of_old() -> (HttpService, Log) {
    let streams = Mutex::new(VecDeque::new());
    legacy(move |seen| match seen.what().as_str() {
        "answer" => {
            let streams: std::sync::MutexGuard<'_, VecDeque<(mpsc::UnboundedSender<Value>, Value)>> =
                streams.lock().expect("a lock");
            let (stream, id) = streams.back().expect("a call");
            let answer = seen.json();
            let message = match answer["id"].as_u64() {
                Some(100) => {
                    json!({ "jsonrpc": "2.0", "id": 101, "method": "elicitation/create", "params": { "message": "sure?" } })
                }
                Some(101) => {
                    json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [], "structuredContent": answer } })
                }
                _ => {
                    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": "ignored" } })
                }
            };
            stream.send(message).expect("open");
            rpc::empty_response(StatusCode::ACCEPTED)
        }
        "tools/call" => {
            let (sender, response) = events();
            sender.send(json!({ "jsonrpc": "2.0", "id": 99, "method": "ping" })).expect("open");
            sender
                .send(json!({ "jsonrpc": "2.0", "id": 100, "method": "elicitation/create", "params": { "message": "who?" } }))
                .expect("open");
            streams.lock().expect("a lock").push_back((sender, seen.json()["id"].clone()));
            response
        }
        _ => result(seen, &json!({})),
    })
}

#[tokio::test]
async fn what_an_old_server_asks_ends_a_request_which_goes_on_when_it_is_repeated() {
    let (service, log) = asking_of_old();
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    let able = json!({ "elicitation": {} });
    let mut params = json!({ "name": "run", "arguments": { "a": 1 } });
    for (message_of, round) in [("who?", 1), ("sure?", 2)] {
        let asked = message(client.ask("tools/call", &params, &able).await).await["result"].clone();
        assert_eq!(asked["resultType"], "input_required", "{round}: {asked}");
        let questions = asked["inputRequests"].as_object().expect("questions");
        assert_eq!(questions.len(), 1);
        let (name, question) = questions.iter().next().expect("one");
        assert_eq!(question["params"], json!({ "message": message_of, "mode": "form" }));
        assert!(question.get("id").is_none());
        params["requestState"] = asked["requestState"].clone();
        params["inputResponses"] = json!({ name.as_str(): { "action": "accept" }, "more": 7 });

        // The state is of use with this request, for this subject, and not after it was changed.
        let mut other = params.clone();
        other["arguments"] = json!({ "a": 2 });
        let mut changed = params.clone();
        changed["requestState"] = format!("{}A", asked["requestState"].as_str().expect("text")).into();
        let stranger = Client::of(&service, "bob");
        for (client, params) in [(&client, &other), (&client, &changed), (&stranger, &params)] {
            let error = message(client.ask("tools/call", params, &able).await).await["error"].clone();
            assert_eq!(error["code"], -32602);
        }
    }
    let answer = message(client.ask("tools/call", &params, &able).await).await;
    assert_eq!(answer["id"], "q");
    assert_eq!(answer["result"]["structuredContent"]["result"], json!({ "action": "accept" }));
    let again = message(client.ask("tools/call", &params, &able).await).await;
    assert_eq!(again["error"]["code"], -32602, "it was gone on with");
    assert_eq!(whats(&log).iter().filter(|what| *what == "tools/call").count(), 1, "nothing ran twice");
    assert_eq!(service.bridge.0.newer.waiting(), (1, 0), "the session waits for the next request");
}

#[tokio::test]
async fn questions_that_were_not_answered_are_asked_again() {
    let (service, _) = asking_of_old();
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    let able = json!({ "elicitation": {} });
    let mut params = json!({ "name": "run" });
    let asked = message(client.ask("tools/call", &params, &able).await).await["result"].clone();
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({ "1": 7 });
    let refused = message(client.ask("tools/call", &params, &able).await).await["error"].clone();
    assert_eq!(refused["message"], "the response to 1 is no object");
    params["inputResponses"] = json!({ "other": {} });
    let again = message(client.ask("tools/call", &params, &able).await).await["result"].clone();
    assert_eq!(again["resultType"], "input_required");
    assert_eq!(again["inputRequests"], asked["inputRequests"]);
    assert_ne!(again["requestState"], asked["requestState"]);
}

#[tokio::test]
async fn a_client_that_can_not_be_asked_leaves_the_answer_to_the_old_server() {
    let (service, log) = asking_of_old();
    let client = Client::of(&bridged(service), "ann");
    let response = client.ask("tools/call", &json!({ "name": "run" }), &json!({})).await;
    let answer = message(response).await;
    assert_eq!(answer["result"]["structuredContent"]["error"]["code"], -32601);
    assert!(!whats(&log).contains(&"GET".to_owned()), "nobody would be asked there");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_waits_too_long_is_gone_and_its_session_ends() {
    let (service, log) = asking_of_old();
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    let able = json!({ "elicitation": {} });
    let mut params = json!({ "name": "run" });
    let asked = message(client.ask("tools/call", &params, &able).await).await["result"].clone();
    assert_eq!(service.bridge.0.newer.waiting(), (0, 1));
    tokio::time::sleep(Duration::from_secs(11 * 60)).await;
    assert_eq!(service.bridge.0.newer.waiting(), (0, 0));
    let told = whats(&log);
    assert_eq!(told[told.len() - 2..], ["notifications/cancelled", "DELETE"]);
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({ "1": { "action": "accept" } });
    let error = message(client.ask("tools/call", &params, &able).await).await["error"].clone();
    assert_eq!(error["code"], -32602);
    assert_eq!(service.bridge.0.exchanges.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn sessions_wait_for_the_same_client_and_then_end() {
    let (service, log) = legacy(|seen| result(seen, &json!({})));
    let service = bridged(service);
    let list = |user, able: Value| {
        let client = Client { service: service.clone(), user, headers: Vec::new() };
        async move { client.ask("tools/list", &json!({}), &able).await.status() }
    };
    let begun = || whats(&log).iter().filter(|what| *what == "initialize").count();
    for (user, able, sessions) in [
        (Some("ann"), json!({}), 1),
        (Some("ann"), json!({}), 1),
        (Some("ann"), json!({ "roots": {} }), 2),
        (Some("bob"), json!({}), 3),
        (None, json!({}), 4),
        (None, json!({}), 5),
    ] {
        assert_eq!(list(user, able).await, StatusCode::OK);
        assert_eq!(begun(), sessions, "{user:?}");
    }
    assert_eq!(service.bridge.0.newer.waiting().0, 3, "none is kept where nobody logs in");
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(service.bridge.0.newer.waiting().0, 0);
    assert_eq!(whats(&log).iter().filter(|what| *what == "DELETE").count(), 5);
}

#[tokio::test]
async fn a_session_that_the_server_has_forgotten_begins_anew_once() {
    let forgotten = AtomicUsize::new(0);
    let (service, log) = legacy(move |seen| match seen.header("mcp-session-id") {
        Some("s0") if forgotten.fetch_add(1, Ordering::Relaxed) > 0 => {
            rpc::empty_response(StatusCode::NOT_FOUND)
        }
        _ => result(seen, &json!({ "tools": [] })),
    });
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    for _ in 0..2 {
        let response = client.ask("tools/list", &json!({}), &json!({})).await;
        assert_eq!(message(response).await["result"]["tools"], json!([]));
    }
    let begin = ["initialize", "notifications/initialized"];
    assert_eq!(
        whats(&log)[1..],
        [begin[0], begin[1], "tools/list", "tools/list", begin[0], begin[1], "tools/list"]
    );

    let (service, log) = legacy(|_| rpc::empty_response(StatusCode::NOT_FOUND));
    let response = Client::of(&bridged(service), "ann").ask("tools/list", &json!({}), &json!({})).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(whats(&log).iter().filter(|what| *what == "initialize").count(), 2, "once and no more");
}

#[tokio::test]
async fn a_new_client_that_goes_cancels_its_request_with_the_old_server() {
    let (opened, mut streams) = mpsc::unbounded_channel();
    let (service, log) = legacy(move |_| {
        let (sender, response) = events();
        opened.send(sender).expect("open");
        response
    });
    let client = Client::of(&bridged(service), "ann");
    let asking =
        tokio::spawn(async move { client.ask("tools/call", &json!({ "name": "run" }), &json!({})).await });
    let server = streams.recv().await.expect("asked");
    asking.abort();
    server.closed().await;
    let ended = async {
        while whats(&log).last().is_none_or(|what| what != "DELETE") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("in time");
    let asked = whats(&log);
    assert_eq!(asked[asked.len() - 2..], ["notifications/cancelled", "DELETE"]);
}

#[tokio::test]
async fn links_that_an_old_server_needs_are_opened_before_the_call_is_made_anew() {
    let calls = AtomicUsize::new(0);
    let (service, _) = legacy(move |seen| {
        if calls.fetch_add(1, Ordering::Relaxed) > 0 {
            return result(seen, &json!({ "content": [] }));
        }
        let link =
            json!({ "mode": "url", "url": "https://a.example", "message": "Log in", "elicitationId": "1" });
        let error = json!({ "code": -32042, "message": "login", "data": { "elicitations": [link] } });
        json_response(StatusCode::OK, &json!({ "jsonrpc": "2.0", "id": seen.json()["id"], "error": error }))
    });
    let client = Client::of(&bridged(service), "ann");
    let able = json!({ "elicitation": { "url": {} } });
    let mut params = json!({ "name": "run" });
    let asked = message(client.ask("tools/call", &params, &able).await).await["result"].clone();
    assert_eq!(asked["inputRequests"]["1"]["params"]["url"], "https://a.example");
    params["requestState"] = asked["requestState"].clone();
    for (action, answered) in [("decline", false), ("accept", true)] {
        params["inputResponses"] = json!({ "1": { "action": action } });
        let answer = message(client.ask("tools/call", &params, &able).await).await;
        assert_eq!(answer.get("result").is_some(), answered, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_an_old_server_gives_in_parts_is_fetched_to_its_end() {
    let part = |text: &'static str| {
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    };
    let (service, log) =
        standing_legacy(move |seen| match (seen.what().as_str(), seen.header("last-event-id")) {
            ("GET", Some("7")) => part("id: 8\ndata:\n\n"),
            ("GET", Some("8")) => part("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}\n\n"),
            ("tools/list", _) => part("id: 7\nretry: 20\ndata:\n\n"),
            other => panic!("{other:?}"),
        });
    let client = Client::of(&bridged(service), "ann");
    let answer = message(client.ask("tools/list", &json!({}), &json!({})).await).await;
    assert_eq!(answer["result"]["tools"], json!([]));
    assert_eq!(whats(&log)[3..], ["tools/list", "GET", "GET"]);

    let (service, _) = standing_legacy(move |_| part(": nothing\n\n"));
    let response = Client::of(&bridged(service), "ann").ask("tools/list", &json!({}), &json!({})).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "there is nothing to go on with");

    let (service, log) = standing_legacy(move |seen| match seen.what().as_str() {
        "GET" => rpc::empty_response(StatusCode::NOT_FOUND),
        _ => part("id: 7\ndata:\n\n"),
    });
    let response = Client::of(&bridged(service), "ann").ask("tools/list", &json!({}), &json!({})).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(whats(&log).iter().filter(|what| *what == "tools/list").count(), 1, "it may have run");
}

#[tokio::test]
async fn what_an_old_server_asks_on_its_standing_stream_belongs_to_the_request() {
    let streams = Mutex::new(HashMap::new());
    let (service, _) = standing_legacy(move |seen| {
        let mut streams = streams.lock().expect("a lock");
        let mut open = |name| {
            let (sender, response) = events();
            streams.insert(name, sender);
            response
        };
        match seen.what().as_str() {
            "GET" => open("standing"),
            "tools/call" => {
                let response = open("answer");
                let asked = json!({ "jsonrpc": "2.0", "id": 5, "method": "roots/list" });
                streams["standing"].send(asked).expect("open");
                response
            }
            "answer" => {
                let progress = |token| json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": 1 } });
                let result = json!({ "content": [], "structuredContent": seen.json() });
                for message in [
                    progress("another's"),
                    progress("first"),
                    json!({ "jsonrpc": "2.0", "id": 1, "result": result }),
                ] {
                    streams["answer"].send(message).expect("open");
                }
                rpc::empty_response(StatusCode::ACCEPTED)
            }
            other => panic!("{other}"),
        }
    });
    let client = Client::of(&bridged(service), "ann");
    let able = json!({ "roots": {} });
    let mut params = json!({ "name": "run", "_meta": { "progressToken": "first" } });
    let asked = message(client.ask("tools/call", &params, &able).await).await["result"].clone();
    assert_eq!(asked["inputRequests"], json!({ "1": { "method": "roots/list" } }));
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({ "1": { "roots": [] } });
    params["_meta"]["progressToken"] = "second".into();
    let mut answer = stream_of(client.ask("tools/call", &params, &able).await);
    let progress = next(&mut answer).await;
    assert_eq!(progress["params"]["progressToken"], "second", "by which the client knows it now");
    let result = next(&mut answer).await["result"]["structuredContent"].clone();
    assert_eq!(result, json!({ "jsonrpc": "2.0", "id": 5, "result": { "roots": [] } }));
    assert!(answer.next().await.is_none());
}

#[tokio::test]
async fn a_server_without_a_standing_stream_is_asked_for_it_once() {
    let (service, log) = legacy(|seen| result(seen, &json!({ "content": [] })));
    let client = Client::of(&bridged(service), "ann");
    for _ in 0..3 {
        let answer = client.ask("tools/call", &json!({ "name": "run" }), &json!({ "roots": {} })).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(whats(&log).iter().filter(|what| *what == "GET").count(), 1);
}

#[tokio::test]
async fn a_session_that_a_server_finds_fault_with_is_not_used_again() {
    let (service, log) = legacy(|seen| match seen.header("mcp-session-id") {
        Some("s0") => {
            let error = json!({ "code": -32000, "message": "no valid session id" });
            let message = json!({ "jsonrpc": "2.0", "id": null, "error": error });
            json_response(StatusCode::BAD_REQUEST, &message)
        }
        _ => result(seen, &json!({ "tools": [] })),
    });
    let client = Client::of(&bridged(service), "ann");
    let first = message(client.ask("tools/list", &json!({}), &json!({})).await).await;
    assert_eq!((&first["id"], &first["error"]["code"]), (&json!("q"), &json!(-32000)), "it may have run");
    let second = message(client.ask("tools/list", &json!({}), &json!({})).await).await;
    assert_eq!(second["result"]["tools"], json!([]));
    assert_eq!(whats(&log).iter().filter(|what| *what == "initialize").count(), 2);
}

/// An old server does not know that its tools want them.
#[tokio::test]
async fn parameters_of_a_new_client_are_repeated_as_the_list_of_tools_wants_it() {
    let schema =
        json!({ "type": "object", "properties": { "r": { "type": "string", "x-mcp-header": "R" } } });
    let (service, log) = legacy(move |seen| match seen.what().as_str() {
        "tools/list" => result(seen, &json!({ "tools": [{ "name": "run", "inputSchema": schema }] })),
        _ => result(seen, &json!({ "content": [] })),
    });
    let service = bridged(service);
    let client = Client::of(&service, "ann");
    client.ask("tools/list", &json!({}), &json!({})).await;
    let params = json!({ "name": "run", "arguments": { "r": "eu" } });
    for (said, good) in [(None, false), (Some("us"), false), (Some("eu"), true)] {
        let mut client = client.clone();
        client.headers.extend(said.map(|said| ("mcp-param-r", said.to_owned())));
        let response = client.ask("tools/call", &params, &json!({})).await;
        assert_eq!(response.status() == StatusCode::OK, good, "{said:?}");
        let message = message(response).await;
        assert_eq!(message["error"]["code"] == code::HEADER_MISMATCH, !good, "{message}");
    }
    assert_eq!(whats(&log).iter().filter(|what| *what == "tools/call").count(), 1);
}

#[tokio::test]
async fn a_new_server_that_tells_nothing_has_no_standing_stream() {
    let (service, log) = server(|seen| {
        result(seen, &json!({ "supportedVersions": [MODERN], "capabilities": { "tools": {} } }))
    });
    let client = Client::of(&bridged(service), "ann").initialized(&json!({})).await;
    let response = client.send(Method::GET, "").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(whats(&log).iter().all(|what| what == "server/discover"));
}

#[tokio::test]
async fn a_broken_upstream_fails_as_it_does_without_a_bridge() {
    let upstream = HttpService::from_fn(|_: Request| async { Err::<Response, BoxError>("refused".into()) });
    let mut service = bridged(upstream);
    let mut request = Request::new(Body::from("{}"));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/mcp".parse().expect("a path");
    let error = service.call(request).await.expect_err("refused");
    assert_eq!(error.to_string(), "refused");
}

#[test]
fn nothing_secret_is_shown() {
    let (service, _) = modern(|seen| result(seen, &json!({})));
    let request = Request::new(Body::empty()).into_parts().0;
    let mut parts = request;
    parts.headers.insert("authorization", HeaderValue::from_static("Bearer hunter2"));
    let upstream = Upstream::new(&service, &parts, 1);
    assert_eq!(format!("{upstream:?}"), "Upstream");
    let text = format!("{:?}", bridged(service));
    assert!(text.starts_with("Bridged { bridge: McpBridge, settings:"), "{text}");
}
