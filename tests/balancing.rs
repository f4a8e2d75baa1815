//! Several upstreams behind one host or service: who is asked, who is asked instead, and what is told of them.

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::client::{get, plain};
use support::daemon::Daemon;
use support::eventually;
use support::handmade;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// An upstream on a port of its own that can die, with everything that it is doing, and come back.
struct Mortal {
    seen: Arc<Seen>,
    address: SocketAddr,
    life: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Keeps the port while nobody listens there.
    _port: TcpSocket,
}

struct Seen {
    name: &'static str,
    /// What checks are answered with.
    health: AtomicU16,
    checks: AtomicUsize,
    requests: AtomicUsize,
}

impl Mortal {
    async fn start(name: &'static str) -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();
        let seen = Seen {
            name,
            health: AtomicU16::new(200),
            checks: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        };
        let mortal = Self { seen: Arc::new(seen), address, life: Mutex::default(), _port: port };
        mortal.live();
        mortal
    }

    fn live(&self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let seen = Arc::clone(&self.seen);
        let life = tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                let service = service_fn(move |request| answer(Arc::clone(&seen), request));
                connections.spawn(async move {
                    let io = TokioIo::new(stream);
                    let _ended =
                        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        *self.life.lock().unwrap() = Some(life);
    }

    async fn die(&self) {
        let life = self.life.lock().unwrap().take().unwrap();
        life.abort();
        let _aborted = life.await;
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn is_healthy(&self, healthy: bool) {
        self.seen.health.store(if healthy { 200 } else { 503 }, Ordering::SeqCst);
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }
}

async fn answer(seen: Arc<Seen>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_check = request.uri().path() == "/healthz";
    let (count, status) = if is_check {
        (&seen.checks, seen.health.load(Ordering::SeqCst))
    } else {
        // Long enough for it to die over it.
        tokio::time::sleep(Duration::from_millis(5)).await;
        (&seen.requests, 200)
    };
    count.fetch_add(1, Ordering::SeqCst);
    Ok(Response::builder().status(status).body(Full::from(seen.name)).unwrap())
}

/// Clients that ask without a pause; what they got that was no success.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(daemon: &Daemon, host: &'static str) -> Self {
        let (stop, mut clients) = (Arc::<AtomicBool>::default(), JoinSet::new());
        for number in 0..6 {
            let (stop, address) = (Arc::clone(&stop), daemon.http);
            clients.spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let method = [Method::GET, Method::DELETE, Method::PUT][number % 3].clone();
                    let request = Request::builder().method(method).uri("/").header("host", host);
                    let answer = plain(address, request.body(Full::<Bytes>::default()).unwrap()).await;
                    if answer.status != StatusCode::OK {
                        failed.push(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
                    }
                }
                failed
            });
        }
        Self { stop, clients }
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await.concat()
    }
}

/// What the API says of the upstream at an address, for a host or a service.
async fn shown(daemon: &Daemon, name: &str, upstream: &str) -> Value {
    let all = daemon.api(Method::GET, &format!("/upstreams/{name}"), Value::Null).await;
    let one = all.as_array().unwrap().iter().find(|one| one["url"] == upstream);
    one.unwrap_or_else(|| panic!("{upstream} in {all}")).clone()
}

async fn state_becomes(daemon: &Daemon, name: &str, upstream: &str, states: &[&str]) -> Value {
    eventually(&format!("{upstream} to be {states:?}"), async || {
        let one = shown(daemon, name, upstream).await;
        states.contains(&one["state"].as_str().unwrap()).then_some(one)
    })
    .await
}

async fn grows(what: &str, count: impl Fn() -> usize) {
    let before = count();
    eventually(what, async || (count() > before + 5).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_dies_costs_no_request_and_has_its_share_when_it_is_back() {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
    });
    let (a, b, c) = (Mortal::start("a").await, Mortal::start("b").await, Mortal::start("c").await);
    c.is_healthy(false);
    let check = json!({ "path": "/healthz", "interval_seconds": 1, "healthy_threshold": 1, "unhealthy_threshold": 1 });
    let balanced = json!({
        "upstreams": [b.url(), c.url()],
        "load_balancing": { "policy": "round_robin" },
        "health_check": check,
        "passive_health": { "consecutive_failures": 3, "ejection_seconds": 1 },
    });
    daemon.host("a.test", &a.url(), balanced).await;
    let unhealthy = state_becomes(&daemon, "a.test", &c.url(), &["unhealthy"]).await;
    assert_eq!(unhealthy["health_check"]["asks"], "GET /healthz");
    assert!(unhealthy["health_check"]["error"].as_str().unwrap().contains("503"), "{unhealthy}");
    assert!(unhealthy["health_check"]["next"].is_string() && unhealthy["since"].is_string(), "{unhealthy}");
    let before = c.requests();

    let load = Load::start(&daemon, "a.test");
    grows("requests of a", || a.requests()).await;
    grows("requests of b", || b.requests()).await;
    b.die().await;
    let dead = state_becomes(&daemon, "a.test", &b.url(), &["unhealthy"]).await;
    assert!(dead["failures"].as_u64().unwrap() > 0, "{dead}");
    assert!(dead["last_failure"]["error"].as_str().unwrap().contains(&b.url()), "{dead}");
    // A change of the host forgets nothing of them.
    daemon.change("a.test", json!({ "max_body_bytes": 4096 })).await;
    grows("requests of a alone", || a.requests()).await;
    assert_eq!(c.requests(), before, "checks say that it is not well");
    assert_eq!(shown(&daemon, "a.test", &c.url()).await["state"], "unhealthy");

    c.is_healthy(true);
    state_becomes(&daemon, "a.test", &c.url(), &["healthy"]).await;
    grows("requests of c", || c.requests()).await;
    b.live();
    state_becomes(&daemon, "a.test", &b.url(), &["healthy"]).await;
    grows("requests of b, once more", || b.requests()).await;
    let failed = load.end().await;
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);

    daemon.wait_for_log("upstream changed its state");
    let text = plain(daemon.metrics(), get("localhost", "/metrics")).await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    for (upstream, metric) in [
        (&a, "portcullis_upstream_up"),
        (&b, "portcullis_upstream_failures_total"),
        (&b, "portcullis_upstream_ejections_total"),
        (&c, "portcullis_upstream_requests_total"),
        (&c, "portcullis_upstream_requests_in_flight"),
    ] {
        let line = format!("{metric}{{upstream=\"{}\"}} ", upstream.url());
        assert!(text.contains(&line), "{line} in {text}");
    }
    let retries = text
        .lines()
        .find_map(|line| line.strip_prefix("portcullis_upstream_retries_total{result=\"sent\"} "));
    assert!(retries.unwrap().parse::<u64>().unwrap() > 0, "{text}");

    let listed = daemon.run(&["upstream", "list"]);
    let one = listed.as_array().unwrap().iter().find(|one| one["url"] == a.url()).unwrap();
    assert_eq!(
        one["used_by"],
        json!([{ "kind": "host", "name": "a.test", "policy": "round_robin", "weight": 1 }])
    );
    assert!(one["requests"].as_u64().unwrap() > 0 && one["in_flight"] == 0, "{one}");
    let missing = daemon.ask(Method::GET, "/upstreams/nobody.test", &Value::Null).await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_service_is_a_list_of_urls_that_routes_can_name() {
    let daemon = Daemon::start();
    let (a, b) = (Mortal::start("a").await, Mortal::start("b").await);
    daemon.host("a.test", "builtin:echo", json!({})).await;
    let service = json!({
        "name": "web",
        "description": "two of them",
        "target_urls": [{ "url": a.url(), "weight": 3 }, b.url()],
    });
    let made = daemon.api(Method::POST, "/instances/", service).await;
    assert_eq!((&made["target_url"], &made["description"]), (&json!(a.url()), &json!("two of them")));
    let web = json!({ "route_id": "web", "path_pattern": "/web", "target_type": "instance", "target_value": "web" });
    daemon.route(web).await;
    let ask = async || {
        let request = Request::get("/web").header("host", "a.test").header("x-tenant", "t1");
        let answer = plain(daemon.http, request.body(Full::<Bytes>::default()).unwrap()).await;
        (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
    };
    let mut names = String::new();
    for _ in 0..8 {
        names.push_str(&ask().await.1);
    }
    assert_eq!(names.matches('a').count(), 6, "{names}");

    let by_tenant = json!({ "load_balancing": { "policy": "hash", "hash_on": "header:X-Tenant" } });
    daemon.api(Method::PATCH, "/services/external/web", by_tenant).await;
    let home = ask().await;
    for _ in 0..8 {
        assert_eq!(ask().await, home);
    }

    let strict = json!({ "health_check": { "path": "/healthz", "interval_seconds": 1, "unhealthy_threshold": 1,
                         "healthy_threshold": 1, "fail_when_all_unhealthy": true } });
    a.is_healthy(false);
    b.is_healthy(false);
    daemon.api(Method::PATCH, "/services/external/web", strict).await;
    for one in [&a, &b] {
        let shown = state_becomes(&daemon, "web", &one.url(), &["unhealthy"]).await;
        let users: Vec<_> = shown["used_by"].as_array().unwrap().iter().map(|one| &one["kind"]).collect();
        assert!(users == ["route", "service"], "{shown}");
    }
    let refused = plain(daemon.http, get("a.test", "/web")).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (503, &json!("no_healthy_upstream")));
    b.is_healthy(true);
    state_becomes(&daemon, "web", &b.url(), &["healthy"]).await;
    assert_eq!(ask().await, (200, "b".to_owned()));
    // What is wrong is refused by name, and changes nothing.
    let wrong = json!({ "health_check": { "interval_seconds": 0 } });
    let refused = daemon.ask(Method::PATCH, "/services/external/web", &wrong).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.json().to_string().contains("health_check.interval_seconds"), "{refused:?}");
    let listed = daemon.run(&["service", "external", "update", "web", "--target-urls", &a.url()]);
    assert_eq!(listed["target_urls"], json!([a.url()]));
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let daemon = Daemon::start();
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heard);
    let closing = handmade::scripted(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            let _head = handmade::read_head(&mut stream).await;
            counted.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let well = Mortal::start("well").await;
    daemon.host("a.test", &format!("http://{closing}"), json!({ "upstreams": [well.url()] })).await;
    let post = Request::post("/").header("host", "a.test").body(Full::from("an order")).unwrap();
    let answer = plain(daemon.http, post).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (502, &json!("upstream_closed")));
    assert_eq!((heard.load(Ordering::SeqCst), well.requests()), (1, 0));
    assert_eq!(plain(daemon.http, get("a.test", "/")).await.body, "well");
    // Who has answered in the end is in the log, and that it was not the first.
    let record = daemon.record("hostname=a.test&status=200", |_| true).await;
    assert_eq!((&record["backend_url"], &record["upstream_attempts"]), (&json!(well.url()), &json!(2)));
    daemon.change("a.test", json!({ "retries": { "attempts": 0 } })).await;
    assert_eq!(plain(daemon.http, get("a.test", "/")).await.status, 502);
    assert_eq!((heard.load(Ordering::SeqCst), well.requests()), (3, 1));
}
