//! Tokens for tokens (RFC 8693): a client makes one that can do less, to hand it on.

use http::StatusCode;
use portcullis_services::oauth::authorization_server::Settings;
use serde_json::{Value, json};

use crate::world::{APP, Answer, CLOSED, ISSUER, REDIRECT, World, claims, settings};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const BOTH: &str = "https://both.example.com";

/// A client `agent` with a secret, and a resource server that watches.
struct Given {
    world: World,
    secret: String,
    watcher: String,
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

fn metadata() -> Value {
    json!({ "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token", GRANT] })
}

impl Given {
    async fn new() -> Self {
        let world = World::with(Settings { assertion_grants: true, ..settings() }).await;
        let lists = json!({ "oauth_user_users": ["Mona"], "oauth_mcp_users": ["Mona"] });
        world.put_host("both.example.com", lists).await;
        let secret = world.put_client("agent", metadata()).await.expect("a secret");
        let watcher = world.put_resource_server("rs").await;
        Self { world, secret, watcher }
    }

    /// Mona's tokens for two hosts.
    async fn tokens(&self) -> Value {
        let asked = [("scope", "openid user mcp"), ("resource", APP), ("resource", BOTH)];
        self.world.tokens_of(&self.world.browser(), "agent", &self.secret, &asked).await
    }

    async fn exchange(&self, token: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![
            ("grant_type", GRANT),
            ("client_id", "agent"),
            ("client_secret", self.secret.as_str()),
            ("subject_token", token),
        ];
        if more.iter().all(|(name, _)| *name != "subject_token_type") {
            fields.push(("subject_token_type", ACCESS));
        }
        fields.extend(more);
        self.world.post("/token", &fields).await
    }

    async fn exchanged(&self, token: &str, more: &[(&str, &str)]) -> Value {
        let answer = self.exchange(token, more).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    }

    async fn revoke(&self, token: &str) {
        let fields = [("client_id", "agent"), ("client_secret", self.secret.as_str()), ("token", token)];
        assert_eq!(self.world.post("/revoke", &fields).await.status, StatusCode::OK);
    }

    async fn is_active(&self, token: &str) -> bool {
        let fields = [("client_id", "rs"), ("client_secret", self.watcher.as_str()), ("token", token)];
        self.world.post("/introspect", &fields).await.json()["active"] == true
    }
}

fn assert_error(answer: &Answer, error: &str, what: &str) {
    let found = (answer.status, answer.error());
    assert_eq!(found, (StatusCode::BAD_REQUEST, error.to_owned()), "{what} {}", answer.text());
}

#[tokio::test]
async fn a_token_becomes_one_that_can_do_less() {
    let given = Given::new().await;
    let first = given.tokens().await;
    let before = claims(text(&first, "access_token"));
    let same = given.exchanged(text(&first, "access_token"), &[]).await;
    assert_eq!(same["issued_token_type"], ACCESS);
    assert_eq!(same["token_type"], "Bearer");
    for absent in ["refresh_token", "id_token"] {
        assert!(same.get(absent).is_none(), "{absent}");
    }
    let after = claims(text(&same, "access_token"));
    for member in ["sub", "client_id", "username", "aud", "scope", "iss"] {
        assert_eq!(before[member], after[member], "{member}");
    }
    assert_ne!(before["jti"], after["jti"]);
    assert!(after["exp"].as_u64() <= before["exp"].as_u64());
    let asked = [("audience", BOTH), ("scope", "mcp"), ("requested_token_type", ACCESS)];
    let less = given.exchanged(text(&first, "access_token"), &asked).await;
    assert_eq!(less["scope"], "mcp");
    let less = claims(text(&less, "access_token"));
    assert_eq!((&less["aud"], &less["scope"]), (&json!([BOTH]), &json!("mcp")));
}

#[tokio::test]
async fn nothing_is_widened_on_the_way() {
    let given = Given::new().await;
    let first = given.tokens().await;
    let less = given.exchanged(text(&first, "access_token"), &[("resource", BOTH), ("scope", "mcp")]).await;
    let less = text(&less, "access_token");
    for (field, value, error) in [
        ("scope", "user", "invalid_scope"),
        ("scope", "mcp admin", "invalid_scope"),
        ("scope", "openid", "invalid_scope"),
        ("resource", APP, "invalid_target"),
        ("audience", APP, "invalid_target"),
        ("resource", CLOSED, "invalid_target"),
        ("resource", ISSUER, "invalid_target"),
        ("audience", "both", "invalid_target"),
    ] {
        assert_error(&given.exchange(less, &[(field, value)]).await, error, value);
    }
    let two = [("resource", BOTH), ("audience", APP)];
    assert_error(&given.exchange(less, &two).await, "invalid_target", "one of two");
    // Not for longer either, by way of the scopes and the times of the grant.
    let third = given.exchanged(less, &[]).await;
    let (second, third) = (claims(less), claims(text(&third, "access_token")));
    assert_eq!((&second["aud"], &second["scope"]), (&third["aud"], &third["scope"]));
    assert!(third["exp"].as_u64() <= second["exp"].as_u64());
}

#[tokio::test]
async fn who_has_admin_hands_on_what_it_implies() {
    let given = Given::new().await;
    given.world.put_host("app.example.com", json!({ "oauth_admin_users": ["Mona"] })).await;
    let asked = [("scope", "admin"), ("resource", APP)];
    let first = given.world.tokens_of(&given.world.browser(), "agent", &given.secret, &asked).await;
    assert_eq!(first["scope"], "admin");
    let less = given.exchanged(text(&first, "access_token"), &[("scope", "user")]).await;
    assert_eq!(claims(text(&less, "access_token"))["scope"], "user");
    let back = given.exchange(text(&less, "access_token"), &[("scope", "admin")]).await;
    assert_error(&back, "invalid_scope", "back to admin");
}

#[tokio::test]
async fn whatever_ends_the_first_token_ends_what_came_of_it() {
    let given = Given::new().await;
    let first = given.tokens().await;
    let access = text(&first, "access_token");
    let second = given.exchanged(access, &[]).await;
    let second = text(&second, "access_token");
    let third = given.exchanged(second, &[]).await;
    let third = text(&third, "access_token");
    let sibling = given.exchanged(access, &[]).await;
    let sibling = text(&sibling, "access_token");
    given.revoke(second).await;
    assert!(!given.is_active(second).await && !given.is_active(third).await);
    assert!(given.is_active(access).await && given.is_active(sibling).await);
    given.revoke(access).await;
    assert!(!given.is_active(sibling).await);
    assert_error(&given.exchange(access, &[]).await, "invalid_request", "revoked");

    let other = given.tokens().await;
    let exchanged = given.exchanged(text(&other, "access_token"), &[]).await;
    given.revoke(text(&other, "refresh_token")).await;
    assert!(!given.is_active(text(&exchanged, "access_token")).await, "it is of the grant");
}

#[tokio::test]
async fn there_is_an_end_to_exchanges_of_exchanges() {
    let given = Given::new().await;
    let mut token = text(&given.tokens().await, "access_token").to_owned();
    for _ in 0..4 {
        token = text(&given.exchanged(&token, &[]).await, "access_token").to_owned();
    }
    assert_error(&given.exchange(&token, &[]).await, "invalid_request", "the fifth");
}

#[tokio::test]
async fn who_was_taken_off_the_lists_gets_nothing_more() {
    let given = Given::new().await;
    let first = given.tokens().await;
    for host in ["app.example.com", "both.example.com"] {
        given.world.put_host(host, json!({ "auth_required_users": ["somebody"] })).await;
    }
    let answer = given.exchange(text(&first, "access_token"), &[]).await;
    assert_error(&answer, "invalid_request", "off the lists");
}

#[tokio::test]
async fn only_our_own_access_tokens_of_the_same_client_are_taken() {
    let given = Given::new().await;
    let world = &given.world;
    world.put_public_client().await;
    let browser = world.browser();
    let theirs = world.tokens(&browser, "mcp", APP).await;
    let answer = given.exchange(text(&theirs, "access_token"), &[]).await;
    assert_error(&answer, "invalid_request", "another client's");
    let cookie = browser.host_session().await;
    assert_error(&given.exchange(&cookie, &[]).await, "invalid_request", "a browser's");

    let own = given.tokens().await;
    let access = text(&own, "access_token");
    let forged = format!("{}x", &access[..access.len() - 1]);
    let none = ["x", "a.b.c", text(&own, "refresh_token"), text(&own, "id_token"), forged.as_str()];
    for token in none {
        assert_error(&given.exchange(token, &[]).await, "invalid_request", token);
    }
    let token_type = |name: &str| format!("urn:ietf:params:oauth:token-type:{name}");
    for other in ["refresh_token", "id_token", "jwt", "saml2", "id-jag"].map(token_type) {
        let as_subject = given.exchange(access, &[("subject_token_type", &other)]).await;
        assert_error(&as_subject, "invalid_request", &other);
        let wanted = given.exchange(access, &[("requested_token_type", &other)]).await;
        assert_error(&wanted, "invalid_request", &other);
    }
    let actor = given.exchange(access, &[("actor_token", access), ("actor_token_type", ACCESS)]).await;
    assert_error(&actor, "invalid_request", "an actor");
    assert!(given.is_active(access).await, "nothing of that did it harm");
}

#[tokio::test]
async fn a_client_has_to_prove_itself_and_to_be_registered_for_it() {
    let given = Given::new().await;
    let world = &given.world;
    let mut public = metadata();
    public["token_endpoint_auth_method"] = json!("none");
    world.put_client("open", public).await;
    let plain = world.put_client("plain", json!({ "redirect_uris": [REDIRECT] })).await.expect("a secret");
    for (client, secret) in [("open", ""), ("plain", plain.as_str())] {
        let asked = [("scope", "mcp"), ("resource", APP)];
        let tokens = world.tokens_of(&world.browser(), client, secret, &asked).await;
        let fields = [
            ("grant_type", GRANT),
            ("client_id", client),
            ("client_secret", secret),
            ("subject_token", text(&tokens, "access_token")),
            ("subject_token_type", ACCESS),
        ];
        assert_error(&world.post("/token", &fields).await, "unauthorized_client", client);
    }
    let first = given.tokens().await;
    let fields = [
        ("grant_type", GRANT),
        ("client_id", "agent"),
        ("client_secret", "wrong"),
        ("subject_token", text(&first, "access_token")),
        ("subject_token_type", ACCESS),
    ];
    let answer = world.post("/token", &fields).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
}

#[tokio::test]
async fn a_deployment_serves_and_publishes_it_only_when_it_is_told_to() {
    let published = async |world: &World| {
        let url = format!("{ISSUER}/.well-known/oauth-authorization-server");
        let document = world.browser().send(http::Method::GET, &url, None).await.json();
        document["grant_types_supported"].as_array().expect("a list").contains(&json!(GRANT))
    };
    let world = World::new().await;
    assert!(!published(&world).await);
    let secret = world.put_client("agent", metadata()).await.expect("a secret");
    let fields = [
        ("grant_type", GRANT),
        ("client_id", "agent"),
        ("client_secret", secret.as_str()),
        ("subject_token", "x"),
        ("subject_token_type", ACCESS),
    ];
    assert_error(&world.post("/token", &fields).await, "unsupported_grant_type", "off");
    assert!(published(&Given::new().await.world).await);
}
