//! Where clients can register themselves, and where they can't: as the deployment and as each host has it.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{Client, HOST, ISSUER, PORT, REDIRECT, World};
use crate::support::client::{self, Answer};
use crate::support::eventually;

const METADATA: &str = "/.well-known/oauth-authorization-server";

async fn try_to_register(world: &World, host: &str) -> Answer {
    let body = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let request = http::Request::post("/register")
        .header("host", format!("{host}:{PORT}"))
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(body.to_string().into()))
        .unwrap();
    client::secure(world.daemon.https, request).await
}

async fn metadata(world: &World, host: &str) -> Answer {
    world.visitor().send(Method::GET, &world.url(host, METADATA), &[], String::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_registration_is_off_nobody_registers_and_nobody_is_told_to() {
    let world = World::with(|command| {
        command.env("PORTCULLIS_OAUTH_REGISTRATION", "off");
    })
    .await;
    for host in [ISSUER, HOST] {
        let said = metadata(&world, host).await;
        assert_eq!(said.status, StatusCode::OK, "{host}");
        let said = said.json();
        assert!(said["token_endpoint"].is_string() && said.get("registration_endpoint").is_none(), "{said}");
        assert_eq!(try_to_register(&world, host).await.status, StatusCode::NOT_FOUND, "{host}");
    }
    let clients = world.daemon.api(Method::GET, "/oauth/clients", Value::Null).await;
    let text = clients.to_string();
    assert!(!text.contains(REDIRECT), "nothing was stored: {text}");

    // Those that an administrator sets up are clients as ever.
    let fields = json!({
        "client_id": "by-hand",
        "client_name": "By hand",
        "redirect_uris": [REDIRECT],
        "token_endpoint_auth_method": "none",
    });
    world.daemon.api(Method::POST, "/oauth/clients", fields).await;
    let by_hand = Client { id: "by-hand".to_owned() };
    let tokens = world.tokens_of(&by_hand, "alice", &[]).await;
    assert_eq!(world.get_as(HOST, "/mcp", &tokens.access).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_act_for_the_issuer_registers_nobody() {
    let world = World::new().await;
    for host in [ISSUER, HOST] {
        let endpoint = metadata(&world, host).await.json()["registration_endpoint"].clone();
        assert!(endpoint.as_str().is_some_and(|url| url.ends_with("/register")), "{host}: {endpoint}");
        assert_eq!(try_to_register(&world, host).await.status, StatusCode::CREATED, "{host}");
    }
    world.daemon.change(HOST, json!({ "resource_oauth_endpoints": false })).await;
    eventually("the host has no such endpoints", async || {
        // It is a path of the upstream's now, which needs a token like all others.
        (try_to_register(&world, HOST).await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert_ne!(metadata(&world, HOST).await.status, StatusCode::OK);
    assert_eq!(try_to_register(&world, ISSUER).await.status, StatusCode::CREATED, "the issuer does");
}
