//! Web clients of protected resources: preflights, and answers that pages of other origins may read.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::support::client::{self, Answer, get};
use super::support::issuer::with;
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
        ("/mcpx", INSPECTOR, 401),
        ("/", INSPECTOR, 401),
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
            assert_eq!(answer.status, status, "{case}");
            assert_eq!(answer.header("vary"), "origin", "{case}");
            let (origin, exposed) =
                if allowed { (INSPECTOR, "www-authenticate, mcp-session-id") } else { ("", "") };
            assert_eq!(answer.header("access-control-allow-origin"), origin, "{case}");
            assert_eq!(answer.header("access-control-expose-headers"), exposed, "{case}");
            assert_eq!(answer.header("access-control-allow-credentials"), "", "{case}");
        }
    }
    let answer = send(&site, HOST, "GET", "/", &[("origin", INSPECTOR)]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "", "outside of the resource");
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
