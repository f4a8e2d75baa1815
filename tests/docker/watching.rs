//! What is told of services that do not do well, and what they write and use.

use std::sync::Arc;

use http_body_util::BodyExt;

use super::*;
use crate::support::docker::Engine;

#[tokio::test]
async fn a_container_that_wants_too_much_memory_is_reported_so() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("greedy", "x");
    service["memory_limit"] = json!("16m");
    // Runs well at first.
    service["command"] = json!(["sh", "-c", "test -e /state/eat && exec tail /dev/zero; exec sh /bin/web"]);
    service["volumes"] = json!(["state:/state"]);
    create(&api, service).await;
    let id = api.get("/services/greedy").await.json()["state"]["containers"][0]["id"].clone();
    let exec = json!({ "Cmd": ["sh", "-c", "touch /state/eat; kill 1"] });
    let made = engine.post(&format!("/containers/{}/exec", id.as_str().unwrap()), &exec);
    engine.post(&format!("/exec/{}/start", made["Id"].as_str().unwrap()), &json!({ "Detach": true }));
    let killed = |seen: &Value| {
        seen["state"]["status"] == "crash_loop" && seen["state"]["containers"][0]["oom_killed"] == true
    };
    let seen = shown(&api, "greedy", "in a loop", killed).await;
    assert!(seen["state"]["last_error"].as_str().unwrap().contains("more memory than its limit"), "{seen:#}");
    assert!(seen["state"]["addresses"].as_array().unwrap().is_empty(), "{seen:#}");
}

#[tokio::test]
async fn a_crash_loop_is_reported_and_backs_off() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("loop", "x");
    service["command"] = json!(["sh", "-c", "test -e /state/die && exit 5; exec sh /bin/web"]);
    service["volumes"] = json!(["state:/state"]);
    service["host"] = json!("loop.test");
    create(&api, service).await;
    let id =
        api.get("/services/loop").await.json()["state"]["containers"][0]["id"].as_str().unwrap().to_owned();
    let exec = json!({ "Cmd": ["sh", "-c", "touch /state/die; kill 1"] });
    let made = engine.post(&format!("/containers/{id}/exec"), &exec);
    let killed_at = Instant::now();
    engine.post(&format!("/exec/{}/start", made["Id"].as_str().unwrap()), &json!({ "Detach": true }));
    let seen = shown(&api, "loop", "in a loop", |seen| seen["state"]["status"] == "crash_loop").await;
    assert!(seen["state"]["last_error"].as_str().unwrap().contains("code 5"), "{seen:#}");
    assert_eq!(ask(&daemon, "loop.test").await.status, 503);
    // Without a pause there would be hundreds by then; the engine doubles it from 100 ms on.
    let four = |seen: &Value| seen["state"]["containers"][0]["restarts"].as_i64() >= Some(6);
    shown(&api, "loop", "started again six times", four).await;
    assert!(killed_at.elapsed() > Duration::from_secs(3), "{:?}", killed_at.elapsed());
    assert_eq!(engine.containers().len(), 1, "nobody makes more of them");
}

#[tokio::test]
async fn what_happens_to_a_container_is_known_within_a_second() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["restart_policy"] = json!("no");
    let made = create(&api, service).await;
    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    engine.post(&format!("/containers/{id}/kill"), &Value::Null);
    let at = Instant::now();
    shown(&api, "web", "ended", |seen| seen["state"]["status"] == "exited").await;
    assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
}

#[tokio::test]
async fn a_route_to_a_service_has_the_checks_of_the_service() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["command"] =
        json!(["sh", "-c", "mkdir -p /tmp/www && echo fine > /tmp/www/well; exec sh /bin/web"]);
    service["health_check"] = json!({ "path": "/well", "interval_seconds": 1, "unhealthy_threshold": 1,
                                      "healthy_threshold": 1, "fail_when_all_unhealthy": true });
    let made = create(&api, service).await;
    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    daemon.proxy("site.test", "http://127.0.0.1:9", &json!({}));
    daemon.proxy("whole.test", "service:web", &json!({}));
    daemon.run(&["route", "create", "/well", "service", "web"]);
    let run = |command: &str| {
        let exec = json!({ "Cmd": ["sh", "-c", command] });
        let made = engine.post(&format!("/containers/{id}/exec"), &exec);
        engine.post(&format!("/exec/{}/start", made["Id"].as_str().unwrap()), &json!({ "Detach": true }));
    };
    let answers = async |host: &str, path: &str, status: u16| {
        let end = Instant::now() + LONG;
        loop {
            let answer = plain(daemon.http, get(host, path)).await;
            if answer.status == status {
                return answer;
            }
            assert!(Instant::now() < end, "{host}{path} answers {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    answers("site.test", "/well", 200).await;
    let shown = daemon.run(&["upstream", "show", "web"]);
    assert_eq!(shown[0]["health_check"]["asks"], "GET /well", "{shown:#}");
    run("mv /tmp/www/well /tmp/www/sick");
    let refused = answers("site.test", "/well", 503).await;
    assert_eq!(refused.json()["code"], "no_healthy_upstream");
    // A host that says nothing of its own has them, too.
    answers("whole.test", "/", 503).await;
    run("mv /tmp/www/sick /tmp/www/well");
    answers("site.test", "/well", 200).await;
    let wrong = json!({ "health_check": { "interval_seconds": 0 } });
    let refused = api.call("PATCH", "/services/web", wrong).await;
    assert!(refused.status == 422 && refused.json().to_string().contains("health_check.interval_seconds"));
    // How it is asked is no reason for another container.
    daemon.run(&["service", "update", "web", "--health-check", "path=/"]);
    assert_eq!(engine.get(&format!("/containers/{id}/json"))["State"]["Running"], true);
}

#[tokio::test]
async fn logs_and_usage_are_shown() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["command"] =
        json!(["sh", "-c", "for at in 1 2 3; do echo line $at; done; echo wrong >&2; exec sh /bin/web"]);
    create(&api, service).await;
    let all = daemon.run(&["service", "logs", "web"]);
    assert!(
        ["line 1\n", "line 3\n", "wrong\n"].iter().all(|line| all["logs"].as_str().unwrap().contains(line)),
        "{all}"
    );
    assert_eq!(daemon.run(&["service", "logs", "web", "--lines", "2"])["lines"], 2);
    let timed = daemon.run(&["service", "logs", "web", "--timestamps", "--since", "1h"]);
    assert!(timed["logs"].as_str().unwrap().starts_with("20"), "{timed}");
    assert_eq!(api.get("/services/web/logs?since=soon").await.status, 422);
    let stats = daemon.run(&["service", "stats", "web"]);
    assert_eq!(stats["memory_limit"], 64 << 20, "{stats:#}");
    assert!(stats["pids"].as_u64() >= Some(1) && stats["memory_usage"].as_u64() > Some(0), "{stats:#}");
    let checked = daemon.run(&["service", "check", "web"]);
    assert_eq!(checked[0]["healthy"], true, "{checked:#}");
}

#[tokio::test]
async fn what_a_service_uses_is_followed_until_its_container_ends() {
    let engine = Engine::start();
    let daemon = Arc::new(engine.daemon());
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["restart_policy"] = json!("no");
    let made = create(&api, service).await;
    let id = made["state"]["containers"][0]["id"].as_str().unwrap().to_owned();
    let command_line = std::thread::spawn({
        let daemon = Arc::clone(&daemon);
        move || daemon.cli(&["service", "stats", "web", "--follow"])
    });
    let response = api.open("GET", "/services/web/stats?follow=true", &[], "").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut said = String::new();
    let mut killed = false;
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.unwrap().into_data() else { continue };
            said.push_str(&String::from_utf8_lossy(&data));
            if !killed && said.matches("\"memory_usage\"").count() >= 3 {
                engine.post(&format!("/containers/{id}/kill"), &Value::Null);
                killed = true;
            }
        }
    };
    tokio::time::timeout(LONG, read).await.expect("the stream ends with the container");
    let first = said.lines().find_map(|line| line.strip_prefix("data: ")).expect("a reading");
    let first: Value = serde_json::from_str(first).unwrap();
    assert_eq!(
        (first["replica"].clone(), first["memory_limit"].clone()),
        (json!(0), json!(64 << 20)),
        "{first}"
    );
    assert!(first["pids"].as_u64() >= Some(1), "{first}");
    assert!(said.contains("event: end") && said.contains("has ended"), "{said}");
    let printed = command_line.join().unwrap();
    let (lines, end) = (String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&printed.stderr));
    assert!(
        printed.status.success() && lines.contains("memory") && end.contains("has ended"),
        "{lines}\n{end}"
    );
    // There is nothing to follow any more.
    let refused = api.get("/services/web/stats?follow=true").await;
    assert_eq!(refused.status, 409, "{}", String::from_utf8_lossy(&refused.body));
    assert_eq!(api.get("/services/web/stats?follow=perhaps").await.status, 422);
    assert_eq!(api.get("/services/web/stats?follow=false").await.status, 200);
}

#[tokio::test]
async fn a_hundred_mebibytes_of_logs_are_followed_without_growing() {
    let engine = Engine::start();
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_LOG_SIZE", "200m");
    });
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    // It begins when somebody follows.
    service["command"] = json!([
        "sh",
        "-c",
        "sh /bin/web & while ! test -e /state/go; do sleep 0.1; done; yes $(printf %02047d 7) | head -c 104857600; echo; echo END; wait"
    ]);
    service["volumes"] = json!(["state:/state"]);
    let made = create(&api, service).await;
    let mut body = api.open("GET", "/services/web/logs/follow?lines=0", &[], "").await.into_body();
    let before = memory(&daemon);
    let id = made["state"]["containers"][0]["id"].as_str().unwrap();
    let exec = engine.post(&format!("/containers/{id}/exec"), &json!({ "Cmd": ["touch", "/state/go"] }));
    engine.post(&format!("/exec/{}/start", exec["Id"].as_str().unwrap()), &json!({ "Detach": true }));
    let (mut bytes, mut frames, mut most, mut last) = (0, 0_u64, 0, Vec::new());
    let read = async {
        loop {
            let frame = body.frame().await.expect("more").unwrap();
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len();
            frames += 1;
            last.extend_from_slice(&data);
            if last.windows(3).any(|word| word == b"END") {
                return;
            }
            last.drain(..last.len().saturating_sub(16));
            if frames.is_multiple_of(64) {
                most = most.max(memory(&daemon));
            }
        }
    };
    tokio::time::timeout(LONG * 2, read).await.expect("the end comes");
    assert!(bytes > 100 << 20, "{bytes}");
    let grown = most.max(memory(&daemon)).saturating_sub(before);
    assert!(grown < 24 << 10, "{before} KiB grew by {grown} KiB");
}

/// The memory that a daemon occupies, in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
