//! What tools answer is what their schemas promise: clients check it, and drop what is something else.

use serde_json::{Value, json};

use crate::Site;
use crate::support::daemon::Daemon;
use crate::support::mcp::{Mcp, STATEFUL};

/// The arguments of tools that can't be called without.
fn given() -> Vec<(&'static str, Value)> {
    let host = json!({ "proxy_hostname": "app.localhost" });
    vec![
        ("certificate_status", json!({ "cert_name": "waiting" })),
        ("certificate_coverage", json!({ "cert_name": "waiting" })),
        ("explain_mcp_call", json!({ "proxy_hostname": "app.localhost", "tool": "read_file" })),
        ("explain_route", json!({ "host": "app.localhost", "path": "/x" })),
        ("list_mcp_rules", host.clone()),
        ("list_mcp_tools", host.clone()),
        ("list_proxy_routes", host.clone()),
        ("list_upstream_credentials", host.clone()),
        ("logs_of_method", json!({ "of_method": "GET" })),
        ("logs_of_path", json!({ "pattern": "/x" })),
        ("logs_of_proxy", json!({ "proxy": "app.localhost" })),
        ("logs_of_status", json!({ "code": "4xx" })),
        ("logs_of_user", json!({ "of_user": "nobody" })),
        ("oauth_events_of_proxy", host.clone()),
        ("oauth_events_of_user", json!({ "user": "nobody" })),
        ("oauth_sessions_of_proxy", host.clone()),
        ("show_certificate", json!({ "cert_name": "waiting" })),
        ("show_external_service", json!({ "service_name": "billing" })),
        ("show_mcp_policy", host.clone()),
        ("show_oauth_client", json!({ "client_id": "cli" })),
        ("show_proxy", host.clone()),
        ("show_proxy_auth", host.clone()),
        ("show_proxy_headers", host.clone()),
        ("show_proxy_mcp", host.clone()),
        ("show_proxy_oauth_server", host.clone()),
        ("show_proxy_resource", host),
        ("show_route", json!({ "route_id": "files" })),
        ("show_route_auth", json!({ "route_id": "files" })),
        ("show_token", json!({ "name": "service" })),
        ("token_certificates", json!({ "name": "service" })),
        ("token_proxies", json!({ "name": "service" })),
    ]
}

/// What an answer says against the schema that was published for it.
fn problems(tool: &Value, result: &Value) -> Vec<String> {
    let schema = jsonschema::validator_for(&tool["outputSchema"]).unwrap();
    let told = &result["structuredContent"];
    schema.iter_errors(told).map(|error| format!("{}: {error} in {told}", tool["name"])).collect()
}

async fn call(admin: &mut Mcp, tools: &[Value], name: &str, arguments: Value) {
    let tool = tools.iter().find(|tool| tool["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let result = admin.tool(name, arguments).await;
    assert_ne!(result["isError"], true, "{name}: {result}");
    assert_eq!(problems(tool, &result), Vec::<String>::new());
}

#[tokio::test]
async fn what_tools_answer_fits_their_schemas() {
    // Nobody answers there.
    let daemon = Daemon::start_with(|command| {
        command.env("ACME_DIRECTORY_URL", "https://127.0.0.1:9/directory");
    });
    let site = Site { daemon };
    let mut admin = site.admin(STATEFUL).await;
    let tools = admin.tools().await;
    let app = |more: Value| {
        let mut fields = json!({ "proxy_hostname": "app.localhost" });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    for (name, arguments) in [
        ("create_proxy", app(json!({ "target_url": "http://127.0.0.1:9" }))),
        ("update_proxy", app(json!({ "cors": { "origins": ["https://app.example"] } }))),
        ("enable_proxy_auth", app(json!({ "mode": "forward" }))),
        ("set_mcp_policy", app(json!({ "default": "allow" }))),
        (
            "register_external_service",
            json!({ "service_name": "billing", "target_url": "http://127.0.0.1:9" }),
        ),
        (
            "create_route",
            json!({ "route_id": "files", "path_pattern": "/files", "target_type": "service", "target_value": "billing" }),
        ),
        ("set_route_auth", json!({ "route_id": "files", "auth_type": "bearer" })),
        ("create_certificate", json!({ "cert_name": "waiting", "domain": "app.example.com" })),
        ("create_token", json!({ "name": "service", "scopes": ["user"] })),
        (
            "create_oauth_client",
            json!({ "client_id": "cli", "redirect_uris": ["http://127.0.0.1/callback"] }),
        ),
    ] {
        call(&mut admin, &tools, name, arguments).await;
    }

    let mut looked = Vec::new();
    for tool in tools.iter().filter(|tool| tool["annotations"]["readOnlyHint"] == true) {
        let name = tool["name"].as_str().unwrap();
        let required = tool["inputSchema"]["required"].as_array().map_or(0, Vec::len);
        let arguments = match given().into_iter().find(|(known, _)| *known == name) {
            Some((_, arguments)) => arguments,
            None if required == 0 => json!({}),
            None => continue,
        };
        let result = admin.tool(name, arguments).await;
        // Of what there is nothing here, only the error can be seen.
        if result["isError"] == true {
            eprintln!("{name}: {}", result["content"][0]["text"]);
            continue;
        }
        if tool["outputSchema"].is_object() {
            assert_eq!(problems(tool, &result), Vec::<String>::new());
            looked.push(name);
        }
    }
    eprintln!("{} of {} tools: {looked:?}", looked.len(), tools.len());
    assert!(looked.len() >= 60, "{} are no picture of all: {looked:?}", looked.len());

    for (name, arguments) in [
        ("clear_route_auth", json!({ "route_id": "files" })),
        ("delete_route", json!({ "route_id": "files" })),
        ("unregister_external_service", json!({ "service_name": "billing" })),
        ("clear_mcp_policy", app(json!({}))),
        ("disable_proxy_auth", app(json!({}))),
        ("delete_certificate", json!({ "cert_name": "waiting" })),
        ("delete_token", json!({ "name": "service" })),
        ("delete_oauth_client", json!({ "client_id": "cli" })),
        ("delete_proxy", app(json!({}))),
    ] {
        call(&mut admin, &tools, name, arguments).await;
    }
}
