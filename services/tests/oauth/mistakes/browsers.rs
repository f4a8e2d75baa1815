//! Browsers: pages, and logins that belong to one of them.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::standin::{Person, pairs};
use crate::world::{
    APP, Answer, Authorization, CLIENT, ISSUER, REDIRECT, World, form, header as one_header, text,
};

const SCRIPT: &str = "<script>alert(1)</script>";
const IMAGE: &str = "\"><img src=x onerror=alert(1)>";

/// Nothing of what a stranger says is read as more than text, and if it were it could do nothing.
fn is_harmless(page: &Answer, what: &str) {
    let text = page.text().to_lowercase();
    assert!(page.header("content-type").starts_with("text/html"), "{what}: {page:?}");
    for part in ["<script", "<img", "=\"javascript:", "=javascript:", "onerror=alert(1)>"] {
        assert!(!text.contains(part), "{what}: {text}");
    }
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; "), "{what}: {policy}");
    for part in ["script-src", "unsafe-inline", "unsafe-eval", "*", "data:"] {
        assert!(!policy.contains(part), "{what}: {policy}");
    }
    for part in ["frame-ancestors 'none'", "base-uri 'none'", "form-action "] {
        assert!(policy.contains(part), "{what}: {policy}");
    }
    for (name, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")] {
        assert_eq!(page.header(name), value, "{what}");
    }
}

async fn register(world: &World, body: Value) -> Value {
    let headers = one_header("content-type", "application/json");
    world.request(CLIENT, Method::POST, &format!("{ISSUER}/register"), headers, body.to_string()).await.json()
}

/// Number 32: the pages for errors and for success repeated what was in the URL, and ran it.
#[tokio::test]
async fn pages_repeat_nothing_that_runs() {
    let world = World::new().await;
    world.put_public_client().await;
    let browser = world.browser();
    browser.sign_in().await;
    for evil in [SCRIPT, IMAGE, "javascript:alert(1)"] {
        let encoded = form(&[("", evil)]);
        let encoded = encoded.trim_start_matches('=');
        for path in [
            format!("/authorize?client_id={encoded}&redirect_uri={encoded}"),
            format!("/authorize?client_id=web&redirect_uri={encoded}"),
            format!("/authorize?client_id=web&client_id={encoded}"),
            format!("/authorize?{encoded}={encoded}"),
            format!("/callback?error={encoded}&error_description={encoded}&state={encoded}"),
            format!("/callback?code={encoded}&state={encoded}"),
            format!("/device?user_code={encoded}"),
            format!("/login?return_url={encoded}&state={encoded}"),
            format!("/logout?client_id={encoded}&post_logout_redirect_uri={encoded}&state={encoded}"),
            format!("/logout?id_token_hint={encoded}"),
        ] {
            is_harmless(&browser.go(&format!("{ISSUER}{path}")).await, &path);
        }
        let posted = [("user_code", evil), ("decision", evil), ("form_token", evil), ("transaction", evil)];
        for path in ["/consent", "/device", "/logout"] {
            let page = browser.send(Method::POST, &format!("{ISSUER}{path}"), Some(&posted)).await;
            is_harmless(&page, path);
        }
        let page = browser.go(&format!("{APP}/.portcullis/session?ticket={encoded}")).await;
        is_harmless(&page, "a ticket");

        // Who registers chooses a name, who has an account another.
        let client = register(
            &world,
            json!({
                "client_name": evil, "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none",
                "client_uri": "https://client.example.com/\"><script>", "scope": "mcp",
            }),
        )
        .await;
        world.github.change_user(crate::world::MONA, |user| user.name = Some(evil.to_owned()));
        let asked = [("scope", "mcp"), ("resource", APP), ("login_hint", evil), ("state", evil)];
        let url = Authorization::new(text(&client, "client_id"), REDIRECT, &asked[..3]).url;
        let page = browser.go(&url).await;
        assert_eq!(page.status, StatusCode::OK);
        is_harmless(&page, "the question");
    }
}

/// Number 36: whoever was sent to the callback got the session of who had signed in; and a client that had just
/// registered itself got its code without anybody being asked.
#[tokio::test]
async fn a_login_ends_in_the_browser_that_began_it_and_a_stranger_is_asked_about_first() {
    let world = World::new().await;
    let client =
        register(&world, json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" })).await;
    let asked =
        Authorization::new(text(&client, "client_id"), REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
    let (attacker, victim) = (world.browser(), world.browser());

    let page = attacker.send(Method::GET, &asked.url, None).await;
    assert_eq!((page.status, page.location()), (StatusCode::OK, ""), "a page, and nobody is sent to GitHub");
    assert!(world.github.requests().is_empty());
    let fields = page.fields();
    let mut fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    fields.push(("decision", "approve"));
    let foreign = victim.send(Method::POST, &format!("{ISSUER}/consent"), Some(&fields)).await;
    assert_eq!(
        (foreign.status, foreign.location()),
        (StatusCode::BAD_REQUEST, ""),
        "another browser's question"
    );

    // The attacker signs in with an account of their own, and has the victim open what comes back.
    world.github.person(Person::SignedIn("hubot".to_owned()));
    let at_github = attacker.to_github(&asked.url).await;
    let callback = world.at_github(&at_github).await.location().to_owned();
    assert!(callback.starts_with(&format!("{ISSUER}/callback?")));
    let opened = victim.go(&callback).await;
    assert_eq!((opened.status, opened.location()), (StatusCode::BAD_REQUEST, ""));
    assert!(!opened.headers.contains_key(header::SET_COOKIE), "no session of somebody else");
    assert!(world.github.tokens().is_empty(), "nor was the code redeemed");

    // A victim with a login of their own under way: neither state fits the other browser.
    let own = victim.to_github(&asked.url).await;
    let own = world.at_github(&own).await.location().to_owned();
    let query = |url: &str| pairs(url.split_once('?').expect("a query").1);
    let (theirs, mine) = (query(&callback), query(&own));
    let mixed =
        [("code", crate::standin::field(&theirs, "code")), ("state", crate::standin::field(&mine, "state"))];
    let answer = victim.go(&format!("{ISSUER}/callback?{}", form(&mixed))).await;
    assert_eq!(
        crate::standin::field(&answer.redirected(), "code"),
        "",
        "GitHub's code is of another challenge"
    );
    assert!(victim.cookie("auth.example.com", "__Host-portcullis-session").is_none());
}
