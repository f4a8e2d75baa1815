//! There is one issuer, whatever a request says about hosts.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::{Value, json};

use crate::standin::{field, pairs};
use crate::world::{APP, Authorization, CLIENT, ISSUER, REDIRECT, World, claims, form, text};

const EVIL: &str = "evil.example.net";

/// What proxies and attackers say about where a request came in.
fn lies() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [
        "host",
        "x-forwarded-host",
        "x-forwarded-server",
        "x-host",
        "x-original-host",
        "x-http-host-override",
    ] {
        headers.insert(HeaderName::from_static(name), EVIL.parse().expect("a value"));
    }
    for (name, value) in [
        ("forwarded", "for=1.2.3.4;host=evil.example.net;proto=http"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-scheme", "http"),
        ("x-forwarded-port", "8080"),
        ("x-forwarded-prefix", "/evil"),
        ("x-original-url", "http://evil.example.net/"),
        ("origin", "https://evil.example.net"),
        ("referer", "https://evil.example.net/"),
    ] {
        headers.insert(HeaderName::from_static(name), value.parse().expect("a value"));
    }
    headers
}

fn with(mut headers: HeaderMap, name: &'static str, value: &str) -> HeaderMap {
    headers.insert(HeaderName::from_static(name), value.parse().expect("a value"));
    headers
}

/// Catalogue 14.2, number 29; RFC 8414, section 3.3.
#[tokio::test]
async fn the_metadata_names_the_issuer_byte_for_byte() {
    let world = World::new().await;
    let paths = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];
    let mut documents = BTreeSet::new();
    for path in paths {
        for origin in [ISSUER, APP] {
            for headers in [HeaderMap::new(), lies()] {
                let url = format!("{origin}{path}");
                let answer = world.request(CLIENT, Method::GET, &url, headers, String::new()).await;
                assert_eq!(answer.status, StatusCode::OK);
                assert!(
                    !answer.text().contains("null") && !answer.text().contains("evil"),
                    "{}",
                    answer.text()
                );
                documents.insert(answer.text());
            }
        }
    }
    assert_eq!(documents.len(), 1, "one server, one document");
    let document: Value = serde_json::from_str(&documents.pop_first().expect("one")).expect("JSON");
    assert_eq!(document["issuer"], ISSUER);
    for (name, value) in document.as_object().expect("an object") {
        if name.ends_with("_endpoint") || name == "jwks_uri" {
            let url = value.as_str().expect("a URL");
            assert!(url.starts_with(&format!("{ISSUER}/")), "{name}: {url}");
        }
    }
}

#[tokio::test]
async fn redirects_cookies_and_tokens_are_the_issuers() {
    let world = World::new().await;
    world.put_public_client().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    world.put_party("own", metadata, true).await;
    let asked = Authorization::new("own", REDIRECT, &[("scope", "openid mcp"), ("resource", APP)]);

    // To GitHub and back, with the same lies at each step.
    let sent = world.request(CLIENT, Method::GET, &asked.url, lies(), String::new()).await;
    assert_eq!(sent.status, StatusCode::SEE_OTHER, "{}", sent.text());
    let query = pairs(sent.location().split_once('?').expect("a query").1);
    assert_eq!(field(&query, "redirect_uri"), format!("{ISSUER}/callback"));
    let set = sent.header("set-cookie").to_owned();
    for part in ["__Host-", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
        assert!(set.contains(part), "{part}: {set}");
    }
    assert!(!set.to_lowercase().contains("domain") && !set.contains("evil"), "{set}");

    let cookie = set.split(';').next().expect("a pair").to_owned();
    let back = world.at_github(sent.location()).await.location().to_owned();
    assert!(back.starts_with(&format!("{ISSUER}/callback?")), "{back}");
    let done =
        world.request(CLIENT, Method::GET, &back, with(lies(), "cookie", &cookie), String::new()).await;
    let told = done.redirected();
    assert!(done.location().starts_with(REDIRECT), "{done:?}");
    assert_eq!(field(&told, "iss"), ISSUER);
    for set in done.headers.get_all("set-cookie") {
        let set = set.to_str().expect("ASCII").to_lowercase();
        assert!(set.starts_with("__host-") && !set.contains("domain") && !set.contains("evil"), "{set}");
    }

    let fields = [
        ("grant_type", "authorization_code"),
        ("client_id", "own"),
        ("code", field(&told, "code")),
        ("code_verifier", &asked.verifier),
    ];
    for (nth, origin) in [ISSUER, APP].into_iter().enumerate() {
        let headers = with(lies(), "content-type", "application/x-www-form-urlencoded");
        let body = if nth == 0 {
            form(&fields)
        } else {
            // Older clients ask the host itself: it acts for the issuer.
            let again = world.browser().code(&asked.url).await;
            form(&[fields[0], fields[1], ("code", &again), fields[3]])
        };
        let answer = world.request(CLIENT, Method::POST, &format!("{origin}/token"), headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{origin}: {}", answer.text());
        let tokens = answer.json();
        for name in ["access_token", "id_token"] {
            assert_eq!(claims(text(&tokens, name))["iss"], ISSUER, "{name} at {origin}");
        }
        assert_eq!(claims(text(&tokens, "access_token"))["aud"], json!([APP]));
    }
}

/// RFC 9207: errors name it as well.
#[tokio::test]
async fn every_answer_to_a_client_names_the_issuer() {
    let world = World::new().await;
    world.put_public_client().await;
    let browser = world.browser();
    let resource = ("resource", APP);
    for (more, error) in [
        (&[resource, ("response_type", "token")][..], "invalid_request"),
        (&[resource, ("request", "x")], "request_not_supported"),
        (&[resource, ("request_uri", "https://x.example/")], "request_uri_not_supported"),
        (&[resource, ("response_mode", "fragment")], "invalid_request"),
        (&[resource, ("scope", "\"")], "invalid_scope"),
        (&[resource, ("scope", "nonsense")], "invalid_scope"),
        (&[resource, ("prompt", "none")], "login_required"),
        (&[resource, ("max_age", "-1")], "invalid_request"),
        (&[("resource", "https://nowhere.example.com")], "invalid_target"),
    ] {
        let answer = browser.go(&Authorization::new("web", REDIRECT, more).url).await;
        assert_eq!(answer.redirected_error(), error, "{more:?}");
        let told = answer.redirected();
        assert_eq!((field(&told, "iss"), field(&told, "state")), (ISSUER, "af0ifjsldkj"), "{more:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

/// What is registered at a host is managed at the issuer, and what a device shows leads there.
#[tokio::test]
async fn urls_in_answers_are_the_issuers() {
    let world = World::new().await;
    let metadata = json!({
        "token_endpoint_auth_method": "none",
        "grant_types": ["urn:ietf:params:oauth:grant-type:device_code"],
    });
    world.put_client("tv", metadata).await;
    let headers = with(lies(), "content-type", "application/json");
    let body = json!({ "redirect_uris": [REDIRECT] }).to_string();
    let registered = world.request(CLIENT, Method::POST, &format!("{APP}/register"), headers, body).await;
    let uri = text(&registered.json(), "registration_client_uri").to_owned();
    assert!(uri.starts_with(&format!("{ISSUER}/register/dyn_")), "{uri}");

    let headers = with(lies(), "content-type", "application/x-www-form-urlencoded");
    let body = form(&[("client_id", "tv"), ("scope", "mcp"), ("resource", APP)]);
    let codes =
        world.request(CLIENT, Method::POST, &format!("{ISSUER}/device/code"), headers, body).await.json();
    for name in ["verification_uri", "verification_uri_complete"] {
        assert!(text(&codes, name).starts_with(&format!("{ISSUER}/device")), "{codes}");
    }
}

#[tokio::test]
async fn nobody_is_sent_to_a_host_that_is_none_of_ours() {
    let world = World::new().await;
    let state = "s".repeat(43);
    for url in [
        "https://evil.example.net/",
        "https://app.example.com.evil.example.net/",
        "https://app.example.com@evil.example.net/",
        "http://app.example.com/",
        "//evil.example.net/",
        "/page",
        "https:evil.example.net",
        "javascript:alert(1)",
        "https://app.example.com:8443/",
        "https://auth.example.com/",
        "nonsense",
    ] {
        let query = form(&[("return_url", url), ("state", &state)]);
        let login = format!("{ISSUER}/login?{query}");
        let answer = world.request(CLIENT, Method::GET, &login, lies(), String::new()).await;
        assert_eq!((answer.status, answer.location()), (StatusCode::BAD_REQUEST, ""), "{url}");
    }
}
