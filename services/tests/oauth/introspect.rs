//! What clients and resource servers learn about tokens.

use http::{HeaderMap, Method, StatusCode};
use portcullis_services::store::{Expect, Key, Kind, Store, Write};
use serde_json::json;

use crate::world::{APP, Answer, CLIENT, ISSUER, MONA, REDIRECT, World, claims, header, text};

async fn introspect(world: &World, client: &str, secret: &str, token: &str) -> Answer {
    let fields = [("client_id", client), ("client_secret", secret), ("token", token)];
    world.post("/introspect", &fields).await
}

/// A confidential client with the grants of people.
async fn put_confidential(world: &World, id: &str) -> String {
    let metadata = json!({ "client_name": id, "redirect_uris": [REDIRECT] });
    world.put_client(id, metadata).await.expect("a secret")
}

const INACTIVE: &str = r#"{"active":false}"#;

/// Catalogue 14.2, number 22; RFC 7662, section 2.1.
#[tokio::test]
async fn only_who_proves_who_it_is_may_ask() {
    let world = World::new().await;
    world.put_public_client().await;
    let secret = put_confidential(&world, "conf").await;
    let access = world.tokens(&world.browser(), "mcp", APP).await;
    let token = text(&access, "access_token");
    for fields in [
        vec![("token", token)],
        vec![("token", token), ("client_id", "web")],
        vec![("token", token), ("client_id", "conf")],
        vec![("token", token), ("client_id", "conf"), ("client_secret", "wrong")],
        vec![("token", token), ("client_id", "portcullis-cli")],
        vec![("token", token), ("client_id", "nobody"), ("client_secret", &secret)],
    ] {
        let answer = world.post("/introspect", &fields).await;
        let (status, error) = (answer.status, answer.error());
        assert_eq!((status, error.as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"), "{fields:?}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"oauth\"", "RFC 9110, section 15.5.2");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    let bearer = header("authorization", &format!("Bearer {token}"));
    let answer = world.post_with("/introspect", &[("token", token)], bearer).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "a token is no proof of who a client is");
    let answer = introspect(&world, "conf", &secret, "").await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_request"));
    let url = format!("{ISSUER}/introspect?token=x");
    let answer = world.request(CLIENT, Method::GET, &url, HeaderMap::new(), String::new()).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_client_learns_about_its_own_tokens() {
    let world = World::new().await;
    let secret = put_confidential(&world, "conf").await;
    let asked = [("scope", "mcp user"), ("resource", APP)];
    let tokens = world.tokens_of(&world.browser(), "conf", &secret, &asked).await;
    let access = text(&tokens, "access_token");
    let said = claims(access);
    let answer = introspect(&world, "conf", &secret, access).await;
    assert_eq!((answer.status, answer.header("cache-control")), (StatusCode::OK, "no-store"));
    assert_eq!(
        answer.json(),
        json!({
            "active": true, "scope": "mcp user", "client_id": "conf", "username": "Mona",
            "token_type": "Bearer", "exp": said["exp"], "iat": said["iat"], "sub": MONA.to_string(),
            "aud": [APP], "iss": ISSUER, "jti": said["jti"],
        })
    );
    let refresh = introspect(&world, "conf", &secret, text(&tokens, "refresh_token")).await.json();
    assert_eq!((&refresh["active"], &refresh["client_id"]), (&json!(true), &json!("conf")));
    assert_eq!((&refresh["scope"], &refresh["aud"]), (&json!("mcp user"), &json!([APP])));
    assert!(refresh.get("token_type").is_none() && refresh.get("jti").is_none(), "{refresh}");
    assert!(refresh["exp"].as_u64() > said["exp"].as_u64(), "{refresh}");
    let hinted = [
        ("client_id", "conf"),
        ("client_secret", &secret),
        ("token", access),
        ("token_type_hint", "refresh_token"),
    ];
    assert_eq!(world.post("/introspect", &hinted).await.json()["active"], true, "a wrong hint is no reason");
}

/// RFC 7662, section 2.2: nothing is said about what is not active, or not the client's business.
#[tokio::test]
async fn everything_else_is_inactive_and_no_more_is_said() {
    let world = World::new().await;
    world.put_public_client().await;
    let secret = put_confidential(&world, "conf").await;
    let rs = world.put_resource_server("rs").await;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    assert_eq!(introspect(&world, "rs", &rs, access).await.json()["active"], true);
    let forged = format!("{}x", &access[..access.len() - 1]);
    for (client, secret, token) in [
        ("conf", &secret, access),
        ("conf", &secret, refresh),
        ("rs", &rs, refresh),
        ("rs", &rs, &forged),
        ("rs", &rs, "pcr_"),
        ("rs", &rs, "a.b.c"),
        ("rs", &rs, "\u{e9}"),
        ("rs", &rs, &"x".repeat(10_000)),
    ] {
        let answer = introspect(&world, client, secret, token).await;
        let shown = &token[..token.len().min(20)];
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, INACTIVE), "{client} {shown}");
    }
    let revoke = [("client_id", "web"), ("token", access)];
    assert_eq!(world.post("/revoke", &revoke).await.status, StatusCode::OK);
    assert_eq!(introspect(&world, "rs", &rs, access).await.text(), INACTIVE, "it was revoked");
}

/// Who asks here has no other way to know of a change of the lists.
#[tokio::test]
async fn the_lists_of_now_decide_what_a_token_is_worth() {
    let world = World::new().await;
    world.put_public_client().await;
    let rs = world.put_resource_server("rs").await;
    let second = "https://second.example.com";
    let lists = json!({ "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"], "oauth_admin_users": [] });
    world.put_host("app.example.com", lists.clone()).await;
    world.put_host("second.example.com", lists).await;
    let asked = [("scope", "mcp user"), ("resource", APP), ("resource", second)];
    let tokens = world.tokens_of(&world.browser(), "web", "", &asked).await;
    let access = text(&tokens, "access_token").to_owned();
    let told = async || {
        let told = introspect(&world, "rs", &rs, &access).await.json();
        (told["aud"].clone(), told["scope"].clone())
    };
    assert_eq!(told().await, (json!([APP, second]), json!("mcp user")));

    let less = json!({ "oauth_user_users": ["mona"], "oauth_mcp_users": [], "oauth_admin_users": [] });
    world.put_host("second.example.com", less).await;
    assert_eq!(told().await, (json!([APP, second]), json!("user")), "no right from one host to the other");

    world.put_host("second.example.com", json!({ "auth_required_users": ["somebody"] })).await;
    assert_eq!(told().await, (json!([APP]), json!("mcp user")));

    let key = Key::new(Kind::Proxy, "app.example.com");
    world.store.commit(vec![Write::Delete { key, expect: Expect::Any }]).await.expect("deleted");
    assert_eq!(introspect(&world, "rs", &rs, &access).await.text(), INACTIVE);
}

/// The cookie of a host is good for nothing but that host's browser session.
#[tokio::test]
async fn a_browsers_session_is_nobodys_business() {
    let world = World::new().await;
    let rs = world.put_resource_server("rs").await;
    let cookie = crate::verify::session(&world).await;
    assert_eq!(claims(&cookie)["aud"][0], format!("{APP}/.portcullis/session"));
    assert_eq!(introspect(&world, "rs", &rs, &cookie).await.text(), INACTIVE);
}
