//! What `/userinfo` tells, and to whom.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use crate::world::{APP, CLIENT, ISSUER, MONA, World, claims, form, header};

async fn world() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    world
}

#[tokio::test]
async fn the_scopes_say_what_is_told() {
    let world = world().await;
    let browser = world.browser();
    for (scope, told) in [
        ("openid", json!({ "sub": MONA.to_string() })),
        (
            "openid profile",
            json!({ "sub": MONA.to_string(), "preferred_username": "Mona", "name": "Mona Lisa" }),
        ),
        (
            "openid email",
            json!({ "sub": MONA.to_string(), "email": "mona@example.com", "email_verified": true }),
        ),
    ] {
        for resource in [APP, ISSUER] {
            let tokens = world.tokens(&browser, scope, resource).await;
            let answer = world.get_with("/userinfo", tokens["access_token"].as_str().expect("a token")).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert_eq!(answer.json(), told, "{scope} at {resource}");
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
}

#[tokio::test]
async fn each_refusal_has_its_challenge() {
    let world = world().await;
    let browser = world.browser();
    let url = format!("{ISSUER}/userinfo");
    let bare = world.request(CLIENT, Method::GET, &url, HeaderMap::new(), String::new()).await;
    assert_eq!(bare.status, StatusCode::UNAUTHORIZED);
    assert_eq!(bare.header("www-authenticate"), "Bearer realm=\"userinfo\", scope=\"openid\"");
    assert_eq!(bare.header("access-control-expose-headers"), "WWW-Authenticate, Retry-After");

    let tokens = world.tokens(&browser, "mcp", APP).await;
    let narrow = tokens["access_token"].as_str().expect("a token");
    let answer = world.get_with("/userinfo", narrow).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let challenge = answer.header("www-authenticate");
    assert!(challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"openid\""));

    let tokens = world.tokens(&browser, "openid", APP).await;
    let good = tokens["access_token"].as_str().expect("a token");
    let id_token = tokens["id_token"].as_str().expect("a token");
    let (signed, _) = good.rsplit_once('.').expect("a JWT");
    for bad in ["x", id_token, &format!("{signed}.AAAA")] {
        let answer = world.get_with("/userinfo", bad).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (StatusCode::UNAUTHORIZED, "invalid_token"),
            "{bad}"
        );
        assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    }
    let said = claims(good);
    let (jti, exp) = (said["jti"].as_str().expect("an id"), said["exp"].as_u64().expect("a time"));
    world.revocations.revoke(jti, exp).await.expect("revoked");
    assert_eq!(world.get_with("/userinfo", good).await.error(), "invalid_token", "it was revoked");
}

#[tokio::test]
async fn a_hosts_cookie_is_no_bearer_token() {
    let world = world().await;
    world.put_host("app.example.com", json!({ "resource_scopes": ["openid", "profile"] })).await;
    let browser = world.browser();
    let cookie = browser.host_session().await;
    assert!(claims(&cookie)["scope"].as_str().expect("scopes").contains("openid"));
    assert_eq!(world.get_with("/userinfo", &cookie).await.error(), "invalid_token");
}

#[tokio::test]
async fn the_token_may_come_in_a_form_but_not_twice() {
    let world = world().await;
    let browser = world.browser();
    let tokens = world.tokens(&browser, "openid", APP).await;
    let token = tokens["access_token"].as_str().expect("a token");
    let answer = world.post("/userinfo", &[("access_token", token)]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let mut headers = header("authorization", &format!("bearer {token}"));
    headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded".parse().expect("a type"));
    let url = format!("{ISSUER}/userinfo");
    let body = form(&[("access_token", token)]);
    let twice = world.request(CLIENT, Method::POST, &url, headers.clone(), body).await;
    assert_eq!((twice.status, twice.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_request"));
    let once = world.request(CLIENT, Method::POST, &url, headers, String::new()).await;
    assert_eq!(once.status, StatusCode::OK, "the scheme's case does not count");
    let query = world.get_with(&format!("/userinfo?access_token={token}"), "").await;
    assert_eq!(query.status, StatusCode::UNAUTHORIZED, "never in the URL");
    let put = world.request(CLIENT, Method::PUT, &url, HeaderMap::new(), String::new()).await;
    assert_eq!((put.status, put.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, POST, OPTIONS"));
}
