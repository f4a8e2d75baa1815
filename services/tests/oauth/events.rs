//! What is told of each check that fails: which one, of whom, and no more than once.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use portcullis_services::store::{Keep, Range, Store, Stream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::signers::{ASSERTION_TYPE, Signer, unsigned};
use crate::world::{APP, Authorization, CLIENT, CLOSED, ISSUER, MONA, REDIRECT, World, form, text};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The log of events of a deployment.
struct Log<'a> {
    world: &'a World,
    read: usize,
    stop: CancellationToken,
    _writing: JoinHandle<()>,
}

impl<'a> Log<'a> {
    fn of(world: &'a World) -> Self {
        let stop = CancellationToken::new();
        let keep = Keep { entries: 10_000, age: Duration::from_secs(3600) };
        let store: Arc<dyn Store> = world.store.clone();
        let writing = tokio::spawn(world.events.clone().run(store, keep, stop.clone()));
        Self { world, read: 0, stop, _writing: writing }
    }

    /// What was told since the last time.
    async fn news(&mut self) -> Vec<Value> {
        assert!(self.world.events.flush(Duration::from_secs(20)).await);
        let range =
            Range { after: None, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: 10_000 };
        let all = self.world.store.range(Stream::Oauth, &range).await.expect("events");
        let news = &all[self.read..];
        self.read = all.len();
        news.iter().map(|logged| serde_json::from_slice(&logged.record).expect("JSON")).collect()
    }

    /// The same, as `KIND ERROR`.
    async fn told(&mut self) -> Vec<String> {
        let line = |event: &Value| {
            let line = format!("{} {}", text(event, "event_type"), text(event, "error"));
            line.trim_end().to_owned()
        };
        self.news().await.iter().map(line).collect()
    }
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn asserting(assertion: &str) -> [(&str, &str); 2] {
    [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)]
}

#[tokio::test]
async fn a_client_that_is_not_who_it_says_is_told_of_with_the_reason() {
    let world = World::new().await;
    let mut log = Log::of(&world);
    let grants = json!({ "grant_types": ["client_credentials"] });
    let secret = world.put_client("job", grants).await.expect("a secret");
    let key = Signer::ec();
    let signer = json!({
        "grant_types": ["client_credentials"], "token_endpoint_auth_method": "private_key_jwt",
        "jwks": { "keys": [key.jwk("k")] },
    });
    world.put_client("signer", signer).await;
    let now = jiff::Timestamp::now().as_second();
    let said = json!({ "iss": "signer", "sub": "signer", "aud": ISSUER, "exp": now + 60, "jti": "1" });
    let stale = json!({ "iss": "signer", "sub": "signer", "aud": ISSUER, "exp": now - 600, "jti": "2" });
    let (forged, stale) = (Signer::ec().sign("k", &said), key.sign("k", &stale));
    let unsigned = unsigned(&said);
    let ask = async |more: &[(&str, &str)]| {
        let fields = [&[("grant_type", "client_credentials")], more].concat();
        world.post("/token", &fields).await.status
    };
    for (fields, kind, client, why) in [
        (vec![("client_id", "nobody")], "client_auth", "nobody", "the client is not known"),
        (
            vec![("client_id", "job"), ("client_secret", "wrong")],
            "client_auth",
            "job",
            "the client secret is wrong",
        ),
        (vec![("client_id", "job")], "client_auth", "job", "the client has to use client_secret_basic"),
        (
            asserting(&forged).to_vec(),
            "client_auth",
            "signer",
            "the signature of the assertion can not be verified",
        ),
        (
            asserting(&stale).to_vec(),
            "client_auth",
            "signer",
            "the assertion is not valid at this time, or for longer than 600 seconds",
        ),
        (
            [&asserting("a.b.c")[..], &[("client_id", "signer")]].concat(),
            "jwt_decode",
            "signer",
            "the assertion is no JWT of the expected form",
        ),
    ] {
        assert_eq!(ask(&fields).await, StatusCode::UNAUTHORIZED, "{fields:?}");
        let news = log.news().await;
        let [check, outcome] = &news[..] else { panic!("{fields:?}: {news:?}") };
        assert_eq!((text(check, "event_type"), text(check, "error")), (kind, "invalid_client"), "{fields:?}");
        assert_eq!((text(check, "auth_client_id"), text(check, "message")), (client, why));
        assert_eq!(text(check, "client_ip"), CLIENT.to_string());
        assert_eq!((&check["success"], text(check, "proxy_hostname")), (&json!(false), "auth.example.com"));
        assert_eq!(
            (text(outcome, "event_type"), text(outcome, "error")),
            ("token_exchange", "invalid_client")
        );
    }
    // What is no signature at all.
    assert_eq!(ask(&asserting(&unsigned)).await, StatusCode::UNAUTHORIZED);
    let told = log.told().await;
    assert_eq!(told.len(), 2, "{told:?}");
    let good = [("client_id", "job"), ("client_secret", secret.as_str()), ("resource", CLOSED)];
    assert_eq!(ask(&good).await, StatusCode::BAD_REQUEST, "it may not use the host");
    assert_eq!(log.told().await, ["user_check unauthorized_client", "token_exchange unauthorized_client"]);

    // Whoever asks for a page, too.
    let page = world.browser().go(&Authorization::new("nobody", REDIRECT, &[]).url).await;
    assert!(page.status.is_client_error(), "{}", page.status);
    assert_eq!(log.told().await, ["client_auth invalid_client", "auth_request invalid_client"]);
}

#[tokio::test]
async fn codes_without_their_verifier_and_rights_that_nobody_has_are_told_of() {
    let world = World::new().await;
    world.put_public_client().await;
    let mut log = Log::of(&world);
    let browser = world.browser();
    let asked = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
    let code = browser.code(&asked.url).await;
    log.told().await;
    let answer = world.redeem(&code, &"v".repeat(43), &[]).await;
    assert_eq!(answer.error(), "invalid_grant");
    let news = log.news().await;
    let [check, outcome] = &news[..] else { panic!("{news:?}") };
    assert_eq!((text(check, "event_type"), text(check, "error")), ("pkce_validation", "invalid_grant"));
    assert_eq!((text(check, "auth_user"), text(check, "auth_subject")), ("Mona", &*MONA.to_string()));
    assert_eq!((text(check, "proxy_hostname"), text(check, "auth_client_id")), ("app.example.com", "web"));
    assert_eq!(text(outcome, "event_type"), "token_exchange");

    let fields = [("grant_type", "authorization_code"), ("client_id", "web"), ("code", "x")];
    assert_eq!(world.post("/token", &fields).await.error(), "invalid_request");
    assert_eq!(log.told().await, ["pkce_validation invalid_request", "token_exchange invalid_request"]);

    let plain = asked.url.replace("S256", "plain");
    let refused = browser.go(&plain).await;
    assert_eq!(refused.redirected_error(), "invalid_request");
    assert_eq!(log.told().await, ["pkce_validation invalid_request", "auth_request invalid_request"]);

    for (parameter, value, error, check) in [
        ("scope", "nonsense", "invalid_scope", "scope_check"),
        ("scope", "bad\"scope", "invalid_scope", "scope_check"),
        ("resource", "https://unknown.example.com", "invalid_target", "audience_check"),
        ("resource", "no URI", "invalid_target", "audience_check"),
    ] {
        let other = if parameter == "scope" { ("resource", APP) } else { ("scope", "mcp") };
        let asked = Authorization::new("web", REDIRECT, &[(parameter, value), other]);
        let refused = browser.go(&asked.url).await;
        assert_eq!(refused.redirected_error(), error, "{value}");
        assert_eq!(
            log.told().await,
            [format!("{check} {error}"), format!("auth_request {error}")],
            "{value}"
        );
    }

    let tokens = world.tokens(&browser, "mcp", APP).await;
    log.told().await;
    let refresh = text(&tokens, "refresh_token");
    for (more, error, check) in [
        (("scope", "admin"), "invalid_scope", "scope_check"),
        (("resource", CLOSED), "invalid_target", "audience_check"),
    ] {
        assert_eq!(world.refresh(refresh, &[more]).await.error(), error);
        assert_eq!(log.told().await, [format!("{check} {error}"), format!("token_refresh {error}")]);
    }
    // Whom the lists let in nowhere any more.
    world.put_host("app.example.com", json!({ "auth_required_users": ["somebody"] })).await;
    assert_eq!(world.refresh(refresh, &[]).await.error(), "invalid_grant");
    let news = log.news().await;
    assert_eq!(text(&news[0], "event_type"), "user_check", "{news:?}");
    assert_eq!((text(&news[0], "auth_user"), text(&news[0], "proxy_hostname")), ("Mona", "app.example.com"));
}

#[tokio::test]
async fn a_device_that_waits_has_not_failed_and_one_that_comes_too_late_has() {
    let world = World::new().await;
    let metadata = json!({ "token_endpoint_auth_method": "none", "grant_types": [DEVICE] });
    world.put_client("tv", metadata).await;
    world.stop_time();
    let mut log = Log::of(&world);
    let ask = [("client_id", "tv"), ("scope", "mcp"), ("resource", APP)];
    let codes = world.post("/device/code", &ask).await.json();
    let poll = async || {
        let fields =
            [("grant_type", DEVICE), ("client_id", "tv"), ("device_code", text(&codes, "device_code"))];
        world.post("/token", &fields).await.error()
    };
    assert_eq!(log.told().await, ["device_auth"]);
    for error in ["authorization_pending", "slow_down"] {
        assert_eq!(poll().await, error);
        let news = log.news().await;
        let [event] = &news[..] else { panic!("{news:?}") };
        assert_eq!((text(event, "event_type"), &event["success"]), ("device_poll", &json!(true)));
        assert!(text(event, "message").starts_with(&format!("{error}: ")), "{event}");
        assert_eq!(text(event, "auth_client_id"), "tv");
    }
    // However often it asks, its questions don't fill the log.
    for _ in 0..60 {
        assert_eq!(poll().await, "slow_down");
    }
    let told = log.told().await;
    assert_eq!(told, vec!["device_poll"; told.len()]);
    assert!(!told.is_empty() && told.len() < 30, "{}", told.len());
    world.advance(Duration::from_secs(601));
    assert_eq!(poll().await, "expired_token");
    assert_eq!(log.told().await, ["device_poll expired_token", "token_exchange expired_token"]);
}

#[tokio::test]
async fn what_a_token_is_worth_is_told_where_somebody_asks() {
    let world = World::new().await;
    world.put_public_client().await;
    let secret = world.put_resource_server("rs").await;
    let browser = world.browser();
    let good = world.tokens(&browser, "openid mcp", APP).await;
    let narrow = world.tokens(&browser, "mcp", APP).await;
    let (good, narrow) = (text(&good, "access_token"), text(&narrow, "access_token"));
    let (signed, _) = good.rsplit_once('.').expect("a JWT");
    let forged = format!("{signed}.{}", "A".repeat(342));
    let mut log = Log::of(&world);
    log.told().await;
    for (token, status, told) in [
        (good, StatusCode::OK, "token_validation"),
        (narrow, StatusCode::FORBIDDEN, "scope_check insufficient_scope"),
        ("none", StatusCode::UNAUTHORIZED, "jwt_decode invalid_token"),
        (&forged, StatusCode::UNAUTHORIZED, "token_validation invalid_token"),
    ] {
        assert_eq!(world.get_with("/userinfo", token).await.status, status, "{told}");
        let news = log.news().await;
        let [event] = &news[..] else { panic!("{told}: {news:?}") };
        assert_eq!(format!("{} {}", text(event, "event_type"), text(event, "error")).trim_end(), told);
        let is_known = status != StatusCode::UNAUTHORIZED;
        assert_eq!(text(event, "auth_user") == "Mona", is_known, "{event}");
    }
    let url = format!("{ISSUER}/userinfo");
    world.request(CLIENT, Method::GET, &url, HeaderMap::new(), String::new()).await;
    assert!(log.told().await.is_empty(), "nobody has said who asks: no check was made");

    assert_eq!(world.introspect(&secret, good).await["active"], true);
    assert_eq!(log.told().await, ["token_introspection"], "who is active is told there");
    for (token, told) in [
        ("none", "jwt_decode invalid_token"),
        (forged.as_str(), "token_validation invalid_token"),
        ("pcr_none", "token_validation invalid_token"),
    ] {
        assert_eq!(world.introspect(&secret, token).await, json!({ "active": false }));
        assert_eq!(log.told().await, [told, "token_introspection"]);
    }
    world.put_host("app.example.com", json!({ "auth_required_users": ["somebody"] })).await;
    assert_eq!(world.introspect(&secret, good).await, json!({ "active": false }));
    assert_eq!(log.told().await, ["user_check invalid_token", "token_introspection"]);

    let hint = form(&[("id_token_hint", good)]);
    browser.go(&format!("{ISSUER}/logout?{hint}")).await;
    assert_eq!(log.told().await, ["jwt_decode invalid_request", "logout invalid_request"]);
}

#[tokio::test]
async fn a_flood_of_failures_does_not_fill_the_log() {
    let world = World::new().await;
    let mut log = Log::of(&world);
    world.stop_time();
    for _ in 0..200 {
        world.browser().go(&format!("{ISSUER}/callback")).await;
        world.post("/token", &[("grant_type", "client_credentials"), ("client_id", "nobody")]).await;
    }
    let told = log.told().await;
    let checks = told.iter().filter(|told| told.starts_with("client_auth")).count();
    let outcomes = told.len() - checks;
    // The browser and the program are of two networks.
    assert!((1..=61).contains(&checks) && (2..=122).contains(&outcomes), "{checks} and {outcomes}");
}

#[tokio::test]
async fn what_stands_in_a_name_by_mistake_is_masked() {
    let world = World::new().await;
    world.put_public_client().await;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    let mut log = Log::of(&world);
    log.told().await;
    for name in ["access_token", "refresh_token"] {
        let token = text(&tokens, name);
        world.post("/token", &[("grant_type", "refresh_token"), ("client_id", token)]).await;
        let news = log.news().await;
        assert!(!news.is_empty());
        for event in news {
            assert!(!event.to_string().contains(&token[..20]), "{event}");
            assert!(text(&event, "auth_client_id").starts_with(&token[..10]), "{event}");
        }
    }
}
