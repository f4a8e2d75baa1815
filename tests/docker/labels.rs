//! Hosts that labels of other people's containers make.

use std::sync::Arc;

use super::*;
use crate::support::docker::Engine;
use crate::support::eventually_within;

fn labelling(engine: &Engine) -> Daemon {
    engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_LABELS", "true");
    })
}

/// Labels of ours, as a container is made with them.
fn labels(all: &[(&str, &str)]) -> Value {
    let all: serde_json::Map<_, _> =
        all.iter().map(|(name, value)| (format!("portcullis.{name}"), json!(value))).collect();
    json!({ "Labels": all })
}

/// Waits until it is told so of a container's host.
async fn told(api: &Api, container: &str, host: &str, state: &str) -> String {
    eventually_within(LONG, &format!("{container} {host} {state}"), async || {
        let list = api.get("/services/labels").await.json();
        let claims = list["hosts"].as_array()?.clone();
        let claim = claims.into_iter().find(|one| one["container"] == container && one["host"] == host)?;
        (claim["state"] == state).then(|| claim["reason"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

/// Waits until there is no such document.
async fn gone(api: &Api, path: &str) {
    eventually_within(LONG, path, async || (api.get(path).await.status == 404).then_some(())).await;
}

#[tokio::test]
async fn a_label_makes_a_host_that_lives_as_long_as_its_container() {
    let engine = Engine::start();
    let daemon = labelling(&engine);
    let api = Api::local(&daemon);
    engine.run("shop-web-1", "one", &labels(&[("host", "app.test, www.app.test")]));
    answers(&daemon, "app.test", (200, "one")).await;
    answers(&daemon, "www.app.test", (200, "one")).await;
    told(&api, "shop-web-1", "app.test", "made").await;
    let host = api.get("/proxy/targets/app.test").await.json();
    assert_eq!(host["labelled_by"], "main/shop-web-1", "{host:#}");
    assert_eq!(host["target_url"], "service:shop-web-1", "{host:#}");

    // Labels alone change what they made.
    for path in ["/proxy/targets/app.test", "/services/shop-web-1"] {
        let refused = api.call("PATCH", path, json!({ "internal_port": 81, "enabled": false })).await;
        let told = refused.json().to_string();
        assert!(refused.status == 409 && told.contains("labels"), "{path}: {told}");
    }
    let forged = json!({ "proxy_hostname": "x.test", "target_url": "builtin:echo", "labelled_by": "main/x" });
    assert_eq!(api.call("POST", "/proxy/targets/", forged).await.status, 422);

    engine.post("/containers/shop-web-1/stop?t=0", &Value::Null);
    answers(&daemon, "app.test", (503, "")).await;
    told(&api, "shop-web-1", "app.test", "stopped").await;
    engine.post("/containers/shop-web-1/start", &Value::Null);
    answers(&daemon, "app.test", (200, "one")).await;

    // Another container of this name, with another host.
    engine.remove("shop-web-1");
    engine.run("shop-web-1", "two", &labels(&[("host", "new.test"), ("port", "8000")]));
    answers(&daemon, "new.test", (200, "two")).await;
    gone(&api, "/proxy/targets/app.test").await;
    assert_eq!(ask(&daemon, "app.test").await.status, 404);

    engine.remove("shop-web-1");
    let at = Instant::now();
    told(&api, "shop-web-1", "new.test", "leaving").await;
    assert_eq!(ask(&daemon, "new.test").await.status, 503, "it may come back");
    gone(&api, "/proxy/targets/new.test").await;
    assert!(at.elapsed() > Duration::from_secs(25), "{:?}", at.elapsed());
    gone(&api, "/services/shop-web-1").await;
    assert_eq!(ask(&daemon, "new.test").await.status, 404);
}

#[tokio::test]
async fn labels_ask_for_people_to_sign_in_and_for_a_network() {
    let engine = Engine::start();
    let daemon = labelling(&engine);
    let api = Api::local(&daemon);
    engine.run("private", "x", &labels(&[("host", "private.test"), ("auth", "true")]));
    engine.post("/networks/create", &json!({ "Name": "other" }));
    engine.run("both", "both", &labels(&[("host", "both.test"), ("network", "other")]));
    engine.post("/networks/other/connect", &json!({ "Container": "both" }));
    answers(&daemon, "both.test", (200, "both")).await;
    told(&api, "private", "private.test", "made").await;
    let asked = ask(&daemon, "private.test").await.status;
    assert!(asked == 401 || asked.is_redirection(), "{asked}");
    assert_eq!(api.get("/proxy/targets/private.test").await.json()["auth_enabled"], true);
}

#[tokio::test]
async fn what_is_there_is_not_touched_and_the_loser_is_told() {
    let engine = Engine::start();
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_LABELS", "true").env("PORTCULLIS_DOCKER_LABEL_HOSTS", "*.test");
    });
    let api = Api::local(&daemon);
    daemon.proxy("app.test", "builtin:echo", &json!({}));
    let before = api.get("/proxy/targets/app.test").await.json();
    engine.run("thief", "x", &labels(&[("host", "app.test")]));
    engine.run("wrong", "x", &labels(&[("host", "wrong.test"), ("hots", "x")]));
    engine.run("stray", "x", &labels(&[("host", "stray.example.com")]));
    engine.run("greedy", "x", &labels(&[("host", "auth.localhost")]));
    engine.run("first", "first", &labels(&[("host", "shared.test")]));
    answers(&daemon, "shared.test", (200, "first")).await;
    engine.run("second", "second", &labels(&[("host", "shared.test")]));
    for (container, host, says) in [
        ("thief", "app.test", "no label made"),
        ("wrong", "wrong.test", "portcullis.hots"),
        ("stray", "stray.example.com", "PORTCULLIS_DOCKER_LABEL_HOSTS"),
        ("greedy", "auth.localhost", "authorization server"),
        ("second", "shared.test", "main/first"),
    ] {
        let reason = told(&api, container, host, "refused").await;
        assert!(reason.contains(says), "{container}: {reason}");
        daemon.wait_for_log(&format!("\"container\":\"{container}\""));
    }
    assert_eq!(api.get("/proxy/targets/app.test").await.json(), before);
    assert_eq!(says(&daemon, "shared.test").await, (200, "first".to_owned()));
    for path in ["/services/thief", "/services/second", "/proxy/targets/wrong.test"] {
        assert_eq!(api.get(path).await.status, 404, "{path}");
    }
    // Who waits gets what is free.
    engine.remove("first");
    answers(&daemon, "shared.test", (200, "second")).await;
}

#[tokio::test]
async fn labels_make_nothing_unless_that_is_switched_on() {
    let engine = Engine::start();
    engine.run("web", "one", &labels(&[("host", "app.test")]));
    let daemon = labelling(&engine);
    let dir = Arc::clone(&daemon.dir);
    answers(&daemon, "app.test", (200, "one")).await;
    drop(daemon);
    // What they made before goes at once.
    let daemon = Daemon::start_in(dir, |command| engine.known_to(command));
    let api = Api::local(&daemon);
    let at = Instant::now();
    gone(&api, "/proxy/targets/app.test").await;
    gone(&api, "/services/web").await;
    assert!(at.elapsed() < Duration::from_secs(20), "{:?}", at.elapsed());
    let list = daemon.run(&["service", "labels"]);
    assert_eq!((list["enabled"].clone(), list["total"].clone()), (json!(false), json!(0)));
    // It looks at the engine all the same.
    create(&api, web("own", "x")).await;
    engine.run("other", "x", &labels(&[("host", "other.test")]));
    engine.post("/containers/web/restart?t=0", &Value::Null);
    daemon.run(&["service", "restart", "own"]);
    for path in ["/proxy/targets/other.test", "/proxy/targets/app.test", "/services/other"] {
        assert_eq!(api.get(path).await.status, 404, "{path}");
    }
    assert_eq!(ask(&daemon, "other.test").await.status, 404);
}
