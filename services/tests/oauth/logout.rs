//! The end of a session, and what ends with it.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::register::register;
use crate::standin::Person;
use crate::world::{APP, Answer, Browser, ISSUER, REDIRECT, World, claims, form, text};

const BYE: &str = "https://client.example.com/bye?from=here";
const SESSION: &str = "__Host-portcullis-session";

async fn world() -> World {
    let world = World::new().await;
    let metadata = json!({
        "client_name": "Web",
        "redirect_uris": [REDIRECT],
        "post_logout_redirect_uris": [BYE],
        "token_endpoint_auth_method": "none",
    });
    world.put_client("web", metadata).await;
    world
}

fn url(fields: &[(&str, &str)]) -> String {
    format!("{ISSUER}/logout?{}", form(fields))
}

fn is_signed_in(browser: &Browser<'_>) -> bool {
    browser.cookie("auth.example.com", SESSION).is_some()
}

fn is_revoked(world: &World, token: &str) -> bool {
    let said = claims(token);
    let exp = said["exp"].as_u64().expect("a time");
    world.revocations.revoked().contains(said["jti"].as_str(), exp)
}

async fn refresh(world: &World, tokens: &Value) -> Answer {
    let token = text(tokens, "refresh_token");
    let fields = [("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", token)];
    world.post("/token", &fields).await
}

#[tokio::test]
async fn a_client_ends_the_session_of_its_user_and_those_on_hosts() {
    let world = world().await;
    let browser = world.browser();
    let tokens = world.tokens(&browser, "openid", APP).await;
    let cookie = browser.host_session().await;
    assert!(!is_revoked(&world, &cookie));

    let hint = ("id_token_hint", text(&tokens, "id_token"));
    let fields = [hint, ("post_logout_redirect_uri", BYE), ("state", "a b&c")];
    let answer = browser.go(&url(&fields)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text());
    assert_eq!(answer.location(), format!("{BYE}&state=a%20b%26c"));
    assert!(!is_signed_in(&browser));
    assert!(is_revoked(&world, &cookie), "the browser's session on the host has ended");
    assert!(!is_revoked(&world, text(&tokens, "access_token")), "the client's access has not");
    assert_eq!(refresh(&world, &tokens).await.status, StatusCode::OK);

    let again = browser.go(&url(&fields)).await;
    assert_eq!(again.location(), format!("{BYE}&state=a%20b%26c"), "there was nothing left to end");
}

#[tokio::test]
async fn without_a_hint_that_fits_the_user_is_asked() {
    let world = world().await;
    world.put_host("open.example.com", json!({ "oauth_user_users": ["*"] })).await;
    world.github.person(Person::SignedIn("hubot".to_owned()));
    let tokens = world.tokens(&world.browser(), "openid", "https://open.example.com").await;
    world.github.person(Person::SignedIn("Mona".to_owned()));
    let browser = world.browser();
    let others = [("id_token_hint", text(&tokens, "id_token"))];
    let named = [("client_id", "web"), ("post_logout_redirect_uri", BYE), ("state", "s")];
    for fields in [&[][..], &others, &named] {
        browser.sign_in().await;
        let page = browser.go(&url(fields)).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.text().contains("Sign out?") && page.text().contains("Mona"), "{}", page.text());
        assert!(is_signed_in(&browser), "nothing has ended yet");
        let forged =
            browser.send(Method::POST, &format!("{ISSUER}/logout"), Some(&[("form_token", "x")])).await;
        assert_eq!(forged.status, StatusCode::BAD_REQUEST);
        assert!(is_signed_in(&browser));
        let done = browser.submit(&page, &format!("{ISSUER}/logout"), &[]).await;
        assert!(!is_signed_in(&browser));
        if fields.len() == named.len() {
            assert_eq!(done.location(), format!("{BYE}&state=s"));
        } else {
            assert!(done.text().contains("You are signed out"), "{}", done.text());
        }
    }
}

#[tokio::test]
async fn nobody_is_sent_where_the_client_has_not_registered() {
    let world = world().await;
    let browser = world.browser();
    let tokens = world.tokens(&browser, "openid", APP).await;
    let id_token = text(&tokens, "id_token");
    let to = |uri| ("post_logout_redirect_uri", uri);
    let hint = ("id_token_hint", id_token);
    for fields in [
        vec![hint, to("https://evil.example.com/")],
        vec![hint, to("https://client.example.com/bye")],
        vec![hint, to(REDIRECT)],
        vec![to(BYE)],
        vec![("client_id", "nobody"), to(BYE)],
        vec![("client_id", "portcullis-cli"), hint],
        vec![("id_token_hint", text(&tokens, "access_token"))],
        vec![("id_token_hint", "x.y.z")],
        vec![hint, ("state", "a\nb")],
        vec![hint, hint],
    ] {
        let answer = browser.go(&url(&fields)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{fields:?}: {}", answer.text());
        assert_eq!(answer.location(), "");
        assert!(is_signed_in(&browser), "{fields:?}");
    }
}

#[tokio::test]
async fn a_form_of_another_site_comes_back_as_a_link() {
    let world = world().await;
    let browser = world.browser();
    let tokens = world.tokens(&browser, "openid", APP).await;
    let fields = [("id_token_hint", text(&tokens, "id_token"))];
    // Browsers keep the cookie from a form of another site.
    let stranger = world.browser();
    let answer = stranger.send(Method::POST, &format!("{ISSUER}/logout"), Some(&fields)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(!answer.headers.contains_key("set-cookie"), "the browser may have a session all the same");
    let done = browser.go(answer.location()).await;
    assert!(done.text().contains("You are signed out"));
    assert!(!is_signed_in(&browser));
}

#[tokio::test]
async fn who_signs_in_after_somebody_else_leaves_no_session_behind() {
    let world = world().await;
    world.put_host("shared.example.com", json!({ "oauth_user_users": ["hubot"] })).await;
    let browser = world.browser();
    browser.sign_in().await;
    let cookie = browser.host_session().await;
    let before = browser.cookie("auth.example.com", SESSION);
    let asked = crate::world::Authorization::new(
        "web",
        REDIRECT,
        &[("scope", "openid"), ("resource", "https://shared.example.com"), ("prompt", "login")],
    );
    world.github.person(Person::SignedIn("hubot".to_owned()));
    browser.code(&asked.url).await;
    assert_ne!(browser.cookie("auth.example.com", SESSION), before);
    assert!(is_revoked(&world, &cookie), "what came of the session before has ended with it");
}

#[tokio::test]
async fn a_link_with_a_strangers_token_leads_nowhere() {
    let world = World::new().await;
    let body = json!({
        "redirect_uris": [REDIRECT],
        "post_logout_redirect_uris": ["https://evil.example.com/"],
        "token_endpoint_auth_method": "none",
    });
    let registered = register(&world, body).await.json();
    let client = text(&registered, "client_id");
    let own = world.browser();
    let tokens = world.tokens_of(&own, client, "", &[("scope", "openid"), ("resource", APP)]).await;
    let link = url(&[
        ("id_token_hint", text(&tokens, "id_token")),
        ("post_logout_redirect_uri", "https://evil.example.com/"),
    ]);
    // Of who has no session here, nothing ends: then the link would be no more than a way to that site.
    let stranger = world.browser();
    let page = stranger.go(&link).await;
    assert_eq!((page.status, page.location()), (StatusCode::OK, ""), "{}", page.text());
    assert!(page.text().contains("You are signed out"), "{}", page.text());
    // Somebody else is asked first.
    world.put_host("open.example.com", json!({ "oauth_user_users": ["*"] })).await;
    world.github.person(Person::SignedIn("hubot".to_owned()));
    stranger.sign_in().await;
    let page = stranger.go(&link).await;
    assert!(page.text().contains("Sign out?") && is_signed_in(&stranger), "{}", page.text());
    // The user of the token goes back to the client.
    let back = own.go(&link).await;
    assert_eq!(back.location(), "https://evil.example.com/");
    assert!(!is_signed_in(&own));
    let again = own.go(&link).await;
    assert_eq!((again.status, again.location()), (StatusCode::OK, ""), "now there is nothing left to end");
}
