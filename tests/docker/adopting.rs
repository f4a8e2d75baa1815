//! Services of containers that somebody else made.

use super::*;
use crate::support::docker::Engine;

fn adopting(engine: &Engine) -> Daemon {
    engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_ADOPT", "true");
    })
}

/// What a call is refused with.
async fn refused(api: &Api, method: &str, path: &str, body: Value) -> (u16, String) {
    let answer = api.call(method, path, body).await;
    (answer.status.as_u16(), answer.json().to_string())
}

#[tokio::test]
async fn a_container_of_somebody_else_is_served_and_never_touched() {
    let engine = Engine::start();
    let id = engine.run("shop-web-1", "one", &json!({}));
    let daemon = adopting(&engine);
    let api = Api::local(&daemon);
    let service = json!({ "service_name": "shop", "container": "shop-web-1", "host": "shop.test" });
    let made = create(&api, service).await;
    assert_eq!(made["state"]["containers"][0]["id"], id.as_str(), "{made:#}");
    answers(&daemon, "shop.test", (200, "one")).await;
    let listed = daemon.run(&["service", "list"]);
    assert_eq!(listed["services"][0]["target"], "container:shop-web-1", "{listed:#}");
    let stats = daemon.run(&["service", "stats", "shop"]);
    assert!(stats["pids"].as_u64() >= Some(1), "{stats:#}");
    daemon.run(&["service", "logs", "shop"]);
    assert_eq!(daemon.run(&["service", "check", "shop"])[0]["healthy"], true);

    for (method, path, body) in [
        ("POST", "/services/shop/start", Value::Null),
        ("POST", "/services/shop/stop", Value::Null),
        ("POST", "/services/shop/restart", Value::Null),
        ("POST", "/services/shop/rebuild", Value::Null),
        ("PUT", "/services/shop/secrets/KEY", json!({ "value": "x" })),
    ] {
        let (status, told) = refused(&api, method, path, body).await;
        assert!(status == 409 && told.contains("only watched"), "{path}: {status} {told}");
    }
    for (change, says) in [
        (json!({ "memory_limit": "64m" }), "memory_limit"),
        (json!({ "container": null, "image": "web:1" }), "can't be given or taken later"),
        (json!({ "labelled_by": "main/shop-web-1" }), "set by the server"),
    ] {
        let (status, told) = refused(&api, "PATCH", "/services/shop", change).await;
        assert!(status == 422 && told.contains(says), "{status} {told}");
    }
    let changed = api.call("PATCH", "/services/shop", json!({ "description": "the shop" })).await;
    assert_eq!(changed.status, 200, "{}", changed.json());

    // What happens to it is known within a second.
    engine.post(&format!("/containers/{id}/kill"), &Value::Null);
    let at = Instant::now();
    shown(&api, "shop", "ended", |seen| seen["state"]["status"] == "exited").await;
    assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
    assert_eq!(ask(&daemon, "shop.test").await.status, 503);
    engine.post(&format!("/containers/{id}/start"), &Value::Null);
    answers(&daemon, "shop.test", (200, "one")).await;

    // Compose makes another one of the same name.
    engine.remove("shop-web-1");
    shown(&api, "shop", "gone", |seen| {
        seen["state"]["last_error"].as_str().is_some_and(|told| told.contains("no container"))
    })
    .await;
    engine.run("shop-web-1", "two", &json!({}));
    answers(&daemon, "shop.test", (200, "two")).await;

    let cleanup = daemon.run(&["service", "cleanup", "--remove"]);
    assert_eq!(cleanup["without_container"], json!([]), "{cleanup:#}");
    daemon.run(&["service", "delete", "shop", "--delete-proxy"]);
    assert_eq!(api.get("/services/shop").await.status, 404);
    let left = engine.containers();
    assert!(left.len() == 1 && left[0]["State"] == "running", "{left:?}");
}

#[tokio::test]
async fn containers_that_cannot_be_adopted_are_refused_with_the_reason() {
    let engine = Engine::start();
    let id = engine.run("plain", "one", &json!({}));
    engine.run(
        "at-home",
        "one",
        &json!({ "HostConfig": { "NetworkMode": "host" }, "Cmd": ["tail", "-f", "/dev/null"] }),
    );
    engine.run("alone", "one", &json!({ "HostConfig": { "NetworkMode": "none" } }));
    engine.post("/networks/create", &json!({ "Name": "other" }));
    engine.run("both", "both", &json!({}));
    engine.post("/networks/other/connect", &json!({ "Container": "both" }));
    let off = engine.daemon();
    let service = |container: &str| json!({ "service_name": "shop", "container": container });
    let (status, told) = refused(&Api::local(&off), "POST", "/services/", service("plain")).await;
    assert!(status == 422 && told.contains("PORTCULLIS_DOCKER_ADOPT"), "{status} {told}");
    drop(off);

    let daemon = adopting(&engine);
    let api = Api::local(&daemon);
    let made = create(&api, web("own", "x")).await;
    let own = made["state"]["containers"][0]["id"].as_str().unwrap();
    let own = engine.get(&format!("/containers/{own}/json"))["Name"].as_str().unwrap()[1..].to_owned();
    for (container, says) in [
        ("missing", "no container"),
        (&id[..12], "no container"),
        ("at-home", "`host`"),
        ("alone", "`none`"),
        ("both", "the field `network`"),
        (&own, "portcullis made this container"),
    ] {
        let (status, told) = refused(&api, "POST", "/services/", service(container)).await;
        assert!(status == 422 && told.contains(says), "{container}: {status} {told}");
    }
    assert_eq!(api.get("/services/shop").await.status, 404);
    let mut both = service("both");
    both["network"] = json!("other");
    both["host"] = json!("both.test");
    create(&api, both).await;
    answers(&daemon, "both.test", (200, "both")).await;
}
