//! What browsers let pages of other sites do here: ask for tokens and documents, and nothing that has to do with
//! somebody's session.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use serde_json::json;

use crate::world::{APP, Answer, CLIENT, ISSUER, REDIRECT, World, basic, form, header};

const ORIGIN: &str = "https://inspector.example.com";

/// What clients post to, with whether a host that acts for the issuer serves it.
const POSTED: [(&str, bool); 6] = [
    ("/token", true),
    ("/register", true),
    ("/revoke", false),
    ("/introspect", false),
    ("/device/code", false),
    ("/device/token", false),
];

/// What everybody may read.
const DOCUMENTS: [&str; 3] =
    ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/jwks"];

/// The pages, and what browsers are sent through.
const PAGES: [&str; 7] =
    ["/authorize", "/consent", "/callback", "/login", "/logout", "/device", "/.portcullis/session"];

fn from_page(more: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = header("origin", ORIGIN);
    for (name, value) in more {
        headers.insert(*name, value.parse().expect("a value"));
    }
    headers
}

/// A preflight, as a browser sends it: without credentials.
async fn preflight(world: &World, url: &str, method: &str, headers: &str) -> Answer {
    let asked = [("access-control-request-method", method), ("access-control-request-headers", headers)];
    world.request(CLIENT, Method::OPTIONS, url, from_page(&asked), String::new()).await
}

fn lists(answer: &Answer, header: &str, wanted: &str) -> bool {
    let listed = answer.header(header).to_ascii_lowercase();
    wanted.split(", ").all(|one| listed.split(", ").any(|other| other == one.to_ascii_lowercase()))
}

fn is_open(answer: &Answer, what: &str) {
    assert_eq!(answer.header("access-control-allow-origin"), "*", "{what}: {answer:?}");
    assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{what}");
}

fn is_closed(answer: &Answer, what: &str) {
    for (name, _) in &answer.headers {
        assert!(!name.as_str().starts_with("access-control-"), "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_page_may_ask_for_tokens_and_registrations() {
    let world = World::new().await;
    for (path, at_hosts) in POSTED {
        for origin in [ISSUER, APP].into_iter().take(1 + usize::from(at_hosts)) {
            let url = format!("{origin}{path}");
            let answer =
                preflight(&world, &url, "POST", "authorization, content-type, mcp-protocol-version").await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0), "{url}");
            is_open(&answer, &url);
            assert!(lists(&answer, "access-control-allow-methods", "POST"), "{url}: {answer:?}");
            let wanted = "authorization, content-type, mcp-protocol-version";
            assert!(lists(&answer, "access-control-allow-headers", wanted), "{url}: {answer:?}");
            assert!(answer.header("access-control-max-age").parse::<u64>().is_ok_and(|age| age > 0), "{url}");
        }
    }
    let managed = preflight(&world, &format!("{ISSUER}/register/dyn_x"), "DELETE", "authorization").await;
    is_open(&managed, "management");
    assert!(lists(&managed, "access-control-allow-methods", "GET, PUT, DELETE"));
    let userinfo = preflight(&world, &format!("{ISSUER}/userinfo"), "GET", "authorization").await;
    is_open(&userinfo, "userinfo");
    assert!(lists(&userinfo, "access-control-allow-methods", "GET, POST"));
}

/// Without the header a page sees no error but a failed connection.
#[tokio::test]
async fn errors_can_be_read_as_well() {
    let world = World::new().await;
    world.put_public_client().await;
    for (path, _) in POSTED {
        let url = format!("{ISSUER}{path}");
        for (method, kind, body, headers) in [
            (Method::POST, "application/x-www-form-urlencoded", "", HeaderMap::new()),
            (
                Method::POST,
                "application/x-www-form-urlencoded",
                "client_id=web&client_id=web",
                HeaderMap::new(),
            ),
            (Method::POST, "application/x-www-form-urlencoded", "%", HeaderMap::new()),
            (Method::POST, "application/json", "{", HeaderMap::new()),
            (Method::POST, "application/x-www-form-urlencoded", "grant_type=x", basic("nobody", "wrong")),
            (Method::GET, "", "", HeaderMap::new()),
            (Method::PUT, "", "", HeaderMap::new()),
        ] {
            let mut all = from_page(&[]);
            all.extend(headers);
            all.insert(CONTENT_TYPE, kind.parse().expect("a type"));
            let answer = world.request(CLIENT, method.clone(), &url, all, body.to_owned()).await;
            assert!(answer.status.is_client_error(), "{method} {path} {body}: {}", answer.status);
            is_open(&answer, path);
            if answer.status != 405 {
                assert!(
                    lists(&answer, "access-control-expose-headers", "WWW-Authenticate, Retry-After"),
                    "{path}"
                );
            }
        }
    }
    let refused = world.post_with("/token", &[("grant_type", "refresh_token")], basic("web", "x")).await;
    assert_eq!((refused.status.as_u16(), refused.header("www-authenticate").is_empty()), (401, false));
    is_open(&refused, "a refusal with a challenge");
}

#[tokio::test]
async fn a_page_may_read_the_documents_at_the_issuer_and_on_hosts() {
    let world = World::new().await;
    for path in DOCUMENTS {
        for origin in [ISSUER, APP] {
            let url = format!("{origin}{path}");
            let answer = preflight(&world, &url, "GET", "mcp-protocol-version").await;
            assert_eq!(answer.status.as_u16(), 204, "{url}");
            is_open(&answer, &url);
            assert!(lists(&answer, "access-control-allow-headers", "mcp-protocol-version"), "{answer:?}");
            assert!(lists(&answer, "access-control-allow-methods", "GET"), "{answer:?}");
            for method in [Method::GET, Method::HEAD] {
                let answer = world.request(CLIENT, method, &url, from_page(&[]), String::new()).await;
                assert_eq!(
                    (answer.status.as_u16(), answer.header("content-type")),
                    (200, "application/json")
                );
                is_open(&answer, &url);
            }
            let posted = world.request(CLIENT, Method::POST, &url, from_page(&[]), String::new()).await;
            assert_eq!(posted.status.as_u16(), 405, "{url}");
            is_open(&posted, &url);
        }
    }
    let unknown = format!("{ISSUER}/.well-known/nothing");
    let answer = world.request(CLIENT, Method::GET, &unknown, from_page(&[]), String::new()).await;
    assert_eq!(answer.status.as_u16(), 404, "clients go on to the next address");
    is_open(&answer, "an unknown document");
}

#[tokio::test]
async fn no_page_of_another_site_reads_or_posts_to_ours() {
    let world = World::new().await;
    world.put_public_client().await;
    let authorize = crate::world::Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
    let browser = world.browser();
    browser.sign_in().await;
    let session = browser.cookie("auth.example.com", "__Host-portcullis-session").expect("a session");
    let cookie = format!("__Host-portcullis-session={session}");
    for path in PAGES {
        let at = if path.starts_with("/.portcullis") { APP } else { ISSUER };
        let url = format!("{at}{path}");
        let asked = preflight(&world, &url, "POST", "content-type").await;
        assert!(!asked.status.is_success(), "{path}: {}", asked.status);
        is_closed(&asked, path);
        for method in [Method::GET, Method::POST] {
            let headers =
                from_page(&[("cookie", &cookie), ("content-type", "application/x-www-form-urlencoded")]);
            let answer = world.request(CLIENT, method.clone(), &url, headers, form(&[("a", "b")])).await;
            is_closed(&answer, &format!("{method} {path}"));
        }
    }
    let headers = from_page(&[("cookie", &cookie)]);
    let answer = world.request(CLIENT, Method::GET, &authorize.url, headers, String::new()).await;
    assert_eq!(answer.status.as_u16(), 200);
    is_closed(&answer, "the question");
    for (name, value) in
        [("x-frame-options", "DENY"), ("cache-control", "no-store"), ("referrer-policy", "no-referrer")]
    {
        assert_eq!(answer.header(name), value);
    }
    assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
}

/// No endpoint that pages of other sites may post to looks at a cookie.
#[tokio::test]
async fn a_cookie_proves_nothing_where_other_sites_may_post() {
    let world = World::new().await;
    let browser = world.browser();
    let token = browser.host_session().await;
    let session = browser.cookie("auth.example.com", "__Host-portcullis-session").expect("a session");
    let cookie = format!("__Host-portcullis-session={session}; __Host-unified_auth_token={token}");
    for (path, _) in POSTED.into_iter().filter(|(path, _)| *path != "/register") {
        let fields = [("token", token.as_str()), ("grant_type", "refresh_token")];
        let answer = world.post_with(path, &fields, from_page(&[("cookie", &cookie)])).await;
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (401, "invalid_client"), "{path}");
    }
    let url = format!("{ISSUER}/userinfo");
    let answer =
        world.request(CLIENT, Method::GET, &url, from_page(&[("cookie", &cookie)]), String::new()).await;
    assert_eq!(answer.status.as_u16(), 401);
    let body = json!({ "redirect_uris": [REDIRECT] }).to_string();
    let headers = from_page(&[("cookie", &cookie), ("content-type", "application/json")]);
    let url = format!("{ISSUER}/register");
    let answer = world.request(CLIENT, Method::POST, &url, headers, body).await;
    assert_eq!(answer.status.as_u16(), 201, "as for anybody");
    assert!(!answer.headers.contains_key("set-cookie"));
}
