//! Who comes as far as the server.

use http::StatusCode;
use serde_json::json;

use crate::support::client;
use crate::support::mcp::{Events, Mcp, STATEFUL, STATELESS};
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

#[tokio::test]
async fn a_token_is_what_counts_also_on_the_machine_itself() {
    let daemon = crate::support::daemon::Daemon::start_with(|command| {
        command.env("PORTCULLIS_LOCAL_ADMIN", "loopback");
    });
    let site = Site { daemon };
    for version in [STATEFUL, STATELESS] {
        let mut client = site.client("only", "mcp", version);
        client.hello().await;
        let names: Vec<_> = client.tools().await.iter().map(|tool| tool["name"].clone()).collect();
        assert!(names.contains(&json!("echo")) && !names.contains(&json!("list_proxies")), "{names:?}");
        assert_eq!(client.fails("list_proxies", json!({})).await["code"], "insufficient_scope");
    }
}

#[tokio::test]
async fn its_streams_end_when_it_is_switched_off() {
    let site = Site::start();
    let admin = site.admin(STATEFUL).await;
    let mut stream = Events::of(admin.listen(None).await);
    site.daemon.change(HOST, json!({ "builtin_mcp": false })).await;
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn its_host_is_a_resource_that_covers_it() {
    let site = Site::start();
    let fields = json!({
        "proxy_hostname": "tools.localhost", "target_url": "http://127.0.0.1:9", "builtin_mcp": true,
        "resource_endpoint": "/tools",
    });
    let mut admin = site.admin(STATELESS).await;
    let refused = admin.fails("create_proxy", fields).await;
    assert_eq!(refused["fields"][0]["field"], "resource_endpoint", "{refused}");
}
