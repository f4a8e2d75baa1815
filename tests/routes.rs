//! Which requests take which route, and where that leads.

mod support;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use support::client::{Answer, get, get_as, plain, secure};
use support::daemon::Daemon;
use support::upstream::Upstream;

fn ask(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// Who answered: the upstream's name, or the code of our refusal.
fn who(answer: &Answer) -> String {
    match answer.header("x-upstream") {
        "" => answer.json()["code"].as_str().unwrap_or_default().to_owned(),
        name => name.to_owned(),
    }
}

/// A route to a URL, for one host.
fn route(id: &str, host: &str, target: &str, more: Value) -> Value {
    let mut route = json!({
        "route_id": id, "target_type": "url", "target_value": target,
        "scope": "proxy", "proxy_hostnames": [host],
    });
    let Value::Object(more) = more else { panic!("fields are an object") };
    route.as_object_mut().unwrap().extend(more);
    route
}

#[tokio::test]
async fn a_pattern_matches_as_its_kind_says() {
    let daemon = Daemon::start();
    let (main, other) = (Upstream::start("main").await, Upstream::start("routed").await);
    for (number, (fields, matches, others)) in [
        (
            json!({ "match": "exact", "path_pattern": "/a" }),
            &["/a", "/a?b=c", "/%61"][..],
            &["/", "/a/", "/a/b", "/A", "/ab"][..],
        ),
        (
            json!({ "path_pattern": "/a" }),
            &["/a", "/a/", "/a/b/c", "/x/../a/b"],
            &["/", "/ab", "/x/a", "/A/b", "/a.b"],
        ),
        (json!({ "path_pattern": "/a/" }), &["/a/", "/a/b"], &["/ab", "/"]),
        (json!({ "path_pattern": "/" }), &["/", "/anything", "/any/thing"], &[]),
        (
            json!({ "match": "glob", "path_pattern": "/a/*/c" }),
            &["/a/b/c", "/a/x.y/c"],
            &["/a/c", "/a/b/d/c", "/a/b/c/d"],
        ),
        (json!({ "match": "glob", "path_pattern": "/a/**" }), &["/a/b", "/a/b/c"], &["/b/a", "/ab"]),
        (json!({ "match": "glob", "path_pattern": "/*.png" }), &["/x.png"], &["/x/y.png", "/x.jpg"]),
        (
            json!({ "match": "regex", "path_pattern": "/user/[0-9]+" }),
            &["/user/1", "/user/42"],
            &["/user/x", "/user/1/x", "/x/user/1"],
        ),
        (
            json!({ "is_regex": true, "path_pattern": "^/v[12]" }),
            &["/v1", "/v2/x", "/v15"],
            &["/v3", "/x/v1"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let host = format!("h{number}.test");
        daemon.host(&host, &main.url(), json!({})).await;
        daemon.route(route(&format!("r{number}"), &host, &other.url(), fields.clone())).await;
        let expected =
            matches.iter().map(|path| (path, "routed")).chain(others.iter().map(|path| (path, "main")));
        for (path, upstream) in expected {
            assert_eq!(who(&plain(daemon.http, get(&host, path)).await), upstream, "{fields} {path}");
        }
    }
}

#[tokio::test]
async fn the_highest_priority_wins_then_the_longest_pattern_then_the_id() {
    let daemon = Daemon::start();
    let main = Upstream::start("main").await;
    daemon.host("a.test", &main.url(), json!({})).await;
    for (id, pattern, priority) in [
        ("low", "/a/b/c", 1),
        ("middle", "/a", 50),
        ("longer", "/a/b", 50),
        ("twin-2", "/twin", 70),
        ("twin-1", "/tw*", 70),
        ("top", "/a/top", 1000),
        ("nothing", "/a/b/never", 0),
    ] {
        let upstream = Upstream::start(id).await;
        let kind = if pattern.ends_with('*') { "glob" } else { "prefix" };
        let fields = json!({ "path_pattern": pattern, "priority": priority, "match": kind });
        daemon.route(route(id, "a.test", &upstream.url(), fields)).await;
    }
    for (path, expected) in [
        ("/a/x", "middle"),
        ("/a/b/c", "longer"),
        ("/a/top", "top"),
        ("/a/b/never", "longer"),
        ("/twin", "twin-2"),
        ("/other", "main"),
    ] {
        assert_eq!(who(&plain(daemon.http, get("a.test", path)).await), expected, "{path}");
    }
}

#[tokio::test]
async fn methods_and_headers_decide_with_the_path() {
    let daemon = Daemon::start();
    let main = Upstream::start("main").await;
    daemon.host("a.test", &main.url(), json!({})).await;
    for (id, fields) in [
        ("writes", json!({ "methods": ["POST", "PUT"] })),
        ("beta", json!({ "headers": [{ "name": "X-Version", "equals": "beta" }], "priority": 90 })),
        ("mobile", json!({ "headers": [{ "name": "user-agent", "matches": ".*Mobile.*" }], "priority": 80 })),
        (
            "both",
            json!({ "headers": [{ "name": "x-one", "present": true }, { "name": "x-two", "present": false }], "priority": 70 }),
        ),
        ("every", json!({ "path_pattern": "/every", "methods": ["*"] })),
    ] {
        let upstream = Upstream::start(id).await;
        let mut whole = json!({ "path_pattern": "/x" });
        whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        daemon.route(route(id, "a.test", &upstream.url(), whole)).await;
    }
    for (method, path, headers, expected) in [
        ("GET", "/x", &[][..], "main"),
        ("POST", "/x", &[], "writes"),
        ("PUT", "/x/y", &[], "writes"),
        ("DELETE", "/x", &[], "main"),
        ("DELETE", "/every", &[], "every"),
        ("GET", "/x", &[("x-version", "beta")], "beta"),
        ("GET", "/x", &[("x-version", "beta2")], "main"),
        ("POST", "/x", &[("x-version", "Beta")], "writes"),
        ("GET", "/x", &[("user-agent", "A Mobile browser")], "mobile"),
        ("GET", "/x", &[("user-agent", "a mobile browser")], "main"),
        ("GET", "/x", &[("x-one", "")], "both"),
        ("GET", "/x", &[("x-one", "1"), ("x-two", "2")], "main"),
        ("GET", "/y", &[("x-version", "beta")], "main"),
    ] {
        let answer = plain(daemon.http, ask(method, "a.test", path, headers)).await;
        assert_eq!(who(&answer), expected, "{method} {path} {headers:?}");
    }
}

#[tokio::test]
async fn a_host_chooses_among_routes_by_its_mode() {
    let daemon = Daemon::start();
    let (main, global) = (Upstream::start("main").await, Upstream::start("global").await);
    let own = Upstream::start("own").await;
    for id in ["g1", "g2"] {
        let target = global.url();
        daemon.route(json!({ "route_id": id, "path_pattern": format!("/{id}"), "target_type": "url", "target_value": target })).await;
    }
    for host in ["all.test", "none.test", "selective.test", "denies.test", "other.test"] {
        daemon.host(host, &main.url(), json!({})).await;
    }
    let hosts = json!({ "path_pattern": "/own", "proxy_hostnames": ["all.test", "none.test", "selective.test", "denies.test"] });
    daemon.route(route("own", "", &own.url(), hosts)).await;
    daemon.change("none.test", json!({ "route_mode": "none" })).await;
    daemon
        .change("selective.test", json!({ "route_mode": "selective", "enabled_routes": ["g2", "own"] }))
        .await;
    daemon.change("denies.test", json!({ "disabled_routes": ["g2", "own"] })).await;
    let check = async |expected: &[(&str, [&str; 3])]| {
        for (host, upstreams) in expected {
            for (path, upstream) in ["/g1", "/g2", "/own"].iter().zip(upstreams) {
                assert_eq!(who(&plain(daemon.http, get(host, path)).await), *upstream, "{host}{path}");
            }
        }
    };
    check(&[
        ("all.test", ["global", "global", "own"]),
        ("none.test", ["main", "main", "main"]),
        ("selective.test", ["main", "global", "own"]),
        ("denies.test", ["global", "main", "main"]),
        ("other.test", ["global", "global", "main"]),
    ])
    .await;
    daemon.run(&["route", "disable", "g2"]);
    daemon.run(&["route", "disable", "own"]);
    check(&[("all.test", ["global", "main", "main"]), ("selective.test", ["main", "main", "main"])]).await;
    daemon.run(&["route", "enable", "g2"]);
    daemon.run(&["route", "delete", "g1"]);
    check(&[("all.test", ["main", "global", "main"]), ("selective.test", ["main", "global", "main"])]).await;
}

#[tokio::test]
async fn every_kind_of_target_is_reached() {
    let daemon = Daemon::start();
    let (main, other) = (Upstream::start("main").await, Upstream::start("other").await);
    daemon.host("a.test", &main.url(), json!({})).await;
    daemon.host("b.test", &other.url(), json!({ "upstreams": [main.url()] })).await;
    daemon
        .api(
            Method::POST,
            "/services/external",
            json!({ "service_name": "billing", "target_url": other.url() }),
        )
        .await;
    for (kind, value) in [
        ("url", json!(format!("{}/base", other.url()))),
        ("service", json!("billing")),
        ("hostname", json!("b.test")),
        ("port", json!(other.address.port())),
        ("builtin", json!("echo")),
    ] {
        let more = json!({ "target_type": kind, "target_value": value, "path_pattern": format!("/{kind}") });
        daemon.route(route(kind, "a.test", "", more)).await;
        let answer = plain(daemon.http, get("a.test", &format!("/{kind}/x?y=z"))).await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}");
        let seen = answer.json();
        let at = if kind == "url" { "/base/url/x?y=z".to_owned() } else { format!("/{kind}/x?y=z") };
        if kind == "builtin" {
            assert_eq!((&seen["path"], &seen["query"]), (&json!("/builtin/x"), &json!("y=z")));
        } else {
            assert_eq!((&seen["upstream"], &seen["uri"]), (&json!("other"), &json!(at)));
        }
    }
    // A target that was switched off later is told; the host's own does not step in.
    daemon.change("b.test", json!({ "enabled": false })).await;
    let answer = plain(daemon.http, get("a.test", "/hostname")).await;
    assert_eq!((answer.status.as_u16(), who(&answer)), (503, "no_target".to_owned()));
    // Nobody makes a route to what is not there.
    for (kind, value) in [
        ("service", "nobody"),
        ("hostname", "nobody.test"),
        ("builtin", "shell"),
        ("port", "0"),
        ("url", "ftp://x"),
    ] {
        let more = json!({ "target_type": kind, "target_value": value, "path_pattern": "/bad" });
        let refused = daemon.ask(Method::POST, "/routes/", &route("bad", "a.test", "", more)).await;
        assert!(refused.status.is_client_error(), "{kind} {value}: {refused:?}");
        assert!(String::from_utf8_lossy(&refused.body).contains("target_value"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_rewrite_changes_the_path_and_nothing_else() {
    let daemon = Daemon::start();
    let main = Upstream::start("main").await;
    daemon.host("a.test", &main.url(), json!({})).await;
    for (id, pattern, rewrite) in [
        ("strip", "/strip/it", json!({ "strip_prefix": "/strip/it" })),
        ("part", "/part/of/it", json!({ "strip_prefix": "/part" })),
        ("replace", "/old", json!({ "replace_prefix": "/new/base" })),
    ] {
        daemon
            .route(route(id, "a.test", &main.url(), json!({ "path_pattern": pattern, "rewrite": rewrite })))
            .await;
    }
    for (path, expected) in [
        ("/strip/it/a/b?c=%2F", "/a/b?c=%2F"),
        ("/strip/it", "/"),
        ("/strip/it?x", "/?x"),
        ("/strip/items", "/strip/items"),
        ("/part/of/it/x", "/of/it/x"),
        ("/old/%C3%BC", "/new/base/%C3%BC"),
        ("/old", "/new/base"),
        ("/older", "/older"),
    ] {
        assert_eq!(plain(daemon.http, get("a.test", path)).await.json()["uri"], expected, "{path}");
    }
}

#[tokio::test]
async fn a_route_has_other_rules_of_access_only_where_it_says_so() {
    let daemon = Daemon::start();
    let main = Upstream::start("main").await;
    let users = json!({ "auth_enabled": true, "auth_required_users": ["service:member"] });
    daemon.host("closed.test", &main.url(), users).await;
    daemon.host("open.test", &main.url(), json!({ "auth_required_users": ["service:member"] })).await;
    for (id, auth, overrides) in [
        ("plain", Value::Null, false),
        ("ignored", json!({ "auth_type": "none" }), false),
        ("public", json!({ "auth_type": "none" }), true),
        ("bearer", json!({ "auth_type": "bearer" }), true),
        ("guests", json!({ "auth_type": "bearer", "allowed_users": ["service:guest"] }), true),
        ("nobody", json!({ "auth_type": "inherit", "allowed_users": [] }), true),
    ] {
        let more = json!({
            "path_pattern": format!("/{id}"), "auth_config": auth, "override_proxy_auth": overrides,
            "proxy_hostnames": ["closed.test", "open.test"],
        });
        daemon.route(route(id, "", &main.url(), more)).await;
    }
    for (host, path, nobody, member, guest) in [
        ("closed.test", "/", 401, 200, 403),
        ("closed.test", "/plain", 401, 200, 403),
        ("closed.test", "/ignored", 401, 200, 403),
        ("closed.test", "/public/x", 200, 200, 200),
        ("closed.test", "/publicity", 401, 200, 403),
        ("closed.test", "/public/../plain", 401, 200, 403),
        ("closed.test", "/bearer", 401, 200, 403),
        ("closed.test", "/guests", 401, 403, 200),
        ("closed.test", "/nobody", 401, 403, 403),
        ("open.test", "/", 200, 200, 200),
        ("open.test", "/ignored", 200, 200, 200),
        ("open.test", "/bearer", 401, 200, 403),
        ("open.test", "/guests", 401, 403, 200),
        ("open.test", "/nobody", 200, 200, 200),
    ] {
        for (name, expected) in [("", nobody), ("member", member), ("guest", guest)] {
            let request = match name {
                "" => get(host, path),
                name => get_as(host, path, &token(&daemon, name, host).await),
            };
            assert_eq!(secure(daemon.https, request).await.status, expected, "{host}{path} as {name:?}");
        }
    }
}

/// A fresh token for a host: none is shown twice.
async fn token(daemon: &Daemon, name: &str, host: &str) -> String {
    let path = format!("/tokens/{name}");
    if daemon.ask(Method::GET, &path, &Value::Null).await.status.is_success() {
        daemon.api(Method::DELETE, &path, Value::Null).await;
    }
    daemon.token(name, host).await
}

#[tokio::test]
async fn explain_tells_what_then_happens() {
    let daemon = Daemon::start();
    let (main, api, next) =
        (Upstream::start("main").await, Upstream::start("api").await, Upstream::start("next").await);
    daemon.host("a.test", &main.url(), json!({ "disabled_routes": [] })).await;
    daemon.host("*.w.test", &main.url(), json!({ "auth_enabled": true })).await;
    daemon.host("off.test", &main.url(), json!({ "enabled": false })).await;
    let rewrite =
        json!({ "path_pattern": "/api", "rewrite": { "strip_prefix": "/api" }, "methods": ["GET"] });
    daemon.route(route("api", "a.test", &api.url(), rewrite)).await;
    let beta =
        json!({ "path_pattern": "/api", "headers": [{ "name": "x-beta", "present": true }], "priority": 90 });
    daemon.route(route("next", "a.test", &next.url(), beta)).await;
    for (host, path, method, headers, decision, route_id, status) in [
        ("a.test", "/", "GET", &[][..], "proxy", None, 200),
        ("a.test", "/api/x", "GET", &[], "route", Some("api"), 200),
        ("a.test", "/api/x", "POST", &[], "proxy", None, 200),
        ("a.test", "/api/x", "POST", &[("x-beta", "1")], "route", Some("next"), 200),
        ("x.w.test", "/", "GET", &[], "proxy", None, 401),
        ("off.test", "/", "GET", &[], "disabled", None, 503),
        ("nobody.test", "/", "GET", &[], "no_such_host", None, 404),
    ] {
        let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let mut args = vec!["route", "explain", host, path, method];
        args.extend(lines.iter().flat_map(|line| ["-H", line.as_str()]));
        let told = daemon.run(&args);
        let case = format!("{method} {host}{path} {headers:?}: {told:#}");
        assert_eq!(
            (told["decision"].as_str(), told["route_id"].as_str()),
            (Some(decision), route_id),
            "{case}"
        );
        let answer = plain(daemon.http, ask(method, host, path, headers)).await;
        assert_eq!(answer.status, status, "{case}");
        assert!(!told["reasons"].as_array().unwrap().is_empty(), "{case}");
        if status == 200 {
            assert_eq!(answer.json()["uri"], told["upstream_path"], "{case}");
            let upstream =
                [&main, &api, &next].into_iter().find(|upstream| told["upstream"] == upstream.url());
            let name = answer.json()["upstream"].clone();
            let expected = match upstream.map(|upstream| upstream.address) {
                Some(address) if address == api.address => "api",
                Some(address) if address == next.address => "next",
                _ => "main",
            };
            assert_eq!(name, expected, "{case}");
            let record =
                daemon.record(&format!("trace_id={}", answer.header("x-correlation-id")), |_| true).await;
            assert_eq!(record["route_id"].as_str(), route_id, "{case}");
        }
        // Whoever has to pass a check is told so.
        assert_eq!(told["checks"].as_array().unwrap().is_empty(), status != 401, "{case}");
    }
}

#[tokio::test]
async fn a_path_that_could_step_over_a_route_is_refused() {
    let daemon = Daemon::start();
    let (main, admin) = (Upstream::start("main").await, Upstream::start("admin").await);
    daemon.host("a.test", &main.url(), json!({})).await;
    daemon.route(route("admin", "a.test", &admin.url(), json!({ "path_pattern": "/admin" }))).await;
    for (path, expected) in [
        ("/admin", "admin"),
        ("/x/../admin", "admin"),
        ("/%61dmin", "admin"),
        ("/./admin", "admin"),
        ("//admin", "ambiguous_path"),
        ("/admin;x", "ambiguous_path"),
        ("/%2Fadmin", "invalid_path"),
        ("/x;y", "main"),
    ] {
        assert_eq!(who(&plain(daemon.http, get("a.test", path)).await), expected, "{path}");
    }
}
