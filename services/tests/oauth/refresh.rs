//! The token endpoint when hosts and lists change, and when clients fail again and again.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{
    APP, Answer, Authorization, Browser, CLIENT, ISSUER, REDIRECT, World, claims, form, header, text,
};

const HOST: &str = "app.example.com";

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    world
}

async fn refresh(world: &World, token: &str) -> Answer {
    let fields = [("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", token)];
    world.post("/token", &fields).await
}

async fn person(world: &World, browser: &Browser<'_>, scope: &str) -> (Value, Value) {
    let tokens = world.tokens(browser, scope, APP).await;
    let said = claims(text(&tokens, "access_token"));
    (said["email"].clone(), said["name"].clone())
}

#[tokio::test]
async fn a_host_that_is_away_for_a_while_costs_no_grant_and_no_code() {
    let world = world().await;
    let browser = world.browser();
    let tokens = world.tokens(&browser, "mcp", APP).await;
    let asked = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
    let code = browser.code(&asked.url).await;
    let redeem = [
        ("grant_type", "authorization_code"),
        ("client_id", "web"),
        ("code", &code),
        ("code_verifier", &asked.verifier),
    ];
    world.put_host(HOST, json!({ "enabled": false })).await;
    let token = text(&tokens, "refresh_token");
    for answer in [refresh(&world, token).await, world.post("/token", &redeem).await] {
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_target"));
    }
    world.put_host(HOST, json!({ "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"] })).await;
    for answer in [refresh(&world, token).await, world.post("/token", &redeem).await] {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
}

#[tokio::test]
async fn lists_are_asked_for_the_scopes_of_each_token() {
    let world = world().await;
    let tokens = world.tokens(&world.browser(), "mcp user", APP).await;
    assert_eq!(tokens["scope"], "mcp user");
    let lists = async |user: &[&str], mcp: &[&str]| {
        let lists = json!({
            "auth_required_users": ["Mona"],
            "oauth_admin_users": [],
            "oauth_user_users": user,
            "oauth_mcp_users": mcp,
        });
        world.put_host(HOST, lists).await;
    };
    lists(&["Mona"], &[]).await;
    let fewer = refresh(&world, text(&tokens, "refresh_token")).await.json();
    assert_eq!(fewer["scope"], "user");
    assert_eq!(claims(text(&fewer, "access_token"))["scope"], "user");
    lists(&[], &[]).await;
    let none = refresh(&world, text(&fewer, "refresh_token")).await;
    assert_eq!((none.status, none.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_scope"));
    lists(&["Mona"], &["Mona"]).await;
    let all = refresh(&world, text(&fewer, "refresh_token")).await.json();
    assert_eq!(all["scope"], "mcp user", "the grant has kept its scopes");
}

#[tokio::test]
async fn who_is_on_no_list_any_more_has_no_grant() {
    let world = world().await;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    world.put_host(HOST, json!({ "auth_required_users": ["hubot"] })).await;
    assert_eq!(refresh(&world, text(&tokens, "refresh_token")).await.error(), "invalid_grant");
    world.put_host(HOST, json!({ "auth_required_users": ["Mona"] })).await;
    assert_eq!(refresh(&world, text(&tokens, "refresh_token")).await.error(), "invalid_grant");
}

#[tokio::test]
async fn failures_are_counted_by_client_and_cost_no_good_request() {
    let world = world().await;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    let mut limited = refresh(&world, "pcr_guessed").await;
    // What is counted is forgotten with time: a slow machine needs some more of them.
    for _ in 0..500 {
        if limited.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(limited.error(), "invalid_grant");
        limited = refresh(&world, "pcr_guessed").await;
    }
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "{}", limited.text());
    assert_eq!(limited.error(), "temporarily_unavailable");
    assert!(!limited.header("retry-after").is_empty());
    let good = refresh(&world, text(&tokens, "refresh_token")).await;
    assert_eq!(good.status, StatusCode::OK, "{}", good.text());
    // Other clients behind the same address, that name themselves in the header. One may share its place.
    let mut told = Vec::new();
    for basic in ["Basic b3RoZXI6eA==", "Basic YWxzbzp4"] {
        let mut headers = header("authorization", basic);
        headers.insert("content-type", "application/x-www-form-urlencoded".parse().expect("a type"));
        let body = form(&[("grant_type", "refresh_token"), ("refresh_token", "pcr_x")]);
        let answer = world.request(CLIENT, Method::POST, &format!("{ISSUER}/token"), headers, body).await;
        told.push(answer.error());
    }
    assert!(told.iter().any(|error| error == "invalid_client"), "{told:?}");
}

#[tokio::test]
async fn a_token_says_of_a_person_what_its_scopes_and_its_host_need() {
    let world = world().await;
    let browser = world.browser();
    let (email, name) = (json!("mona@example.com"), json!("Mona Lisa"));
    world.put_host(HOST, json!({ "auth_pass_headers": false })).await;
    assert_eq!(person(&world, &browser, "mcp").await, (Value::Null, Value::Null));
    assert_eq!(person(&world, &browser, "mcp email").await, (email.clone(), Value::Null));
    assert_eq!(person(&world, &browser, "mcp profile").await, (Value::Null, name.clone()));
    let listed = json!({ "auth_pass_headers": false, "auth_required_emails": ["*@example.com"] });
    world.put_host(HOST, listed).await;
    assert_eq!(person(&world, &browser, "mcp").await, (email.clone(), Value::Null));
    world.put_host(HOST, json!({ "auth_pass_headers": true })).await;
    assert_eq!(person(&world, &browser, "mcp").await, (email, name), "the upstream is told");
}
