//! What upstreams get: their own credentials, and the sessions that they began.

use http::Method;
use serde_json::{Value, json};

use super::support::client;
use super::support::mcp_server::McpServer;
use super::{HOST, IDP, Site, code};

fn hello() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } },
    })
}

fn ping() -> Value {
    json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" })
}

impl Site {
    async fn keep(&self, fields: Value) {
        let path = format!("/proxy/targets/{HOST}/upstream-credential");
        self.daemon.api(Method::PUT, &path, fields).await;
    }

    /// What the upstream has got as `Authorization` since the last time.
    fn authorizations(&self) -> Vec<String> {
        let seen = self.server.seen().into_iter();
        seen.map(|(headers, _)| {
            headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        })
        .collect()
    }
}

#[tokio::test]
async fn an_upstream_gets_the_credential_of_its_caller_and_never_the_clients_token() {
    let site = Site::start(json!({ "credentials": "user" })).await;
    let (alice, bob) = (site.token("alice", "mcp:read"), site.token("bob", "mcp:read"));
    let missing = site.send(&alice, &[], &ping()).await;
    assert_eq!((missing.status.as_u16(), &missing.json()["id"]), (403, &json!(2)), "{missing:?}");
    for user in ["alice", "bob"] {
        site.keep(json!({ "user": format!("{IDP}/{user}"), "credential": format!("Bearer of-{user}") }))
            .await;
    }
    for token in [&alice, &bob] {
        assert_eq!(site.send(token, &[], &ping()).await.status, 200);
    }
    assert_eq!(site.authorizations(), ["Bearer of-alice", "Bearer of-bob"]);
    site.keep(json!({ "user": format!("{IDP}/alice"), "credential": "Bearer newer" })).await;
    assert_eq!(site.send(&alice, &[], &ping()).await.status, 200);
    assert_eq!(site.authorizations(), ["Bearer newer"], "a change is in force at once");
    let shown = site.daemon.api(Method::GET, "/system/config/export", Value::Null).await;
    assert!(!shown.to_string().contains("of-bob"));

    site.daemon
        .change(HOST, json!({ "mcp": { "credentials": "shared", "credential_header": "x-api-key" } }))
        .await;
    assert_eq!(site.send(&alice, &[], &ping()).await.status, 502, "there is none for all");
    site.keep(json!({ "shared": true, "credential": "key" })).await;
    let theirs = [("x-api-key", "the-clients")];
    assert_eq!(site.send(&alice, &theirs, &ping()).await.status, 200);
    let seen = site.server.seen();
    assert_eq!(seen[0].0["x-api-key"], "key", "what the client has sent is not the upstream's");
    assert!(!seen[0].0.contains_key("authorization"));

    // On an open path nobody is known, and the credential is nobody's.
    site.daemon.change(HOST, json!({ "auth_excluded_paths": ["/mcp"] })).await;
    let mut request = Site::request("", &[], ping().to_string());
    request.headers_mut().remove("authorization");
    let nobody = client::plain(site.daemon.http, request).await;
    assert_eq!((nobody.status.as_u16(), site.server.seen().len()), (403, 0), "{nobody:?}");
}

#[tokio::test]
async fn a_session_stays_at_the_upstream_that_began_it_and_with_its_user() {
    let site = Site::start(json!({})).await;
    let other = McpServer::start().await;
    site.daemon.change(HOST, json!({ "upstreams": [other.url()] })).await;
    let (alice, bob) = (site.token("alice", "mcp:read"), site.token("bob", "mcp:read"));
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let answer = site.send(&alice, &[], &hello()).await;
        let session = answer.header("mcp-session-id").to_owned();
        assert!(session.len() > 40 && !session.contains("own"), "{session}");
        sessions.push(session);
    }
    let (mine, theirs) = (site.server.seen().len(), other.seen().len());
    assert_eq!(mine + theirs, 4);
    assert!(mine > 0 && theirs > 0, "sessions are spread: {mine} and {theirs}");
    for session in &sessions {
        let headers = [("mcp-session-id", session.as_str())];
        let (before, _) = (site.server.seen(), other.seen());
        drop(before);
        for _ in 0..3 {
            assert_eq!(site.send(&alice, &headers, &ping()).await.status, 200);
        }
        let (here, there) = (site.server.seen(), other.seen());
        assert!(here.len() == 3 || there.len() == 3, "{} and {}", here.len(), there.len());
        assert!(here.iter().chain(&there).all(|(headers, _)| headers["mcp-session-id"] == "own"));
        let stolen = site.send(&bob, &headers, &ping()).await;
        assert_eq!((stolen.status.as_u16(), code(&stolen)), (404, -32001), "it is alice's");
    }
    let raw = [("mcp-session-id", "own")];
    assert_eq!(site.send(&alice, &raw, &ping()).await.status, 404);

    // One that is to take nothing new keeps what it has.
    let weights = json!({ "upstreams": [{ "url": other.url(), "weight": 0 }] });
    site.daemon.change(HOST, weights).await;
    site.server.seen();
    other.seen();
    for _ in 0..4 {
        assert_eq!(site.send(&alice, &[], &hello()).await.status, 200);
    }
    assert_eq!((site.server.seen().len(), other.seen().len()), (4, 0));
    for session in &sessions {
        let headers = [("mcp-session-id", session.as_str())];
        assert_eq!(site.send(&alice, &headers, &ping()).await.status, 200);
    }
    assert_eq!((site.server.seen().len(), other.seen().len()), (mine, theirs));
}
