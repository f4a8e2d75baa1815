//! Nodes whose clocks differ: tokens of one that is ahead or behind, on another one.
//!
//! Both have an imported key, which the test has as well: what it signs with other times is what a node with another
//! clock signs.

use http::StatusCode;
use serde_json::{Value, json};

use super::nodes::{get_as, nodes_with, post};
use super::world::{HOST, ISSUER, PORT, World};
use crate::support::client::{self, Answer};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::issuer::{Key, at, with};
use crate::support::redis::RedisServer;
use crate::support::streams::{Open, Way};

/// What is borne with between clocks, in seconds.
const LEEWAY: i64 = 60;

/// Far enough from the leeway's end that a slow test does not matter.
const SLACK: i64 = 20;

struct Site {
    world: World,
    second: Daemon,
    key: Key,
    _redis: RedisServer,
}

impl Site {
    async fn new() -> Self {
        let (redis, key) = (RedisServer::start(), Key::rsa("own"));
        let (world, second) = nodes_with(&redis, |command| {
            command.env("OAUTH_JWT_PRIVATE_KEY_B64", key.private_b64());
        })
        .await;
        let site = Self { world, second, key, _redis: redis };
        let good = site.token(&[]);
        eventually("the host is on the second node", async || {
            (get_as(&site.second, "/mcp", &good).await.status == StatusCode::OK).then_some(())
        })
        .await;
        site
    }

    /// A token with some claims changed.
    fn token(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "iss": format!("https://{ISSUER}:{PORT}"), "aud": self.world.resource(HOST), "sub": "1",
            "username": "alice", "client_id": "c", "scope": "mcp:read openid", "jti": format!("jti-{}", changes.len()),
            "iat": at(-5), "exp": at(600),
        });
        for (name, value) in changes {
            claims = with(claims, name, value.clone());
        }
        self.key.sign_text(r#"{"alg":"RS256","typ":"at+jwt"}"#, &claims.to_string())
    }

    fn nodes(&self) -> [&Daemon; 2] {
        [&self.world.daemon, &self.second]
    }
}

/// Another proxy's question about a request with this token.
async fn verify(node: &Daemon, token: &str) -> Answer {
    let request = http::Request::get("/verify")
        .header("host", format!("{ISSUER}:{PORT}"))
        .header("x-forwarded-method", "GET")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", format!("{HOST}:{PORT}"))
        .header("x-forwarded-uri", "/mcp")
        .header("authorization", format!("Bearer {token}"));
    client::secure(node.https, request.body(http_body_util::Full::default()).unwrap()).await
}

/// What is told, the claims that differ, and why it is refused, if it is.
type Case = (&'static str, Vec<(&'static str, Value)>, Option<&'static str>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_node_with_another_clock_are_good_within_the_leeway_only() {
    let site = Site::new().await;
    let (within, beyond) = (LEEWAY - SLACK, LEEWAY + SLACK);
    let cases: [Case; 9] = [
        ("made by a node ahead", vec![("iat", json!(at(within)))], None),
        ("with its nbf", vec![("iat", json!(at(within))), ("nbf", json!(at(within)))], None),
        ("too far ahead", vec![("iat", json!(at(beyond)))], Some("The access token is not valid yet")),
        ("nbf too far ahead", vec![("nbf", json!(at(beyond)))], Some("The access token is not valid yet")),
        (
            "an hour ahead",
            vec![("iat", json!(at(3600))), ("exp", json!(at(7200)))],
            Some("The access token is not valid yet"),
        ),
        ("ended for a node ahead", vec![("exp", json!(at(-within)))], None),
        ("ended for all", vec![("exp", json!(at(-beyond)))], Some("The access token expired")),
        ("without an end", vec![("exp", Value::Null)], Some("The access token is invalid")),
        (
            "in fractions",
            vec![("nbf", json!(1.5)), ("exp", serde_json::from_str(&format!("{}.5", at(600))).unwrap())],
            None,
        ),
    ];
    for (what, changes, refused) in cases {
        let token = site.token(&changes);
        for node in site.nodes() {
            // Twice: the second time from the cache.
            for _ in 0..2 {
                let answer = get_as(node, "/mcp", &token).await;
                let verified = verify(node, &token).await;
                let challenge = answer.header("www-authenticate");
                match refused {
                    None => assert_eq!(
                        (answer.status, verified.status),
                        (StatusCode::OK, StatusCode::OK),
                        "{what}: {challenge}"
                    ),
                    Some(why) => {
                        assert_eq!(
                            (answer.status, verified.status),
                            (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
                            "{what}"
                        );
                        assert!(
                            challenge.contains("error=\"invalid_token\"") && challenge.contains(why),
                            "{what}: {challenge}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_node_ahead_can_be_used_watched_and_revoked_like_any_other() {
    let site = Site::new().await;
    let world = &site.world;
    let client = world.register(json!({})).await;
    let ahead = |jti: &str| {
        let iat = at(LEEWAY - SLACK);
        site.token(&[
            ("iat", json!(iat)),
            ("exp", json!(iat + 600)),
            ("jti", json!(jti)),
            ("client_id", json!(client.id)),
        ])
    };
    let (ended, lasting) = (ahead("ended"), ahead("lasting"));
    let host = format!("{HOST}:{PORT}");
    let open = async |token: &str| {
        let headers = [("authorization", format!("Bearer {token}"))];
        Open::begin(Way::Events2, site.second.https, &host, "", &headers).await
    };
    let (victim, mut neighbour) = (open(&ended).await, open(&lasting).await);
    let pairs = [("token", ended.as_str()), ("client_id", &client.id)];
    assert_eq!(post(&world.daemon, world, "/revoke", &pairs).await.status, StatusCode::OK);
    victim.ended().await;
    neighbour.delivers().await;
    for node in site.nodes() {
        let answer = get_as(node, "/mcp", &ended).await;
        assert!(answer.header("www-authenticate").contains("was revoked"), "{answer:?}");
        assert_eq!(get_as(node, "/mcp", &lasting).await.status, StatusCode::OK);
    }
    // A stream does not outlive its token by the leeway.
    let over = site.token(&[("exp", json!(at(-SLACK)))]);
    let headers = [("authorization", format!("Bearer {over}"))];
    let mut request = client::get(&host, "/events");
    for (name, value) in headers {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = client::secure(site.second.https, request).await;
    assert_eq!(answer.status, StatusCode::OK, "read to its end, though the upstream would never end it");
}
