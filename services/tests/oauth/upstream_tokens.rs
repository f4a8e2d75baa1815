//! GitHub's tokens: ended at once, unless the host that the login is for wants to have them kept.

use std::time::Duration;

use http::{Method, StatusCode};
use portcullis_services::applied::Applied;
use portcullis_services::oauth::upstream_tokens::{Sweep, UpstreamToken};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::standin::{self, Fault, Person};
use crate::world::{APP, APP_ID, Browser, ISSUER, MONA, World};

const HOST: &str = "app.example.com";

/// A host that wants the tokens, for Mona and hubot.
async fn put_app(world: &World, more: Value) {
    let mut fields = json!({
        "oauth_user_users": ["Mona", "hubot"], "oauth_mcp_users": ["Mona"], "oauth_vault_upstream_token": true,
    });
    fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    world.put_host(HOST, fields).await;
}

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    put_app(&world, json!({})).await;
    world
}

async fn kept(world: &World, host: &str, subject: u64) -> Option<UpstreamToken> {
    let host = host.parse().expect("a host");
    world.server.upstream_token(&host, &subject.to_string()).await.expect("read")
}

fn secret(token: Option<UpstreamToken>) -> String {
    token.expect("a token").secret.expose_secret().to_owned()
}

/// The tokens that are good at GitHub, once there are so many.
async fn at_github(world: &World, count: usize) -> Vec<String> {
    let look = || Some(world.github.tokens()).filter(|tokens| tokens.len() == count);
    soon(look).await.unwrap_or_else(|| panic!("not {count} tokens: {:?}", world.github.tokens()))
}

/// Looks until there is something, for as long as that can take; nothing if it never comes.
async fn soon<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    let look = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.ok()
}

async fn log_out(browser: &Browser<'_>) {
    let page = browser.go(&format!("{ISSUER}/logout")).await;
    let out = browser.submit(&page, &format!("{ISSUER}/logout"), &[]).await;
    assert_eq!(out.status, StatusCode::OK, "{}", out.text());
    assert!(browser.cookie("auth.example.com", "__Host-portcullis-session").is_none());
}

#[tokio::test]
async fn a_login_for_a_host_that_wants_it_leaves_a_token_and_no_other_does() {
    let world = world().await;
    world.browser().sign_in().await;
    assert!(world.github.tokens().is_empty(), "a login for no host");
    let browser = world.browser();
    browser.host_session().await;
    let token = kept(&world, HOST, MONA).await;
    assert_eq!(token.as_ref().expect("a token").app, "Iv1.0123456789abcdef");
    assert_eq!(token.as_ref().expect("a token").scopes, ["read:user", "user:email"]);
    assert!(!format!("{token:?}").contains(&secret(token.clone())));
    assert_eq!(world.github.tokens(), [secret(token)]);
    assert!(kept(&world, "closed.example.com", MONA).await.is_none());
    // Another browser's login takes its place, by a client as by a browser.
    world.tokens(&world.browser(), "mcp", APP).await;
    let next = secret(kept(&world, HOST, MONA).await);
    assert_eq!(at_github(&world, 1).await, [next]);
    // Once the host does not want it, nobody gets it, and nothing new is kept.
    put_app(&world, json!({ "oauth_vault_upstream_token": false })).await;
    assert!(kept(&world, HOST, MONA).await.is_none());
    world.tokens(&world.browser(), "mcp", APP).await;
    at_github(&world, 1).await;
}

#[tokio::test]
async fn who_has_signed_in_for_something_else_goes_to_github_once_more() {
    let world = world().await;
    let browser = world.browser();
    browser.sign_in().await;
    assert!(kept(&world, HOST, MONA).await.is_none());
    let logins = || {
        let seen = world.github.requests().into_iter();
        seen.filter(|seen| seen.uri.path() == "/login/oauth/authorize" && seen.method == Method::GET).count()
    };
    assert_eq!(logins(), 1);
    browser.host_session().await;
    assert_eq!(logins(), 2);
    let token = secret(kept(&world, HOST, MONA).await);
    // From then on the issuer's session is enough, here and for clients.
    browser.host_session().await;
    world.tokens(&browser, "mcp", APP).await;
    assert_eq!((logins(), world.github.tokens()), (2, vec![token.clone()]));
    // Who may not use a host goes nowhere for it.
    world
        .put_host(
            "closed.example.com",
            json!({ "auth_required_users": ["x"], "oauth_vault_upstream_token": true }),
        )
        .await;
    let state = "s".repeat(43);
    browser.set_cookie("closed.example.com", "__Host-portcullis-state", &state);
    let login = format!("{ISSUER}/login?return_url=https%3A%2F%2Fclosed.example.com%2F&state={state}");
    assert_eq!(browser.go(&login).await.status, StatusCode::FORBIDDEN);
    assert_eq!((logins(), world.github.tokens()), (2, vec![token]));
}

#[tokio::test]
async fn a_login_that_is_refused_leaves_no_token() {
    let world = world().await;
    world
        .put_host(
            "closed.example.com",
            json!({ "auth_required_users": ["x"], "oauth_vault_upstream_token": true }),
        )
        .await;
    let browser = world.browser();
    let state = "s".repeat(43);
    browser.set_cookie("closed.example.com", "__Host-portcullis-state", &state);
    let login = format!("{ISSUER}/login?return_url=https%3A%2F%2Fclosed.example.com%2F&state={state}");
    assert_eq!(browser.go(&login).await.status, StatusCode::FORBIDDEN);
    assert!(world.github.tokens().is_empty());
    world.github.fail("/user", Fault::Status(500));
    let answer = world.browser().go(&format!("{ISSUER}/login")).await;
    assert_ne!(answer.status, StatusCode::OK);
    assert!(world.github.tokens().is_empty(), "nobody knows whose it is");
}

#[tokio::test]
async fn a_token_ends_with_the_session_and_the_grants_that_need_it() {
    let world = world().await;
    // A browser's session on the host alone.
    let browser = world.browser();
    browser.host_session().await;
    at_github(&world, 1).await;
    log_out(&browser).await;
    assert!(kept(&world, HOST, MONA).await.is_none());
    at_github(&world, 0).await;
    // A client that still acts for the user at the host needs it.
    let browser = world.browser();
    world.tokens(&browser, "mcp", APP).await;
    let token = secret(kept(&world, HOST, MONA).await);
    log_out(&browser).await;
    assert_eq!(secret(kept(&world, HOST, MONA).await), token);
    at_github(&world, 1).await;
}

#[tokio::test]
async fn each_host_has_the_token_of_its_own_app() {
    let world = world().await;
    world.github.add_app(standin::App::new("Iv1.other", "another-secret", &format!("{ISSUER}/callback")));
    world.browser().host_session().await;
    let first = secret(kept(&world, HOST, MONA).await);
    // The host changes its app: the token of the old one is of no use there.
    world.put_app_of(HOST, "Iv1.other", "another-secret").await;
    put_app(&world, json!({ "github_client_id": "Iv1.other" })).await;
    assert!(kept(&world, HOST, MONA).await.is_none());
    let browser = world.browser();
    browser.host_session().await;
    let token = kept(&world, HOST, MONA).await.expect("a token");
    assert_eq!(token.app, "Iv1.other");
    let second = token.secret.expose_secret().to_owned();
    assert_ne!(first, second);
    assert_eq!(at_github(&world, 1).await, [second], "the old one was ended through the old app");
}

#[tokio::test]
async fn people_have_their_own() {
    let world = World::new().await;
    put_app(&world, json!({})).await;
    world.browser().host_session().await;
    world.github.person(Person::SignedIn("hubot".to_owned()));
    world.browser().host_session().await;
    let (mona, hubot) = (secret(kept(&world, HOST, MONA).await), secret(kept(&world, HOST, 7).await));
    assert_ne!(mona, hubot);
    let mut good = at_github(&world, 2).await;
    good.sort();
    let mut both = [mona.clone(), hubot];
    both.sort();
    assert_eq!(good, both);
}

/// Waits until the end of so many tokens was asked for, in vain or not.
async fn endings(world: &World, count: usize) {
    let asked = || {
        let path = format!("/applications/{APP_ID}/token");
        let seen = world.github.requests().into_iter();
        let seen = seen.filter(|seen| seen.method == Method::DELETE && seen.uri.path().ends_with(&path));
        seen.count()
    };
    let found = soon(|| (asked() >= count).then_some(())).await;
    found.unwrap_or_else(|| panic!("{} of {count} endings", asked()));
}

/// Two logins, the second of which could not end the token of the first. Returns the browser of the first, and the
/// token of the second.
async fn replaced_in_vain(world: &World) -> (Browser<'_>, String) {
    let first = world.browser();
    first.host_session().await;
    let before = secret(kept(world, HOST, MONA).await);
    world.github.fail(&format!("/applications/{APP_ID}/token"), Fault::Status(503));
    world.browser().host_session().await;
    let now = secret(kept(world, HOST, MONA).await);
    endings(world, 1).await;
    let mut good = world.github.tokens();
    good.sort();
    let mut both = [before, now.clone()];
    both.sort();
    assert_eq!(good, both, "both are good meanwhile");
    (first, now)
}

#[tokio::test]
async fn a_replaced_token_ends_when_github_can_be_asked_again() {
    let world = world().await;
    let (_first, now) = replaced_in_vain(&world).await;
    let sweep = Sweep::new(std::sync::Arc::clone(&world.server));
    let stop = CancellationToken::new();
    let revision = Some(world.mirror.latest().await.expect("read").revision.clone());
    let (_applied, applied) = watch::channel(Applied { revision, ..Applied::default() });
    // In vain once more, and not forgotten for that.
    let running = tokio::spawn(sweep.run(applied.clone(), stop.clone()));
    endings(&world, 2).await;
    stop.cancel();
    running.await.expect("no panic");
    world.github.heal();
    let stop = CancellationToken::new();
    let sweep = Sweep::new(std::sync::Arc::clone(&world.server));
    let running = tokio::spawn(sweep.run(applied, stop.clone()));
    assert_eq!(at_github(&world, 1).await, std::slice::from_ref(&now));
    stop.cancel();
    running.await.expect("no panic");
    assert_eq!(secret(kept(&world, HOST, MONA).await), now, "the one in its place stays");
}

#[tokio::test]
async fn a_replaced_token_ends_with_its_session_at_the_latest() {
    let world = world().await;
    let (first, now) = replaced_in_vain(&world).await;
    world.github.heal();
    log_out(&first).await;
    assert_eq!(at_github(&world, 1).await, std::slice::from_ref(&now));
    assert_eq!(secret(kept(&world, HOST, MONA).await), now);
}
