//! Other proxies ask the daemon whether a request may pass.

use http::StatusCode;
use http_body_util::Full;
use serde_json::json;

use crate::support::client::{self, Answer};
use crate::world::{HOST, ISSUER, World};

/// Asks as Traefik does, about a page on a host.
async fn ask(world: &World, host: &str, more: &[(&str, &str)]) -> Answer {
    let mut request = http::Request::get("/verify")
        .header("host", format!("{ISSUER}:{}", world.daemon.https.port()))
        .header("x-forwarded-method", "GET")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", host)
        .header("x-forwarded-uri", "/mcp?a=b")
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
