//! What the daemon tells of requests that a host has refused, and to whom.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::forward_auth::ask;
use super::world::{HOST, PORT, World};
use crate::support::eventually;

const WIKI: &str = "wiki.localhost";
const JOBS: &str = "jobs.localhost";

/// What this is about: the events of requests, `KIND ERROR USER`, oldest first.
fn refusals(page: &Value) -> Vec<String> {
    let checks = ["token_validation", "jwt_decode", "audience_check", "scope_check", "user_check"];
    let events = page["events"].as_array().expect("a list").iter().rev();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    events
        .filter(|event| checks.iter().any(|check| event["event_type"] == *check))
        .map(|event| {
            assert_eq!((&event["success"], text(event, "trace_id").len()), (&json!(false), 32), "{event}");
            let [kind, error, user] = ["event_type", "error", "username"].map(|name| text(event, name));
            format!("{kind} {error} {user}").trim_end().to_owned()
        })
        .collect()
}

/// The refusals of a list, once there are as many as were made: requests are logged when their answer has ended.
async fn told(world: &World, path: &str, expected: &[&str]) {
    let found = async || {
        let found = refusals(&world.daemon.api(Method::GET, path, Value::Null).await);
        (found.len() >= expected.len()).then_some(found)
    };
    assert_eq!(eventually(path, found).await, expected, "{path}");
}

async fn entry(world: &World, host: &str) -> Value {
    let page = world.daemon.api(Method::GET, "/oauth/proxies", Value::Null).await;
    let all = page["proxies"].as_array().expect("a list");
    all.iter().find(|one| one["proxy_hostname"] == host).expect("the host").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_refuses_is_told_with_its_check_and_a_user_hears_of_nobody_else() {
    let world = World::with(|command| {
        command.env("OAUTH_LOCALHOST_USER_USERS", "alice,bob");
    })
    .await;
    let rules = json!([{ "path": "/ruled", "scopes": ["mcp:write"] }]);
    let both = json!({ "auth_required_users": ["alice", "bob"], "auth_scope_rules": rules });
    world.protect(WIKI, both.clone()).await;
    world.daemon.change(HOST, both).await;
    world.protect(JOBS, json!({ "auth_required_users": ["service:ci"] })).await;
    let client = world.register(json!({})).await;
    let alice = world.tokens_of(&client, "alice", &[]).await.access;
    let bob = world.tokens_of(&client, "bob", &[]).await.access;
    let wiki = world.resource(WIKI);
    let elsewhere = world.tokens_of(&client, "alice", &[("resource", &wiki)]).await.access;
    world.daemon.change(HOST, json!({ "auth_required_users": ["alice"] })).await;
    eventually("bob is off the list", async || {
        // At a path that is of no other check.
        let status = world.get_as(HOST, "/mcp", &bob).await.status;
        (status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    let before = refusals(&world.daemon.api(Method::GET, "/oauth/events", Value::Null).await).len();
    assert!(before <= 1, "only bob was refused yet, and perhaps not told of");

    for (path, token, status) in [
        ("/mcp", "", 401),
        ("/mcp", "garbage", 401),
        ("/mcp", elsewhere.as_str(), 401),
        ("/ruled", alice.as_str(), 403),
        ("/mcp", alice.as_str(), 200),
    ] {
        let answer = if token.is_empty() {
            let url = world.url(HOST, path);
            world.visitor().send(Method::GET, &url, &[], String::new()).await
        } else {
            world.get_as(HOST, path, token).await
        };
        assert_eq!(answer.status.as_u16(), status, "{path} {token}");
    }
    let of_host = [
        "user_check access_denied bob",
        "token_validation token_required",
        "jwt_decode invalid_token",
        "audience_check invalid_token alice",
        "scope_check insufficient_scope alice",
    ];
    told(&world, &format!("/oauth/events/proxy/{HOST}"), &of_host).await;
    told(&world, "/oauth/events/ip/127.0.0.1", &of_host).await;
    told(&world, "/oauth/events/user/alice", &of_host[3..]).await;
    told(&world, "/oauth/events/user/2", &of_host[..1]).await;
    told(&world, "/oauth/events?event_type=scope_check&errors=true", &of_host[4..]).await;
    let host = entry(&world, HOST).await;
    assert_eq!(host["recent_auth_failures"], 5, "{host}");

    // None of them is in the log of events: a flood of them would push out what that is for.
    let log = world.daemon.api(Method::GET, "/logs/search?log=oauth&limit=1000", Value::Null).await;
    let kinds = log["logs"].as_array().expect("a list").iter().map(|event| event["event_type"].clone());
    assert!(
        kinds.clone().count() > 0
            && kinds.clone().all(|kind| !of_host
                .iter()
                .any(|line| { line.split(' ').next().is_some_and(|check| kind == check) })),
        "{log}"
    );

    // Each user's own, by their own token.
    let api = format!("https://localhost:{PORT}");
    let user = [("resource", api.as_str()), ("scope", "user")];
    for (login, id, own) in [("alice", "1", &of_host[3..]), ("bob", "2", &of_host[..1])] {
        let token = world.tokens_of(&client, login, &user).await.access;
        let answer = world.get_as("localhost", &format!("/oauth/events/user/{login}"), &token).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        let page = answer.json();
        assert_eq!(refusals(&page), own, "{login}");
        assert!(
            page["events"].as_array().expect("a list").iter().all(|event| event["user_id"] == id),
            "{page}"
        );
        let other = if login == "alice" { "bob" } else { "alice" };
        for path in [format!("/oauth/events/user/{other}"), format!("/oauth/events/proxy/{HOST}")] {
            let answer = world.get_as("localhost", &path, &token).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{login} {path}");
        }
    }

    // Nobody has signed in there, and a program was let in all the same.
    assert_eq!(entry(&world, JOBS).await.get("last_auth_success"), None);
    let ci = world.daemon.token("ci", JOBS).await;
    assert_eq!(world.get_as(JOBS, "/", &ci).await.status, StatusCode::OK);
    let success = eventually("the request is logged", async || {
        entry(&world, JOBS).await.get("last_auth_success").cloned()
    })
    .await;
    assert!(success.is_string() && entry(&world, JOBS).await["recent_auth_failures"] == 0, "{success}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_proxy_is_told_counts_for_the_host_that_it_has_asked_about() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let alice = world.tokens_of(&client, "alice", &[]).await.access;
    world.protect(WIKI, json!({ "auth_required_users": ["alice"] })).await;
    let elsewhere = format!("Bearer {alice}");
    assert_eq!(ask(&world, WIKI, &[]).await.status, StatusCode::UNAUTHORIZED);
    let bearer = [("authorization", elsewhere.as_str())];
    assert_eq!(ask(&world, WIKI, &bearer).await.status, StatusCode::UNAUTHORIZED);
    let of_wiki = ["token_validation token_required", "audience_check invalid_token alice"];
    told(&world, &format!("/oauth/events/proxy/{WIKI}"), &of_wiki).await;
    told(&world, "/oauth/events/user/alice", &of_wiki[1..]).await;
    let wiki = entry(&world, WIKI).await;
    assert_eq!((&wiki["recent_auth_failures"], wiki.get("last_auth_success")), (&json!(2), None), "{wiki}");
    assert_eq!(entry(&world, "auth.localhost").await["recent_auth_failures"], 0);

    let resource = world.resource(WIKI);
    let own = [("resource", resource.as_str()), ("scope", "mcp:read")];
    let own = format!("Bearer {}", world.tokens_of(&client, "alice", &own).await.access);
    let issued = entry(&world, WIKI).await["last_auth_success"].clone();
    assert_eq!(ask(&world, WIKI, &[("authorization", &own)]).await.status, StatusCode::OK);
    eventually("the yes is logged", async || {
        let now = entry(&world, WIKI).await["last_auth_success"].clone();
        (now.as_str() > issued.as_str()).then_some(())
    })
    .await;
}
