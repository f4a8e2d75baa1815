//! An engine behind the socket proxy that `deploy/docker-socket-proxy` ships.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::reaching::whole_life;
use super::*;
use crate::support::PATIENCE;
use crate::support::docker::Engine;
use crate::support::redis::free_port;

/// nginx with the file that is shipped, in which only its addresses and its folder are others.
struct SocketProxy {
    child: Child,
    at: SocketAddr,
    log: PathBuf,
}

impl SocketProxy {
    fn start(engine: &Engine, name: &str, change: impl Fn(String) -> String) -> Self {
        let dir = engine.dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docker-socket-proxy/nginx.conf");
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut text = change(fs::read_to_string(shipped).unwrap());
        for (from, to) in [
            ("/tmp/", format!("{}/", dir.display())),
            ("listen 2375;", format!("listen {at};")),
            ("unix:/var/run/docker.sock:", format!("unix:{}:", engine.socket().display())),
        ] {
            assert!(text.contains(from), "{from} is in the file");
            text = text.replace(from, &to);
        }
        let file = dir.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let log = dir.join("log");
        let output = File::create(&log).unwrap();
        let mut command = Command::new("setpriv");
        // It ends with the test, whatever happens to that.
        command.args([
            "--pdeathsig",
            "KILL",
            "nginx",
            "-e",
            "stderr",
            "-g",
            "daemon off; master_process off;",
        ]);
        command.arg("-p").arg(&dir).arg("-c").arg(&file).stdin(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let mut child = command.spawn().expect("setpriv is installed");
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(at).is_err() {
            let ended = child.try_wait().unwrap();
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < end, "no nginx ({ended:?}): {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, at, log }
    }

    fn host(&self) -> String {
        format!("tcp://{}", self.at)
    }

    /// The status, and what was said.
    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let request = http::Request::builder().method(method).uri(path).header("host", "docker");
        let request = request.header("content-type", "application/json").body("{}".to_owned()).unwrap();
        let answer = plain(self.at, request).await;
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for SocketProxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the proxy's log:\n{}", self.log());
        }
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_live_behind_the_socket_proxy_that_is_shipped() {
    let engine = Engine::start();
    let proxy = SocketProxy::start(&engine, "proxy", |text| text);
    let daemon = engine.daemon_with(|command| {
        command.env("DOCKER_HOST", proxy.host());
    });
    whole_life(&engine, &daemon, false).await;
    // There is no registry; but the engine is asked to pull.
    let digest = "a".repeat(64);
    for image in ["127.0.0.1:9/owner/none:1".to_owned(), format!("127.0.0.1:9/none@sha256:{digest}")] {
        let missing = json!({ "service_name": "missing", "image": image });
        let failed = Api::local(&daemon).call("POST", "/services/", missing).await;
        let detail = failed.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("127.0.0.1:9") && !detail.contains("proxy does not"), "{detail}");
    }
    // Nothing else was refused.
    let refused: Vec<_> =
        proxy.log().lines().filter(|line| line.contains(" 403 ")).map(str::to_owned).collect();
    assert!(!refused.is_empty() && refused.iter().all(|line| line.contains("/exec HTTP")), "{refused:#?}");
    drop(daemon);
    drop(proxy);

    // With the lines for it, checks run in containers; and a version of the API may be asked for.
    let proxy = SocketProxy::start(&engine, "with-exec", |text| {
        assert_eq!(text.matches("#exec ").count(), 3);
        text.replace("#exec ", "")
    });
    let daemon = engine.daemon_with(|command| {
        command.env("DOCKER_HOST", proxy.host()).env("DOCKER_API_VERSION", "1.41");
    });
    whole_life(&engine, &daemon, true).await;
    let log = proxy.log();
    assert!(!log.contains(" 403 ") && log.contains("POST /v1.41/containers/create?"), "{log}");
}

#[tokio::test]
async fn the_socket_proxy_refuses_what_portcullis_never_asks_for() {
    let engine = Engine::start();
    let proxy = SocketProxy::start(&engine, "proxy", |text| text);
    let made = engine.post("/containers/create?name=other", &json!({ "Image": "web:1" }));
    let id = made["Id"].as_str().unwrap();
    assert_eq!(proxy.ask("GET", "/v1.41/_ping").await, (200, "OK".to_owned()));
    assert_eq!(proxy.ask("GET", &format!("/containers/{id}/json")).await.0, 200);
    let of = |what: &str| format!("/containers/{id}/{what}");
    for (method, path) in [
        ("GET", "/swarm".to_owned()),
        ("POST", "/swarm/init".to_owned()),
        ("GET", "/secrets".to_owned()),
        ("POST", "/secrets/create".to_owned()),
        ("POST", "/services/create".to_owned()),
        ("GET", "/configs".to_owned()),
        ("POST", "/plugins/pull?remote=x".to_owned()),
        ("POST", "/system/prune".to_owned()),
        ("POST", "/containers/prune".to_owned()),
        ("POST", "/images/prune".to_owned()),
        ("GET", "/system/df".to_owned()),
        ("GET", "/volumes".to_owned()),
        ("POST", "/volumes/create".to_owned()),
        ("DELETE", "/volumes/data".to_owned()),
        ("GET", of("archive?path=/etc")),
        ("PUT", of("archive?path=/etc")),
        ("GET", of("export")),
        ("GET", of("top")),
        ("POST", of("exec")),
        ("POST", format!("/exec/{id}/start")),
        ("POST", of("attach")),
        ("POST", of("update")),
        ("POST", of("rename?name=portcullis-x")),
        ("POST", of("kill")),
        ("POST", "/containers/create".to_owned()),
        ("POST", "/containers/create?name=other2".to_owned()),
        ("POST", "/containers/create?name=portcullis-x&name=other2".to_owned()),
        ("POST", format!("/commit?container={id}")),
        ("POST", "/images/load".to_owned()),
        ("POST", "/images/create?fromSrc=http://127.0.0.1/x.tar".to_owned()),
        ("POST", "/images/create?fromImage=x&fromSrc=-".to_owned()),
        ("GET", "/images/get?names=web".to_owned()),
        ("GET", "/images/web/get".to_owned()),
        ("POST", "/images/web/push".to_owned()),
        ("POST", "/images/web/tag?repo=portcullis-service/x".to_owned()),
        ("DELETE", "/images/web:1".to_owned()),
        ("POST", "/build?remote=http://127.0.0.1/x.tar".to_owned()),
        ("POST", "/build?t=other:1".to_owned()),
        ("POST", "/build/prune".to_owned()),
        ("POST", "/auth".to_owned()),
        ("POST", "/session".to_owned()),
        ("DELETE", "/networks/bridge".to_owned()),
        ("POST", "/networks/bridge/disconnect".to_owned()),
        // What means something else to somebody who decodes or tidies up.
        ("GET", "/containers/../swarm".to_owned()),
        ("GET", "/containers/%2e%2e/info".to_owned()),
        ("GET", "/images/../info/json".to_owned()),
        ("GET", "/images/x/../../containers/json".to_owned()),
        ("GET", "//info".to_owned()),
        ("GET", format!("/containers/{id}/json/../archive?path=/etc")),
        ("GET", format!("/containers/{id}/archive%3f/json")),
    ] {
        let (status, told) = proxy.ask(method, &path).await;
        assert!(status == 403 && told.contains("does not allow"), "{method} {path}: {status} {told}");
    }
    assert_eq!(engine.get(&of("json"))["Name"], "/other", "nothing has happened to it");
}
