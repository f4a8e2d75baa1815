//! Web clients of protected resources: preflights, answers that pages of other origins may read, and requests that they
//! may not make.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::support::client::{self, Answer, get};
use super::support::issuer::{at, with};
use super::{HOST, Site, claims};

const INSPECTOR: &str = "http://localhost:6274";

async fn send(site: &Site, host: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request: Request<Full<Bytes>> = get(host, path);
    *request.method_mut() = method.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    client::plain(site.daemon.http, request).await
}

async fn preflight(site: &Site, host: &str, path: &str, origin: &str, asked: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", asked),
    ];
    send(site, host, "OPTIONS", path, &headers).await
}

#[tokio::test]
async fn preflights_of_a_protected_resource_need_no_token() {
    let site = Site::start(json!({ "resource_endpoint": "/mcp", "resource_scopes": ["read"] })).await;
    let asked = "authorization,content-type,accept,mcp-protocol-version,mcp-session-id,mcp-method,mcp-name,\
                 mcp-param-city,last-event-id,x-evil";
    for (path, origin, status) in [
        ("/mcp", INSPECTOR, 204),
        ("/mcp/x", "http://127.0.0.1:6274", 204),
        ("/mcp", "https://app.test", 204),
        ("/mcp", "https://evil.test", 403),
        ("/mcp", "http://localhost:6275", 403),
        ("/mcp", "null", 403),
    ] {
        let answer = preflight(&site, HOST, path, origin, asked).await;
        assert_eq!(answer.status, status, "{path} {origin}");
        let allowed = if status == 204 { origin } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{path} {origin}");
        assert_eq!(answer.header("access-control-allow-credentials"), "");
        if status == 204 {
            assert!(answer.header("vary").contains("origin"));
            for method in ["GET", "POST", "DELETE"] {
                assert!(answer.header("access-control-allow-methods").contains(method), "{method}");
            }
            let headers = answer.header("access-control-allow-headers").replace(' ', "");
            assert_eq!(headers, asked.trim_end_matches(",x-evil"));
        }
    }
}

#[tokio::test]
async fn pages_can_read_answers_and_refusals_of_a_protected_resource() {
    let site = Site::start(json!({
        "resource_endpoint": "/mcp", "auth_scope_rules": [{ "path": "/mcp/w", "scopes": ["write"] }],
    }))
    .await;
    let bearer = format!("Bearer {}", site.token(&with(claims(), "aud", "https://app.test/mcp")));
    for (path, token, status) in [("/mcp", true, 200), ("/mcp", false, 401), ("/mcp/w", true, 403)] {
        for (origin, allowed) in [(Some(INSPECTOR), true), (Some("https://evil.test"), false), (None, false)]
        {
            let mut headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
            headers.extend(token.then_some(("authorization", bearer.as_str())));
            let answer = send(&site, HOST, "POST", path, &headers).await;
            let case = format!("{path} {token} {origin:?}");
            let status = if origin == Some("https://evil.test") { 403 } else { status };
            assert_eq!(answer.status, status, "{case}");
            assert_eq!(answer.header("vary"), "origin", "{case}");
            let (origin, exposed) =
                if allowed { (INSPECTOR, "www-authenticate, mcp-session-id") } else { ("", "") };
            assert_eq!(answer.header("access-control-allow-origin"), origin, "{case}");
            assert_eq!(answer.header("access-control-expose-headers"), exposed, "{case}");
            assert_eq!(answer.header("access-control-allow-credentials"), "", "{case}");
        }
    }
}

#[tokio::test]
async fn pages_of_every_origin_can_read_where_to_get_a_token() {
    const EVERYWHERE: &str = "https://web.test";
    let site = Site::start(json!({ "auth_scope_rules": [{ "path": "/w", "scopes": ["write"] }] })).await;
    site.host("browser.test", &json!({ "auth_mode": "redirect" }));
    site.host("part.test", &json!({ "resource_endpoint": "/mcp" }));
    let good = format!("Bearer {}", site.token(&claims()));
    let expired = format!("Bearer {}", site.token(&with(claims(), "exp", at(-600))));
    for (host, path, token, status) in [
        (HOST, "/", None, 401),
        (HOST, "/", Some(&expired), 401),
        (HOST, "/w", Some(&good), 403),
        ("browser.test", "/", None, 401),
        ("part.test", "/mcpx", None, 401),
    ] {
        let mut headers = vec![("origin", EVERYWHERE)];
        headers.extend(token.map(|token| ("authorization", token.as_str())));
        let answer = send(&site, host, "GET", path, &headers).await;
        let case = format!("{host}{path}");
        assert_eq!(answer.status, status, "{case}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{case}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{case}");
        assert_eq!(answer.header("access-control-expose-headers"), "www-authenticate", "{case}");
        assert_eq!(answer.header("access-control-allow-credentials"), "", "{case}");
        let answer = preflight(&site, host, path, EVERYWHERE, "authorization,content-type").await;
        assert_eq!(answer.status, 204, "{case}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{case}");
        assert_eq!(answer.header("access-control-allow-headers"), "authorization, content-type", "{case}");
        assert_eq!(answer.header("access-control-allow-credentials"), "", "{case}");
        // Without a token nothing could follow.
        let answer = preflight(&site, host, path, EVERYWHERE, "content-type").await;
        assert_eq!(answer.status, 401, "{case}");
    }
    let answer = send(&site, HOST, "GET", "/", &[("origin", EVERYWHERE), ("authorization", &good)]).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, ""));
    assert_eq!(answer.header("vary"), "", "what the upstream answers is its own to share");
}

#[tokio::test]
async fn a_host_forbids_other_origins_to_read_its_refusals() {
    let site = Site::without_hosts(|_| ()).await;
    for (host, fields, path) in [
        ("own.test", json!({ "cors": { "origins": ["https://own.test"] } }), "/"),
        ("net.test", json!({ "allowed_networks": ["127.0.0.0/8"] }), "/"),
        ("mcp.test", json!({ "resource_endpoint": "/mcp" }), "/mcp"),
        ("open.test", json!({ "auth_excluded_paths": ["/"] }), "/"),
        ("pass.test", json!({ "auth_mode": "passthrough" }), "/"),
    ] {
        site.host(host, &fields);
        for (method, asked) in [("GET", ""), ("OPTIONS", "authorization")] {
            let answer = if asked.is_empty() {
                send(&site, host, method, path, &[("origin", "https://web.test")]).await
            } else {
                preflight(&site, host, path, "https://web.test", asked).await
            };
            assert_eq!(answer.header("access-control-allow-origin"), "", "{method} {host}");
            assert_ne!(answer.status, 204, "{method} {host}");
        }
    }
}

#[tokio::test]
async fn a_host_says_which_origins_may_call_its_resource() {
    let site = Site::without_hosts(|_| ()).await;
    let own = json!({ "origins": ["https://own.test"], "headers": ["X-Own"] });
    for (host, fields, origin, status, allowed) in [
        ("any.test", json!({ "resource_allowed_origins": ["*"] }), "https://evil.test", 204, "*"),
        ("none.test", json!({ "resource_allowed_origins": [] }), INSPECTOR, 403, ""),
        (
            "self.test",
            json!({ "resource_allowed_origins": [] }),
            "https://self.test",
            204,
            "https://self.test",
        ),
        ("own.test", json!({ "cors": own }), INSPECTOR, 403, ""),
        ("open.test", json!({ "auth_enabled": false }), INSPECTOR, 200, ""),
        ("pass.test", json!({ "auth_mode": "passthrough" }), INSPECTOR, 200, ""),
    ] {
        let mut all = fields;
        all["resource_endpoint"] = json!("/mcp");
        site.host(host, &all);
        let answer = preflight(&site, host, "/mcp", origin, "authorization").await;
        assert_eq!(answer.status, status, "{host}");
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{host}");
        if host == "open.test" {
            continue;
        }
        for path in ["", "/mcp"] {
            let path = format!("/.well-known/oauth-protected-resource{path}");
            let answer = send(&site, host, "GET", &path, &[("origin", "https://evil.test")]).await;
            assert_eq!(answer.status, StatusCode::OK, "{host}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{host}");
            let answer = preflight(&site, host, &path, "https://evil.test", "mcp-protocol-version").await;
            assert_eq!(answer.status, StatusCode::NO_CONTENT, "{host}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{host}");
            assert!(answer.header("access-control-allow-headers").contains("mcp-protocol-version"), "{host}");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_can_not_use_a_resource() {
    let site = Site::without_hosts(|_| ()).await;
    let (evil, page) = ("https://evil.test", "https://page.test");
    for (host, fields, origins) in [
        (
            "usual.test",
            json!({}),
            &[
                (evil, false),
                ("null", false),
                (INSPECTOR, true),
                ("https://usual.test", true),
                // The very origin that is asked, though not the public one.
                ("http://usual.test", true),
                ("http://usual.test:8080", false),
            ][..],
        ),
        (
            "named.test",
            json!({ "resource_allowed_origins": ["https://page.test"] }),
            &[(page, true), (INSPECTOR, false)],
        ),
        ("any.test", json!({ "resource_allowed_origins": ["*"] }), &[(evil, true)]),
        (
            "own.test",
            json!({ "cors": { "origins": ["https://page.test"] } }),
            &[(page, true), (INSPECTOR, false)],
        ),
        ("open.test", json!({ "auth_enabled": false }), &[(evil, false), (INSPECTOR, true)]),
        ("pass.test", json!({ "auth_mode": "passthrough" }), &[(evil, false), (INSPECTOR, true)]),
    ] {
        let mut all = json!({ "resource_endpoint": "/mcp", "auth_allowed_audiences": ["https://app.test"] });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        site.host(host, &all);
        let bearer = format!("Bearer {}", site.token(&claims()));
        for (origin, allowed) in origins {
            let headers = [("origin", *origin), ("authorization", bearer.as_str())];
            for method in ["POST", "GET", "DELETE"] {
                let answer = send(&site, host, method, "/mcp/x", &headers).await;
                let case = format!("{host} {origin} {method}");
                if *allowed {
                    assert_eq!(answer.status, StatusCode::OK, "{case}");
                    continue;
                }
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{case}");
                assert_eq!(answer.json()["code"], "origin_not_allowed", "{case}");
                assert_eq!(answer.header("x-upstream"), "", "{case}");
                assert_eq!(answer.header("www-authenticate"), "", "{case}");
                let outside = send(&site, host, method, "/mcpx", &headers).await;
                assert_eq!(outside.status, StatusCode::OK, "outside of the resource: {case}");
            }
            let program = send(&site, host, "POST", "/mcp", &headers[1..]).await;
            assert_eq!(program.status, StatusCode::OK, "{host}: without an origin");
        }
    }
    site.host("none.test", &json!({ "auth_enabled": false }));
    let answer = send(&site, "none.test", "POST", "/mcp", &[("origin", evil)]).await;
    assert_eq!(answer.status, StatusCode::OK, "a host without a resource");
}
