//! Browsers at a host that sends them to sign in.

use serde_json::{Value, json};

use crate::site::{APP, HUBOT, ISSUER, MONA, Site};
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::upstream::Upstream;

/// The cookie of a host's session, unless the host names another.
const SESSION: &str = "__Host-unified_auth_token";

/// What a navigation sends (Fetch metadata).
const NAVIGATION: &[(&str, &str)] = &[
    ("accept", "text/html,application/xhtml+xml"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
];

#[tokio::test]
async fn a_browser_is_sent_to_sign_in_and_comes_back_to_where_it_was_going() {
    let site = Site::start().await;
    let upstream = Upstream::start("app").await;
    site.app(&upstream.url()).await;
    let browser = Browser::start().await;
    let wanted = site.url(APP, "/deep/page?q=a%20b&r=1");
    assert_eq!(browser.sign_in(&wanted, MONA).await, wanted);

    let seen: Value = serde_json::from_str(&browser.text().await).unwrap();
    let headers: Vec<_> = seen["headers"].as_array().unwrap().iter().collect();
    let value =
        |name: &str| headers.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap());
    assert_eq!(value("x-auth-user"), Some(MONA));
    assert_eq!(value("cookie"), None, "the session is not for the upstream");
    let cookies = browser.cookies().await;
    assert!(cookies.contains(&SESSION.to_owned()), "{cookies:?}");
    assert!(cookies.iter().all(|name| name.starts_with("__Host-")), "{cookies:?}");

    // The next page needs nobody.
    let asked = site.github.requests().len();
    let next = site.url(APP, "/next");
    browser.open(&next).await;
    assert_eq!(browser.url().await, next);
    assert_eq!(site.github.requests().len(), asked);
}

#[tokio::test]
async fn programs_are_told_401_where_browsers_are_sent_to_sign_in() {
    let site = Site::start().await;
    let upstream = Upstream::start("app").await;
    site.app(&upstream.url()).await;
    let sent = site.ask(APP, "/page", NAVIGATION).await;
    assert_eq!(sent.status, 302);
    assert!(sent.header("location").starts_with(&site.url(ISSUER, "/login?")));
    for headers in [
        &[("accept", "application/json")][..],
        &[("accept", "*/*")],
        &[("accept", "text/html"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
        &[("accept", "text/html"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
    ] {
        let answer = site.ask(APP, "/page", headers).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{headers:?}");
    }
}

#[tokio::test]
async fn who_is_on_no_list_of_the_host_is_told_so_and_may_sign_out_to_come_back_as_another() {
    let site = Site::start().await;
    let upstream = Upstream::start("app").await;
    site.app(&upstream.url()).await;
    // Who may use nothing at all gets no session to sign out of.
    let other = json!({ "auth_enabled": true, "oauth_user_users": [HUBOT] });
    site.daemon.host("other.example.test", &upstream.url(), other).await;
    let browser = Browser::start().await;
    let end = browser.sign_in(&site.url(APP, "/"), HUBOT).await;
    let text = browser.text().await;
    assert!(text.contains("access_denied"), "{end}:\n{text}");
    assert!(!browser.cookies().await.contains(&SESSION.to_owned()));
    browser.look("not-on-the-list").await;

    // Whoever has another account gets on with that one.
    browser.click("a[href$='/logout']").await;
    browser.click("form button[type=submit]").await;
    let wanted = site.url(APP, "/");
    assert_eq!(browser.sign_in(&wanted, MONA).await, wanted);
}

#[tokio::test]
async fn who_signs_out_at_the_issuer_is_signed_out_at_the_hosts() {
    let site = Site::start().await;
    let upstream = Upstream::start("app").await;
    site.app(&upstream.url()).await;
    let browser = Browser::start().await;
    let wanted = site.url(APP, "/");
    assert_eq!(browser.sign_in(&wanted, MONA).await, wanted);
    browser.open(&site.url(ISSUER, "/logout")).await;
    browser.look("logout").await;
    browser.click("form button[type=submit]").await;
    browser.look("signed-out").await;
    eventually("nobody is signed in", async || {
        browser.open(&wanted).await;
        browser.url().await.starts_with(&site.github.url()).then_some(())
    })
    .await;
}
