//! Claude Code: a program on the user's machine, with a port of its own each time.

use serde_json::{Value, json};

use super::wire::{Found, VERIFIER, Wire};
use crate::document::Document;
use crate::site::{ISSUER, Site};
use crate::support::certificate::Authority;
use crate::support::upstream::Upstream;

/// One login, from the authorization request to a refreshed token.
async fn signs_in(wire: &Wire<'_>, found: &Found, client: &str, redirect: &str) {
    let issuer = wire.site.url(ISSUER, "");
    let asked = [
        ("client_id", client),
        ("redirect_uri", redirect),
        ("state", "uJZ2dE8o"),
        ("scope", &found.scope),
        ("resource", &wire.url),
    ];
    let back = wire.authorize(found.endpoint("authorization_endpoint"), &asked, &issuer).await;
    assert!(back.consent.contains("a program on this computer"), "anybody there can ask: {}", back.consent);
    let code = [
        ("grant_type", "authorization_code"),
        ("code", &back.code),
        ("code_verifier", VERIFIER),
        ("redirect_uri", redirect),
        ("client_id", client),
        ("resource", &wire.url),
    ];
    let tokens = wire.tokens(found.endpoint("token_endpoint"), &code).await;
    wire.uses(&tokens).await;
    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
        ("client_id", client),
        ("resource", &wire.url),
    ];
    wire.uses(&wire.tokens(found.endpoint("token_endpoint"), &refresh).await).await;
}

/// Its document, as it is published: without ports, and with both names of the machine.
fn document() -> Value {
    json!({
        "client_name": "Claude Code",
        "client_uri": "https://claude.ai",
        "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    })
}

#[tokio::test]
async fn claude_code_comes_back_to_any_port_of_the_names_in_its_document() {
    let authority = Authority::new();
    let document = Document::of(&authority, "/oauth/claude-code-client-metadata", document()).await;
    let site = Site::start_with(&authority, |command| {
        command.env("PORTCULLIS_OAUTH_FETCH_ALLOW", format!("localhost:{}", document.port));
    })
    .await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, &[("user-agent", "claude-code/2.1 (cli)")]).await;
    let found = wire.find().await;
    for redirect in ["http://localhost:3118/callback", "http://127.0.0.1:52163/callback"] {
        signs_in(&wire, &found, &document.url, redirect).await;
    }
    let authorize = found.endpoint("authorization_endpoint");
    for other in [
        "http://localhost:3118/other",
        "http://localhost:3118/callback/",
        "https://localhost:3118/callback",
        "http://localhost.evil.example:3118/callback",
        "http://localhost:3118@evil.example/callback",
        "http://[::1]:3118/callback",
    ] {
        let asked = [("client_id", document.url.as_str()), ("redirect_uri", other), ("state", "x")];
        wire.is_refused(authorize, &asked).await;
    }
    assert_eq!(document.asked(), 1);
}

#[tokio::test]
async fn claude_code_registers_where_documents_are_not_taken() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, &[("user-agent", "claude-code/2.1 (cli)")]).await;
    let found = wire.find().await;
    let wanted = json!({
        "client_name": "Claude Code (tools)",
        "redirect_uris": ["http://localhost:3118/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    });
    let registered = wire.register(found.endpoint("registration_endpoint"), &wanted).await;
    let client = registered["client_id"].as_str().unwrap();
    // The port was taken the second time.
    for redirect in ["http://localhost:3118/callback", "http://localhost:52163/callback"] {
        signs_in(&wire, &found, client, redirect).await;
    }
}
