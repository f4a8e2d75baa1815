//! A scripted MCP server: the name of the tool says how it behaves, or misbehaves.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// An MCP server on a free port, ended with the test's runtime.
#[derive(Clone)]
pub struct McpServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<(HeaderMap, Bytes)>>,
    tools: Mutex<Option<Value>>,
    streams: Arc<()>,
}

impl McpServer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route("/mcp", post(messages).get(listen))
            .fallback(any(|| async { "another page" }))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shows other tools from now on.
    pub fn show(&self, tools: Value) {
        *self.shared.tools.lock().unwrap() = Some(tools);
    }

    /// What has come since the last time: headers and bodies.
    pub fn seen(&self) -> Vec<(HeaderMap, Bytes)> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        Arc::strong_count(&self.shared.streams) - 1
    }
}

fn events(parts: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    ([("content-type", "text/event-stream")], body).into_response()
}

/// A stream that notices when nobody listens any more.
fn endless(shared: &Shared, first: &'static str, then: &'static str) -> Response {
    let open = Arc::clone(&shared.streams);
    let begin = stream::iter([Bytes::from_static(first.as_bytes())]);
    let rest = stream::unfold(open, move |open| async move {
        tokio::task::yield_now().await;
        Some((Bytes::from_static(then.as_bytes()), open))
    });
    events(begin.chain(rest))
}

async fn listen(State(shared): State<Arc<Shared>>) -> Response {
    let open = Arc::clone(&shared.streams);
    let first = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"read\"},{\"name\":\"delete\"}]}}\n\n";
    let begin = stream::iter([Bytes::from_static(first.as_bytes())]);
    events(begin.chain(stream::once(async move {
        let _open = open;
        std::future::pending::<Bytes>().await
    })))
}

async fn messages(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    shared.seen.lock().unwrap().push((headers, body.clone()));
    let message: Value = serde_json::from_slice(&body).unwrap();
    let Some(id) = message.get("id") else { return StatusCode::ACCEPTED.into_response() };
    let json = |result: Value| {
        let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
        ([("content-type", "application/json")], answer.to_string()).into_response()
    };
    let raw = |kind: &'static str, text: String| ([("content-type", kind)], text).into_response();
    match (message["method"].as_str().unwrap_or_default(), message["params"]["name"].as_str()) {
        ("initialize", _) => {
            let mut answer =
                json(json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {} }));
            answer.headers_mut().insert("mcp-session-id", "own".parse().unwrap());
            answer
        }
        ("tools/list", _) => match message["params"]["cursor"].as_str() {
            Some("huge") => {
                let tools: Vec<_> = (0..5000).map(|n| json!({ "name": format!("tool{n}") })).collect();
                json(json!({ "tools": tools }))
            }
            Some("broken") => raw("application/json", "{\"result\":{\"tools\":[".to_owned()),
            Some("stream") => {
                let answer = json!({ "jsonrpc": "2.0", "id": id, "result": { "tools": tools() } });
                raw("text/event-stream", format!(": hi\n\nid: 1\ndata: {answer}\n\n"))
            }
            _ => {
                let shown = shared.tools.lock().unwrap().clone();
                json(json!({ "tools": shown.unwrap_or_else(tools), "nextCursor": "next" }))
            }
        },
        ("tools/call", Some("fail")) => json(json!({ "content": [], "isError": true })),
        ("tools/call", Some("ticks")) => {
            endless(&shared, "", "data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n")
        }
        ("tools/call", Some("endless_event")) => {
            endless(&shared, "data: {}\n\ndata: ", "xxxxxxxxxxxxxxxxxxxxxxxx")
        }
        ("tools/call", Some("gzip")) => {
            let mut answer = json(json!({}));
            answer.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            answer
        }
        ("tools/call", Some("html")) => raw("text/html", "<p>hello</p>".to_owned()),
        _ => json(json!({ "content": [{ "type": "text", "text": "done" }] })),
    }
}

fn tools() -> Value {
    json!([{ "name": "read", "inputSchema": {} }, { "name": "write" }, { "name": "delete" }])
}
