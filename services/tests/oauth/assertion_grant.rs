//! Enterprise-managed authorization: an identity provider vouches for a user, and a client gets a token for them.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::{Method, StatusCode};
use jiff::Timestamp;
use portcullis_services::oauth::authorization_server::Settings;
use portcullis_services::oauth::clients::AssertionIssuer;
use serde_json::{Value, json};

use crate::world::{APP, Answer, CLOSED, ISSUER, World, claims, settings};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const IDP: &str = "https://idp.example.com";
const ALICE: &str = "https://idp.example.com/alice";

struct Given {
    world: World,
    secret: String,
    key: Ed25519KeyPair,
}

fn trusting(key: &Ed25519KeyPair) -> Settings {
    let x = BASE64.encode(key.public_key());
    let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] });
    let list = json!([{ "issuer": IDP, "jwks": jwks }]).to_string();
    let assertion_issuers = AssertionIssuer::read_list(&list, ISSUER).expect("a list");
    Settings { assertion_grants: true, assertion_issuers, ..settings() }
}

impl Given {
    async fn new() -> Self {
        let key = Ed25519KeyPair::generate().expect("a key");
        let world = World::with(trusting(&key)).await;
        let lists = json!({ "oauth_mcp_users": [ALICE], "oauth_user_users": [ALICE] });
        world.put_host("app.example.com", lists).await;
        let secret = world.put_client("agent", json!({ "grant_types": [GRANT] })).await.expect("a secret");
        Self { world, secret, key }
    }

    fn sign(&self, typ: &str, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": "k", "typ": typ });
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        format!("{message}.{}", BASE64.encode(self.key.sign(message.as_bytes())))
    }

    async fn present(&self, claims: &Value, more: &[(&str, &str)]) -> Answer {
        self.send(&self.sign("oauth-id-jag+jwt", claims), more).await
    }

    async fn send(&self, assertion: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![
            ("grant_type", GRANT),
            ("client_id", "agent"),
            ("client_secret", self.secret.as_str()),
            ("assertion", assertion),
        ];
        fields.extend(more);
        self.world.post("/token", &fields).await
    }
}

/// What the provider says of Alice.
fn said(jti: &str) -> Value {
    let now = Timestamp::now().as_second();
    json!({
        "iss": IDP, "sub": "alice", "aud": ISSUER, "client_id": "agent", "jti": jti,
        "iat": now, "exp": now + 300, "resource": APP, "scope": "mcp",
    })
}

fn with(jti: &str, member: &str, value: Value) -> Value {
    let mut said = said(jti);
    said[member] = value;
    said
}

fn without(jti: &str, member: &str) -> Value {
    let mut said = said(jti);
    said.as_object_mut().expect("an object").remove(member);
    said
}

fn assert_error(answer: &Answer, error: &str, what: &str) {
    let found = (answer.status, answer.error());
    assert_eq!(found, (StatusCode::BAD_REQUEST, error.to_owned()), "{what} {}", answer.text());
}

#[tokio::test]
async fn an_assertion_yields_a_token_for_its_user_once() {
    let given = Given::new().await;
    let said = said("1");
    let answer = given.present(&said, &[]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let tokens = answer.json();
    for absent in ["refresh_token", "id_token", "issued_token_type"] {
        assert!(tokens.get(absent).is_none(), "{absent}");
    }
    assert_eq!((&tokens["token_type"], &tokens["scope"]), (&json!("Bearer"), &json!("mcp")));
    let token = tokens["access_token"].as_str().expect("a token");
    let claims = claims(token);
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!(ISSUER), &json!(ALICE)));
    assert_eq!((&claims["aud"], &claims["client_id"]), (&json!([APP]), &json!("agent")));
    assert!(claims.get("username").is_none() && claims.get("groups").is_none());

    assert_error(&given.present(&said, &[]).await, "invalid_grant", "again");
    let watcher = given.world.put_resource_server("rs").await;
    let fields = [("client_id", "rs"), ("client_secret", watcher.as_str()), ("token", token)];
    let told = given.world.post("/introspect", &fields).await.json();
    assert_eq!((&told["active"], &told["sub"], &told["scope"]), (&json!(true), &json!(ALICE), &json!("mcp")));
    // Who is taken off the list is out at once.
    given
        .world
        .put_host("app.example.com", json!({ "oauth_mcp_users": ["https://idp.example.com/bob"] }))
        .await;
    assert_eq!(given.world.post("/introspect", &fields).await.json()["active"], false);
}

#[tokio::test]
async fn what_the_provider_says_is_a_ceiling() {
    let given = Given::new().await;
    for (n, (claims, more, error)) in [
        (said("a"), vec![("scope", "user")], "invalid_scope"),
        (said("b"), vec![("resource", CLOSED)], "invalid_target"),
        (said("c"), vec![("resource", "https://unknown.example.com")], "invalid_target"),
        (with("d", "resource", json!(CLOSED)), vec![], "invalid_grant"),
        (with("e", "resource", json!([APP, CLOSED])), vec![], "invalid_grant"),
        (with("f", "resource", json!([])), vec![("resource", APP)], "invalid_target"),
        (with("g", "resource", json!("https://app.example.com/path")), vec![], "invalid_target"),
        (with("h", "scope", json!("")), vec![("scope", "mcp")], "invalid_scope"),
        (with("i", "scope", json!("a\"b")), vec![], "invalid_scope"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_error(&given.present(&claims, &more).await, error, &format!("case {n}"));
    }
    for (claims, more, scope) in [
        (with("1", "scope", json!("mcp user admin")), vec![], "mcp user"),
        (with("2", "scope", json!("mcp user")), vec![("scope", "user")], "user"),
        (said("3"), vec![("scope", "mcp user")], "mcp"),
        (with("4", "resource", json!([APP, CLOSED])), vec![("resource", APP)], "mcp"),
        (without("5", "scope"), vec![("scope", "user admin")], "user"),
        (without("6", "resource"), vec![("resource", APP)], "mcp"),
        (with("7", "resource", json!("HTTPS://App.Example.com/")), vec![], "mcp"),
    ] {
        let answer = given.present(&claims, &more).await;
        assert_eq!(answer.status, StatusCode::OK, "{claims} {}", answer.text());
        assert_eq!(answer.json()["scope"], scope, "{claims}");
    }
}

#[tokio::test]
async fn lists_of_our_own_people_are_not_for_theirs() {
    let given = Given::new().await;
    for (n, lists) in [
        json!({ "oauth_mcp_users": ["*"] }),
        json!({ "oauth_mcp_users": ["alice", "Mona"] }),
        json!({ "auth_required_users": ["*"] }),
        json!({ "oauth_mcp_users": ["https://other.example.com/*", "https://idp.example.com/t/*"] }),
    ]
    .into_iter()
    .enumerate()
    {
        given.world.put_host("app.example.com", lists).await;
        assert_error(&given.present(&said(&n.to_string()), &[]).await, "invalid_grant", &n.to_string());
    }
    given
        .world
        .put_host("app.example.com", json!({ "oauth_mcp_users": ["https://idp.example.com/*"] }))
        .await;
    assert_eq!(given.present(&said("everybody there"), &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_good_assertion_is_refused() {
    let given = Given::new().await;
    let now = Timestamp::now().as_second();
    for (n, (member, value)) in [
        ("iss", json!("https://other.example.com")),
        ("iss", json!(ISSUER)),
        ("aud", json!(format!("{ISSUER}/token"))),
        ("aud", json!([ISSUER, "https://other.example.com"])),
        ("client_id", json!("another")),
        ("sub", json!("*")),
        ("sub", json!("t/alice")),
        ("exp", json!(now - 120)),
        ("exp", json!(now + 3600)),
        ("iat", json!(now + 3600)),
        ("nbf", json!(now + 3600)),
        ("jti", json!("")),
        ("cnf", json!({ "jkt": "x" })),
    ]
    .into_iter()
    .enumerate()
    {
        let claims = with(&n.to_string(), member, value);
        assert_error(&given.present(&claims, &[]).await, "invalid_grant", &claims.to_string());
    }
    for member in ["iss", "sub", "aud", "client_id", "jti", "exp", "iat"] {
        assert_error(&given.present(&without("x", member), &[]).await, "invalid_grant", member);
    }
    for typ in ["JWT", "at+jwt", "client-authentication+jwt"] {
        assert_error(&given.send(&given.sign(typ, &said(typ)), &[]).await, "invalid_grant", typ);
    }
    let stranger = Given { key: Ed25519KeyPair::generate().expect("a key"), ..Given::new().await };
    let forged = stranger.sign("oauth-id-jag+jwt", &said("forged"));
    for assertion in ["x", "a.b.c", forged.as_str()] {
        assert_error(&given.send(assertion, &[]).await, "invalid_grant", assertion);
    }
}

#[tokio::test]
async fn a_client_has_to_prove_itself_and_to_be_registered_for_it() {
    let given = Given::new().await;
    let world = &given.world;
    let public = json!({ "grant_types": [GRANT], "token_endpoint_auth_method": "none" });
    world.put_client("open", public).await;
    let plain = json!({ "grant_types": ["client_credentials"] });
    let plain = world.put_client("plain", plain).await.expect("a secret");
    for (client, secret) in [("open", ""), ("plain", plain.as_str())] {
        let assertion = given.sign("oauth-id-jag+jwt", &with(client, "client_id", json!(client)));
        let fields = [
            ("grant_type", GRANT),
            ("client_id", client),
            ("client_secret", secret),
            ("assertion", assertion.as_str()),
        ];
        assert_error(&world.post("/token", &fields).await, "unauthorized_client", client);
    }
}

#[tokio::test]
async fn a_deployment_serves_and_publishes_it_only_when_it_trusts_somebody() {
    let key = Ed25519KeyPair::generate().expect("a key");
    for (settings, served) in [
        (settings(), false),
        (Settings { assertion_grants: true, ..settings() }, false),
        (Settings { assertion_grants: false, ..trusting(&key) }, false),
        (trusting(&key), true),
    ] {
        let world = World::with(settings).await;
        let url = format!("{ISSUER}/.well-known/oauth-authorization-server");
        let document = world.browser().send(Method::GET, &url, None).await.json();
        let published = document["grant_types_supported"].as_array().expect("a list");
        assert_eq!(published.contains(&json!(GRANT)), served);
        let secret = world.put_client("agent", json!({ "grant_types": [GRANT] })).await.expect("a secret");
        let fields = [
            ("grant_type", GRANT),
            ("client_id", "agent"),
            ("client_secret", secret.as_str()),
            ("assertion", "x"),
        ];
        let error = if served { "invalid_grant" } else { "unsupported_grant_type" };
        assert_error(&world.post("/token", &fields).await, error, "x");
    }
}
