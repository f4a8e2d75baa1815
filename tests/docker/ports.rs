//! Ports of the machine that lead to containers.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::*;
use crate::support::docker::Engine;
use crate::support::redis::RedisServer;

/// Sends datagrams back.
const SERVER: &str = r#"
fn main() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:9000").unwrap();
    let mut datagram = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        let _sent = socket.send_to(&datagram[..length], from);
    }
}
"#;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// Ports of this machine that nobody has; tests run side by side.
pub(super) fn spare(count: usize) -> Vec<u16> {
    let bound: Vec<_> = std::iter::repeat_with(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .filter(|bound| bound.local_addr().unwrap().port() >= 14_000)
        .take(count)
        .collect();
    bound.iter().map(|bound| bound.local_addr().unwrap().port()).collect()
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn add(api: &Api, service: &str, port: Value) -> Value {
    let added = api.call("POST", &format!("/services/{service}/ports"), port).await;
    assert_eq!(added.status, 201, "{}", String::from_utf8_lossy(&added.body));
    added.json()
}

/// What a request to a port is answered with; nothing when the connection is closed.
pub(super) async fn ask_port(port: u16, headers: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at(port)).await.ok()?;
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// Waits until a port answers so.
async fn answers(port: u16, headers: &str, wanted: impl Fn(Option<&str>) -> bool) {
    let end = Instant::now() + LONG;
    loop {
        let answer = ask_port(port, headers).await;
        if wanted(answer.as_deref()) {
            return;
        }
        assert!(Instant::now() < end, "port {port} answers {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_200(answer: Option<&str>) -> bool {
    answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_leads_to_the_containers_through_an_update_and_closes_with_the_service() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    create(&api, web("web", "one")).await;
    let port = spare(1)[0];
    let added = add(&api, "web", json!({ "port_name": "http", "host_port": port })).await;
    assert_eq!((&added["bind_address"], &added["require_token"]), (&json!("127.0.0.1"), &json!(false)));
    answers(port, "", is_200).await;
    // Nothing was published by the engine.
    let containers = engine.get("/containers/json");
    assert!(containers.as_array().unwrap().iter().all(|one| {
        one["Ports"].as_array().is_none_or(|ports| ports.iter().all(|port| port.get("PublicPort").is_none()))
    }));
    let stop = tokio_util::sync::CancellationToken::new();
    let watch = stop.clone();
    let load = tokio::spawn(async move {
        let (mut wrong, mut right) = (Vec::new(), 0);
        while !watch.is_cancelled() {
            match ask_port(port, "").await {
                answer if is_200(answer.as_deref()) => right += 1,
                answer => wrong.push(answer),
            }
        }
        (wrong, right)
    });
    let update = json!({ "environment": { "VERSION": "two" } });
    assert_eq!(api.call("PATCH", "/services/web", update).await.status, 200);
    answers(port, "", |answer| answer.is_some_and(|answer| answer.contains("two"))).await;
    stop.cancel();
    let (wrong, right) = load.await.unwrap();
    assert_eq!(wrong, Vec::<Option<String>>::new());
    assert!(right > 20, "{right}");
    let listed = api.get("/services/web/ports").await.json();
    assert_eq!(listed[0]["state"]["status"], "listening", "{listed:#}");
    assert!(listed[0]["state"]["taken"].as_u64().unwrap() > 20, "{listed:#}");
    assert_eq!(api.call("DELETE", "/services/web", Value::Null).await.status, 200);
    answers(port, "", |answer| answer.is_none()).await;
    assert_eq!(api.get("/services/ports").await.json(), json!([]));
}

#[tokio::test]
async fn a_port_with_a_token_lets_only_requests_with_it_in() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    create(&api, web("web", "one")).await;
    let port = spare(1)[0];
    let body = json!({ "port_name": "http", "host_port": port, "source_token": TOKEN });
    let added = api.call("POST", "/services/web/ports", body).await;
    assert!(!String::from_utf8_lossy(&added.body).contains(TOKEN));
    let token = format!("X-Source-Token: {TOKEN}\r\n");
    answers(port, &token, is_200).await;
    for wrong in ["", "X-Source-Token: another-token-of-some-length\r\n"] {
        let answer = ask_port(port, wrong).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.to_lowercase().contains("www-authenticate: source-token"), "{answer}");
    }
    // A new token ends what the one before had opened.
    let change = json!({ "source_token": "another-token-of-some-length" });
    assert_eq!(api.call("PUT", "/services/web/ports/http", change).await.status, 200);
    answers(port, &token, |answer| answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 401"))).await;
    let change = json!({ "no_source_token": true });
    assert_eq!(api.call("PUT", "/services/web/ports/http", change).await.status, 200);
    answers(port, "", is_200).await;
}

#[tokio::test]
async fn source_networks_hold_for_connections_that_are_open() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    create(&api, web("web", "one")).await;
    let port = spare(1)[0];
    add(&api, "web", json!({ "port_name": "http", "host_port": port, "source_networks": ["127.0.0.0/8"] }))
        .await;
    answers(port, "", is_200).await;
    let mut open = TcpStream::connect(at(port)).await.unwrap();
    shown(&api, "web/ports", "open", |seen| seen[0]["state"]["open"].as_u64() == Some(1)).await;
    let change = json!({ "source_networks": ["10.0.0.0/8"] });
    assert_eq!(api.call("PUT", "/services/web/ports/http", change).await.status, 200);
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(LONG, open.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.is_empty(), "it is closed when the list changes");
    answers(port, "", |answer| answer.is_none()).await;
}

#[tokio::test]
async fn datagrams_find_their_way_and_back() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    // Beside the web server, so that it counts as ready.
    let dockerfile =
        "FROM web:1\nCOPY server /bin/server\nCMD [\"sh\", \"-c\", \"server & exec sh /bin/web\"]\n";
    let folder = engine.context("datagrams", &[("Dockerfile", dockerfile), ("server.rs", SERVER)]);
    let compiled = std::process::Command::new("rustc")
        .args(["-C", "target-feature=+crt-static", "-o", "server", "server.rs"])
        .current_dir(&folder)
        .status();
    assert!(compiled.unwrap().success());
    engine.build(&folder, "datagrams:1");
    let mut service = web("echo", "one");
    service["image"] = json!("datagrams:1");
    create(&api, service).await;
    let port = spare(1)[0];
    let udp = json!({ "port_name": "udp", "host_port": port, "container_port": 9000, "protocol": "udp" });
    add(&api, "echo", udp).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(at(port)).await.unwrap();
    let end = Instant::now() + LONG;
    let mut answer = [0; 64];
    loop {
        let _lost = socket.send(b"hello").await;
        let received = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut answer)).await;
        if let Ok(Ok(length)) = received {
            assert_eq!(&answer[..length], b"hello");
            break;
        }
        assert!(Instant::now() < end, "no answer");
    }
}

#[tokio::test]
async fn a_port_that_is_in_use_is_refused_or_told() {
    let engine = Engine::start();
    let daemon = engine.daemon();
    let api = Api::local(&daemon);
    create(&api, web("web", "one")).await;
    let other = std::iter::repeat_with(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .find(|bound| bound.local_addr().unwrap().port() >= 14_000)
        .unwrap();
    let port = other.local_addr().unwrap().port();
    let body = json!({ "port_name": "http", "host_port": port });
    let refused = api.call("POST", "/services/web/ports", body).await;
    assert_eq!(refused.status, 409);
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("another program of this machine has it"), "{text}");
    let checked = api.call("POST", "/services/ports/check", json!({ "port": port })).await.json();
    assert_eq!(checked["available"], false, "{checked:#}");
    drop(other);
    add(&api, "web", json!({ "port_name": "http", "host_port": port })).await;
    answers(port, "", is_200).await;
    // After a restart it listens again.
    let dir = std::sync::Arc::clone(&daemon.dir);
    drop(daemon);
    answers(port, "", |answer| answer.is_none()).await;
    let _daemon = Daemon::start_in(dir, |command| engine.known_to(command));
    answers(port, "", is_200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_never_give_the_same_port_away() {
    let engines = [Engine::start(), Engine::start()];
    let redis = RedisServer::start();
    let nodes = [0, 1].map(|at| {
        engines[at].daemon_with(|command| {
            command.env("REDIS_URL", redis.url()).env("PORTCULLIS_NODE_NAME", format!("n{at}"));
            command.env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
        })
    });
    let apis = [0, 1].map(|at| Api::local(&nodes[at]));
    for (at, api) in apis.iter().enumerate() {
        create(api, web(&format!("web{at}"), "x")).await;
    }
    let ask = |at: usize, port: Value| {
        let api = apis[at].clone();
        async move { api.call("POST", &format!("/services/web{at}/ports"), port).await }
    };
    // The lowest free one, at the same time: each gets another one.
    let racing = (0..6).map(|number| ask(number % 2, json!({ "port_name": format!("p{number}") })));
    let answers = futures_util::future::join_all(racing).await;
    let mut given: Vec<_> =
        answers.iter().map(|answer| answer.json()["host_port"].as_u64().unwrap()).collect();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), 6, "{given:?}");
    // One that both want: one has it.
    let wanted = json!({ "port_name": "same", "host_port": spare(1)[0] });
    let (one, two) = tokio::join!(ask(0, wanted.clone()), ask(1, wanted));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{} {}", one.json(), two.json());
}
