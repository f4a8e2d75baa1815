//! From create to delete.

use super::*;
use crate::support::docker::Engine;
use crate::support::redis::free_port;

#[tokio::test]
async fn a_service_lives_from_create_to_delete() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    let made = create(&api, service).await;
    assert_eq!(made["state"]["status"], "running", "{made:#}");
    assert_eq!(made["proxy_created"]["proxy_target"]["target_url"], "service:web");
    assert_eq!(says(&daemon, "web.test").await, (200, "one".to_owned()));

    // It is reached on its network, without a published port, and with as little as it needs.
    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    let found = engine.get(&format!("/containers/{id}/json"));
    assert!(found["HostConfig"]["PortBindings"].as_object().is_none_or(serde_json::Map::is_empty));
    assert_eq!(found["HostConfig"]["ReadonlyRootfs"], true);
    assert_eq!(found["HostConfig"]["CapDrop"], json!(["ALL"]));
    assert_eq!(found["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(found["Config"]["Labels"]["managed"], "true");

    let listed = daemon.run(&["service", "list", "--type", "docker"]);
    assert_eq!(
        (listed["total"].clone(), listed["services"][0]["status"].clone()),
        (json!(1), json!("running"))
    );
    let twin = api.call("POST", "/services/", web("web", "two")).await;
    assert_eq!(twin.status, 409);
    let external =
        json!({ "service_name": "web", "target_url": format!("http://127.0.0.1:{}", free_port()) });
    assert_eq!(api.call("POST", "/services/external", external).await.status, 409, "they share their names");

    let stopped = daemon.run(&["service", "stop", "web"]);
    assert_eq!(stopped["state"]["status"], "stopped", "{stopped:#}");
    assert_eq!(ask(&daemon, "web.test").await.status, 503);
    assert_eq!(daemon.run(&["service", "start", "web"])["state"]["status"], "running");
    assert_eq!(says(&daemon, "web.test").await, (200, "one".to_owned()));

    let used = api.call("DELETE", "/services/web", Value::Null).await;
    assert_eq!(used.status, 409, "its host would have nowhere to send requests");
    let gone = daemon.run(&["service", "delete", "web", "--delete-proxy"]);
    assert_eq!(gone["also"], json!(["proxy web.test deleted"]));
    assert_eq!(engine.containers(), Vec::<Value>::new());
    assert_eq!(api.get("/services/web").await.status, 404);
    assert_eq!(ask(&daemon, "web.test").await.status, 404);
}

#[tokio::test]
async fn replicas_get_requests_while_they_are_ready() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["command"] = json!([
        "sh",
        "-c",
        "mkdir -p /tmp/www/app && hostname -i > /tmp/www/app/index.html; exec httpd -f -p 8000 -h /tmp/www"
    ]);
    service["replicas"] = json!(2);
    let made = create(&api, service).await;
    assert_eq!(made["state"]["addresses"].as_array().unwrap().len(), 2, "{made:#}");
    daemon.proxy("site.test", "http://127.0.0.1:9", &json!({}));
    daemon.run(&["route", "create", "/app/", "service", "web"]);
    let first = plain(daemon.http, get("site.test", "/app/")).await;
    assert_eq!(first.status, 200, "{first:?}");
    // Whoever is not ready gets no requests any more; the other one does.
    let state = api.get("/services/web").await.json()["state"].clone();
    let ip = String::from_utf8_lossy(&first.body).trim().to_owned();
    let all = state["containers"].as_array().unwrap();
    let asked =
        all.iter().find(|one| one["address"].as_str().unwrap().starts_with(&format!("{ip}:"))).unwrap();
    engine.post(&format!("/containers/{}/pause", asked["id"].as_str().unwrap()), &Value::Null);
    shown(&api, "web", "degraded", |seen| seen["state"]["addresses"].as_array().unwrap().len() == 1).await;
    let other = plain(daemon.http, get("site.test", "/app/")).await;
    assert!(other.status == 200 && other.body != first.body, "{other:?}");
    engine.post(&format!("/containers/{}/unpause", asked["id"].as_str().unwrap()), &Value::Null);
    shown(&api, "web", "whole", |seen| seen["state"]["addresses"].as_array().unwrap().len() == 2).await;
    let fewer = daemon.run(&["service", "update", "web", "--replicas", "1"]);
    assert_eq!(fewer["state"]["status"], "running");
    shown(&api, "web", "alone", |seen| seen["state"]["containers"].as_array().unwrap().len() == 1).await;
}

#[tokio::test]
async fn secret_values_reach_the_container_and_nobody_else() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["environment"] = json!({});
    service["secret_environment"] = json!({ "VERSION": "hidden-value-1" });
    service["host"] = json!("web.test");
    let made = create(&api, service).await;
    assert!(!made.to_string().contains("hidden-value"), "{made:#}");
    assert_eq!(says(&daemon, "web.test").await.1, "hidden-value-1");
    let set = daemon.run(&["service", "secret", "set", "web", "VERSION", "hidden-value-2"]);
    assert_eq!(set["state"]["status"], "running");
    assert_eq!(says(&daemon, "web.test").await.1, "hidden-value-2");
    for path in ["/services/web", "/services/", "/config/export", "/logs/search?log=audit"] {
        let told = api.get(path).await;
        assert!(!String::from_utf8_lossy(&told.body).contains("hidden-value"), "{path}");
    }
    assert!(!daemon.logged().contains("hidden-value"));
    assert_eq!(daemon.run(&["service", "show", "web"])["secrets"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn without_an_engine_operations_say_what_to_set() {
    let daemon = Daemon::start();
    let api = Api::local(&daemon);
    let refused = api.call("POST", "/services/", web("web", "x")).await;
    assert_eq!(refused.status, 503);
    let told = refused.json();
    assert_eq!(told["code"], "no_engine", "{told:#}");
    assert!(told["detail"].as_str().unwrap().contains("DOCKER_HOST"), "{told:#}");
    assert_eq!(api.get("/services/").await.json()["total"], 0);
}
