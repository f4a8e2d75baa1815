//! What is too much, for whom, and when it is enough again (RFC 6585, section 4).
//!
//! The server's time stands still in most of these tests, so that limits are exact.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use portcullis_services::oauth::authorization_server::Settings;
use portcullis_services::oauth::clients::registration;
use serde_json::json;

use crate::world::{
    APP, Answer, Authorization, CLIENT, ISSUER, REDIRECT, World, form, header, settings, text,
};

/// What a network may begin of logins, or fail of token requests, at once.
const AT_ONCE: usize = 60;

/// What it may have of device codes and guesses at them.
const DEVICES: usize = 20;

/// Networks that have done nothing yet. Two of thousands may share a place with another, never all.
fn elsewhere() -> impl Iterator<Item = IpAddr> {
    (1..4).map(|third| IpAddr::from([192, 0, third, 1]))
}

async fn get(world: &World, from: IpAddr, url: &str) -> Answer {
    world.request(from, Method::GET, url, HeaderMap::new(), String::new()).await
}

async fn post(world: &World, from: IpAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    let kind = header("content-type", "application/x-www-form-urlencoded");
    world.request(from, Method::POST, &format!("{ISSUER}{path}"), kind, form(fields)).await
}

fn is_too_many(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
    let wait = answer.retry_after();
    assert!(!wait.is_zero() && wait <= Duration::from_secs(60), "{wait:?}");
}

/// The same for who can read JSON.
fn says_too_many(answer: &Answer) {
    is_too_many(answer);
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    let exposed = answer.header("access-control-expose-headers");
    assert!(exposed.contains("Retry-After"), "web clients may read it: {exposed}");
}

#[tokio::test]
async fn one_network_does_not_begin_logins_without_end() {
    let world = World::new().await;
    world.put_public_client().await;
    world.stop_time();
    let authorize = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)]).url;
    let fields = [("return_url", format!("{APP}/")), ("state", "s".repeat(43))];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let login = format!("{ISSUER}/login?{}", form(&fields));
    for nth in 0..AT_ONCE {
        let (url, status) =
            if nth % 2 == 0 { (&authorize, StatusCode::OK) } else { (&login, StatusCode::SEE_OTHER) };
        assert_eq!(get(&world, CLIENT, url).await.status, status, "{nth}");
    }
    for url in [&authorize, &login] {
        let limited = get(&world, CLIENT, url).await;
        is_too_many(&limited);
        assert_eq!(limited.location(), "", "nobody is sent anywhere");
        assert!(limited.header("content-type").starts_with("text/html"), "it is for people");
        let mut others = Vec::new();
        for other in elsewhere() {
            others.push(get(&world, other, url).await.status);
        }
        assert!(others.iter().any(|status| *status != StatusCode::TOO_MANY_REQUESTS), "{others:?}");
    }
    let wait = get(&world, CLIENT, &authorize).await.retry_after();
    world.advance(wait);
    assert_eq!(get(&world, CLIENT, &authorize).await.status, StatusCode::OK, "after {wait:?}");
    is_too_many(&get(&world, CLIENT, &authorize).await);
    world.advance(Duration::from_secs(60));
    assert_eq!(get(&world, CLIENT, &login).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn failures_at_the_token_endpoint_are_limited_by_client_and_network() {
    let world = World::new().await;
    world.put_public_client().await;
    let tokens = world.tokens(&world.browser(), "mcp", APP).await;
    world.stop_time();
    let guess = async |from: IpAddr, client: &str| {
        let fields = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", "pcr_x")];
        post(&world, from, "/token", &fields).await
    };
    for nth in 0..AT_ONCE {
        assert_eq!(guess(CLIENT, "web").await.error(), "invalid_grant", "{nth}");
    }
    let limited = guess(CLIENT, "web").await;
    says_too_many(&limited);
    let good = world.refresh(text(&tokens, "refresh_token"), &[]).await;
    assert_eq!(good.status, StatusCode::OK, "a good request costs nothing: {}", good.text());

    let mut networks = Vec::new();
    for other in elsewhere() {
        networks.push(guess(other, "web").await.error());
    }
    assert!(networks.iter().any(|error| error == "invalid_grant"), "{networks:?}");
    let mut clients = Vec::new();
    for other in ["one", "two", "three"] {
        clients.push(guess(CLIENT, other).await.error());
    }
    assert!(clients.iter().any(|error| error == "invalid_client"), "{clients:?}");

    world.advance(limited.retry_after());
    assert_eq!(guess(CLIENT, "web").await.error(), "invalid_grant", "told again what is wrong");
    says_too_many(&guess(CLIENT, "web").await);
}

/// What is wrong with a request in itself is no guess at a secret.
#[tokio::test]
async fn requests_that_are_none_are_not_counted() {
    let world = World::new().await;
    world.put_public_client().await;
    world.stop_time();
    for (fields, error) in [
        (&[("client_id", "web")][..], "invalid_request"),
        (&[("client_id", "web"), ("grant_type", "password")], "unsupported_grant_type"),
        (&[("client_id", "web"), ("grant_type", "client_credentials")], "unauthorized_client"),
    ] {
        for _ in 0..=AT_ONCE {
            assert_eq!(post(&world, CLIENT, "/token", fields).await.error(), error);
        }
    }
}

async fn put_tv(world: &World) {
    let metadata = json!({
        "client_name": "Television",
        "token_endpoint_auth_method": "none",
        "grant_types": ["urn:ietf:params:oauth:grant-type:device_code"],
    });
    world.put_client("tv", metadata).await;
}

#[tokio::test]
async fn one_network_does_not_ask_for_device_codes_without_end() {
    let world = World::new().await;
    put_tv(&world).await;
    world.stop_time();
    let ask = async |from: IpAddr| {
        post(&world, from, "/device/code", &[("client_id", "tv"), ("scope", "mcp"), ("resource", APP)]).await
    };
    for nth in 0..DEVICES {
        assert_eq!(ask(CLIENT).await.status, StatusCode::OK, "{nth}");
    }
    let limited = ask(CLIENT).await;
    says_too_many(&limited);
    let mut others = Vec::new();
    for other in elsewhere() {
        others.push(ask(other).await.status);
    }
    assert!(others.contains(&StatusCode::OK), "{others:?}");
    world.advance(limited.retry_after());
    assert_eq!(ask(CLIENT).await.status, StatusCode::OK);
    says_too_many(&ask(CLIENT).await);
}

#[tokio::test]
async fn who_guesses_the_codes_of_devices_waits_and_then_may_go_on() {
    let world = World::new().await;
    put_tv(&world).await;
    world.stop_time();
    let codes = world.post("/device/code", &[("client_id", "tv"), ("scope", "mcp"), ("resource", APP)]).await;
    let right = text(&codes.json(), "verification_uri_complete").to_owned();
    let browser = world.browser();
    browser.sign_in().await;
    let wrong = format!("{ISSUER}/device?user_code=BBBB-BBBB");
    for nth in 0..DEVICES {
        assert_eq!(browser.go(&wrong).await.status, StatusCode::BAD_REQUEST, "{nth}");
    }
    let limited = browser.go(&right).await;
    is_too_many(&limited);
    world.advance(limited.retry_after());
    let page = browser.go(&right).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    assert!(page.text().contains("Television"));
    assert_eq!(browser.go(&right).await.status, StatusCode::OK, "a right code costs nothing");
    assert_eq!(browser.go(&wrong).await.status, StatusCode::BAD_REQUEST);
    is_too_many(&browser.go(&right).await);
}

async fn register(world: &World, from: IpAddr, redirect_uri: &str) -> Answer {
    let body = json!({ "redirect_uris": [redirect_uri], "token_endpoint_auth_method": "none" });
    let kind = header("content-type", "application/json");
    world.request(from, Method::POST, &format!("{ISSUER}/register"), kind, body.to_string()).await
}

/// Catalogue 14.2, number 33. These limits are those of all nodes, so they are in the store and go by its time.
#[tokio::test]
async fn registrations_are_limited_by_network_by_host_and_in_all() {
    let usual = || registration::Settings::new(format!("{ISSUER}/register"));
    let hosts =
        ["https://a.example/cb", "https://b.example/cb", "https://c.example/cb", "https://d.example/cb"];
    let networks: Vec<IpAddr> = elsewhere().collect();
    for (limits, refused, passes) in [
        (
            registration::Settings { per_network: 2, ..usual() },
            // The same network, whatever it registers; not another one.
            vec![(networks[0], hosts[0]), (networks[0], hosts[1]), (networks[0], hosts[2])],
            (networks[1], hosts[0]),
        ),
        (
            registration::Settings { per_host: 2, ..usual() },
            // The same host, wherever it comes from; not another one.
            vec![(networks[0], hosts[0]), (networks[1], hosts[0]), (networks[2], hosts[0])],
            (networks[0], hosts[1]),
        ),
    ] {
        let world = World::with(Settings { registration: Some(limits), ..settings() }).await;
        let (last, first) = refused.split_last().expect("three");
        for (from, redirect_uri) in first {
            assert_eq!(register(&world, *from, redirect_uri).await.status, StatusCode::CREATED);
        }
        let limited = register(&world, last.0, last.1).await;
        assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "{}", limited.text());
        assert_eq!(limited.retry_after(), Duration::from_secs(3600));
        assert_eq!(register(&world, passes.0, passes.1).await.status, StatusCode::CREATED);
    }
    let limits = registration::Settings { total: 3, ..usual() };
    let world = World::with(Settings { registration: Some(limits), ..settings() }).await;
    for (from, redirect_uri) in networks.iter().zip(hosts) {
        assert_eq!(register(&world, *from, redirect_uri).await.status, StatusCode::CREATED);
    }
    let limited = register(&world, CLIENT, hosts[3]).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "{}", limited.text());
}

#[tokio::test]
async fn when_the_window_has_passed_clients_register_again() {
    let window = Duration::from_secs(3);
    let limits = registration::Settings {
        per_network: 1,
        window,
        ..registration::Settings::new(format!("{ISSUER}/register"))
    };
    let world = World::with(Settings { registration: Some(limits), ..settings() }).await;
    assert_eq!(register(&world, CLIENT, REDIRECT).await.status, StatusCode::CREATED);
    let limited = register(&world, CLIENT, REDIRECT).await;
    assert_eq!((limited.status, limited.retry_after()), (StatusCode::TOO_MANY_REQUESTS, window));
    let again = async {
        while register(&world, CLIENT, REDIRECT).await.status != StatusCode::CREATED {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again)
        .await
        .expect("the window ends, however often one asks");
}
