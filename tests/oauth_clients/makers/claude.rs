//! Claude on the web, on the desktop and on phones: its maker's servers call.

use http::StatusCode;
use serde_json::{Value, json};

use super::wire::{Found, RESOURCE, SERVER, VERIFIER, Wire};
use crate::document::Document;
use crate::site::{ISSUER, Site, TOOLS};
use crate::support::certificate::Authority;
use crate::support::upstream::Upstream;

const CALLBACK: &str = "https://claude.ai/api/mcp/auth_callback";

/// What its servers send with every request.
const HEADERS: &[(&str, &str)] =
    &[("user-agent", "python-httpx/0.28.1"), ("mcp-protocol-version", "2025-11-25")];

/// `offline_access` is added where the server lists it.
fn scope(found: &Found) -> String {
    let offline = found.lists("scopes_supported", "offline_access");
    if offline { format!("{} offline_access", found.scope) } else { found.scope.clone() }
}

fn registration() -> Value {
    json!({
        "client_name": "Claude",
        "redirect_uris": [CALLBACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        // For its own servers it wants a secret, which it sends in the body.
        "token_endpoint_auth_method": "client_secret_post",
    })
}

#[tokio::test]
async fn claude_registers_itself_and_sends_its_secret_in_the_body() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, HEADERS).await;
    let found = wire.find().await;
    // Where it has no challenge it goes up the ladder: with the path, without it.
    for path in ["/mcp", ""] {
        let document = wire.document(&site.url(TOOLS, &format!("{RESOURCE}{path}"))).await;
        assert_eq!(document, found.resource);
    }
    let issuer = site.url(ISSUER, "");
    let registered = wire.register(found.endpoint("registration_endpoint"), &registration()).await;
    let text = |name: &str| registered[name].as_str().unwrap();
    let scope = scope(&found);
    let asked = [
        ("client_id", text("client_id")),
        ("redirect_uri", CALLBACK),
        ("state", "S6_a.b~c-d"),
        ("scope", &scope),
        ("resource", &wire.url),
    ];
    let back = wire.authorize(found.endpoint("authorization_endpoint"), &asked, &issuer).await;
    assert!(back.consent.contains("Claude") && back.consent.contains("claude.ai"), "{}", back.consent);
    let client = [("client_id", text("client_id")), ("client_secret", text("client_secret"))];
    let code = [
        ("grant_type", "authorization_code"),
        ("code", &back.code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("resource", &wire.url),
    ];
    let tokens = wire.tokens(found.endpoint("token_endpoint"), &[&code[..], &client].concat()).await;
    wire.uses(&tokens).await;

    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
        ("resource", &wire.url),
    ];
    let refresh = [&refresh[..], &client].concat();
    let refreshed = wire.tokens(found.endpoint("token_endpoint"), &refresh).await;
    assert_ne!(refreshed["refresh_token"], tokens["refresh_token"]);
    wire.uses(&refreshed).await;

    // It registers anew for each connection, and after exactly this error.
    let again = wire.register(found.endpoint("registration_endpoint"), &registration()).await;
    assert_ne!(again["client_id"], registered["client_id"]);
    let gone =
        [("grant_type", "refresh_token"), ("refresh_token", "gone"), ("client_id", "dyn_gone"), client[1]];
    let answer = wire.post_form(found.endpoint("token_endpoint"), &gone).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_client"))
    );
}

#[tokio::test]
async fn claude_is_known_by_its_document_where_that_is_announced() {
    let authority = Authority::new();
    let document = json!({
        "client_name": "Claude",
        "client_uri": "https://claude.ai",
        "redirect_uris": [CALLBACK, "https://claude.com/api/mcp/auth_callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    let document = Document::of(&authority, "/oauth/mcp-client-metadata", document).await;
    let site = Site::start_with(&authority, |command| {
        command.env("PORTCULLIS_OAUTH_FETCH_ALLOW", format!("localhost:{}", document.port));
    })
    .await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, HEADERS).await;
    let found = wire.find().await;
    // Both, or it registers.
    assert_eq!(found.server["client_id_metadata_document_supported"], true);
    assert!(found.lists("token_endpoint_auth_methods_supported", "none"));
    let scope = scope(&found);
    let issuer = site.url(ISSUER, "");
    for callback in [CALLBACK, "https://claude.com/api/mcp/auth_callback"] {
        let asked = [
            ("client_id", document.url.as_str()),
            ("redirect_uri", callback),
            ("state", "x"),
            ("scope", &scope),
            ("resource", &wire.url),
        ];
        let back = wire.authorize(found.endpoint("authorization_endpoint"), &asked, &issuer).await;
        let code = [
            ("grant_type", "authorization_code"),
            ("code", &back.code),
            ("redirect_uri", callback),
            ("code_verifier", VERIFIER),
            ("client_id", &document.url),
            ("resource", &wire.url),
        ];
        let tokens = wire.tokens(found.endpoint("token_endpoint"), &code).await;
        wire.uses(&tokens).await;
        let refresh = [
            ("grant_type", "refresh_token"),
            ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
            ("client_id", &document.url),
            ("resource", &wire.url),
        ];
        wire.uses(&wire.tokens(found.endpoint("token_endpoint"), &refresh).await).await;
    }
    assert_eq!(document.asked(), 1);
}

/// What Claude did once, and what clients of 2025-03-26 do: they take the MCP server's host for the authorization
/// server, and know nothing of resources.
#[tokio::test]
async fn clients_of_2025_03_26_find_all_endpoints_on_the_host_of_the_mcp_server() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, &[("mcp-protocol-version", "2025-03-26")]).await;
    let issuer = site.url(ISSUER, "");
    wire.knock().await;
    let server = wire.document(&site.url(TOOLS, SERVER)).await;
    assert_eq!(server["issuer"], issuer, "there is one");
    let registered = wire.register(&site.url(TOOLS, "/register"), &registration()).await;
    let text = |name: &str| registered[name].as_str().unwrap();
    // A scope of its own where it knows of none, and one that means nothing.
    let asked = [
        ("client_id", text("client_id")),
        ("redirect_uri", CALLBACK),
        ("state", "x"),
        ("scope", "mcp claudeai"),
    ];
    let back = wire.authorize(&site.url(TOOLS, "/authorize"), &asked, &issuer).await;
    let client = [("client_id", text("client_id")), ("client_secret", text("client_secret"))];
    let code = [
        ("grant_type", "authorization_code"),
        ("code", &back.code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    let token = site.url(TOOLS, "/token");
    let tokens = wire.tokens(&token, &[&code[..], &client].concat()).await;
    assert_eq!(tokens["scope"], "mcp", "what was given, because it is not what was asked for");
    wire.uses(&tokens).await;
    let refresh =
        [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().unwrap())];
    wire.uses(&wire.tokens(&token, &[&refresh[..], &client].concat()).await).await;
}
