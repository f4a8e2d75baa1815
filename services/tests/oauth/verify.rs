//! Forward authentication: what other proxies are told about requests to their hosts.

use http::header::{HeaderMap, HeaderName};
use http::{Method, StatusCode};
use portcullis_services::store::{Expect, Key, Kind, Store, Write};
use serde_json::{Value, json};

use crate::standin::Person;
use crate::world::{APP, Answer, CLIENT, CLOSED, ISSUER, MONA, World, text};

/// The session of Mona's browser at the application, as its cookie has it.
pub(crate) async fn session(world: &World) -> String {
    let browser = world.browser();
    let state = "S".repeat(43);
    browser.set_cookie("app.example.com", "__Host-portcullis-state", &state);
    let login = format!("{ISSUER}/login?return_url=https%3A%2F%2Fapp.example.com%2F&state={state}");
    let back = browser.go(&login).await;
    browser
        .cookie("app.example.com", "__Host-unified_auth_token")
        .unwrap_or_else(|| panic!("no session: {back:?}"))
}

/// A request as another proxy asks about it.
struct Question<'a> {
    method: &'a str,
    url: &'a str,
    query: &'a str,
    headers: Vec<(&'static str, String)>,
}

fn get(url: &str) -> Question<'_> {
    Question { method: "GET", url, query: "", headers: Vec::new() }
}

impl<'a> Question<'a> {
    fn method(self, method: &'a str) -> Self {
        Self { method, ..self }
    }

    fn query(self, query: &'a str) -> Self {
        Self { query, ..self }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn bearer(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// As Traefik and Caddy ask.
    async fn ask(self, world: &World) -> Answer {
        let (scheme, rest) = self.url.split_once("://").expect("a URL");
        let (host, path) = rest.split_at(rest.find('/').expect("a path"));
        let stated = [
            ("x-forwarded-method", self.method),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-host", host),
            ("x-forwarded-uri", path),
            ("x-forwarded-for", "203.0.113.9"),
        ];
        let stated = stated.into_iter().map(|(name, value)| (name, value.to_owned()));
        send(world, self.query, stated.chain(self.headers)).await
    }

    /// As nginx does.
    async fn ask_as_nginx(self, world: &World) -> Answer {
        let stated = [("x-original-url", self.url.to_owned()), ("x-original-method", self.method.to_owned())];
        send(world, self.query, stated.into_iter().chain(self.headers)).await
    }
}

async fn send(world: &World, query: &str, headers: impl Iterator<Item = (&'static str, String)>) -> Answer {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.append(HeaderName::from_static(name), value.parse().expect("a value"));
    }
    world.request(CLIENT, Method::GET, &format!("{ISSUER}/verify{query}"), all, String::new()).await
}

/// Lets the node see what was written, as its reconciler does.
async fn see(world: &World) {
    world.mirror.latest().await.expect("read");
}

/// A world, and Mona's token for the application.
async fn world(scope: &str) -> (World, String) {
    let world = World::new().await;
    world.put_public_client().await;
    let tokens = world.tokens(&world.browser(), scope, APP).await;
    let access = text(&tokens, "access_token").to_owned();
    (world, access)
}

async fn put_app(world: &World, more: Value) {
    let mut all = json!({ "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"] });
    all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    world.put_host("app.example.com", all).await;
    see(world).await;
}

async fn put_route(world: &World, path: &str, auth: Value) {
    let value = json!({
        "route_id": "r1", "path_pattern": path, "target_type": "url", "target_value": "http://10.0.0.6:80",
        "scope": "proxy", "proxy_hostnames": ["app.example.com"],
        "auth_config": auth, "override_proxy_auth": true,
    });
    let write = Write::Put { key: Key::new(Kind::Route, "r1"), value, expect: Expect::Any };
    world.store.commit(vec![write]).await.expect("stored");
    see(world).await;
}

#[tokio::test]
async fn a_good_token_passes_and_says_who_it_is() {
    let (world, token) = world("mcp user").await;
    for nginx in [false, true] {
        let question = get("https://app.example.com/a?b=c").bearer(&token);
        let answer = if nginx { question.ask_as_nginx(&world).await } else { question.ask(&world).await };
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0), "{}", answer.text());
        for (name, value) in [
            ("x-auth-user", "Mona"),
            ("x-auth-user-id", &MONA.to_string()),
            ("x-auth-user-name", "Mona Lisa"),
            ("x-auth-scopes", "mcp user"),
            ("x-auth-client-id", "web"),
            ("x-auth-request-user", "Mona"),
            ("x-auth-request-preferred-username", "Mona"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
        assert!(!answer.headers.contains_key("x-auth-groups"));
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "it is for proxies");
    }
    put_app(&world, json!({ "auth_header_prefix": "X-Acme-" })).await;
    let answer =
        get("https://app.example.com/").bearer(&token).with("x-acme-groups", "root").ask(&world).await;
    assert_eq!((answer.header("x-acme-user"), answer.header("x-auth-user")), ("Mona", ""));
    assert_eq!(answer.header("x-acme-groups"), "", "what a client sends is nobody's identity");
    put_app(&world, json!({ "auth_pass_headers": false })).await;
    let answer = get("https://app.example.com/").bearer(&token).ask(&world).await;
    assert_eq!((answer.status, answer.header("x-auth-user")), (StatusCode::OK, ""));
}

#[tokio::test]
async fn without_a_good_token_there_is_a_challenge() {
    let (world, token) = world("mcp").await;
    let answer = get("https://app.example.com/").ask(&world).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "token_required"));
    let challenge = answer.header("www-authenticate");
    assert!(challenge.starts_with("Bearer realm=") && !challenge.contains("error="), "{challenge}");
    let metadata = "resource_metadata=\"https://app.example.com/.well-known/oauth-protected-resource\"";
    assert!(challenge.contains(metadata), "{challenge}");
    let forged = format!("{}x", &token[..token.len() - 1]);
    for bad in [forged.as_str(), "x", ""] {
        let answer = get("https://app.example.com/").bearer(bad).ask(&world).await;
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_token"));
        assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    }
    let twice = get("https://app.example.com/").bearer(&token).bearer("x").ask(&world).await;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
    let basic = get("https://app.example.com/").with("authorization", "Basic YTpi").ask(&world).await;
    assert_eq!(basic.status, StatusCode::UNAUTHORIZED);
}

/// Catalogue 14.2, number 24.
#[tokio::test]
async fn a_token_is_good_on_its_own_host_only() {
    let (world, token) = world("mcp").await;
    let answer = get("https://closed.example.com/").bearer(&token).ask(&world).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_token"));
}

/// Catalogue 14.2, number 27.
#[tokio::test]
async fn who_is_on_no_list_gets_403_without_a_challenge() {
    let (world, token) = world("mcp").await;
    put_app(&world, json!({ "auth_required_users": ["hubot"] })).await;
    let answer = get("https://app.example.com/").bearer(&token).ask(&world).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::FORBIDDEN, "access_denied"));
    assert!(!answer.headers.contains_key("www-authenticate"), "a challenge would only make it try again");
    put_app(&world, json!({ "auth_required_users": ["mOnA"] })).await;
    assert_eq!(get("https://app.example.com/").bearer(&token).ask(&world).await.status, StatusCode::OK);
}

/// Catalogue 14.2, number 31.
#[tokio::test]
async fn a_revoked_token_is_refused_at_once() {
    let (world, token) = world("mcp").await;
    assert_eq!(get("https://app.example.com/").bearer(&token).ask(&world).await.status, StatusCode::OK);
    assert_eq!(
        world.post("/revoke", &[("client_id", "web"), ("token", &token)]).await.status,
        StatusCode::OK
    );
    let answer = get("https://app.example.com/").bearer(&token).ask(&world).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_rules_of_the_host_hold_for_paths_and_methods() {
    let (world, token) = world("mcp").await;
    let rules = json!({
        "auth_excluded_paths": ["/public"],
        "auth_scope_rules": [{ "path": "/", "methods": ["POST"], "scopes": ["user"] }],
    });
    put_app(&world, rules).await;
    for (method, path, signed_in, status) in [
        ("GET", "/", true, 200),
        ("GET", "/", false, 401),
        ("POST", "/", true, 403),
        ("GET", "/public", false, 200),
        ("POST", "/public/x", false, 200),
        ("GET", "/publicity", false, 401),
        ("GET", "/public/../", false, 400),
        ("GET", "/public/%2e%2e/admin", true, 400),
        ("POST", "//x", true, 400),
    ] {
        let url = format!("{APP}{path}");
        let mut question = get(&url).method(method);
        if signed_in {
            question = question.bearer(&token);
        }
        let answer = question.ask(&world).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {}", answer.text());
        if status == 403 {
            let challenge = answer.header("www-authenticate");
            assert!(
                challenge.contains("insufficient_scope") && challenge.contains("scope=\"user\""),
                "{challenge}"
            );
        }
    }
}

#[tokio::test]
async fn the_rules_of_a_route_stand_in_place_of_the_hosts() {
    let (world, token) = world("mcp").await;
    for (auth, signed_in, status) in [
        (json!({ "auth_type": "none" }), false, 200),
        (json!({ "auth_type": "bearer" }), false, 401),
        (json!({ "auth_type": "bearer" }), true, 200),
        (json!({ "auth_type": "inherit", "allowed_users": ["hubot"] }), true, 403),
        (json!({ "auth_type": "inherit", "required_scopes": ["user"] }), true, 403),
    ] {
        put_route(&world, "/special", auth.clone()).await;
        for (path, expected) in [("/special/x", status), ("/other", if signed_in { 200 } else { 401 })] {
            let url = format!("{APP}{path}");
            let question = if signed_in { get(&url).bearer(&token) } else { get(&url) };
            assert_eq!(question.ask(&world).await.status.as_u16(), expected, "{path} {auth}");
        }
    }
}

/// Catalogue, section 3.3: the older product let the caller say which scopes are good enough.
#[tokio::test]
async fn a_caller_may_demand_more_and_never_less() {
    let (world, token) = world("mcp").await;
    put_app(&world, json!({ "auth_scope_required": "mcp", "auth_excluded_paths": ["/public"] })).await;
    for (query, path, signed_in, status) in [
        ("?scope=mcp", "/", true, 200),
        ("?scope=user", "/", true, 403),
        ("?scope=mcp%20user", "/", true, 403),
        ("?scope=", "/", false, 401),
        ("?scope=mcp", "/public", false, 401),
        ("?scope=mcp", "/public", true, 200),
        ("?scope=%22", "/", true, 400),
        ("?scope=a&scope=b", "/", true, 400),
    ] {
        let url = format!("{APP}{path}");
        let question = if signed_in { get(&url).bearer(&token) } else { get(&url) };
        let answer = question
            .query(query)
            .with("x-auth-allowed-scopes", "openid")
            .with("x-auth-allowed-audiences", CLOSED)
            .ask(&world);
        assert_eq!(answer.await.status.as_u16(), status, "{query} {path}");
    }
    put_app(&world, json!({ "auth_mode": "passthrough" })).await;
    let open = get("https://app.example.com/").ask(&world).await;
    assert_eq!((open.status, open.header("x-auth-user")), (StatusCode::OK, ""));
    let known = get("https://app.example.com/").bearer(&token).ask(&world).await;
    assert_eq!((known.status, known.header("x-auth-user")), (StatusCode::OK, "Mona"));
    let demanded = get("https://app.example.com/").query("?scope=mcp").ask(&world).await;
    assert_eq!(demanded.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_host_that_nobody_protects_lets_nobody_in() {
    let (world, token) = world("mcp").await;
    for (more, status, code) in [
        (json!({ "auth_enabled": false }), 403, "not_protected"),
        (json!({ "enabled": false }), 503, "host_disabled"),
        (json!({ "allowed_networks": ["10.0.0.0/8"] }), 403, "access_denied"),
        (json!({ "enable_https": false }), 403, "protocol_disabled"),
    ] {
        put_app(&world, more.clone()).await;
        let answer = get("https://app.example.com/").bearer(&token).ask(&world).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (status, code), "{more}");
    }
    let answer = get("https://unknown.example.com/").bearer(&token).ask(&world).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::FORBIDDEN, "no_such_host"));
}

#[tokio::test]
async fn a_question_that_is_not_clear_is_no_yes() {
    let (world, token) = world("mcp").await;
    put_app(&world, json!({ "auth_excluded_paths": ["/open"] })).await;
    let bearer = ("authorization", format!("Bearer {token}"));
    let none = send(&world, "", [bearer].into_iter()).await;
    assert_eq!((none.status, none.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_request"));
    for (name, value) in [
        ("x-original-url", "https://app.example.com/open"),
        ("x-original-method", "POST"),
        ("x-forwarded-uri", "/open"),
        ("x-forwarded-host", "other.example.com"),
        ("x-forwarded-host", "app.example.com"),
    ] {
        let answer = get("https://app.example.com/").with(name, value).ask(&world).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {value}");
    }
    let answer = get("https://app.example.com/").with("x-forwarded-uri", "/open").ask_as_nginx(&world).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "a client of the other proxy has sent it");
}

#[tokio::test]
async fn a_browser_passes_with_its_session() {
    let (world, token) = world("mcp").await;
    let session = session(&world).await;
    let ask = |question: Question<'static>| {
        question.with("cookie", &format!("other=1; __Host-unified_auth_token={session}"))
    };
    let answer = ask(get("https://app.example.com/")).ask(&world).await;
    assert_eq!((answer.status, answer.header("x-auth-user")), (StatusCode::OK, "Mona"), "{}", answer.text());
    for (question, status) in [
        (get("https://app.example.com/").method("POST").with("origin", APP), 200),
        (get("https://app.example.com/").method("POST").with("origin", "https://evil.example.com"), 403),
        (get("https://app.example.com/").method("POST").with("sec-fetch-site", "cross-site"), 403),
        (get("https://app.example.com/").with("origin", CLOSED).with("sec-websocket-key", "AAAA"), 403),
        (get("https://app.example.com/").with("origin", APP).with("sec-websocket-key", "AAAA"), 200),
        (get("https://app.example.com/").bearer("x"), 401),
        (get("https://closed.example.com/"), 401),
    ] {
        let shown = format!("{} {} {:?}", question.method, question.url, question.headers);
        assert_eq!(ask(question).ask(&world).await.status.as_u16(), status, "{shown}");
    }
    let as_bearer = get("https://app.example.com/").bearer(&session).ask(&world).await;
    assert_eq!(as_bearer.status, StatusCode::UNAUTHORIZED, "a cookie is no bearer token");
    let as_cookie =
        get("https://app.example.com/").with("cookie", &format!("__Host-unified_auth_token={token}"));
    assert_eq!(as_cookie.ask(&world).await.status, StatusCode::UNAUTHORIZED, "nor the other way round");
}

#[tokio::test]
async fn a_browser_is_sent_to_the_login_page_where_that_is_asked_for() {
    let (world, _) = world("mcp").await;
    world.github.person(Person::SignedIn("Mona".to_owned()));
    let browser = |url| get(url).with("accept", "text/html").with("sec-fetch-mode", "navigate");
    let answer = browser("https://app.example.com/a?b=c").query("?rd=1").ask(&world).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    let back = "return_url=https%3A%2F%2Fapp.example.com%2Fa%3Fb%3Dc";
    assert!(answer.location().starts_with(&format!("{ISSUER}/login?{back}&state=")), "{}", answer.location());
    assert!(answer.header("set-cookie").starts_with("__Host-portcullis-state="));
    assert_eq!(browser("https://app.example.com/").ask(&world).await.status, StatusCode::UNAUTHORIZED);
    let script =
        get("https://app.example.com/").with("sec-fetch-mode", "cors").query("?rd=1").ask(&world).await;
    assert_eq!(script.status, StatusCode::UNAUTHORIZED);
    put_app(&world, json!({ "auth_mode": "forward" })).await;
    let api = browser("https://app.example.com/").query("?rd=1").ask(&world).await;
    assert_eq!(api.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn no_question_asks_the_store() {
    let (world, token) = world("mcp").await;
    let session = session(&world).await;
    put_route(&world, "/special", json!({ "auth_type": "bearer" })).await;
    let before = world.store.calls();
    for _ in 0..3 {
        for path in ["/", "/special"] {
            let url = format!("{APP}{path}");
            assert_eq!(get(&url).bearer(&token).ask(&world).await.status, StatusCode::OK);
            let cookie = format!("__Host-unified_auth_token={session}");
            assert_eq!(get(&url).with("cookie", &cookie).ask(&world).await.status, StatusCode::OK);
            assert_eq!(get(&url).ask(&world).await.status, StatusCode::UNAUTHORIZED);
        }
    }
    assert_eq!(world.store.calls(), before);
}

#[tokio::test]
async fn below_a_wildcard_each_name_is_a_resource() {
    let (world, token) = world("mcp").await;
    world.put_host("*.apps.example.com", json!({ "oauth_mcp_users": ["Mona"] })).await;
    see(&world).await;
    let one = "https://one.apps.example.com";
    let tokens = world.tokens(&world.browser(), "mcp", one).await;
    let own = text(&tokens, "access_token");
    for (url, token, status) in [
        ("https://one.apps.example.com/", own, 200),
        ("https://two.apps.example.com/", own, 401),
        ("https://one.apps.example.com/", &token, 401),
    ] {
        assert_eq!(get(url).bearer(token).ask(&world).await.status.as_u16(), status, "{url}");
    }
}

#[tokio::test]
async fn a_preflight_is_no_yes() {
    let (world, _) = world("mcp").await;
    let preflight = get("https://app.example.com/")
        .method("OPTIONS")
        .with("origin", "https://web.example.com")
        .with("access-control-request-method", "PUT")
        .with("access-control-request-headers", "authorization");
    // Other proxies take every 2xx for a yes, so it is not answered here.
    assert_eq!(preflight.ask(&world).await.status, StatusCode::UNAUTHORIZED);
}
