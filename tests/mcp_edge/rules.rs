//! Who may call what, and how often.

use http::Method;
use serde_json::{Value, json};

use super::support::client;
use super::{HOST, Site, call, code};

fn policy() -> Value {
    json!({
        "default": "deny",
        "rules": [
            { "id": "reading", "tools": ["read"] },
            { "id": "small", "tools": ["pay"], "when": [{ "argument": "/amount", "max": 10 }] },
            { "id": "writing", "tools": ["write"], "scopes": ["mcp:write"] },
            { "id": "root", "tools": ["delete"], "users": [format!("{}/root", super::IDP)] },
        ],
    })
}

#[tokio::test]
async fn lists_are_cut_down_and_calls_are_judged() {
    let site = Site::start(policy()).await;
    let (reader, writer) = (site.token("alice", "mcp:read"), site.token("alice", "mcp:read mcp:write"));
    let root = site.token("root", "mcp:read");
    for cursor in ["", "stream"] {
        assert_eq!(site.tools(&reader, cursor).await, ["read"]);
        assert_eq!(site.tools(&writer, cursor).await, ["read", "write"]);
        assert_eq!(site.tools(&root, cursor).await, ["read", "delete"]);
    }
    site.server.seen();
    for (token, tool, arguments, status) in [
        (&reader, "read", json!({}), 200),
        (&reader, "delete", json!({}), 403),
        (&root, "delete", json!({}), 200),
        (&reader, "pay", json!({ "amount": 10 }), 200),
        (&reader, "pay", json!({ "amount": 11 }), 403),
        (&reader, "pay", json!({ "amount": "10" }), 403),
        (&reader, "other", json!({}), 403),
    ] {
        let answer = site.call(token, tool, arguments.clone()).await;
        assert_eq!(answer.status, status, "{tool} {arguments}");
        assert_eq!(answer.header("www-authenticate"), "", "another token would not help");
        assert_eq!(site.server.seen().len(), usize::from(status == 200), "{tool} {arguments}");
    }
    // What every client needs.
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {} });
    assert_eq!(site.send(&reader, &[], &initialize).await.status, 200);
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(site.send(&reader, &[], &initialized).await.status, 202);
}

#[tokio::test]
async fn who_lacks_a_scope_learns_all_that_the_call_needs() {
    let site = Site::start(policy()).await;
    let answer = site.call(&site.token("alice", "mcp:read"), "write", json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (403, "application/json"));
    assert_eq!(answer.json()["id"], 1);
    let challenge = answer.header("www-authenticate");
    for part in [
        "Bearer ",
        "error=\"insufficient_scope\"",
        "scope=\"mcp:read mcp:write\"",
        "resource_metadata=\"https://tools.test/.well-known/oauth-protected-resource/mcp\"",
    ] {
        assert!(challenge.contains(part), "{challenge}");
    }
    let answer = site.call(&site.token("alice", "mcp:read mcp:write"), "write", json!({})).await;
    assert_eq!(answer.status, 200);
    // Whom the lists keep the scope from is not sent to ask for it.
    let lists = json!({ "oauth_scope_users": { "mcp:write": [format!("{}/bob", super::IDP)] } });
    site.daemon.change(HOST, lists).await;
    let answer = site.call(&site.token("alice", "mcp:read"), "write", json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (403, ""));
}

#[tokio::test]
async fn a_changed_rule_holds_for_the_next_call() {
    let site = Site::start(policy()).await;
    let token = site.token("alice", "mcp:read");
    assert_eq!(site.call(&token, "delete", json!({})).await.status, 403);
    let rule = json!({ "id": "deleting", "tools": ["delete"], "before": "root" });
    site.api(Method::POST, "/rules", rule).await;
    assert_eq!(site.call(&token, "delete", json!({})).await.status, 200);
    assert_eq!(site.tools(&token, "").await, ["read", "delete"]);
    site.api(Method::DELETE, "/rules/deleting", Value::Null).await;
    assert_eq!(site.call(&token, "delete", json!({})).await.status, 403);
    let asked = json!({ "tool": "delete", "user": "alice" });
    let told = site.api(Method::POST, "/explain", asked).await;
    assert_eq!((&told["decision"], &told["rule"]), (&json!("deny"), &Value::Null));
    site.api(Method::DELETE, "", Value::Null).await;
    assert_eq!(site.call(&token, "delete", json!({})).await.status, 200);
    // By the command line, too.
    let shown = site.daemon.run(&[
        "proxy", "mcp", "rule", "add", HOST, "--id", "no-read", "--effect", "deny", "--tools", "read",
    ]);
    assert_eq!(shown["rules"][0]["id"], "no-read");
    assert_eq!(site.call(&token, "read", json!({})).await.status, 403);
    let told = site.daemon.run(&["proxy", "mcp", "explain", HOST, "--tool", "read"]);
    assert_eq!((&told["decision"], &told["rule"]), (&json!("deny"), &json!("no-read")));
}

#[tokio::test]
async fn headers_have_to_say_what_the_body_says() {
    let site = Site::start(policy()).await;
    let token = site.token("alice", "mcp:read");
    let new = ("mcp-protocol-version", "2026-07-28");
    let (method, name) = (("mcp-method", "tools/call"), ("mcp-name", "read"));
    for (headers, tool, status) in [
        (vec![], "read", 200),
        (vec![new, method, name], "read", 200),
        (vec![new], "read", 400),
        (vec![new, method], "read", 400),
        (vec![new, method, name], "delete", 400),
        (vec![name], "delete", 400),
        (vec![new, method, ("mcp-name", "=?base64?cmVhZA==?=")], "read", 200),
    ] {
        let answer = site.send(&token, &headers, &call(tool, json!({}))).await;
        assert_eq!(answer.status, status, "{headers:?} {tool}");
        if status == 400 {
            assert_eq!(code(&answer), -32020);
        }
    }
}

#[tokio::test]
async fn messages_that_can_be_read_in_two_ways_are_refused() {
    let site = Site::start(policy()).await;
    let token = site.token("alice", "mcp:read");
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{}1{}}}",
        "[".repeat(99),
        "]".repeat(99)
    );
    for (body, expected) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","name":"delete"}}"#,
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","Name":"delete"}}"#,
            -32600,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"amount":1,"amount":99}}}"#,
            -32602,
        ),
        (&deep, -32600),
        ("{", -32700),
    ] {
        let answer = client::plain(site.daemon.http, Site::request(&token, &[], body.to_owned())).await;
        assert_eq!((answer.status.as_u16(), code(&answer)), (400, expected), "{body}");
    }
    assert!(site.server.seen().is_empty());
}

#[tokio::test]
async fn a_user_may_call_only_so_often() {
    let limits = json!({ "limits": [{ "tools": ["*"], "calls": 2, "seconds": 3600 }] });
    let site = Site::start(limits).await;
    let (alice, bob) = (site.token("alice", "mcp:read"), site.token("bob", "mcp:read"));
    for (token, tool, status) in [
        (&alice, "read", 200),
        (&alice, "read", 200),
        (&alice, "read", 429),
        (&alice, "write", 200),
        (&bob, "read", 200),
    ] {
        let answer = site.call(token, tool, json!({})).await;
        assert_eq!(answer.status, status, "{tool}");
        if status == 429 {
            assert_eq!(code(&answer), -32081);
            let after: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=1800).contains(&after), "{after}");
        }
    }
    // What was counted outlives a change of the rules.
    site.api(Method::POST, "/rules", json!({ "id": "none", "tools": ["none"], "effect": "deny" })).await;
    assert_eq!(site.call(&alice, "read", json!({})).await.status, 429);
}

#[tokio::test]
async fn pages_of_other_origins_and_other_paths_get_nothing() {
    let site = Site::start(policy()).await;
    let token = site.token("alice", "mcp:read");
    for (origin, status) in
        [("https://evil.test", 403), ("https://tools.test", 200), ("http://localhost:6274", 200)]
    {
        let answer = site.send(&token, &[("origin", origin)], &call("read", json!({}))).await;
        assert_eq!(answer.status, status, "{origin}");
    }
    let elsewhere = async |path: &str| {
        let mut request = Site::request(&token, &[], call("delete", json!({})).to_string());
        *request.uri_mut() = path.parse().unwrap();
        client::plain(site.daemon.http, request).await.status.as_u16()
    };
    assert_eq!(elsewhere("/messages").await, 404);
    assert_eq!(elsewhere("/mcp/").await, 403);
    assert_eq!(elsewhere("/MCP").await, 404, "some servers do not look at the case");
}
