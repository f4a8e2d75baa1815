//! Signing keys that rotate while clients refresh and use their tokens on two nodes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::nodes::{get_as, nodes, post};
use super::world::{Client, Tokens, World, key_id};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::visitor::Visitor;

/// Clients that refresh at the same time.
const CLIENTS: usize = 6;

/// As many refreshes as a client may need, at most; a grant may have as many tokens as that at a time.
const MOST: usize = 60;

/// Refreshes that each client makes before the rotation, and after the new key has signed for it.
const SIDE: usize = 5;

async fn published(node: &Daemon, world: &World) -> BTreeSet<String> {
    let answer =
        Visitor::new(node.https).send(Method::GET, &world.at_issuer("/jwks"), &[], String::new()).await;
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Refreshes at both nodes in turn, and uses each token at once on both, until the other key has signed a few.
/// Nothing may be refused. All tokens, in order.
async fn load(
    nodes: [&Daemon; 2],
    world: &World,
    client: &Client,
    first: Tokens,
    rotated: &AtomicBool,
) -> Vec<Tokens> {
    let old = key_id(&first.access);
    let mut all = vec![first];
    let (mut before, mut after) = (0, 0);
    while before < SIDE || after < SIDE {
        assert!(all.len() < MOST, "the next key never signed");
        let last = &all[all.len() - 1];
        let pairs = [
            ("grant_type", "refresh_token"),
            ("refresh_token", last.refresh.as_str()),
            ("client_id", client.id.as_str()),
        ];
        let next = Tokens::of(&post(nodes[all.len() % 2], world, "/token", &pairs).await);
        for node in nodes {
            // More for the older tokens: they are what a rotation could break.
            for token in [&next, last, &all[0]] {
                let answer = get_as(node, "/mcp", &token.access).await;
                assert_eq!(answer.status, StatusCode::OK, "token {}: {answer:?}", all.len());
            }
        }
        if key_id(&next.access) == old {
            before += 1;
            if before == SIDE {
                rotated.store(true, Ordering::Relaxed);
            }
        } else {
            after += 1;
        }
        all.push(next);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_refreshes_refuses_nothing_that_is_good() {
    let redis = RedisServer::start();
    let (world, second) = nodes(&redis).await;
    let both = [&world.daemon, &second];
    let client = world.register(json!({})).await;
    let mut firsts = Vec::new();
    for _ in 0..CLIENTS {
        firsts.push(world.tokens_of(&client, "alice", &[]).await);
    }
    let old = key_id(&firsts[0].access);
    eventually("the host is on the second node", async || {
        (get_as(&second, "/mcp", &firsts[0].access).await.status == StatusCode::OK).then_some(())
    })
    .await;
    let begun = AtomicBool::new(false);
    let loads = futures_util::future::join_all(
        firsts.into_iter().map(|first| load(both, &world, &client, first, &begun)),
    );
    let rotate = async {
        eventually("the load is on", async || begun.load(Ordering::Relaxed).then_some(())).await;
        let answer = world.daemon.api(Method::POST, "/oauth/keys/rotate", json!({ "signs_in": 3 })).await;
        assert_eq!(answer["keys"][0]["state"], "next", "{answer}");
        let next = answer["keys"][0]["kid"].as_str().unwrap().to_owned();
        // Published everywhere while the old one signs.
        for node in both {
            eventually("the next key is published", async || {
                (published(node, &world).await == BTreeSet::from([old.clone(), next.clone()])).then_some(())
            })
            .await;
        }
        next
    };
    let (tokens, next) = tokio::join!(loads, rotate);
    let tokens: Vec<Tokens> = tokens.concat();
    let (of_old, of_new): (Vec<_>, Vec<_>) = tokens.iter().partition(|token| key_id(&token.access) == old);
    assert!(of_old.len() >= CLIENTS * SIDE && of_new.len() >= CLIENTS * SIDE);
    assert!(of_new.iter().all(|token| key_id(&token.access) == next));
    eprintln!("measured: {} tokens of the old key, {} of the new one", of_old.len(), of_new.len());
    for node in both {
        for token in &tokens {
            assert_eq!(get_as(node, "/mcp", &token.access).await.status, StatusCode::OK);
        }
        assert_eq!(published(node, &world).await, BTreeSet::from([old.clone(), next.clone()]));
    }

    // The old key is given up: what it signed is over on both nodes, and grants go on with the new one.
    second.api(Method::POST, "/oauth/keys/retire", json!({ "confirm": true })).await;
    let token = &of_old[0].access;
    for node in both {
        eventually("the old key's tokens are over", async || {
            let answer = get_as(node, "/mcp", token).await;
            (answer.status == StatusCode::UNAUTHORIZED).then_some(answer)
        })
        .await;
        assert_eq!(published(node, &world).await, BTreeSet::from([next.clone()]));
        for token in &of_old {
            let answer = get_as(node, "/mcp", &token.access).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""), "{answer:?}");
        }
        for token in &of_new {
            assert_eq!(get_as(node, "/mcp", &token.access).await.status, StatusCode::OK);
        }
    }
    let keys = second.api(Method::GET, "/oauth/keys", Value::Null).await;
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1), "{keys}");
    let last = of_new[of_new.len() - 1];
    let refreshed = Tokens::of(&world.refresh(&client, &last.refresh).await);
    assert_eq!(key_id(&refreshed.access), next);
}
