//! Tokens: how they are signed, and when they end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, Method, StatusCode};
use portcullis_services::oauth::{Keys, SigningKey};
use serde_json::{Value, json};

use crate::signers::{Signer, confused, unsigned};
use crate::world::{APP, CLIENT, ISSUER, REDIRECT, World, claims, text};

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    world
}

/// The header of a token.
fn head(token: &str) -> Value {
    let head = token.split('.').next().expect("a JWT");
    serde_json::from_slice(&BASE64.decode(head).expect("base64")).expect("JSON")
}

async fn published(world: &World) -> Vec<Value> {
    let url = format!("{ISSUER}/jwks");
    let answer = world.request(CLIENT, Method::GET, &url, HeaderMap::new(), String::new()).await;
    answer.json()["keys"].as_array().expect("a list").clone()
}

/// RFC 7638.
fn thumbprint(key: &Value) -> String {
    let members = format!("{{\"e\":{},\"kty\":\"RSA\",\"n\":{}}}", key["e"], key["n"]);
    BASE64.encode(digest::digest(&digest::SHA256, members.as_bytes()))
}

/// Number 23: refresh tokens lived for a year, were never replaced, worked for every client, and lived on when all
/// else had ended.
#[tokio::test]
async fn refresh_tokens_are_replaced_belong_to_a_client_and_end_with_their_grant() {
    let world = world().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_client("other", metadata).await;
    let first = world.tokens(&world.browser(), "mcp", APP).await;
    let token = text(&first, "refresh_token");
    assert!(token.starts_with("pcr_"), "scanners of published secrets find it");
    let stolen = [("grant_type", "refresh_token"), ("client_id", "other"), ("refresh_token", token)];
    assert_eq!(world.post("/token", &stolen).await.error(), "invalid_grant");
    let second = world.refresh(token, &[]).await.json();
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    world.advance(Duration::from_secs(90 * 24 * 3600));
    let idle = world.refresh(text(&second, "refresh_token"), &[]).await;
    assert_eq!(
        (idle.status, idle.error().as_str()),
        (StatusCode::BAD_REQUEST, "invalid_grant"),
        "90 days unused"
    );

    let third = world.tokens(&world.browser(), "mcp", APP).await;
    let revoke = [("client_id", "web"), ("token", text(&third, "refresh_token"))];
    assert_eq!(world.post("/revoke", &revoke).await.status, StatusCode::OK);
    assert_eq!(world.refresh(text(&third, "refresh_token"), &[]).await.error(), "invalid_grant");
}

/// Number 30: beside RS256 a shared secret was good as well, and the only key had a name that never changed.
#[tokio::test]
async fn tokens_are_signed_with_rs256_alone_by_keys_named_after_themselves() {
    let world = world().await;
    let rs = world.put_resource_server("rs").await;
    let tokens = world.tokens(&world.browser(), "openid mcp", APP).await;
    let good = text(&tokens, "access_token");
    let keys = published(&world).await;
    assert_eq!(keys.len(), 1);
    for key in &keys {
        assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&json!("RSA"), &json!("RS256"), &json!("sig")));
        assert_eq!(key["kid"], thumbprint(key));
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "{private}");
        }
    }
    let id = keys[0]["kid"].as_str().expect("a name");
    for name in ["access_token", "id_token"] {
        let head = head(text(&tokens, name));
        assert_eq!((&head["alg"], &head["kid"]), (&json!("RS256"), &json!(id)), "{name}");
    }
    assert_eq!(head(good)["typ"], "at+jwt");

    let said = claims(good);
    let modulus = keys[0]["n"].as_str().expect("a modulus");
    let stranger = Signer::rsa();
    for (what, forged) in [
        ("none", unsigned(&said)),
        ("HS256 with the modulus", confused("at+jwt", id, modulus.as_bytes(), &said)),
        ("HS256 with its bytes", confused("at+jwt", id, &BASE64.decode(modulus).expect("base64"), &said)),
        ("HS256 with the whole key", confused("at+jwt", id, keys[0].to_string().as_bytes(), &said)),
        ("HS256 with the name of the key", confused("at+jwt", id, id.as_bytes(), &said)),
        ("HS256 with nothing", confused("at+jwt", id, b"", &said)),
        ("a stranger's key by our name", stranger.sign(id, &said)),
        ("a stranger's key", stranger.sign("blessed-key-1", &said)),
        ("another algorithm", Signer::ec().sign(id, &said)),
        ("an ID token", text(&tokens, "id_token").to_owned()),
    ] {
        assert_eq!(
            world.verify(&format!("{APP}/"), &forged).await.status,
            StatusCode::UNAUTHORIZED,
            "{what}"
        );
        assert_eq!(world.introspect(&rs, &forged).await, json!({ "active": false }), "{what}");
        assert_eq!(world.get_with("/userinfo", &forged).await.error(), "invalid_token", "{what}");
    }
    assert_eq!(world.verify(&format!("{APP}/"), good).await.status, StatusCode::OK);
}

/// Number 30: a key could not be replaced.
#[tokio::test]
async fn a_new_key_signs_and_the_old_one_still_verifies() {
    let world = world().await;
    let before = world.tokens(&world.browser(), "mcp", APP).await;
    let old = text(&before, "access_token");
    let until = world.now().checked_add(Duration::from_secs(3600)).expect("a time");
    Keys::rotate(&*world.store, &world.vault, &SigningKey::generate(), until, world.now())
        .await
        .expect("rotated");
    let documents = Keys::documents(&*world.store).await.expect("keys");
    let keys = Keys::load(&documents, &world.vault, world.now()).expect("readable").expect("keys");
    world.trust.replace_keys(&keys).expect("trusted");
    world.server.replace_keys(Arc::new(keys));

    let after = world.refresh(text(&before, "refresh_token"), &[]).await.json();
    let new = text(&after, "access_token");
    assert_ne!(head(new)["kid"], head(old)["kid"]);
    for token in [old, new] {
        assert_eq!(world.verify(&format!("{APP}/"), token).await.status, StatusCode::OK);
    }
    let published = published(&world).await;
    let names: BTreeSet<&str> = published.iter().map(|key| key["kid"].as_str().expect("a name")).collect();
    let used = [old, new].map(|token| head(token)["kid"].as_str().expect("a name").to_owned());
    assert_eq!(names, used.iter().map(String::as_str).collect(), "both are published");
}

/// Number 31: a revoked token was good for half an hour, because nobody asked.
#[tokio::test]
async fn a_revoked_token_is_refused_by_the_next_request() {
    let world = world().await;
    let tokens = world.tokens(&world.browser(), "openid mcp", APP).await;
    let token = text(&tokens, "access_token");
    let url = format!("{APP}/");
    assert_eq!(world.verify(&url, token).await.status, StatusCode::OK);
    let revoke = [("client_id", "web"), ("token", token)];
    assert_eq!(world.post("/revoke", &revoke).await.status, StatusCode::OK);
    world.see().await;
    let before = world.store.calls();
    assert_eq!(world.verify(&url, token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        world.store.calls() - before,
        1,
        "the test's own look at the configuration: the answer needs none"
    );
    assert_eq!(world.get_with("/userinfo", token).await.error(), "invalid_token");
}
