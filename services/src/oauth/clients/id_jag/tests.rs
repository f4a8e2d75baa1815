use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde_json::json;

use super::*;
use crate::oauth::clients::store::memory::Memory;
use crate::oauth::clients::testing::{Site, json_answer};

const OWN: &str = "https://auth.example";
const IDP: &str = "https://idp.example";
const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOW + second).expect("valid")
}

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().expect("a key"))
    }

    fn jwks(&self) -> Value {
        let x = BASE64.encode(self.0.public_key());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": x }] })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        format!("{message}.{}", BASE64.encode(self.0.sign(message.as_bytes())))
    }

    fn assert(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": "EdDSA", "kid": "a", "typ": "oauth-id-jag+jwt" }), claims)
    }

    fn trusted(&self, issuer: &str) -> Vec<AssertionIssuer> {
        read(&json!([{ "issuer": issuer, "jwks": self.jwks() }])).expect("valid")
    }
}

fn read(list: &Value) -> Result<Vec<AssertionIssuer>, InvalidIssuers> {
    AssertionIssuer::read_list(&list.to_string(), OWN)
}

fn claims() -> Value {
    json!({
        "iss": IDP, "sub": "alice", "aud": OWN, "client_id": "c1", "jti": "1", "iat": NOW, "exp": NOW + 300,
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[member] = value;
    claims
}

async fn assertions() -> (Assertions, Site) {
    let site = Site::start().await;
    let store = Arc::new(Memory::default());
    // Clients may name endpoints in theirs; an identity provider names the issuer.
    let audiences = vec![OWN.to_owned(), format!("{OWN}/token")];
    (Assertions::new(Arc::new(site.guard()), store, audiences), site)
}

#[tokio::test]
async fn a_good_assertion_is_good_once_and_for_one_client() {
    let (assertions, _) = assertions().await;
    let signer = Signer::new();
    let trusted = signer.trusted(IDP);
    let assertion = signer.assert(&claims());
    let theirs = assertions.verify_id_jag(&trusted, OWN, "c2", &assertion, at(0)).await;
    assert!(matches!(theirs, Err(AssertionError::Client)), "{theirs:?}");
    let said = assertions.verify_id_jag(&trusted, OWN, "c1", &assertion, at(0)).await.expect("good");
    assert_eq!(said.subject(), "https://idp.example/alice");
    assert_eq!((said.resources, said.scope), (None, None));
    let again = assertions.verify_id_jag(&trusted, OWN, "c1", &assertion, at(359)).await;
    assert!(matches!(again, Err(AssertionError::Replayed)), "{again:?}");
    let more = json!({
        "iss": IDP, "sub": "auth0|x", "aud": [OWN], "client_id": "c1", "jti": "2", "iat": NOW, "exp": NOW + 300,
        "resource": ["https://a.example", "https://b.example"], "scope": "mcp user",
    });
    let said = assertions.verify_id_jag(&trusted, OWN, "c1", &signer.assert(&more), at(0)).await;
    let said = said.expect("good");
    assert_eq!(said.subject(), "https://idp.example/auth0|x");
    assert_eq!(said.resources.expect("two"), ["https://a.example", "https://b.example"]);
    assert_eq!(said.scope.as_deref(), Some("mcp user"));
}

#[tokio::test]
async fn each_claim_has_to_be_right() {
    let (assertions, _) = assertions().await;
    let signer = Signer::new();
    let trusted = signer.trusted(IDP);
    for (member, value, told) in [
        ("iss", json!("https://other.example"), "issuer"),
        ("iss", json!("https://idp.example/"), "issuer"),
        ("iss", json!(OWN), "issuer"),
        ("aud", json!("https://other.example"), "audience"),
        ("aud", json!("https://auth.example/token"), "audience"),
        ("aud", json!([OWN, "https://other.example"]), "audience"),
        ("aud", json!([]), "audience"),
        ("client_id", json!("c2"), "another client"),
        ("client_id", json!(null), "form"),
        ("sub", json!(""), "list of users"),
        ("sub", json!("*"), "list of users"),
        ("sub", json!("t/alice"), "list of users"),
        ("sub", json!("a%2Fb"), "list of users"),
        ("sub", json!("a b"), "list of users"),
        ("sub", json!("a\u{0}b"), "list of users"),
        ("sub", json!("x".repeat(MAX_NAME + 1)), "list of users"),
        ("sub", json!(null), "form"),
        ("exp", json!(NOW - 60), "time"),
        ("exp", json!(NOW + 661), "time"),
        ("iat", json!(NOW + 61), "time"),
        ("iat", json!(null), "form"),
        ("nbf", json!(NOW + 61), "time"),
        ("jti", json!(""), "jti"),
        ("jti", json!(null), "form"),
        ("cnf", json!({ "jkt": "x" }), "bound"),
        ("resource", json!(1), "form"),
        ("scope", json!(["mcp"]), "form"),
    ] {
        let bad = with(member, value);
        let error = assertions.verify_id_jag(&trusted, OWN, "c1", &signer.assert(&bad), at(0)).await;
        let error = error.expect_err(told).to_string();
        assert!(error.contains(told), "{bad} {error}");
    }
    assertions
        .verify_id_jag(&trusted, OWN, "c1", &signer.assert(&claims()), at(0))
        .await
        .expect("not used up");
}

#[tokio::test]
async fn the_type_and_the_key_have_to_be_right() {
    let (assertions, _) = assertions().await;
    let (signer, stranger) = (Signer::new(), Signer::new());
    let trusted = signer.trusted(IDP);
    for (header, good) in [
        (json!({ "alg": "EdDSA", "kid": "a", "typ": "application/OAuth-ID-JAG+jwt" }), true),
        (json!({ "alg": "EdDSA", "kid": "a" }), false),
        (json!({ "alg": "EdDSA", "kid": "a", "typ": "JWT" }), false),
        (json!({ "alg": "EdDSA", "kid": "a", "typ": "at+jwt" }), false),
        (json!({ "alg": "EdDSA", "kid": "b", "typ": "oauth-id-jag+jwt" }), false),
        (json!({ "alg": "none", "typ": "oauth-id-jag+jwt" }), false),
        (json!({ "alg": "HS256", "typ": "oauth-id-jag+jwt" }), false),
        (json!({ "alg": "EdDSA", "kid": "a", "typ": "oauth-id-jag+jwt", "crit": ["x"] }), false),
    ] {
        let assertion = signer.sign(&header, &with("jti", json!(header.to_string())));
        let verdict = assertions.verify_id_jag(&trusted, OWN, "c1", &assertion, at(0)).await;
        assert_eq!(verdict.is_ok(), good, "{header} {verdict:?}");
    }
    let forged = assertions.verify_id_jag(&trusted, OWN, "c1", &stranger.assert(&claims()), at(0)).await;
    assert!(matches!(forged, Err(AssertionError::Signature(_))), "{forged:?}");
    // Two issuers may both be trusted; neither speaks for the other.
    let both = [signer.trusted(IDP), stranger.trusted("https://other.example")].concat();
    let crossed = assertions.verify_id_jag(&both, OWN, "c1", &stranger.assert(&claims()), at(0)).await;
    assert!(matches!(crossed, Err(AssertionError::Signature(_))), "{crossed:?}");
    let none = assertions.verify_id_jag(&[], OWN, "c1", &signer.assert(&claims()), at(0)).await;
    assert!(matches!(none, Err(AssertionError::Issuer)), "{none:?}");
}

#[tokio::test]
async fn keys_are_fetched_through_the_guard() {
    let (assertions, site) = assertions().await;
    let signer = Signer::new();
    site.says(json_answer(&signer.jwks()));
    let trusted = read(&json!([{ "issuer": IDP, "jwks_uri": site.url("/keys") }])).expect("valid");
    for jti in ["1", "2"] {
        let assertion = signer.assert(&with("jti", json!(jti)));
        assertions.verify_id_jag(&trusted, OWN, "c1", &assertion, at(0)).await.expect("good");
    }
    assert_eq!(site.requests().len(), 1);
    // A port that is not allowed: the address is one of this machine.
    let inward = read(&json!([{ "issuer": IDP, "jwks_uri": "https://127.0.0.1:1/keys" }])).expect("valid");
    let refused =
        assertions.verify_id_jag(&inward, OWN, "c1", &signer.assert(&with("jti", json!("3"))), at(0)).await;
    assert!(matches!(refused, Err(AssertionError::Keys(_))), "{refused:?}");
}

#[test]
fn a_list_of_issuers_says_what_is_wrong_with_it() {
    let jwks = Signer::new().jwks();
    assert!(read(&json!([])).expect("valid").is_empty());
    let good = json!([
        { "issuer": IDP, "jwks": jwks },
        { "issuer": "https://b.example/t/", "jwks_uri": "https://b.example/keys" },
    ]);
    assert_eq!(read(&good).expect("valid").len(), 2);
    let keys = "https://b.example/keys";
    for (list, told) in [
        (json!({}), "JSON array"),
        (json!([{ "jwks_uri": keys }]), "JSON array"),
        (json!([{ "issuer": IDP, "jwks_uri": keys, "audience": "x" }]), "JSON array"),
        (json!([{ "issuer": "http://idp.example", "jwks_uri": keys }]), "https URL"),
        (json!([{ "issuer": "https://idp.example?x", "jwks_uri": keys }]), "https URL"),
        (json!([{ "issuer": "https://idp.example/*", "jwks_uri": keys }]), "https URL"),
        (
            json!([{ "issuer": format!("https://idp.example/{}", "x".repeat(250)), "jwks_uri": keys }]),
            "https URL",
        ),
        (json!([{ "issuer": IDP }]), "either"),
        (json!([{ "issuer": IDP, "jwks_uri": keys, "jwks": jwks }]), "either"),
        (json!([{ "issuer": IDP, "jwks_uri": "http://b.example/keys" }]), "jwks_uri"),
        (json!([{ "issuer": IDP, "jwks": { "keys": [] } }]), "can't be used"),
        (json!([{ "issuer": OWN, "jwks_uri": keys }]), "twice"),
        (
            json!([{ "issuer": IDP, "jwks_uri": keys }, { "issuer": "https://idp.example/", "jwks_uri": keys }]),
            "twice",
        ),
        (Value::Array(vec![json!({ "issuer": IDP, "jwks_uri": keys }); MAX_ISSUERS + 1]), "more than"),
    ] {
        let error = read(&list).expect_err(told).to_string();
        assert!(error.contains(told), "{list} {error}");
    }
}
