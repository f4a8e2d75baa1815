//! The rotation of refresh tokens (OAuth 2.1, section 4.3.1; RFC 9700, section 4.14.2): which of a family's tokens is
//! good when, and what ends the family.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use portcullis_services::oauth::authorization_server::Settings;
use portcullis_services::oauth::grants::Lifetimes;
use serde_json::{Value, json};

use crate::world::{APP, Answer, REDIRECT, World, claims, settings, text};

/// A deployment where a predecessor counts for so long, with a client that has tokens.
struct Rotating {
    world: World,
    rs: String,
    first: Value,
}

impl Rotating {
    async fn new(window: u64) -> Self {
        let tokens = Lifetimes { window: Duration::from_secs(window), ..Lifetimes::default() };
        let world = World::with(Settings { tokens, ..settings() }).await;
        world.put_public_client().await;
        let rs = world.put_resource_server("rs").await;
        let first = world.tokens(&world.browser(), "mcp user", APP).await;
        world.stop_time();
        Self { world, rs, first }
    }

    async fn refresh(&self, tokens: &Value) -> Answer {
        self.world.refresh(text(tokens, "refresh_token"), &[]).await
    }

    /// The same for a refresh that is to work.
    async fn next(&self, tokens: &Value) -> Value {
        let answer = self.refresh(tokens).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    }

    async fn is_active(&self, tokens: &Value) -> bool {
        self.world.introspect(&self.rs, text(tokens, "access_token")).await["active"] == true
    }
}

fn is_refused(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (StatusCode::BAD_REQUEST, "invalid_grant"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_replay_within_the_window_gives_the_same_successor() {
    let rotating = Rotating::new(30).await;
    let second = rotating.next(&rotating.first).await;
    assert_ne!(second["refresh_token"], rotating.first["refresh_token"]);
    for passed in [0, 10, 20] {
        rotating.world.advance(Duration::from_secs(passed));
        let again = rotating.next(&rotating.first).await;
        assert_eq!(again["refresh_token"], second["refresh_token"], "{passed} seconds later");
        assert_ne!(again["access_token"], second["access_token"], "with an access token of its own");
        assert!(rotating.is_active(&again).await && rotating.is_active(&second).await);
    }
    let third = rotating.next(&second).await;
    assert_ne!(third["refresh_token"], second["refresh_token"]);
    assert!(rotating.is_active(&third).await);
}

#[tokio::test]
async fn a_replay_after_the_window_ends_the_family_with_its_access_tokens() {
    let rotating = Rotating::new(30).await;
    let second = rotating.next(&rotating.first).await;
    let third = rotating.next(&second).await;
    let other = rotating.world.tokens(&rotating.world.browser(), "mcp", APP).await;
    rotating.world.advance(Duration::from_secs(31));
    is_refused(&rotating.refresh(&rotating.first).await);
    for tokens in [&rotating.first, &second, &third] {
        assert!(!rotating.is_active(tokens).await);
        is_refused(&rotating.refresh(tokens).await);
    }
    assert!(rotating.is_active(&other).await, "another family is not concerned");
    rotating.next(&other).await;
}

#[tokio::test]
async fn without_a_window_any_replay_ends_the_family() {
    let rotating = Rotating::new(0).await;
    let second = rotating.next(&rotating.first).await;
    let third = rotating.next(&second).await;
    assert!(rotating.is_active(&third).await);
    is_refused(&rotating.refresh(&second).await);
    assert!(!rotating.is_active(&third).await);
    is_refused(&rotating.refresh(&third).await);
}

/// Several processes of one client share a grant.
#[tokio::test]
async fn many_at_once_leave_one_family_alive() {
    let rotating = Rotating::new(30).await;
    let answers = join_all((0..10).map(|_| rotating.refresh(&rotating.first))).await;
    let successors: BTreeSet<String> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            text(&answer.json(), "refresh_token").to_owned()
        })
        .collect();
    assert_eq!(successors.len(), 1);
    rotating.next(&answers[9].json()).await;
}

#[tokio::test]
async fn without_a_window_one_of_many_wins_and_the_others_end_the_family() {
    let rotating = Rotating::new(0).await;
    let answers = join_all((0..4).map(|_| rotating.refresh(&rotating.first))).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert_eq!((good.len(), bad.len()), (1, 3));
    for answer in bad {
        is_refused(answer);
    }
    assert!(!rotating.is_active(&good[0].json()).await);
    is_refused(&rotating.refresh(&good[0].json()).await);
}

/// Catalogue 14.2, number 23. What is not the client's neither works nor ends anything.
#[tokio::test]
async fn a_refresh_token_is_its_clients_alone() {
    let rotating = Rotating::new(30).await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    rotating.world.put_client("other", metadata).await;
    let secret =
        rotating.world.put_client("conf", json!({ "redirect_uris": [REDIRECT] })).await.expect("a secret");
    let token = text(&rotating.first, "refresh_token");
    for (client, secret) in [("other", ""), ("conf", secret.as_str())] {
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", client),
            ("client_secret", secret),
            ("refresh_token", token),
        ];
        is_refused(&rotating.world.post("/token", &fields).await);
    }
    assert!(rotating.is_active(&rotating.first).await);
    let second = rotating.next(&rotating.first).await;
    // One that was rotated is not to be told apart by others either.
    let fields = [("grant_type", "refresh_token"), ("client_id", "other"), ("refresh_token", token)];
    rotating.world.advance(Duration::from_secs(31));
    is_refused(&rotating.world.post("/token", &fields).await);
    rotating.next(&second).await;
}

/// RFC 6749, section 6.
#[tokio::test]
async fn scopes_may_be_fewer_and_never_more() {
    let rotating = Rotating::new(30).await;
    let token = text(&rotating.first, "refresh_token");
    for wider in ["admin", "mcp admin", "mcp user openid", "mcp nonsense"] {
        let answer = rotating.world.refresh(token, &[("scope", wider)]).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (StatusCode::BAD_REQUEST, "invalid_scope"),
            "{wider}"
        );
    }
    let fewer = rotating.world.refresh(token, &[("scope", "user")]).await.json();
    assert_eq!(
        (&fewer["scope"], claims(text(&fewer, "access_token"))["scope"].clone()),
        (&json!("user"), json!("user"))
    );
    let all = rotating.next(&fewer).await;
    assert_eq!(all["scope"], "mcp user", "the grant keeps what the user agreed to");
}

#[tokio::test]
async fn who_is_off_the_list_or_out_of_time_refreshes_nothing() {
    let rotating = Rotating::new(30).await;
    let idle = rotating.world.tokens(&rotating.world.browser(), "mcp", APP).await;
    let day = Duration::from_secs(24 * 3600);
    rotating.world.advance(89 * day);
    let second = rotating.next(&rotating.first).await;
    rotating.world.advance(2 * day);
    is_refused(&rotating.refresh(&idle).await);
    let third = rotating.next(&second).await;
    rotating.world.put_host("app.example.com", json!({ "auth_required_users": ["somebody"] })).await;
    is_refused(&rotating.refresh(&third).await);
    rotating.world.put_host("app.example.com", json!({ "auth_required_users": ["Mona"] })).await;
    is_refused(&rotating.refresh(&third).await);
}

/// However often it is used, a grant ends a year after the user has agreed.
#[tokio::test]
async fn a_grant_does_not_live_for_ever() {
    let rotating = Rotating::new(30).await;
    let mut tokens = rotating.first.clone();
    for _ in 0..4 {
        rotating.world.advance(Duration::from_secs(80 * 24 * 3600));
        tokens = rotating.next(&tokens).await;
    }
    rotating.world.advance(Duration::from_secs(45 * 24 * 3600));
    is_refused(&rotating.refresh(&tokens).await);
}
