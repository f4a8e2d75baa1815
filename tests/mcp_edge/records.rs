//! One record for each call.

use http::Method;
use serde_json::{Value, json};

use super::support::eventually;
use super::{HOST, Site};

#[tokio::test]
async fn every_call_leaves_one_record_that_can_be_found() {
    let site = Site::start(json!({
        "rules": [
            { "id": "no-delete", "tools": ["delete"], "effect": "deny" },
            { "id": "writing", "tools": ["write"], "scopes": ["mcp:write"] },
        ],
    }))
    .await;
    let token = site.token("alice", "mcp:read");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let message = super::call("read", json!({ "secret": "hunter2" }));
    // One that the gateway does not know is refused, and its id is a secret all the same.
    let unknown = [("mcp-session-id", "session-of-alice")];
    assert_eq!(site.send(&token, &unknown, &super::call("ping", json!({}))).await.status, 404);
    let headers = [("traceparent", trace)];
    assert_eq!(site.send(&token, &headers, &message).await.status, 200);
    for (tool, status) in [("fail", 200), ("delete", 403), ("write", 403)] {
        assert_eq!(site.call(&token, tool, json!({})).await.status, status, "{tool}");
    }
    let found = async |search: &str, count: usize| {
        let path = format!("/logs/mcp?{search}");
        eventually(&path, async || {
            let page = site.daemon.api(Method::GET, &path, Value::Null).await;
            let logs = page["logs"].as_array()?.clone();
            (logs.len() >= count).then_some(logs)
        })
        .await
    };
    let all = found("", 5).await;
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(
        !json!(all).to_string().contains("hunter2") && !json!(all).to_string().contains("session-of-alice")
    );
    for (tool, decision, rule, more) in [
        ("ping", "allow", None, json!({ "status_code": 404 })),
        ("read", "allow", None, json!({ "status_code": 200, "traceparent": trace })),
        ("fail", "allow", None, json!({ "status_code": 200, "is_error": true })),
        ("delete", "deny", Some("no-delete"), json!({ "status_code": 403, "rpc_error": -32080 })),
        ("write", "step_up", Some("writing"), json!({ "status_code": 403 })),
    ] {
        let [record] = &found(&format!("tool={tool}&decision={decision}"), 1).await[..] else {
            panic!("one record of {tool}")
        };
        assert_eq!(record["rule"].as_str(), rule, "{tool}");
        for (name, value) in more.as_object().unwrap() {
            assert_eq!(&record[name], value, "{tool} {name}");
        }
        for (name, value) in [
            ("auth_user", "https://idp.test/alice"),
            ("auth_client_id", "agent"),
            ("proxy_hostname", HOST),
            ("mcp_method", "tools/call"),
            ("client_ip", "127.0.0.1"),
        ] {
            assert_eq!(record[name], value, "{tool}");
        }
        assert!(record["response_time_ms"].is_number() && record["trace_id"].is_string(), "{tool}");
    }
    assert_eq!(found("method=tools/call&user=https://idp.test/alice", 5).await.len(), 5);
    // The record of a call is that of its request.
    let requests = site.daemon.run(&["log", "search", "--hostname", HOST, "--tool", "read"]);
    let [request] = &requests["logs"].as_array().unwrap()[..] else { panic!("one request: {requests:#}") };
    assert_eq!((&request["request_method"], &request["request_path"]), (&json!("POST"), &json!("/mcp")));
    assert_eq!(request["trace_id"], found("tool=read", 1).await[0]["trace_id"]);
    assert_eq!(site.daemon.run(&["log", "search", "--hostname", HOST])["total"], 5);
    assert_eq!(site.daemon.run(&["log", "stats", "--hostname", HOST])["total_requests"], 5);
    let shown = site.daemon.run(&["log", "mcp", "--decision", "deny"]);
    assert_eq!(shown["logs"].as_array().unwrap().len(), 1);
}
