//! Clients: who they are, how they become known, what they are told.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{APP, Answer, Authorization, CLIENT, ISSUER, REDIRECT, World, basic, header, text};

async fn register(world: &World, body: Value) -> Answer {
    let headers = header("content-type", "application/json");
    world.request(CLIENT, Method::POST, &format!("{ISSUER}/register"), headers, body.to_string()).await
}

/// Number 22: a secret counted only if one was sent, so introspection and revocation were for everybody.
#[tokio::test]
async fn who_has_a_secret_must_show_it_at_every_endpoint() {
    let world = World::new().await;
    let grants = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"];
    let metadata = json!({ "redirect_uris": [REDIRECT], "grant_types": grants });
    let secret = world.put_client("conf", metadata).await.expect("a secret");
    let registered =
        register(&world, json!({ "redirect_uris": [REDIRECT], "grant_types": grants })).await.json();
    let (id, own) = (text(&registered, "client_id"), text(&registered, "client_secret"));
    for (client, secret, foreign) in [("conf", secret.as_str(), own), (id, own, secret.as_str())] {
        for path in ["/token", "/introspect", "/revoke", "/device/code", "/device/token"] {
            let fields = vec![("grant_type", "refresh_token"), ("refresh_token", "pcr_x"), ("token", "x")];
            let named = [&fields[..], &[("client_id", client)]].concat();
            let proved = |secret| [&named[..], &[("client_secret", secret)]].concat();
            for (headers, fields) in [
                (HeaderMap::new(), fields.clone()),
                (HeaderMap::new(), named.clone()),
                (HeaderMap::new(), proved("")),
                (HeaderMap::new(), proved("wrong")),
                (HeaderMap::new(), proved(foreign)),
                (basic(client, "wrong"), fields.clone()),
                (basic(client, ""), fields.clone()),
                (basic(client, foreign), fields.clone()),
            ] {
                let answer = world.post_with(path, &fields, headers).await;
                assert_eq!(
                    (answer.status, answer.error().as_str()),
                    (StatusCode::UNAUTHORIZED, "invalid_client"),
                    "{client} {path} {fields:?}"
                );
            }
            let known = world.post_with(path, &fields, basic(client, secret)).await;
            assert_ne!(known.status, StatusCode::UNAUTHORIZED, "{client} {path}: {}", known.text());
        }
    }
}

/// Number 33: clients chose their ids, and whoever wanted filled the store with them for ever.
#[tokio::test]
async fn a_registration_that_nobody_uses_is_gone_in_an_hour() {
    let world = World::new().await;
    world.stop_time();
    let public =
        || json!({ "client_id": "web", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let (unused, used) = (register(&world, public()).await.json(), register(&world, public()).await.json());
    assert_ne!(text(&unused, "client_id"), "web", "nobody chooses an id");
    assert_ne!(unused["client_id"], used["client_id"]);
    let page = async |client: &Value| {
        let asked =
            Authorization::new(text(client, "client_id"), REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
        world.browser().go(&asked.url).await
    };
    let asked = [("scope", "mcp"), ("resource", APP)];
    let tokens = world.tokens_of(&world.browser(), text(&used, "client_id"), "", &asked).await;
    world.advance(Duration::from_secs(3599));
    assert_eq!(page(&unused).await.status, StatusCode::OK, "to look at the page is no use of it");
    world.advance(Duration::from_secs(1));
    let gone = page(&unused).await;
    assert_eq!((gone.status, gone.location()), (StatusCode::BAD_REQUEST, ""), "it registers anew");
    assert_eq!(page(&used).await.status, StatusCode::OK);
    let refresh = [
        ("grant_type", "refresh_token"),
        ("client_id", text(&used, "client_id")),
        ("refresh_token", text(&tokens, "refresh_token")),
    ];
    assert_eq!(world.post("/token", &refresh).await.status, StatusCode::OK);
    let stale = [
        ("grant_type", "refresh_token"),
        ("client_id", text(&unused, "client_id")),
        ("refresh_token", "pcr_x"),
    ];
    let answer = world.post("/token", &stale).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
}

/// Number 34: registration lost what it was told, metadata named no device endpoint and members of no RFC, and the
/// error for a wrong resource had a name of its own.
#[tokio::test]
async fn answers_and_documents_are_those_of_the_rfcs() {
    let world = World::new().await;
    world.put_public_client().await;
    let asked = json!({
        "client_name": "A client", "redirect_uris": [REDIRECT], "scope": "mcp", "contacts": ["a@example.com"],
        "client_uri": "https://client.example.com/", "token_endpoint_auth_method": "client_secret_post",
        "grant_types": ["authorization_code"], "response_types": ["code"], "software_id": "s",
        "software_version": "1", "policy_uri": "https://client.example.com/p", "tos_uri": "https://client.example.com/t",
        "logo_uri": "https://client.example.com/l.png",
    });
    let echoed = register(&world, asked.clone()).await;
    assert_eq!(echoed.status, StatusCode::CREATED);
    let echoed = echoed.json();
    for (name, value) in asked.as_object().expect("an object") {
        assert_eq!(&echoed[name], value, "{name}");
    }
    assert!(echoed["client_secret_expires_at"].is_u64(), "a number, whenever there is a secret: {echoed}");

    let url = format!("{ISSUER}/.well-known/oauth-authorization-server");
    let document = world.request(CLIENT, Method::GET, &url, HeaderMap::new(), String::new()).await.json();
    assert_eq!(document["device_authorization_endpoint"], format!("{ISSUER}/device/code"));
    let grants = document["grant_types_supported"].as_array().expect("a list");
    assert!(grants.contains(&json!("urn:ietf:params:oauth:grant-type:device_code")));
    assert!(document.get("resource_indicators_supported").is_none());

    let wrong = [("scope", "mcp"), ("resource", "https://nowhere.example.com")];
    let answer = world.browser().go(&Authorization::new("web", REDIRECT, &wrong).url).await;
    assert_eq!(answer.redirected_error(), "invalid_target");
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    let refresh =
        world.refresh(text(&tokens, "refresh_token"), &[("resource", "https://nowhere.example.com")]).await;
    assert_eq!((refresh.status, refresh.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_target"));
}
