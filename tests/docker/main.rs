//! Services in containers, on a real engine.

#[path = "../support/mod.rs"]
mod support;

mod adopting;
mod building;
mod labels;
mod lives;
mod ports;
mod proxied;
mod pulling;
mod reaching;
mod recovering;
mod refusing;
mod stock;
mod updating;
mod watching;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::api::Api;
use support::client::{Answer, get, plain};
use support::daemon::Daemon;
use support::docker::Engine;

/// How long what needs an engine may take on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// Asks a host of a daemon.
async fn ask(daemon: &Daemon, host: &str) -> Answer {
    plain(daemon.http, get(host, "/")).await
}

/// What a host answers, without the line break.
async fn says(daemon: &Daemon, host: &str) -> (u16, String) {
    let answer = ask(daemon, host).await;
    (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).trim().to_owned())
}

/// Waits until a host answers so.
async fn answers(daemon: &Daemon, host: &str, wanted: (u16, &str)) {
    let end = Instant::now() + LONG;
    loop {
        let said = says(daemon, host).await;
        if said.0 == wanted.0 && (said.0 != 200 || said.1 == wanted.1) {
            return;
        }
        assert!(Instant::now() < end, "{host} never answers {wanted:?}, but {said:?}:\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until `show` says so.
async fn shown(api: &Api, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/services/{name}");
    let end = Instant::now() + LONG;
    loop {
        let answer = api.get(&path).await;
        let seen = answer.json();
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "{name} is never {what}: {seen:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The same gateway again, which may run other images only.
fn with_other_images(engine: &Engine, mut daemon: Daemon) -> Daemon {
    let dir = std::sync::Arc::clone(&daemon.dir);
    daemon.signal("TERM");
    daemon.ended();
    Daemon::start_in(dir, |command| {
        engine.known_to(command);
        command.env("PORTCULLIS_DOCKER_IMAGES", "other:*");
    })
}

/// Creates a service that has to run in the end.
async fn create(api: &Api, service: Value) -> Value {
    let made = api.call("POST", "/services/", service).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    made.json()
}

/// A service of the image `web` that says `version`.
fn web(name: &str, version: &str) -> Value {
    json!({ "service_name": name, "image": "web:1", "environment": { "VERSION": version }, "memory_limit": "64m" })
}
