//! Cursor: one registration for the editor, its agents and the web, with a scheme of its own in it.

use serde_json::json;

use super::wire::{VERIFIER, Wire};
use crate::site::{ISSUER, Site};
use crate::support::upstream::Upstream;

const EDITOR: &str = "cursor://anysphere.cursor-mcp/oauth/callback";
const AGENTS: &str = "https://www.cursor.com/agents/mcp/oauth/callback";
const LOOPBACK: &str = "http://localhost:8787/callback";
/// What versions of 2025 had, with the server's name in it.
const OLD: &str = "cursor://anysphere.cursor-retrieval/oauth/user-tools/callback";

#[tokio::test]
async fn cursor_comes_back_by_its_own_scheme_and_to_its_other_addresses() {
    let site = Site::start().await;
    let upstream = Upstream::start("tools").await;
    let wire = Wire::to(&site, &upstream, &[("mcp-protocol-version", "2025-06-18")]).await;
    let found = wire.find().await;
    let issuer = site.url(ISSUER, "");
    for (uris, redirects) in [
        (
            json!([EDITOR, AGENTS, LOOPBACK]),
            &[EDITOR, AGENTS, LOOPBACK, "http://localhost:54321/callback"][..],
        ),
        (json!([OLD]), &[OLD]),
    ] {
        let wanted = json!({
            "client_name": "Cursor",
            "redirect_uris": uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        });
        let registered = wire.register(found.endpoint("registration_endpoint"), &wanted).await;
        let client = ("client_id", registered["client_id"].as_str().unwrap());
        for redirect in redirects {
            let asked = [
                client,
                ("redirect_uri", *redirect),
                ("state", "eyJpZCI6InVzZXItdG9vbHMifQ=="),
                ("scope", &found.scope),
                ("resource", &wire.url),
            ];
            let back = wire.authorize(found.endpoint("authorization_endpoint"), &asked, &issuer).await;
            assert!(back.consent.contains("Cursor"), "{}", back.consent);
            let code = [
                ("grant_type", "authorization_code"),
                client,
                ("code", &back.code),
                ("code_verifier", VERIFIER),
                ("redirect_uri", redirect),
                ("resource", &wire.url),
            ];
            let tokens = wire.tokens(found.endpoint("token_endpoint"), &code).await;
            wire.uses(&tokens).await;
            let refresh = [
                ("grant_type", "refresh_token"),
                ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
                client,
                ("resource", &wire.url),
            ];
            wire.uses(&wire.tokens(found.endpoint("token_endpoint"), &refresh).await).await;
        }
        // A scheme is whose program has taken it, so it is compared to the last character.
        for other in ["cursor://anysphere.cursor-mcp/oauth/callback/x", "cursor://evil/oauth/callback"] {
            let asked = [client, ("redirect_uri", other), ("state", "x")];
            wire.is_refused(found.endpoint("authorization_endpoint"), &asked).await;
        }
    }
}
