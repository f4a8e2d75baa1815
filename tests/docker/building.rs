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
