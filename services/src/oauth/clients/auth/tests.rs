use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::oauth::clients::configured::ConfiguredClient;
use crate::oauth::clients::document::Documents;
use crate::oauth::clients::registration::{Registrations, Settings};
use crate::oauth::clients::store::memory::Memory;
use crate::oauth::clients::testing::{Ended, Site};
use crate::store::embedded::Embedded;
use crate::store::{Expect, Store};

const NOW: i64 = 1_000_000;
const TOKEN: &str = "https://auth.example/token";

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("valid")
}

struct World {
    authenticator: Authenticator,
    registrations: Arc<Registrations>,
    store: Arc<Embedded>,
}

async fn world() -> World {
    let (site, kept) = (Site::start().await, Arc::new(Memory::default()));
    let store = Arc::new(Embedded::in_memory().expect("a store"));
    let guard = Arc::new(site.guard());
    let settings = Settings::new("https://auth.example/register");
    let registrations = Arc::new(Registrations::new(kept.clone(), Arc::new(Ended::default()), settings));
    let documents = Arc::new(Documents::new(guard.clone()));
    let cli = Client::built_in("portcullis", "portcullis", &["http://127.0.0.1/callback"]).expect("valid");
    let clients = Arc::new(Clients::new(store.clone(), registrations.clone(), documents, vec![cli]));
    let assertions = Arc::new(Assertions::new(guard, kept, vec![TOKEN.to_owned()]));
    World { authenticator: Authenticator::new(clients, assertions), registrations, store }
}

impl World {
    async fn register(&self, method: &str, more: Value) -> (String, String) {
        let mut body =
            json!({ "redirect_uris": ["https://app.example/"], "token_endpoint_auth_method": method });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let registered =
            self.registrations.register(body.to_string().as_bytes(), [10, 0, 0, 1].into(), now()).await;
        let registered = registered.expect("registered");
        let secret =
            registered.client_secret.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default();
        (registered.client_id, secret)
    }

    async fn configure(&self, id: &str, fields: Value) -> String {
        let (client, secret) =
            ConfiguredClient::new(fields.as_object().expect("an object"), false).expect("valid");
        let write = client.put(id, Expect::Absent).expect("a good id");
        self.store.commit(vec![write]).await.expect("stored");
        secret.map(|secret| secret.expose_secret().to_owned()).unwrap_or_default()
    }

    async fn try_with(&self, headers: &HeaderMap, form: Form<'_>) -> Result<String, AuthError> {
        let credentials = Credentials::read(headers, form)?;
        let debug = format!("{credentials:?}");
        assert!(!debug.contains("pcs_"), "{debug}");
        self.authenticator.authenticate(&credentials, now()).await.map(|client| client.id)
    }
}

fn basic_header(id: &str, secret: &str) -> HeaderMap {
    let value = format!("Basic {}", BASE64.encode(format!("{id}:{secret}")));
    HeaderMap::from_iter([(AUTHORIZATION, value.try_into().expect("a value"))])
}

fn post<'a>(id: &'a str, secret: &'a str) -> Form<'a> {
    Form { client_id: Some(id), client_secret: Some(secret), ..Form::default() }
}

fn named(id: &str) -> Form<'_> {
    Form { client_id: Some(id), ..Form::default() }
}

fn refused(outcome: Result<String, AuthError>, what: &str) {
    let error = outcome.expect_err(what);
    assert!(matches!(error, AuthError::Client { .. }), "{what}");
    assert_eq!(error.to_string(), "client authentication failed", "nothing tells why");
}

#[tokio::test]
async fn a_client_proves_itself_in_the_way_that_it_registered() {
    let world = world().await;
    let none = HeaderMap::new();
    let (public, _) = world.register("none", json!({})).await;
    let (with_header, its) = world.register("client_secret_basic", json!({})).await;
    let (with_body, their) = world.register("client_secret_post", json!({})).await;
    assert_eq!(world.try_with(&none, named(&public)).await.expect("public"), public);
    assert_eq!(world.try_with(&none, post(&public, "")).await.expect("an empty secret is none"), public);
    assert_eq!(
        world.try_with(&basic_header(&with_header, &its), Form::default()).await.expect("basic"),
        with_header
    );
    assert_eq!(
        world.try_with(&basic_header(&with_header, &its), named(&with_header)).await.expect("named twice"),
        with_header
    );
    assert_eq!(world.try_with(&none, post(&with_body, &their)).await.expect("post"), with_body);

    refused(world.try_with(&none, named(&with_header)).await, "no proof");
    refused(world.try_with(&none, named(&with_body)).await, "no proof");
    refused(world.try_with(&none, post(&with_header, &its)).await, "the other way");
    refused(world.try_with(&basic_header(&with_body, &their), Form::default()).await, "the other way");
    refused(world.try_with(&basic_header(&with_header, &their), Form::default()).await, "another's secret");
    refused(world.try_with(&basic_header(&with_header, ""), Form::default()).await, "no secret");
    refused(world.try_with(&none, post(&with_body, "x")).await, "a wrong secret");
    refused(world.try_with(&none, post(&public, "x")).await, "a secret of a public client");
    refused(world.try_with(&basic_header(&public, ""), Form::default()).await, "a header of a public client");
    refused(world.try_with(&none, named("dyn_unknown")).await, "unknown");
    refused(world.try_with(&none, named("unknown")).await, "unknown");
    refused(world.try_with(&none, named("https://localhost/")).await, "no document's URL");
    refused(world.try_with(&none, named("https://app.example:9/c")).await, "no document");
    refused(world.try_with(&none, named(&"x".repeat(MAX_TEXT + 1))).await, "too long");
    refused(world.try_with(&none, Form::default()).await, "nobody");
    refused(world.try_with(&none, post("", "x")).await, "nobody");
}

#[tokio::test]
async fn configured_and_built_in_clients_are_known() {
    let world = world().await;
    let none = HeaderMap::new();
    let machine = json!({ "grant_types": ["client_credentials"] });
    let secret = world.configure("machine", machine).await;
    for outcome in [
        world.try_with(&none, post("machine", &secret)).await,
        world.try_with(&basic_header("machine", &secret), Form::default()).await,
    ] {
        assert_eq!(outcome.expect("either way"), "machine");
    }
    refused(world.try_with(&none, named("machine")).await, "no secret");
    refused(world.try_with(&none, post("machine", "x")).await, "a wrong one");
    world
        .configure(
            "site",
            json!({ "redirect_uris": ["https://a.example/"], "token_endpoint_auth_method": "none" }),
        )
        .await;
    assert_eq!(world.try_with(&none, named("site")).await.expect("public"), "site");
    refused(world.try_with(&none, post("site", "x")).await, "a secret of a public client");
    assert_eq!(world.try_with(&none, named("portcullis")).await.expect("built in"), "portcullis");
    let (_, documents) = world.store.load().await.expect("read");
    assert!(!format!("{documents:?}").contains(&secret), "only a hash is kept");
}

#[test]
fn one_way_only() {
    let assertion = Form {
        client_assertion: Some("a.b.c"),
        client_assertion_type: Some(ASSERTION_TYPE),
        ..Form::default()
    };
    let mut two = basic_header("a", "b");
    two.append(AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
    for (headers, form) in [
        (basic_header("a", "b"), post("a", "b")),
        (basic_header("a", "b"), assertion),
        (HeaderMap::new(), Form { client_secret: Some("x"), ..assertion }),
        (two, Form::default()),
        (basic_header("a", "b"), named("c")),
        (HeaderMap::new(), Form { client_assertion_type: None, ..assertion }),
        (HeaderMap::new(), Form { client_assertion_type: Some("urn:other"), ..assertion }),
    ] {
        let error = Credentials::read(&headers, form).expect_err("refused");
        assert!(matches!(error, AuthError::Request(_)), "{form:?}");
    }
}

#[test]
fn a_header_is_read_with_and_without_encoding() {
    for (text, id, secret) in [
        ("a:b", "a", "b"),
        ("a:b:c", "a", "b:c"),
        ("a%3Ab:c%25+d", "a:b", "c% d"),
        ("a:100%", "a", "100%"),
        ("a:", "a", ""),
    ] {
        let header = format!("bAsIc {}", BASE64.encode(text)).try_into().expect("a value");
        let credentials = basic(&header).expect(text);
        let Proof::Basic { secret: decoded, raw, .. } = &credentials.proof else { panic!("{text}") };
        assert_eq!((credentials.client_id(), decoded.expose_secret()), (id, secret));
        assert_eq!(raw.expose_secret(), text.split_once(':').expect("a colon").1);
    }
    let long = format!("Basic {}", BASE64.encode("a".repeat(4 * MAX_TEXT)));
    for bad in ["Basic", "Basic ", "Basic !", "Basic YQ==", "Basic OmI=", "Bearer YTpi", "Basic //8=", &long]
    {
        let header = HeaderMap::from_iter([(AUTHORIZATION, bad.try_into().expect("a value"))]);
        let error = Credentials::read(&header, Form::default()).expect_err(bad);
        assert!(matches!(error, AuthError::Client { .. }), "{bad}");
    }
}

#[tokio::test]
async fn an_assertion_proves_a_client_once() {
    let world = world().await;
    let pair = Ed25519KeyPair::generate().expect("a key");
    let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
    let jwks = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] });
    let (id, _) = world.register("private_key_jwt", json!({ "jwks": jwks })).await;
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "iss": id, "sub": id, "aud": TOKEN, "exp": NOW + 60, "jti": "1" });
    let message = format!("{}.{}", encode(json!({ "alg": "EdDSA" })), encode(claims));
    let assertion = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes())));
    let form = |client_id| Form {
        client_id,
        client_assertion: Some(&assertion),
        client_assertion_type: Some(ASSERTION_TYPE),
        client_secret: None,
    };
    let none = HeaderMap::new();
    let error = Credentials::read(&none, form(Some("other"))).expect_err("another client");
    assert!(matches!(error, AuthError::Request(_)), "{error}");
    assert_eq!(world.try_with(&none, form(None)).await.expect("good"), id);
    refused(world.try_with(&none, form(Some(&id))).await, "used before");
    refused(world.try_with(&none, named(&id)).await, "no assertion");
    let broken = Form { client_assertion: Some("x"), ..form(None) };
    refused(world.try_with(&none, broken).await, "no JWT");
}
