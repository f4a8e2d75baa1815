//! Paths that need no token, and every way around the ones that do.

use http::StatusCode;
use serde_json::json;

use super::support::client::raw;
use super::{CHALLENGE, HOST, Site, claims};

/// Ways to write a path that some reader takes for `/secret`, through the door of `/public`.
const AROUND: [&str; 44] = [
    "/public/../secret",
    "/public/%2e%2e/secret",
    "/public/%2E%2e/secret",
    "/public/.%2e/secret",
    "/public/%2e./secret",
    "/public/..;/secret",
    "/public/..;x=1/secret",
    "/public/..%3b/secret",
    "/public/..%3B/secret",
    "/public/%2e%2e;/secret",
    "/public/.;/../secret",
    "/public;/../secret",
    "/public;x=1/../secret",
    "/public;x/secret",
    "/public/..%2fsecret",
    "/public/..%2Fsecret",
    "/public%2f..%2fsecret",
    "/public%2F%2e%2e%2Fsecret",
    "/public/..\\secret",
    "/public\\..\\secret",
    "/public/..%5csecret",
    "/public/..%5Csecret",
    "/public/%5c../secret",
    "/public/%252e%252e/secret",
    "/public/%25%32%65%25%32%65/secret",
    "/public/..%252fsecret",
    "/public/..%255csecret",
    "/public/%c0%ae%c0%ae/secret",
    "/public/..%c0%afsecret",
    "/public/%e0%80%ae%e0%80%ae/secret",
    "/public/..%00/secret",
    "/public%00/../secret",
    "/public/..%0a/secret",
    "/public/..%09/secret",
    "/public/%u002e%u002e/secret",
    "/public/./.././secret",
    "/public/x/../../secret",
    "//public/../secret",
    "/./public/../secret",
    "/%70ublic/../secret",
    "/public/..//secret",
    "/public#/../secret",
    "/PUBLIC/secret",
    "http://app.test/public/../secret",
];

/// Ways to write `/admin` for one reader or another.
const ADMIN: [&str; 25] = [
    "/admin",
    "/admin/",
    "/admin/x?y",
    "//admin",
    "///admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/%61%64%6D%69%6e",
    "/admin;x",
    "/admin;x=1/y",
    "/;/admin",
    "/;x/admin",
    "/admin%3bx",
    "/admin%3B",
    "/.;/admin",
    "/x/..;/admin",
    "/%2fadmin",
    "/admin%2fx",
    "/x%2f..%2fadmin",
    "/\\admin",
    "/%5cadmin",
    "/x/%252e%252e/admin",
    "/admin#x",
    "http://open.test//admin",
];

async fn status(site: &Site, host: &str, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = raw(site.daemon.http, request.as_bytes()).await;
    assert!(
        !answer.contains("\r\nx-upstream: ") || answer.starts_with("HTTP/1.1 200 "),
        "{target}: {answer}"
    );
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_excepted_path_needs_no_token_and_ends_at_a_segment() {
    let site = Site::start(json!({ "auth_excluded_paths": ["/public", "/assets/*", "/api/v1/"] })).await;
    for (path, open) in [
        ("/public", true),
        ("/public/", true),
        ("/public/a/b?c", true),
        ("/%70ublic/a", true),
        ("/x/../public", true),
        ("/publicx", false),
        ("/public-key", false),
        ("/public.html", false),
        ("/Public", false),
        ("/", false),
        ("/assets", false),
        ("/assets/a/b.css", true),
        ("/assetsx/a", false),
        ("/api/v1", false),
        ("/api/v1/x", true),
        ("/api/v10/x", false),
    ] {
        let answer = site.get(path).await;
        if open {
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert_eq!(answer.seen("x-auth-user"), Vec::<String>::new(), "{path}");
        } else {
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (StatusCode::UNAUTHORIZED, CHALLENGE),
                "{path}"
            );
        }
    }
    // Nobody looks at a token there, so nobody can be told apart.
    let answer = site.get_as("/public", &site.token(&claims())).await;
    assert_eq!(answer.seen("x-auth-user"), Vec::<String>::new());
    assert_eq!(site.get_as("/public", "no token at all").await.status, StatusCode::OK);
}

#[tokio::test]
async fn no_open_path_of_a_protected_host_hands_a_token_on() {
    let site = Site::start(json!({ "auth_excluded_paths": ["/public"] })).await;
    let open = json!({ "override_proxy_auth": true, "auth_config": { "auth_type": "none" } });
    let route = |id: &str, host: &str| {
        let mut route = json!({
            "route_id": id, "path_pattern": "/open", "target_type": "url", "target_value": site.upstream.url(),
            "scope": "proxy", "proxy_hostnames": [host],
        });
        route.as_object_mut().unwrap().extend(open.as_object().unwrap().clone());
        route
    };
    site.host("frank.test", &json!({ "forward_authorization": true }));
    site.host("plain.test", &json!({ "auth_enabled": false, "auth_required_users": null }));
    for (id, host) in [("open", HOST), ("frank", "frank.test"), ("plain", "plain.test")] {
        site.daemon.route(route(id, host)).await;
    }
    let sent = format!("Bearer {}", site.token(&claims()));
    let none = Vec::<String>::new();
    for (host, path, expected) in [
        (HOST, "/open", &none),
        (HOST, "/public", &none),
        // What the host says of itself holds for its open routes, too.
        ("frank.test", "/open", &vec![sent.clone()]),
        ("plain.test", "/open", &vec![sent.clone()]),
    ] {
        let request = super::get_as(host, path, &site.token(&claims()));
        let answer = super::client::plain(site.daemon.http, request).await;
        assert_eq!(
            (answer.status, answer.seen("authorization")),
            (StatusCode::OK, expected.clone()),
            "{host}{path}"
        );
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_steps_out_of_an_excepted_one() {
    let site = Site::start(json!({ "auth_excluded_paths": ["/public"] })).await;
    for target in AROUND {
        let status = status(&site, HOST, target).await;
        assert!(["400", "401"].contains(&status.as_str()), "{target}: {status}");
    }
    assert_eq!(status(&site, HOST, "/public/x").await, "200");
}

#[tokio::test]
async fn no_spelling_of_a_path_steps_over_a_protected_route() {
    let site = Site::start(json!({})).await;
    site.daemon.proxy("open.test", &site.upstream.url(), &json!({}));
    let auth = json!({ "auth_type": "bearer", "allowed_users": ["*"] }).to_string();
    site.daemon.run(&[
        "route",
        "create",
        "/admin",
        "url",
        &site.upstream.url(),
        "--scope=proxy",
        "--proxy-hostnames=open.test",
        "--override-proxy-auth=true",
        &format!("--auth-config={auth}"),
    ]);
    for target in ADMIN {
        let status = status(&site, "open.test", target).await;
        assert!(["400", "401"].contains(&status.as_str()), "{target}: {status}");
    }
    for target in ["/", "/administrator", "/x//y", "/x;y=1", "/a%3Bb"] {
        assert_eq!(status(&site, "open.test", target).await, "200", "{target}");
    }
}
