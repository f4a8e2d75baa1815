//! ChatGPT: its maker's servers call, and each connector has a callback of its own.

use serde_json::json;

use super::wire::{RESOURCE, SERVER, VERIFIER, Wire};
use crate::site::{ISSUER, Site, TOOLS};
use crate::support::upstream::Upstream;

/// Of a connector; the last part is made when a user adds one.
const CONNECTOR: &str = "https://chatgpt.com/connector/oauth/OUbdUMlL15Ct";
/// Of all connectors, used where the server says `iss` in its answers.
const STABLE: &str = "https://chatgpt.com/connector_platform_oauth_redirect";

#[tokio::test]
async fn chatgpt_registers_a_client_for_each_connector() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, &[("user-agent", "Python/3.12 aiohttp/3.13.2")]).await;
    let issuer = site.url(ISSUER, "");
    let found = wire.find().await;
    // It looks at all of these before it says that a server has no OAuth; one that is broken is the end.
    assert_eq!(wire.document(&site.url(TOOLS, &format!("{RESOURCE}/mcp"))).await, found.resource);
    assert_eq!(wire.document(&site.url(TOOLS, RESOURCE)).await, found.resource);
    const OPENID: &str = "/.well-known/openid-configuration";
    for path in [
        SERVER.to_owned(),
        OPENID.to_owned(),
        format!("{SERVER}/mcp"),
        format!("{OPENID}/mcp"),
        format!("/mcp{OPENID}"),
    ] {
        wire.looks_at(&site.url(TOOLS, &path), &found).await;
    }
    let openid = wire.document(&format!("{issuer}{OPENID}")).await;
    for member in ["jwks_uri", "subject_types_supported", "id_token_signing_alg_values_supported"] {
        assert!(!openid[member].is_null(), "half a document of OpenID Connect stops it: {member}");
    }
    assert_eq!(found.server["authorization_response_iss_parameter_supported"], true);

    for (callback, method) in [(CONNECTOR, "none"), (STABLE, "client_secret_post")] {
        assert!(found.lists("token_endpoint_auth_methods_supported", method));
        let wanted = json!({
            "client_name": "ChatGPT",
            "redirect_uris": [callback],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
        });
        let registered = wire.register(found.endpoint("registration_endpoint"), &wanted).await;
        let mut client = vec![("client_id", registered["client_id"].as_str().unwrap())];
        client.extend(registered["client_secret"].as_str().map(|secret| ("client_secret", secret)));
        let asked = [
            client[0],
            ("redirect_uri", callback),
            ("state", "oauth_s_6929d1c7"),
            ("scope", &found.scope),
            ("resource", &wire.url),
        ];
        let back = wire.authorize(found.endpoint("authorization_endpoint"), &asked, &issuer).await;
        assert!(back.consent.contains("chatgpt.com"), "{}", back.consent);
        let code = [
            ("grant_type", "authorization_code"),
            ("code", &back.code),
            ("redirect_uri", callback),
            ("code_verifier", VERIFIER),
            ("resource", &wire.url),
        ];
        let tokens = wire.tokens(found.endpoint("token_endpoint"), &[&code[..], &client].concat()).await;
        wire.uses(&tokens).await;
        // The resource is said with the code only.
        let refresh =
            [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().unwrap())];
        let refreshed =
            wire.tokens(found.endpoint("token_endpoint"), &[&refresh[..], &client].concat()).await;
        wire.uses(&refreshed).await;
    }
}
