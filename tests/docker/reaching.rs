//! Engines that are reached over TCP, in the clear and with TLS.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use http_body_util::BodyExt;

use super::*;
use crate::support::certificate::Authority;
use crate::support::daemon::command;
use crate::support::docker::Engine;
use crate::support::eventually_within;
use crate::support::redis::free_port;

/// All that portcullis asks of an engine, from create to delete. Whether a command may be run in a container is up to
/// what stands in between.
pub(super) async fn whole_life(engine: &Engine, daemon: &Daemon, may_exec: bool) {
    let api = Api::local(daemon);
    let mut service = web("web", "one");
    service["host"] = json!("web.test");
    service["command"] = json!([
        "sh",
        "-c",
        "(while :; do echo tick; sleep 0.2; done) & cat /proc/self/cgroup; exec sh /bin/web"
    ]);
    service["healthcheck"] =
        json!({ "test": ["CMD", "sh", "-c", "test -e /tmp/www && echo all is well"], "interval_seconds": 1 });
    let made = create(&api, service).await;
    assert_eq!(made["state"]["containers"][0]["health"], "healthy", "{made:#}");
    assert_eq!(says(daemon, "web.test").await, (200, "one".to_owned()));

    let mut followed = api.open("GET", "/services/web/logs/follow?lines=1", &[], "").await.into_body();
    let read = async {
        let mut text = String::new();
        while text.matches("tick").count() < 4 {
            let frame = followed.frame().await.expect("more").unwrap();
            text += &String::from_utf8_lossy(&frame.into_data().unwrap_or_default());
        }
    };
    tokio::time::timeout(LONG, read).await.expect("lines come when they are written");
    drop(followed);
    let logs = daemon.run(&["service", "logs", "web", "--lines", "2"]);
    assert_eq!(logs["logs"], "tick\ntick\n", "{logs:#}");
    assert_eq!(daemon.run(&["service", "stats", "web"])["memory_limit"], 64 << 20);

    let checked = api.call("POST", "/services/web/check", Value::Null).await;
    if may_exec {
        let told = &checked.json()[0];
        assert_eq!((&told["healthy"], &told["output"]), (&json!(true), &json!("all is well\n")), "{told:#}");
    } else {
        let detail = checked.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("the socket proxy does not allow this call"), "{detail}");
    }

    let updated = daemon.run(&["service", "update", "web", "--environment", "VERSION=two"]);
    assert_eq!(updated["state"]["status"], "running", "{updated:#}");
    assert_eq!(says(daemon, "web.test").await, (200, "two".to_owned()));
    daemon.run(&["service", "restart", "web"]);
    daemon.run(&["service", "stop", "web"]);
    assert_eq!(ask(daemon, "web.test").await.status, 503);
    daemon.run(&["service", "start", "web"]);

    let added = daemon.run(&["port", "add", "web", "--name", "http"]);
    let port = added["host_port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
    let answer = eventually_within(LONG, "the port listens", || ports::ask_port(port, "")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("two"), "{answer}");

    // Larger than what anything in between likes to keep.
    let large = engine.context("app", &[("Dockerfile", DOCKERFILE)]).join("large");
    std::fs::write(large, vec![b'x'; 4 << 20]).unwrap();
    let built = json!({ "service_name": "app", "dockerfile_path": "Dockerfile", "build_context": "app",
                        "host": "app.test", "memory_limit": "64m", "build_args": { "WORD": "built, & signed" } });
    create(&api, built).await;
    assert_eq!(says(daemon, "app.test").await, (200, "built, & signed 4194304".to_owned()));
    daemon.run(&["service", "rebuild", "app"]);

    // What happens to containers is told by events, not only seen when somebody looks.
    let alone = |seen: &Value| seen["state"]["containers"].as_array().is_some_and(|all| all.len() == 1);
    let state = shown(&api, "web", "alone", alone).await["state"].clone();
    let id = state["containers"][0]["id"].as_str().unwrap();
    engine.post(&format!("/containers/{id}/pause"), &Value::Null);
    let paused_at = Instant::now();
    shown(&api, "web", "paused", |seen| seen["state"]["addresses"].as_array().is_some_and(Vec::is_empty))
        .await;
    assert!(paused_at.elapsed() < Duration::from_secs(10), "a look comes every 30 s");
    engine.post(&format!("/containers/{id}/unpause"), &Value::Null);

    daemon.run(&["service", "cleanup", "--remove"]);
    daemon.run(&["service", "delete", "app", "--delete-proxy"]);
    daemon.run(&["service", "delete", "web", "--delete-proxy"]);
    assert_eq!(engine.containers(), Vec::<Value>::new());
    let images = engine.get("/images/json").to_string();
    assert!(!images.contains("portcullis-service/app"), "what was built for it is gone: {images}");
}

const DOCKERFILE: &str = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
     COPY large /large\nARG WORD\nRUN mkdir /www && echo $WORD $(stat -c %s /large) > /www/index.html\nEXPOSE 7000\n\
     CMD [\"httpd\", \"-f\", \"-p\", \"7000\", \"-h\", \"/www\"]\n";

/// A folder of `ca.pem`, and `cert.pem` and `key.pem` where somebody has signed them.
fn certificates(folder: PathBuf, trusted: &Authority, own: Option<&Authority>) -> PathBuf {
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.pem"), &trusted.pem).unwrap();
    if let Some(own) = own {
        let pair = own.sign(&["portcullis"]);
        std::fs::write(folder.join("cert.pem"), pair.chain).unwrap();
        std::fs::write(folder.join("key.pem"), pair.key).unwrap();
    }
    folder
}

/// A daemon for an engine at another address than usual.
fn daemon_at(engine: &Engine, host: &str, folder: Option<&Path>) -> Daemon {
    engine.daemon_with(|command| {
        command.env("DOCKER_HOST", host);
        if let Some(folder) = folder {
            command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", folder);
        }
    })
}

/// Why a service can't be made there.
async fn refusal(engine: &Engine, host: &str, folder: Option<&Path>) -> String {
    let daemon = daemon_at(engine, host, folder);
    let refused = Api::local(&daemon).call("POST", "/services/", web("web", "x")).await;
    assert!(refused.status.as_u16() >= 500, "{} {}", refused.status, refused.json());
    refused.json()["detail"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_live_on_an_engine_over_tls_that_knows_its_clients() {
    let (authority, other) = (Authority::new(), Authority::new());
    let port = free_port();
    let engine = Engine::start_with(|engine| {
        let server = authority.sign(&["127.0.0.1", "engine.test"]);
        let at = |name: &str| engine.dir().join(name).display().to_string();
        std::fs::write(at("server.pem"), server.chain).unwrap();
        std::fs::write(at("server.key"), server.key).unwrap();
        std::fs::write(at("clients.pem"), &authority.pem).unwrap();
        let host = format!("--host=tcp://127.0.0.1:{port}");
        let files = [("tlscacert", "clients.pem"), ("tlscert", "server.pem"), ("tlskey", "server.key")];
        let files = files.map(|(flag, name)| format!("--{flag}={}", at(name)));
        [host, "--tlsverify".to_owned()].into_iter().chain(files).collect()
    });
    let host = format!("tcp://127.0.0.1:{port}");
    let folder = |name: &str, trusted, own| certificates(engine.dir().join(name), trusted, own);
    let good = folder("good", &authority, Some(&authority));

    for (name, trusted, own, says) in [
        ("stranger", &other, Some(&authority), "none of the authorities in"),
        ("nobody", &authority, None, "does not take the client certificate"),
        ("forged", &authority, Some(&other), "does not take the client certificate"),
    ] {
        let why = refusal(&engine, &host, Some(&folder(name, trusted, own))).await;
        assert!(why.contains(says) && why.contains(&host) && !why.contains("BEGIN"), "{name}: {why}");
    }
    let why = refusal(&engine, &format!("tcp://localhost:{port}"), Some(&good)).await;
    assert!(why.contains("is for other names"), "{why}");
    let why = refusal(&engine, &host, None).await;
    assert!(why.contains("HTTPS"), "{why}");

    let daemon = daemon_at(&engine, &host, Some(&good));
    whole_life(&engine, &daemon, true).await;
    assert!(!daemon.logged().contains("in the clear"), "{}", daemon.logged());
    drop(daemon);

    // Certificates that were renewed are read without a start.
    let stale = folder("changing", &authority, Some(&other));
    let daemon = daemon_at(&engine, &host, Some(&stale));
    let refused = Api::local(&daemon).call("POST", "/services/", web("web", "x")).await;
    assert!(!refused.status.is_success(), "{}", refused.json());
    folder("changing", &authority, Some(&authority));
    create(&Api::local(&daemon), web("web", "x")).await;
    daemon.run(&["service", "delete", "web"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_live_on_an_engine_over_tcp_with_a_warning_where_others_reach_it() {
    let port = free_port();
    let engine = Engine::start_with(|engine| {
        let hosts = ["127.0.0.1".to_owned(), engine.bridge()];
        let hosts = hosts.map(|at| format!("--host=tcp://{at}:{port}"));
        hosts.into_iter().chain(["--tls=false".to_owned()]).collect()
    });
    let warning = "whoever reaches that port is root on its machine";
    let own = daemon_at(&engine, &format!("tcp://127.0.0.1:{port}"), None);
    assert!(!own.logged().contains(warning), "{}", own.logged());
    drop(own);
    let daemon = daemon_at(&engine, &format!("tcp://{}:{port}", engine.bridge()), None);
    assert!(daemon.logged().contains(warning), "{}", daemon.logged());
    whole_life(&engine, &daemon, true).await;

    let authority = Authority::new();
    let folder = certificates(engine.dir().join("certs"), &authority, None);
    let why = refusal(&engine, &format!("tcp://127.0.0.1:{port}"), Some(&folder)).await;
    assert!(why.contains("it speaks no TLS"), "{why}");
}

#[test]
fn a_folder_without_usable_certificates_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = |change: &dyn Fn(&mut Command)| {
        let mut command = command(dir.path());
        command.arg("serve").env("DOCKER_HOST", "tcp://127.0.0.1:9").stdin(Stdio::null());
        command.env("OAUTH_ISSUER", "https://auth.localhost");
        change(&mut command);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let told = start(&|command| {
        command.env("DOCKER_TLS_VERIFY", "1");
    });
    assert!(told.contains("DOCKER_CERT_PATH"), "{told}");
    let told = start(&|command| {
        command.env("DOCKER_CERT_PATH", dir.path());
    });
    assert!(told.contains("ca.pem can't be read"), "{told}");
    let authority = Authority::new();
    let folder = certificates(dir.path().join("certs"), &authority, Some(&authority));
    std::fs::write(folder.join("key.pem"), "hidden-key").unwrap();
    let told = start(&|command| {
        command.env("DOCKER_CERT_PATH", &folder);
    });
    assert!(told.contains("key.pem is no private key") && !told.contains("hidden-key"), "{told}");
}
