//! Hosts that know the Model Context Protocol: rules, lists, limits, records, and servers that mean no good. Driven
//! through the built daemon.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod pins;
mod records;
mod rules;
mod upstreams;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use support::client::{self, Answer};
use support::daemon::Daemon;
use support::issuer::{Key, at, jwks};
use support::mcp_server::McpServer;

/// Another issuer, which the test is.
const IDP: &str = "https://idp.test";
/// The protected host.
const HOST: &str = "tools.test";

/// A daemon with an MCP server behind a protected host, and the key of its users' tokens.
struct Site {
    daemon: Daemon,
    server: McpServer,
    key: Key,
}

impl Site {
    /// A host with this policy. Everybody with a good token may use it; it has the scopes `mcp:read` and `mcp:write`.
    async fn start(policy: Value) -> Self {
        let key = Key::rsa("rsa");
        let daemon = Daemon::start_with(|command| {
            command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
        });
        let server = McpServer::start().await;
        let site = Self { daemon, server, key };
        let fields = json!({
            "auth_enabled": true,
            "auth_required_users": ["*"],
            "trusted_issuers": [{ "issuer": IDP, "jwks": jwks([&site.key]) }],
            "resource_endpoint": "/mcp",
            "resource_scopes": ["mcp:read", "mcp:write"],
            "auth_scope_required": "mcp:read",
            "mcp": policy,
        });
        site.daemon.host(HOST, &site.server.url(), fields).await;
        site
    }

    fn token(&self, user: &str, scopes: &str) -> String {
        self.key.sign(&json!({
            "iss": IDP, "sub": user, "aud": "https://tools.test/mcp", "exp": at(600), "preferred_username": user,
            "scope": scopes, "client_id": "agent",
        }))
    }

    fn request(token: &str, headers: &[(&str, &str)], body: String) -> Request<Full<Bytes>> {
        let mut request =
            Request::post("/mcp").header("host", HOST).header("content-type", "application/json");
        request = request.header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body)).unwrap()
    }

    async fn send(&self, token: &str, headers: &[(&str, &str)], message: &Value) -> Answer {
        client::plain(self.daemon.http, Self::request(token, headers, message.to_string())).await
    }

    async fn call(&self, token: &str, tool: &str, arguments: Value) -> Answer {
        self.send(token, &[], &call(tool, arguments)).await
    }

    /// The names of the tools that a list shows.
    async fn tools(&self, token: &str, cursor: &str) -> Vec<String> {
        let list =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": cursor } });
        let answer = self.send(token, &[], &list).await;
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
        let message: Value = serde_json::from_str(data).unwrap();
        let tools = message["result"]["tools"].as_array().unwrap().iter();
        tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn api(&self, method: Method, path: &str, body: Value) -> Value {
        self.daemon.api(method, &format!("/proxy/targets/{HOST}/mcp/policy{path}"), body).await
    }
}

fn call(tool: &str, arguments: Value) -> Value {
    let mut message =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool } });
    message["params"]["arguments"] = arguments;
    message
}

fn code(answer: &Answer) -> i64 {
    answer.json()["error"]["code"].as_i64().unwrap()
}
