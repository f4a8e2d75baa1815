//! Clients that are done with a token.

use http::header::HeaderMap;
use http::{Method, StatusCode};
use serde_json::json;

use crate::world::{APP, Answer, CLIENT, ISSUER, REDIRECT, World, header, text};

async fn revoke(world: &World, client: &str, token: &str) -> Answer {
    world.post("/revoke", &[("client_id", client), ("token", token)]).await
}

async fn refresh(world: &World, token: &str) -> Answer {
    let fields = [("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", token)];
    world.post("/token", &fields).await
}

struct Watched {
    world: World,
    secret: String,
}

impl Watched {
    async fn new() -> Self {
        let world = World::new().await;
        world.put_public_client().await;
        let secret = world.put_resource_server("rs").await;
        Self { world, secret }
    }

    async fn is_active(&self, token: &str) -> bool {
        let fields = [("client_id", "rs"), ("client_secret", self.secret.as_str()), ("token", token)];
        self.world.post("/introspect", &fields).await.json()["active"] == true
    }
}

/// RFC 7009, section 2.1; catalogue 14.2, numbers 23 and 31.
#[tokio::test]
async fn a_refresh_token_takes_its_grant_along() {
    let watched = Watched::new().await;
    let world = &watched.world;
    let browser = world.browser();
    let first = world.tokens(&browser, "mcp", APP).await;
    let second = refresh(world, text(&first, "refresh_token")).await.json();
    let other = world.tokens(&browser, "mcp", APP).await;

    let answer = revoke(world, "web", text(&second, "refresh_token")).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    for tokens in [&first, &second] {
        assert!(!watched.is_active(text(tokens, "access_token")).await);
        let answer = refresh(world, text(tokens, "refresh_token")).await;
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));
    }
    assert!(watched.is_active(text(&other, "access_token")).await, "another grant of the client goes on");
}

#[tokio::test]
async fn a_rotated_refresh_token_ends_its_grant_as_well() {
    let watched = Watched::new().await;
    let first = watched.world.tokens(&watched.world.browser(), "mcp", APP).await;
    let second = refresh(&watched.world, text(&first, "refresh_token")).await.json();
    assert_eq!(revoke(&watched.world, "web", text(&first, "refresh_token")).await.status, StatusCode::OK);
    assert!(!watched.is_active(text(&second, "access_token")).await);
}

#[tokio::test]
async fn an_access_token_ends_alone() {
    let watched = Watched::new().await;
    let world = &watched.world;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    let access = text(&tokens, "access_token");
    for _ in 0..2 {
        assert_eq!(
            revoke(world, "web", access).await.status,
            StatusCode::OK,
            "the second time it is unknown"
        );
        assert!(!watched.is_active(access).await);
    }
    let next = refresh(world, text(&tokens, "refresh_token")).await;
    assert_eq!(next.status, StatusCode::OK, "{}", next.text());
    assert!(watched.is_active(text(&next.json(), "access_token")).await);
}

/// RFC 7009, section 2.1: "the request is refused and the client is informed of the error".
#[tokio::test]
async fn another_clients_token_is_refused_and_stays_good() {
    let watched = Watched::new().await;
    let world = &watched.world;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_client("other", metadata).await;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    for token in ["access_token", "refresh_token"] {
        let answer = revoke(world, "other", text(&tokens, token)).await;
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    assert!(watched.is_active(text(&tokens, "access_token")).await);
    assert_eq!(refresh(world, text(&tokens, "refresh_token")).await.status, StatusCode::OK);
}

/// RFC 7009, section 2.2.
#[tokio::test]
async fn what_is_no_token_is_as_good_as_revoked() {
    let watched = Watched::new().await;
    let world = &watched.world;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    let access = text(&tokens, "access_token");
    let forged = format!("{}x", &access[..access.len() - 1]);
    let unknown = format!("pcr_{}", "A".repeat(86));
    for token in ["x", "a.b.c", "pcr_", "pcr_x", &unknown, &forged, "\u{e9}", &"x".repeat(10_000)] {
        let answer = revoke(world, "web", token).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0), "{token:.20}");
    }
    assert!(watched.is_active(access).await);
}

/// RFC 7009, section 2.1: the hint is a help, no rule.
#[tokio::test]
async fn hints_are_hints() {
    let watched = Watched::new().await;
    let world = &watched.world;
    for hint in ["access_token", "refresh_token", "id_token", "nonsense"] {
        let tokens = world.tokens(&world.browser(), "mcp", APP).await;
        let fields =
            [("client_id", "web"), ("token", text(&tokens, "refresh_token")), ("token_type_hint", hint)];
        assert_eq!(world.post("/revoke", &fields).await.status, StatusCode::OK, "{hint}");
        assert!(!watched.is_active(text(&tokens, "access_token")).await, "{hint}");
    }
}

/// Catalogue 14.2, number 22.
#[tokio::test]
async fn a_client_with_a_secret_has_to_show_it() {
    let watched = Watched::new().await;
    let world = &watched.world;
    let secret = world.put_client("conf", json!({ "redirect_uris": [REDIRECT] })).await.expect("a secret");
    let asked = [("scope", "mcp"), ("resource", APP)];
    let tokens = world.tokens_of(&world.browser(), "conf", &secret, &asked).await;
    let access = text(&tokens, "access_token");
    for fields in [
        vec![("token", access)],
        vec![("token", access), ("client_id", "conf")],
        vec![("token", access), ("client_id", "conf"), ("client_secret", "wrong")],
        vec![("token", access), ("client_id", "nobody")],
    ] {
        let answer = world.post("/revoke", &fields).await;
        let (status, error) = (answer.status, answer.error());
        assert_eq!((status, error.as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"), "{fields:?}");
    }
    assert!(watched.is_active(access).await);
    let fields = [("token", access), ("client_id", "conf"), ("client_secret", secret.as_str())];
    assert_eq!(world.post("/revoke", &fields).await.status, StatusCode::OK);
    assert!(!watched.is_active(access).await);
}

#[tokio::test]
async fn a_request_that_is_none_has_the_code_of_the_rfc() {
    let watched = Watched::new().await;
    let world = &watched.world;
    for fields in [
        vec![("client_id", "web")],
        vec![("client_id", "web"), ("token", "")],
        vec![("client_id", "web"), ("token", "a"), ("token", "b")],
        vec![("client_id", "web"), ("client_id", "web"), ("token", "a")],
    ] {
        let answer = world.post("/revoke", &fields).await;
        let (status, error) = (answer.status, answer.error());
        assert_eq!((status, error.as_str()), (StatusCode::BAD_REQUEST, "invalid_request"), "{fields:?}");
    }
    let url = format!("{ISSUER}/revoke");
    for (method, status) in [(Method::GET, 405), (Method::OPTIONS, 204)] {
        let answer = world.request(CLIENT, method, &url, HeaderMap::new(), String::new()).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (status, "POST, OPTIONS"));
    }
}

/// RFC 6749, section 5.2, and RFC 9110, section 15.5.2.
#[tokio::test]
async fn a_client_that_is_refused_learns_how_to_authenticate() {
    let world = World::new().await;
    for (path, headers) in [
        ("/token", header("authorization", "Bearer x")),
        ("/token", header("authorization", "Basic eDp5")),
        ("/token", http::HeaderMap::new()),
        ("/revoke", header("authorization", "Digest username=x")),
        ("/introspect", http::HeaderMap::new()),
    ] {
        let shown = format!("{path} {headers:?}");
        let fields = [("grant_type", "refresh_token"), ("refresh_token", "pcr_x"), ("token", "x")];
        let answer = world.post_with(path, &fields, headers).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{shown}");
        assert_eq!(answer.error(), "invalid_client", "{shown}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"oauth\"", "{shown}");
    }
}
