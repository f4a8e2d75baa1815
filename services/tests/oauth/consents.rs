//! When users are asked whether a client may act for them, and when not again.

use std::time::Duration;

use http::StatusCode;
use portcullis_services::oauth::{Consents, Filter};
use serde_json::json;

use crate::standin::{Person, field};
use crate::world::{APP, Answer, Authorization, Browser, MONA, REDIRECT, World, claims, text};

const SECOND: &str = "https://second.example.com";

/// Two hosts for everybody, and the client `web`, which can be redirected to two hosts.
async fn world() -> World {
    let world = World::new().await;
    let metadata = json!({
        "client_name": "Web",
        "redirect_uris": [REDIRECT, "https://other.example.com/callback", "http://127.0.0.1/callback"],
        "token_endpoint_auth_method": "none",
    });
    world.put_client("web", metadata).await;
    let lists = json!({ "oauth_user_users": ["*"], "oauth_mcp_users": ["*"], "oauth_admin_users": [] });
    world.put_host("app.example.com", lists.clone()).await;
    world.put_host("second.example.com", lists).await;
    world
}

fn asked(redirect_uri: &str, more: &[(&str, &str)]) -> String {
    Authorization::new("web", redirect_uri, more).url
}

fn usual(more: &[(&str, &str)]) -> String {
    let mut fields = vec![("resource", APP)];
    fields.extend(more);
    asked(REDIRECT, &fields)
}

/// Whether an answer is the question.
fn is_question(answer: &Answer) -> bool {
    let asks = answer.status == StatusCode::OK && answer.text().contains("to act for you?");
    assert!(asks || !answer.location().is_empty(), "{} {}", answer.status, answer.text());
    asks
}

/// Whether the user of a browser is asked; if so, they agree.
async fn is_asked(browser: &Browser<'_>, url: &str) -> bool {
    let answer = browser.go(url).await;
    let asks = is_question(&answer);
    let back = browser.agree(answer).await;
    let back = browser.follow(back).await.redirected();
    assert!(!field(&back, "code").is_empty(), "{url}: {back:?}");
    asks
}

#[tokio::test]
async fn an_agreement_holds_for_a_year() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let world = world().await;
    world.stop_time();
    let both = usual(&[("scope", "mcp openid")]);
    // Who has not signed in yet is asked before that, whatever they have agreed to.
    let asks = async |url: &str| {
        let browser = world.browser();
        browser.sign_in().await;
        is_asked(&browser, url).await
    };
    assert!(asks(&both).await);
    world.advance(364 * DAY);
    assert!(!asks(&both).await);
    world.advance(DAY);
    assert!(asks(&usual(&[("scope", "mcp")])).await);
    assert!(!asks(&usual(&[("scope", "mcp")])).await);
    assert!(asks(&both).await, "nothing of what has ended is agreed to again by that");
}

#[tokio::test]
async fn what_a_user_has_agreed_to_is_not_asked_again_and_what_is_new_is() {
    let world = world().await;
    let browser = world.browser();
    for (scope, asks) in [
        ("mcp", true),
        ("mcp", false),
        ("mcp user", true),
        ("mcp user", false),
        ("user", false),
        ("mcp openid", true),
        ("mcp user openid", false),
    ] {
        assert_eq!(is_asked(&browser, &usual(&[("scope", scope)])).await, asks, "{scope}");
    }
    // Agreed is for this user, client, resource and redirect host.
    let elsewhere = [("scope", "mcp"), ("resource", SECOND)];
    assert!(is_asked(&browser, &asked(REDIRECT, &elsewhere)).await, "another resource");
    assert!(!is_asked(&browser, &asked(REDIRECT, &elsewhere)).await);
    let both = [("scope", "mcp"), ("resource", APP), ("resource", SECOND)];
    assert!(!is_asked(&browser, &asked(REDIRECT, &both)).await, "both were agreed to");
    let more = [("scope", "user"), ("resource", APP), ("resource", SECOND)];
    assert!(is_asked(&browser, &asked(REDIRECT, &more)).await, "at one of them this is new");
    let other = "https://other.example.com/callback";
    let page = browser.go(&asked(other, &[("scope", "mcp"), ("resource", APP)])).await;
    assert!(is_question(&page) && page.text().contains("other.example.com"), "another redirect host");

    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_client("web2", metadata).await;
    let same = Authorization::new("web2", REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
    assert!(is_question(&browser.go(&same.url).await), "another client, whatever it is called");
    world.github.person(Person::SignedIn("hubot".to_owned()));
    let stranger = world.browser();
    stranger.sign_in().await;
    assert!(is_question(&stranger.go(&usual(&[("scope", "mcp")])).await), "another user");
}

/// Before anybody has signed in nobody knows who has agreed: the page comes before GitHub's.
#[tokio::test]
async fn without_a_session_the_question_comes_before_github() {
    let world = world().await;
    assert!(is_asked(&world.browser(), &usual(&[("scope", "mcp")])).await);
    let before = world.github.requests().len();
    let page = world.browser().go(&usual(&[("scope", "mcp")])).await;
    assert!(is_question(&page));
    assert_eq!(world.github.requests().len(), before, "GitHub would send on who has signed in there");
}

#[tokio::test]
async fn a_step_up_shows_what_is_new() {
    let world = world().await;
    let browser = world.browser();
    assert!(is_asked(&browser, &usual(&[("scope", "mcp")])).await);
    let page = browser.go(&usual(&[("scope", "mcp user")])).await;
    assert!(is_question(&page));
    let shown = page.text();
    let (new, before) = shown.split_once("What you have allowed before").expect("both are shown");
    assert!(new.contains("<code>user</code>") && !new.contains("<code>mcp</code>"), "{new}");
    assert!(before.contains("<code>mcp</code>") && !before.contains("<code>user</code>"), "{before}");
    // Refused: what was agreed to before is still agreed to, and the new is still new.
    let refused = browser.submit(&page, "https://auth.example.com/consent", &[("decision", "deny")]).await;
    assert_eq!(refused.redirected_error(), "access_denied");
    assert!(!is_asked(&browser, &usual(&[("scope", "mcp")])).await);
    assert!(is_question(&browser.go(&usual(&[("scope", "mcp user")])).await));
}

#[tokio::test]
async fn a_consent_that_was_withdrawn_is_asked_for_again() {
    let world = world().await;
    let browser = world.browser();
    let consents = Consents::new(world.store.clone());
    let subject = MONA.to_string();
    for (what, filter) in
        [("of the user", Filter::Subject(&subject)), ("of the client", Filter::Client("web"))]
    {
        assert!(is_asked(&browser, &usual(&[("scope", "mcp")])).await, "{what}");
        assert!(!is_asked(&browser, &usual(&[("scope", "mcp")])).await, "{what}");
        assert_eq!(consents.forget_all(filter).await.expect("forgotten"), 1, "{what}");
    }
    assert!(is_asked(&browser, &usual(&[("scope", "mcp")])).await);
    assert_eq!(consents.forget_client(&subject, "web").await.expect("forgotten"), 1);
    let page = browser.go(&usual(&[("scope", "mcp")])).await;
    assert!(is_question(&page));
    let silent = browser.go(&usual(&[("scope", "mcp"), ("prompt", "none")])).await;
    assert_eq!(silent.redirected_error(), "consent_required");
}

#[tokio::test]
async fn a_client_may_want_the_question_or_no_page_at_all() {
    let world = world().await;
    let browser = world.browser();
    let silent = usual(&[("scope", "mcp"), ("prompt", "none")]);
    assert_eq!(browser.go(&silent).await.redirected_error(), "login_required");
    browser.sign_in().await;
    assert_eq!(browser.go(&silent).await.redirected_error(), "consent_required");
    assert!(is_asked(&browser, &usual(&[("scope", "mcp")])).await);
    assert!(!is_asked(&browser, &silent).await);
    assert!(
        is_asked(&browser, &usual(&[("scope", "mcp"), ("prompt", "consent")])).await,
        "asked all the same"
    );
    let both = browser.go(&usual(&[("scope", "mcp"), ("prompt", "none consent")])).await;
    assert_eq!(both.redirected_error(), "invalid_request");
}

#[tokio::test]
async fn a_part_of_the_deployment_asks_nobody() {
    let world = world().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_party("own", metadata, true).await;
    let asked = Authorization::new("own", REDIRECT, &[("scope", "mcp user"), ("resource", APP)]);
    let browser = world.browser();
    for session in ["none", "one"] {
        let back = browser.go(&asked.url).await;
        assert!(back.location().starts_with(REDIRECT), "session: {session}: {}", back.text());
        let told = back.redirected();
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", "own"),
            ("code", field(&told, "code")),
            ("code_verifier", &asked.verifier),
        ];
        let tokens = world.post("/token", &fields).await.json();
        assert_eq!(claims(text(&tokens, "access_token"))["scope"], "mcp user");
    }
    // The lists are asked all the same.
    world.put_host("app.example.com", json!({ "auth_required_users": ["somebody"] })).await;
    assert_eq!(browser.go(&asked.url).await.redirected_error(), "access_denied");
    assert_eq!(world.browser().go(&asked.url).await.redirected_error(), "access_denied");
}

/// RFC 8252, section 8.6: whichever program listens on the user's machine, or has taken the scheme there, gets the
/// code; that the id is a good one says nothing about it.
#[tokio::test]
async fn on_the_users_machine_a_part_of_the_deployment_asks_each_time_too() {
    let world = world().await;
    let metadata = json!({
        "redirect_uris": ["http://127.0.0.1/callback", "http://[::1]/callback", "com.example.app:/callback"],
        "token_endpoint_auth_method": "none",
    });
    world.put_party("own", metadata, true).await;
    let browser = world.browser();
    for (client, redirect_uri) in [
        ("own", "http://127.0.0.1:51234/callback"),
        ("own", "http://[::1]:51234/callback"),
        ("own", "com.example.app:/callback"),
        ("portcullis-cli", "http://127.0.0.1:51234/callback"),
        ("portcullis-cli", "http://localhost:51234/callback"),
        ("device_flow_client", "http://127.0.0.1:1/callback"),
        ("web", "http://127.0.0.1:51234/callback"),
    ] {
        let asked = Authorization::new(client, redirect_uri, &[("scope", "mcp"), ("resource", APP)]);
        for turn in 1..=2 {
            let page = browser.go(&asked.url).await;
            assert!(is_question(&page), "{client} {redirect_uri}, turn {turn}");
            assert!(page.text().contains("Take care."), "{client} {redirect_uri}: {}", page.text());
            let back = browser.agree(page).await;
            let back = browser.follow(back).await;
            assert!(back.location().starts_with(redirect_uri), "{back:?}");
        }
        let silent = [("scope", "mcp"), ("resource", APP), ("prompt", "none")];
        let silent = browser.go(&Authorization::new(client, redirect_uri, &silent).url).await;
        assert_eq!(field(&silent.redirected(), "error"), "consent_required", "{client} {redirect_uri}");
    }
}
