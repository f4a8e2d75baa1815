//! Dynamic registration and its management: what a client that knows nothing of us gets, and what it can't have.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Method, StatusCode};
use portcullis_services::oauth::authorization_server::Settings;
use portcullis_services::oauth::clients::registration;
use serde_json::{Value, json};

use crate::world::{APP, Answer, CLIENT, ISSUER, REDIRECT, World, header, settings, text};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

async fn send(world: &World, method: Method, url: &str, mut headers: HeaderMap, body: &Value) -> Answer {
    headers.insert(CONTENT_TYPE, JSON);
    world.request(CLIENT, method, url, headers, body.to_string()).await
}

pub(crate) async fn register(world: &World, body: Value) -> Answer {
    send(world, Method::POST, &format!("{ISSUER}/register"), HeaderMap::new(), &body).await
}

async fn manage(world: &World, method: Method, client: &Value, token: Option<&str>, body: &Value) -> Answer {
    let headers = token.map(|token| header("authorization", &format!("Bearer {token}"))).unwrap_or_default();
    let url = client["registration_client_uri"].as_str().expect("a URL");
    send(world, method, url, headers, body).await
}

/// Catalogue 14.2, number 34.
#[tokio::test]
async fn everything_that_is_registered_is_echoed() {
    let world = World::new().await;
    let asked = json!({
        "client_name": "  A\u{202e} client ",
        "redirect_uris": [REDIRECT, "http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token", "implicit"],
        "scope": "mcp",
        "contacts": ["a@example.com"],
        "client_uri": "https://client.example.com/",
        "logo_uri": null,
        "application_type": "native",
        "software_id": "one",
        "something": { "else": true },
    });
    for at in [ISSUER, APP] {
        let answer = send(&world, Method::POST, &format!("{at}/register"), HeaderMap::new(), &asked).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(!answer.text().contains("null"), "{}", answer.text());
        let mut got = answer.json();
        let id = text(&got, "client_id").to_owned();
        assert!(id.starts_with("dyn_") && text(&got, "client_secret").starts_with("pcs_"));
        assert!(text(&got, "registration_access_token").starts_with("pcm_"));
        assert_eq!(text(&got, "registration_client_uri"), format!("{ISSUER}/register/{id}"), "at {at}");
        let issued_at = got["client_id_issued_at"].as_u64().expect("a time");
        let ends = got["client_secret_expires_at"].as_u64().expect("a time");
        assert_eq!(ends - issued_at, 90 * 86_400, "as long as a client that is used is kept");
        let fields = got.as_object_mut().expect("an object");
        for member in [
            "client_id",
            "client_secret",
            "client_id_issued_at",
            "client_secret_expires_at",
            "registration_access_token",
            "registration_client_uri",
        ] {
            fields.remove(member);
        }
        assert_eq!(
            got,
            json!({
                "client_name": "A client",
                "redirect_uris": [REDIRECT, "http://127.0.0.1/callback"],
                "token_endpoint_auth_method": "client_secret_basic",
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
                "scope": "mcp",
                "contacts": ["a@example.com"],
                "client_uri": "https://client.example.com/",
                "application_type": "native",
                "software_id": "one",
            })
        );
    }
}

#[tokio::test]
async fn a_public_client_gets_no_secret() {
    let world = World::new().await;
    let asked = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let got = register(&world, asked).await.json();
    assert!(got.get("client_secret").is_none() && got.get("client_secret_expires_at").is_none(), "{got}");
}

#[tokio::test]
async fn what_can_not_be_registered_has_the_code_of_the_rfc() {
    let world = World::new().await;
    let long = format!("[\"https://client.example.com/{}\"]", "x".repeat(20_000));
    for (kind, body, code) in [
        ("application/json", "{}", "invalid_redirect_uri"),
        ("application/json", r#"{"redirect_uris":["http://client.example.com/"]}"#, "invalid_redirect_uri"),
        ("application/json", r#"{"redirect_uris":["https://a.example/#x"]}"#, "invalid_redirect_uri"),
        (
            "application/json",
            r#"{"redirect_uris":["http://127.0.0.1.evil.example/"]}"#,
            "invalid_redirect_uri",
        ),
        ("application/json", r#"{"redirect_uris":"https://a.example/"}"#, "invalid_client_metadata"),
        (
            "application/json",
            r#"{"redirect_uris":["https://a.example/"],"token_endpoint_auth_method":"x"}"#,
            "invalid_client_metadata",
        ),
        (
            "application/json",
            r#"{"redirect_uris":["https://a.example/"],"grant_types":["password"]}"#,
            "invalid_client_metadata",
        ),
        (
            "application/json",
            r#"{"redirect_uris":["https://a.example/"],"grant_types":["client_credentials"]}"#,
            "invalid_client_metadata",
        ),
        ("application/json", &format!("{{\"redirect_uris\":{long}}}"), "invalid_client_metadata"),
        ("application/json", "[]", "invalid_client_metadata"),
        ("application/json", "{", "invalid_client_metadata"),
        ("application/json", "", "invalid_client_metadata"),
        ("application/json", &"x".repeat(70_000), "invalid_client_metadata"),
        ("text/plain", r#"{"redirect_uris":["https://a.example/"]}"#, "invalid_client_metadata"),
        ("application/x-www-form-urlencoded", "redirect_uris=https://a.example/", "invalid_client_metadata"),
        ("", r#"{"redirect_uris":["https://a.example/"]}"#, "invalid_client_metadata"),
    ] {
        let headers = header("content-type", kind);
        let url = format!("{ISSUER}/register");
        let answer = world.request(CLIENT, Method::POST, &url, headers, body.to_owned()).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (StatusCode::BAD_REQUEST, code),
            "{kind} {shown}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), "*", "an error that no page can read");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let charset = header("content-type", "application/JSON; charset=utf-8");
    let body = json!({ "redirect_uris": [REDIRECT] }).to_string();
    let answer = world.request(CLIENT, Method::POST, &format!("{ISSUER}/register"), charset, body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
}

/// Catalogue 14.2, number 33.
#[tokio::test]
async fn nobody_chooses_a_client_id() {
    let world = World::new().await;
    for id in ["web", "portcullis-cli", "dyn_AAAAAAAAAAAAAAAAAAAAAA", "https://claude.ai/client"] {
        let got = register(&world, json!({ "client_id": id, "redirect_uris": [REDIRECT] })).await.json();
        assert_ne!(text(&got, "client_id"), id);
    }
}

/// Catalogue 14.2, number 33.
#[tokio::test]
async fn registrations_are_limited_and_the_limit_says_when_to_come_back() {
    let limits = registration::Settings {
        per_network: 2,
        ..registration::Settings::new(format!("{ISSUER}/register"))
    };
    let world = World::with(Settings { registration: Some(limits), ..settings() }).await;
    let asked = || json!({ "redirect_uris": [REDIRECT] });
    for _ in 0..2 {
        assert_eq!(register(&world, asked()).await.status, StatusCode::CREATED);
    }
    let answer = register(&world, asked()).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), "3600");
    assert_eq!(answer.header("access-control-expose-headers"), "WWW-Authenticate, Retry-After");
    let elsewhere = IpAddr::from([192, 0, 2, 1]);
    let url = format!("{ISSUER}/register");
    let headers = header("content-type", "application/json");
    let answer = world.request(elsewhere, Method::POST, &url, headers, asked().to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "one network does not use up what others have");
}

#[tokio::test]
async fn an_update_does_not_pass_the_limit_of_a_host() {
    let limits =
        registration::Settings { per_host: 2, ..registration::Settings::new(format!("{ISSUER}/register")) };
    let world = World::with(Settings { registration: Some(limits), ..settings() }).await;
    for _ in 0..2 {
        assert_eq!(
            register(&world, json!({ "redirect_uris": [REDIRECT] })).await.status,
            StatusCode::CREATED
        );
    }
    let client =
        register(&world, json!({ "redirect_uris": ["https://mine.example.com/callback"] })).await.json();
    let token = text(&client, "registration_access_token");
    let change = |uri: &str| json!({ "client_id": client["client_id"], "redirect_uris": [uri] });
    let full = manage(&world, Method::PUT, &client, Some(token), &change(REDIRECT)).await;
    assert_eq!((full.status, full.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "3600"));
    let other =
        manage(&world, Method::PUT, &client, Some(token), &change("https://mine.example.com/other")).await;
    assert_eq!(other.status, StatusCode::OK, "{}", other.text());
}

#[tokio::test]
async fn without_registration_there_is_no_endpoint_but_clients_can_still_leave() {
    let world = World::with(Settings { registration: None, ..settings() }).await;
    let answer = register(&world, json!({ "redirect_uris": [REDIRECT] })).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    let client = json!({ "registration_client_uri": format!("{ISSUER}/register/dyn_x") });
    let answer = manage(&world, Method::DELETE, &client, Some("pcm_x"), &json!({})).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn other_methods_are_none_and_browsers_may_ask_first() {
    let world = World::new().await;
    for (path, method, status, allow) in [
        ("/register", Method::GET, 405, "POST, OPTIONS"),
        ("/register", Method::DELETE, 405, "POST, OPTIONS"),
        ("/register", Method::OPTIONS, 204, "POST, OPTIONS"),
        ("/register/dyn_x", Method::POST, 405, "GET, PUT, DELETE, OPTIONS"),
        ("/register/dyn_x", Method::PATCH, 405, "GET, PUT, DELETE, OPTIONS"),
        ("/register/dyn_x", Method::OPTIONS, 204, "GET, PUT, DELETE, OPTIONS"),
    ] {
        let url = format!("{ISSUER}{path}");
        let answer = world.request(CLIENT, method.clone(), &url, HeaderMap::new(), String::new()).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (status, allow), "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{method} {path}");
    }
}

#[tokio::test]
async fn a_client_reads_and_changes_what_is_registered() {
    let world = World::new().await;
    let client = register(&world, json!({ "redirect_uris": [REDIRECT], "client_name": "One" })).await.json();
    let token = text(&client, "registration_access_token");

    let read = manage(&world, Method::GET, &client, Some(token), &json!({})).await;
    assert_eq!((read.status, read.header("cache-control")), (StatusCode::OK, "no-store"));
    let mut expected = client.clone();
    expected.as_object_mut().expect("an object").remove("client_secret");
    assert_eq!(read.json(), expected, "all but the secret, of which only a hash is kept");

    let id = text(&client, "client_id");
    let other = "https://other.example.com/callback";
    let change = json!({ "client_id": id, "redirect_uris": [other] });
    let changed = manage(&world, Method::PUT, &client, Some(token), &change).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    let changed = changed.json();
    assert_eq!(changed["redirect_uris"], json!([other]));
    assert!(changed.get("client_name").is_none(), "what an update leaves out is gone: {changed}");
    assert_eq!(text(&changed, "registration_access_token"), token);

    for (body, code) in [
        (json!({ "redirect_uris": [other] }), "invalid_client_metadata"),
        (json!({ "client_id": "web", "redirect_uris": [other] }), "invalid_client_metadata"),
        (
            json!({ "client_id": id, "client_secret": "x", "redirect_uris": [other] }),
            "invalid_client_metadata",
        ),
        (json!({ "client_id": id, "redirect_uris": ["http://evil.example/"] }), "invalid_redirect_uri"),
    ] {
        let answer = manage(&world, Method::PUT, &client, Some(token), &body).await;
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::BAD_REQUEST, code), "{body}");
    }
}

#[tokio::test]
async fn a_registration_is_its_clients_alone() {
    let world = World::new().await;
    let one = register(&world, json!({ "redirect_uris": [REDIRECT] })).await.json();
    let two = register(&world, json!({ "redirect_uris": [REDIRECT] })).await.json();
    let nobody =
        json!({ "registration_client_uri": format!("{ISSUER}/register/dyn_AAAAAAAAAAAAAAAAAAAAAA") });
    let (own, other) = (text(&one, "registration_access_token"), text(&two, "registration_access_token"));
    let mut refusals = Vec::new();
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        for (client, token) in
            [(&one, other), (&one, "pcm_x"), (&nobody, own), (&one, text(&one, "client_secret"))]
        {
            let body = json!({ "client_id": one["client_id"], "redirect_uris": [REDIRECT] });
            let answer = manage(&world, method.clone(), client, Some(token), &body).await;
            assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_token"));
            assert!(answer.header("www-authenticate").starts_with("Bearer error=\"invalid_token\""));
            refusals.push(answer.text());
        }
        let answer = manage(&world, method, &one, None, &json!({})).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.header("www-authenticate"), "Bearer", "RFC 6750, section 3.1");
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "an unknown client and a wrong token look alike: {refusals:?}");
    assert_eq!(manage(&world, Method::GET, &one, Some(own), &json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_guesses_tokens_has_to_wait() {
    let world = World::new().await;
    let client = json!({ "registration_client_uri": format!("{ISSUER}/register/dyn_x") });
    let mut waits = false;
    for _ in 0..100 {
        let answer = manage(&world, Method::GET, &client, Some("pcm_x"), &json!({})).await;
        waits |= answer.status == StatusCode::TOO_MANY_REQUESTS && answer.headers.contains_key("retry-after");
    }
    assert!(waits);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_grants_and_tokens_along() {
    let world = World::new().await;
    let asked = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let client = register(&world, asked).await.json();
    let id = text(&client, "client_id");
    let asked = [("scope", "mcp"), ("resource", APP)];
    let tokens = world.tokens_of(&world.browser(), id, "", &asked).await;
    let rs = world.put_resource_server("rs").await;
    let access = text(&tokens, "access_token");
    let active = async || {
        let fields = [("client_id", "rs"), ("client_secret", rs.as_str()), ("token", access)];
        world.post("/introspect", &fields).await.json()["active"].clone()
    };
    assert_eq!(active().await, true);

    let token = text(&client, "registration_access_token");
    let gone = manage(&world, Method::DELETE, &client, Some(token), &json!({})).await;
    assert_eq!((gone.status, gone.body.len()), (StatusCode::NO_CONTENT, 0));
    assert!(!gone.headers.contains_key(CONTENT_TYPE));
    assert_eq!(active().await, false);
    let refresh = text(&tokens, "refresh_token");
    let fields = [("grant_type", "refresh_token"), ("client_id", id), ("refresh_token", refresh)];
    let answer = world.post("/token", &fields).await;
    assert_eq!((answer.status, answer.error().as_str()), (StatusCode::UNAUTHORIZED, "invalid_client"));
    let again = manage(&world, Method::DELETE, &client, Some(token), &json!({})).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
}

/// Catalogue 14.2, number 22.
#[tokio::test]
async fn a_client_with_a_secret_has_to_show_it_as_it_registered() {
    let world = World::new().await;
    let client = register(&world, json!({ "redirect_uris": [REDIRECT] })).await.json();
    let (id, secret) = (text(&client, "client_id"), text(&client, "client_secret"));
    let fields = [("grant_type", "refresh_token"), ("refresh_token", "pcr_x"), ("client_id", id)];
    let basic = |secret: &str| {
        use base64::Engine;
        let pair = base64::prelude::BASE64_STANDARD.encode(format!("{id}:{secret}"));
        header("authorization", &format!("Basic {pair}"))
    };
    for (headers, more, code) in [
        (HeaderMap::new(), None, "invalid_client"),
        (HeaderMap::new(), Some(("client_secret", secret)), "invalid_client"),
        (basic("pcs_x"), None, "invalid_client"),
        (basic(secret), None, "invalid_grant"),
    ] {
        let mut all = fields.to_vec();
        all.extend(more);
        let answer = world.post_with("/token", &all, headers).await;
        assert_eq!(answer.error(), code, "{all:?}");
        let refused = code == "invalid_client";
        let status = if refused { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
        // RFC 9110, section 15.5.2: each 401 says how, not only to who tried by the header.
        let challenge = refused.then_some("Basic realm=\"oauth\"");
        let told = answer.headers.get("www-authenticate").map(|value| value.to_str().expect("text"));
        assert_eq!((answer.status, told), (status, challenge), "{all:?}");
    }
}
