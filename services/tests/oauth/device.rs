//! Devices: their codes, the page where their user agrees, and what they get.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::standin::Person;
use crate::world::{APP, Answer, Browser, CLOSED, ISSUER, MONA, World, claims};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A deployment with a television that has asked.
struct Living {
    world: World,
    device_code: String,
    user_code: String,
    complete: String,
}

async fn put_tv(world: &World) {
    let metadata = json!({
        "client_name": "Television",
        "token_endpoint_auth_method": "none",
        "grant_types": [GRANT, "refresh_token"],
    });
    world.put_client("tv", metadata).await;
}

async fn ask(world: &World, scope: &str, resource: &str) -> Answer {
    world.post("/device/code", &[("client_id", "tv"), ("scope", scope), ("resource", resource)]).await
}

impl Living {
    async fn new() -> Self {
        let world = World::new().await;
        put_tv(&world).await;
        let answer = ask(&world, "mcp admin openid", APP).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        let codes = answer.json();
        let text = |name: &str| codes[name].as_str().expect(name).to_owned();
        assert_eq!((&codes["expires_in"], &codes["interval"]), (&json!(600), &json!(5)));
        assert_eq!(text("verification_uri"), format!("{ISSUER}/device"));
        Self {
            device_code: text("device_code"),
            user_code: text("user_code"),
            complete: text("verification_uri_complete"),
            world,
        }
    }

    async fn poll(&self) -> Answer {
        self.poll_at("/token").await
    }

    async fn poll_at(&self, path: &str) -> Answer {
        let fields = [("grant_type", GRANT), ("client_id", "tv"), ("device_code", &self.device_code)];
        self.world.post(path, &fields).await
    }
}

async fn decide(browser: &Browser<'_>, page: &Answer, decision: &str) -> Answer {
    browser.submit(page, &format!("{ISSUER}/device"), &[("decision", decision)]).await
}

fn fails(answer: &Answer, error: &str) {
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (StatusCode::BAD_REQUEST, error),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_device_gets_what_its_user_agreed_to_and_the_lists_give() {
    let living = Living::new().await;
    fails(&living.poll().await, "authorization_pending");
    fails(&living.poll().await, "slow_down");

    let browser = living.world.browser();
    let page = browser.go(&living.complete).await;
    assert_eq!(page.status, StatusCode::OK);
    let text = page.text();
    for shown in [living.user_code.as_str(), "Television", "Mona", "app.example.com", "Take care"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let done = decide(&browser, &page, "approve").await;
    assert!(done.text().contains("connected"), "{}", done.text());

    let answer = living.poll().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = answer.json();
    assert_eq!(tokens["scope"], "admin mcp openid");
    assert!(tokens["refresh_token"].is_string());
    let access = claims(tokens["access_token"].as_str().expect("a token"));
    assert_eq!((&access["sub"], &access["client_id"]), (&json!(MONA.to_string()), &json!("tv")));
    assert_eq!(access["aud"], json!([APP]));
    let id = claims(tokens["id_token"].as_str().expect("a token"));
    assert!(id["auth_time"].is_u64() && id.get("nonce").is_none());

    fails(&living.poll().await, "invalid_grant");
    let again = browser.go(&living.complete).await;
    assert_eq!(again.status, StatusCode::BAD_REQUEST, "a code is good for one decision");
}

#[tokio::test]
async fn the_codes_of_a_device_end_after_ten_minutes() {
    let living = Living::new().await;
    let browser = living.world.browser();
    living.world.advance(Duration::from_secs(590));
    fails(&living.poll().await, "authorization_pending");
    let page = browser.go(&living.complete).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    living.world.advance(Duration::from_secs(10));
    fails(&living.poll().await, "expired_token");
    // Whoever still has the page open comes too late, too.
    let late = decide(&browser, &page, "approve").await;
    assert_eq!(late.status, StatusCode::BAD_REQUEST, "{}", late.text());
    assert_eq!(browser.go(&living.complete).await.status, StatusCode::BAD_REQUEST);
    fails(&living.poll().await, "expired_token");
}

#[tokio::test]
async fn a_device_that_was_refused_is_told_so() {
    let living = Living::new().await;
    let browser = living.world.browser();
    let page = browser.go(&living.complete).await;
    let done = decide(&browser, &page, "deny").await;
    assert!(done.text().contains("refused"), "{}", done.text());
    fails(&living.poll().await, "access_denied");
    assert_eq!(decide(&browser, &page, "approve").await.status, StatusCode::BAD_REQUEST);
    fails(&living.poll().await, "access_denied");
}

#[tokio::test]
async fn the_code_is_typed_as_people_type() {
    let living = Living::new().await;
    let browser = living.world.browser();
    let entry = browser.go(&format!("{ISSUER}/device")).await;
    assert_eq!(entry.status, StatusCode::OK);
    let typed = living.user_code.to_lowercase().replace('-', " ");
    let page = browser.submit(&entry, &format!("{ISSUER}/device"), &[("user_code", &typed)]).await;
    assert!(page.text().contains("Television"), "{}", page.text());
    let wrong = browser.submit(&entry, &format!("{ISSUER}/device"), &[("user_code", "BBBB-BBBB")]).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.text().contains("No device waits") && wrong.text().contains("BBBB-BBBB"));
    decide(&browser, &page, "approve").await;
    assert_eq!(living.poll_at("/device/token").await.status, StatusCode::OK, "older clients ask there");
}

#[tokio::test]
async fn who_is_on_no_list_can_not_connect_a_device() {
    let living = Living::new().await;
    living.world.put_host("app.example.com", json!({ "auth_required_users": ["Mona"] })).await;
    living.world.github.person(Person::SignedIn("hubot".to_owned()));
    let browser = living.world.browser();
    let page = browser.go(&living.complete).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN, "{}", page.text());
    fails(&living.poll().await, "authorization_pending");

    // Nor one who was taken off it while the page was shown.
    living.world.github.person(Person::SignedIn("Mona".to_owned()));
    let browser = living.world.browser();
    let page = browser.go(&living.complete).await;
    assert_eq!(page.status, StatusCode::OK);
    living.world.put_host("app.example.com", json!({ "auth_required_users": ["somebody"] })).await;
    assert_eq!(decide(&browser, &page, "approve").await.status, StatusCode::FORBIDDEN);
    assert_ne!(living.poll().await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_decision_is_for_the_code_of_its_page_and_the_browser_that_saw_it() {
    let living = Living::new().await;
    let (mine, other) = (living.world.browser(), living.world.browser());
    let page = mine.go(&living.complete).await;
    other.sign_in().await;
    let entry = other.go(&format!("{ISSUER}/device")).await;
    let code = ("user_code", living.user_code.as_str());
    let approve = ("decision", "approve");
    let token = |page: &Answer| {
        let fields = page.fields();
        fields.into_iter().find(|(name, _)| name == "form_token").expect("a token").1
    };
    let url = format!("{ISSUER}/device");
    let (of_page, of_entry) = (token(&page), token(&entry));
    for (browser, fields) in [
        // Another browser's, none at all, and that of the page where codes are entered.
        (&other, vec![code, approve, ("form_token", of_page.as_str())]),
        (&mine, vec![code, approve]),
        (&other, vec![code, approve, ("form_token", of_entry.as_str())]),
        (&mine, vec![("user_code", "BBBB-BBBB"), approve, ("form_token", of_page.as_str())]),
        (&mine, vec![approve, ("form_token", of_page.as_str())]),
    ] {
        let answer = browser.send(Method::POST, &url, Some(&fields)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{fields:?}");
    }
    let stranger = living.world.browser();
    let fields = [code, approve, ("form_token", of_page.as_str())];
    let answer = stranger.send(Method::POST, &url, Some(&fields)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "who isn't signed in decides nothing");
    fails(&living.poll().await, "authorization_pending");
}

#[tokio::test]
async fn codes_can_not_be_guessed() {
    let living = Living::new().await;
    let mut browser = living.world.browser();
    browser.sign_in().await;
    let wrong = format!("{ISSUER}/device?user_code=BBBB-BBBB");
    let mut tries = 0;
    while browser.go(&wrong).await.status == StatusCode::BAD_REQUEST {
        tries += 1;
        assert!(tries <= 20, "no limit");
    }
    let limited = browser.go(&living.complete).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "not even the right one");
    browser.address = IpAddr::from([192, 0, 2, 77]);
    let moved = browser.go(&living.complete).await;
    assert_eq!(moved.status, StatusCode::TOO_MANY_REQUESTS, "another network, but the same session");
    let mut other = living.world.browser();
    other.address = IpAddr::from([192, 0, 2, 78]);
    let fine = other.go(&living.complete).await;
    assert_eq!(fine.status, StatusCode::OK, "others are not concerned");
}

#[tokio::test]
async fn the_end_of_the_session_ends_what_was_agreed_to_in_it() {
    let living = Living::new().await;
    let browser = living.world.browser();
    let page = browser.go(&living.complete).await;
    decide(&browser, &page, "approve").await;
    let page = browser.go(&format!("{ISSUER}/logout")).await;
    browser.submit(&page, &format!("{ISSUER}/logout"), &[]).await;
    fails(&living.poll().await, "invalid_grant");
}

#[tokio::test]
async fn requests_for_codes_are_checked_like_others() {
    let world = World::new().await;
    put_tv(&world).await;
    for (scope, resource, error) in [
        ("mcp", "https://nowhere.example.com", "invalid_target"),
        ("nonsense", APP, "invalid_scope"),
        ("\"", APP, "invalid_scope"),
    ] {
        fails(&ask(&world, scope, resource).await, error);
    }
    assert_eq!(ask(&world, "mcp", CLOSED).await.status, StatusCode::OK, "who it is for is asked later");
    let unknown = world.post("/device/code", &[("client_id", "nobody")]).await;
    assert_eq!((unknown.status, unknown.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    let metadata = json!({ "redirect_uris": ["https://a.example/cb"], "token_endpoint_auth_method": "none" });
    world.put_client("plain", metadata).await;
    fails(&world.post("/device/code", &[("client_id", "plain")]).await, "unauthorized_client");
    let credentials = [("grant_type", "client_credentials"), ("client_id", "tv")];
    fails(&world.post("/device/token", &credentials).await, "unsupported_grant_type");
    let guess = "x".repeat(43);
    let fields = [("grant_type", GRANT), ("client_id", "tv"), ("device_code", guess.as_str())];
    fails(&world.post("/token", &fields).await, "invalid_grant");
    let get = world.get_with("/device/code", "x").await;
    assert_eq!((get.status, get.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST, OPTIONS"));
}

#[tokio::test]
async fn another_client_can_not_redeem_a_code() {
    let living = Living::new().await;
    let metadata = json!({ "token_endpoint_auth_method": "none", "grant_types": [GRANT] });
    living.world.put_client("radio", metadata).await;
    let browser = living.world.browser();
    let page = browser.go(&living.complete).await;
    decide(&browser, &page, "approve").await;
    let fields =
        [("grant_type", GRANT), ("client_id", "radio"), ("device_code", living.device_code.as_str())];
    fails(&living.world.post("/token", &fields).await, "invalid_grant");
    let wider = [
        ("grant_type", GRANT),
        ("client_id", "tv"),
        ("device_code", living.device_code.as_str()),
        ("resource", CLOSED),
    ];
    fails(&living.world.post("/token", &wider).await, "invalid_target");
    let tokens: Value = living.poll().await.json();
    assert!(tokens["access_token"].is_string(), "what failed before has not used it up: {tokens}");
}
