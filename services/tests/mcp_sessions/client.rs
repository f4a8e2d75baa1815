//! A client that sends what a test wants it to send.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use portcullis_layers::{Principal, RequestContext};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::nodes::Node;

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Who asks, and where.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) subject: &'static str,
    pub(crate) client: &'static str,
    pub(crate) host: &'static str,
}

pub(crate) const ALICE: Who = Who { subject: "1", client: "c1", host: "mcp.example.com" };

/// A client with a session, which is the same at all nodes.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) who: Who,
    pub(crate) version: &'static str,
    pub(crate) session: Option<String>,
}

impl Client {
    /// A client of the newest revision that has sessions.
    pub(crate) async fn begin(node: &Node) -> Self {
        Self::begin_as(node, ALICE, "2025-11-25").await
    }

    pub(crate) async fn begin_as(node: &Node, who: Who, version: &'static str) -> Self {
        let mut client = Self { who, version, session: None };
        let answer = client.initialize(node).await;
        assert_eq!(answer.status, StatusCode::OK);
        client.session = answer.session();
        let mut answer = answer;
        let event = answer.event().await.expect("an answer");
        assert_eq!(event.data["result"]["protocolVersion"], version);
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(client.post(node, &initialized).await.status, StatusCode::ACCEPTED);
        client
    }

    pub(crate) async fn initialize(&self, node: &Node) -> Answer {
        let params = json!({
            "protocolVersion": self.version,
            "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "test", "version": "1" },
        });
        self.post(node, &json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })).await
    }

    /// Calls a tool, with a progress token that is the request's id.
    pub(crate) async fn call(&self, node: &Node, id: u64, tool: &str, arguments: Value) -> Answer {
        let params = json!({ "name": tool, "arguments": arguments, "_meta": { "progressToken": id } });
        self.post(node, &json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
            .await
    }

    /// Calls a tool whose answer comes at once.
    pub(crate) async fn echo(&self, node: &Node, id: u64, text: &str) {
        let mut answer = self.call(node, id, "echo", json!({ "text": text })).await;
        let refused = answer.text().await;
        assert_eq!(answer.status, StatusCode::OK, "{refused}");
        assert_eq!(answer.result(id).await, text);
    }

    pub(crate) async fn post(&self, node: &Node, message: &Value) -> Answer {
        self.send(node, self.request(Method::POST, Some(message), None)).await
    }

    /// The stream that belongs to no request, or any stream behind an event.
    pub(crate) async fn get(&self, node: &Node, last: Option<&str>) -> Answer {
        self.send(node, self.request(Method::GET, None, last)).await
    }

    pub(crate) async fn delete(&self, node: &Node) -> StatusCode {
        self.send(node, self.request(Method::DELETE, None, None)).await.status
    }

    pub(crate) fn request(
        &self,
        method: Method,
        message: Option<&Value>,
        last: Option<&str>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri("/mcp")
            .header("host", self.who.host)
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", self.version);
        }
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let body = message.map(|message| Bytes::from(message.to_string())).unwrap_or_default();
        let mut request = request.body(Full::new(body)).expect("a request");
        let context = RequestContext::of(request.extensions_mut());
        context.host = Some(self.who.host.parse().expect("a host"));
        context.principal = Some(Arc::new(Principal {
            issuer: "https://auth.example.com".into(),
            subject: self.who.subject.into(),
            client_id: Some(self.who.client.into()),
            ..Principal::default()
        }));
        request
    }

    pub(crate) async fn send(&self, node: &Node, request: Request<Full<Bytes>>) -> Answer {
        Answer::of(timeout(PATIENCE, node.answer(request)).await.expect("an answer in time"))
    }
}

/// An answer, event by event.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: http::HeaderMap,
    body: BoxBody<Bytes, std::convert::Infallible>,
    text: String,
    events: VecDeque<Event>,
}

/// An event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
    /// The message; null when there is none.
    pub(crate) data: Value,
}

impl Answer {
    fn of(response: Response<BoxBody<Bytes, std::convert::Infallible>>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status,
            headers: parts.headers,
            body,
            text: String::new(),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn session(&self) -> Option<String> {
        self.headers.get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned())
    }

    /// The next event; nothing at the end.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        timeout(PATIENCE, self.read()).await.expect("an event or the end in time")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = self.body.frame().await?.expect("no error");
            self.text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                self.events.extend(Event::parse(&event));
            }
        }
    }

    /// Whether nothing comes for a while, and the stream stays open.
    pub(crate) async fn is_silent(&mut self, time: Duration) -> bool {
        timeout(time, self.read()).await.is_err()
    }

    /// The next event with a message.
    pub(crate) async fn message(&mut self) -> Option<Event> {
        loop {
            let event = self.event().await?;
            if !event.data.is_null() {
                return Some(event);
            }
        }
    }

    /// The text that a tool answers a request with, after whatever else comes first.
    pub(crate) async fn result(&mut self, id: u64) -> String {
        loop {
            let event = self.message().await.expect("an answer before the end");
            if event.data["id"] == id {
                assert!(self.event().await.is_none(), "the stream ends with its answer");
                let text = event.data["result"]["content"][0]["text"].as_str();
                return text.unwrap_or_else(|| panic!("no result: {}", event.data)).to_owned();
            }
        }
    }

    /// All of a short answer.
    pub(crate) async fn text(&mut self) -> String {
        if self.status == StatusCode::OK {
            return String::new();
        }
        let body = (&mut self.body).collect().await.expect("no error").to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    }
}

impl Event {
    fn parse(text: &str) -> Option<Self> {
        let mut event = Self { id: None, retry: None, data: Value::Null };
        let mut any = false;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => event.id = Some(value.to_owned()),
                "retry" => event.retry = Some(value.parse().expect("a number")),
                "data" if !value.is_empty() => event.data = serde_json::from_str(value).expect("JSON"),
                "data" => {}
                // A comment keeps the connection alive.
                _ => continue,
            }
            any = true;
        }
        any.then_some(event)
    }
}
