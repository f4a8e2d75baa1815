//! Refresh tokens: rotation, what several processes of one client do at the same time, and how grants end.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use http::StatusCode;
use serde_json::json;

use super::world::{HOST, World};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_refreshes_of_one_token_at_once_leave_one_family_alive() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let tokens = world.tokens(&client).await;
    let first = tokens["refresh_token"].as_str().unwrap();
    assert!(first.starts_with("pcr_"));
    let answers = join_all((0..10).map(|_| world.refresh(&client, first))).await;
    let mut successors = BTreeSet::new();
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let tokens = answer.json();
        successors.insert(tokens["refresh_token"].as_str().unwrap().to_owned());
        let token = tokens["access_token"].as_str().unwrap();
        assert_eq!(world.get_as(HOST, "/mcp", token).await.status, StatusCode::OK);
    }
    assert_eq!(successors.len(), 1, "{successors:?}");
    let next = successors.first().unwrap();
    assert_ne!(next, first);
    assert_eq!(world.refresh(&client, next).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_window_a_token_is_good_once_and_a_replay_ends_the_family() {
    let world = World::with(|command| {
        command.env("PORTCULLIS_OAUTH_REFRESH_WINDOW", "0");
    })
    .await;
    let client = world.register(json!({})).await;
    let tokens = world.tokens(&client).await;
    let first = tokens["refresh_token"].as_str().unwrap();
    let second = world.refresh(&client, first).await.json();
    let replay = world.refresh(&client, first).await;
    assert_eq!((replay.status, &replay.json()["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    let successor = world.refresh(&client, second["refresh_token"].as_str().unwrap()).await;
    assert_eq!(successor.json()["error"], "invalid_grant");
    let token = second["access_token"].as_str().unwrap();
    assert_eq!(world.get_as(HOST, "/mcp", token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_for_its_client_and_narrows_only() {
    let world = World::new().await;
    let (client, other) = (world.register(json!({})).await, world.register(json!({})).await);
    let tokens = world.tokens(&client).await;
    let refresh = tokens["refresh_token"].as_str().unwrap();
    assert_eq!(world.refresh(&other, refresh).await.json()["error"], "invalid_grant");
    let with = async |name: &str, value: &str| {
        let pairs = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh),
            ("client_id", client.id.as_str()),
            (name, value),
        ];
        world.post("/token", &pairs).await.json()
    };
    assert_eq!(with("scope", "mcp:read mcp:write").await["error"], "invalid_scope");
    assert_eq!(with("resource", "https://elsewhere.example").await["error"], "invalid_target");
    assert_eq!(with("scope", "mcp:read").await["scope"], "mcp:read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_taken_off_the_list_is_out_at_once_and_gets_no_more() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let tokens = world.tokens(&client).await;
    let token = tokens["access_token"].as_str().unwrap();
    assert_eq!(world.get_as(HOST, "/mcp", token).await.status, StatusCode::OK);
    world.daemon.change(HOST, json!({ "auth_required_users": ["bob"] })).await;
    eventually("the list is in force", async || {
        let answer = world.get_as(HOST, "/mcp", token).await;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    let refused = world.refresh(&client, tokens["refresh_token"].as_str().unwrap()).await;
    assert_eq!(refused.json()["error"], "invalid_grant");
    // The grant has ended: being on the list again brings nothing back.
    world.daemon.change(HOST, json!({ "auth_required_users": ["alice"] })).await;
    let refused = world.refresh(&client, tokens["refresh_token"].as_str().unwrap()).await;
    assert_eq!(refused.json()["error"], "invalid_grant");
}
