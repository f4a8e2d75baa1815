//! Signing keys: how they rotate while tokens are made and used.

use std::collections::BTreeSet;
use std::process::Command;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::HOST;
use super::support::client::{Answer, get, get_as, plain, secure};
use super::support::daemon::Daemon;
use super::support::eventually;
use super::support::redis::RedisServer;
use super::support::upstream::Upstream;

/// As many tokens as a test may make, at most.
const MOST: usize = 400;

fn node(redis: &RedisServer) -> Daemon {
    Daemon::start_with(|command| shared(command, redis))
}

fn shared(command: &mut Command, redis: &RedisServer) {
    command.env("REDIS_URL", redis.url()).env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
    command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
}

/// A host that named tokens may use, those that are not there yet, too.
async fn protect(daemon: &Daemon, upstream: &Upstream) {
    let names: Vec<_> = (0..MOST).map(|n| format!("service:load-{n}")).collect();
    let fields = json!({ "auth_enabled": true, "auth_required_users": names });
    daemon.host(HOST, &upstream.url(), fields).await;
}

async fn ask(daemon: &Daemon, token: &str) -> Answer {
    plain(daemon.http, get_as(HOST, "/", token)).await
}

async fn keys(daemon: &Daemon) -> Vec<(String, String)> {
    let listed = daemon.api(Method::GET, "/oauth/keys", Value::Null).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed["keys"].as_array().unwrap().iter().map(|key| (text(&key["state"]), text(&key["kid"]))).collect()
}

async fn kid_of(daemon: &Daemon, name: &str) -> String {
    let token = daemon.api(Method::GET, &format!("/tokens/{name}"), Value::Null).await;
    token["key_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_rotation_under_load_refuses_no_token_on_any_node() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("app").await;
    let nodes = [node(&redis), node(&redis)];
    protect(&nodes[0], &upstream).await;
    eventually("the host is on both nodes", async || {
        (ask(&nodes[1], "none").await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    let before = keys(&nodes[0]).await;
    assert_eq!(before.len(), 1, "{before:?}");
    let first = before[0].1.clone();

    // Both nodes make tokens in turn, and each token is used at once on both; then all of them once more.
    let (mut tokens, mut rotated): (Vec<String>, Option<usize>) = (Vec::new(), None);
    let mut published = Vec::new();
    while rotated.is_none_or(|at| tokens.len() < at + 10) {
        let count = tokens.len();
        assert!(count < MOST, "the next key never signed");
        if count == 5 {
            let answer = nodes[0].api(Method::POST, "/oauth/keys/rotate", json!({ "signs_in": 2 })).await;
            assert_eq!(answer["keys"][0]["state"], "next", "{answer}");
            published = keys(&nodes[1]).await;
        }
        let name = format!("load-{count}");
        let token = nodes[count % 2].token(&name, HOST).await;
        for node in &nodes {
            let answer = ask(node, &token).await;
            assert_eq!(answer.status, StatusCode::OK, "token {count}: {answer:?}");
        }
        if rotated.is_none() && kid_of(&nodes[0], &name).await != first {
            rotated = Some(count);
        }
        tokens.push(token);
    }
    assert_eq!(
        published.len(),
        2,
        "the next key was known on the other node before it signed: {published:?}"
    );
    for (place, token) in tokens.iter().enumerate() {
        for node in &nodes {
            assert_eq!(ask(node, token).await.status, StatusCode::OK, "token {place}");
        }
    }
    for node in &nodes {
        let now = keys(node).await;
        let states: Vec<_> = now.iter().map(|(state, _)| state.as_str()).collect();
        assert_eq!(states, ["active", "retiring"]);
        assert_eq!(now[1].1, first);
        let published = secure(node.https, get("auth.localhost", "/jwks")).await.json();
        let published = published["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap());
        assert_eq!(published.collect::<BTreeSet<_>>(), now.iter().map(|(_, kid)| kid.as_str()).collect());
    }

    // The end of the overlap is the end of its tokens, on both nodes.
    let path = "/oauth/keys/retire";
    let asked = nodes[1].ask(Method::POST, path, &json!({})).await;
    assert_eq!(asked.status, StatusCode::UNPROCESSABLE_ENTITY, "{asked:?}");
    nodes[1].api(Method::POST, path, json!({ "confirm": true })).await;
    for node in &nodes {
        eventually("tokens of the old key end", async || {
            (ask(node, &tokens[0]).await.status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
        assert_eq!(ask(node, &tokens[tokens.len() - 1]).await.status, StatusCode::OK);
    }
}
