//! What hosts publish: of themselves as resources (RFC 9728), and of the authorization server (RFC 8414).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, Uri};
use axum::response::Json;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Site;
use super::support::client::{self, Answer, get, get_as};
use super::support::eventually;
use super::support::upstream::Upstream;

const KNOWN: &str = "/.well-known/oauth-protected-resource";
const SERVER: &str = "/.well-known/oauth-authorization-server";

/// What an upstream was asked: path and headers.
type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

/// An upstream that has a document of its own at the root form of the well-known path, and an answer to everything.
async fn upstream(document: Value) -> (SocketAddr, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let asked = Arc::clone(&seen);
    let answer = move |uri: Uri, headers: HeaderMap| {
        asked.lock().unwrap().push((uri.to_string(), headers));
        let own = uri.path() == KNOWN;
        std::future::ready(Json(if own { document.clone() } else { json!({ "path": uri.path() }) }))
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    (address, seen)
}

fn theirs() -> Value {
    json!({
        "resource": "http://10.0.0.5:8000/mcp", "authorization_servers": ["https://evil.test"],
        "jwks_uri": "https://evil.test/jwks", "signed_metadata": "e30.e30.", "bearer_methods_supported": ["query"],
        "dpop_bound_access_tokens_required": true,
        "scopes_supported": ["files:write", "mcp:read"], "resource_name": "Files", "resource_policy_uri": "https://x.test/p",
        "resource_documentation": "https://x.test/docs",
    })
}

async fn ask(site: &Site, host: &str, method: Method, path: &str) -> Answer {
    let mut request = get_as(host, path, "not-for-the-upstream");
    *request.method_mut() = method;
    request.headers_mut().insert("cookie", "a=b".parse().unwrap());
    client::plain(site.daemon.http, request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_is_can_be_seen_before_it_is_published() {
    let site = Site::without_hosts(|_| ()).await;
    let (address, seen) = upstream(theirs()).await;
    site.daemon.proxy("mcp.test", &format!("http://{address}"), &json!({}));
    let shown = site.daemon.run(&["proxy", "mcp", "show", "mcp.test"]);
    let found = |shown: &Value| {
        ["configured", "auto_detected", "backend_implements"].map(|name| shown[name].as_bool())
    };
    assert_eq!(found(&shown), [Some(false), Some(true), Some(true)], "{shown:#}");
    assert!(shown["last_checked"].is_string(), "{shown:#}");
    assert!(shown["check"].as_str().unwrap().contains("RFC 9728"), "{shown:#}");
    for (path, headers) in std::mem::take(&mut *seen.lock().unwrap()) {
        assert!(["/mcp", KNOWN].iter().any(|known| path.starts_with(known)), "nothing else: {path}");
        assert!(!headers.contains_key("authorization"), "{path}");
    }
    // The same by REST. Who asks again within a minute does not make us ask.
    let path = "/proxy/targets/mcp.test/mcp";
    let again = site.daemon.api(Method::GET, path, json!(null)).await;
    assert_eq!(again["last_checked"], shown["last_checked"]);
    assert!(seen.lock().unwrap().is_empty());

    // A server without any of that, and one that is away.
    let plain = Upstream::start("plain").await;
    site.daemon.change("mcp.test", json!({ "target_url": plain.url() })).await;
    let shown = site.daemon.api(Method::GET, path, json!(null)).await;
    assert_eq!(found(&shown), [Some(false), Some(false), Some(false)], "{shown:#}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.daemon.change("mcp.test", json!({ "target_url": format!("http://{closed}") })).await;
    let shown = site.daemon.api(Method::GET, path, json!(null)).await;
    assert_eq!(found(&shown), [Some(false), None, None], "{shown:#}");
    assert!(shown["check"].as_str().unwrap().contains("can't be reached"), "{shown:#}");
    site.daemon.change("mcp.test", json!({ "target_url": "builtin:echo" })).await;
    let shown = site.daemon.api(Method::GET, path, json!(null)).await;
    assert_eq!((shown.get("last_checked"), &shown["check"]), (None, &json!("its target is built in")));
    let unknown = site.daemon.ask(Method::GET, "/proxy/targets/none.test/mcp", &json!(null)).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_upstream_speaks_of_the_application_and_never_of_tokens() {
    let site = Site::without_hosts(|_| ()).await;
    let (address, seen) = upstream(theirs()).await;
    let fields = json!({
        "auth_enabled": true, "auth_required_users": ["*"], "resource_endpoint": "/mcp",
        "resource_scopes": ["mcp:read", "mcp:write"], "resource_versions": ["2025-06-18"], "resource_stateful": true,
        "resource_documentation_suffix": "/docs", "resource_custom_metadata": { "resource_policy_uri": "https://app.test/p" },
    });
    site.daemon.proxy("mcp.test", &format!("http://{address}"), &fields);
    let joined = json!({
        "resource": "https://mcp.test/mcp", "authorization_servers": ["https://auth.localhost"],
        "bearer_methods_supported": ["header"], "scopes_supported": ["mcp:read"],
        "resource_name": "Files", "resource_policy_uri": "https://app.test/p", "resource_documentation": "https://x.test/docs",
        "mcp_versions": ["2025-06-18"], "mcp_stateful": true,
    });
    for path in [KNOWN.to_owned(), format!("{KNOWN}/mcp")] {
        let answer = ask(&site, "mcp.test", Method::GET, &path).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, joined.clone()), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let head = ask(&site, "mcp.test", Method::HEAD, &path).await;
        assert_eq!(head.header("content-length"), answer.body.len().to_string(), "{path}");
        assert!(head.body.is_empty());
        assert_eq!(ask(&site, "mcp.test", Method::OPTIONS, &path).await.status, StatusCode::NO_CONTENT);
        assert_eq!(ask(&site, "mcp.test", Method::POST, &path).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    // It was asked once, at the two places where a resource can have its document, and told of nobody.
    let asked = std::mem::take(&mut *seen.lock().unwrap());
    let paths: Vec<_> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, [format!("{KNOWN}/mcp").as_str(), KNOWN]);
    for (path, headers) in &asked {
        assert_eq!(headers["host"], "mcp.test", "{path}");
        for name in ["authorization", "cookie", "x-auth-user"] {
            assert!(!headers.contains_key(name), "{name} at {path}");
        }
    }
    // What a client finds on the way there is ours as before.
    let refused = client::plain(site.daemon.http, get("mcp.test", "/mcp")).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let named = format!("resource_metadata=\"https://mcp.test{KNOWN}/mcp\"");
    assert!(refused.header("www-authenticate").contains(&named), "{}", refused.header("www-authenticate"));
    let below = ask(&site, "mcp.test", Method::GET, &format!("{KNOWN}/mcp/x")).await;
    assert_eq!(below.status, StatusCode::UNAUTHORIZED, "no other path is open");

    site.daemon.change("mcp.test", json!({ "resource_override_backend": true })).await;
    let ours = json!({
        "resource": "https://mcp.test/mcp", "authorization_servers": ["https://auth.localhost"],
        "bearer_methods_supported": ["header"], "scopes_supported": ["mcp:read", "mcp:write"],
        "resource_policy_uri": "https://app.test/p", "resource_documentation": "https://mcp.test/mcp/docs",
        "mcp_versions": ["2025-06-18"], "mcp_stateful": true,
    });
    eventually("the upstream is not asked any more", async || {
        let answer = ask(&site, "mcp.test", Method::GET, KNOWN).await;
        (answer.json() == ours).then_some(())
    })
    .await;
    seen.lock().unwrap().clear();
    assert_eq!(ask(&site, "mcp.test", Method::GET, KNOWN).await.json(), ours);
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_upstream_without_a_document_or_without_life_changes_nothing() {
    let site = Site::without_hosts(|_| ()).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // The usual one of these tests answers everything with JSON that is no document.
    for (host, url) in [("any.test", site.upstream.url()), ("gone.test", format!("http://{gone}"))] {
        let fields =
            json!({ "auth_enabled": true, "resource_endpoint": "/mcp", "resource_scopes": ["mcp:read"] });
        site.daemon.proxy(host, &url, &fields);
        let answer = ask(&site, host, Method::GET, KNOWN).await;
        let ours = json!({
            "resource": format!("https://{host}/mcp"), "authorization_servers": ["https://auth.localhost"],
            "bearer_methods_supported": ["header"], "scopes_supported": ["mcp:read"],
        });
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, ours), "{host}");
    }
}

#[tokio::test]
async fn a_host_says_less_of_the_authorization_server_and_nothing_else() {
    let site = Site::without_hosts(|_| ()).await;
    site.host("mcp.test", &json!({ "resource_endpoint": "/mcp" }));
    let document = async |host: &str| {
        let answer = client::secure(site.daemon.https, get(host, SERVER)).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
        answer.json()
    };
    let plain = document("mcp.test").await;
    let set = site.daemon.run(&[
        "proxy",
        "oauth-server",
        "set",
        "mcp.test",
        "--scopes=mcp:read,mcp:write",
        "--grant-types=authorization_code,refresh_token",
        "--response-types=code",
        "--token-auth-methods=none",
        "--claims=groups",
        "--pkce-required",
        "--custom-metadata={\"op_policy_uri\":\"https://app.test/p\",\"issuer\":\"https://evil.test\"}",
        "--override-defaults",
    ]);
    assert_eq!((&set["status"], &set["served"]), (&json!("configured"), &json!(true)));
    let mut expected = plain.clone();
    for (name, value) in [
        ("scopes_supported", json!(["mcp:read", "mcp:write"])),
        ("grant_types_supported", json!(["authorization_code", "refresh_token"])),
        ("token_endpoint_auth_methods_supported", json!(["none"])),
        ("claims_supported", json!(["groups"])),
        ("code_challenge_methods_required", json!(["S256"])),
        ("op_policy_uri", json!("https://app.test/p")),
    ] {
        expected[name] = value;
    }
    assert_eq!(document("mcp.test").await, expected, "the issuer and its endpoints are what they were");
    assert_eq!(document("auth.localhost").await, plain, "another host's document is its own");
    let listed = site.daemon.run(&["proxy", "oauth-server", "list"]);
    assert_eq!((&listed["count"], &listed["proxies"][0]["proxy_hostname"]), (&json!(1), &json!("mcp.test")));
    for (args, wrong) in [
        (["--issuer=https://evil.test", ""], "issuer"),
        (["--pkce-required=false", ""], "pkce_required"),
        (["--response-types=token", ""], "response_types"),
        (["--grant-types=implicit", "--override-defaults"], "grant_types"),
    ] {
        let args: Vec<_> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        let refused = site.daemon.cli(&[&["proxy", "oauth-server", "set", "mcp.test"], &args[..]].concat());
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(wrong), "{args:?}: {told}");
    }
    site.daemon.run(&["proxy", "oauth-server", "clear", "mcp.test"]);
    assert_eq!(document("mcp.test").await, plain);
}
