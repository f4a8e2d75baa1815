//! A model's client runs the gateway itself: by tools alone, signed in as its admin.

use serde_json::json;

use crate::site::{MONA, Site, TOOLS};
use crate::support::browser::Browser;
use crate::support::upstream::Upstream;

#[tokio::test]
async fn the_python_sdk_runs_the_gateway_with_a_session() {
    check("legacy", "2025-11-25").await;
}

#[tokio::test]
async fn the_python_sdk_runs_the_gateway_without_a_session() {
    check("2026-07-28", "2026-07-28").await;
}

async fn check(mode: &str, revision: &str) {
    let site = Site::start().await;
    let upstream = Upstream::start("app").await;
    let fields = json!({
        "auth_enabled": true, "resource_endpoint": "/mcp", "resource_scopes": ["mcp", "user", "admin"],
        "oauth_admin_users": [MONA], "oauth_user_users": [], "oauth_mcp_users": [],
    });
    site.daemon.host(TOOLS, "builtin:mcp", fields).await;
    let browser = Browser::start().await;
    let gateway = site.daemon.http.to_string();
    let arguments = [&site.url(TOOLS, "/mcp"), mode, &upstream.url(), &gateway];
    let result = site.run("python_gateway.py", &arguments, &browser, MONA).await;
    assert_eq!(result["protocol"], revision, "{result}");
    assert_eq!(
        result["founding"],
        json!(["echo", "health_check", "list_proxies", "run_command"]),
        "{result}"
    );
    assert_eq!(result["seen"], json!([200, 401, 404]), "{result}");
    assert_eq!(result["logged"], json!([401, 200]), "{result}");
    assert_eq!(result["left"], json!([]), "{result}");
    let asked = result["asked"].as_array().unwrap();
    assert_eq!(asked.len(), 1, "{result}");
    assert!(asked[0].as_str().unwrap().contains("made.example.test"), "{result}");
}
