//! VS Code: four redirect URIs in one registration, any free port, and the device grant as a last resort.

use http::StatusCode;
use serde_json::{Value, json};

use super::wire::{Found, VERIFIER, Wire};
use crate::document::Document;
use crate::site::{ISSUER, MONA, Site};
use crate::support::certificate::Authority;
use crate::support::upstream::Upstream;
use crate::support::visitor::Visitor;

/// All that it knows. It sends those that the server knows, too.
const GRANTS: &[&str] =
    &["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"];

/// What it sends where it looks for metadata.
const HEADERS: &[(&str, &str)] =
    &[("user-agent", "Visual Studio Code/1.130.0"), ("mcp-protocol-version", "2025-11-25")];

const WEB: &str = "https://vscode.dev/redirect";

async fn registered(wire: &Wire<'_>, found: &Found) -> String {
    let grants: Vec<_> = GRANTS.iter().filter(|grant| found.lists("grant_types_supported", grant)).collect();
    assert_eq!(grants.len(), GRANTS.len());
    let wanted = json!({
        "client_name": "Visual Studio Code",
        "client_uri": "https://code.visualstudio.com",
        "grant_types": grants,
        "response_types": ["code"],
        "redirect_uris": [
            "https://insiders.vscode.dev/redirect", WEB, "http://127.0.0.1/", "http://127.0.0.1:33418/",
        ],
        "scope": found.scope,
        "token_endpoint_auth_method": "none",
        // Although two of its URIs are no native ones.
        "application_type": "native",
    });
    let registered = wire.register(found.endpoint("registration_endpoint"), &wanted).await;
    assert_eq!(registered["grant_types"], json!(grants));
    registered["client_id"].as_str().unwrap().to_owned()
}

/// One login, from the authorization request to a refreshed token.
async fn signs_in(wire: &Wire<'_>, found: &Found, client: &str, redirect: &str, state: &str) -> Value {
    let issuer = wire.site.url(ISSUER, "");
    let asked = [
        ("client_id", client),
        ("state", state),
        ("scope", &found.scope),
        // What the metadata says, not the URL.
        ("resource", found.resource()),
        ("redirect_uri", redirect),
    ];
    let back = wire.authorize(found.endpoint("authorization_endpoint"), &asked, &issuer).await;
    let code = [
        ("client_id", client),
        ("grant_type", "authorization_code"),
        ("code", &back.code),
        ("redirect_uri", redirect),
        ("code_verifier", VERIFIER),
        ("resource", found.resource()),
    ];
    let tokens = wire.tokens(found.endpoint("token_endpoint"), &code).await;
    wire.uses(&tokens).await;
    refreshes(wire, found, client, &tokens).await;
    tokens
}

async fn refreshes(wire: &Wire<'_>, found: &Found, client: &str, tokens: &Value) {
    let refresh = [
        ("client_id", client),
        ("grant_type", "refresh_token"),
        ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
        ("resource", found.resource()),
    ];
    wire.uses(&wire.tokens(found.endpoint("token_endpoint"), &refresh).await).await;
}

#[tokio::test]
async fn vs_code_registers_four_uris_and_comes_back_to_any_port() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, HEADERS).await;
    let found = wire.find().await;
    let client = registered(&wire, &found).await;
    // The port that it would like, and the one that it got instead.
    for redirect in ["http://127.0.0.1:33418/", "http://127.0.0.1:59656/"] {
        signs_in(&wire, &found, &client, redirect, "ey/lnTwSm9FUcQN/Qds=").await;
    }
    // In a browser the page at its maker's goes on to the URL in the state.
    let state = "vscode://dynamicauthprovider/auth.example.test/redirect?nonce=a%2Bb&windowId=1";
    signs_in(&wire, &found, &client, WEB, state).await;
    for other in
        ["http://127.0.0.1:59656/other", "http://localhost:59656/", "https://vscode.dev/redirect?x=1"]
    {
        let asked = [("client_id", client.as_str()), ("redirect_uri", other), ("state", "x")];
        wire.is_refused(found.endpoint("authorization_endpoint"), &asked).await;
    }
}

#[tokio::test]
async fn vs_code_is_known_by_its_document_with_grants_that_others_lack() {
    let authority = Authority::new();
    let grants = [GRANTS, &["urn:example:something-new"]].concat();
    let document = json!({
        "client_name": "Visual Studio Code",
        "client_uri": "https://code.visualstudio.com",
        "grant_types": grants,
        "response_types": ["code"],
        "redirect_uris": [WEB, "http://127.0.0.1/", "http://127.0.0.1:33418/"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    });
    let document = Document::of(&authority, "/oauth/client-metadata.json", document).await;
    let site = Site::start_with(&authority, |command| {
        command.env("PORTCULLIS_OAUTH_FETCH_ALLOW", format!("localhost:{}", document.port));
    })
    .await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, HEADERS).await;
    let found = wire.find().await;
    signs_in(&wire, &found, &document.url, "http://127.0.0.1:59656/", "x").await;
}

#[tokio::test]
async fn vs_code_connects_by_a_device_code_where_no_browser_can_come_back() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, HEADERS).await;
    let found = wire.find().await;
    let client = registered(&wire, &found).await;
    let asked = [("client_id", client.as_str()), ("scope", &found.scope), ("resource", found.resource())];
    let poll = async |device: &Value| {
        let pairs = [
            ("device_code", device["device_code"].as_str().unwrap()),
            ("grant_type", GRANTS[2]),
            ("client_id", &client),
            ("resource", found.resource()),
        ];
        wire.post_form(found.endpoint("token_endpoint"), &pairs).await
    };
    // Two, because asking again too soon is another answer.
    let (unused, device) = (begin(&wire, &found, &asked).await, begin(&wire, &found, &asked).await);
    let pending = poll(&unused).await;
    let error = pending.json()["error"].take();
    assert_eq!((pending.status, error), (StatusCode::BAD_REQUEST, json!("authorization_pending")));

    let text = |name: &str| device[name].as_str().unwrap();
    let mut visitor = Visitor::new(site.daemon.https);
    let page = visitor.open(text("verification_uri"), "").await;
    let page = visitor.submit(&page, ("user", MONA), "").await;
    let page = visitor.submit_with(&page, ("", ""), &[("user_code", text("user_code"))], "").await;
    assert!(page.text().contains("Visual Studio Code"), "{}", page.text());
    visitor.submit(&page, ("decision", "approve"), "").await;
    let answer = poll(&device).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
    let tokens = answer.json();
    wire.uses(&tokens).await;
    refreshes(&wire, &found, &client, &tokens).await;
}

/// RFC 8628, section 3.1.
async fn begin(wire: &Wire<'_>, found: &Found, asked: &[(&str, &str)]) -> Value {
    let answer = wire.post_form(found.endpoint("device_authorization_endpoint"), asked).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}
