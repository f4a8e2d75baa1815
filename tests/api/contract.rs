//! What callers can rely on: how refusals look, and what the API says of itself.

use std::collections::BTreeSet;

use portcullis::services::control::register;
use serde_json::json;

use crate::support::api::Api;
use crate::support::daemon::Daemon;
use crate::{Listed, told};

/// Status, who asks, method, path, headers, body, and the code of the problem.
type Refused<'a> = (u16, &'a Api, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

#[tokio::test]
async fn refusals_have_the_right_status_and_name_what_is_wrong() {
    let daemon = Daemon::start();
    let admin = Api::remote(&daemon, "ci", "admin");
    let user = Api::remote(&daemon, "reader", "user");
    let proxy = json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5" });
    assert_eq!(admin.call("POST", "/proxy/targets/", proxy.clone()).await.status, 201);
    let (twin, json_type) = (proxy.to_string(), ("content-type", "application/json"));
    let app = "/proxy/targets/app.example.com";
    let large = format!("{{\"description\": \"{}\"}}", "x".repeat(2 << 20));
    let typo = r#"{"proxy_hostname": "b.example", "target_url": "http://a", "enabld": true}"#;
    let cases: &[Refused<'_>] = &[
        (401, &Api::anonymous(&daemon), "GET", "/proxy/targets/", &[], "", ""),
        (401, &Api::Remote(daemon.https, Some("nonsense".to_owned())), "GET", "/proxy/targets/", &[], "", ""),
        (403, &user, "DELETE", app, &[], "", "insufficient_scope"),
        (403, &user, "GET", "/tokens/", &[], "", "insufficient_scope"),
        (403, &admin, "DELETE", app, &[("origin", "https://evil.example")], "", "origin_not_allowed"),
        (404, &admin, "GET", "/nothing", &[], "", "no_such_path"),
        (404, &admin, "GET", "/proxy/targets/none.example", &[], "", "not_found"),
        (405, &admin, "DELETE", "/proxy/targets/", &[], "", "method_not_allowed"),
        (409, &admin, "POST", "/proxy/targets/", &[json_type], &twin, "conflict"),
        (410, &admin, "GET", "/tokens/ci/reveal", &[], "", "gone"),
        (412, &admin, "PUT", app, &[json_type, ("if-match", "\"9\"")], r#"{"enabled": true}"#, "stale"),
        (413, &admin, "PUT", app, &[json_type], &large, "too_large"),
        (415, &admin, "PUT", app, &[("content-type", "text/plain")], "{}", "unsupported_media_type"),
        (400, &admin, "PUT", app, &[json_type], "{", "bad_json"),
        (422, &admin, "POST", "/proxy/targets/", &[json_type], typo, "invalid"),
        (422, &admin, "PUT", app, &[json_type], r#"{"target_url": "ftp://a"}"#, "invalid"),
        (422, &admin, "GET", "/logs/search?colour=red", &[], "", "invalid"),
    ];
    for (status, api, method, path, headers, body, code) in cases {
        let answer = api.send(method, path, headers, body).await;
        let what = format!("{method} {path}: {}", told(&answer));
        assert_eq!(answer.status, *status, "{what}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
        let problem = answer.json();
        assert_eq!(problem["status"], *status, "{what}");
        if !code.is_empty() {
            assert_eq!(problem["code"], *code, "{what}");
        }
        match *status {
            401 => assert!(
                answer.header("www-authenticate").contains("resource_metadata=\"https://localhost"),
                "{what}"
            ),
            403 if *code == "insufficient_scope" => {
                let challenge = answer.header("www-authenticate");
                assert!(
                    challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope="),
                    "{what}"
                );
            }
            405 => assert!(answer.header("allow").contains("POST"), "{what}"),
            422 => assert!(!problem["errors"][0]["field"].as_str().unwrap().is_empty(), "{what}"),
            _ => {}
        }
    }
    let refused = admin.send("POST", "/proxy/targets/", &[json_type], typo).await.json();
    assert_eq!(refused["errors"][0]["field"], "enabld", "{refused}");
    assert_eq!(admin.get("/proxy/targets/b.example").await.status, 404, "nothing was stored");
}

#[tokio::test]
async fn the_openapi_document_lists_every_operation_and_is_sound() {
    let daemon = Daemon::start();
    let spec = Api::anonymous(&daemon).get("/openapi.json").await.json();
    assert_eq!(spec["openapi"], "3.1.0");
    assert!(!spec["components"]["schemas"].as_object().unwrap().is_empty());
    let mut listed = Listed::default();
    register(&mut listed);
    for (name, endpoint) in &listed.0 {
        let operation = &spec["paths"][endpoint.template()][endpoint.method.as_str().to_ascii_lowercase()];
        assert!(
            operation["operationId"].as_str().is_some_and(|id| id.starts_with(name)),
            "{name} at {endpoint:?}"
        );
    }
    // What answers beside the operations.
    let follow = &spec["paths"]["/logs/follow"]["get"];
    assert!(!follow["responses"]["200"]["content"]["text/event-stream"].is_null(), "{follow}");
    let parameters: Vec<_> =
        follow["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(
        ["log", "status", "Last-Event-ID"].iter().all(|name| parameters.contains(&&json!(name))),
        "{follow}"
    );
    assert!(!parameters.contains(&&json!("cursor")), "{follow}");
    let formatted = &spec["paths"]["/routes/formatted"]["get"];
    for kind in ["text/plain", "text/csv", "application/json"] {
        assert!(!formatted["responses"]["200"]["content"][kind].is_null(), "{formatted}");
    }
    assert!(!spec["paths"]["/resources/{uri}/validate-token"]["post"].is_null());
    let mut ids = BTreeSet::new();
    for (path, item) in spec["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"]
                .as_str()
                .unwrap_or_else(|| panic!("{method} {path} has no operationId"));
            assert!(ids.insert(id), "{id} is there twice");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            let declared: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
            for name in path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')) {
                let found = declared.iter().find(|one| one["name"] == name && one["in"] == "path");
                assert!(found.is_some_and(|one| one["required"] == true), "{method} {path}: {name}");
            }
        }
    }
    let text = spec.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(spec.pointer(reference).is_some(), "{reference} leads nowhere");
    }
}

#[tokio::test]
async fn the_authorization_server_is_for_admins_and_answers_at_every_place() {
    let daemon = Daemon::start();
    let admin = Api::remote(&daemon, "ci", "admin");
    let user = Api::remote(&daemon, "reader", "user");
    let made = json!({ "client_id": "ci-client", "grant_types": ["client_credentials"] });
    let made = admin.call("POST", "/oauth/clients", made).await;
    assert_eq!(made.status, 201, "{}", told(&made));
    assert!(made.json()["client_secret"].as_str().is_some_and(|secret| secret.starts_with("pcs_")));
    for (path, status) in [
        ("/oauth/clients", 200),
        ("/oauth/clients/", 200),
        ("/oauth/clients?active_only=false&sort_by=last_used&order=asc&page=1&per_page=100", 200),
        ("/oauth/clients?per_page=101", 422),
        ("/oauth/clients/ci-client", 200),
        ("/oauth/clients/ci-client/tokens", 200),
        ("/oauth/clients/none", 404),
        ("/oauth/tokens?token_type=refresh&username=octocat&per_page=50", 200),
        ("/oauth/tokens/none", 404),
        ("/oauth/grants", 200),
        ("/oauth/grants/none", 404),
        ("/oauth/sessions", 200),
        ("/oauth/sessions/none", 404),
        ("/oauth/metrics", 200),
        ("/oauth/health", 200),
        ("/oauth/proxies", 200),
        ("/oauth/proxies/localhost/sessions", 200),
        ("/oauth/admin/setup-status?domain=localhost", 200),
        ("/oauth/events?hours=24&limit=1000", 200),
        ("/oauth/events/ip/192.0.2.1", 200),
        ("/oauth/events/proxy/localhost", 200),
        ("/oauth/events/user/octocat", 200),
        ("/oauth/consents", 200),
        ("/api/v1/oauth/clients", 200),
    ] {
        let answer = admin.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", told(&answer));
        assert!(
            !told(&answer).contains("pcs_") && !told(&answer).contains(":null"),
            "{path}: {}",
            told(&answer)
        );
        assert_eq!(Api::anonymous(&daemon).get(path).await.status, 401, "{path}");
        let own = path.starts_with("/oauth/consents");
        assert_eq!(user.get(path).await.status, if own { 200 } else { 403 }, "{path}");
    }
    assert_eq!(user.get("/oauth/events/user/service:reader").await.status, 200, "its own");
    for (method, path, status) in [
        ("DELETE", "/oauth/tokens/none", 404),
        ("DELETE", "/oauth/grants/none", 404),
        ("DELETE", "/oauth/sessions/none", 404),
        ("DELETE", "/oauth/users/1/sessions", 404),
        ("POST", "/oauth/admin/setup-routes", 200),
        ("POST", "/oauth/clients/ci-client/secret", 200),
        ("DELETE", "/oauth/clients/ci-client", 200),
        ("DELETE", "/oauth/clients/ci-client", 404),
    ] {
        assert_eq!(user.call(method, path, json!(null)).await.status, 403, "{method} {path}");
        let answer = admin.call(method, path, json!(null)).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", told(&answer));
    }
    let shown = daemon.run(&["oauth", "client", "list", "--sort-by", "client_name"]);
    assert!(shown["clients"].as_array().is_some_and(|clients| clients.len() >= 2), "{shown}");
}

#[tokio::test]
async fn the_page_of_the_api_runs_nothing_and_needs_no_token() {
    let daemon = Daemon::start();
    let page = Api::anonymous(&daemon).get("/docs").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    for rule in ["default-src 'none'", "style-src 'sha256-", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    let html = String::from_utf8_lossy(&page.body).into_owned();
    assert!(html.contains("/proxy/targets/{proxy_hostname}") && !html.contains("<script"), "{html}");
}
