//! Named tokens and the first admin.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};

use super::support::client::{self, Answer, get_as, plain};
use super::support::daemon::Daemon;
use super::support::eventually;
use super::support::redis::RedisServer;
use super::support::upstream::Upstream;
use super::{CHALLENGE, HOST};

/// How soon all nodes must know of a change.
const SOON: Duration = Duration::from_secs(1);

fn node(redis: &RedisServer) -> Daemon {
    Daemon::start_with(|command| shared(command, redis))
}

fn shared(command: &mut Command, redis: &RedisServer) {
    command.env("REDIS_URL", redis.url()).env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
    public_port(command);
}

/// Resources without a port: `https://app.test`.
fn public_port(command: &mut Command) {
    command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
}

async fn ask(daemon: &Daemon, host: &str, token: &str) -> Answer {
    plain(daemon.http, get_as(host, "/", token)).await
}

/// Waits until a node has answered so, and no longer than changes may take.
async fn soon(daemon: &Daemon, token: &str, status: StatusCode, what: &str) -> Answer {
    let begun = Instant::now();
    let answer =
        eventually(what, || async { Some(ask(daemon, HOST, token).await).filter(|a| a.status == status) })
            .await;
    assert!(begun.elapsed() < SOON, "{what} took {:?}", begun.elapsed());
    answer
}

fn token_of(answer: &Value) -> String {
    answer["token"].as_str().expect("a token").to_owned()
}

#[tokio::test]
async fn a_named_token_lives_and_ends_on_all_nodes_within_a_second() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("app").await;
    let nodes = [node(&redis), node(&redis)];
    let [first, second] = &nodes;
    let fields = json!({ "auth_enabled": true, "auth_required_users": ["service:ci"] });
    first.proxy(HOST, &upstream.url(), &fields);

    let created = first.run(&["token", "create", "ci", "--audience", HOST, "--scopes", "user"]);
    assert_eq!(
        (&created["subject"], &created["audience"]),
        (&json!("service:ci"), &json!(["https://app.test"]))
    );
    let token = token_of(&created);
    for node in &nodes {
        let answer = soon(node, &token, StatusCode::OK, "a new token").await;
        assert_eq!(answer.seen("x-auth-user"), ["service:ci"]);
    }
    for args in [["token", "show", "ci"], ["token", "list", ""]] {
        let said = first.run(&args[..if args[2].is_empty() { 2 } else { 3 }]).to_string();
        assert!(!said.contains(&token) && !said.contains("eyJ"), "{said}");
    }
    let revealed = first.cli(&["token", "reveal", "ci"]);
    assert!(!revealed.status.success());
    assert!(stderr(&revealed).contains("rotate it"), "{}", stderr(&revealed));

    let next = token_of(&second.run(&["token", "rotate", "ci"]));
    let revoked =
        format!(r#"{CHALLENGE}, error="invalid_token", error_description="The access token was revoked""#);
    for node in &nodes {
        let answer = soon(node, &token, StatusCode::UNAUTHORIZED, "the end of the last token").await;
        assert_eq!(answer.header("www-authenticate"), revoked);
        soon(node, &next, StatusCode::OK, "the next token").await;
    }

    first.run(&["token", "delete", "ci"]);
    for node in &nodes {
        let answer = soon(node, &next, StatusCode::UNAUTHORIZED, "the end of a deleted token").await;
        assert_eq!(answer.header("www-authenticate"), revoked);
    }
    // It stays revoked for a node that starts later.
    assert_eq!(ask(&node(&redis), HOST, &next).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_change_of_lists_is_felt_by_tokens_that_are_out() {
    let upstream = Upstream::start("app").await;
    let daemon = Daemon::start_with(public_port);
    let fields = json!({ "auth_enabled": true, "auth_required_users": ["service:ci"] });
    daemon.proxy(HOST, &upstream.url(), &fields);
    let token = token_of(&daemon.run(&["token", "create", "ci", "--audience", HOST]));
    soon(&daemon, &token, StatusCode::OK, "a new token").await;
    daemon.run(&["proxy", "update", HOST, "--auth-required-users=service:other"]);
    soon(&daemon, &token, StatusCode::FORBIDDEN, "a shorter list").await;
    daemon.run(&["proxy", "update", HOST, "--auth-required-users=service:ci"]);
    soon(&daemon, &token, StatusCode::OK, "a longer list").await;
}

#[tokio::test]
async fn the_admin_of_one_host_is_nothing_on_another() {
    let upstream = Upstream::start("app").await;
    let daemon = Daemon::start_with(public_port);
    let both = json!({ "auth_enabled": true, "auth_required_users": ["service:dual"] });
    let host = |name: &str, fields: Value| {
        let mut all = both.clone();
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        daemon.proxy(name, &upstream.url(), &all);
    };
    host("a.test", json!({ "oauth_admin_users": ["service:dual"], "auth_scope_required": "admin" }));
    host("b.test", json!({}));
    host("c.test", json!({ "auth_scope_required": "admin" }));
    host("d.test", json!({ "oauth_admin_users": ["service:dual"] }));
    let audience = "a.test,b.test,c.test,localhost";
    let token =
        token_of(&daemon.run(&["token", "create", "dual", "--audience", audience, "--scopes", "admin"]));

    let answer = ask(&daemon, "a.test", &token).await;
    let mut scopes: Vec<_> = answer.seen("x-auth-scopes")[0].split(' ').map(str::to_owned).collect();
    scopes.sort();
    assert_eq!(scopes, ["admin", "mcp", "user"]);

    let answer = ask(&daemon, "b.test", &token).await;
    assert_eq!((answer.status, answer.seen("x-auth-scopes")), (StatusCode::OK, Vec::new()));

    let answer = ask(&daemon, "c.test", &token).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    // Another token would not help: the list of this host keeps the scope from everybody.
    assert_eq!(
        (answer.json()["code"].as_str(), answer.header("www-authenticate")),
        (Some("access_denied"), "")
    );

    let answer = ask(&daemon, "d.test", &token).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "it was not made for d.test");

    // On the API it is what it was made for; a token with less may read and not write.
    let less = token_of(&daemon.run(&["token", "create", "reader", "--scopes", "user"]));
    for (token, method, path, status) in [
        (&token, "GET", "/proxy/targets/", 200),
        (&token, "DELETE", "/proxy/targets/d.test", 200),
        (&less, "GET", "/proxy/targets/", 200),
        (&less, "DELETE", "/proxy/targets/c.test", 403),
        (&less, "GET", "/tokens/", 403),
    ] {
        let mut request = get_as("localhost", path, token);
        *request.method_mut() = method.parse().unwrap();
        let answer = client::plain(daemon.http, request).await;
        assert!(
            answer.status == status || (status == 200 && answer.status == 204),
            "{method} {path}: {answer:?}"
        );
        if status == 403 {
            assert!(
                answer.header("www-authenticate").contains(r#"error="insufficient_scope""#),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_setup_token_makes_one_admin_once_over_all_nodes() {
    let redis = RedisServer::start();
    let first = node(&redis);
    let second = node(&redis);
    let told = first.wait_for_log("--setup ");
    let setup = told.rsplit(' ').next().unwrap().to_owned();
    assert!(first.logged().contains("within an hour"), "{}", first.logged());
    assert!(!second.logged().contains("--setup "), "the store is not empty any more");

    let login = |daemon: &Daemon, token: &str| {
        let url = format!("http://localhost:{}", daemon.http.port());
        daemon.cli(&["--format", "json", "login", "--setup", token, "--base-url", &url])
    };
    let wrong = login(&first, "pcs_wrong");
    assert_eq!(wrong.status.code(), Some(1), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("portcullis setup-token"), "{}", stderr(&wrong));

    let done = login(&second, &setup);
    assert!(done.status.success(), "{}", stderr(&done));
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(said["status"], "logged in");
    assert!(said["expires_at"].is_string() && said.get("token").is_none(), "{said}");

    for node in [&first, &second] {
        let again = login(node, &setup);
        assert_eq!(again.status.code(), Some(1));
        assert!(stderr(&again).contains("was used"), "{}", stderr(&again));
    }

    // The profile has the token now, and the API takes it.
    let info = second.run(&["token", "info"]);
    let subject = info["subject"].as_str().unwrap();
    assert!(info["token_type"] == "oauth_jwt" && subject.starts_with("service:setup-20"), "{info}");
    assert_eq!(
        second.run(&["proxy", "create", "made.test", "builtin:echo"])["proxy_target"]["created_by"],
        subject
    );
    let profiles = second.dir.path().join(".config/portcullis/profiles.yml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&profiles).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    second.run(&["logout"]);
    assert_eq!(second.cli(&["token", "info"]).status.code(), Some(3));

    // Another one is made on the machine, and is good on the other node.
    let another = token_of(&first.run(&["setup-token"]));
    assert!(login(&second, &another).status.success());

    // What it became is a token like others: it is listed, and can be ended.
    let subject = second.run(&["token", "info"])["subject"].as_str().unwrap().to_owned();
    let name = subject.strip_prefix("service:").unwrap();
    let listed = first.run(&["token", "list"]);
    assert!(listed.as_array().unwrap().iter().any(|token| token["name"] == name), "{listed}");
    first.run(&["token", "delete", name]);
    super::support::eventually("the token is refused", async || {
        (second.cli(&["token", "info"]).status.code() == Some(3)).then_some(())
    })
    .await;
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
