//! The host of the authorization server: there from the start, and there to stay.

use std::process::Command;

use serde_json::json;

use super::Site;
use super::support::client::{self, get};
use super::support::daemon::Daemon;

const ISSUER: &str = "auth.localhost";

#[tokio::test]
async fn the_issuers_host_is_made_at_every_start_and_can_not_be_deleted() {
    let port = |command: &mut Command| {
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
    };
    let daemon = Daemon::start_with(port);
    let made = daemon.run(&["proxy", "show", ISSUER]);
    assert_eq!((&made["target_url"], &made["auth_enabled"]), (&json!("builtin:oauth"), &json!(false)));
    let answer = client::plain(daemon.http, get(ISSUER, "/nothing")).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (404, &json!("not_found")));

    let refused = daemon.cli(&["proxy", "delete", ISSUER]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("authorization server"), "{told}");

    // Its document is like any other, and what was changed stays over a start.
    daemon.run(&["proxy", "update", ISSUER, "--custom-response-headers", "X-Mine=1"]);
    let dir = std::sync::Arc::clone(&daemon.dir);
    drop(daemon);
    let daemon = Daemon::start_in(dir, port);
    let answer = client::plain(daemon.http, get(ISSUER, "/")).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-mine")), (404, "1"));
}

#[tokio::test]
async fn a_store_without_the_issuers_host_gets_one_and_no_other_host_can_be_one() {
    let daemon = Daemon::start_with(|command| {
        command.env("OAUTH_ISSUER", "https://localhost");
    });
    let dir = std::sync::Arc::clone(&daemon.dir);
    let proxies = daemon.run(&["proxy", "list"]);
    assert_eq!(proxies.as_array().map(Vec::len), Some(1), "the API's host is the issuer's: {proxies}");
    drop(daemon);
    let daemon = Daemon::start_in(dir, |command| {
        command.env("OAUTH_ISSUER", "https://id.test/realm").env("PORTCULLIS_ACCEPT_NEW_ISSUER", "true");
    });
    assert_eq!(daemon.run(&["proxy", "show", "id.test"])["target_url"], "builtin:oauth");
    let refused = daemon.cli(&["proxy", "create", "other.test", "builtin:oauth"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("id.test"), "{told}");
}

#[tokio::test]
async fn a_host_that_is_there_already_stays_what_it_is() {
    let site = Site::without_hosts(|command| {
        command.env("OAUTH_ISSUER", "https://first.test");
    })
    .await;
    site.daemon.proxy("second.test", &site.upstream.url(), &json!({}));
    let dir = std::sync::Arc::clone(&site.daemon.dir);
    drop(site.daemon);
    let daemon = Daemon::start_in(dir, |command| {
        command.env("OAUTH_ISSUER", "https://second.test").env("PORTCULLIS_ACCEPT_NEW_ISSUER", "true");
    });
    assert_eq!(client::plain(daemon.http, get("second.test", "/")).await.status, 200);
}

#[tokio::test]
async fn its_endpoints_stand_in_front_of_routing_where_a_host_has_them() {
    let site = Site::without_hosts(|_| ()).await;
    let own_cors = json!({ "origins": ["https://own.test"] });
    for (host, fields) in [
        ("mcp.test", json!({ "resource_endpoint": "/mcp", "cors": own_cors })),
        ("plain.test", json!({})),
        ("off.test", json!({ "resource_endpoint": "/mcp", "resource_oauth_endpoints": false })),
        ("closed.test", json!({ "resource_endpoint": "/mcp", "allowed_networks": ["192.0.2.0/24"] })),
    ] {
        site.host(host, &fields);
    }
    let (oauth, openid) = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration");
    for (host, path, status) in [
        (ISSUER, oauth.to_owned(), 200),
        (ISSUER, openid.to_owned(), 200),
        (ISSUER, "/jwks".to_owned(), 200),
        (ISSUER, format!("{oauth}/other"), 404),
        (ISSUER, "/nothing".to_owned(), 404),
        ("mcp.test", oauth.to_owned(), 200),
        ("mcp.test", format!("{oauth}/mcp"), 200),
        ("mcp.test", format!("/mcp{openid}"), 200),
        // Neither a login nor anybody else's document.
        ("mcp.test", format!("{oauth}/other"), 404),
        ("mcp.test", "/jwks".to_owned(), 401),
        ("plain.test", oauth.to_owned(), 401),
        ("off.test", oauth.to_owned(), 401),
        ("closed.test", oauth.to_owned(), 403),
    ] {
        let mut request = get(host, &path);
        request.headers_mut().insert("origin", "https://evil.test".parse().unwrap());
        let answer = client::secure(site.daemon.https, request).await;
        assert_eq!(answer.status, status, "{host}{path}");
        if status == 200 && path.contains("well-known") {
            assert_eq!(answer.json()["issuer"], "https://auth.localhost", "{host}{path}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "its own rules: {host}{path}");
        }
    }
}
