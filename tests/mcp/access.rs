//! Who comes as far as the server.

use http::StatusCode;
use serde_json::json;

use crate::support::client;
use crate::support::mcp::{Mcp, STATEFUL, STATELESS};
use crate::support::upstream::Upstream;
use crate::{HOST, Site};

#[tokio::test]
async fn a_token_with_the_scope_mcp_is_needed() {
    let site = Site::start();
    for version in [STATEFUL, STATELESS] {
        let mut nobody = Mcp::new(site.daemon.https, HOST, None, version);
        let message = nobody.message("tools/list", json!({}));
        let answer = nobody.asked(&message).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer ") && challenge.contains("resource_metadata="), "{challenge}");

        let mut other = site.client("other", "user", version);
        let message = other.message("tools/list", json!({}));
        let answer = other.asked(&message).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        // There is no list that would give it the scope, so no other token helps.
        assert_eq!(answer.header("www-authenticate"), "");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let site = Site::start();
    let mut admin = site.admin(STATEFUL).await;
    let message = admin.message("ping", json!({})).to_string();
    for (origin, status) in [("https://evil.example", 403), ("null", 403), ("http://localhost:6274", 200)] {
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
            ("origin", origin.to_owned()),
        ];
        assert_eq!(admin.send("POST", &headers, &message).await.status().as_u16(), status, "{origin}");
    }
}

#[tokio::test]
async fn a_host_has_it_when_it_says_so_and_asks_for_a_token_whatever_it_is() {
    let site = Site::start();
    let upstream = Upstream::start("app").await;
    site.daemon.host("open.localhost", &upstream.url(), json!({ "https_redirect": "off" })).await;
    let mut client = Mcp::new(site.daemon.https, "open.localhost", None, STATELESS);
    let message = client.message("tools/list", json!({}));
    let before = client.asked(&message).await;
    assert_eq!(before.status, StatusCode::OK, "the upstream's own path");
    assert_eq!(before.json()["uri"], "/mcp");
    for fields in [json!({ "builtin_mcp": true }), json!({ "route_mode": "none" })] {
        site.daemon.change("open.localhost", fields).await;
        assert_eq!(client.asked(&message).await.status, StatusCode::UNAUTHORIZED);
        let elsewhere = client::plain(site.daemon.http, client::get("open.localhost", "/other")).await;
        assert_eq!(elsewhere.status, StatusCode::OK, "the rest of the host is as before");
    }
    site.daemon.change("open.localhost", json!({ "builtin_mcp": false })).await;
    assert_eq!(client.asked(&message).await.status, StatusCode::OK);

    site.daemon.host("tools.localhost", "builtin:mcp", json!({})).await;
    let mut only = client.clone();
    only.host = "tools.localhost".to_owned();
    assert_eq!(only.asked(&message).await.status, StatusCode::UNAUTHORIZED);
    let other = client::secure(site.daemon.https, client::get("tools.localhost", "/")).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
}
