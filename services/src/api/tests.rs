use std::collections::BTreeSet;
use std::time::Duration;

use http_body_util::BodyExt;
use portcullis_layers::RequestContext;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::control::testing::{caller, control};
use crate::control::{Caller, Endpoint};
use crate::store::{Range, Store, Stream};

struct Api {
    router: Router,
    store: Arc<dyn Store>,
    control: Arc<Control>,
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
    text: String,
}

impl Api {
    fn new() -> Self {
        let (control, store) = control();
        Self { router: router(control.clone()), store, control }
    }

    async fn send(&self, request: http::Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.expect("whole").to_bytes().to_vec()).expect("text");
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body, text }
    }

    async fn as_caller(&self, caller: Caller, method: &str, path: &str, body: Value) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path).extension(caller);
        let body = if body.is_null() {
            Body::empty()
        } else {
            request = request.header("content-type", "application/json");
            Body::from(body.to_string())
        };
        self.send(request.body(body).expect("valid")).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.as_caller(caller("root", &["admin"]), method, path, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    async fn with_proxy(host: &str) -> Self {
        let api = Self::new();
        let made = api
            .call(
                "POST",
                "/proxy/targets/",
                json!({ "proxy_hostname": host, "target_url": "http://10.0.0.5" }),
            )
            .await;
        assert_eq!(made.status, 201, "{}", made.text);
        api
    }

    async fn audit(&self) -> Vec<Value> {
        assert!(self.control.writers.audit.flush(Duration::from_secs(10)).await, "the audit log is written");
        let range =
            Range { after: None, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: 1000 };
        let entries = self.store.range(Stream::Audit, &range).await.expect("a store");
        entries.iter().map(|entry| serde_json::from_slice(&entry.record).expect("JSON")).collect()
    }
}

#[tokio::test]
async fn a_proxy_lives_from_creation_to_deletion() {
    let api = Api::new();
    let made = api
        .call(
            "POST",
            "/proxy/targets/",
            json!({ "hostname": "App.Example.com", "target_url": "http://10.0.0.5:8080/" }),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.body["proxy_target"]["proxy_hostname"], "app.example.com");
    assert_eq!(made.body["proxy_target"]["created_by"], "root");
    assert_eq!(made.body["certificate_status"], "self_signed");
    let again = api
        .call(
            "POST",
            "/proxy/targets",
            json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.6" }),
        )
        .await;
    assert_eq!((again.status, again.body["code"].as_str()), (409, Some("conflict")));

    let changed = api
        .call(
            "PUT",
            "/proxy/targets/app.example.com",
            json!({ "custom_headers": { "X-A": "1", "X-B": "2" }, "auth_required_users": ["Octocat"], "max_body_bytes": 10 }),
        )
        .await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(changed.body["config_version"], 2);
    assert_eq!(changed.headers["etag"], "\"2\"");
    assert_eq!(changed.body["auth_required_users"], json!(["octocat"]));
    let changed = api
        .call(
            "PATCH",
            "/proxy/targets/app.example.com",
            json!({ "custom_headers": { "X-A": null }, "max_body_bytes": null }),
        )
        .await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(changed.body["max_body_bytes"], Value::Null);
    assert_eq!(changed.body["auth_required_users"], json!(["octocat"]), "what is not given stays");

    let whole = api.get("/proxy/targets/app.example.com").await;
    let same = api.call("PUT", "/proxy/targets/app.example.com", whole.body.clone()).await;
    assert_eq!(same.status, 200, "what was read can be sent back: {}", same.text);
    assert_eq!(same.body["config_version"], whole.body["config_version"], "nothing changed");

    assert_eq!(
        api.call("POST", "/proxy/targets/app.example.com/disable", Value::Null).await.body["enabled"],
        false
    );
    assert_eq!(
        api.call("PUT", "/proxy/targets/app.example.com/enable", json!({})).await.body["enabled"],
        true
    );
    assert_eq!(api.get("/proxy/targets").await.body.as_array().map(Vec::len), Some(1));
    assert_eq!(api.call("DELETE", "/proxy/targets/app.example.com", Value::Null).await.status, 200);
    assert_eq!(api.get("/proxy/targets/app.example.com").await.status, 404);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_stored() {
    let api = Api::with_proxy("app.example.com").await;
    for (method, path, body, field) in [
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "http://a", "enabld": true }),
            "enabld",
        ),
        ("POST", "/proxy/targets/", json!({ "proxy_hostname": "b.example" }), "target_url"),
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "x" }),
            "target_url",
        ),
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "http://a", "created_by": "me" }),
            "created_by",
        ),
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "http://a", "cert_name": "none" }),
            "cert_name",
        ),
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "http://a", "auth_proxy": "auth.other.example" }),
            "auth_proxy",
        ),
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "http://a", "oauth_server_issuer": "https://other.example" }),
            "oauth_server_issuer",
        ),
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "b.example", "target_url": "http://a", "enabled_routes": ["none"] }),
            "enabled_routes[0]",
        ),
        (
            "PUT",
            "/proxy/targets/app.example.com",
            json!({ "github_client_secret": "s" }),
            "github_client_secret",
        ),
        ("PUT", "/proxy/targets/app.example.com", json!({ "target_url": null }), "target_url"),
        ("PUT", "/proxy/targets/app.example.com", json!({ "proxy_hostname": "b.example" }), "proxy_hostname"),
        ("PUT", "/proxy/targets/app.example.com?enabled=maybe", json!({}), "enabled"),
        ("POST", "/proxy/targets/app.example.com/auth", json!({ "mode": "forward", "user": [] }), "user"),
        ("POST", "/proxy/targets/app.example.com/auth", json!({ "mode": "sideways" }), "mode"),
        ("POST", "/proxy/targets/app.example.com/resource", json!({ "endpoint": "mcp" }), "endpoint"),
        (
            "POST",
            "/routes/",
            json!({ "path_pattern": "/", "target_type": "service", "target_value": "none" }),
            "target_value",
        ),
        (
            "POST",
            "/routes/",
            json!({ "path_pattern": "/", "target_type": "hostname", "target_value": "none.example" }),
            "target_value",
        ),
        (
            "POST",
            "/routes/",
            json!({ "path_pattern": "/", "target_type": "port", "target_value": 80, "scope": "proxy", "proxy_hostnames": ["none.example"] }),
            "proxy_hostnames[0]",
        ),
        (
            "POST",
            "/resources/",
            json!({ "uri": "https://r.example", "name": "r", "proxy_target": "none.example" }),
            "proxy_target",
        ),
        ("POST", "/tokens/", json!({ "name": "ADMIN" }), "name"),
        ("POST", "/tokens/", json!({ "name": "ci", "expires_in_days": 1000 }), "expires_in_days"),
        ("GET", "/logs/search?hours=1000", Value::Null, "hours"),
        ("GET", "/logs/search?colour=red", Value::Null, "colour"),
        ("POST", "/logs/level", json!({ "level": "LOUD" }), "level"),
    ] {
        let answer = api.call(method, path, body.clone()).await;
        assert_eq!(answer.status, 422, "{method} {path} {body}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.body["errors"][0]["field"], field, "{method} {path} {body}: {}", answer.text);
        assert!(answer.body["errors"][0]["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    assert_eq!(api.get("/proxy/targets/").await.body.as_array().map(Vec::len), Some(1));
    assert_eq!(api.get("/routes/").await.body, json!([]));
}

#[tokio::test]
async fn http_has_its_say() {
    let api = Api::with_proxy("app.example.com").await;
    let admin = || caller("root", &["admin"]);
    assert_eq!(api.get("/nothing").await.body["code"], "no_such_path");
    let wrong = api.call("DELETE", "/proxy/targets/", Value::Null).await;
    assert_eq!((wrong.status, wrong.body["code"].as_str()), (405, Some("method_not_allowed")));
    let allow = wrong.headers["allow"].to_str().expect("text").to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    for (kind, body, status) in [
        ("text/plain", "{}", 415),
        ("application/x-www-form-urlencoded", "proxy_hostname=a", 415),
        ("application/x-www-form-urlencoded", "", 415),
        ("", "{}", 415),
        ("application/json", "{", 400),
        ("application/json", "[]", 422),
    ] {
        let mut request = http::Request::post("/proxy/targets/").extension(admin());
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let answer = api.send(request.body(Body::from(body)).expect("valid")).await;
        assert_eq!(answer.status, status, "{kind} {body}: {}", answer.text);
    }
    let large = format!("{{\"a\": \"{}\"}}", "x".repeat(2 << 20));
    let request =
        http::Request::post("/proxy/targets/").extension(admin()).header("content-type", "application/json");
    assert_eq!(api.send(request.body(Body::from(large)).expect("valid")).await.status, 413);
    for (name, value, status) in [
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-origin", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "https://api.example", 200),
    ] {
        let request = http::Request::post("/proxy/targets/app.example.com/enable").extension(admin());
        let request = request.header("host", "api.example").header(name, value);
        let answer = api.send(request.body(Body::empty()).expect("valid")).await;
        assert_eq!(answer.status, status, "{name}: {value}: {}", answer.text);
    }
}

#[tokio::test]
async fn versions_guard_against_lost_updates() {
    let api = Api::with_proxy("app.example.com").await;
    let put = |tag: &str, body: Value| {
        let request = http::Request::put("/proxy/targets/app.example.com")
            .extension(caller("root", &["admin"]))
            .header("content-type", "application/json")
            .header("if-match", tag);
        api.send(request.body(Body::from(body.to_string())).expect("valid"))
    };
    assert_eq!(put("\"1\"", json!({ "enabled": false })).await.status, 200);
    let stale = put("\"1\"", json!({ "enabled": true })).await;
    assert_eq!((stale.status, stale.body["code"].as_str()), (412, Some("stale")));
    assert_eq!(put("*", json!({ "enabled": true })).await.status, 200);
    assert_eq!(put("1", json!({})).await.status, 422);
    let old = api
        .call("PUT", "/proxy/targets/app.example.com", json!({ "config_version": 1, "enabled": false }))
        .await;
    assert_eq!(old.status, 409);
}

#[tokio::test]
async fn only_those_who_may_get_through() {
    let api = Api::with_proxy("app.example.com").await;
    for (who, method, path, status) in [
        (Caller::Anonymous, "GET", "/health", 200),
        (Caller::Anonymous, "GET", "/system/version", 200),
        (Caller::Anonymous, "GET", "/proxy/targets/", 401),
        (Caller::Anonymous, "GET", "/tokens/info", 401),
        (Caller::Anonymous, "GET", "/logs/follow", 401),
        (Caller::Anonymous, "DELETE", "/proxy/targets/app.example.com", 401),
        (caller("none", &[]), "GET", "/tokens/info", 200),
        (caller("none", &[]), "GET", "/proxy/targets/", 403),
        (caller("user", &["user"]), "GET", "/proxy/targets/", 200),
        (caller("user", &["user"]), "GET", "/tokens/", 403),
        (caller("user", &["user"]), "GET", "/logs/search", 200),
        (caller("user", &["user"]), "GET", "/logs/search?log=audit", 403),
        (caller("user", &["user"]), "GET", "/logs/follow?log=diagnostics", 403),
        (caller("user", &["user"]), "GET", "/system/config/export", 403),
        (caller("user", &["user"]), "DELETE", "/proxy/targets/app.example.com", 403),
        (caller("mcp", &["mcp"]), "GET", "/proxy/targets/", 403),
        (Caller::Local, "GET", "/tokens/", 200),
        (Caller::Local, "GET", "/tokens/info", 200),
    ] {
        let answer = api.as_caller(who.clone(), method, path, Value::Null).await;
        assert_eq!(answer.status, status, "{who:?} {method} {path}: {}", answer.text);
        match status {
            401 => assert_eq!(answer.headers["www-authenticate"], "Bearer"),
            403 => assert_eq!(answer.body["code"], "insufficient_scope"),
            _ => {}
        }
    }
    assert_eq!(api.get("/proxy/targets/app.example.com").await.status, 200, "nobody deleted it");
}

#[tokio::test]
async fn identity_comes_from_the_layers_and_never_from_headers() {
    let api = Api::new();
    let mut request = http::Request::get("/tokens/info").body(Body::empty()).expect("valid");
    for (name, value) in [("x-auth-user", "root"), ("x-auth-scopes", "admin"), ("x-internal-request", "true")]
    {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    assert_eq!(api.send(request).await.status, 401);
    let mut request = http::Request::get("/tokens/info").body(Body::empty()).expect("valid");
    let Caller::Principal(principal) = caller("octocat", &["user"]) else { panic!("a principal") };
    RequestContext::of(request.extensions_mut()).principal = Some(principal);
    assert_eq!(api.send(request).await.body["username"], "octocat");
}

#[tokio::test]
async fn every_path_answers_in_every_form() {
    let api = Api::with_proxy("app.example.com").await;
    for path in [
        "/proxy/targets",
        "/proxy/targets/",
        "/api/v1/proxy/targets",
        "/api/v1/proxy/targets/",
        "/api/v1/health",
        "/health/",
    ] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    let made =
        api.call("POST", "/instances", json!({ "name": "Web", "target_url": "http://10.0.0.9" })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(api.get("/services/external/web").await.body, made.body);
    let mcp = api
        .call(
            "POST",
            "/proxy/targets/app.example.com/mcp",
            json!({ "enabled": true, "mcp_versions": ["2025-06-18"] }),
        )
        .await;
    assert_eq!(mcp.status, 200, "{}", mcp.text);
    let published = api.get("/proxy/targets/app.example.com/resource").await.body;
    assert_eq!(published["resource_endpoint"], "/mcp");
    assert_eq!(published["resource_scopes"], json!(["mcp:read", "mcp:write"]));
    let wrong = json!({ "scopes": ["mcp:read", "admin"] });
    let refused = api.call("POST", "/proxy/targets/app.example.com/mcp", wrong).await;
    assert_eq!(
        (refused.status, &refused.body["errors"][0]["field"]),
        (422, &json!("scopes[1]")),
        "{}",
        refused.body
    );
    assert_eq!(api.call("DELETE", "/proxy/targets/app.example.com/mcp", Value::Null).await.status, 200);
    assert_eq!(api.get("/proxy/targets/app.example.com/resource").await.body["configured"], false);
}

#[tokio::test]
async fn authentication_is_a_part_of_its_own() {
    let api = Api::with_proxy("app.example.com").await;
    let path = "/proxy/targets/app.example.com/auth";
    let rules = json!({
        "auth_proxy": "auth.example.com", "mode": "redirect", "required_users": ["*"], "excluded_paths": ["/health"],
        "allowed_scopes": ["read"], "header_prefix": "X-Id-",
    });
    let set = api.call("POST", path, rules).await;
    assert_eq!((set.status, set.body["status"].as_str()), (200, Some("Auth configured")), "{}", set.text);
    let shown = api.get(path).await;
    assert_eq!(shown.body["auth_mode"], "redirect");
    assert_eq!(shown.body["auth_header_prefix"], "X-Id-");
    let kept = api.call("PUT", path, json!({ "required_emails": ["*@example.com"] })).await;
    assert_eq!(kept.body["proxy_target"]["auth_required_users"], json!(["*"]), "{}", kept.text);
    let cleared = api.call("PATCH", path, json!({ "required_users": null, "enabled": false })).await;
    assert_eq!(cleared.body["proxy_target"]["auth_required_users"], Value::Null, "{}", cleared.text);
    assert_eq!(cleared.body["proxy_target"]["auth_enabled"], false);
    let wrong = api.call("PATCH", path, json!({ "cookie_name": "a b" })).await;
    assert_eq!(
        (wrong.status, &wrong.body["errors"][0]["field"]),
        (422, &json!("cookie_name")),
        "{}",
        wrong.text
    );
    let replaced = api.call("POST", path, json!({})).await;
    assert_eq!(replaced.body["proxy_target"]["auth_required_users"], Value::Null, "{}", replaced.text);
    assert_eq!(api.call("POST", path, json!({ "auth_proxy": "evil.example" })).await.status, 422);
    assert_eq!(api.call("DELETE", path, Value::Null).await.status, 200);
    let shown = api.get(path).await;
    assert_eq!(
        (shown.body["auth_enabled"].as_bool(), &shown.body["auth_allowed_scopes"]),
        (Some(false), &Value::Null)
    );
}

#[tokio::test]
async fn routes_are_created_listed_explained_and_deleted() {
    let api = Api::with_proxy("app.example.com").await;
    let made = api
        .call("POST", "/routes/", json!({ "path_pattern": "/api", "target_type": "url", "target_value": "http://10.0.0.7/base", "priority": 90, "rewrite": { "strip_prefix": "/api" } }))
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.body["route_id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("api-"), "{id}");
    let twin = api
        .call(
            "POST",
            "/routes/",
            json!({ "path_pattern": "/api", "target_type": "port", "target_value": 81, "priority": 90 }),
        )
        .await;
    assert_eq!(twin.status, 409, "{}", twin.text);
    let off = api.call("POST", "/routes/", json!({ "route_id": "off", "path_pattern": "/", "target_type": "port", "target_value": 81, "enabled": false })).await;
    assert_eq!(off.status, 201, "{}", off.text);
    assert_eq!(api.get("/routes/").await.body.as_array().map(Vec::len), Some(2), "disabled ones are listed");

    let told = api.get("/routes/explain?host=app.example.com&path=/api/users&method=POST").await;
    assert_eq!(told.status, 200, "{}", told.text);
    assert_eq!(told.body["decision"], "route");
    assert_eq!(told.body["route_id"], id.as_str());
    assert_eq!(told.body["upstream"], "http://10.0.0.7/base");
    assert_eq!(told.body["upstream_path"], "/users");
    assert_eq!(told.body["considered"][1]["why"], "it is disabled");
    let told = api.get("/routes/explain?host=app.example.com&path=/").await;
    assert_eq!(
        (told.body["decision"].as_str(), told.body["upstream"].as_str()),
        (Some("proxy"), Some("http://10.0.0.5"))
    );
    assert_eq!(api.get("/routes/explain?host=other.example&path=/").await.body["decision"], "no_such_host");

    let toggled =
        api.call("POST", &format!("/proxy/targets/app.example.com/routes/{id}/disable"), Value::Null).await;
    assert_eq!(toggled.body["disabled_routes"], json!([id]), "{}", toggled.text);
    assert_eq!(toggled.body["applicable_routes"], json!([]));
    assert_eq!(
        api.call("POST", "/proxy/targets/app.example.com/routes/none/disable", Value::Null).await.status,
        404
    );
    let none =
        api.call("PUT", "/proxy/targets/app.example.com/routes", json!({ "route_mode": "none" })).await;
    assert_eq!(none.status, 200, "{}", none.text);
    assert_eq!(
        api.call("PUT", &format!("/proxy/targets/app.example.com/routes/{id}/enable"), Value::Null)
            .await
            .status,
        409
    );
    assert_eq!(api.call("PUT", &format!("/routes/{id}/disable"), Value::Null).await.body["enabled"], false);
    assert_eq!(api.call("DELETE", &format!("/routes/{id}"), Value::Null).await.status, 200);
    assert_eq!(
        api.get("/proxy/targets/app.example.com").await.body["disabled_routes"],
        json!([]),
        "it is forgotten"
    );
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let api = Api::with_proxy("app.example.com").await;
    for (path, body) in [
        ("/services/external", json!({ "service_name": "web", "target_url": "http://10.0.0.9" })),
        (
            "/routes/",
            json!({ "route_id": "web", "path_pattern": "/web", "target_type": "instance", "target_value": "web" }),
        ),
        (
            "/routes/",
            json!({ "route_id": "own", "path_pattern": "/own", "target_type": "port", "target_value": 81, "scope": "proxy", "proxy_hostnames": ["app.example.com"] }),
        ),
        (
            "/resources/",
            json!({ "uri": "app.example.com", "name": "app", "proxy_target": "app.example.com" }),
        ),
    ] {
        let made = api.call("POST", path, body).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    let refused = api.call("DELETE", "/services/external/web", Value::Null).await;
    assert_eq!(refused.status, 409);
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("web")), "{}", refused.text);
    assert_eq!(
        api.call("PUT", "/services/external/web", json!({ "routing_enabled": false })).await.status,
        409
    );
    assert_eq!(api.call("DELETE", "/proxy/targets/app.example.com", Value::Null).await.status, 409);
    assert_eq!(api.call("DELETE", "/resources/app.example.com", Value::Null).await.status, 200);
    let gone = api.call("DELETE", "/proxy/targets/app.example.com", Value::Null).await;
    assert_eq!((gone.status, &gone.body["also"]), (200, &json!(["route own deleted"])), "{}", gone.text);
    assert_eq!(api.get("/routes/own").await.status, 404);
}

fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("valid");
    (params.self_signed(&key).expect("signs").pem(), key.serialize_pem())
}

#[tokio::test]
async fn keys_of_certificates_never_come_back() {
    let api = Api::with_proxy("app.example.com").await;
    let (chain, key) = pair("app.example.com");
    let upload = json!({ "cert_name": "app", "fullchain_pem": chain, "private_key_pem": key });
    let made = api.call("POST", "/certificates/upload", upload.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.body["domains"], json!(["app.example.com"]));
    assert_eq!(api.call("POST", "/certificates/upload", upload).await.status, 409);
    assert_eq!(
        api.call("POST", "/certificates/app/attach", json!({ "proxy_hostname": "app.example.com" }))
            .await
            .status,
        200
    );
    let (other_chain, other_key) = pair("other.example");
    let wrong = api
        .call(
            "PUT",
            "/certificates/app",
            json!({ "fullchain_pem": other_chain, "private_key_pem": other_key, "replace": true }),
        )
        .await;
    assert_eq!(wrong.status, 422, "it must still cover the proxy: {}", wrong.text);
    let mixed = api
        .call(
            "POST",
            "/certificates/upload",
            json!({ "cert_name": "b", "fullchain_pem": chain, "private_key_pem": other_key }),
        )
        .await;
    assert_eq!(
        (mixed.status, &mixed.body["errors"][0]["field"]),
        (422, &json!("private_key_pem")),
        "{}",
        mixed.text
    );
    let typed = api
        .call(
            "POST",
            "/certificates/upload",
            json!({ "cert_name": "b", "fullchain_pem": chain, "private_key_pem": [key] }),
        )
        .await;
    assert_eq!(typed.status, 422);
    assert!(!typed.text.contains("PRIVATE KEY"), "{}", typed.text);
    let (chain, next_key) = pair("app.example.com");
    let replaced = api
        .call(
            "PUT",
            "/certificates/app",
            json!({ "fullchain_pem": chain, "private_key_pem": next_key, "replace": true }),
        )
        .await;
    assert_eq!(replaced.status, 200, "{}", replaced.text);
    assert_eq!(api.call("DELETE", "/certificates/app", Value::Null).await.status, 409);

    let body = next_key.lines().nth(1).expect("a body").to_owned();
    for path in [
        "/certificates/",
        "/certificates/app",
        "/certificates/app/status",
        "/system/config/export",
        "/system/config/export?include_secrets=true&include_tokens=true",
        "/proxy/targets/",
    ] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(!answer.text.contains("PRIVATE KEY") && !answer.text.contains(&body), "{path} shows a key");
    }
    let audit = api.audit().await;
    assert!(audit.iter().all(|entry| !entry.to_string().contains(&body)), "the audit log shows a key");
    assert_eq!(api.call("DELETE", "/certificates/app?force=true", Value::Null).await.status, 200);
    assert_eq!(api.get("/proxy/targets/app.example.com").await.body["cert_name"], Value::Null);
}

#[tokio::test]
async fn a_named_token_is_shown_once() {
    let api = Api::with_proxy("app.example.com").await;
    let none = api.call("POST", "/tokens/", json!({ "name": "ci" })).await;
    assert_eq!(
        (none.status, &none.body["errors"][0]["field"]),
        (422, &json!("audience")),
        "no proxy serves the API yet"
    );
    let made = api.call("POST", "/tokens/", json!({ "name": "CI", "scopes": ["admin"], "audience": ["app.example.com"], "cert_email": "ci@example.com" })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let token = made.body["token"].as_str().expect("shown").to_owned();
    assert_eq!(
        (&made.body["subject"], &made.body["audience"]),
        (&json!("service:ci"), &json!(["https://app.example.com"]))
    );
    for path in [
        "/tokens/",
        "/tokens/ci",
        "/tokens/info",
        "/system/config/export?include_tokens=true&include_secrets=true",
    ] {
        let answer = api.get(path).await;
        assert!(answer.status == 200 && !answer.text.contains(&token), "{path}: {}", answer.text);
    }
    let gone = api.get("/tokens/ci/reveal").await;
    assert_eq!((gone.status, gone.body["code"].as_str()), (410, Some("gone")), "{}", gone.text);
    let rotated = api.call("POST", "/tokens/ci/rotate", Value::Null).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    assert_ne!(rotated.body["jti"], made.body["jti"]);

    let ci = || caller("service:ci", &["admin"]);
    for (path, body) in [
        ("/proxy/targets/", json!({ "proxy_hostname": "ci.example", "target_url": "http://10.0.0.5" })),
        (
            "/routes/",
            json!({ "route_id": "ci", "path_pattern": "/ci", "target_type": "hostname", "target_value": "ci.example" }),
        ),
    ] {
        assert_eq!(api.as_caller(ci(), "POST", path, body).await.status, 201);
    }
    let others = json!({ "route_id": "mine", "path_pattern": "/mine", "target_type": "hostname", "target_value": "ci.example" });
    assert_eq!(api.call("POST", "/routes/", others).await.status, 201);
    assert_eq!(api.get("/tokens/ci").await.body["created"].as_array().map(Vec::len), Some(2));
    let used = api.call("DELETE", "/tokens/ci?cascade=true", Value::Null).await;
    assert_eq!(used.status, 409, "{}", used.text);
    assert_eq!(api.call("DELETE", "/routes/mine", Value::Null).await.status, 200);
    let ended = api.call("DELETE", "/tokens/ci?cascade=true", Value::Null).await;
    assert_eq!((ended.status, ended.body["also"].as_array().map(Vec::len)), (200, Some(2)), "{}", ended.text);
    assert_eq!(api.get("/proxy/targets/ci.example").await.status, 404);
    assert_eq!(api.get("/tokens/ci").await.status, 404);
}

#[tokio::test]
async fn a_configuration_moves_as_a_whole() {
    let api = Api::with_proxy("app.example.com").await;
    let (chain, key) = pair("app.example.com");
    api.call(
        "POST",
        "/certificates/upload",
        json!({ "cert_name": "app", "fullchain_pem": chain, "private_key_pem": key }),
    )
    .await;
    api.call("POST", "/routes/", json!({ "route_id": "r", "path_pattern": "/", "target_type": "port", "target_value": 81, "scope": "proxy", "proxy_hostnames": ["app.example.com"] })).await;
    let plain = api.get("/system/config/export").await.body["config"].clone();
    assert_eq!(plain.get("secrets"), None);
    let whole = api.get("/system/config/export?include_secrets=true").await.body["config"].clone();

    let other = Api::new();
    let keyless = other.call("POST", "/system/config/import", json!({ "config": plain })).await;
    assert_eq!(keyless.status, 422, "a certificate without its key: {}", keyless.text);
    let dry = other.call("POST", "/system/config/import", json!({ "config": whole, "dry_run": true })).await;
    assert_eq!((dry.status, dry.body["created"].as_array().map(Vec::len)), (200, Some(4)), "{}", dry.text);
    assert_eq!(other.get("/proxy/targets/").await.body, json!([]), "a dry run changes nothing");
    assert_eq!(other.call("POST", "/system/config/import", json!({ "config": whole })).await.status, 200);
    assert_eq!(other.get("/routes/r").await.body["proxy_hostnames"], json!(["app.example.com"]));
    assert_eq!(other.call("POST", "/system/config/import", json!({ "config": whole })).await.status, 409);
    let same = other.call("POST", "/system/config/import", json!({ "config": whole, "force": true })).await;
    assert_eq!(same.body["unchanged"].as_array().map(Vec::len), Some(4), "{}", same.text);

    let bad = json!({ "proxies": [{ "proxy_hostname": "x.example", "target_url": "http://a" }], "routes": [
        { "route_id": "a", "path_pattern": "/", "target_type": "hostname", "target_value": "x.example" },
        { "route_id": "b", "path_pattern": "/b", "target_type": "hostname", "target_value": "none.example" },
        { "route_id": "b", "path_pattern": "/b", "target_type": "hostname", "target_value": "x.example", "colour": 1 },
    ] });
    let refused = other.call("POST", "/system/config/import", json!({ "config": bad })).await;
    assert_eq!(
        (refused.status, &refused.body["errors"][0]["field"]),
        (422, &json!("routes[2].colour")),
        "{}",
        refused.text
    );
    let checked = other
        .call("POST", "/system/config/validate", json!({ "config": { "routes": [bad["routes"][1]] } }))
        .await;
    assert_eq!(
        (checked.body["valid"].as_bool(), &checked.body["errors"][0]["field"]),
        (Some(false), &json!("routes[0].target_value"))
    );
    assert_eq!(other.get("/proxy/targets/x.example").await.status, 404, "all or nothing");
}

#[tokio::test]
async fn imported_settings_are_checked_like_written_ones() {
    let api = Api::new();
    let import = async |settings: Value| {
        api.call("POST", "/system/config/import", json!({ "config": { "settings": settings } })).await
    };
    for (settings, field) in [
        (json!({ "log_levels": { "global": "LOUD" } }), "settings.log_levels.global"),
        (json!({ "log_levels": { "global": "INFO", "colour": 1 } }), "settings.log_levels.colour"),
        (
            json!({ "log_levels": { "global": "INFO", "components": { "tls": "LOUD" } } }),
            "settings.log_levels.components.tls",
        ),
        (
            json!({ "log_levels": { "global": "INFO", "components": { "a b": "INFO" } } }),
            "settings.log_levels.components",
        ),
        (json!({ "log_level": { "global": "INFO" } }), "settings.log_level"),
        (json!({ "issuer": { "issuer": "https://other.example" } }), "settings.issuer"),
        (
            json!({ "accepted_store": { "epoch": "a", "generation": 9, "replaces": [] } }),
            "settings.accepted_store",
        ),
        (json!({ "signing_key": { "kid": "nobody" } }), "settings.signing_key"),
    ] {
        let refused = import(settings).await;
        let text = &refused.text;
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (422, &json!(field)), "{text}");
    }
    assert!(api.store.load().await.expect("a store").1.is_empty(), "nothing is stored");
    let good =
        import(json!({ "log_levels": { "global": "WARNING", "components": { "tls": "DEBUG" } } })).await;
    assert_eq!(
        (good.status, &good.body["created"]),
        (200, &json!(["setting \"log_levels\""])),
        "{}",
        good.text
    );
}

#[tokio::test]
async fn a_way_around_the_authentication_of_a_host_is_pointed_out() {
    let api = Api::with_proxy("open.example").await;
    let fields =
        json!({ "proxy_hostname": "safe.example", "target_url": "http://10.0.0.6", "auth_enabled": true });
    assert_eq!(api.call("POST", "/proxy/targets/", fields).await.status, 201);
    let fields =
        json!({ "proxy_hostname": "also.example", "target_url": "http://10.0.0.7", "auth_enabled": true });
    assert_eq!(api.call("POST", "/proxy/targets/", fields).await.status, 201);
    let bearer = json!({ "auth_type": "bearer", "allowed_users": ["root"] });
    let of = |host: &str| json!({ "scope": "proxy", "proxy_hostnames": [host] });
    for (id, target, more, warned) in [
        ("global", "safe.example", json!({}), Some("every host that has no authentication")),
        ("one", "safe.example", of("open.example"), Some("open.example")),
        ("also", "safe.example", of("also.example"), None),
        ("to-open", "open.example", json!({}), None),
        ("strict", "safe.example", json!({ "override_proxy_auth": true, "auth_config": bearer }), None),
        ("off", "safe.example", json!({ "enabled": false }), None),
    ] {
        let mut route = json!({
            "route_id": id, "path_pattern": format!("/{id}"), "target_type": "hostname", "target_value": target,
        });
        route.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        let made = api.call("POST", "/routes/", route).await;
        assert_eq!(made.status, 201, "{}", made.text);
        match warned {
            Some(from) => {
                let warning = made.body["warnings"][0].as_str().expect("a warning");
                assert!(warning.contains("safe.example is protected") && warning.contains(from), "{warning}");
            }
            None => assert_eq!(made.body.get("warnings"), None, "{id}: {}", made.text),
        }
    }
    let enabled = api.call("PUT", "/routes/off/enable", Value::Null).await;
    assert_eq!(enabled.body["warnings"].as_array().map(Vec::len), Some(1), "{}", enabled.text);
    let public = json!({ "override_proxy_auth": true, "auth_config": { "auth_type": "none" } });
    let opened = api.call("PATCH", "/routes/also", public).await;
    assert!(
        opened.body["warnings"][0].as_str().is_some_and(|text| text.contains("also.example")),
        "{}",
        opened.text
    );
    assert_eq!(api.get("/routes/global").await.body.get("warnings"), None, "what is stored is the route");
}

#[tokio::test]
async fn logs_are_written_found_and_cleared() {
    let api = Api::new();
    let written = api.call("POST", "/logs/test", Value::Null).await;
    assert_eq!((written.status, written.body["success"].as_bool()), (200, Some(true)), "{}", written.text);
    assert_eq!(api.get("/logs/search").await.body["total"], 3);
    assert_eq!(api.get("/logs/search?status=500&limit=1").await.body["total"], 1);
    assert_eq!(api.get("/logs/ip/192.0.2.1").await.body["total"], 3);
    assert_eq!(api.get("/logs/host/192.0.2.1").await.body["total"], 3);
    assert_eq!(api.get("/logs/proxy/test.invalid?slow=1000").await.body["total"], 1);
    assert_eq!(api.get("/logs/client/nobody").await.body["total"], 0);
    assert_eq!(api.get("/logs/errors").await.body["total"], 1);
    assert_eq!(api.get("/logs/stats").await.body["total_requests"], 3);
    assert_eq!(api.call("DELETE", "/logs", Value::Null).await.body["cleared_count"], 3);
    assert_eq!(api.call("DELETE", "/logs?log=audit", Value::Null).await.status, 422);
    let level = api.call("POST", "/logs/level", json!({ "level": "debug", "component": "tls" })).await;
    assert_eq!((level.status, &level.body["components"]["tls"]), (200, &json!("DEBUG")), "{}", level.text);
    assert_eq!(api.get("/logs/level").await.body["global"], "INFO");
    assert_eq!(api.call("DELETE", "/logs/level/tls", Value::Null).await.body["components"], json!({}));
}

#[tokio::test]
async fn logs_can_be_followed() {
    let api = Api::new();
    let request = http::Request::get("/api/v1/logs/follow?status=500").extension(caller("user", &["user"]));
    let response =
        api.router.clone().oneshot(request.body(Body::empty()).expect("valid")).await.expect("infallible");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    // The follower starts with its first read: ask for a frame, and write while it waits.
    let (frame, ()) = tokio::join!(body.frame(), async {
        for _ in 0..3 {
            assert_eq!(api.call("POST", "/logs/test", Value::Null).await.status, 200);
        }
    });
    let frame = frame.expect("an event").expect("whole").into_data().expect("data");
    let text = String::from_utf8_lossy(&frame);
    assert!(text.contains("\"status_code\":500") && text.contains("id: "), "{text}");
}

#[tokio::test]
async fn calls_are_audited_and_counted() {
    let api = Api::with_proxy("app.example.com").await;
    api.as_caller(caller("eve", &["user"]), "DELETE", "/proxy/targets/app.example.com", Value::Null).await;
    api.get("/proxy/targets/").await;
    let audit = api.audit().await;
    let told: Vec<_> = audit
        .iter()
        .map(|entry| {
            (entry["event_type"].as_str(), entry["auth_user"].as_str(), entry["status_code"].as_u64())
        })
        .collect();
    assert_eq!(
        told,
        [(Some("create_proxy"), Some("root"), Some(201 - 1)), (Some("delete_proxy"), Some("eve"), Some(403))]
    );
    assert_eq!(audit[0]["subject"], "app.example.com");
    assert!(api.control.calls().contains(&("delete_proxy", "insufficient_scope", 1)));
}

/// Collects what the list of operations says.
#[derive(Default)]
struct Listed(Vec<(&'static str, &'static [&'static str], Vec<Endpoint>)>);

impl Surface for Listed {
    fn add<O: Operation>(&mut self) {
        let endpoints = std::iter::once(O::HTTP).chain(O::ALIASES.iter().cloned()).collect();
        self.0.push((O::NAME, O::COMMAND, endpoints));
    }
}

#[tokio::test]
async fn the_openapi_document_has_every_operation() {
    let mut listed = Listed::default();
    register(&mut listed);
    let names: BTreeSet<_> = listed.0.iter().map(|(name, ..)| *name).collect();
    let commands: Vec<_> =
        listed.0.iter().map(|(_, command, _)| *command).filter(|words| !words.is_empty()).collect();
    let distinct: BTreeSet<_> = commands.iter().collect();
    assert_eq!(
        (names.len(), distinct.len()),
        (listed.0.len(), commands.len()),
        "names and commands are unique"
    );

    let api = Api::new();
    let spec = api.as_caller(Caller::Anonymous, "GET", "/openapi.json", Value::Null).await.body;
    assert_eq!(spec["openapi"], "3.1.0");
    for (name, _, endpoints) in &listed.0 {
        for endpoint in endpoints {
            let operation =
                &spec["paths"][endpoint.template()][endpoint.method.as_str().to_ascii_lowercase()];
            let id = operation["operationId"].as_str().unwrap_or_default();
            assert!(id.starts_with(name), "{name} is missing at {endpoint:?}: {id:?}");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{name} has no help");
        }
    }
    let text = spec.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(spec.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    let properties = &spec["paths"]["/proxy/targets/{proxy_hostname}"]["put"]["requestBody"]["content"]["application/json"]
        ["schema"]["properties"];
    assert!(properties["auth_mode"].is_object() && properties["created_by"].is_null(), "{properties}");

    let page = api.as_caller(Caller::Anonymous, "GET", "/docs", Value::Null).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("/proxy/targets/{proxy_hostname}") && !page.text.contains("<script"));
    assert!(
        page.headers["content-security-policy"]
            .to_str()
            .is_ok_and(|policy| policy.contains("default-src 'none'"))
    );
}

#[tokio::test]
async fn every_operation_has_a_command_line() {
    struct Commands;
    impl Surface for Commands {
        fn add<O: Operation>(&mut self) {
            O::augment_args(clap::Command::new(O::NAME)).debug_assert();
        }
    }
    register(&mut Commands);
}

#[tokio::test]
async fn lists_have_a_twin_for_people() {
    let api = Api::with_proxy("app.example.com").await;
    let route = json!({ "route_id": "r", "path_pattern": "/x", "target_type": "port", "target_value": 80 });
    assert_eq!(api.call("POST", "/routes/", route).await.status, 201);
    assert_eq!(
        api.call("POST", "/tokens/", json!({ "name": "ci", "audience": ["app.example.com"] })).await.status,
        201
    );
    let service = json!({ "service_name": "s", "target_url": "http://10.0.0.9", "description": "a,b" });
    assert_eq!(api.call("POST", "/services/external", service).await.status, 201);
    assert_eq!(api.call("POST", "/resources/auto-register", Value::Null).await.status, 200);
    for (path, heading, cell) in [
        ("/proxy/targets/formatted", "Hostname         Target URL", "app.example.com  http://10.0.0.5"),
        ("/routes/formatted?scope=global", "Route  Path", "r      /x    port 80"),
        ("/tokens/formatted/", "Name  Scopes", "ci    user"),
        ("/services/external/formatted", "Name  Target URL", "s     http://10.0.0.9"),
        ("/api/v1/resources/formatted", "URI", "https://app.example.com  app.example.com"),
        ("/certificates/formatted", "Name  Domains", ""),
    ] {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (200, &"text/plain; charset=utf-8".parse().unwrap())
        );
        let lines: Vec<_> = answer.text.lines().collect();
        assert!(lines[0].starts_with(heading), "{path}: {}", answer.text);
        assert!(
            cell.is_empty() || lines.iter().any(|line| line.starts_with(cell)),
            "{path}: {}",
            answer.text
        );
    }
    let csv = api.get("/services/external/formatted?format=csv").await;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    assert!(csv.text.ends_with("s,http://10.0.0.9,enabled,\"a,b\"\r\n"), "{}", csv.text);
    assert_eq!(api.get("/routes/formatted?format=json").await.body, api.get("/routes/").await.body);
    let wrong = api.get("/routes/formatted?format=xml").await;
    assert_eq!((wrong.status, wrong.body["errors"][0]["field"].as_str()), (422, Some("format")));
    assert_eq!(api.get("/routes/formatted?colour=red").await.body["errors"][0]["field"], "colour");
    let nobody = api.as_caller(Caller::Anonymous, "GET", "/tokens/formatted", Value::Null).await;
    assert_eq!(nobody.status, 401);
    assert_eq!(
        api.as_caller(caller("bob", &["user"]), "GET", "/tokens/formatted", Value::Null).await.status,
        403
    );
    for (path, field, body) in [
        ("/tokens/", "name", json!({ "name": "formatted", "audience": ["app.example.com"] })),
        (
            "/routes/",
            "route_id",
            json!({ "route_id": "formatted", "path_pattern": "/y", "target_type": "port", "target_value": 80 }),
        ),
        (
            "/services/external",
            "service_name",
            json!({ "service_name": "formatted", "target_url": "http://a" }),
        ),
        (
            "/proxy/targets/",
            "proxy_hostname",
            json!({ "proxy_hostname": "formatted", "target_url": "http://a" }),
        ),
    ] {
        let refused = api.call("POST", path, body).await;
        assert_eq!(
            (refused.status, refused.body["errors"][0]["field"].as_str()),
            (422, Some(field)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_token_is_judged_for_a_registered_resource() {
    let api = Api::with_proxy("app.example.com").await;
    let registered = api.call("POST", "/resources/auto-register", json!({})).await;
    assert_eq!(
        (registered.status, &registered.body["registered"]),
        (200, &json!(["https://app.example.com"]))
    );
    assert_eq!(api.call("POST", "/resources/auto-register", json!({})).await.body["count"], 0);
    assert_eq!(api.get("/resources/app.example.com").await.body["created_by"], "root");
    let user = || caller("bob", &["user"]);
    let path = "/resources/app.example.com/validate-token";
    for (token, scopes, valid, reason) in [
        ("alice mcp:read https://app.example.com/", json!(["mcp:read"]), true, ""),
        ("alice admin https://app.example.com", json!(["user"]), true, ""),
        (
            "alice mcp:read https://app.example.com",
            json!(["mcp:read", "mcp:write"]),
            false,
            "lacks mcp:write",
        ),
        ("alice mcp:read https://b.example.com", json!([]), false, "another resource"),
        ("nonsense", json!([]), false, "malformed"),
    ] {
        let answer = api.as_caller(user(), "POST", path, json!({ "token": token, "scopes": scopes })).await;
        assert_eq!((answer.status, &answer.body["valid"]), (200, &json!(valid)), "{token}: {}", answer.text);
        assert!(
            answer.body["reason"].as_str().unwrap_or_default().contains(reason),
            "{token}: {}",
            answer.text
        );
        let owner = if token == "nonsense" { Value::Null } else { "alice".into() };
        assert_eq!(answer.body["user_id"], owner, "{token}");
        assert!(!answer.text.contains("https://"), "what was sent does not come back: {}", answer.text);
    }
    let known = json!({ "token": "x" });
    assert_eq!(
        api.call("POST", "/resources/none.example.com/validate-token", known.clone()).await.status,
        404
    );
    assert_eq!(
        api.call("POST", "/resources/app.example.com", known.clone()).await.body["code"],
        "no_such_path"
    );
    assert_eq!(api.as_caller(Caller::Anonymous, "POST", path, known).await.status, 401);
}

#[tokio::test]
async fn a_token_changes_its_own_address_and_admins_that_of_any() {
    let api = Api::with_proxy("app.example.com").await;
    for name in ["ci", "other"] {
        let wanted = json!({ "name": name, "audience": ["app.example.com"] });
        assert_eq!(api.call("POST", "/tokens/", wanted).await.status, 201);
    }
    let ci = || caller("service:ci", &["user"]);
    let own = api.as_caller(ci(), "PUT", "/tokens/email", json!({ "email": "ci@example.com" })).await;
    assert_eq!((own.status, &own.body["cert_email"]), (200, &json!("ci@example.com")), "{}", own.text);
    let foreign = json!({ "email": "x@example.com" });
    assert_eq!(api.as_caller(ci(), "PUT", "/tokens/other/email", foreign.clone()).await.status, 403);
    assert_eq!(
        api.call("PUT", "/tokens/other/email", foreign.clone()).await.body["cert_email"],
        "x@example.com"
    );
    let none = api.call("PUT", "/tokens/email", foreign.clone()).await;
    assert_eq!((none.status, none.body["errors"][0]["field"].as_str()), (422, Some("name")), "{}", none.text);
    let wrong = api.call("PUT", "/tokens/other/email", json!({ "email": "nobody" })).await;
    assert_eq!(
        (wrong.status, wrong.body["errors"][0]["field"].as_str()),
        (422, Some("email")),
        "{}",
        wrong.text
    );
    assert_eq!(api.as_caller(Caller::Anonymous, "PUT", "/tokens/email", foreign).await.status, 401);

    let proxy = json!({ "proxy_hostname": "ci.example.com", "target_url": "http://10.0.0.6" });
    let admin = caller("service:ci", &["admin"]);
    assert_eq!(api.as_caller(admin, "POST", "/proxy/targets/", proxy).await.status, 201);
    let proxies = api.get("/tokens/ci/proxies").await.body;
    assert_eq!(proxies.as_array().map(Vec::len), Some(1), "{proxies}");
    assert_eq!(proxies[0]["proxy_hostname"], "ci.example.com");
    assert_eq!(api.get("/tokens/ci/certificates").await.body, json!([]));
    assert_eq!(api.get("/tokens/none/proxies").await.status, 404);
}

#[tokio::test]
async fn a_routes_own_rules_are_a_part_of_its_own() {
    let api = Api::new();
    let route = json!({ "route_id": "r", "path_pattern": "/x", "target_type": "port", "target_value": 80 });
    assert_eq!(api.call("POST", "/routes/", route).await.status, 201);
    assert_eq!(api.get("/routes/r/auth").await.body["auth_config"], Value::Null);
    let rules = json!({ "auth_type": "bearer", "allowed_users": ["alice"] });
    let set = api.call("PUT", "/routes/r/auth", rules).await;
    assert_eq!(set.status, 200, "{}", set.text);
    let route = api.get("/routes/r").await.body;
    assert_eq!(
        (&route["override_proxy_auth"], &route["auth_config"]["auth_type"]),
        (&json!(true), &json!("bearer"))
    );
    let wrong = api.call("PUT", "/routes/r/auth", json!({ "auth_type": "magic" })).await;
    assert_eq!(
        (wrong.status, wrong.body["errors"][0]["field"].as_str()),
        (422, Some("auth_type")),
        "{}",
        wrong.text
    );
    assert_eq!(api.call("DELETE", "/routes/r/auth", Value::Null).await.status, 200);
    let route = api.get("/routes/r").await.body;
    assert_eq!((&route["override_proxy_auth"], &route["auth_config"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn common_searches_have_a_short_way() {
    let api = Api::new();
    assert_eq!(api.call("POST", "/logs/test", Value::Null).await.body["success"], true);
    let record = json!({
        "timestamp": crate::logs::now(), "auth_user": "alice", "request_method": "POST", "request_path": "/pay",
        "status_code": 404, "response_time_ms": 5.0, "trace_id": "t-1",
    });
    api.control.writers.requests.push_json(crate::logs::now(), &record).expect("taken");
    assert!(api.control.writers.requests.flush(Duration::from_secs(10)).await);
    for (path, total) in [
        ("/logs", 4),
        ("/logs?limit=1&method=GET", 3),
        ("/logs/user/alice", 1),
        ("/logs/oauth/user/alice", 1),
        ("/logs/user/bob", 0),
        ("/logs/method/GET", 3),
        ("/logs/status/4xx", 1),
        ("/logs/path?pattern=/log-test", 3),
        ("/logs/correlation/t-1", 1),
        ("/logs/slow", 1),
        ("/logs/slow?threshold=20", 2),
        ("/logs/errors?include_warnings=true", 2),
    ] {
        let page = api.get(path).await;
        assert_eq!((page.status, &page.body["total"]), (200, &json!(total)), "{path}: {}", page.text);
    }
    assert_eq!(api.get("/logs/slow?threshold=-1").await.status, 422);
}

#[tokio::test]
async fn the_github_app_of_a_proxy_has_a_place_of_its_own() {
    let api = Api::with_proxy("app.example.com").await;
    let place = "/proxy/targets/app.example.com/github-oauth";
    let secret = "f00dfeed0123456789abcdef";
    let set = api
        .call("POST", place, json!({ "github_client_id": "Iv1.abc", "github_client_secret": secret }))
        .await;
    assert_eq!(set.status, 200, "{}", set.text);
    assert_eq!(set.body["github_client_secret"], "***configured***");
    let wrong =
        api.call("PUT", place, json!({ "github_client_id": "a/b", "github_client_secret": [secret] })).await;
    assert_eq!(wrong.status, 422);
    let reader = caller("reader", &["user"]);
    for path in [
        place,
        "/proxy/targets/github-oauth/configured",
        "/proxy/targets/app.example.com",
        "/proxy/targets/",
        "/system/config/export?include_secrets=true",
    ] {
        let shown = api.get(path).await;
        assert!(shown.status == 200 && shown.text.contains("Iv1.abc"), "{path}: {}", shown.text);
        assert!(!shown.text.contains(secret), "{path}");
    }
    assert_eq!(api.as_caller(reader.clone(), "GET", place, Value::Null).await.body["source"], "proxy");
    assert_eq!(api.as_caller(reader, "DELETE", place, Value::Null).await.status, 403);
    assert_eq!(api.call("DELETE", place, Value::Null).await.status, 200);
    assert_eq!(api.get("/proxy/targets/github-oauth/configured").await.body["count"], 0);
    assert!(!json!(api.audit().await).to_string().contains(secret));
}
