//! Two nodes on one Redis: what begins on one goes on at the other, once.

use std::process::Command;
use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::json;

use super::world::{HOST, PORT, REDIRECT, VERIFIER, World, start};
use crate::support::client::{self, Answer};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::support::visitor::{Visitor, form_of};

/// How long nodes may differ.
const SOON: Duration = Duration::from_secs(1);

pub(crate) async fn nodes(redis: &RedisServer) -> (World, Daemon) {
    nodes_with(redis, |_| ()).await
}

/// Two nodes with a changed command.
pub(crate) async fn nodes_with(redis: &RedisServer, change: impl Fn(&mut Command)) -> (World, Daemon) {
    let shared = |command: &mut Command| {
        command
            .env("REDIS_URL", redis.url())
            .env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
        change(command);
    };
    let world = World::with(shared).await;
    let second = start(&world.github, None, shared);
    (world, second)
}

/// Posts a form to a node as the issuer.
pub(crate) async fn post(node: &Daemon, world: &World, path: &str, pairs: &[(&str, &str)]) -> Answer {
    let body = form_of(pairs.iter().copied());
    Visitor::new(node.https).send(http::Method::POST, &world.at_issuer(path), &[], body).await
}

/// Asks a node for a path of the host.
pub(crate) async fn get_as(node: &Daemon, path: &str, token: &str) -> Answer {
    client::secure(node.https, client::get_as(&format!("{HOST}:{PORT}"), path, token)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_of_one_node_is_redeemed_once_on_both() {
    let redis = RedisServer::start();
    let (world, second) = nodes(&redis).await;
    let client = world.register(json!({})).await;
    let redeem = |code: String| {
        let (world, second, client) = (&world, &second, &client);
        async move {
            let pairs = [
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("client_id", &client.id),
                ("redirect_uri", REDIRECT),
                ("code_verifier", VERIFIER),
            ];
            post(second, world, "/token", &pairs).await
        }
    };
    let answer = redeem(world.code(&client).await).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    for node in [&world.daemon, &second] {
        assert_eq!(get_as(node, "/mcp", &token).await.status, StatusCode::OK);
    }
    // The same code on both at once: one wins, and the replay ends what it got.
    let code = world.code(&client).await;
    let (one, two) = tokio::join!(world.redeem(&client, &code), redeem(code.clone()));
    let good = [&one, &two].into_iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(good, 1, "{one:?} {two:?}");
    let errors = [&one, &two].into_iter().filter(|answer| answer.status == StatusCode::BAD_REQUEST);
    for answer in errors {
        assert_eq!(answer.json()["error"], "invalid_grant");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_closes_an_open_stream_on_the_other_node_and_no_other() {
    let redis = RedisServer::start();
    let (world, second) = nodes(&redis).await;
    let client = world.register(json!({})).await;
    let (ended, lasting) = (world.tokens(&client).await, world.tokens(&client).await);
    eventually("the host is on the second node", async || {
        let answer = get_as(&second, "/mcp", lasting["access_token"].as_str().unwrap()).await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    let open = async |token: &serde_json::Value| {
        let token = token["access_token"].as_str().unwrap();
        let stream = client::handshake(second.https, HOST, &[b"http/1.1"]).await.unwrap();
        let mut response =
            client::open(stream, client::get_as(&format!("{HOST}:{PORT}"), "/events", token)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let first = response.body_mut().frame().await.expect("an event").expect("an event");
        assert!(first.is_data());
        response
    };
    let (mut ended_stream, mut lasting_stream) = (open(&ended).await, open(&lasting).await);
    let began = Instant::now();
    let pairs = [("token", ended["refresh_token"].as_str().unwrap()), ("client_id", client.id.as_str())];
    assert_eq!(world.post("/revoke", &pairs).await.status, StatusCode::OK);
    while let Some(frame) = ended_stream.body_mut().frame().await {
        if frame.is_err() {
            break;
        }
    }
    let took = began.elapsed();
    // Loaded machines are slow; what counts is that it is not the token's end that closes it.
    assert!(took < SOON * 10, "{took:?}");
    let still = tokio::time::timeout(Duration::from_millis(300), async {
        while let Some(Ok(_)) = lasting_stream.body_mut().frame().await {}
    });
    assert!(still.await.is_err(), "the stream of another grant goes on");
}
