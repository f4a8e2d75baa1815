//! Whose app at GitHub people sign in through: that of the resource's host, whatever a request says beside.

use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use crate::standin::{field, pairs};
use crate::world::{
    APP, APP_ID, Answer, Authorization, Browser, CLIENT, ISSUER, REDIRECT, World, claims, form, text,
};

const ONE: &str = "https://one.example.com";
const TWO: &str = "https://two.example.com";
const SESSION: &str = "__Host-portcullis-session";

/// Two hosts with apps of their own, and one that has none.
async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    let first_party = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_party("own", first_party, true).await;
    let lists = json!({ "oauth_mcp_users": ["Mona"] });
    world.put_app("one.example.com", "Iv1.one", lists.clone()).await;
    world.put_app("two.example.com", "Iv1.two", lists).await;
    world
}

/// A request of the client `own`, whose users nobody asks: they are at GitHub at once.
fn asked(more: &[(&str, &str)]) -> Authorization {
    let mut fields = vec![("scope", "mcp")];
    fields.extend(more);
    Authorization::new("own", REDIRECT, &fields)
}

/// The app that a URL at GitHub is for.
fn app_of(url: &str) -> String {
    let (_, query) = url.split_once('?').expect("a query");
    field(&pairs(query), "client_id").to_owned()
}

fn login(host: &str, more: &str) -> String {
    let fields = form(&[("return_url", &format!("{host}/page")), ("state", &"s".repeat(43))]);
    format!("{ISSUER}/login?{fields}{more}")
}

fn has_session(browser: &Browser<'_>) -> bool {
    browser.cookie("auth.example.com", SESSION).is_some()
}

/// Neither a code nor a session came of a login.
fn came_to_nothing(browser: &Browser<'_>, back: &Answer) {
    assert!(back.location().starts_with(REDIRECT), "the client is told: {back:?}");
    let told = back.redirected();
    assert_eq!((field(&told, "code"), field(&told, "iss")), ("", ISSUER));
    assert!(!field(&told, "error").is_empty(), "{told:?}");
    assert!(!has_session(browser));
}

#[tokio::test]
async fn each_host_signs_its_people_in_through_its_own_app() {
    let world = world().await;
    for (host, app) in [(ONE, "Iv1.one"), (TWO, "Iv1.two"), (APP, APP_ID)] {
        let request = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", host)]);
        assert_eq!(app_of(&world.browser().to_github(&request.url).await), app);
        assert_eq!(app_of(&world.browser().to_github(&login(host, "")).await), app);

        let tokens = world.tokens(&world.browser(), "mcp", host).await;
        let said = claims(text(&tokens, "access_token"));
        assert_eq!((&said["aud"], &said["username"]), (&json!([host]), &json!("Mona")));
    }
    let redeemed = world.github.requests();
    let redeemed = redeemed.iter().filter(|seen| seen.uri.path() == "/login/oauth/access_token").count();
    assert_eq!(redeemed, 3);
    assert_eq!(world.github.tokens(), [""; 0], "each app has ended its token");
}

#[tokio::test]
async fn of_two_resources_the_first_ones_app_is_asked() {
    let world = world().await;
    for (resources, app) in
        [([ONE, TWO], "Iv1.one"), ([TWO, ONE], "Iv1.two"), ([APP, ONE], APP_ID), ([ISSUER, TWO], "Iv1.two")]
    {
        let request = asked(&[("resource", resources[0]), ("resource", resources[1])]);
        assert_eq!(app_of(&world.browser().to_github(&request.url).await), app, "{resources:?}");
    }
}

/// Catalogue 14.2, number 24.
#[tokio::test]
async fn nothing_that_a_request_says_beside_its_resource_chooses_the_app() {
    let world = world().await;
    let says = [
        ("proxy_hostname", "two.example.com"),
        ("hostname", "two.example.com"),
        ("host", "two.example.com"),
        ("proxy", "two.example.com"),
        ("github_client_id", "Iv1.two"),
        ("app", "Iv1.two"),
        ("login_hint", "two.example.com"),
        ("audience", TWO),
    ];
    let mut headers = HeaderMap::new();
    for name in ["host", "x-forwarded-host", "x-original-host", "x-forwarded-server"] {
        headers.insert(name, "two.example.com".parse().expect("a value"));
    }
    headers.insert("forwarded", "host=two.example.com".parse().expect("a value"));
    headers.insert("referer", "https://two.example.com/".parse().expect("a value"));
    for (name, value) in says {
        let request = asked(&[("resource", ONE), (name, value)]);
        let browser_login = login(ONE, &format!("&{}", form(&[(name, value)])));
        for url in [&request.url, &browser_login] {
            let answer = world.request(CLIENT, Method::GET, url, headers.clone(), String::new()).await;
            assert_eq!(answer.status, StatusCode::SEE_OTHER, "{url}: {}", answer.text());
            assert_eq!(app_of(answer.location()), "Iv1.one", "{url}");
        }
    }
}

#[tokio::test]
async fn an_app_that_was_changed_meanwhile_takes_no_code() {
    let world = world().await;
    let lists = json!({ "oauth_mcp_users": ["Mona"] });
    // Another app, and none of its own any more: the deployment's app stands in then.
    for own in [Some("Iv1.other"), None] {
        world.put_app("one.example.com", "Iv1.one", lists.clone()).await;
        let browser = world.browser();
        let at_github = browser.to_github(&asked(&[("resource", ONE)]).url).await;
        let back = world.at_github(&at_github).await;
        match own {
            Some(id) => world.put_app("one.example.com", id, lists.clone()).await,
            None => world.put_host("one.example.com", lists.clone()).await,
        }
        let answer = browser.send(Method::GET, back.location(), None).await;
        came_to_nothing(&browser, &answer);
        assert_eq!(answer.redirected_error(), "server_error");
        let again = browser.send(Method::GET, back.location(), None).await;
        assert_eq!(again.status, StatusCode::BAD_REQUEST, "a login ends once");
    }
    assert_eq!(world.github.tokens(), [""; 0], "the code was not even redeemed");
}

#[tokio::test]
async fn a_login_through_one_app_takes_no_code_of_another() {
    let world = world().await;
    let browser = world.browser();
    let mut backs = Vec::new();
    for host in [ONE, TWO] {
        let at_github = browser.to_github(&asked(&[("resource", host)]).url).await;
        let back = world.at_github(&at_github).await.location().to_owned();
        backs.push(pairs(back.split_once('?').expect("a query").1));
    }
    let callback =
        |code: &str, state: &str| format!("{ISSUER}/callback?{}", form(&[("code", code), ("state", state)]));
    let (first, second) = (&backs[0], &backs[1]);
    for (code, state) in [(first, second), (second, first)] {
        let mixed = callback(field(code, "code"), field(state, "state"));
        came_to_nothing(&browser, &browser.send(Method::GET, &mixed, None).await);
    }
    for own in [first, second] {
        let late = callback(field(own, "code"), field(own, "state"));
        let answer = browser.send(Method::GET, &late, None).await;
        assert_eq!((answer.status, answer.location()), (StatusCode::BAD_REQUEST, ""), "both are used up");
    }
    assert!(!has_session(&browser));
}

#[tokio::test]
async fn a_host_whose_app_is_broken_borrows_no_other() {
    let world = world().await;
    // The id of an app whose secret nobody has entered.
    let broken = json!({ "github_client_id": "Iv1.new", "oauth_mcp_users": ["Mona"] });
    world.put_host("one.example.com", broken).await;
    let browser = world.browser();
    let answer = browser.go(&asked(&[("resource", ONE)]).url).await;
    assert_eq!(answer.redirected_error(), "server_error");
    let page = browser.go(&login(ONE, "")).await;
    assert_eq!((page.status, page.location()), (StatusCode::INTERNAL_SERVER_ERROR, ""));
    assert!(world.github.requests().is_empty());
}
