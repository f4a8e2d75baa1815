//! Settings of time, by what comes of them in a daemon: each with a life of some seconds, after which something has
//! ended, and before which it has not. Those that are counted in days are tested with a clock that can be moved.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{Client, HOST, Tokens, World};
use crate::support::visitor::{Page, Visitor};

/// How much later than it should something may end: for a busy machine. All defaults are longer than that and a life.
const SLACK: Duration = Duration::from_secs(14);

/// Between two questions: there are limits of how many there may be.
const PAUSE: Duration = Duration::from_millis(400);

/// A node with such a setting.
async fn with(name: &str, seconds: u64) -> World {
    World::with(|command| {
        command.env(name, seconds.to_string());
    })
    .await
}

/// Asks until something has ended that began at `since`: not before its life of so many seconds, and soon after.
async fn ends(what: &str, since: Instant, life: u64, mut has_ended: impl AsyncFnMut() -> bool) {
    let life = Duration::from_secs(life);
    while !has_ended().await {
        assert!(since.elapsed() < life + SLACK, "{what} goes on for {:?}", since.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    assert!(since.elapsed() >= life, "{what} ended after {:?}", since.elapsed());
}

/// Whether a refresh token is good; if so, the next one takes its place.
async fn is_good(world: &World, client: &Client, token: &mut String) -> bool {
    let answer = world.refresh(client, token).await;
    if answer.status == StatusCode::OK {
        *token = Tokens::of(&answer).refresh;
        return true;
    }
    assert_eq!((answer.status, &answer.json()["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    false
}

async fn tokens(world: &World) -> (Client, Tokens) {
    let client = world.register(json!({})).await;
    let tokens = world.tokens_of(&client, "alice", &[]).await;
    (client, tokens)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_ends_however_often_it_is_used() {
    let world = with("OAUTH_REFRESH_TOKEN_LIFETIME", 6).await;
    let since = Instant::now();
    let (client, tokens) = tokens(&world).await;
    let mut token = tokens.refresh;
    // In its last second there is no time for an access token.
    ends("the grant", since, 5, async || !is_good(&world, &client, &mut token).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_is_used_goes_on_and_one_that_is_not_ends() {
    let world = with("PORTCULLIS_OAUTH_GRANT_IDLE", 5).await;
    let begun = Instant::now();
    let (client, tokens) = tokens(&world).await;
    let mut token = tokens.refresh;
    let mut used = begun;
    while begun.elapsed() < Duration::from_secs(10) {
        let before = Instant::now();
        assert!(is_good(&world, &client, &mut token).await, "{:?} after it was used", used.elapsed());
        used = before;
        tokio::time::sleep(PAUSE).await;
    }
    // Each of these is used once, and some of them after the time.
    let mut unused = Vec::new();
    for _ in 0..25 {
        let since = Instant::now();
        unused.push((since, world.tokens_of(&client, "alice", &[]).await.refresh));
    }
    let first = unused[0].0;
    let mut unused = unused.into_iter();
    ends("a grant", first, 5, async || {
        let (since, mut token) = unused.next().expect("more grants than questions");
        let good = is_good(&world, &client, &mut token).await;
        assert!(good || since.elapsed() >= Duration::from_secs(5), "{:?}", since.elapsed());
        !good
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_refresh_token_has_its_successor_for_a_window_and_then_ends_the_grant() {
    let world = with("PORTCULLIS_OAUTH_REFRESH_WINDOW", 5).await;
    let (client, first) = tokens(&world).await;
    let since = Instant::now();
    let second = Tokens::of(&world.refresh(&client, &first.refresh).await);
    ends("the window", since, 5, async || {
        let mut replayed = first.refresh.clone();
        let good = is_good(&world, &client, &mut replayed).await;
        assert!(!good || replayed == second.refresh, "the same one each time");
        !good
    })
    .await;
    assert!(!is_good(&world, &client, &mut second.refresh.clone()).await, "the family has ended");
    assert_eq!(world.get_as(HOST, "/mcp", &second.access).await.status, StatusCode::UNAUTHORIZED);
}

/// Opens the page of the issuer that is for who has signed in; others are sent to GitHub.
async fn open_issuer(world: &World, visitor: &mut Visitor) -> Page {
    visitor.open(&world.at_issuer("/login"), "").await
}

fn is_at_github(world: &World, page: &Page) -> bool {
    page.url.starts_with(&world.github.url())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_takes_too_long_has_to_begin_anew() {
    let world = with("OAUTH_SESSION_TIMEOUT", 5).await;
    // Logins that have got as far as GitHub: each can be finished once.
    let mut begun = Vec::new();
    for _ in 0..45 {
        let (since, mut visitor) = (Instant::now(), world.visitor());
        let page = open_issuer(&world, &mut visitor).await;
        assert!(is_at_github(&world, &page), "at {}", page.url);
        begun.push((since, visitor, page));
    }
    let first = begun[0].0;
    let mut begun = begun.into_iter();
    ends("a login", first, 5, async || {
        let (since, mut visitor, page) = begun.next().expect("more logins than questions");
        let back = world.sign_in(&mut visitor, page, "alice").await;
        let late = back.answer().status != StatusCode::OK;
        assert!(!late || since.elapsed() >= Duration::from_secs(5), "{:?}: {}", since.elapsed(), back.text());
        late
    })
    .await;
    let mut visitor = world.visitor();
    let page = open_issuer(&world, &mut visitor).await;
    let done = world.sign_in(&mut visitor, page, "alice").await;
    assert_eq!(done.answer().status, StatusCode::OK, "{}", done.text());
}

async fn signed_in(world: &World) -> Visitor {
    let mut visitor = world.visitor();
    let page = open_issuer(world, &mut visitor).await;
    let done = world.sign_in(&mut visitor, page, "alice").await;
    assert_eq!(done.answer().status, StatusCode::OK, "{}", done.text());
    visitor
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_signs_in_again_in_any_case_after_a_while() {
    let world = with("PORTCULLIS_OAUTH_SESSION_LIFETIME", 5).await;
    let since = Instant::now();
    let mut visitor = signed_in(&world).await;
    ends("the session", since, 5, async || {
        let page = open_issuer(&world, &mut visitor).await;
        is_at_github(&world, &page)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_does_something_stays_signed_in_and_one_that_does_not_does_not() {
    let world = with("PORTCULLIS_OAUTH_SESSION_IDLE", 5).await;
    let begun = Instant::now();
    let mut visitor = signed_in(&world).await;
    let mut used = begun;
    while begun.elapsed() < Duration::from_secs(10) {
        let before = Instant::now();
        let page = open_issuer(&world, &mut visitor).await;
        assert!(!is_at_github(&world, &page), "{:?} after it was used", used.elapsed());
        used = before;
        tokio::time::sleep(PAUSE).await;
    }
    // That it is used is not noted each time, so it may seem to be idle for somewhat longer.
    ends("the session", used, 3, async || {
        let sessions = world.daemon.api(Method::GET, "/oauth/sessions", Value::Null).await;
        sessions["sessions"].as_array().expect("a list").is_empty()
    })
    .await;
    let page = open_issuer(&world, &mut visitor).await;
    assert!(is_at_github(&world, &page), "at {}", page.url);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_believed_for_a_while() {
    let world = with("PORTCULLIS_OAUTH_GROUPS_LIFETIME", 6).await;
    world.github.change_user(1, |user| user.orgs.push("acme".to_owned()));
    world.daemon.change(HOST, json!({ "auth_required_groups": ["acme"] })).await;
    let client = world.register(json!({})).await;
    let since = Instant::now();
    let mut token = world.tokens_of(&client, "alice", &[]).await.refresh;
    ends("what is known of the groups", since, 6, async || {
        let answer = world.refresh(&client, &token).await;
        if answer.status == StatusCode::OK {
            token = Tokens::of(&answer).refresh;
            return false;
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("invalid_grant") && text.contains("groups"), "{text}");
        true
    })
    .await;
    // Who signs in again brings them along.
    let again = world.tokens_of(&client, "alice", &[]).await;
    assert_eq!(world.get_as(HOST, "/mcp", &again.access).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_not_used_has_to_register_again() {
    let world = with("OAUTH_CLIENT_LIFETIME", 4).await;
    let since = Instant::now();
    let (client, tokens) = tokens(&world).await;
    let url = world.authorize_url(&client, &[]);
    // To be asked for consent is no use of it.
    ends("the registration", since, 4, async || {
        let page = world.visitor().open(&url, "https://client.example").await;
        let status = page.answer().status;
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST), "{status}: {}", page.text());
        status == StatusCode::BAD_REQUEST
    })
    .await;
    let refused = world.refresh(&client, &tokens.refresh).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_client"))
    );
}
