//! GitHub's apps, one for the deployment and one for a host; and what is left of logins when the store is away.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{HOST, Tokens, World};
use crate::support::api::Api;
use crate::support::eventually;
use crate::support::github::{App, User, field, pairs};
use crate::support::redis::RedisServer;

const COOKIE: &str = "__Host-unified_auth_token";
const WIKI: &str = "wiki.localhost";
const CALLBACK: &str = "https://auth.localhost:8443";

/// What an outage may cost a request at most; far less than what clients wait.
const NO_HANG: Duration = Duration::from_secs(10);

/// Gives a host an app of its own.
async fn own_app(world: &World, host: &str, id: &str) {
    world.github.add_app(App::new(id, &format!("{id}-secret"), CALLBACK));
    let app = json!({ "github_client_id": id, "github_client_secret": format!("{id}-secret") });
    let shown =
        world.daemon.api(Method::POST, &format!("/proxy/targets/{host}/github-oauth"), app).await.to_string();
    assert!(!shown.contains("-secret\""), "{shown}");
}

/// The apps through which people were sent to GitHub so far, in order.
fn used(world: &World) -> Vec<String> {
    let requests = world.github.requests().into_iter();
    let pages =
        requests.filter(|seen| seen.method == Method::GET && seen.uri.path() == "/login/oauth/authorize");
    pages.map(|seen| field(&pairs(seen.uri.query().unwrap()), "client_id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_signs_its_people_in_through_its_own_app() {
    let world = World::new().await;
    world.github.add_user(User::new(1, "alice").with_org("makers", &["core"]));
    let fields = json!({ "auth_mode": "redirect", "auth_required_groups": ["makers"] });
    world.daemon.change(HOST, fields.clone()).await;
    world.protect(WIKI, fields).await;
    own_app(&world, WIKI, "Iv1.wiki").await;

    // An organisation chooses which apps may know of its members: so each host asks by its own.
    let mut visitor = world.visitor();
    for (host, app) in [(HOST, "Iv1.test"), (WIKI, "Iv1.wiki")] {
        let before = used(&world).len();
        let page = visitor.open(&world.url(host, "/"), "").await;
        let page = world.sign_in(&mut visitor, page, "alice").await;
        assert_eq!(
            (page.answer().status, page.url.as_str()),
            (StatusCode::OK, &*world.url(host, "/")),
            "{}",
            page.text()
        );
        assert_eq!(page.answer().seen("x-auth-user"), ["alice"]);
        assert_eq!(used(&world)[before..], [app], "{host}");
    }
    // Clients, too: the resource says whose app it is, and nothing else that a request says.
    let client = world.register(json!({})).await;
    let (app, wiki) = (world.resource(HOST), world.resource(WIKI));
    for (resource, expected) in [(&app, "Iv1.test"), (&wiki, "Iv1.wiki")] {
        let lies = [
            ("resource", resource.as_str()),
            ("proxy_hostname", WIKI),
            ("proxy", HOST),
            ("github_client_id", "Iv1.evil"),
            ("host", "evil.example"),
        ];
        let before = used(&world).len();
        let tokens = world.tokens_of(&client, "alice", &lies).await;
        assert_eq!(used(&world)[before..], [expected], "{resource}");
        let host = if *resource == app { HOST } else { WIKI };
        assert_eq!(world.get_as(host, "/mcp", &tokens.access).await.status, StatusCode::OK);
    }
    // Without its own app the host goes back to the one of the deployment.
    world.daemon.api(Method::DELETE, &format!("/proxy/targets/{WIKI}/github-oauth"), Value::Null).await;
    let before = used(&world).len();
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(WIKI, "/"), "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    assert_eq!(used(&world)[before..], ["Iv1.test"]);
    // An app whose secret is wrong signs nobody in, and the page does not show it.
    own_app(&world, WIKI, "Iv1.late").await;
    world.github.change_app("Iv1.late", |app| "another".clone_into(&mut app.client_secret));
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(WIKI, "/"), "").await;
    let page = world.sign_in(&mut visitor, page, "alice").await;
    assert!(
        page.answer().status.is_client_error() || page.answer().status.is_server_error(),
        "{}",
        page.text()
    );
    assert!(visitor.cookie(WIKI, COOKIE).is_none());
    assert!(!page.text().contains("Iv1.late-secret") && !page.text().contains("another"), "{}", page.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_store_ends_no_session_and_is_told_to_who_needs_it() {
    let mut redis = RedisServer::start();
    let world = World::with(|command| {
        command
            .env("REDIS_URL", redis.url())
            .env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
    })
    .await;
    world.daemon.change(HOST, json!({ "auth_mode": "redirect" })).await;
    let client = world.register(json!({})).await;
    let tokens = Tokens::of(&world.redeem(&client, &world.code(&client).await).await);
    let unused = world.code(&client).await;
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/"), "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    let api = Api::local(&world.daemon);
    assert_eq!(api.get("/health").await.json()["store"], "connected");

    // Gone, and then there but silent: to clients it is the same.
    for silent in [false, true] {
        if silent {
            redis.restart();
            eventually("the store is back", async || {
                (api.get("/health").await.json()["store"] == "connected").then_some(())
            })
            .await;
            redis.signal("STOP");
        } else {
            redis.kill();
        }
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(world.get_as(HOST, "/mcp", &tokens.access).await.status, StatusCode::OK);
            let page = visitor.open(&world.url(HOST, "/page"), "").await;
            assert_eq!((page.answer().status, page.url), (StatusCode::OK, world.url(HOST, "/page")));
        }
        let took = began.elapsed();
        eprintln!("measured: 40 requests while the store is away (silent: {silent}): {took:?}");
        eventually("health says so", async || {
            let health = api.get("/health").await.json();
            (health["status"] == "degraded" && health["store"] == "unavailable").then_some(())
        })
        .await;
        // Whoever needs the store is told to come back, in time.
        let again = [("token", tokens.refresh.as_str()), ("client_id", &client.id)];
        for what in ["a refresh", "a revocation"] {
            let began = Instant::now();
            let answer = match what {
                "a refresh" => world.refresh(&client, &tokens.refresh).await,
                _ => world.post("/revoke", &again).await,
            };
            assert!(began.elapsed() < NO_HANG, "{what} took {:?}", began.elapsed());
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{what}");
            assert_eq!(answer.json()["error"], "temporarily_unavailable", "{what}");
            assert_eq!(answer.header("retry-after"), "5", "{what}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{what}");
        }
        let began = Instant::now();
        let answer = world.redeem(&client, &unused).await;
        assert!(began.elapsed() < NO_HANG, "{:?}", began.elapsed());
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("temporarily_unavailable"))
        );
        let began = Instant::now();
        let page = world.visitor().open(&world.url(HOST, "/"), "").await;
        assert!(began.elapsed() < NO_HANG, "{:?}", began.elapsed());
        assert_eq!(page.answer().status, StatusCode::SERVICE_UNAVAILABLE, "{}: {}", page.url, page.text());
        // Documents and keys need no store.
        for path in ["/jwks", "/.well-known/oauth-authorization-server"] {
            let page = world.visitor().open(&world.at_issuer(path), "").await;
            assert_eq!(page.answer().status, StatusCode::OK, "{path}");
        }
        if silent {
            redis.signal("CONT");
        }
    }

    // And back: what was not used up is good still, and people sign in.
    eventually("the store is back", async || {
        (api.get("/health").await.json()["status"] == "healthy").then_some(())
    })
    .await;
    let next = Tokens::of(&world.refresh(&client, &tokens.refresh).await);
    assert_eq!(world.get_as(HOST, "/mcp", &next.access).await.status, StatusCode::OK);
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/"), "").await;
    let page = world.sign_in(&mut visitor, page, "alice").await;
    assert_eq!(page.answer().status, StatusCode::OK, "{}", page.text());
    assert_eq!(world.redeem(&client, &world.code(&client).await).await.status, StatusCode::OK);
}
