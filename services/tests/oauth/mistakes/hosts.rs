//! Hosts, their lists, and what a request implies.

use http::{HeaderMap, Method, StatusCode};
use portcullis_services::oauth::{Claims, Keys};
use serde_json::{Value, json};

use crate::standin::{Person, field};
use crate::world::{
    APP, Answer, Authorization, Browser, CLIENT, CLOSED, HUBOT, ISSUER, MONA, REDIRECT, World, claims, form,
    header, text,
};

/// A host with lists of its own.
const LISTED: &str = "https://listed.example.com";

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    world
}

fn asked(more: &[(&str, &str)]) -> Authorization {
    Authorization::new("web", REDIRECT, more)
}

/// Number 24: a query parameter chose whose lists gave scopes, while the token was for other hosts.
#[tokio::test]
async fn no_query_parameter_lends_one_hosts_scopes_to_another() {
    let world = world().await;
    let lists = |admin: &[&str]| json!({ "oauth_admin_users": admin, "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"] });
    world.put_host("app.example.com", lists(&[])).await;
    world.put_host("listed.example.com", lists(&["Mona"])).await;
    for name in ["proxy_hostname", "hostname", "host", "audience"] {
        let asked = asked(&[("scope", "admin user"), ("resource", APP), (name, "listed.example.com")]);
        let url = format!("{}&{}", asked.url, form(&[("proxy_hostname", "listed.example.com")]));
        let code = world.browser().code(if name == "proxy_hostname" { &asked.url } else { &url }).await;
        let more = [("proxy_hostname", "listed.example.com"), ("audience", LISTED)];
        let tokens = world.redeem(&code, &asked.verifier, &more).await.json();
        assert_eq!(tokens["scope"], "user", "{name}");
        let said = claims(text(&tokens, "access_token"));
        assert_eq!((&said["aud"], &said["scope"]), (&json!([APP]), &json!("user")));
    }
}

/// Number 25: without `resource` a token was good wherever its user may go.
#[tokio::test]
async fn a_request_without_a_resource_is_never_for_everything() {
    let world = world().await;
    world.put_host("listed.example.com", json!({ "oauth_mcp_users": ["Mona"] })).await;
    let at_host = asked(&[("scope", "mcp")]);
    let code = world.browser().code(&at_host.url.replace(ISSUER, APP)).await;
    let tokens = world.redeem(&code, &at_host.verifier, &[]).await.json();
    let token = text(&tokens, "access_token");
    assert_eq!(claims(token)["aud"], json!([APP]));
    for (url, status) in [(APP, 200), (LISTED, 401), (CLOSED, 401)] {
        assert_eq!(world.verify(&format!("{url}/"), token).await.status.as_u16(), status, "{url}");
    }
    assert_eq!(world.browser().go(&at_host.url).await.redirected_error(), "invalid_target");
    let metadata = json!({ "token_endpoint_auth_method": "none", "grant_types": [DEVICE] });
    world.put_client("tv", metadata).await;
    let device = world.post("/device/code", &[("client_id", "tv"), ("scope", "mcp")]).await;
    assert_eq!((device.status, device.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_target"));
}

/// Number 26: a device needed no client, its user was on no list, and its scopes were those of another host.
#[tokio::test]
async fn devices_get_what_browsers_get_and_nothing_else() {
    let world = world().await;
    let metadata = json!({ "token_endpoint_auth_method": "none", "grant_types": [DEVICE] });
    world.put_client("tv", metadata).await;
    let lists =
        json!({ "oauth_admin_users": [], "oauth_user_users": ["Mona"], "oauth_mcp_users": ["hubot"] });
    world.put_host("listed.example.com", lists).await;
    for unknown in ["device_flow", "nobody", ""] {
        let answer = world.post("/device/code", &[("client_id", unknown), ("resource", LISTED)]).await;
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    }
    for (login, scope) in [("Mona", Some("user")), ("hubot", Some("mcp")), ("stranger", None)] {
        if login == "stranger" {
            world.github.add_user(crate::standin::User::new(99, login));
        }
        world.github.person(Person::SignedIn(login.to_owned()));
        let fields = [("client_id", "tv"), ("scope", "admin user mcp"), ("resource", LISTED)];
        let codes = world.post("/device/code", &fields).await.json();
        let browser = world.browser();
        let page = browser.go(text(&codes, "verification_uri_complete")).await;
        if scope.is_none() {
            assert_eq!(page.status, StatusCode::FORBIDDEN, "{}", page.text());
        } else {
            browser.submit(&page, &format!("{ISSUER}/device"), &[("decision", "approve")]).await;
        }
        let poll =
            [("grant_type", DEVICE), ("client_id", "tv"), ("device_code", text(&codes, "device_code"))];
        let answer = world.post("/token", &poll).await;
        match scope {
            None => assert_eq!(answer.error(), "authorization_pending"),
            Some(scope) => {
                let said = claims(text(&answer.json(), "access_token"));
                assert_eq!((&said["scope"], &said["aud"]), (&json!(scope), &json!([LISTED])), "{login}");
            }
        }
    }
}

/// Whether somebody gets a code, and a session on a host.
async fn signs_in(world: &World) -> (bool, bool) {
    let (browser, name) = (world.browser(), "listed.example.com");
    let back = browser.authorize(&asked(&[("scope", "user"), ("resource", LISTED)]).url).await;
    let state = "s".repeat(43);
    browser.set_cookie(name, "__Host-portcullis-state", &state);
    let query = form(&[("return_url", &format!("{LISTED}/page")), ("state", &state)]);
    let mut answer = browser.send(Method::GET, &format!("{ISSUER}/login?{query}"), None).await;
    for _ in 0..4 {
        let location = answer.location().to_owned();
        if location.is_empty() || location == format!("{LISTED}/page") {
            break;
        }
        answer = if location.starts_with(ISSUER) || location.starts_with(LISTED) {
            browser.send(Method::GET, &location, None).await
        } else {
            world.at_github(&location).await
        };
    }
    let session = browser.cookie(name, "__Host-unified_auth_token").is_some();
    (!field(&back.redirected(), "code").is_empty(), session)
}

/// Number 27: `*` and the case of a name meant one thing in the store, another at the login and a third at a request.
#[tokio::test]
async fn a_list_means_the_same_at_login_at_refresh_and_at_each_request() {
    let world = world().await;
    let rs = world.put_resource_server("rs").await;
    let put = async |list: &Value| {
        world
            .put_host("listed.example.com", json!({ "auth_required_users": list, "oauth_user_users": ["*"] }))
            .await;
    };
    for (list, admitted) in [
        (json!(["*"]), true),
        (json!(["Mona"]), true),
        (json!(["mona"]), true),
        (json!(["hubot", "MONA"]), true),
        (json!([format!("github:{MONA}")]), true),
        (json!([]), false),
        (json!(["hubot"]), false),
        (json!(["Mon"]), false),
        (json!(["Monalisa"]), false),
        (json!([format!("github:{HUBOT}")]), false),
        (json!([MONA.to_string()]), false),
        (json!(["service:Mona"]), false),
        (json!([format!("{ISSUER}/Mona")]), false),
    ] {
        put(&json!(["*"])).await;
        let tokens = world.tokens(&world.browser(), "user", LISTED).await;
        let token = text(&tokens, "access_token");
        put(&list).await;
        let request = world.verify(&format!("{LISTED}/"), token).await;
        let active = world.introspect(&rs, token).await["active"] == true;
        let refreshed = world.refresh(text(&tokens, "refresh_token"), &[]).await;
        let (code, session) = signs_in(&world).await;
        for (where_it_was_asked, got) in [
            ("at a request", request.status == StatusCode::OK),
            ("at introspection", active),
            ("at a refresh", refreshed.status == StatusCode::OK),
            ("at a client's login", code),
            ("at a browser's login", session),
        ] {
            assert_eq!(got, admitted, "{list} {where_it_was_asked}");
        }
    }
}

/// Number 28: what began like a loopback address was one.
#[tokio::test]
async fn redirects_are_parsed_and_compared_as_a_whole() {
    let world = world().await;
    let register = async |uri: &str| {
        let body = json!({ "redirect_uris": [uri], "token_endpoint_auth_method": "none" }).to_string();
        let headers = header("content-type", "application/json");
        world.request(CLIENT, Method::POST, &format!("{ISSUER}/register"), headers, body).await
    };
    for uri in [
        "http://localhost.evil.example/",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://localhost:80@evil.example/",
        "http://localhost:pass@evil.example/",
        "http://[::1].evil.example/",
        "http://localhost.:1/",
        "http://a.localhost/",
        "http://0x7f.0.0.1/",
        "http://localhost#@evil.example/",
        "http://localhost\\@evil.example/",
        "http:localhost/",
        "javascript://localhost/%0aalert(1)",
    ] {
        let answer = register(uri).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (StatusCode::BAD_REQUEST, "invalid_redirect_uri"),
            "{uri}"
        );
    }
    let metadata = json!({
        "redirect_uris": ["http://127.0.0.1/callback", "https://client.example.com/callback"],
        "token_endpoint_auth_method": "none",
    });
    world.put_client("native", metadata).await;
    let page = async |uri: &str| {
        let asked = Authorization::new("native", uri, &[("scope", "mcp"), ("resource", APP)]);
        world.browser().go(&asked.url).await
    };
    for uri in [
        "http://127.0.0.1/callback",
        "http://127.0.0.1:51234/callback",
        "https://client.example.com/callback",
    ] {
        assert_eq!(page(uri).await.status, StatusCode::OK, "{uri}");
    }
    for uri in [
        "http://127.0.0.1.evil.example/callback",
        "http://127.0.0.1:51234@evil.example/callback",
        "http://127.0.0.1:99999/callback",
        "http://127.0.0.1/callback/more",
        "http://127.0.0.1/callback?more",
        "http://127.0.0.1/Callback",
        "http://127.0.0.1/callback/../callback",
        "https://127.0.0.1/callback",
        "http://127.0.0.2/callback",
        "http://localhost/callback",
        "https://client.example.com:8443/callback",
        "https://client.example.com/callback/",
        "https://client.example.com.evil.example/callback",
        "https://CLIENT.example.com/callback",
        "http://client.example.com/callback",
    ] {
        let refused = page(uri).await;
        assert_eq!((refused.status, refused.location()), (StatusCode::BAD_REQUEST, ""), "{uri}");
    }
}

async fn at_userinfo(world: &World, token: &str) -> Answer {
    world.get_with("/userinfo", token).await
}

/// Number 29: each host was an issuer, named by the request's own headers; `iss` was compared in part, or not at all.
#[tokio::test]
async fn the_issuer_is_one_and_compared_as_a_whole() {
    let world = world().await;
    let rs = world.put_resource_server("rs").await;
    let documents = Keys::documents(&*world.store).await.expect("keys");
    let keys = Keys::load(&documents, &world.vault, world.now()).expect("readable").expect("a key");
    let token = |issuer: &str| {
        let scopes = ["openid".to_owned(), "mcp".to_owned()];
        let life = std::time::Duration::from_secs(600);
        let claims =
            Claims::new(issuer, &MONA.to_string(), "web", &[APP.to_owned()], &scopes, life, world.now())
                .expect("claims");
        keys.mint(&Claims { username: Some("Mona".to_owned()), ..claims })
    };
    let worth = async |token: &str| {
        let request = world.verify(&format!("{APP}/"), token).await.status;
        (
            request.as_u16(),
            world.introspect(&rs, token).await["active"] == true,
            at_userinfo(&world, token).await.status.as_u16(),
        )
    };
    assert_eq!(worth(&token(ISSUER)).await, (200, true, 200), "with our key, for our issuer");
    for other in [
        "https://auth.example.com/",
        "https://auth.example.com.evil.example",
        "https://evil.example/https://auth.example.com",
        "https://AUTH.example.com",
        "http://auth.example.com",
        "auth.example.com",
        APP,
        "https://app.example.com",
    ] {
        assert_eq!(worth(&token(other)).await, (401, false, 401), "{other}");
    }
    let lie = header("x-forwarded-host", "evil.example");
    let url = format!("{ISSUER}/.well-known/oauth-authorization-server");
    for headers in [HeaderMap::new(), lie] {
        let document = world.request(CLIENT, Method::GET, &url, headers, String::new()).await.json();
        assert_eq!(document["issuer"], ISSUER);
    }
    let browser: Browser<'_> = world.browser();
    let at_host = asked(&[("scope", "mcp")]);
    let code = browser.code(&at_host.url.replace(ISSUER, APP)).await;
    let tokens = world.redeem(&code, &at_host.verifier, &[]).await.json();
    assert_eq!(claims(text(&tokens, "access_token"))["iss"], ISSUER, "a host acts for the one issuer");
}
