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
    engine.context("url", &[("Dockerfile", "FROM web:1\nADD http://127.0.0.1:1/ /x\n")]);
    engine.context("hidden", &[("Dockerfile", "FROM web:1\nCOPY --chown=0\\\n --from=alpine:3 / /x\n")]);
    engine.context("heredoc", &[("Dockerfile", "FROM web:1\nRUN sh <<E\nFROM web:1 AS a\nE\nFROM a\n")]);
    let built =
        |context: &str| json!({ "image": null, "dockerfile_path": "Dockerfile", "build_context": context });
    std::os::unix::fs::symlink("/etc", engine.dir().join("link")).unwrap();
    let link = format!("{}/link:/etc2", engine.dir().display());
    for (more, says) in [
        (json!({ "image": "other:1" }), "PORTCULLIS_DOCKER_IMAGES"),
        (json!({ "image": "0123456789ab" }), "id of an image"),
        (built("other"), "alpine:3"),
        (built("hidden"), "alpine:3"),
        (built("heredoc"), "here-documents"),
        (built("url"), "PORTCULLIS_DOCKER_BUILD_URLS"),
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

#[tokio::test]
async fn what_stands_for_something_else_by_now_is_not_mounted() {
    let engine = Engine::start();
    let shared = engine.dir().join("shared");
    std::fs::create_dir_all(shared.join("in")).unwrap();
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_MOUNTS", &shared);
    });
    let api = Api::local(&daemon);
    let within = format!("{}/in:/data:ro", shared.display());
    let mut service = web("web", "x");
    service["volumes"] = json!([within]);
    create(&api, service.clone()).await;
    // What somebody else could make a link of is mounted for nobody.
    let mut writer = web("writer", "x");
    writer["volumes"] = json!([format!("{}:/data", shared.display())]);
    let refused = api.call("POST", "/services/", writer.clone()).await;
    let told = refused.json().to_string();
    assert!(
        refused.status == 422 && told.contains("volumes[0]") && told.contains("the service web"),
        "{told}"
    );
    writer["volumes"] = json!([format!("{}:/data:ro", shared.display())]);
    create(&api, writer).await;
    // A link between the look and the start.
    assert_eq!(api.call("POST", "/services/web/stop", json!({})).await.status, 200);
    std::fs::remove_dir(shared.join("in")).unwrap();
    std::os::unix::fs::symlink("/etc", shared.join("in")).unwrap();
    let refused = api.call("POST", "/services/web/start", json!({})).await;
    let told = refused.json().to_string();
    assert!(refused.status == 422 && told.contains("leads to /etc"), "{} {told}", refused.status);
    assert_eq!(shown(&api, "web", "stopped", |_| true).await["state"]["status"], "stopped");
}

#[tokio::test]
async fn volumes_that_were_not_made_for_services_are_left_alone() {
    let engine = Engine::start();
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_VOLUMES", "shared-*");
    });
    let api = Api::local(&daemon);
    for name in ["database", "shared-data"] {
        engine.post("/volumes/create", &json!({ "Name": name }));
    }
    let with = |name: &str, volume: &str| {
        let mut service = web(name, "x");
        service["volumes"] = json!([format!("{volume}:/data")]);
        service
    };
    let refused = api.call("POST", "/services/", with("web", "database")).await;
    let told = refused.json().to_string();
    assert!(refused.status == 422 && told.contains("PORTCULLIS_DOCKER_VOLUMES"), "{} {told}", refused.status);
    for (name, volume) in [("one", "own"), ("two", "own"), ("three", "shared-data")] {
        create(&api, with(name, volume)).await;
    }
    let moved = json!({ "volumes": ["database:/data"] });
    let refused = api.call("PATCH", "/services/one", moved).await;
    assert!(refused.json().to_string().contains("PORTCULLIS_DOCKER_VOLUMES"), "{}", refused.json());
}

#[tokio::test]
async fn what_policy_allows_no_more_goes_on_until_it_ends() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let mut service = web("web", "x");
    service["host"] = json!("web.test");
    create(&Api::local(&daemon), service).await;
    let daemon = with_other_images(&engine, daemon);
    let api = Api::local(&daemon);
    let seen = shown(&api, "web", "refused", |seen| seen["state"]["status"] == "failed").await;
    assert!(seen["state"]["last_error"].to_string().contains("PORTCULLIS_DOCKER_IMAGES"), "{seen:#}");
    assert_eq!(says(&daemon, "web.test").await, (200, "x".to_owned()));
    assert_eq!(api.call("POST", "/services/web/restart", json!({})).await.status, 422);
    assert_eq!(api.call("POST", "/services/web/stop", json!({})).await.status, 200);
    assert_eq!(ask(&daemon, "web.test").await.status, 503);
    assert_eq!(api.call("DELETE", "/services/web?delete_proxy=true", json!({})).await.status, 200);
    assert_eq!(engine.containers(), Vec::<Value>::new());
}
