//! Changes of what runs while requests come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http_body_util::BodyExt;

use super::*;
use crate::support::docker::Engine;

/// Waits until the host says so.
async fn becomes(daemon: &Daemon, text: &str) {
    let end = Instant::now() + LONG;
    while says(daemon, "web.test").await.1 != text {
        assert!(Instant::now() < end, "it never says {text:?}");
    }
}

/// Clients that ask without a pause until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(daemon: &Daemon, host: &'static str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..4).map(|_| {
            let (stop, answered, address) = (Arc::clone(&stop), Arc::clone(&answered), daemon.http);
            tokio::spawn(async move {
                let mut wrong = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = plain(address, get(host, "/")).await;
                    if answer.status != 200 {
                        wrong.push(format!("{}: {:?}", answer.status, answer.body));
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                wrong
            })
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// The clients' failures, and how many answers they had.
    async fn end(self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for client in self.clients {
            wrong.extend(client.await.unwrap());
        }
        (wrong, self.answered.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_loses_no_request() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    let first = create(&api, service).await;
    let load = Load::start(&daemon, "web.test");
    let update = json!({ "environment": { "VERSION": "two" } });
    let updated = api.call("PATCH", "/services/web", update).await;
    assert_eq!(updated.status, 200, "{}", String::from_utf8_lossy(&updated.body));
    becomes(&daemon, "two").await;
    let old = first["state"]["containers"][0]["id"].as_str().unwrap().to_owned();
    let alone =
        |seen: &Value| seen["state"]["containers"].as_array().unwrap().iter().all(|one| one["id"] != *old);
    shown(&api, "web", "rid of the old container", alone).await;
    let restarted = api.call("POST", "/services/web/restart", Value::Null).await;
    assert_eq!(restarted.status, 200);
    shown(&api, "web", "restarted", |seen| seen["state"]["containers"].as_array().unwrap().len() == 1).await;
    let (wrong, answered) = load.end().await;
    assert_eq!(wrong, Vec::<String>::new());
    assert!(answered > 100, "{answered}");
}

#[tokio::test]
async fn an_update_that_fails_leaves_the_old_one_serving() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    create(&api, service).await;
    for (change, reason) in [
        (json!({ "command": ["sh", "-c", "exit 3"] }), "code 3"),
        (json!({ "command": ["/no/such/program"] }), "no such file"),
        (json!({ "image": "127.0.0.1:9/missing:1" }), "can't be pulled"),
    ] {
        let failed = api.call("PATCH", "/services/web", change.clone()).await;
        let told = failed.json();
        assert_eq!(failed.status, 502, "{change}: {told:#}");
        assert!(told["detail"].as_str().unwrap().contains(reason), "{change}: {told:#}");
        assert_eq!(says(&daemon, "web.test").await, (200, "one".to_owned()), "{change}");
    }
    let state = &api.get("/services/web").await.json()["state"];
    assert!(state["last_error"].as_str().is_some() && state["retry_at"].as_str().is_some(), "{state:#}");
    let repaired = json!({ "image": "web:1", "command": null, "environment": { "VERSION": "two" } });
    assert_eq!(api.call("PATCH", "/services/web", repaired).await.status, 200);
    becomes(&daemon, "two").await;
}

#[tokio::test]
async fn a_new_container_serves_when_its_health_check_says_so() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    service["volumes"] = json!(["gate:/gate"]);
    service["healthcheck"] =
        json!({ "test": ["CMD-SHELL", "test -e /gate/$VERSION"], "interval_seconds": 1, "retries": 100 });
    service["command"] = json!(["sh", "-c", "test $VERSION = two || touch /gate/$VERSION; exec sh /bin/web"]);
    create(&api, service).await;
    let change = json!({ "environment": { "VERSION": "two" } });
    let update = tokio::spawn({
        let api = api.clone();
        async move { api.call("PATCH", "/services/web", change).await }
    });
    let starting = |seen: &Value| {
        let all = seen["state"]["containers"].as_array().unwrap();
        seen["state"]["status"] == "updating" && all.iter().any(|one| one["health"] == "starting")
    };
    shown(&api, "web", "updating", starting).await;
    assert_eq!(says(&daemon, "web.test").await.1, "one", "the port accepts already, but it is not healthy");
    // Whoever opens the gate from inside makes it healthy.
    let all = api.get("/services/web").await.json();
    let new = all["state"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["current"] == true)
        .unwrap()
        .clone();
    let exec = json!({ "Cmd": ["touch", "/gate/two"] });
    let made = engine.post(&format!("/containers/{}/exec", new["id"].as_str().unwrap()), &exec);
    engine.post(&format!("/exec/{}/start", made["Id"].as_str().unwrap()), &json!({ "Detach": true }));
    let updated = update.await.unwrap();
    assert_eq!(updated.status, 200, "{}", String::from_utf8_lossy(&updated.body));
    becomes(&daemon, "two").await;
    let checked = api.call("POST", "/services/web/check", Value::Null).await.json();
    assert!(
        checked.as_array().unwrap().iter().any(|one| one["healthy"] == true && one["exit_code"] == 0),
        "{checked:#}"
    );
}

#[tokio::test]
async fn who_follows_the_logs_hears_the_new_container_as_well() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "one");
    service["command"] = json!(["sh", "-c", "echo this is $VERSION; exec sh /bin/web"]);
    create(&api, service).await;
    let mut body = api.open("GET", "/services/web/logs/follow", &[], "").await.into_body();
    let mut heard = String::new();
    for version in ["one", "two"] {
        if version == "two" {
            let changed =
                api.call("PATCH", "/services/web", json!({ "environment": { "VERSION": "two" } })).await;
            assert_eq!(changed.status, 200, "{}", changed.json());
        }
        let wanted = format!("this is {version}");
        let read = async {
            while !heard.contains(&wanted) {
                let frame = body.frame().await.expect("it goes on").unwrap();
                heard.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
            }
        };
        tokio::time::timeout(LONG, read).await.expect("it is heard");
    }
    assert_eq!(api.call("DELETE", "/services/web", json!({})).await.status, 200);
    let rest = async { while body.frame().await.is_some() {} };
    tokio::time::timeout(LONG, rest).await.expect("it ends with the service");
}
