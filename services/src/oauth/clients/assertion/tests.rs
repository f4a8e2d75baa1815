use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::json;

use super::*;
use crate::oauth::clients::Origin;
use crate::oauth::clients::metadata::{Metadata, Source};
use crate::oauth::clients::store::memory::Memory;
use crate::oauth::clients::testing::{Site, json_answer};

const ISSUER: &str = "https://auth.example";
const TOKEN: &str = "https://auth.example/token";
const NOW: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOW + second).expect("valid")
}

struct Signer {
    pair: Ed25519KeyPair,
    id: &'static str,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { pair: Ed25519KeyPair::generate().expect("a key"), id }
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": BASE64.encode(self.pair.public_key()) })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", BASE64.encode(signature))
    }

    fn assert(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": "EdDSA", "kid": self.id, "typ": "JWT" }), claims)
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

fn claims(jti: &str) -> Value {
    json!({ "iss": "c1", "sub": "c1", "aud": TOKEN, "exp": NOW + 300, "iat": NOW, "jti": jti })
}

fn changed(member: &str, value: Value) -> Value {
    let mut claims = claims("changed");
    claims[member] = value;
    claims
}

fn client(keys: &Value) -> Client {
    let mut fields =
        json!({ "redirect_uris": ["https://app.example/"], "token_endpoint_auth_method": "private_key_jwt" });
    fields.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    let metadata =
        Metadata::read(fields.as_object().expect("an object"), Source::Registration).expect("valid");
    Client {
        id: "c1".to_owned(),
        origin: Origin::Registered,
        metadata: Arc::new(metadata),
        first_party: false,
        secret: None,
        any_secret_method: false,
        introspects: false,
    }
}

fn inline(jwks: &[Value]) -> Client {
    client(&json!({ "jwks": { "keys": jwks } }))
}

async fn assertions() -> (Assertions, Arc<Memory>, Site) {
    let (site, store) = (Site::start().await, Arc::new(Memory::default()));
    let audiences = vec![ISSUER.to_owned(), TOKEN.to_owned()];
    (Assertions::new(Arc::new(site.guard()), store.clone(), audiences), store, site)
}

#[tokio::test]
async fn an_assertion_is_good_once() {
    let (assertions, store, _) = assertions().await;
    let signer = Signer::new("a");
    let client = inline(&[signer.jwk()]);
    let assertion = signer.assert(&claims("1"));
    assert_eq!(Assertions::claimed_client(&assertion).as_deref(), Some("c1"));
    assertions.verify(&client, &assertion, at(0)).await.expect("good");
    for second in [0, 1, 359] {
        let again = assertions.verify(&client, &assertion, at(second)).await;
        assert!(matches!(again, Err(AssertionError::Replayed)), "{again:?}");
    }
    assert!(matches!(assertions.verify(&client, &assertion, at(360)).await, Err(AssertionError::Time)));
    let remembered = store.state().counters.values().next().expect("one").1;
    assert_eq!(remembered, Duration::from_secs(361), "as long as it could pass");
    assertions.verify(&client, &signer.assert(&claims("2")), at(0)).await.expect("another one");
}

#[tokio::test]
async fn an_id_is_the_clients_own_and_only_a_good_assertion_uses_it_up() {
    let (assertions, _, _) = assertions().await;
    let (signer, stranger) = (Signer::new("a"), Signer::new("a"));
    let client = inline(&[signer.jwk()]);
    let forged = stranger.assert(&claims("1"));
    assert!(matches!(assertions.verify(&client, &forged, at(0)).await, Err(AssertionError::Signature(_))));
    assertions.verify(&client, &signer.assert(&claims("1")), at(0)).await.expect("not used up");
    let other = Client { id: "c2".to_owned(), ..client };
    let mut theirs = claims("1");
    (theirs["iss"], theirs["sub"]) = (json!("c2"), json!("c2"));
    assertions.verify(&other, &signer.assert(&theirs), at(0)).await.expect("another client's id");
}

#[tokio::test]
async fn claims_have_to_be_for_us_and_for_now() {
    let (assertions, _, _) = assertions().await;
    let signer = Signer::new("a");
    let client = inline(&[signer.jwk()]);
    for (n, (member, value)) in [
        ("aud", json!(ISSUER)),
        ("aud", json!([TOKEN])),
        ("aud", json!([ISSUER, TOKEN])),
        ("exp", json!(NOW + 660)),
        ("exp", json!(NOW - 59)),
        ("exp", json!(NOW as f64 + 10.5)),
        ("nbf", json!(NOW + 60)),
        ("iat", json!(NOW + 60)),
        ("extra", json!({ "x": [1] })),
    ]
    .into_iter()
    .enumerate()
    {
        let mut good = changed(member, value);
        good["jti"] = json!(n.to_string());
        assertions
            .verify(&client, &signer.assert(&good), at(0))
            .await
            .unwrap_or_else(|error| panic!("{good} {error}"));
    }
    for (member, value, told) in [
        ("iss", json!("c2"), "speak"),
        ("sub", json!("c2"), "speak"),
        ("sub", json!(null), "form"),
        ("aud", json!("https://other.example"), "audience"),
        ("aud", json!("https://auth.example/"), "audience"),
        ("aud", json!([TOKEN, "https://other.example"]), "audience"),
        ("aud", json!([]), "audience"),
        ("aud", json!(null), "form"),
        ("exp", json!(NOW - 60), "time"),
        ("exp", json!(NOW + 661), "time"),
        ("exp", json!(-1), "time"),
        ("exp", json!(1e300), "time"),
        ("exp", json!(null), "form"),
        ("exp", json!("soon"), "form"),
        ("nbf", json!(NOW + 61), "time"),
        ("iat", json!(NOW + 61), "time"),
        ("jti", json!(""), "jti"),
        ("jti", json!("x".repeat(MAX_JTI + 1)), "jti"),
        ("jti", json!(null), "form"),
        ("jti", json!(1), "form"),
    ] {
        let bad = changed(member, value);
        let error =
            assertions.verify(&client, &signer.assert(&bad), at(0)).await.expect_err(told).to_string();
        assert!(error.contains(told), "{bad} {error}");
    }
}

#[tokio::test]
async fn headers_can_not_lead_astray() {
    let (assertions, _, _) = assertions().await;
    let signer = Signer::new("a");
    let client = inline(&[signer.jwk()]);
    let jwk = Signer::new("evil").jwk();
    for (header, good) in [
        (json!({ "alg": "EdDSA" }), true),
        (json!({ "alg": "Ed25519", "kid": "a", "typ": "client-authentication+jwt" }), true),
        (json!({ "alg": "EdDSA", "kid": "b" }), false),
        (json!({ "alg": "EdDSA", "typ": "at+jwt" }), false),
        (json!({ "alg": "EdDSA", "crit": ["x"], "x": 1 }), false),
        (json!({ "alg": "EdDSA", "b64": false }), false),
        (json!({ "alg": "EdDSA", "kid": "evil", "jwk": jwk, "jku": "https://evil.example/" }), false),
        (json!({ "alg": "none" }), false),
        (json!({ "alg": "HS256" }), false),
        (json!({ "alg": "RS256", "kid": "a" }), false),
        (json!({}), false),
    ] {
        let claims = claims(&header.to_string());
        let verdict = assertions.verify(&client, &signer.sign(&header, &claims), at(0)).await;
        assert_eq!(verdict.is_ok(), good, "{header} {verdict:?}");
    }
    let signed = signer.assert(&claims("x"));
    for bad in [
        "",
        ".",
        "..",
        "a.b.c",
        signed.trim_end_matches(|c| c != '.'),
        &signed.replace('.', ""),
        &format!("{signed}.x"),
        &"a".repeat(MAX_ASSERTION + 1),
    ] {
        assert!(
            matches!(
                assertions.verify(&client, bad, at(0)).await,
                Err(AssertionError::Malformed | AssertionError::Signature(_))
            ),
            "{bad}"
        );
    }
    let public = Metadata { token_endpoint_auth_method: AuthMethod::None, ..(*client.metadata).clone() };
    let public = Client { metadata: Arc::new(public), ..client };
    assert!(matches!(assertions.verify(&public, &signed, at(0)).await, Err(AssertionError::NoKeys)));
}

#[tokio::test]
async fn all_algorithms_that_we_have_are_verified() {
    let (assertions, _, _) = assertions().await;
    let random = SystemRandom::new();
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = ec.public_key().as_ref();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let public = rsa.public_key();
    let number = |bytes: &[u8]| BASE64.encode(bytes);
    let client = inline(&[
        json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": number(&point[1..33]), "y": number(&point[33..]) }),
        json!({
            "kty": "RSA", "kid": "rsa",
            "n": number(public.modulus().big_endian_without_leading_zero()),
            "e": number(public.exponent().big_endian_without_leading_zero()),
        }),
    ]);
    let es256 = message(&json!({ "alg": "ES256", "kid": "ec" }), &claims("ec"));
    let signature = ec.sign(&random, es256.as_bytes()).expect("signed");
    let assertion = format!("{es256}.{}", BASE64.encode(signature));
    assertions.verify(&client, &assertion, at(0)).await.expect("ES256");
    let rs256 = message(&json!({ "alg": "RS256", "kid": "rsa" }), &claims("rsa"));
    let mut signature = vec![0; public.modulus_len()];
    rsa.sign(&RSA_PKCS1_SHA256, &random, rs256.as_bytes(), &mut signature).expect("signed");
    let assertion = format!("{rs256}.{}", BASE64.encode(signature));
    assertions.verify(&client, &assertion, at(0)).await.expect("RS256");
}

#[tokio::test]
async fn keys_are_fetched_and_follow_a_rotation() {
    let (assertions, _, site) = assertions().await;
    let (first, second) = (Signer::new("a"), Signer::new("b"));
    site.says(json_answer(&json!({ "keys": [first.jwk()] })));
    let client = client(&json!({ "jwks_uri": site.url("/keys.json") }));
    assertions.verify(&client, &first.assert(&claims("1")), at(0)).await.expect("fetched");
    assertions.verify(&client, &first.assert(&claims("2")), at(1)).await.expect("kept");
    assert_eq!(site.requests().len(), 1);
    site.says(json_answer(&json!({ "keys": [first.jwk(), second.jwk()] })));
    let early = assertions.verify(&client, &second.assert(&claims("3")), at(20)).await;
    assert!(matches!(early, Err(AssertionError::Signature(_))), "fetched a moment ago");
    assertions.verify(&client, &second.assert(&claims("3")), at(31)).await.expect("fetched again");
    assert_eq!(site.requests().len(), 2);
    let gone = self::client(&json!({ "jwks_uri": site.url("/gone.json") }));
    site.says("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned());
    assert!(matches!(
        assertions.verify(&gone, &first.assert(&claims("4")), at(0)).await,
        Err(AssertionError::Keys(_))
    ));
}
