//! Other proxies ask the daemon whether a request may pass.

use http::StatusCode;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::redis::RedisServer;
use crate::world::{HOST, ISSUER, World};

/// Asks as Traefik does, about a page on a host.
pub(crate) async fn ask(world: &World, host: &str, more: &[(&str, &str)]) -> Answer {
    ask_about(world, host, "/mcp?a=b", more).await
}

async fn ask_about(world: &World, host: &str, uri: &str, more: &[(&str, &str)]) -> Answer {
    let mut request = http::Request::get("/verify")
        .header("host", format!("{ISSUER}:{}", world.daemon.https.port()))
        .header("x-forwarded-method", "GET")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", host)
        .header("x-forwarded-uri", uri)
        .header("x-forwarded-for", "203.0.113.9");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    client::secure(world.daemon.https, request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn what_another_proxy_says_reaches_verify_and_nobody_else() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let tokens = world.tokens(&client).await;
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let bearer = ("authorization", bearer.as_str());

    let yes = ask(&world, HOST, &[bearer, ("x-auth-user", "root")]).await;
    assert_eq!(yes.status, StatusCode::OK, "{}", String::from_utf8_lossy(&yes.body));
    assert_eq!(yes.headers["x-auth-user"], "alice");
    assert_eq!(yes.headers["x-auth-user-id"], "1");
    assert_eq!(yes.headers["x-auth-scopes"], "mcp:read");

    let no = ask(&world, HOST, &[]).await;
    assert_eq!(no.status, StatusCode::UNAUTHORIZED);
    assert!(no.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer realm="));
    let contradiction = ask(&world, HOST, &[bearer, ("x-original-method", "POST")]).await;
    assert_eq!(contradiction.status, StatusCode::BAD_REQUEST);

    world.daemon.change(HOST, json!({ "allowed_networks": ["203.0.113.0/24"] })).await;
    let elsewhere = ask(&world, HOST, &[bearer]).await;
    assert_eq!(elsewhere.status, StatusCode::FORBIDDEN, "this proxy's word about addresses is not trusted");
}

/// A deployment on a Redis.
async fn shared(redis: &RedisServer) -> World {
    World::with(|command| {
        command
            .env("REDIS_URL", redis.url())
            .env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_emptied_changes_no_answer_until_it_is_accepted() {
    let redis = RedisServer::start();
    let world = shared(&redis).await;
    let client = world.register(json!({})).await;
    let (alice, bob) = (world.tokens_of(&client, "alice", &[]).await.access, {
        world.daemon.change(HOST, json!({ "auth_required_users": ["alice", "bob"] })).await;
        let tokens = world.tokens_of(&client, "bob", &[]).await.access;
        world.daemon.change(HOST, json!({ "auth_required_users": ["alice"] })).await;
        tokens
    });
    // What the edge says of a request, and what another proxy is told of the same.
    let both = async |host: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let told = ask(&world, host, if token.is_empty() { &[] } else { &headers }).await;
        (world.get_as(host, "/mcp", token).await.status, told.status)
    };
    let judged = async || {
        (
            both(HOST, &alice).await,
            both(HOST, &bob).await,
            both(HOST, "none").await,
            ask(&world, "unknown.localhost", &[]).await.status,
        )
    };
    let (yes, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
    let before = ((yes, yes), (no, no), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED), no);
    eventually("the list is in force", async || (judged().await == before).then_some(())).await;

    let _: () = redis.admin(&["FLUSHALL"]).await.unwrap();
    world.daemon.wait_for_log("it waits for `system accept-store`");
    assert_eq!(
        world.daemon.ask(http::Method::GET, "/health", &Value::Null).await.json()["store"],
        "replaced"
    );
    assert_eq!(judged().await, before, "nobody has accepted it");

    // Accepted, it is what counts: the host is gone for both.
    world.daemon.api(http::Method::POST, "/system/accept-store", Value::Null).await;
    let bearer = format!("Bearer {alice}");
    eventually("the host is gone", async || {
        // Not over TLS: there is no certificate for it any more.
        let edge = client::plain(world.daemon.http, client::get_as(HOST, "/mcp", &alice)).await;
        let told = ask(&world, HOST, &[("authorization", &bearer)]).await;
        (edge.status == StatusCode::NOT_FOUND && told.status == no).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_can_not_be_read_any_more_protects_as_before() {
    let redis = RedisServer::start();
    let world = shared(&redis).await;
    let client = world.register(json!({})).await;
    let token = world.tokens_of(&client, "alice", &[]).await.access;
    world
        .daemon
        .route(json!({
            "route_id": "inner", "path_pattern": "/inner", "target_type": "url", "scope": "proxy",
            "target_value": world.upstream.url(), "proxy_hostnames": [HOST], "override_proxy_auth": true,
            "auth_config": { "auth_type": "bearer", "allowed_users": ["bob"] },
        }))
        .await;
    let bearer = format!("Bearer {token}");
    let judged = async || {
        let told = ask_about(&world, HOST, "/inner/x", &[("authorization", &bearer)]).await;
        (world.get_as(HOST, "/inner/x", &token).await.status, told.status)
    };
    let no = (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN);
    eventually("the route is in force", async || (judged().await == no).then_some(())).await;
    // By hand, and then a change of something else, with which the store is read again.
    let _: i64 =
        redis.admin(&["HSET", "{portcullis}:route", "inner", "9 {\"path_pattern\": 1}"]).await.unwrap();
    world.daemon.change(HOST, json!({ "auth_realm": "changed" })).await;
    world.daemon.wait_for_log("its last readable state is in force");
    assert_eq!(judged().await, no);
}
