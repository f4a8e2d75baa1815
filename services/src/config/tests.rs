use serde_json::json;

use super::*;

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

fn proxy(more: Value) -> Result<Proxy, Vec<FieldError>> {
    let mut all =
        fields(json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5:8080" }));
    field::merge(&mut all, &fields(more));
    Proxy::from_fields(all)
}

fn route(more: Value) -> Result<Route, Vec<FieldError>> {
    let mut all = fields(json!({
        "route_id": "r", "path_pattern": "/api", "target_type": "url", "target_value": "http://10.0.0.6",
    }));
    field::merge(&mut all, &fields(more));
    Route::from_fields(all)
}

fn document(kind: Kind, id: &str, value: Value) -> Document {
    Document { key: Key::new(kind, id), version: 3, value }
}

/// A configuration without problems.
pub(crate) fn config(documents: &[(Kind, &str, Value)]) -> Config {
    let document = |(kind, id, value): &(Kind, &str, Value)| document(*kind, id, value.clone());
    let config = Config::parse(documents.iter().map(document).collect());
    assert_eq!(config.problems, []);
    config
}

#[test]
fn a_proxy_has_the_catalogues_defaults() {
    let proxy = serde_json::to_value(proxy(json!({})).expect("valid")).expect("a struct");
    for (field, expected) in [
        ("enabled", json!(true)),
        ("enable_http", json!(true)),
        ("enable_https", json!(true)),
        ("preserve_host_header", json!(true)),
        ("auth_enabled", json!(false)),
        ("auth_mode", json!("forward")),
        ("auth_pass_headers", json!(true)),
        ("auth_cookie_name", json!("unified_auth_token")),
        ("auth_header_prefix", json!("X-Auth-")),
        ("auth_required_users", json!(null)),
        ("route_mode", json!("all")),
        ("enabled_routes", json!([])),
        ("resource_endpoint", json!(null)),
        ("resource_oauth_endpoints", json!(true)),
        ("resource_allowed_origins", json!(["http://localhost:6274", "http://127.0.0.1:6274"])),
        ("https_redirect", json!("auto")),
        ("upstream_tls", json!({ "verify": true })),
    ] {
        assert_eq!(proxy[field], expected, "{field}");
    }
}

#[test]
fn what_is_wrong_with_a_proxy_is_named() {
    for (more, field) in [
        (json!({ "proxy_hostname": "-a" }), "proxy_hostname"),
        (json!({ "target_url": "backend:80" }), "target_url"),
        (json!({ "target_ur": "http://a" }), "target_ur"),
        (json!({ "enabled": "yes" }), "enabled"),
        (json!({ "custom_headers": { "Content-Length": "1" } }), "custom_headers.Content-Length"),
        (json!({ "custom_headers": { "X-A": "a\r\nb" } }), "custom_headers.X-A"),
        (json!({ "cors": { "origins": ["https://a.example/path"] } }), "cors.origins[0]"),
        (json!({ "cors": { "origins": [] } }), "cors.origins"),
        (json!({ "upstream_tls": { "verfy": false } }), "upstream_tls.verfy"),
        (json!({ "upstream_tls": { "ca_pem": "x" } }), "upstream_tls.ca_pem"),
        (json!({ "upstreams": ["https://10.0.0.6"] }), "upstreams[0]"),
        (json!({ "enable_https": false, "https_redirect": "on" }), "https_redirect"),
        (json!({ "auth_header_prefix": "Content-" }), "auth_header_prefix"),
        (json!({ "auth_header_prefix": "X" }), "auth_header_prefix"),
        (json!({ "auth_cookie_name": "a b" }), "auth_cookie_name"),
        (json!({ "auth_cookie_name": "portcullis-state" }), "auth_cookie_name"),
        (json!({ "auth_cookie_name": "__Host-portcullis-x" }), "auth_cookie_name"),
        (json!({ "resource_endpoint": "/.portcullis/session" }), "resource_endpoint"),
        (json!({ "resource_endpoint": "/%6Dcp" }), "resource_endpoint"),
        (json!({ "resource_endpoint": "/mcp/", "builtin_mcp": true, "mcp": {} }), "mcp"),
        (json!({ "resource_endpoint": "/", "builtin_mcp": true, "mcp": {} }), "mcp"),
        (json!({ "resource_allowed_origins": ["https://a.example/"] }), "resource_allowed_origins[0]"),
        (
            json!({ "auth_allowed_audiences": ["a", "https://b.example/.portcullis/session/"] }),
            "auth_allowed_audiences[1]",
        ),
        (json!({ "auth_scope_required": "a \"" }), "auth_scope_required"),
        (json!({ "auth_realm": "a\"b" }), "auth_realm"),
        (json!({ "oauth_admin_users": ["*"] }), "oauth_admin_users"),
        (json!({ "oauth_user_users": ["a b"] }), "oauth_user_users[0]"),
        (json!({ "oauth_scope_users": { "admin": ["alice"] } }), "oauth_scope_users.admin"),
        (json!({ "oauth_scope_users": { "a b": ["alice"] } }), "oauth_scope_users.a b"),
        (json!({ "allowed_networks": ["10.0.0.0/33"] }), "allowed_networks[0]"),
        (json!({ "request_timeout_seconds": 0 }), "request_timeout_seconds"),
        (json!({ "trusted_issuers": [{ "issuer": "https://i.example" }] }), "trusted_issuers[0].jwks_uri"),
        (
            json!({ "trusted_issuers": [{ "issuer": "https://i.example", "jwks_uri": "https://i.example/j", "algorithms": ["HS256"] }] }),
            "trusted_issuers[0].algorithms[0]",
        ),
        (
            json!({ "trusted_issuers": [{ "issuer": "https://i.example", "jwks": { "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] } }] }),
            "trusted_issuers[0].jwks.keys[0]",
        ),
        (
            json!({ "trusted_issuers": [{ "issuer": "http://i.example", "jwks": { "keys": [] } }] }),
            "trusted_issuers[0].issuer",
        ),
    ] {
        let errors = proxy(more.clone()).expect_err("must be refused");
        assert_eq!(errors[0].field, field, "{more}: {}", errors[0]);
        assert!(!errors[0].detail.contains("c2VjcmV0"), "a secret is repeated: {}", errors[0]);
    }
}

#[test]
fn old_names_are_understood() {
    let old = Proxy::from_fields(fields(json!({
        "hostname": "App.Example.com", "target_url": "http://10.0.0.5", "mcp_endpoint": "/mcp", "mcp_scopes": ["mcp:read"],
    })))
    .expect("valid");
    assert_eq!(old.proxy_hostname.as_str(), "app.example.com");
    assert_eq!(old.resource_endpoint.as_ref().map(names::Text::as_str), Some("/mcp"));
    let old = route(json!({ "target_type": "instance", "target_value": "web" })).expect("valid");
    assert_eq!(old.target(), Ok(route::RouteTarget::Service("web".parse().expect("valid"))));
}

#[test]
fn what_is_wrong_with_a_route_is_named() {
    for (more, field) in [
        (json!({ "path_pattern": "api" }), "path_pattern"),
        (json!({ "path_pattern": "(", "match": "regex" }), "path_pattern"),
        (json!({ "path_pattern": "/a{1000}{1000}{1000}", "match": "regex" }), "path_pattern"),
        (json!({ "match": "fuzzy" }), "match"),
        (json!({ "is_regex": true, "match": "exact" }), "is_regex"),
        (json!({ "priority": 1001 }), "priority"),
        (json!({ "target_value": "10.0.0.6" }), "target_value"),
        (json!({ "target_type": "port", "target_value": 0 }), "target_value"),
        (json!({ "target_type": "port", "target_value": true }), "target_value"),
        (json!({ "scope": "proxy" }), "proxy_hostnames"),
        (json!({ "proxy_hostnames": ["a.example"] }), "proxy_hostnames"),
        (json!({ "override_proxy_auth": true }), "auth_config"),
        (json!({ "auth_config": { "auth_type": "basic" } }), "auth_config.auth_type"),
        (json!({ "headers": [{ "name": "x-a" }] }), "headers[0]"),
        (json!({ "headers": [{ "name": "x-a", "matches": "(" }] }), "headers[0].matches"),
        (json!({ "rewrite": { "strip_prefix": "/other" } }), "rewrite.strip_prefix"),
        (json!({ "match": "glob", "rewrite": { "replace_prefix": "/v2" } }), "rewrite.replace_prefix"),
        (json!({ "methods": ["G T"] }), "methods[0]"),
    ] {
        let errors = route(more.clone()).expect_err("must be refused");
        assert_eq!(errors[0].field, field, "{more}: {}", errors[0]);
    }
    assert!(
        route(json!({ "rewrite": { "strip_prefix": "/api" }, "methods": ["*"], "priority": 1000 })).is_ok()
    );
    assert!(route(json!({ "target_type": "port", "target_value": 8080 })).is_ok());
}

#[test]
fn a_bad_document_disables_only_itself() {
    let config = Config::parse(vec![
        document(
            Kind::Proxy,
            "a.example",
            json!({ "proxy_hostname": "a.example", "target_url": "http://10.0.0.5" }),
        ),
        document(
            Kind::Proxy,
            "b.example",
            json!({ "proxy_hostname": "b.example", "target_url": "nonsense" }),
        ),
        document(
            Kind::Proxy,
            "c.example",
            json!({ "proxy_hostname": "d.example", "target_url": "http://10.0.0.5" }),
        ),
        document(Kind::Route, "r", json!("text")),
        document(Kind::Secret, "s", json!({ "sealed": "x" })),
    ]);
    assert_eq!(config.proxies.keys().map(HostPattern::as_str).collect::<Vec<_>>(), ["a.example"]);
    assert_eq!(config.proxies["a.example"].config_version, 3);
    let bad: Vec<_> = config.problems.iter().map(|p| (p.id.as_str(), p.field.as_deref())).collect();
    assert_eq!(bad, [("b.example", Some("target_url")), ("c.example", Some("proxy_hostname")), ("r", None)]);
}

#[test]
fn what_refers_to_nothing_stands_but_is_reported() {
    let config = Config::parse(vec![document(
        Kind::Route,
        "r",
        json!({
            "route_id": "r", "path_pattern": "/", "target_type": "service", "target_value": "gone",
            "scope": "proxy", "proxy_hostnames": ["gone.example"],
        }),
    )]);
    assert!(config.routes.contains_key("r"));
    let fields: Vec<_> = config.problems.iter().map(|p| p.field.as_deref().unwrap_or_default()).collect();
    assert_eq!(fields, ["proxy_hostnames[0]", "target_value"]);
}

#[test]
fn only_what_differs_from_the_defaults_is_stored() {
    let one = proxy(json!({ "auth_enabled": true, "enabled": true, "custom_headers": { "X-A": "b" } }))
        .expect("valid");
    assert_eq!(
        one.stored(),
        json!({
            "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5:8080",
            "auth_enabled": true, "custom_headers": { "x-a": "b" },
        })
    );
    let back: Proxy = parse(document(Kind::Proxy, "app.example.com", one.stored())).expect("valid");
    assert_eq!(Proxy { config_version: 0, ..back }, one);
}

#[test]
fn routes_apply_by_scope_and_mode() {
    let own = route(json!({ "scope": "proxy", "proxy_hostnames": ["app.example.com"] })).expect("valid");
    let global = route(json!({})).expect("valid");
    let foreign = route(json!({ "scope": "proxy", "proxy_hostnames": ["other.example"] })).expect("valid");
    for (more, expected) in [
        (json!({}), [true, true, false]),
        (json!({ "disabled_routes": ["r"] }), [false, false, false]),
        (json!({ "route_mode": "selective" }), [false, false, false]),
        (json!({ "route_mode": "allowlist", "enabled_routes": ["r"] }), [true, true, false]),
        (json!({ "route_mode": "none", "enabled_routes": ["r"] }), [false, false, false]),
    ] {
        let host = proxy(more.clone()).expect("valid");
        assert_eq!([&own, &global, &foreign].map(|route| host.takes(route)), expected, "{more}");
    }
}

#[test]
fn groups_are_used_where_a_list_in_force_names_some() {
    let config = |proxy_fields: Value, route_fields: Value| {
        let mut proxy = json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5" });
        let mut route = json!({
            "route_id": "r", "path_pattern": "/api", "target_type": "url", "target_value": "http://10.0.0.6",
        });
        for (all, more) in [(&mut proxy, proxy_fields), (&mut route, route_fields)] {
            all.as_object_mut().expect("an object").extend(fields(more));
        }
        Config::parse(vec![
            document(Kind::Proxy, "app.example.com", proxy),
            document(Kind::Route, "r", route),
        ])
    };
    let route =
        |over: bool| json!({ "override_proxy_auth": over, "auth_config": { "allowed_groups": ["acme"] } });
    for (proxy, route, expected) in [
        (json!({}), json!({}), false),
        (json!({ "auth_required_users": ["mona"] }), json!({}), false),
        (json!({ "auth_required_groups": ["acme/platform"] }), json!({}), true),
        (json!({}), route(true), true),
        (json!({}), route(false), false),
    ] {
        let config = config(proxy, route);
        assert_eq!(config.problems, []);
        assert_eq!(config.uses_groups(), expected);
    }
}
