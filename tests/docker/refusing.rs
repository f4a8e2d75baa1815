//! What services may not be.

use super::*;
use crate::support::docker::Engine;

#[tokio::test]
async fn what_policy_refuses_says_which_policy_and_makes_nothing() {
    let engine = Engine::start();
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_IMAGES", "web:*").env("PORTCULLIS_DOCKER_MOUNTS", engine.dir());
    });
    let api = Api::local(&daemon);
    let socket = format!("{}:/engine", engine.socket().display());
    let whole = format!("{}:/engine", engine.dir().display());
    engine.context("other", &[("Dockerfile", "FROM alpine:3\n")]);
    std::os::unix::fs::symlink("/etc", engine.dir().join("link")).unwrap();
    let link = format!("{}/link:/etc2", engine.dir().display());
    for (more, says) in [
        (json!({ "image": "other:1" }), "PORTCULLIS_DOCKER_IMAGES"),
        (json!({ "image": null, "dockerfile_path": "Dockerfile", "build_context": "other" }), "alpine:3"),
        (json!({ "volumes": ["/etc:/x"] }), "PORTCULLIS_DOCKER_MOUNTS"),
        (json!({ "volumes": [socket] }), "socket is never mounted"),
        (json!({ "volumes": [whole] }), "socket is never mounted"),
        (json!({ "volumes": [link] }), "leads to /etc"),
        (json!({ "capabilities": ["NET_ADMIN"] }), "PORTCULLIS_DOCKER_CAPABILITIES"),
        (json!({ "capabilities": ["SYS_ADMIN"] }), "never given"),
        (json!({ "networks": ["host"] }), "never use"),
        (json!({ "privileged": true }), "privileged"),
        (json!({ "network_mode": "host" }), "network_mode"),
    ] {
        let mut service = web("web", "x");
        service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let refused = api.call("POST", "/services/", service).await;
        let told = refused.json().to_string();
        assert!(refused.status == 422 && told.contains(says), "{more}: {} {told}", refused.status);
    }
    assert_eq!(engine.containers(), Vec::<Value>::new());
    assert_eq!(api.get("/services/").await.json()["total"], 0);
}

#[tokio::test]
async fn a_container_can_write_only_where_images_do_and_gains_nothing() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let script = "for at in / /etc /tmp /run /var/run /var/cache /var/log; do \
                  mkdir -p $at/try 2>/dev/null && echo \"$at yes\" || echo \"$at no\"; done > /tmp/found; \
                  grep -E 'CapEff|NoNewPrivs' /proc/self/status >> /tmp/found; \
                  mkdir -p /tmp/www && cp /tmp/found /tmp/www/index.html; exec httpd -f -p 8000 -h /tmp/www";
    let mut service = web("web", "x");
    service["command"] = json!(["sh", "-c", script]);
    service["host"] = json!("web.test");
    create(&api, service).await;
    let (_, found) = says(&daemon, "web.test").await;
    for line in ["/ no", "/etc no", "/tmp yes", "/run yes", "/var/run yes", "/var/cache yes", "/var/log yes"]
    {
        assert!(found.lines().any(|one| one == line), "{line}: {found}");
    }
    assert!(found.contains("NoNewPrivs:\t1"), "{found}");
    // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID and NET_BIND_SERVICE.
    assert!(found.contains("CapEff:\t00000000000004eb"), "{found}");
}
