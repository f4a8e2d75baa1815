//! Browsers: sent to the login, known by the cookie of their session, and not to be used by other sites.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::support::client::{self, Answer, get};
use super::support::issuer::at;
use super::{CHALLENGE, HOST, Site, claims};

const STATE: &str = "__Host-portcullis-state";
const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml;q=0.9");

/// A site of our own issuer with a host that browsers can sign in to.
async fn site(fields: Value) -> Site {
    let site = Site::own().await;
    site.daemon.proxy(HOST, &site.upstream.url(), &browser_host(&fields));
    site
}

fn browser_host(fields: &Value) -> Value {
    let mut all = json!({ "auth_enabled": true, "auth_mode": "redirect", "auth_required_users": ["*"] });
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    all
}

/// The cookie of a session on a host.
fn cookie(site: &Site, host: &str, changes: &[(&str, Value)]) -> String {
    let audience = [("aud", json!([format!("https://{host}/.portcullis/session")]))];
    format!("__Host-unified_auth_token={}", site.own_token(&[&audience, changes].concat()))
}

fn request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(host, path);
    *request.method_mut() = method.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

async fn send(site: &Site, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    client::plain(site.daemon.http, request(method, HOST, path, headers)).await
}

/// The state of a redirect to the login, and where it comes back to; in the cookie and in the address alike.
fn state(answer: &Answer, back: &str) -> String {
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.header("cache-control"), "no-store");
    let start = format!("https://auth.localhost/login?return_url={back}&state=");
    let state = answer.header("location").strip_prefix(&start).expect(&start).to_owned();
    assert_eq!(state.len(), 43);
    let cookie = format!("{STATE}={state}; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax");
    assert_eq!(answer.header("set-cookie"), cookie);
    state
}

#[tokio::test]
async fn redirect_sends_browsers_to_the_login_and_everybody_else_a_challenge() {
    let site = Site::start(json!({ "auth_mode": "redirect" })).await;
    for (method, headers, redirected) in [
        ("GET", vec![HTML], true),
        ("HEAD", vec![HTML], true),
        ("GET", vec![HTML, ("sec-fetch-mode", "navigate")], true),
        ("GET", vec![("sec-fetch-mode", "navigate")], true),
        ("GET", vec![HTML, ("sec-fetch-mode", "cors")], false),
        ("GET", vec![("accept", "application/json")], false),
        ("GET", vec![], false),
        ("POST", vec![HTML], false),
        ("GET", vec![HTML, ("authorization", "Bearer bad")], false),
    ] {
        let answer = send(&site, method, "/a%20b?c=d&e=/", &headers).await;
        let case = format!("{method} {headers:?}");
        if redirected {
            state(&answer, "https%3A%2F%2Fapp.test%2Fa%2520b%3Fc%3Dd%26e%3D%2F");
        } else {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{case}");
            assert!(answer.header("www-authenticate").starts_with(CHALLENGE), "{case}");
            assert_eq!(answer.header("set-cookie"), "", "{case}");
        }
    }
    assert_eq!(site.get_as("/", &site.token(&claims())).await.status, StatusCode::OK);
}

#[tokio::test]
async fn tabs_share_a_state_and_long_addresses_come_back_to_the_start() {
    let site = site(json!({})).await;
    let first = state(&send(&site, "GET", "/", &[HTML]).await, "https%3A%2F%2Fapp.test%2F");
    let kept = format!("a=b; {STATE}={first}");
    let again = send(&site, "GET", "/b", &[HTML, ("cookie", &kept)]).await;
    assert_eq!(state(&again, "https%3A%2F%2Fapp.test%2Fb"), first);
    let long = format!("/{}", "x".repeat(5000));
    let other = state(&send(&site, "GET", &long, &[HTML]).await, "https%3A%2F%2Fapp.test%2F");
    assert_ne!(first, other);
}

#[tokio::test]
async fn a_session_lets_a_browser_in_and_the_upstream_never_sees_it() {
    let site = site(json!({})).await;
    let session = cookie(&site, HOST, &[]);
    let all = format!("a=1; {session}; {STATE}=x; __Host-portcullis-session=y; unified_auth_token=z; b=2");
    let answer = send(&site, "GET", "/", &[("cookie", &all)]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.seen("x-auth-user"), ["Alice"]);
    assert_eq!(answer.seen("cookie"), ["a=1; b=2"]);

    let audience = json!(["https://app.test/.portcullis/session", "https://app.test"]);
    for (what, cookies) in [
        ("expired", cookie(&site, HOST, &[("exp", json!(at(-600)))])),
        ("for another host", cookie(&site, "other.test", &[])),
        ("for more than the session", cookie(&site, HOST, &[("aud", audience)])),
        ("a bearer token", cookie(&site, HOST, &[("aud", json!("https://app.test"))])),
        ("without the prefix", session.replace("__Host-", "")),
        ("twice", format!("{session}; {session}")),
        ("cut off", session[..session.len() - 4].to_owned()),
    ] {
        let answer = send(&site, "GET", "/", &[("cookie", &cookies), HTML]).await;
        assert_eq!(answer.status, StatusCode::FOUND, "{what}");
        let answer = send(&site, "GET", "/", &[("cookie", &cookies)]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answer.header("www-authenticate"), CHALLENGE, "{what}");
    }
    let token = session.split_once('=').unwrap().1;
    let answer = site.get_as("/", token).await;
    assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::UNAUTHORIZED, &json!("invalid_token")));
}

#[tokio::test]
async fn no_setting_shows_a_session_to_an_upstream() {
    let site = Site::own().await;
    let url = site.upstream.url();
    for (host, fields, left) in [
        (
            "forward.test",
            browser_host(&json!({ "forward_authorization": true })),
            "unified_auth_token=z; b=2",
        ),
        ("named.test", browser_host(&json!({ "auth_cookie_name": "sid" })), "unified_auth_token=z; b=2"),
        ("open.test", json!({}), "unified_auth_token=z; b=2"),
        ("free.test", browser_host(&json!({ "auth_excluded_paths": ["/"] })), "b=2"),
        ("pass.test", browser_host(&json!({ "auth_mode": "passthrough" })), "b=2"),
    ] {
        site.daemon.proxy(host, &url, &fields);
        let name = if host == "named.test" { "__Host-sid" } else { "__Host-unified_auth_token" };
        let session = cookie(&site, host, &[]).replace("__Host-unified_auth_token", name);
        let all = format!("{session}; {STATE}=x; unified_auth_token=z; b=2");
        let answer = client::plain(site.daemon.http, request("GET", host, "/", &[("cookie", &all)])).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
        assert_eq!(answer.seen("cookie"), [left], "{host}");
        // On a host that lets everybody in nobody gets a session, so none counts.
        let known = ["forward.test", "named.test"].contains(&host);
        assert_eq!(!answer.seen("x-auth-user").is_empty(), known, "{host}");
    }
}

#[tokio::test]
async fn other_sites_can_not_use_a_session() {
    let site = site(json!({})).await;
    let session = cookie(&site, HOST, &[]);
    let own = ("origin", "https://app.test");
    let sibling = ("origin", "https://other.app.test");
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    for (method, headers, status) in [
        ("POST", vec![own], 200),
        ("POST", vec![], 200),
        ("POST", vec![("sec-fetch-site", "same-origin")], 200),
        ("GET", vec![sibling], 200),
        ("POST", vec![sibling], 403),
        ("DELETE", vec![("origin", "null")], 403),
        ("PUT", vec![("sec-fetch-site", "same-site")], 403),
        ("GET", [&upgrade[..], &[sibling]].concat(), 403),
    ] {
        let headers = [&headers[..], &[("cookie", session.as_str()), HTML]].concat();
        let answer = send(&site, method, "/", &headers).await;
        assert_eq!(answer.status, status, "{method} {headers:?}");
        if status == 403 {
            assert_eq!(answer.header("www-authenticate"), "", "{method} {headers:?}");
            assert_eq!(answer.header("location"), "", "{method} {headers:?}");
        }
    }
    let answer = send(&site, "POST", "/", &[("cookie", &session), sibling]).await;
    assert_eq!(answer.json()["code"], "cross_site");
    // A page has to have the token to send it: no browser adds it.
    let bearer = format!("Bearer {}", site.own_token(&[]));
    let answer = send(&site, "POST", "/", &[("cookie", &session), sibling, ("authorization", &bearer)]).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_session_does_not_count_at_the_resource() {
    let site = site(json!({ "resource_endpoint": "/mcp" })).await;
    let session = cookie(&site, HOST, &[]);
    for (method, path, known) in [
        ("POST", "/mcp", false),
        ("GET", "/mcp", false),
        ("DELETE", "/mcp/x", false),
        ("POST", "/%6dcp", false),
        ("POST", "/mcpx", true),
        ("GET", "/", true),
    ] {
        for origin in [None, Some(("origin", "https://app.test"))] {
            let headers: Vec<_> = [("cookie", session.as_str()), HTML].into_iter().chain(origin).collect();
            let answer = send(&site, method, path, &headers).await;
            if known {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
                continue;
            }
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} {origin:?}");
            let metadata = "resource_metadata=\"https://app.test/.well-known/oauth-protected-resource/mcp\"";
            assert!(answer.header("www-authenticate").contains(metadata), "{method} {path}");
        }
    }
    let bearer = format!("Bearer {}", site.own_token(&[("aud", json!("https://app.test/mcp"))]));
    let answer = send(&site, "POST", "/mcp", &[("cookie", &session), ("authorization", &bearer)]).await;
    assert_eq!(answer.status, StatusCode::OK);
    // Where the whole host is the resource, its pages are, too.
    site.daemon.run(&["proxy", "update", HOST, "--resource-endpoint=/"]);
    assert_eq!(send(&site, "POST", "/mcp", &[("cookie", &session)]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_session_gives_what_the_lists_of_the_host_give_now() {
    let site = site(json!({ "auth_required_users": ["alice"], "auth_scope_rules": [
        { "path": "/w", "scopes": ["user"] },
    ]}))
    .await;
    let alice = cookie(&site, HOST, &[("scope", json!("user admin"))]);
    let bob = cookie(&site, HOST, &[("username", json!("bob"))]);
    let ask = async |cookie: &str, path: &str| send(&site, "GET", path, &[("cookie", cookie)]).await;
    assert_eq!(ask(&bob, "/").await.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(&bob, "/").await.header("www-authenticate"), "");
    assert_eq!(ask(&alice, "/").await.status, StatusCode::OK);
    let withheld = ask(&alice, "/w").await;
    assert_eq!((withheld.status, &withheld.json()["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")));
    assert_eq!(withheld.header("www-authenticate"), "", "no login gives what the lists keep back");
    site.daemon.run(&["proxy", "update", HOST, "--oauth-user-users", "alice"]);
    let answer = ask(&alice, "/w").await;
    assert_eq!((answer.status, answer.seen("x-auth-scopes")), (StatusCode::OK, vec!["user".to_owned()]));
    site.daemon.run(&["proxy", "update", HOST, "--auth-mode", "forward"]);
    assert_eq!(ask(&alice, "/").await.status, StatusCode::UNAUTHORIZED, "a host for programs");
}

#[tokio::test]
async fn below_a_wildcard_each_name_has_sessions_of_its_own() {
    let site = Site::own().await;
    site.daemon.proxy("*.apps.test", &site.upstream.url(), &browser_host(&json!({})));
    let session = cookie(&site, "a.apps.test", &[]);
    for (host, status) in [("a.apps.test", 200), ("b.apps.test", 401)] {
        let answer =
            client::plain(site.daemon.http, request("GET", host, "/", &[("cookie", &session)])).await;
        assert_eq!(answer.status, status, "{host}");
    }
}
