//! Images that are built.

use super::*;
use crate::support::docker::Engine;

const BASE: &str =
    "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";

#[tokio::test]
async fn one_command_makes_a_host_of_a_dockerfile() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let dockerfile = format!(
        "{BASE}ARG WORD\nRUN mkdir /www && echo $WORD > /www/index.html && touch /www/$(ls /ctx | wc -l)\nEXPOSE 7000\n\
         CMD [\"httpd\", \"-f\", \"-p\", \"7000\", \"-h\", \"/www\"]\n"
    )
    .replace("ARG WORD", "COPY . /ctx\nARG WORD");
    let files = [("Dockerfile", dockerfile.as_str()), ("secret.txt", "hidden"), (".dockerignore", "*.txt\n")];
    engine.context("app", &files);
    let made = daemon.cli(&[
        "--format",
        "json",
        "service",
        "create",
        "app",
        "--dockerfile-path",
        "Dockerfile",
        "--build-context",
        "app",
        "--build-args",
        "WORD=built",
        "--host",
        "app.localhost",
        "--auth",
        "--memory-limit",
        "64m",
    ]);
    let (out, told) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success(), "{out}\n{told}");
    assert!(told.contains("Step 1/") && told.contains("app is running"), "progress is told:\n{told}");
    let made: Value = serde_json::from_str(&out).unwrap();
    assert!(made["state"]["addresses"][0].as_str().unwrap().ends_with(":7000"), "the exposed port: {made:#}");
    let stranger = crate::support::client::secure(daemon.https, get("app.localhost", "/")).await;
    assert!(stranger.status == 302 || stranger.status == 401, "people have to sign in: {stranger:?}");
    daemon.proxy("open.test", "service:app", &json!({}));
    assert_eq!(says(&daemon, "open.test").await, (200, "built".to_owned()));
    // What is ignored is not in the image: Dockerfile, .dockerignore (hidden for ls) and busybox are.
    assert_eq!(plain(daemon.http, get("open.test", "/2")).await.status, 200);

    engine.context("app", &[("Dockerfile", &dockerfile.replace("echo $WORD", "echo again"))]);
    let rebuilt = daemon.run(&["service", "rebuild", "app"]);
    assert_eq!(rebuilt["state"]["status"], "running", "{rebuilt:#}");
    assert_eq!(says(&daemon, "open.test").await.1, "again");
}

#[tokio::test]
async fn a_build_that_fails_says_where_and_leaves_nothing() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let dockerfile = format!("{BASE}RUN echo before the end\nRUN exit 7\n");
    engine.context("bad", &[("Dockerfile", &dockerfile)]);
    let service = json!({ "service_name": "bad", "dockerfile_path": "Dockerfile", "build_context": "bad" });
    let failed = api.call("POST", "/services/", service).await;
    let told = failed.json();
    assert_eq!(failed.status, 502, "{told:#}");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("non-zero code: 7") && detail.contains("before the end"), "{told:#}");
    assert_eq!(api.get("/services/bad").await.status, 404);

    for (context, field) in [("../..", "build_context"), ("none", "build_context")] {
        let service =
            json!({ "service_name": "bad", "dockerfile_path": "Dockerfile", "build_context": context });
        let refused = api.call("POST", "/services/", service).await;
        assert_eq!(refused.status, 422, "{context}");
        assert_eq!(refused.json()["errors"][0]["field"], field, "{context}: {}", refused.json());
    }
}

#[tokio::test]
async fn a_build_has_limits_and_ends_when_nobody_wants_it() {
    let engine = Engine::start();
    let daemon = engine.daemon_with(|command| {
        command.env("PORTCULLIS_DOCKER_BUILD_TIMEOUT", "8").env("PORTCULLIS_DOCKER_BUILD_MEMORY", "64m");
    });
    let api = Api::local(&daemon);
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
    let dockerfile = format!("{BASE}RUN mkdir -p /sys; {limit}; echo limit; sleep 600\n");
    engine.context("slow", &[("Dockerfile", &dockerfile)]);
    let service = json!({ "service_name": "slow", "dockerfile_path": "Dockerfile", "build_context": "slow" });
    let failed = api.call("POST", "/services/", service).await;
    let told = failed.json().to_string();
    assert_eq!(failed.status, 502, "{told}");
    assert!(told.contains("PORTCULLIS_DOCKER_BUILD_TIMEOUT") && told.contains("67108864"), "{told}");
    no_containers(&engine).await;

    // What was built before is built anew; nobody waits for that when the service is deleted.
    let quick =
        dockerfile.replace("sleep 600", "true").replace("; echo limit", "") + "CMD [\"sleep\", \"600\"]\n";
    engine.context("slow", &[("Dockerfile", &quick)]);
    let service = json!({
        "service_name": "slow", "dockerfile_path": "Dockerfile", "build_context": "slow",
        "healthcheck": { "test": ["CMD", "true"], "interval_seconds": 1 },
    });
    create(&api, service).await;
    engine.context("slow", &[("Dockerfile", &dockerfile.replace("sleep 600", "sleep 601"))]);
    let rebuild = tokio::spawn({
        let api = api.clone();
        async move { api.call("POST", "/services/slow/rebuild", json!({})).await }
    });
    shown(&api, "slow", "being built", |seen| seen["state"]["status"] == "updating").await;
    let deleted = api.call("DELETE", "/services/slow", json!({})).await;
    assert_eq!(deleted.status, 200, "{}", deleted.json());
    rebuild.abort();
    no_containers(&engine).await;
}

/// Waits until nothing is left, of builds either.
async fn no_containers(engine: &Engine) {
    let end = Instant::now() + LONG;
    while !engine.containers().is_empty() {
        assert!(Instant::now() < end, "still there: {:#?}", engine.containers());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn what_was_made_is_taken_back_when_a_step_fails() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let mut service = web("web", "x");
    service["command"] = json!(["sh", "-c", "echo told >&2; exit 4"]);
    service["host"] = json!("web.test");
    let failed = api.call("POST", "/services/", service).await;
    assert_eq!(failed.status, 502);
    assert!(failed.json()["detail"].as_str().unwrap().contains("code 4"), "{}", failed.json());
    let mut service = web("web", "x");
    service["host"] = json!("web.test");
    service["proxy"] = json!({ "color": "red" });
    assert_eq!(api.call("POST", "/services/", service).await.status, 422, "the host is what is wrong");
    assert_eq!(api.get("/services/web").await.status, 404);
    assert_eq!(api.get("/proxy/targets/web.test").await.status, 404);
    assert_eq!(engine.containers(), Vec::<Value>::new());
}

#[tokio::test]
async fn what_was_built_is_judged_again_by_a_policy_that_changed() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    engine.context("app", &[("Dockerfile", "FROM web:1\nCMD [\"sh\", \"/bin/web\"]\n")]);
    let service = json!({ "service_name": "app", "dockerfile_path": "Dockerfile", "build_context": "app" });
    create(&Api::local(&daemon), service).await;
    assert_eq!(Api::local(&daemon).call("POST", "/services/app/stop", json!({})).await.status, 200);
    let daemon = with_other_images(&engine, daemon);
    let api = Api::local(&daemon);
    let id = engine.containers()[0]["Id"].as_str().unwrap().to_owned();
    engine.delete(&format!("/containers/{id}"));
    let refused = api.call("POST", "/services/app/start", json!({})).await;
    let told = refused.json().to_string();
    assert!(refused.status.as_u16() >= 400 && told.contains("PORTCULLIS_DOCKER_IMAGES"), "{told}");
    assert_eq!(engine.containers(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_context_that_can_not_be_read_is_told_and_not_tried_without_a_pause() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    let folder = engine.context("app", &[("Dockerfile", "FROM web:1\nCOPY . /x\n")]);
    let service = json!({ "service_name": "app", "dockerfile_path": "Dockerfile", "build_context": "app" });
    create(&api, service).await;
    // A sparse file that is larger than contexts may be.
    std::fs::File::create(folder.join("huge")).unwrap().set_len(5 << 30).unwrap();
    let failed = api.call("POST", "/services/app/rebuild", json!({})).await;
    let told = failed.json().to_string();
    assert!(failed.status == 502 && told.contains(".dockerignore"), "{} {told}", failed.status);
    let seen = shown(&api, "app", "failed", |seen| seen["state"]["retry_at"].is_string()).await;
    assert_eq!(seen["state"]["containers"][0]["ready"], true, "the old one serves: {seen:#}");
}
