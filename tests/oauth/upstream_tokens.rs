//! GitHub's tokens that a host wants to have kept: what administrators see of them, and when they end at GitHub.

use http::StatusCode;
use serde_json::{Value, json};

use super::world::{HOST, World};
use crate::support::eventually;
use crate::support::github::App;
use crate::support::visitor::Visitor;

async fn world() -> World {
    let world = World::new().await;
    let fields = json!({ "auth_mode": "redirect", "resource_endpoint": null, "resource_scopes": null });
    world.daemon.change(HOST, fields).await;
    world.daemon.change(HOST, json!({ "oauth_vault_upstream_token": true })).await;
    world
}

async fn sign_in(world: &World, visitor: &mut Visitor, host: &str) {
    let page = visitor.open(&world.url(host, "/"), "").await;
    let page = world.sign_in(visitor, page, "alice").await;
    assert_eq!(page.answer().status, StatusCode::OK, "{}", page.text());
}

fn listed(world: &World) -> Vec<Value> {
    let page = world.daemon.run(&["oauth", "upstream-token", "list"]);
    page["upstream_tokens"].as_array().unwrap().clone()
}

/// Waits until GitHub knows no token any more; none is listed then.
async fn gone(world: &World, why: &str) {
    eventually(why, async || world.github.tokens().is_empty().then_some(())).await;
    assert_eq!(listed(world), [] as [Value; 0], "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_see_whose_tokens_there_are_and_never_the_tokens() {
    let world = world().await;
    let mut visitor = world.visitor();
    sign_in(&world, &mut visitor, HOST).await;
    let [token] = &world.github.tokens()[..] else { panic!("one token") };
    let entries = listed(&world);
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    for (name, value) in [
        ("proxy_hostname", HOST),
        ("user_id", "1"),
        ("username", "alice"),
        ("github_client_id", "Iv1.test"),
        ("scope", "read:user user:email"),
    ] {
        assert_eq!(entry[name], value, "{name}");
    }
    for (narrowed, count) in [
        (["--username", "Alice"], 1),
        (["--username", "bob"], 0),
        (["--proxy-hostname", HOST], 1),
        (["--proxy-hostname", "other.localhost"], 0),
    ] {
        let page = world.daemon.run(&[&["oauth", "upstream-token", "list"], &narrowed[..]].concat());
        assert_eq!(page["pagination"]["total"], count, "{narrowed:?}");
    }
    let shown = world.daemon.run(&["proxy", "show", HOST]);
    assert_eq!(shown["oauth_vault_upstream_token"], true);
    let said = format!("{entries:?} {shown} {}", world.daemon.logged());
    assert!(!said.contains(token.as_str()) && !said.contains("app-secret"));

    let id = entry["token_id"].as_str().unwrap();
    let ended = world.daemon.run(&["oauth", "upstream-token", "end", id]);
    assert_eq!((&ended["status"], &ended["at_github"]), (&json!("ended"), &json!(true)));
    assert!(world.github.tokens().is_empty() && listed(&world).is_empty());
    let again = world.daemon.cli(&["oauth", "upstream-token", "end", id]);
    assert!(!again.status.success());
    // The session goes on, and the next one goes to GitHub for another token.
    let mut other = world.visitor();
    sign_in(&world, &mut other, HOST).await;
    let user = entry["user_id"].as_str().unwrap();
    world.daemon.run(&["oauth", "session", "revoke-user", user]);
    gone(&world, "all sessions of the user were ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_end_at_github_when_their_host_wants_none_or_is_gone() {
    let world = world().await;
    sign_in(&world, &mut world.visitor(), HOST).await;
    assert_eq!(world.github.tokens().len(), 1);
    world.daemon.change(HOST, json!({ "oauth_vault_upstream_token": false })).await;
    gone(&world, "the host wants none").await;

    // Through its own app, whose secret goes with the host.
    world.github.add_app(App::new("Iv1.own", "own-secret", "https://auth.localhost:8443"));
    world.daemon.run(&["proxy", "github", "set", HOST, "Iv1.own", "own-secret"]);
    world.daemon.change(HOST, json!({ "oauth_vault_upstream_token": true })).await;
    sign_in(&world, &mut world.visitor(), HOST).await;
    assert_eq!(listed(&world)[0]["github_client_id"], "Iv1.own");
    world.daemon.run(&["proxy", "delete", HOST]);
    gone(&world, "the host is gone").await;
}
