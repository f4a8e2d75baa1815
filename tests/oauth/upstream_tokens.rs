//! GitHub's tokens that a host wants to have kept: what administrators see of them, and when they end at GitHub.

use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::nodes::nodes;
use super::world::{HOST, PORT, World};
use crate::support::client::{self, Answer};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::github::App;
use crate::support::redis::RedisServer;
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

/// Has the MCP server behind the host called with GitHub's tokens.
async fn hand_out(world: &World, more: Value) {
    let mut mcp = json!({ "credentials": "github" });
    mcp.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.daemon.change(HOST, json!({ "oauth_vault_upstream_token": true, "mcp": mcp })).await;
}

/// Calls the server; it tells what it has got.
async fn call(node: &Daemon, token: &str) -> Answer {
    let request = Request::post("/mcp")
        .header("host", format!("{HOST}:{PORT}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Full::new(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.into()))
        .unwrap();
    client::secure(node.https, request).await
}

/// What the server has got in a header.
fn got(answer: &Answer, name: &str) -> Option<String> {
    let seen = answer.json();
    let headers = seen["headers"].as_array()?.clone();
    headers.iter().find(|header| header[0] == name).map(|header| header[1].as_str().unwrap().to_owned())
}

/// Waits until the server gets this token.
async fn gets(world: &World, node: &Daemon, token: &str, github: &str) {
    let wanted = format!("Bearer {github}");
    eventually("the server gets GitHub's token", async || {
        let answer = call(node, token).await;
        assert!(
            got(&answer, "authorization").is_none_or(|value| !value.contains(token)),
            "never the client's"
        );
        (got(&answer, "authorization").as_ref() == Some(&wanted)).then_some(())
    })
    .await;
    assert!(!world.daemon.logged().contains(github));
}

/// Waits until it is refused for want of a token.
async fn lacks(node: &Daemon, token: &str) {
    eventually("there is no token", async || {
        let answer = call(node, token).await;
        let said = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        (answer.status == StatusCode::FORBIDDEN && said.contains("sign in again")).then_some(())
    })
    .await;
}

fn only(world: &World) -> String {
    let tokens = world.github.tokens();
    let [token] = &tokens[..] else { panic!("{} tokens", tokens.len()) };
    token.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mcp_server_is_called_with_the_token_that_github_gave_its_user() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    // Before anything is kept.
    let early = world.tokens_of(&client, "alice", &[]).await.access;
    hand_out(&world, json!({})).await;
    lacks(&world.daemon, &early).await;
    // Who signs in again has one, whichever token the client has; and at once, for it is this node's.
    let later = world.tokens_of(&client, "alice", &[]).await.access;
    let first = only(&world);
    for token in [&later, &early] {
        let answer = call(&world.daemon, token).await;
        assert_eq!(got(&answer, "authorization"), Some(format!("Bearer {first}")), "{answer:?}");
    }
    let newest = world.tokens_of(&client, "alice", &[]).await.access;
    let answer = call(&world.daemon, &newest).await;
    let second = got(&answer, "authorization").unwrap();
    assert_ne!(second, format!("Bearer {first}"), "a login brings another one");
    eventually("the one before has ended", async || (world.github.tokens().len() == 1).then_some(())).await;
    assert_eq!(second, format!("Bearer {}", only(&world)));

    // Another header has no scheme.
    hand_out(&world, json!({ "credential_header": "x-github-token" })).await;
    eventually("another header", async || {
        let answer = call(&world.daemon, &newest).await;
        (got(&answer, "x-github-token")? == only(&world) && got(&answer, "authorization").is_none())
            .then_some(())
    })
    .await;
    hand_out(&world, json!({ "credential_header": "authorization" })).await;
    gets(&world, &world.daemon, &newest, &only(&world)).await;

    // It goes with whatever ends it.
    let id = listed(&world)[0]["token_id"].as_str().unwrap().to_owned();
    world.daemon.run(&["oauth", "upstream-token", "end", &id]);
    assert_eq!(call(&world.daemon, &newest).await.status, StatusCode::FORBIDDEN, "at once");
    lacks(&world.daemon, &newest).await;
    world.tokens_of(&client, "alice", &[]).await;
    gets(&world, &world.daemon, &newest, &only(&world)).await;
    // That of another app is not for this host any more.
    world.github.add_app(App::new("Iv1.own", "own-secret", "https://auth.localhost:8443"));
    world.daemon.run(&["proxy", "github", "set", HOST, "Iv1.own", "own-secret"]);
    lacks(&world.daemon, &newest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_calls_with_githubs_token_and_none_when_it_has_ended() {
    let redis = RedisServer::start();
    let (world, second) = nodes(&redis).await;
    let client = world.register(json!({})).await;
    hand_out(&world, json!({})).await;
    let early = world.tokens_of(&client, "alice", &[]).await.access;
    gets(&world, &second, &early, &only(&world)).await;
    // Another one, which the other node is told of.
    let token = world.tokens_of(&client, "alice", &[]).await.access;
    eventually("the one before has ended", async || (world.github.tokens().len() == 1).then_some(())).await;
    for node in [&world.daemon, &second] {
        gets(&world, node, &token, &only(&world)).await;
    }
    let id = listed(&world)[0]["token_id"].as_str().unwrap().to_owned();
    world.daemon.run(&["oauth", "upstream-token", "end", &id]);
    for node in [&world.daemon, &second] {
        lacks(node, &token).await;
    }
}
