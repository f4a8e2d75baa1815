//! A model's client runs the gateway itself: by tools alone, signed in as its admin.

use serde_json::{Value, json};

use crate::site::{MONA, Site, TOOLS};
use crate::support::browser::Browser;
use crate::support::upstream::Upstream;

#[tokio::test]
async fn the_python_sdk_runs_the_gateway_with_a_session() {
    let result = check(&["python_gateway.py"], "legacy").await;
    assert_eq!(result["protocol"], "2025-11-25", "{result}");
}

#[tokio::test]
async fn the_python_sdk_runs_the_gateway_without_a_session() {
    let result = check(&["python_gateway.py"], "2026-07-28").await;
    assert_eq!(result["protocol"], "2026-07-28", "{result}");
}

#[tokio::test]
async fn the_first_typescript_sdk_runs_the_gateway_and_is_told_what_fails() {
    told_what_fails(&check(&["typescript_gateway.mjs", "1"], "legacy").await);
}

#[tokio::test]
async fn the_second_typescript_sdk_runs_the_gateway_and_is_told_what_fails() {
    told_what_fails(&check(&["typescript_gateway.mjs", "2"], "2026-07-28").await);
}

/// Errors reach the model as text, with what to do.
fn told_what_fails(result: &Value) {
    let failed = result["failed"].as_array().unwrap();
    for (failed, expected) in failed.iter().zip(["target_url", "not_found", "no_such_argument"]) {
        assert_eq!(failed[0], true, "{result}");
        assert!(failed[1].as_str().unwrap().contains(expected), "{expected}: {result}");
    }
    assert_eq!(failed.len(), 3, "{result}");
    assert_eq!(result["healthy"], "string", "{result}");
    assert!(result["tools"].as_u64().unwrap() > 100, "all pages: {result}");
    let scopes = result["scope"].as_str().unwrap();
    assert!(["mcp", "user", "admin"].iter().all(|scope| scopes.contains(scope)), "{scopes}");
}

/// Runs a client; what it must have come to.
async fn check(client: &[&str], mode: &str) -> Value {
    let site = Site::start().await;
    let upstream = Upstream::start("app").await;
    let fields = json!({
        "auth_enabled": true, "resource_endpoint": "/mcp", "resource_scopes": ["mcp", "user", "admin"],
        "oauth_admin_users": [MONA], "oauth_user_users": [], "oauth_mcp_users": [],
    });
    site.daemon.host(TOOLS, "builtin:mcp", fields).await;
    let browser = Browser::start().await;
    let gateway = site.daemon.http.to_string();
    let url = site.url(TOOLS, "/mcp");
    let upstream = upstream.url();
    let arguments = [&client[1..], &[&url, mode, &upstream, &gateway]].concat();
    let result = site.run(client[0], &arguments, &browser, MONA).await;
    assert_eq!(
        result["founding"],
        json!(["echo", "health_check", "list_proxies", "run_command"]),
        "{result}"
    );
    assert_eq!(result["seen"], json!([200, 401, 404]), "{result}");
    assert_eq!(result["logged"], json!([401, 200]), "{result}");
    assert_eq!(result["left"], json!([]), "{result}");
    // Before it is changed, and before it goes; not before it is made.
    let asked = result["asked"].as_array().unwrap();
    assert!(asked.len() >= 2, "{result}");
    assert!(asked[0].as_str().unwrap().starts_with("Enable proxy auth: "), "{result}");
    assert!(asked[1].as_str().unwrap().starts_with("Delete proxy: "), "{result}");
    assert!(asked.iter().all(|asked| asked.as_str().unwrap().contains("made.example.test")), "{result}");
    result
}
