//! Whoever dies is followed by one who goes on.

use std::sync::Arc;

use super::*;
use crate::support::docker::Engine;
use crate::support::redis::RedisServer;

#[tokio::test]
async fn an_engine_that_ends_and_comes_back_has_its_services_again() {
    let mut engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    create(&api, service).await;
    // A crash of the engine is none of its containers.
    engine.kill();
    shown(&api, "web", "unknown", |seen| seen["state"]["status"] == "unknown").await;
    assert_eq!(says(&daemon, "web.test").await, (200, "one".to_owned()));
    let refused = api.call("POST", "/services/", web("other", "x")).await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].clone()), (503, json!("engine_unavailable")));
    engine.launch();
    shown(&api, "web", "running", |seen| seen["state"]["status"] == "running").await;
    assert_eq!(says(&daemon, "web.test").await, (200, "one".to_owned()));
    // One that is stopped stops them.
    engine.stop();
    engine.launch();
    shown(&api, "web", "running", |seen| seen["state"]["status"] == "running").await;
    let answers = async {
        while says(&daemon, "web.test").await != (200, "one".to_owned()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, answers).await.expect("it serves again");
}

#[tokio::test]
async fn a_gateway_and_an_engine_killed_in_an_update_go_on_with_it() {
    let mut engine = Engine::start();
    let mut daemon = engine.daemon();
    let dir = Arc::clone(&daemon.dir);
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    // The new one takes its time.
    service["command"] = json!(["sh", "-c", "test $VERSION = one || sleep 4; exec sh /bin/web"]);
    create(&api, service).await;
    let change = json!({ "environment": { "VERSION": "two" } });
    let update = tokio::spawn({
        let api = api.clone();
        async move { api.call("PATCH", "/services/web", change).await }
    });
    shown(&api, "web", "updating", |seen| seen["state"]["containers"].as_array().unwrap().len() == 2).await;
    daemon.signal("KILL");
    daemon.ended();
    engine.kill();
    update.abort();
    engine.launch();
    let daemon = Daemon::start_in(dir, |command| engine.known_to(command));
    let api = Api::local(&daemon);
    let done = |seen: &Value| {
        seen["state"]["status"] == "running" && seen["state"]["containers"].as_array().unwrap().len() == 1
    };
    shown(&api, "web", "updated", done).await;
    assert_eq!(says(&daemon, "web.test").await, (200, "two".to_owned()));
}

#[tokio::test]
async fn a_gateway_that_comes_back_finds_what_runs_before_the_first_request() {
    let engine = Engine::start();
    let mut daemon = engine.daemon();
    let dir = Arc::clone(&daemon.dir);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    create(&Api::local(&daemon), service).await;
    daemon.signal("KILL");
    daemon.ended();
    let daemon = Daemon::start_in(dir, |command| engine.known_to(command));
    assert_eq!(says(&daemon, "web.test").await, (200, "one".to_owned()));
}

#[tokio::test]
async fn orphans_of_both_kinds_are_found_and_removed_when_asked() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let made = create(&api, web("web", "one")).await;
    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    // A container without a service: one more with the labels and a name of ours. And two of somebody else, of which one
    // has got our labels from somewhere.
    let ours = engine.get(&format!("/containers/{id}/json"));
    let mut labels = ours["Config"]["Labels"].clone();
    labels["portcullis.service"] = json!("gone");
    let name =
        ours["Name"].as_str().unwrap().trim_start_matches('/').replace("portcullis-web-", "portcullis-gone-");
    let make = |name: &str, labels: &Value| {
        let container = json!({ "Image": "web:1", "Labels": labels });
        engine.post(&format!("/containers/create?name={name}"), &container)
    };
    let orphan = make(&name, &labels);
    let foreign = [make("foreign", &json!({})), make("labelled", &labels)];
    let found = daemon.run(&["service", "cleanup"]);
    assert_eq!(found["dry_run"], true, "{found:#}");
    assert_eq!(found["containers_removed"][0]["container_id"], orphan["Id"], "{found:#}");
    assert_eq!(engine.containers().len(), 4, "it only looked");
    let removed = daemon.run(&["service", "cleanup", "--remove"]);
    assert_eq!(removed["containers_removed"].as_array().unwrap().len(), 1);
    let left: Vec<_> = engine.containers().iter().map(|one| one["Id"].clone()).collect();
    let stay = [&foreign[0]["Id"], &foreign[1]["Id"], &ours["Id"]];
    assert!(left.len() == 3 && stay.iter().all(|one| left.contains(one)), "{left:?}");
    // A service without its container.
    engine.post(&format!("/containers/{id}/kill"), &Value::Null);
    let other = |seen: &Value| seen["state"]["status"] == "running";
    shown(&api, "web", "running again", other).await;
}

#[tokio::test]
async fn fifty_services_are_found_again_within_ten_seconds() {
    let engine = Engine::start();
    let mut daemon = engine.daemon();
    let dir = Arc::clone(&daemon.dir);
    let api = Api::local(&daemon);
    let services: Vec<_> = (0..50)
        .map(|at| {
            let mut service = web(&format!("web{at}"), "x");
            service["memory_limit"] = json!("16m");
            service["command"] = json!(["httpd", "-f", "-p", "8000", "-h", "/bin"]);
            service
        })
        .collect();
    for chunk in services.chunks(10) {
        let all = chunk.iter().map(|service| create(&api, service.clone()));
        futures_util::future::join_all(all).await;
    }
    daemon.signal("KILL");
    daemon.ended();
    let at = Instant::now();
    let daemon = Daemon::start_in(dir, |command| engine.known_to(command));
    let api = Api::local(&daemon);
    loop {
        let list = api.get("/services/").await.json();
        let running =
            list["services"].as_array().unwrap().iter().filter(|one| one["status"] == "running").count();
        if running == 50 {
            break;
        }
        assert!(at.elapsed() < Duration::from_secs(10), "{running} of 50 after {:?}", at.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(engine.containers().len(), 50);
}

#[tokio::test]
async fn of_two_nodes_of_one_name_with_engines_of_their_own_one_works() {
    let (one, two) = (Engine::start(), Engine::start());
    let redis = RedisServer::start();
    let node = |engine: &Engine| {
        engine.daemon_with(|command| {
            command.env("REDIS_URL", redis.url());
            command.env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
        })
    };
    let first = node(&one);
    let api = Api::local(&first);
    create(&api, web("web", "one")).await;
    let second = node(&two);
    let api = Api::local(&second);
    let seen = shown(&api, "web", "refused", |seen| seen["state"]["status"] == "failed").await;
    assert!(seen["state"]["last_error"].to_string().contains("PORTCULLIS_NODE_NAME"), "{seen:#}");
    assert_eq!(two.containers(), Vec::<Value>::new());
    // It takes over when the other one is gone for good.
    drop(first);
    shown(&api, "web", "running here", |seen| seen["state"]["status"] == "running").await;
    assert_eq!(two.containers().len(), 1);
}
