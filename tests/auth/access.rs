//! Scopes, lists, modes, and what the upstream is told.

use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::support::client::{self, Answer, get, get_as};
use super::support::issuer::{at, with};
use super::support::sockets;
use super::{CHALLENGE, HOST, RESOURCE, Site, claims};

#[tokio::test]
async fn a_missing_scope_is_403_and_the_challenge_names_all_that_are_needed() {
    let site = Site::start(json!({
        "auth_scope_required": "read",
        "auth_scope_rules": [
            { "path": "/items", "methods": ["POST", "DELETE"], "scopes": ["write", "items"] },
            { "path": "/admin", "scopes": ["manage"] },
        ],
    }))
    .await;
    let auth = json!({ "auth_type": "inherit", "required_scopes": ["reports", "export"] }).to_string();
    site.daemon.run(&[
        "route",
        "create",
        "/reports",
        "url",
        &site.upstream.url(),
        "--scope=proxy",
        &format!("--proxy-hostnames={HOST}"),
        "--override-proxy-auth=true",
        &format!("--auth-config={auth}"),
    ]);
    for (method, path, scopes, missing) in [
        ("GET", "/", "read", None),
        ("GET", "/", "write", Some("read")),
        ("GET", "/", "", Some("read")),
        ("GET", "/", "READ", Some("read")),
        ("GET", "/items/1", "read", None),
        ("POST", "/items/1", "read write", Some("read write items")),
        ("DELETE", "/items", "write items", Some("read write items")),
        ("POST", "/items", "items write read", None),
        ("POST", "/itemsx", "read", None),
        ("GET", "/admin/x", "read", Some("read manage")),
        ("GET", "/%61dmin/x", "read", Some("read manage")),
        ("GET", "/admin", "read manage", None),
        ("GET", "/reports", "read", Some("reports export")),
        ("GET", "/reports/1", "reports", Some("reports export")),
        ("GET", "/reports", "export reports", None),
    ] {
        let mut request = get_as(HOST, path, &site.token(&with(claims(), "scope", scopes)));
        *request.method_mut() = method.parse().unwrap();
        let answer = client::plain(site.daemon.http, request).await;
        let case = format!("{method} {path} with {scopes:?}");
        match missing {
            None => assert_eq!(answer.status, StatusCode::OK, "{case}"),
            Some(scopes) => {
                let expected = format!(
                    r#"{CHALLENGE}, error="insufficient_scope", error_description="The access token lacks a scope", scope="{scopes}""#
                );
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{case}");
                assert_eq!(answer.header("www-authenticate"), expected, "{case}");
                assert_eq!(answer.json()["code"], "insufficient_scope", "{case}");
            }
        }
    }
    // Without a token, the challenge names what this very request needs (RFC 6750, section 3).
    for (method, path, scopes) in
        [("GET", "/", "read"), ("POST", "/items", "read write items"), ("GET", "/reports", "reports export")]
    {
        let mut request = get(HOST, path);
        *request.method_mut() = method.parse().unwrap();
        let answer = client::plain(site.daemon.http, request).await;
        let expected = format!(r#"{CHALLENGE}, scope="{scopes}""#);
        assert_eq!(answer.header("www-authenticate"), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn who_was_taken_off_a_list_is_not_sent_for_another_token() {
    let site = Site::own().await;
    let fields = json!({
        "auth_enabled": true, "auth_required_users": ["alice"], "auth_scope_required": "read",
        "oauth_scope_users": { "write": ["bob"] }, "auth_scope_rules": [{ "path": "/w", "scopes": ["write"] }],
    });
    site.daemon.proxy(HOST, &site.upstream.url(), &fields);
    let ask =
        async |path: &str, scope: &str| site.get_as(path, &site.own_token(&[("scope", json!(scope))])).await;
    assert_eq!(ask("/", "read").await.status, StatusCode::OK);
    let answer = ask("/", "").await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (StatusCode::FORBIDDEN, &json!("insufficient_scope"))
    );
    // The scope is bob's alone.
    for scope in ["read", "read write"] {
        let answer = ask("/w", scope).await;
        assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")));
        assert_eq!(answer.header("www-authenticate"), "", "{scope}");
    }
    site.daemon.run(&["proxy", "update", HOST, "--auth-required-users=bob"]);
    for scope in ["read", "read write", ""] {
        expect_list(&ask("/", scope).await, Some("User"), scope);
    }
}

#[tokio::test]
async fn the_realm_is_that_of_the_host_or_the_authorization_server() {
    let site = Site::start(json!({ "auth_realm": "Orders" })).await;
    assert!(site.get("/").await.header("www-authenticate").starts_with(r#"Bearer realm="Orders", "#));
    site.daemon.run(&["proxy", "update", HOST, "--auth-realm", "null"]);
    assert!(site.get("/").await.header("www-authenticate").starts_with(r#"Bearer realm="auth.localhost", "#));
}

#[tokio::test]
async fn every_list_that_a_host_has_must_let_the_caller_in() {
    let site = Site::own().await;
    let user = |name: &str| vec![("username", json!(name))];
    let email = |text: &str| vec![("email", json!(text))];
    let groups = |list: Value| vec![("groups", list)];
    let same = Vec::new;
    let users = json!(["aLICE", "github:99", "bob"]);
    for (number, (fields, cases)) in [
        (
            json!({ "auth_required_users": users }),
            vec![
                (same(), None),
                (user("ALICE"), None),
                (user("bob"), None),
                (user("alic"), Some("User")),
                (user("alicee"), Some("User")),
                (vec![("username", Value::Null), ("sub", json!("99"))], None),
                (vec![("username", json!("99")), ("sub", json!("7"))], Some("User")),
            ],
        ),
        (json!({ "auth_required_users": ["*"] }), vec![(user("anybody"), None), (same(), None)]),
        (json!({ "auth_required_users": [] }), vec![(same(), Some("User"))]),
        // No list: who is on the deployment's lists, and those are empty here.
        (json!({}), vec![(same(), Some("User"))]),
        (json!({ "oauth_user_users": ["alice"] }), vec![(same(), None), (user("bob"), Some("User"))]),
        (
            json!({ "auth_required_users": ["*"], "auth_required_emails": ["*@example.com", "root@other.test"] }),
            vec![
                (same(), None),
                (email("ROOT@other.test"), None),
                (email("x@other.test"), Some("Email")),
                (email("a@example.com.evil.test"), Some("Email")),
                (email("a@notexample.com"), Some("Email")),
                (email("a@evil.test@example.com"), Some("Email")),
                (vec![("email", Value::Null)], Some("Email")),
                (vec![("email_verified", json!(false))], Some("Email")),
            ],
        ),
        (
            json!({ "auth_required_users": ["*"], "auth_required_groups": ["ops", "root"] }),
            vec![
                (same(), None),
                (groups(json!(["root"])), None),
                (groups(json!(["staff"])), Some("Group")),
                (groups(json!(["OPS"])), None),
                (groups(json!(["ops2"])), Some("Group")),
                (groups(Value::Null), Some("Group")),
            ],
        ),
        (
            json!({ "auth_required_users": ["alice"], "auth_required_groups": ["ops"] }),
            vec![(same(), None), (user("bob"), Some("User")), (groups(json!([])), Some("Group"))],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let host = format!("host{number}.test");
        let mut all = json!({ "auth_enabled": true, "auth_allowed_audiences": [RESOURCE] });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        site.daemon.proxy(&host, &site.upstream.url(), &all);
        for (changes, refused) in cases {
            let token = site.own_token(&changes);
            let answer = client::plain(site.daemon.http, get_as(&host, "/", &token)).await;
            expect_list(&answer, refused, &format!("{fields} {changes:?}"));
        }
    }
}

fn expect_list(answer: &Answer, refused: Option<&str>, case: &str) {
    match refused {
        None => assert_eq!(answer.status, StatusCode::OK, "{case}"),
        Some(list) => {
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{case}");
            assert_eq!(answer.json()["detail"], format!("{list} not authorized"), "{case}");
            // A challenge would send the client into a login that can't help it.
            assert_eq!(answer.header("www-authenticate"), "", "{case}");
        }
    }
}

#[tokio::test]
async fn users_of_another_issuer_are_named_with_it() {
    let site = Site::start(json!({ "auth_required_users": ["alice", "https://idp.test/Bob"] })).await;
    site.host(
        "all.test",
        &json!({
            "auth_required_users": ["https://idp.test/*"], "auth_allowed_audiences": [RESOURCE],
            "auth_required_emails": ["*@example.com"],
        }),
    );
    let token = |name: &str| site.token(&with(claims(), "preferred_username", name));
    for (name, refused) in [("Bob", None), ("alice", Some("User")), ("bob", Some("User"))] {
        expect_list(&site.get_as("/", &token(name)).await, refused, name);
    }
    for (what, claims, refused) in [
        ("anybody", claims(), None),
        ("an unverified address", with(claims(), "email_verified", false), Some("Email")),
        (
            "an address that nobody says is verified",
            with(claims(), "email_verified", Value::Null),
            Some("Email"),
        ),
    ] {
        let answer = client::plain(site.daemon.http, get_as("all.test", "/", &site.token(&claims))).await;
        expect_list(&answer, refused, what);
    }
}

#[tokio::test]
async fn a_list_of_networks_limits_who_may_connect_with_and_without_a_token() {
    let site = Site::own().await;
    let networks = json!(["192.0.2.0/24", "2001:db8::/32"]);
    let url = site.upstream.url();
    site.daemon.proxy("open.test", &url, &json!({ "allowed_networks": networks }));
    site.daemon.proxy("nobody.test", &url, &json!({ "allowed_networks": [] }));
    site.daemon.proxy(
        HOST,
        &url,
        &json!({
            "auth_enabled": true, "auth_required_users": ["*"], "allowed_networks": networks,
        }),
    );
    let token = site.own_token(&[]);
    for (host, client_address, status) in [
        ("open.test", "192.0.2.9", 200),
        ("open.test", "2001:db8::9", 200),
        ("open.test", "::ffff:192.0.2.9", 200),
        ("open.test", "192.0.3.9", 403),
        // From right to left: what the client itself wrote does not count.
        ("open.test", "192.0.2.9, 198.51.100.7", 403),
        ("open.test", "198.51.100.7, 192.0.2.9", 200),
        ("nobody.test", "192.0.2.9", 403),
        (HOST, "192.0.2.9", 200),
        (HOST, "198.51.100.7", 403),
    ] {
        let mut request = if host == HOST { get_as(host, "/", &token) } else { get(host, "/") };
        request.headers_mut().insert("x-forwarded-for", client_address.parse().unwrap());
        let answer = client::plain(site.daemon.http, request).await;
        assert_eq!(answer.status, status, "{host} {client_address}");
    }
    assert_eq!(client::plain(site.daemon.http, get("open.test", "/")).await.status, 403, "the proxy itself");
}

#[tokio::test]
async fn passthrough_lets_everybody_in_and_tells_the_upstream_only_who_is_known() {
    let site = Site::start(json!({ "auth_mode": "passthrough" })).await;
    let expired = site.token(&with(claims(), "exp", at(-600)));
    let spoofed = [("x-auth-user", "root"), ("x-auth-scopes", "admin")];
    for (token, user) in
        [(None, None), (Some(expired), None), (Some(site.token(&claims())), Some("https://idp.test/alice"))]
    {
        let mut request = token.map_or_else(|| get(HOST, "/"), |token| get_as(HOST, "/", &token));
        for (name, value) in spoofed {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = client::plain(site.daemon.http, request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.seen("x-auth-user"), Vec::from_iter(user));
        assert_eq!(answer.seen("authorization"), Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_upstream_is_told_who_calls_and_gets_no_credentials() {
    let site = Site::start(json!({})).await;
    let urls = site.upstream.url();
    let issuer = json!([{ "issuer": super::IDP, "jwks": super::jwks([&site.rsa]) }]);
    let host = |fields: Value| {
        with(with(fields, "trusted_issuers", issuer.clone()), "auth_allowed_audiences", json!([RESOURCE]))
    };
    let base = json!({ "auth_enabled": true, "auth_required_users": ["*"] });
    let prefixed = with(with(base.clone(), "auth_header_prefix", "X-Who-"), "forward_authorization", true);
    site.daemon.proxy("prefix.test", &urls, &host(prefixed));
    site.daemon.proxy("quiet.test", &urls, &host(with(base, "auth_pass_headers", false)));
    let token = site.token(&claims());
    let send = async |host: &str| {
        let mut request = get_as(host, "/", &token);
        for (name, value) in [
            ("x-auth-user", "root"),
            ("X-AUTH-Email", "root@evil.test"),
            ("x_auth_user", "root"),
            ("x-auth.user", "root"),
            ("x-auth-anything", "root"),
            ("x-who-user", "root"),
            ("x_who_user", "root"),
            ("x-forwarded-user", "root"),
            ("remote-user", "root"),
            ("cookie", "a=1; unified_auth_token=secret; b=2"),
        ] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        client::plain(site.daemon.http, request).await
    };
    let answer = send(HOST).await;
    for (name, value) in [
        // Another issuer's `alice` is not ours.
        ("user", "https://idp.test/alice"),
        ("issuer", "https://idp.test"),
        ("scopes", ""),
        ("email", "alice@example.com"),
        ("client-id", "cli"),
        ("user-id", "https://idp.test/42"),
        ("user-name", "Alice A"),
        ("groups", "staff,ops"),
        ("anything", ""),
    ] {
        let expected: Vec<_> = Some(value).filter(|value| !value.is_empty()).into_iter().collect();
        assert_eq!(answer.seen(&format!("x-auth-{name}")), expected, "{name}");
    }
    for name in
        ["authorization", "x_auth_user", "x-auth.user", "x_who_user", "x-forwarded-user", "remote-user"]
    {
        assert_eq!(answer.seen(name), Vec::<String>::new(), "{name}");
    }
    assert_eq!(answer.seen("cookie"), ["a=1; b=2"]);

    let answer = send("prefix.test").await;
    assert_eq!(answer.seen("x-who-user"), ["https://idp.test/alice"]);
    assert_eq!(answer.seen("x-auth-user"), Vec::<String>::new());
    assert_eq!(answer.seen("authorization"), [format!("Bearer {token}")]);

    let answer = send("quiet.test").await;
    assert_eq!(answer.seen("x-auth-user"), Vec::<String>::new());
}

#[tokio::test]
async fn a_tunnel_ends_when_its_issuer_is_trusted_no_more() {
    let site = Site::start(json!({})).await;
    let mut request = sockets::handshake_request(HOST, "/ws");
    let token = format!("Bearer {}", site.token(&claims()));
    request.headers_mut().insert("authorization", token.parse().unwrap());
    let stream = TcpStream::connect(site.daemon.http).await.unwrap();
    let mut socket = sockets::switched(stream, request).await;
    socket.echo(Message::text("hello")).await;
    site.daemon.change(HOST, json!({ "auth_realm": "elsewhere" })).await;
    assert_eq!(socket.echo(Message::text("still")).await, Message::text("still"));
    site.daemon.change(HOST, json!({ "trusted_issuers": [] })).await;
    while socket.next().await.is_some() {}
}
