//! Documents of every kind live and die, whole and in parts.

use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::{pair, told};

/// One kind of document: where it lives, how it is made, and what is changed.
struct Noun {
    collection: &'static str,
    item: &'static str,
    create: (&'static str, Value),
    update: Value,
}

fn nouns() -> Vec<Noun> {
    let (chain, key) = pair("app.example.com");
    let (next_chain, next_key) = pair("app.example.com");
    let proxy = json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5" });
    let service = json!({ "service_name": "web", "target_url": "http://10.0.0.9" });
    let route =
        json!({ "route_id": "r", "path_pattern": "/r", "target_type": "instance", "target_value": "web" });
    let resource =
        json!({ "uri": "https://app.example.com/mcp", "name": "app", "proxy_target": "app.example.com" });
    let cert = json!({ "cert_name": "app", "fullchain_pem": chain, "private_key_pem": key });
    let next = json!({ "fullchain_pem": next_chain, "private_key_pem": next_key, "replace": true });
    let noun = |collection, item, create, update| Noun { collection, item, create, update };
    vec![
        // The proxy is served with it, and goes before it.
        noun("/certificates", "/certificates/app", ("/certificates/upload", cert), next),
        noun(
            "/proxy/targets",
            "/proxy/targets/app.example.com",
            ("/proxy/targets/", proxy),
            json!({ "preserve_host_header": false }),
        ),
        noun(
            "/services/external",
            "/services/external/web",
            ("/services/external", service),
            json!({ "description": "x" }),
        ),
        noun("/instances", "/instances/web", ("", Value::Null), json!({ "description": "y" })),
        noun("/routes", "/routes/r", ("/routes/", route), json!({ "priority": 7 })),
        noun(
            "/resources",
            "/resources/app.example.com/mcp",
            ("/resources/", resource),
            json!({ "description": "z" }),
        ),
    ]
}

/// Makes, lists, shows, changes and deletes one document of each kind.
async fn live_and_die(api: &Api, prefix: &str, slash: &str) {
    let nouns = nouns();
    for Noun { collection, item, create: (place, body), update } in &nouns {
        if !place.is_empty() {
            let made = api.call("POST", &format!("{prefix}{place}"), body.clone()).await;
            assert_eq!(made.status, 201, "POST {place}: {}", told(&made));
        }
        let listed = api.get(&format!("{prefix}{collection}{slash}")).await;
        assert_eq!(listed.status, 200, "{collection}: {}", told(&listed));
        let listed = listed.json();
        let list = listed.as_array().or_else(|| listed.as_object()?.values().find_map(Value::as_array));
        assert!(!list.unwrap().is_empty(), "{collection}: {listed}");
        let changed = api.call("PUT", &format!("{prefix}{item}{slash}"), update.clone()).await;
        assert_eq!(changed.status, 200, "PUT {item}: {}", told(&changed));
        let shown = api.get(&format!("{prefix}{item}{slash}")).await;
        assert_eq!(shown.status, 200, "GET {item}: {}", told(&shown));
        assert_eq!(shown.header("content-type"), "application/json");
        assert_eq!(shown.header("cache-control"), "no-store", "answers depend on who asks");
        for (name, value) in update.as_object().unwrap() {
            let shown = shown.json();
            if let Some(now) = shown.get(name) {
                let same = now == value || name.ends_with("pem");
                assert!(same, "{item}.{name} is {now}");
            }
        }
    }
    for Noun { item, .. } in nouns.iter().rev() {
        let gone = api.call("DELETE", &format!("{prefix}{item}{slash}"), Value::Null).await;
        // Instances are external services by an older name.
        let expected = if *item == "/services/external/web" { 404 } else { 200 };
        assert_eq!(gone.status, expected, "DELETE {item}: {}", told(&gone));
        assert_eq!(api.get(&format!("{prefix}{item}")).await.status, 404, "{item}");
    }
}

#[tokio::test]
async fn documents_live_and_die_on_the_admin_socket_and_over_https_under_every_form_of_a_path() {
    let daemon = Daemon::start();
    let local = Api::local(&daemon);
    live_and_die(&local, "", "").await;
    live_and_die(&local, "/api/v1", "/").await;
    let remote = Api::remote(&daemon, "ci", "admin");
    live_and_die(&remote, "", "/").await;
    live_and_die(&remote, "/api/v1", "").await;
}

#[tokio::test]
async fn parts_of_a_proxy_are_set_shown_and_cleared() {
    let daemon = Daemon::start();
    let api = Api::remote(&daemon, "ci", "admin");
    let proxy = json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5" });
    assert_eq!(api.call("POST", "/proxy/targets/", proxy).await.status, 201);
    for (part, set, field, value) in [
        (
            "auth",
            json!({ "mode": "forward", "required_users": ["octocat"] }),
            "/auth_required_users",
            json!(["octocat"]),
        ),
        (
            "resource",
            json!({ "endpoint": "/mcp", "scopes": ["mcp:read"] }),
            "/resource_endpoint",
            json!("/mcp"),
        ),
        ("headers", json!({ "response": { "set": { "x-a": "1" } } }), "/response/set/x-a", json!("1")),
    ] {
        let path = format!("/proxy/targets/app.example.com/{part}");
        let set = api.call("POST", &path, set).await;
        assert_eq!(set.status, 200, "{part}: {}", told(&set));
        let shown = api.get(&path).await.json();
        assert_eq!(shown.pointer(field), Some(&value), "{part}: {shown}");
        assert_eq!(api.call("DELETE", &path, Value::Null).await.status, 200, "{part}");
        assert_ne!(api.get(&path).await.json().pointer(field), Some(&value), "{part}");
    }
    let route = json!({ "route_id": "r", "path_pattern": "/r", "target_type": "port", "target_value": 81 });
    assert_eq!(api.call("POST", "/routes/", route).await.status, 201);
    let off = api.call("POST", "/proxy/targets/app.example.com/routes/r/disable", Value::Null).await;
    assert_eq!(off.json()["applicable_routes"], json!([]), "{}", told(&off));
    let told = api.get("/routes/explain?host=app.example.com&path=/r").await.json();
    assert_eq!(told["decision"], "proxy", "{told}");
    assert_eq!(
        api.call("PUT", "/proxy/targets/app.example.com/disable", Value::Null).await.json()["enabled"],
        false
    );
}

#[tokio::test]
async fn tokens_are_shown_once_rotated_and_deleted() {
    let daemon = Daemon::start();
    let admin = Api::local(&daemon);
    let made = admin.call("POST", "/tokens/", json!({ "name": "ci", "scopes": ["user"] })).await;
    assert_eq!(made.status, 201, "{}", told(&made));
    let made = made.json();
    let first = Api::Remote(daemon.https, made["token"].as_str().map(str::to_owned));
    let info = first.get("/tokens/info").await.json();
    assert_eq!((&info["username"], &info["scopes"]), (&json!("service:ci"), &json!(["user"])), "{info}");
    assert_eq!(admin.call("POST", "/tokens/", json!({ "name": "ci" })).await.status, 409);
    assert_eq!(admin.get("/tokens/ci/reveal").await.status, 410);
    let shown = admin.get("/tokens/ci").await.json();
    assert_eq!((&shown["jti"], &shown["token"]), (&made["jti"], &Value::Null), "{shown}");

    let rotated = admin.call("POST", "/tokens/ci/rotate", Value::Null).await.json();
    let second = Api::Remote(daemon.https, rotated["token"].as_str().map(str::to_owned));
    assert_eq!(second.get("/tokens/info").await.status, 200);
    eventually("the rotated token is refused", || {
        first.get("/tokens/info").map(|answer| (answer.status == 401).then_some(()))
    })
    .await;
    assert_eq!(admin.call("DELETE", "/tokens/ci", Value::Null).await.status, 200);
    eventually("the deleted token is refused", || {
        second.get("/tokens/info").map(|answer| (answer.status == 401).then_some(()))
    })
    .await;
}

#[tokio::test]
async fn a_merge_patch_keeps_what_is_absent_and_null_clears() {
    let daemon = Daemon::start();
    let api = Api::local(&daemon);
    let proxy = json!({
        "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5",
        "max_body_bytes": 10, "custom_headers": { "X-A": "1", "X-B": "2" },
    });
    assert_eq!(api.call("POST", "/proxy/targets/", proxy).await.status, 201);
    let patch = json!({ "max_body_bytes": null, "custom_headers": { "X-A": null } }).to_string();
    let kind = [("content-type", "application/merge-patch+json")];
    let changed = api.send("PATCH", "/proxy/targets/app.example.com", &kind, &patch).await;
    assert_eq!(changed.status, 200, "{}", told(&changed));
    let changed = changed.json();
    assert_eq!(changed["max_body_bytes"], Value::Null);
    let names: Vec<_> =
        changed["custom_headers"].as_object().unwrap().keys().map(|name| name.to_lowercase()).collect();
    assert_eq!(names, ["x-b"], "{changed}");
    assert_eq!(changed["target_url"], "http://10.0.0.5");
    let tag = api.get("/proxy/targets/app.example.com").await;
    let again = [("content-type", "application/json"), ("if-match", tag.header("etag"))];
    let put = api.send("PUT", "/proxy/targets/app.example.com", &again, &tag.json().to_string()).await;
    assert_eq!(put.status, 200, "what was read can be sent back: {}", told(&put));
}
