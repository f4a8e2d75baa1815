//! Images that are pulled, from a real registry.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::support::docker::Engine;
use crate::support::eventually_within;

/// A registry of images that the engine can reach.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    async fn start(engine: &Engine) -> Self {
        let port = crate::ports::spare(1)[0];
        let config = engine.dir().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '127.0.0.1:{port}' }}\n",
            engine.dir().join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(&config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let registry = Self { child: child.expect("docker-registry is installed"), port };
        eventually_within(LONG, "the registry starts", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        registry
    }

    /// Moves an image of the engine here; its digest.
    fn take(&self, engine: &Engine, from: &str, to: &str) -> String {
        let name = format!("127.0.0.1:{}/{to}", self.port);
        let (repository, tag) = name.rsplit_once(':').unwrap();
        engine.post(&format!("/images/{from}/tag?repo={repository}&tag={tag}"), &json!({}));
        let told = engine.push(&name);
        let digest = told.split("\"Digest\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let digest = digest.unwrap_or_else(|| panic!("not pushed: {told}")).to_owned();
        engine.delete(&format!("/images/{name}"));
        digest
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test]
async fn an_image_that_is_missing_is_pulled_and_told() {
    let engine = Engine::start();
    let registry = Registry::start(&engine).await;
    registry.take(&engine, "web:1", "team/web:1");
    let daemon = engine.daemon();
    let image = format!("127.0.0.1:{}/team/web:1", registry.port);
    let made = daemon.cli(&["service", "create", "web", "--image", &image, "--host", "web.test"]);
    let told = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{told}");
    assert!(told.contains("pulling") && told.contains("Pulling from team/web"), "progress is told:\n{told}");
    assert_eq!(says(&daemon, "web.test").await, (200, "none".to_owned()));

    let api = Api::local(&daemon);
    let mut missing = web("other", "x");
    missing["image"] = json!(image.replace("web:1", "web:2"));
    let failed = api.call("POST", "/services/", missing).await;
    let told = failed.json().to_string();
    assert!(failed.status == 502 && told.contains("can't be pulled") && told.contains("web:2"), "{told}");
    assert_eq!(api.get("/services/other").await.status, 404);
}

#[tokio::test]
async fn only_what_is_named_by_its_digest_runs_where_that_is_asked_for() {
    let engine = Engine::start();
    let registry = Registry::start(&engine).await;
    let digest = registry.take(&engine, "web:1", "team/web:1");
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_REQUIRE_DIGEST", "true");
    });
    let api = Api::local(&daemon);
    let repository = format!("127.0.0.1:{}/team/web", registry.port);
    let mut service = web("web", "x");
    service["image"] = json!(format!("{repository}:1"));
    let refused = api.call("POST", "/services/", service.clone()).await;
    let told = refused.json().to_string();
    assert!(refused.status == 422 && told.contains("PORTCULLIS_DOCKER_REQUIRE_DIGEST"), "{told}");
    service["image"] = json!(format!("{repository}@{digest}"));
    service["host"] = json!("web.test");
    create(&api, service).await;
    assert_eq!(says(&daemon, "web.test").await, (200, "x".to_owned()));
}
