//! Resource indicators (RFC 8707): what a token is for, at the authorization endpoint and at the token endpoint.

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::standin::field;
use crate::world::{
    APP, Answer, Authorization, Browser, CLIENT, CLOSED, ISSUER, REDIRECT, World, claims, header, text,
};

const SECOND: &str = "https://second.example.com";
const THIRD: &str = "https://third.example.com";

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    let lists = json!({ "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"], "oauth_admin_users": [] });
    for host in ["app.example.com", "second.example.com", "third.example.com"] {
        world.put_host(host, lists.clone()).await;
    }
    world
}

fn asked(resources: &[&str]) -> Authorization {
    let mut fields = vec![("scope", "mcp user")];
    fields.extend(resources.iter().map(|resource| ("resource", *resource)));
    Authorization::new("web", REDIRECT, &fields)
}

fn named<'a>(resources: &[&'a str]) -> Vec<(&'static str, &'a str)> {
    resources.iter().map(|resource| ("resource", *resource)).collect()
}

fn audience(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    claims(text(&answer.json(), "access_token"))["aud"].clone()
}

fn fails(answer: &Answer, error: &str) {
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (StatusCode::BAD_REQUEST, error),
        "{}",
        answer.text()
    );
}

/// A browser, and a code of it for these resources.
async fn code(browser: &Browser<'_>, resources: &[&str]) -> (String, String) {
    let asked = asked(resources);
    (browser.code(&asked.url).await, asked.verifier)
}

/// Catalogue 14.2, number 25.
#[tokio::test]
async fn a_request_that_names_nothing_is_for_what_it_implies() {
    let world = world().await;
    let browser = world.browser();
    // At the issuer: there is no API of the gateway here that needs a token, and nothing else is implied.
    let none = browser.go(&asked(&[]).url).await;
    assert_eq!(none.redirected_error(), "invalid_target");
    let identity = Authorization::new("web", REDIRECT, &[("scope", "openid")]);
    let code = browser.code(&identity.url).await;
    assert_eq!(audience(&world.redeem(&code, &identity.verifier, &[]).await), json!([ISSUER]));

    world.put_host("localhost", json!({ "target_url": "builtin:api", "oauth_user_users": ["Mona"] })).await;
    let request = asked(&[]);
    let code = browser.code(&request.url).await;
    assert_eq!(audience(&world.redeem(&code, &request.verifier, &[]).await), json!(["https://localhost"]));
}

/// Clients of older versions of MCP take the host itself for the authorization server.
#[tokio::test]
async fn at_a_host_the_host_is_implied_and_what_is_named_stays() {
    let world = world().await;
    for (resources, expected) in
        [(&[][..], json!([SECOND])), (&[APP], json!([APP])), (&[APP, SECOND], json!([APP, SECOND]))]
    {
        let request = asked(resources);
        let at_host = request.url.replace(ISSUER, SECOND);
        let sent_on = world.request(CLIENT, Method::GET, &at_host, HeaderMap::new(), String::new()).await;
        assert_eq!(sent_on.status, StatusCode::SEE_OTHER);
        assert!(sent_on.location().starts_with(&format!("{ISSUER}/authorize?")), "{}", sent_on.location());
        let code = world.browser().code(&at_host).await;
        assert_eq!(audience(&world.redeem(&code, &request.verifier, &[]).await), expected);
    }
    let (_, query) = asked(&[])
        .url
        .split_once('?')
        .map(|(path, query)| (path.to_owned(), query.to_owned()))
        .expect("a query");
    let form = header("content-type", "application/x-www-form-urlencoded");
    let posted = world.request(CLIENT, Method::POST, &format!("{SECOND}/authorize"), form, query).await;
    assert_eq!((posted.status, posted.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
}

#[tokio::test]
async fn resources_are_compared_as_uris_and_come_back_in_our_spelling() {
    let world = world().await;
    let browser = world.browser();
    for spelt in [
        "https://app.example.com",
        "https://app.example.com/",
        "HTTPS://App.Example.COM",
        "https://app.example.com:443/",
        "https://app.example.com:",
    ] {
        let (code, verifier) = code(&browser, &[spelt]).await;
        assert_eq!(
            audience(&world.redeem(&code, &verifier, &named(&[spelt])).await),
            json!([APP]),
            "{spelt}"
        );
    }
    let (code, verifier) = code(&browser, &[APP, "https://APP.example.com/", SECOND]).await;
    assert_eq!(audience(&world.redeem(&code, &verifier, &[]).await), json!([APP, SECOND]), "each once");
    for wrong in [
        "https://app.example.com/#fragment",
        "https://app.example.com/#",
        "https://app.example.com/mcp",
        "https://app.example.com//",
        "https://app.example.com/?x=y",
        "https://app.example.com:8443",
        "http://app.example.com",
        "https://user@app.example.com",
        "https://app.example.com.evil.example",
        "https://nowhere.example.com",
        "app.example.com",
        "/",
        "urn:app",
        "https://app.example.com/ ",
    ] {
        for resources in [&[wrong][..], &[APP, wrong]] {
            let refused = browser.go(&asked(resources).url).await;
            assert_eq!(refused.redirected_error(), "invalid_target", "{resources:?}");
        }
    }
    let many: Vec<String> = (0..6).map(|nth| format!("https://h{nth}.example.com")).collect();
    for host in &many {
        world.put_host(host.trim_start_matches("https://"), json!({ "oauth_mcp_users": ["Mona"] })).await;
    }
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(browser.go(&asked(&many).url).await.redirected_error(), "invalid_target", "too many");
    assert_ne!(browser.go(&asked(&many[1..]).url).await.status, StatusCode::SEE_OTHER, "five are not");
}

/// RFC 8707, section 2.2: at the token endpoint fewer, never others.
#[tokio::test]
async fn a_code_for_two_resources_gives_a_token_for_one_or_both() {
    let world = world().await;
    let browser = world.browser();
    for (resources, expected) in [
        (&[][..], json!([APP, SECOND])),
        (&[APP], json!([APP])),
        (&[SECOND], json!([SECOND])),
        (&["https://SECOND.example.com:443/"], json!([SECOND])),
        (&[SECOND, APP], json!([SECOND, APP])),
    ] {
        let (code, verifier) = code(&browser, &[APP, SECOND]).await;
        let answer = world.redeem(&code, &verifier, &named(resources)).await;
        assert_eq!(audience(&answer), expected, "{resources:?}");
    }
    let (code, verifier) = code(&browser, &[APP, SECOND]).await;
    for wider in
        [&[THIRD][..], &[APP, THIRD], &[APP, SECOND, THIRD], &["nonsense"], &["https://app.example.com/#x"]]
    {
        fails(&world.redeem(&code, &verifier, &named(wider)).await, "invalid_target");
    }
    let answer = world.redeem(&code, &verifier, &named(&[APP])).await;
    assert_eq!(audience(&answer), json!([APP]), "what was refused has not used it up");
}

#[tokio::test]
async fn a_refresh_may_be_for_one_resource_and_the_next_for_all_again() {
    let world = world().await;
    let browser = world.browser();
    let (code, verifier) = code(&browser, &[APP, SECOND]).await;
    let mut tokens = world.redeem(&code, &verifier, &named(&[APP])).await.json();
    for (resources, expected) in [
        (&[SECOND][..], json!([SECOND])),
        (&[APP], json!([APP])),
        (&[], json!([APP, SECOND])),
        (&["HTTPS://second.example.com/"], json!([SECOND])),
        (&[APP, SECOND], json!([APP, SECOND])),
    ] {
        let answer = world.refresh(text(&tokens, "refresh_token"), &named(resources)).await;
        assert_eq!(audience(&answer), expected, "{resources:?}");
        tokens = answer.json();
    }
    let token = text(&tokens, "refresh_token");
    for wider in [&[THIRD][..], &[APP, THIRD], &[ISSUER], &["nonsense"]] {
        fails(&world.refresh(token, &named(wider)).await, "invalid_target");
    }
    assert_eq!(world.refresh(token, &[]).await.status, StatusCode::OK, "nothing was rotated by what failed");
}

/// Catalogue 14.2, number 24: a right at one host is none at the other.
#[tokio::test]
async fn a_token_for_two_hosts_is_worth_at_each_what_that_host_gives() {
    let world = world().await;
    let lists = |user: &[&str], mcp: &[&str]| {
        json!({
            "auth_required_users": ["Mona"], "oauth_admin_users": [],
            "oauth_user_users": user, "oauth_mcp_users": mcp,
            "auth_scope_rules": [
                { "path": "/user", "scopes": ["user"] },
                { "path": "/mcp", "scopes": ["mcp"] },
            ],
        })
    };
    world.put_host("app.example.com", lists(&["Mona"], &[])).await;
    world.put_host("second.example.com", lists(&[], &["Mona"])).await;
    let (code, verifier) = code(&world.browser(), &[APP, SECOND]).await;
    let tokens = world.redeem(&code, &verifier, &[]).await.json();
    assert_eq!(tokens["scope"], "mcp user", "each is given somewhere");
    let token = text(&tokens, "access_token");
    for (url, status) in [
        ("https://app.example.com/user", 200),
        ("https://app.example.com/mcp", 403),
        ("https://second.example.com/user", 403),
        ("https://second.example.com/mcp", 200),
        ("https://third.example.com/", 401),
    ] {
        let answer = world.verify(url, token).await;
        assert_eq!(answer.status.as_u16(), status, "{url}: {}", answer.text());
    }
    let told = world.verify("https://app.example.com/", token).await;
    assert_eq!(told.header("x-auth-scopes"), "user", "the upstream hears of no other right");
}

#[tokio::test]
async fn a_resource_whose_list_is_closed_makes_the_whole_request_fail() {
    let world = world().await;
    let browser = world.browser();
    let page = browser.go(&asked(&[APP, CLOSED]).url).await;
    let back = browser.agree(page).await;
    let back = browser.follow(back).await;
    assert_eq!(back.redirected_error(), "access_denied");
    assert!(field(&back.redirected(), "error_description").contains(CLOSED), "it says which one");
}

/// An administrator may name further resources on a host; they are others than the host.
#[tokio::test]
async fn a_second_resource_on_a_host_is_one_of_its_own() {
    let world = world().await;
    let lists = json!({
        "oauth_mcp_users": ["Mona"],
        "auth_allowed_audiences": ["https://app.example.com/legacy", "urn:legacy"],
    });
    world.put_host("app.example.com", lists).await;
    let request = Authorization::new(
        "web",
        REDIRECT,
        &[("scope", "mcp"), ("resource", "https://APP.example.com/legacy/")],
    );
    let code = world.browser().code(&request.url).await;
    let answer = world.redeem(&code, &request.verifier, &[]).await;
    assert_eq!(audience(&answer), json!(["https://app.example.com/legacy"]));
    let urn = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", "urn:legacy")]);
    assert_eq!(
        world.browser().go(&urn.url).await.redirected_error(),
        "invalid_target",
        "no host can be found by it"
    );
}
