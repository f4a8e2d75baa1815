//! A client of MCP servers, by hand: what goes over the wire stands in the tests.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use serde_json::{Value, json};

use super::PATIENCE;
use super::client::{self, Answer};

/// The newest revision, which has no sessions.
pub const STATELESS: &str = "2026-07-28";
/// The newest of those before.
pub const STATEFUL: &str = "2025-11-25";
/// All others.
pub const OLDER: [&str; 3] = ["2024-11-05", "2025-03-26", "2025-06-18"];

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Mcp {
    address: SocketAddr,
    tls: bool,
    /// The host, with the port where the public one is another than 443.
    pub host: String,
    pub path: String,
    pub token: Option<String>,
    pub version: String,
    pub session: Option<String>,
    pub capabilities: Value,
    next: u64,
    shared: Option<SendRequest<Full<Bytes>>>,
}

/// The events of an answer, one by one.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    rest: String,
}

impl Mcp {
    /// One that has said nothing so far, of a server without TLS.
    pub fn plain(address: SocketAddr, token: Option<&str>, version: &str) -> Self {
        Self { tls: false, ..Self::new(address, &address.to_string(), token, version) }
    }

    /// One that has said nothing so far.
    pub fn new(https: SocketAddr, host: &str, token: Option<&str>, version: &str) -> Self {
        Self {
            address: https,
            tls: true,
            host: host.to_owned(),
            path: "/mcp".to_owned(),
            token: token.map(str::to_owned),
            version: version.to_owned(),
            session: None,
            capabilities: json!({}),
            next: 0,
            shared: None,
        }
    }

    /// The same client at another node.
    #[must_use]
    pub fn at(&self, https: SocketAddr) -> Self {
        Self { address: https, shared: None, ..self.clone() }
    }

    /// Sends over a connection of HTTP/2, and no longer each request over one of its own.
    #[must_use]
    pub fn over(mut self, connection: SendRequest<Full<Bytes>>) -> Self {
        self.shared = Some(connection);
        self
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// One that can do this.
    #[must_use]
    pub fn able_to(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    pub fn is_stateless(&self) -> bool {
        self.version == STATELESS
    }

    /// Says hello as its revision does, and returns what the server says of itself.
    pub async fn hello(&mut self) -> Value {
        if self.is_stateless() {
            return self.request("server/discover", json!({})).await["result"].clone();
        }
        let params = json!({
            "protocolVersion": self.version, "capabilities": self.capabilities,
            "clientInfo": { "name": "by-hand", "version": "1" },
        });
        let message = self.message("initialize", params);
        let response = self.post(&message).await;
        assert_eq!(response.status(), 200, "{message}");
        self.session = header(response.headers(), "mcp-session-id");
        let result = Events::of(response).answer(&message["id"]).await["result"].clone();
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(self.post(&initialized).await.status(), 202);
        result
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let message = self.message(method, params);
        let response = self.post(&message).await;
        assert_eq!(response.status(), 200, "{message}: {:?}", client::read(response).await);
        Events::of(response).answer(&message["id"]).await
    }

    /// The same, with what else comes meanwhile still to be read.
    pub async fn begin(&mut self, method: &str, params: Value) -> (Value, Events) {
        let message = self.message(method, params);
        let response = self.post(&message).await;
        assert_eq!(response.status(), 200, "{message}");
        (message["id"].clone(), Events::of(response))
    }

    /// The result of a tool.
    pub async fn tool(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.request("tools/call", json!({ "name": name, "arguments": arguments })).await;
        assert!(answer["error"].is_null(), "{name}: {answer}");
        answer["result"].clone()
    }

    /// What a tool that succeeds says.
    pub async fn ok(&mut self, name: &str, arguments: Value) -> Value {
        let result = self.tool(name, arguments).await;
        assert_ne!(result["isError"], true, "{name}: {result}");
        result["structuredContent"].clone()
    }

    /// What a tool that fails says. Clients check what is structured, so it is text.
    pub async fn fails(&mut self, name: &str, arguments: Value) -> Value {
        let result = self.tool(name, arguments).await;
        assert_eq!(result["isError"], true, "{name}: {result}");
        assert!(result["structuredContent"].is_null(), "{name}: {result}");
        serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
    }

    /// All tools, page by page.
    pub async fn tools(&mut self) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let params = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
            let page = self.request("tools/list", params).await["result"].clone();
            all.extend(page["tools"].as_array().unwrap().iter().cloned());
            cursor = page["nextCursor"].clone();
            if cursor.is_null() {
                return all;
            }
        }
    }

    /// A message as this revision has it.
    pub fn message(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut params = params;
        if self.is_stateless() {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": self.version,
                "io.modelcontextprotocol/clientCapabilities": self.capabilities,
                "io.modelcontextprotocol/clientInfo": { "name": "by-hand", "version": "1" },
            });
            let known = params.as_object_mut().unwrap().entry("_meta").or_insert_with(|| json!({}));
            known.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        }
        json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params })
    }

    /// Posts a message with the headers of this revision.
    pub async fn post(&self, message: &Value) -> http::Response<Incoming> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
        ];
        if self.session.is_some() || self.is_stateless() {
            headers.push(("mcp-protocol-version", self.version.clone()));
        }
        if self.is_stateless() {
            headers.push(("mcp-method", message["method"].as_str().unwrap_or_default().to_owned()));
            let named = ["name", "uri"].into_iter().find_map(|field| message["params"][field].as_str());
            headers.extend(named.map(|name| ("mcp-name", name.to_owned())));
        }
        self.send("POST", &headers, &message.to_string()).await
    }

    /// Sends what it is told, with the token and the session.
    pub async fn send(
        &self,
        method: &str,
        headers: &[(&str, String)],
        body: &str,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method);
        request = match self.shared {
            Some(_) => request.uri(format!("https://{}{}", self.host, self.path)),
            None => request.uri(&self.path).header("host", &self.host),
        };
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        if let Some(mut shared) = self.shared.clone() {
            let answer = tokio::time::timeout(PATIENCE, shared.send_request(request)).await;
            return answer.expect("an answer in time").unwrap();
        }
        let name = self.host.split(':').next().unwrap();
        if !self.tls {
            let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
            return client::open(stream, request).await;
        }
        let stream = client::handshake(self.address, name, &[b"http/1.1"]).await.unwrap();
        client::open(stream, request).await
    }

    /// Posts and reads the whole answer.
    pub async fn asked(&self, message: &Value) -> Answer {
        client::read(self.post(message).await).await
    }

    /// Opens the standing stream of the session, after an event where one is named.
    pub async fn listen(&self, after: Option<&str>) -> http::Response<Incoming> {
        let mut headers =
            vec![("accept", "text/event-stream".to_owned()), ("mcp-protocol-version", self.version.clone())];
        headers.extend(after.map(|id| ("last-event-id", id.to_owned())));
        self.send("GET", &headers, "").await
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().unwrap().to_owned())
}

impl Events {
    /// Those of an answer. One that is no stream is a single event.
    pub fn of(response: http::Response<Incoming>) -> Self {
        Self { body: response.into_body(), rest: String::new() }
    }

    /// The next event with data: its id, if it has one, and the message. None when the stream has ended.
    pub async fn next(&mut self) -> Option<(Option<String>, Value)> {
        loop {
            while let Some(end) = self.rest.find("\n\n") {
                let event: String = self.rest.drain(..end + 2).collect();
                if let Some(read) = event_of(&event) {
                    return Some(read);
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            match frame {
                Some(frame) => self.take(&frame.unwrap()),
                // An answer that is no stream.
                None => {
                    let rest = std::mem::take(&mut self.rest);
                    return Some((None, serde_json::from_str(&rest).ok()?));
                }
            }
        }
    }

    fn take(&mut self, frame: &Frame<Bytes>) {
        let data = frame.data_ref().map(|data| String::from_utf8_lossy(data).replace('\r', ""));
        self.rest.push_str(&data.unwrap_or_default());
    }

    /// The id of the next event, which may have no data: the first one is there to come back with.
    pub async fn id(&mut self) -> Option<String> {
        loop {
            while let Some(end) = self.rest.find("\n\n") {
                let event: String = self.rest.drain(..end + 2).collect();
                if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id:")) {
                    return Some(id.trim_start().to_owned());
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            self.take(&frame?.unwrap());
        }
    }

    /// Waits for the end of the stream, of whatever kind; what else comes is dropped.
    pub async fn ended(&mut self) {
        let end = async { while let Some(Ok(_)) = self.body.frame().await {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the end of the stream");
    }

    /// Whether the stream has not ended so far.
    pub fn is_open(&mut self) -> bool {
        loop {
            match self.body.frame().now_or_never() {
                None => return true,
                Some(Some(Ok(frame))) => self.take(&frame),
                Some(None | Some(Err(_))) => return false,
            }
        }
    }

    /// The answer to a request; what comes before it is dropped.
    pub async fn answer(&mut self, id: &Value) -> Value {
        loop {
            let (_, message) = self.next().await.expect("an answer before the end of the stream");
            if message["id"] == *id && message["method"].is_null() {
                return message;
            }
        }
    }
}

fn event_of(event: &str) -> Option<(Option<String>, Value)> {
    let field = |name: &'static str| {
        event.lines().filter_map(move |line| line.strip_prefix(name)).map(str::trim_start)
    };
    let data: Vec<_> = field("data:").collect();
    let message = serde_json::from_str(&data.join("\n")).ok()?;
    Some((field("id:").next().map(str::to_owned), message))
}
