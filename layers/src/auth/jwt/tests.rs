//! Tokens are signed by another implementation (`jsonwebtoken`), so that both must agree on the formats.

use std::sync::LazyLock;

use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::super::keys::KeySet;
use super::*;

const NOW: u64 = 1_800_000_000;
const OWN: &str = "https://auth.example";
const IDP: &str = "https://idp.example";

struct Pair {
    signer: EncodingKey,
    jwk: Value,
    algorithm: jsonwebtoken::Algorithm,
}

impl Pair {
    fn new(kid: &str, algorithm: jsonwebtoken::Algorithm) -> Self {
        let kind = match algorithm {
            jsonwebtoken::Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            jsonwebtoken::Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = rcgen::KeyPair::generate_for(kind).expect("generated");
        let pem = pair.serialize_pem();
        let signer = match algorithm {
            jsonwebtoken::Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            jsonwebtoken::Algorithm::EdDSA => Ok(EncodingKey::from_ed_der(pair.serialized_der())),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        }
        .expect("a key");
        let mut jwk = if algorithm == jsonwebtoken::Algorithm::EdDSA {
            let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
            json!({ "kty": "OKP", "crv": "Ed25519", "x": x })
        } else {
            let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&signer, algorithm).expect("a public half");
            serde_json::to_value(jwk).expect("JSON")
        };
        jwk["kid"] = kid.into();
        Self { signer, jwk, algorithm }
    }

    fn header(&self) -> Value {
        json!({ "alg": format!("{:?}", self.algorithm), "typ": "at+jwt", "kid": self.jwk["kid"] })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.signer, self.algorithm);
        format!("{message}.{}", signature.expect("signed"))
    }
}

static RSA: LazyLock<Pair> = LazyLock::new(|| Pair::new("rsa", jsonwebtoken::Algorithm::RS256));
static STRANGER: LazyLock<Pair> = LazyLock::new(|| Pair::new("rsa", jsonwebtoken::Algorithm::RS256));
static EC: LazyLock<Pair> = LazyLock::new(|| Pair::new("ec", jsonwebtoken::Algorithm::ES256));
static ED: LazyLock<Pair> = LazyLock::new(|| Pair::new("ed", jsonwebtoken::Algorithm::EdDSA));

fn jwks(pairs: &[&Pair]) -> KeySet {
    let keys: Vec<&Value> = pairs.iter().map(|pair| &pair.jwk).collect();
    KeySet::from_jwks(&json!({ "keys": keys }).to_string()).expect("good keys")
}

struct Fixture {
    own: Arc<Keys>,
    revoked: Arc<Revoked>,
    verifier: JwtVerifier,
}

impl Fixture {
    fn new() -> Self {
        let (own, revoked) = (Keys::new(jwks(&[&RSA, &EC])), Arc::new(Revoked::default()));
        let issuers =
            [Issuer::own(OWN, Arc::clone(&own)), Issuer::foreign(IDP, Keys::new(jwks(&[&EC, &ED])))];
        let verifier = JwtVerifier::new(issuers, Arc::clone(&revoked), 1);
        Self { own, revoked, verifier }
    }

    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        self.verifier.verify_at(token, NOW)
    }
}

fn claims() -> Value {
    json!({
        "iss": OWN, "sub": "1", "aud": ["https://app.example"], "exp": NOW + 600, "iat": NOW, "jti": "t1",
        "scope": "admin read read", "client_id": "c", "username": "Alice", "email": "a@example.com",
    })
}

fn with(mut value: Value, member: &str, new: impl Into<Value>) -> Value {
    value[member] = new.into();
    value
}

fn without(mut value: Value, member: &str) -> Value {
    value.as_object_mut().expect("an object").remove(member);
    value
}

#[test]
fn a_good_token_gives_its_principal() {
    let fixture = Fixture::new();
    let verified = fixture.verify(&RSA.sign(&RSA.header(), &claims())).expect("good");
    let principal = verified.principal();
    assert_eq!((principal.issuer.as_str(), principal.subject.as_str()), (OWN, "1"));
    assert_eq!(principal.username.as_deref(), Some("Alice"));
    assert_eq!(principal.scopes, ["admin", "read", "user", "mcp"]);
    assert_eq!(principal.audience, ["https://app.example"]);
    assert_eq!((principal.expires_at, principal.token_id.as_deref()), (NOW + 600, Some("t1")));
    assert!(!principal.foreign);
}

#[test]
fn each_algorithm_of_another_issuer_is_verified() {
    let fixture = Fixture::new();
    for pair in [&*EC, &*ED] {
        let token = pair.sign(&pair.header(), &with(claims(), "iss", IDP));
        assert!(fixture.verify(&token).expect("good").principal().foreign, "{:?}", pair.algorithm);
    }
}

#[test]
fn a_token_with_one_wrong_claim_is_refused() {
    use TokenError::{Claims, Expired, Issuer, Missing, NotYetValid};
    let fixture = Fixture::new();
    let c = claims;
    for (claims, expected) in [
        (without(c(), "iss"), Missing("iss")),
        (with(c(), "iss", "https://auth.example/"), Issuer("https://auth.example/".into())),
        (with(c(), "iss", "https://AUTH.example"), Issuer("https://AUTH.example".into())),
        (with(c(), "iss", json!([OWN])), Claims),
        (with(c(), "iss", Value::Null), Missing("iss")),
        (without(c(), "sub"), Missing("sub")),
        (with(c(), "sub", ""), Missing("sub")),
        (with(c(), "sub", 1), Claims),
        (without(c(), "exp"), Missing("exp")),
        (with(c(), "exp", NOW - 60), Expired),
        (with(c(), "exp", 0), Expired),
        (with(c(), "exp", -1), Claims),
        (with(c(), "exp", 1e300), Claims),
        (with(c(), "exp", "soon"), Claims),
        (with(c(), "nbf", NOW + 61), NotYetValid),
        (with(c(), "iat", NOW + 61), NotYetValid),
        (with(c(), "nbf", "now"), Claims),
        (with(c(), "aud", json!({})), Claims),
        (with(c(), "aud", json!([1])), Claims),
        (with(c(), "jti", 1), Claims),
        (with(c(), "scope", 1), Claims),
    ] {
        let token = RSA.sign(&RSA.header(), &claims);
        assert_eq!(fixture.verify(&token).expect_err("wrong claim"), expected, "{claims}");
    }
    for text in ["", "null", "[]", "\"x\"", "{", "{}x"] {
        let token = RSA.sign_text(&RSA.header().to_string(), text);
        let error = fixture.verify(&token).expect_err("no claims");
        assert!(matches!(error, Claims | Missing(_)), "{text}: {error}");
    }
    let twice = format!("{{\"iss\":\"{IDP}\",{}", &c().to_string()[1..]);
    assert_eq!(fixture.verify(&RSA.sign_text(&RSA.header().to_string(), &twice)).expect_err("twice"), Claims);
}

#[test]
fn times_are_taken_with_leeway_and_fractions() {
    let fixture = Fixture::new();
    for good in [
        with(claims(), "exp", NOW - 59),
        with(claims(), "nbf", NOW + 60),
        with(claims(), "iat", NOW + 60),
        with(claims(), "exp", NOW as f64 + 0.5),
        without(without(claims(), "iat"), "jti"),
        with(claims(), "aud", "https://app.example"),
        with(claims(), "nbf", Value::Null),
    ] {
        assert!(fixture.verify(&RSA.sign(&RSA.header(), &good)).is_ok(), "{good}");
    }
}

#[test]
fn a_header_that_asks_for_anything_else_is_refused() {
    let fixture = Fixture::new();
    let h = || RSA.header();
    for (header, expected) in [
        (with(h(), "alg", "none"), TokenError::Algorithm("none".into())),
        (with(h(), "alg", "None"), TokenError::Algorithm("None".into())),
        (with(h(), "alg", ""), TokenError::Algorithm("".into())),
        (with(h(), "alg", "HS256"), TokenError::Algorithm("HS256".into())),
        (with(h(), "alg", "RS512"), TokenError::Algorithm("RS512".into())),
        (with(h(), "alg", "PS256"), TokenError::Algorithm("PS256".into())),
        (with(h(), "alg", "rs256"), TokenError::Algorithm("rs256".into())),
        (with(h(), "alg", "ES256"), TokenError::Algorithm("ES256".into())),
        (with(h(), "alg", "EdDSA"), TokenError::Algorithm("EdDSA".into())),
        (with(h(), "alg", json!(["RS256"])), TokenError::Header),
        (without(h(), "alg"), TokenError::Header),
        (with(h(), "typ", "dpop+jwt"), TokenError::Type("dpop+jwt".into())),
        (with(h(), "typ", "text/at+jwt"), TokenError::Type("text/at+jwt".into())),
        (with(h(), "typ", 1), TokenError::Header),
        (with(h(), "crit", json!(["exp"])), TokenError::Critical),
        (with(h(), "crit", json!([])), TokenError::Critical),
        (with(h(), "crit", Value::Null), TokenError::Critical),
        (with(h(), "b64", false), TokenError::Critical),
        (with(h(), "kid", 1), TokenError::Header),
        (
            with(h(), "kid", "../rsa"),
            TokenError::UnknownKey { kid: Some("../rsa".into()), algorithm: "RS256" },
        ),
        (with(h(), "kid", "ec"), TokenError::UnknownKey { kid: Some("ec".into()), algorithm: "RS256" }),
        (with(h(), "kid", ""), TokenError::UnknownKey { kid: Some("".into()), algorithm: "RS256" }),
    ] {
        let token = RSA.sign(&header, &claims());
        assert_eq!(fixture.verify(&token).expect_err("wrong header"), expected, "{header}");
    }
    let twice = "{\"alg\":\"none\",\"alg\":\"RS256\",\"kid\":\"rsa\"}";
    let token = RSA.sign_text(twice, &claims().to_string());
    assert_eq!(fixture.verify(&token).expect_err("twice"), TokenError::Header);
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        assert!(fixture.verify(&RSA.sign(&with(h(), "typ", typ), &claims())).is_ok(), "{typ}");
    }
    assert!(fixture.verify(&RSA.sign(&without(h(), "kid"), &claims())).is_ok(), "one key alone fits");
}

#[test]
fn an_id_token_of_our_own_is_no_access_token() {
    let fixture = Fixture::new();
    for typ in ["JWT", "jwt", "application/jwt", "", "application/", "at+jwt ", "at+jwt+x"] {
        let token = RSA.sign(&with(RSA.header(), "typ", typ), &claims());
        assert_eq!(fixture.verify(&token).expect_err("no access token"), TokenError::Type(typ.into()));
    }
    for header in [with(RSA.header(), "typ", Value::Null), without(RSA.header(), "typ")] {
        let token = RSA.sign(&header, &claims());
        assert_eq!(fixture.verify(&token).expect_err("no access token"), TokenError::Type("".into()));
    }
    // Many other issuers write nothing else on their access tokens.
    let foreign = with(claims(), "iss", IDP);
    for typ in [Value::Null, "JWT".into(), "jwt".into(), "application/at+jwt".into()] {
        assert!(fixture.verify(&EC.sign(&with(EC.header(), "typ", typ.clone()), &foreign)).is_ok(), "{typ}");
    }
}

#[test]
fn a_key_in_the_token_is_not_used() {
    let fixture = Fixture::new();
    for (member, value) in [
        ("jwk", STRANGER.jwk.clone()),
        ("jku", "https://evil.example/jwks.json".into()),
        ("x5u", "https://evil.example/cert.pem".into()),
        ("x5c", json!(["AAAA"])),
    ] {
        let token = STRANGER.sign(&with(STRANGER.header(), member, value.clone()), &claims());
        assert_eq!(fixture.verify(&token).expect_err("forged"), TokenError::Signature, "{member}");
        let token = RSA.sign(&with(RSA.header(), member, value), &claims());
        assert!(fixture.verify(&token).is_ok(), "{member} is ignored");
    }
}

#[test]
fn an_algorithm_belongs_to_a_key_and_a_key_to_an_issuer() {
    let fixture = Fixture::new();
    // The public key as a shared secret, the classic confusion.
    let secret = EncodingKey::from_secret(RSA.jwk["n"].as_str().expect("n").as_bytes());
    let confused = Pair { signer: secret, jwk: RSA.jwk.clone(), algorithm: jsonwebtoken::Algorithm::HS256 };
    for algorithm in ["HS256", "RS256"] {
        let header = with(confused.header(), "alg", algorithm);
        assert!(fixture.verify(&confused.sign(&header, &claims())).is_err(), "{algorithm}");
    }
    let own_by_ec = EC.sign(&EC.header(), &claims());
    assert_eq!(
        fixture.verify(&own_by_ec).expect_err("own tokens are RS256"),
        TokenError::Algorithm("ES256".into())
    );
    let idp_by_own = RSA.sign(&RSA.header(), &with(claims(), "iss", IDP));
    assert!(matches!(fixture.verify(&idp_by_own), Err(TokenError::UnknownKey { .. })));
    let idp_by_wrong_key = ED.sign(&with(ED.header(), "kid", "ec"), &with(claims(), "iss", IDP));
    assert!(matches!(fixture.verify(&idp_by_wrong_key), Err(TokenError::UnknownKey { .. })));
}

#[test]
fn bytes_that_are_no_signed_token_are_refused() {
    let fixture = Fixture::new();
    let good = RSA.sign(&RSA.header(), &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let other = URL_SAFE_NO_PAD.encode(with(claims(), "username", "root").to_string());
    let (flipped, last) = signature.split_at(signature.len() - 1);
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{other}.{signature}"),
        format!("{header}.{payload}.{}", signature.replace('_', "/")) + "+",
        format!("{header}.{payload}.A{}", &signature[1..]) + "A",
        // The last character has spare bits: another spelling of the same signature is another token.
        format!("{header}.{payload}.{flipped}{}", if last == "B" { "C" } else { "B" }),
        format!(" {good}"),
        "x".repeat(MAX_TOKEN + 1),
    ] {
        assert!(fixture.verify(&token).is_err(), "{token:.40} was taken");
    }
    assert!(fixture.verify(&good).is_ok());
}

#[test]
fn an_address_of_another_issuer_counts_when_it_was_verified() {
    let fixture = Fixture::new();
    for (iss, pair, verified, kept) in [
        (OWN, &*RSA, Value::Null, true),
        (OWN, &*RSA, false.into(), false),
        (IDP, &*EC, Value::Null, false),
        (IDP, &*EC, true.into(), true),
        (IDP, &*EC, "true".into(), true),
        (IDP, &*EC, "yes".into(), false),
        (IDP, &*EC, 1.into(), false),
    ] {
        let claims = with(with(claims(), "iss", iss), "email_verified", verified.clone());
        let token = fixture.verify(&pair.sign(&pair.header(), &claims)).expect("good");
        assert_eq!(token.principal().email.is_some(), kept, "{iss} {verified}");
    }
}

#[test]
fn a_cached_token_expires_on_time() {
    let fixture = Fixture::new();
    let token = RSA.sign(&RSA.header(), &claims());
    let first = fixture.verifier.verify_at(&token, NOW).expect("good");
    let second = fixture.verifier.verify_at(&token, NOW + 659).expect("good");
    assert!(Arc::ptr_eq(&first, &second), "the second answer did not come from the cache");
    for now in [NOW + 660, NOW + 700] {
        assert_eq!(fixture.verifier.verify_at(&token, now).expect_err("old"), TokenError::Expired);
    }
    assert_eq!(fixture.verifier.verify_at(&token, NOW - 61).expect_err("early"), TokenError::NotYetValid);
}

#[test]
fn a_cached_token_is_refused_once_it_is_revoked() {
    let fixture = Fixture::new();
    let token = RSA.sign(&RSA.header(), &claims());
    let kept = RSA.sign(&RSA.header(), &with(claims(), "jti", "t2"));
    let before = fixture.verify(&kept).expect("good");
    assert!(fixture.verify(&token).is_ok());
    fixture.revoked.revoke("t1", NOW + 600, NOW);
    for _ in 0..2 {
        assert_eq!(fixture.verify(&token).expect_err("revoked"), TokenError::Revoked);
    }
    assert!(Arc::ptr_eq(&before, &fixture.verify(&kept).expect("good")), "other tokens stay cached");
}

#[test]
fn keys_rotate_with_overlap_and_old_keys_end() {
    let fixture = Fixture::new();
    let new = Pair {
        jwk: with(STRANGER.jwk.clone(), "kid", "new"),
        ..Pair::new("new", jsonwebtoken::Algorithm::RS256)
    };
    let new = Pair { signer: STRANGER.signer.clone(), ..new };
    let (old_token, new_token) = (RSA.sign(&RSA.header(), &claims()), new.sign(&new.header(), &claims()));
    assert!(fixture.verify(&old_token).is_ok() && fixture.verify(&new_token).is_err());
    fixture.own.replace(jwks(&[&RSA, &new]));
    assert!(fixture.verify(&old_token).is_ok() && fixture.verify(&new_token).is_ok());
    fixture.own.replace(jwks(&[&new]));
    assert!(fixture.verify(&old_token).is_err(), "a cached token outlived its key");
    assert!(fixture.verify(&new_token).is_ok());
}
