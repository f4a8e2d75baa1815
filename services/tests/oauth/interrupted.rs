//! What failed halfway is finished by who repeats it: nothing that was to end stays good.

use http::StatusCode;
use serde_json::Value;

use crate::world::{APP, ISSUER, World};

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

async fn is_active(world: &World, watcher: &str, token: &str) -> bool {
    let fields = [("client_id", "rs"), ("client_secret", watcher), ("token", token)];
    world.post("/introspect", &fields).await.json()["active"] == true
}

/// What another node believes: it only has what the store was told.
async fn is_revoked_elsewhere(world: &World, token: &str) -> bool {
    let store =
        std::sync::Arc::<_>::clone(&world.store) as std::sync::Arc<dyn portcullis_services::store::Store>;
    let other = portcullis_services::oauth::Revocations::new(store, std::sync::Arc::default());
    other.catch_up().await.expect("read");
    let jti = crate::world::claims(token)["jti"].as_str().expect("an id").to_owned();
    other.revoked().contains(Some(&jti), u64::MAX)
}

#[tokio::test]
async fn a_revocation_that_failed_halfway_is_finished_when_it_is_repeated() {
    let world = World::new().await;
    world.put_public_client().await;
    let watcher = world.put_resource_server("rs").await;
    let tokens = world.tokens(&world.browser(), "openid mcp", APP).await;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert!(is_active(&world, &watcher, access).await);

    world.store.lose_revocations(1);
    let fields = [("client_id", "web"), ("token", refresh)];
    let failed = world.post("/revoke", &fields).await;
    assert_eq!(failed.status, StatusCode::SERVICE_UNAVAILABLE, "{}", failed.text());
    assert!(!is_revoked_elsewhere(&world, access).await, "the failure was the one that was meant");

    assert_eq!(world.post("/revoke", &fields).await.status, StatusCode::OK);
    assert!(is_revoked_elsewhere(&world, access).await);
    let again = [("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", refresh)];
    assert_eq!(world.post("/token", &again).await.error(), "invalid_grant");
}

#[tokio::test]
async fn a_logout_that_failed_halfway_is_finished_when_it_is_repeated() {
    let world = World::new().await;
    let browser = world.browser();
    let cookie = browser.host_session().await;

    world.store.lose_revocations(1);
    let url = format!("{ISSUER}/logout");
    let page = browser.go(&url).await;
    let failed = browser.submit(&page, &url, &[("decision", "approve")]).await;
    assert_eq!(failed.status, StatusCode::SERVICE_UNAVAILABLE, "{}", failed.text());
    assert!(!is_revoked_elsewhere(&world, &cookie).await, "the failure was the one that was meant");

    let page = browser.go(&url).await;
    let done = browser.submit(&page, &url, &[("decision", "approve")]).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text());
    assert!(is_revoked_elsewhere(&world, &cookie).await);
    assert!(browser.cookie("auth.example.com", "__Host-portcullis-session").is_none());
}
