//! What the issuer's host and the hosts that act for it answer over real sockets: documents, preflights, redirects,
//! cookies; and that what one host gives is nothing on another.

use http::{Method, StatusCode};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::world::{HOST, ISSUER, PORT, Tokens, World, claims};
use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::sockets;
use crate::support::visitor::{Visitor, form_of};

const COOKIE: &str = "__Host-unified_auth_token";
const STATE: &str = "__Host-portcullis-state";
const WIKI: &str = "wiki.localhost";
const WELL_KNOWN: [&str; 2] =
    ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];

/// What every cookie of ours ends with.
const ATTRIBUTES: &str = "; Path=/; Secure; HttpOnly; SameSite=Lax";

async fn ask(world: &World, method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    world.visitor().send(method, url, headers, String::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_any_origin_may_use_the_endpoints_of_clients_and_no_other() {
    let world = World::new().await;
    let preflight = async |host: &str, path: &str, method: &str| {
        let headers = [
            ("origin", "https://web-client.example"),
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization, content-type, mcp-protocol-version"),
        ];
        ask(&world, Method::OPTIONS, &world.url(host, path), &headers).await
    };
    for host in [ISSUER, HOST] {
        for (path, method) in [
            ("/token", "POST"),
            ("/register", "POST"),
            (WELL_KNOWN[0], "GET"),
            (WELL_KNOWN[1], "GET"),
            ("/.well-known/oauth-authorization-server/mcp", "GET"),
        ] {
            if host == ISSUER && path.ends_with("/mcp") {
                continue;
            }
            let answer = preflight(host, path, method).await;
            assert_eq!(answer.status, StatusCode::NO_CONTENT, "{host}{path}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{host}{path}");
            assert!(answer.header("access-control-allow-methods").contains(method), "{host}{path}");
            let allowed = answer.header("access-control-allow-headers").to_ascii_lowercase();
            assert!(
                allowed.contains("mcp-protocol-version") && allowed.contains("content-type"),
                "{allowed}"
            );
            assert!(method == "GET" || allowed.contains("authorization"), "{allowed}");
            assert_eq!(answer.header("access-control-allow-credentials"), "", "{host}{path}");
        }
        // An error is for the page as well: otherwise it sees a failed connection.
        let unknown = [("grant_type", "refresh_token"), ("client_id", "nobody"), ("refresh_token", "x")];
        let origin = [("origin", "https://web-client.example")];
        let url = world.url(host, "/token");
        let refused = world.visitor().send(Method::POST, &url, &origin, form_of(unknown)).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]),
            (StatusCode::UNAUTHORIZED, &json!("invalid_client"))
        );
        assert_eq!(refused.header("access-control-allow-origin"), "*");
        assert!(refused.header("access-control-expose-headers").contains("WWW-Authenticate"));
        // What a person uses is for no page of others.
        let page = preflight(host, "/authorize", "GET").await;
        assert_eq!(page.header("access-control-allow-origin"), "", "{host}");
    }
    for path in ["/jwks", "/revoke", "/introspect", "/device/code", "/userinfo"] {
        assert_eq!(
            preflight(ISSUER, path, "POST").await.header("access-control-allow-origin"),
            "*",
            "{path}"
        );
    }
    for path in ["/consent", "/login", "/logout", "/callback", "/device"] {
        let answer = preflight(ISSUER, path, "POST").await;
        assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
    }
    // The challenge of the resource itself can be read by pages that are allowed to use it.
    world.daemon.change(HOST, json!({ "resource_allowed_origins": ["https://web-client.example"] })).await;
    let origin = [("origin", "https://web-client.example"), ("accept", "application/json")];
    eventually("the origin is allowed", async || {
        let answer = ask(&world, Method::POST, &world.url(HOST, "/mcp"), &origin).await;
        let exposed = answer.header("access-control-expose-headers").to_ascii_lowercase();
        let readable = answer.status == StatusCode::UNAUTHORIZED
            && answer.header("access-control-allow-origin") == "https://web-client.example"
            && exposed.contains("www-authenticate");
        readable.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_host_names_the_one_issuer_whatever_it_is_called() {
    let world = World::new().await;
    world.protect(WIKI, json!({ "resource_endpoint": "/wiki/mcp" })).await;
    let issuer = format!("https://{ISSUER}:{PORT}");
    let document = async |host: &str, path: &str, headers: &[(&str, &str)]| {
        let answer = ask(&world, Method::GET, &world.url(host, path), headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}{path}");
        answer.json()
    };
    for known in WELL_KNOWN {
        let own = document(ISSUER, known, &[]).await;
        assert_eq!(own["issuer"], issuer);
        for (host, inner) in [(HOST, "/mcp"), (WIKI, "/wiki/mcp")] {
            for path in [known.to_owned(), format!("{known}{inner}"), format!("{inner}{known}")] {
                assert_eq!(document(host, &path, &[]).await, own, "{host}{path}");
            }
            // What a client says of itself makes no other issuer.
            let lies = [
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-proto", "http"),
                ("forwarded", "host=evil.example;proto=http"),
                ("x-original-host", "evil.example"),
            ];
            assert_eq!(document(host, known, &lies).await, own, "{host}");
        }
    }
    for (host, inner) in [(HOST, "/mcp"), (WIKI, "/wiki/mcp")] {
        for path in [
            "/.well-known/oauth-protected-resource".to_owned(),
            format!("/.well-known/oauth-protected-resource{inner}"),
        ] {
            let resource = document(host, &path, &[]).await;
            assert_eq!(resource["authorization_servers"], json!([issuer]), "{host}{path}");
            assert_eq!(resource["resource"], world.url(host, inner), "{host}{path}");
        }
    }
    // A host that is none of ours is nobody's issuer.
    for header in ["evil.example:8443", "auth.localhost.evil.example"] {
        let request = client::get(header, WELL_KNOWN[0]);
        let stream = client::handshake(world.daemon.https, ISSUER, &[b"http/1.1"]).await.unwrap();
        let answer = client::read(client::open(stream, request).await).await;
        assert!(answer.status.is_client_error(), "{header}: {}", answer.status);
        assert!(!String::from_utf8_lossy(&answer.body).contains("authorization_endpoint"), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authorization_that_begins_on_a_host_goes_on_at_the_issuer_for_that_host() {
    let world = World::new().await;
    world.protect(WIKI, json!({})).await;
    let at_issuer = world.at_issuer("/authorize");
    let location = async |query: &str| {
        let answer = ask(&world, Method::GET, &world.url(HOST, &format!("/authorize{query}")), &[]).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{query}");
        assert!(answer.headers.get("set-cookie").is_none(), "the issuer has the cookies");
        answer.header("location").to_owned()
    };
    let own = "resource=https%3A%2F%2Fapp%2Elocalhost%3A8443%2Fmcp";
    for (query, expected) in [
        ("?client_id=c&state=a%20b%26c", format!("{at_issuer}?client_id=c&state=a%20b%26c&{own}")),
        ("?", format!("{at_issuer}?{own}")),
        ("", format!("{at_issuer}?{own}")),
        // One that the client names itself is for the issuer to judge.
        (
            "?resource=https%3A%2F%2Fother.example",
            format!("{at_issuer}?resource=https%3A%2F%2Fother.example"),
        ),
    ] {
        assert_eq!(location(query).await, expected, "{query:?}");
    }
    let form = form_of([("client_id", "c")]);
    let post = world.visitor().send(Method::POST, &world.url(HOST, "/authorize"), &[], form).await;
    assert_eq!((post.status, post.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    // All the way, on a host other than the one of the client's other requests.
    let client = world.register(json!({})).await;
    let url = world.authorize_url(&client, &[("resource", "")]).replace(ISSUER, WIKI);
    let back = world.authorize(&mut world.visitor(), &url, "alice").await;
    let tokens = Tokens::of(&world.redeem(&client, &back.param("code").expect("a code")).await);
    assert_eq!(claims(&tokens.access)["aud"], json!([world.resource(WIKI)]));
    assert_eq!(world.get_as(WIKI, "/mcp", &tokens.access).await.status, StatusCode::OK);
    assert_eq!(world.get_as(HOST, "/mcp", &tokens.access).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_two_hosts_has_on_each_what_that_host_gives() {
    let world = World::new().await;
    world.daemon.change(HOST, json!({ "oauth_admin_users": ["alice"] })).await;
    let rules =
        json!([{ "path": "/admin", "scopes": ["admin"] }, { "path": "/write", "scopes": ["mcp:write"] }]);
    world.protect(WIKI, json!({ "oauth_mcp_users": ["alice"], "auth_scope_rules": rules })).await;
    world.protect("third.localhost", json!({ "oauth_admin_users": ["alice"] })).await;
    let client = world.register(json!({})).await;
    let (app, wiki) = (world.resource(HOST), world.resource(WIKI));
    let wanted = [("resource", app.as_str()), ("resource", &wiki), ("scope", "admin mcp mcp:read")];
    let tokens = world.tokens_of(&client, "alice", &wanted).await;
    assert_eq!(claims(&tokens.access)["aud"], json!([app, wiki]));
    assert_eq!(claims(&tokens.access)["scope"], "admin mcp mcp:read");
    let scopes = async |host: &str| {
        let answer = world.get_as(host, "/", &tokens.access).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
        let mut scopes: Vec<_> = answer.seen("x-auth-scopes")[0].split(' ').map(str::to_owned).collect();
        scopes.sort();
        scopes
    };
    // `mcp` comes of `admin` on the one, and of its own list on the other, where `admin` is nothing.
    assert_eq!(scopes(HOST).await, ["admin", "mcp", "mcp:read", "user"]);
    assert_eq!(scopes(WIKI).await, ["mcp", "mcp:read"]);
    let refused = world.get_as(WIKI, "/admin", &tokens.access).await;
    // No other token would help, so none is asked for; where one would, it is.
    assert_eq!((refused.status, refused.header("www-authenticate")), (StatusCode::FORBIDDEN, ""));
    let refused = world.get_as(WIKI, "/write", &tokens.access).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.header("www-authenticate").contains(r#"error="insufficient_scope""#));
    assert_eq!(world.get_as("third.localhost", "/", &tokens.access).await.status, StatusCode::UNAUTHORIZED);
    // Off one list: the other host does not care.
    world.daemon.change(HOST, json!({ "auth_required_users": ["bob"] })).await;
    eventually("the list is in force", async || {
        (world.get_as(HOST, "/", &tokens.access).await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    assert_eq!(scopes(WIKI).await, ["mcp", "mcp:read"]);
    // A refresh yields what is left of it, for where that is.
    let next = Tokens::of(&world.refresh(&client, &tokens.refresh).await);
    assert_eq!(world.get_as(HOST, "/", &next.access).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.get_as(WIKI, "/", &next.access).await.status, StatusCode::OK);
}

/// The cookies that an answer sets.
fn cookies(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The one cookie that an answer sets, which must have exactly our attributes: its name, value and age.
fn only_cookie(answer: &Answer) -> (String, String, Option<u64>) {
    let all = cookies(answer);
    let [cookie] = all.as_slice() else { panic!("one cookie: {all:?}") };
    let start = cookie.strip_suffix(ATTRIBUTES).unwrap_or_else(|| panic!("other attributes: {cookie}"));
    let (pair, age) = start.split_once("; Max-Age=").map_or((start, None), |(pair, age)| (pair, Some(age)));
    let (name, value) = pair.split_once('=').unwrap();
    assert!(!value.contains([';', ' ', ',', '"']), "{cookie}");
    (name.to_owned(), value.to_owned(), age.map(|age| age.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cookie_is_bound_to_its_host_and_out_of_reach_for_scripts() {
    let world = World::new().await;
    let fields = json!({ "auth_mode": "redirect" });
    world.daemon.change(HOST, fields.clone()).await;
    world.protect(WIKI, fields).await;
    let navigate = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];
    let mut visitor = world.visitor();
    let begin = visitor.send(Method::GET, &world.url(HOST, "/a?b=c"), &navigate, String::new()).await;
    assert_eq!(begin.status, StatusCode::FOUND);
    let (name, state, age) = only_cookie(&begin);
    assert_eq!((name.as_str(), state.len(), age), (STATE, 43, Some(3600)));
    let login = begin.header("location").to_owned();
    assert!(
        login.starts_with(
            &world.at_issuer("/login?return_url=https%3A%2F%2Fapp.localhost%3A8443%2Fa%3Fb%3Dc")
        ),
        "{login}"
    );
    assert!(login.ends_with(&format!("&state={state}")), "{login}");
    assert!(["no-store", "no-cache"].iter().any(|word| begin.header("cache-control").contains(word)));

    let to_github = visitor.send(Method::GET, &login, &navigate, String::new()).await;
    assert!(to_github.status.is_redirection());
    let (name, _, _) = only_cookie(&to_github);
    assert!(name.starts_with("__Host-"), "{name}");
    let page = visitor.open(to_github.header("location"), "").await;
    let callback = world.at_issuer("/callback");
    let stopped = visitor.submit(&page, ("user", "alice"), &callback).await;
    let back = visitor.send(Method::GET, &stopped.url, &navigate, String::new()).await;
    assert_eq!(back.status, StatusCode::SEE_OTHER, "{}", String::from_utf8_lossy(&back.body));
    // The session of the issuer comes, the login's own cookie goes.
    for cookie in cookies(&back) {
        assert!(cookie.starts_with("__Host-") && cookie.ends_with(ATTRIBUTES), "{cookie}");
        assert!(!cookie.to_ascii_lowercase().contains("domain"), "{cookie}");
    }
    assert!(visitor.cookie(ISSUER, "__Host-portcullis-session").is_some());
    let ticket = back.header("location").to_owned();
    assert!(ticket.starts_with(&world.url(HOST, "/.portcullis/session?ticket=")), "{ticket}");
    let opened = visitor.send(Method::GET, &ticket, &navigate, String::new()).await;
    assert_eq!(
        (opened.status, opened.header("location")),
        (StatusCode::SEE_OTHER, &*world.url(HOST, "/a?b=c"))
    );
    let (name, token, age) = only_cookie(&opened);
    assert_eq!(name, COOKIE);
    let told = claims(&token);
    assert_eq!(told["aud"], json!([world.url(HOST, "/.portcullis/session")]));
    let life = told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap();
    let age = i64::try_from(age.expect("an age")).unwrap();
    assert!(age <= life && age > life - 60, "the cookie lives as long as the token: {age} {life}");
    assert!(opened.header("referrer-policy").contains("no-referrer"), "the ticket is in the address");

    // Nowhere else is it anything: not on the other host, not at the issuer, not as a bearer token.
    let elsewhere = format!("{COOKIE}={token}");
    let accept = ("accept", "application/json");
    for host in [WIKI, "localhost"] {
        let answer =
            ask(&world, Method::GET, &world.url(host, "/tokens/"), &[("cookie", &elsewhere), accept]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{host}");
    }
    for host in [HOST, WIKI, "localhost"] {
        assert_eq!(world.get_as(host, "/tokens/", &token).await.status, StatusCode::UNAUTHORIZED, "{host}");
    }
    let logout =
        visitor.send(Method::POST, &world.url(HOST, "/.portcullis/logout"), &[], String::new()).await;
    assert_eq!(cookies(&logout), [format!("{COOKIE}=; Max-Age=0{ATTRIBUTES}")]);
}

/// A browser that has signed in on the host.
async fn browser(world: &World) -> Visitor {
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/"), "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    visitor
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_changes_nothing_with_the_cookie() {
    let world = World::new().await;
    world.daemon.change(HOST, json!({ "auth_mode": "redirect" })).await;
    let mut visitor = browser(&world).await;
    let (own, other) = (format!("https://{HOST}:{PORT}"), format!("https://{WIKI}:{PORT}"));
    let url = world.url(HOST, "/delete");
    for (headers, status) in [
        (&[("origin", own.as_str())][..], 200),
        (&[("origin", own.as_str()), ("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (&[], 200),
        (&[("origin", other.as_str())], 403),
        (&[("origin", "https://app.localhost")], 403),
        (&[("origin", "http://app.localhost:8443")], 403),
        (&[("origin", "https://app.localhost:8443.evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "")], 403),
        (&[("origin", own.as_str()), ("origin", other.as_str())], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], 403),
    ] {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = visitor.send(method.clone(), &url, headers, "a=1".to_owned()).await;
            assert_eq!(answer.status, status, "{method} {headers:?}");
        }
        // What only reads is for whoever gets to see the answer to judge.
        assert_eq!(visitor.send(Method::GET, &url, headers, String::new()).await.status, 200, "{headers:?}");
    }
    let logout = world.url(HOST, "/.portcullis/logout");
    let foreign = visitor.send(Method::POST, &logout, &[("origin", other.as_str())], String::new()).await;
    assert!(foreign.status.is_client_error() && foreign.headers.get("set-cookie").is_none());

    // A WebSocket can be read by whoever opens it, so it counts as a change.
    let authority = format!("{HOST}:{PORT}");
    let cookie = format!("{COOKIE}={}", visitor.cookie(HOST, COOKIE).unwrap());
    for (origin, let_in) in [(Some(&own), true), (Some(&other), false), (None, true)] {
        let with = |mut request: http::Request<_>| {
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
            if let Some(origin) = origin {
                request.headers_mut().insert("origin", origin.parse().unwrap());
            }
            request
        };
        let stream = client::handshake(world.daemon.https, HOST, &[b"http/1.1"]).await.unwrap();
        let one = client::open(stream, with(sockets::handshake_request(&authority, "/ws"))).await;
        assert_eq!(one.status(), if let_in { 101 } else { 403 }, "{origin:?}");
        let (sender, _connection) = client::http2(world.daemon.https, HOST).await;
        let request = with(sockets::connect_request(&authority, "/ws"));
        if let_in {
            let mut socket = sockets::tunnel(sender, request).await;
            assert_eq!(socket.echo(Message::text("in")).await, Message::text("in"));
        } else {
            let mut sender = sender;
            assert_eq!(sender.send_request(request).await.unwrap().status(), 403, "{origin:?} over HTTP/2");
        }
    }
    // A bearer token is no cookie: nobody sends it along by mistake, so its origin does not matter.
    let client = world.register(json!({})).await;
    let bearer = format!("Bearer {}", world.tokens(&client).await["access_token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), ("origin", other.as_str())];
    assert_eq!(ask(&world, Method::POST, &url, &headers).await.status, StatusCode::OK);
    // And with both, the token counts: a bad one is not made good by the cookie.
    let bad = [("authorization", "Bearer none"), ("origin", own.as_str())];
    assert_eq!(visitor.send(Method::POST, &url, &bad, String::new()).await.status, StatusCode::UNAUTHORIZED);
}

/// A host that is open, but for what is protected on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_published_as_far_as_it_is_protected() {
    let world = World::new().await;
    let host = "open.localhost";
    let open = json!({ "auth_enabled": false, "auth_mode": "forward", "resource_endpoint": "/mcp" });
    world.protect(host, open).await;
    let known = world.url(host, "/.well-known/oauth-protected-resource/mcp");
    let get = async |url: &str| ask(&world, Method::GET, url, &[]).await;
    // Nobody asks for a token there, so nobody gives one.
    let document = get(&known).await.json();
    assert_eq!(document["resource"], world.resource(host), "{document}");
    assert!(document.get("authorization_servers").is_none(), "{document}");
    let server = world.url(host, WELL_KNOWN[0]);
    let is_ours = |answer: &Answer| String::from_utf8_lossy(&answer.body).contains("authorization_endpoint");
    assert!(!is_ours(&get(&server).await), "the path is the upstream's");

    let route = json!({
        "route_id": "private",
        "path_pattern": "/mcp",
        "target_type": "url",
        "target_value": "http://127.0.0.1:1",
        "scope": "proxy",
        "proxy_hostnames": [host],
        "override_proxy_auth": true,
        "auth_config": { "auth_type": "bearer", "allowed_users": ["alice"] },
    });
    world.daemon.api(Method::POST, "/routes/", route).await;
    eventually("the route is served", || async {
        (get(&world.url(host, "/mcp")).await.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    let document = get(&known).await.json();
    assert_eq!(document["authorization_servers"][0], world.at_issuer("").trim_end_matches('/'), "{document}");
    assert!(is_ours(&get(&server).await));
}
