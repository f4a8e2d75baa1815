//! What a gateway does without its store, and when the store is another one than before.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::api::Api;
use support::client::{get, plain};
use support::daemon::{Daemon, command};
use support::eventually;
use support::redis::RedisServer;
use support::upstream::Upstream;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef";

/// Settings of a node on a Redis. All nodes of a deployment have one public port, and so one issuer.
fn on(redis: &RedisServer) -> impl Fn(&mut Command) + '_ {
    |command| {
        command.env("REDIS_URL", redis.url()).env("PORTCULLIS_SECRET_KEY", SECRET_KEY);
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
    }
}

async fn create(api: &Api, host: &str, target: &str) -> http::StatusCode {
    let proxy = json!({ "proxy_hostname": host, "target_url": target, "https_redirect": "off" });
    api.call("POST", "/proxy/targets/", proxy).await.status
}

async fn health(api: &Api) -> Value {
    api.get("/health").await.json()
}

async fn eventually_healthy(api: &Api, healthy: bool) -> Value {
    eventually("health has changed", || async {
        let health = health(api).await;
        ((health["status"] == "healthy") == healthy).then_some(health)
    })
    .await
}

async fn status(address: SocketAddr, host: &str) -> u16 {
    plain(address, get(host, "/")).await.status.as_u16()
}

/// Clients that never stop asking: half of them with a new connection for each request.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn on(address: SocketAddr, host: &'static str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..4 {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            clients.spawn(async move {
                let mut failures = Vec::new();
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    let kept = if client % 2 == 0 { connection.take() } else { None };
                    match ask(address, host, kept).await {
                        Ok(next) => {
                            connection = Some(next);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            });
        }
        Self { stop, answered, clients }
    }

    /// Waits until many more requests were answered.
    async fn goes_on(&self) {
        let until = self.answered.load(Ordering::Relaxed) + 50;
        eventually("requests are answered", || async {
            (self.answered.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
    }

    /// Ends the load; how many requests were answered, and what failed.
    async fn ended(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

type Connection = hyper::client::conn::http1::SendRequest<Full<bytes::Bytes>>;

async fn ask(address: SocketAddr, host: &str, kept: Option<Connection>) -> Result<Connection, String> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let (sender, task) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
            tokio::spawn(task);
            sender
        }
    };
    connection.ready().await.map_err(|error| error.to_string())?;
    let response = connection.send_request(get(host, "/load")).await.map_err(|error| error.to_string())?;
    let status = response.status();
    response.into_body().collect().await.map_err(|error| error.to_string())?;
    if status == 200 { Ok(connection) } else { Err(format!("status {status}")) }
}

#[tokio::test]
async fn an_outage_of_the_store_costs_no_request_and_no_log_entry() {
    let mut redis = RedisServer::start();
    let daemon = Daemon::start_with(on(&redis));
    let upstream = Upstream::start("up").await;
    let api = Api::local(&daemon);
    assert_eq!(create(&api, "app.localhost", &upstream.url()).await, 201);
    let load = Load::on(daemon.http, "app.localhost");
    load.goes_on().await;

    redis.kill();
    let degraded = eventually_healthy(&api, false).await;
    assert_eq!((&degraded["status"], &degraded["store"]), (&json!("degraded"), &json!("unavailable")));
    let begun = Instant::now();
    let refused = api.call("PUT", "/proxy/targets/app.localhost", json!({ "enabled": false })).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "a write is refused in time");
    assert_eq!(refused.status, 503, "{}", String::from_utf8_lossy(&refused.body));
    assert_eq!(refused.json()["code"], "unavailable");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(plain(daemon.http, get("app.localhost", "/meanwhile")).await.status, 200);
    load.goes_on().await;

    redis.restart();
    eventually_healthy(&api, true).await;
    let (target, api) = (upstream.url(), &api);
    eventually("a write works again", || async {
        (create(api, "late.localhost", &target).await != 503).then_some(())
    })
    .await;
    assert_eq!(status(daemon.http, "late.localhost").await, 200, "and is served");
    load.goes_on().await;

    let (answered, failures) = load.ended().await;
    assert!(failures.is_empty(), "{} of {answered} requests failed: {:?}", failures.len(), failures.first());
    let count = |path: &'static str| async move {
        let found = api.get(&format!("/logs/search?limit=1&path={path}")).await;
        found.json()["total"].as_u64()
    };
    eventually("what happened meanwhile is written", || async {
        count("/meanwhile").await.filter(|n| *n >= 1)
    })
    .await;
    // At least: a batch whose answer got lost with the store is written once more.
    eventually("every request is in the log", || async { count("/load").await.filter(|n| *n >= answered) })
        .await;
}

#[tokio::test]
async fn a_node_that_starts_without_its_store_serves_what_it_served_last() {
    let mut redis = RedisServer::start();
    let upstream = Upstream::start("up").await;
    let mut first = Daemon::start_with(on(&redis));
    assert_eq!(create(&Api::local(&first), "app.localhost", &upstream.url()).await, 201);
    first.signal("TERM");
    assert_eq!(first.ended(), Some(0));
    let dir = Arc::clone(&first.dir);
    redis.kill();

    let second = Daemon::start_in(dir, on(&redis));
    let api = Api::local(&second);
    assert_eq!(status(second.http, "app.localhost").await, 200);
    let report = health(&api).await;
    assert_eq!((&report["status"], &report["from_copy"]), (&json!("degraded"), &json!(true)), "{report}");
    let token = api.call("POST", "/tokens/", json!({ "name": "ci" })).await;
    assert_eq!(token.status, 503, "{}", String::from_utf8_lossy(&token.body));

    redis.restart();
    let report = eventually_healthy(&api, true).await;
    assert_eq!(report["from_copy"], false, "{report}");
    assert_eq!(create(&api, "late.localhost", &upstream.url()).await, 201);
    assert_eq!(status(second.http, "late.localhost").await, 200);
}

#[tokio::test]
async fn a_node_that_starts_without_its_store_refuses_what_was_revoked() {
    let mut redis = RedisServer::start();
    let mut first = Daemon::start_with(on(&redis));
    let api = Api::local(&first);
    let made = api.call("POST", "/tokens/", json!({ "name": "ci", "scopes": ["user"] })).await;
    let text = |answer: Value| answer["token"].as_str().expect("a token").to_owned();
    let old = text(made.json());
    let rotated = api.call("POST", "/tokens/ci/rotate", json!({})).await;
    let new = text(rotated.json());
    let list = |daemon: &Daemon, token: &str| {
        let mut request = get("localhost", "/proxy/targets");
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
        plain(daemon.http, request)
    };
    assert_eq!(list(&first, &new).await.status, 200);
    assert_eq!(list(&first, &old).await.status, 401);
    first.signal("TERM");
    assert_eq!(first.ended(), Some(0));
    let dir = Arc::clone(&first.dir);
    redis.kill();

    let second = Daemon::start_in(dir, on(&redis));
    assert_eq!(list(&second, &new).await.status, 503, "let in, but the list is in the store");
    assert_eq!(list(&second, &old).await.status, 401);
}

#[tokio::test]
async fn the_copy_of_the_configuration_shows_no_secret() {
    let redis = RedisServer::start();
    let daemon = Daemon::start_with(on(&redis));
    assert_eq!(create(&Api::local(&daemon), "hidden.localhost", "http://10.0.0.5").await, 201);
    let copy = daemon.dir.path().join("data/configuration.sealed");
    eventually("the copy is written", || async { copy.exists().then_some(()) }).await;
    let bytes = std::fs::read(&copy).unwrap();
    assert!(!bytes.windows(16).any(|window| window == b"hidden.localhost"), "it is sealed");
    assert!(!daemon.dir.path().join("data/secret.key").exists(), "the key is that of the settings");
}

#[tokio::test]
async fn a_change_on_one_node_is_served_by_the_other_within_a_second() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("up").await;
    let (here, there) = (Daemon::start_with(on(&redis)), Daemon::start_with(on(&redis)));
    let (api, other) = (Api::local(&here), Api::local(&there));
    let mut times = Vec::new();
    for (turn, host) in
        ["a.localhost", "b.localhost", "c.localhost", "d.localhost", "e.localhost"].iter().enumerate()
    {
        let (writer, reader) = if turn % 2 == 0 { (&api, &there) } else { (&other, &here) };
        assert_eq!(create(writer, host, &upstream.url()).await, 201);
        let written = Instant::now();
        eventually("the other node serves it", || async {
            (status(reader.http, host).await == 200).then_some(())
        })
        .await;
        times.push(written.elapsed());
    }
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");

    let token = api.call("POST", "/tokens/", json!({ "name": "ci", "scopes": ["admin"] })).await.json();
    let token = token["token"].as_str().unwrap().to_owned();
    let by_token = Api::Remote(here.https, Some(token));
    eventually("the token is good", || async {
        (by_token.get("/tokens/info").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(other.call("DELETE", "/tokens/ci", Value::Null).await.status, 200);
    eventually("a token that the other node ended is refused", || async {
        (by_token.get("/tokens/info").await.status == 401).then_some(())
    })
    .await;
    assert_eq!(api.call("DELETE", "/proxy/targets/a.localhost", Value::Null).await.status, 200);
    eventually("the host is gone there, too", || async {
        (status(there.http, "a.localhost").await == 404).then_some(())
    })
    .await;
}

async fn flush(redis: &RedisServer) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
}

#[tokio::test]
async fn an_emptied_store_takes_no_host_away_until_an_admin_accepts_it() {
    let redis = RedisServer::start();
    let daemon = Daemon::start_with(on(&redis));
    let upstream = Upstream::start("up").await;
    let api = Api::local(&daemon);
    assert_eq!(create(&api, "app.localhost", &upstream.url()).await, 201);
    let load = Load::on(daemon.http, "app.localhost");
    load.goes_on().await;
    flush(&redis).await;
    let report = eventually_healthy(&api, false).await;
    assert_eq!(report["problems"][0]["kind"], "store", "{report}");
    assert!(
        report["problems"][0]["message"].as_str().unwrap().contains("portcullis system accept-store"),
        "{report}"
    );
    load.goes_on().await;
    let (_, failures) = load.ended().await;
    assert!(failures.is_empty(), "{failures:?}");
    writes_are_refused(&api).await;

    daemon.run(&["system", "accept-store"]);
    let again = daemon.cli(&["system", "accept-store"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing to accept"), "{again:?}");
    eventually("the host is gone", || async {
        (status(daemon.http, "app.localhost").await == 404).then_some(())
    })
    .await;
    let report = eventually_healthy(&api, true).await;
    assert_eq!(report["hosts"], 2, "the hosts of the API and the issuer are there again: {report}");
    assert_eq!(create(&api, "new.localhost", &upstream.url()).await, 201);
    assert_eq!(status(daemon.http, "new.localhost").await, 200);
    let remote = Api::remote(&daemon, "ci", "admin");
    assert_eq!(remote.get("/proxy/targets/").await.status, 200, "tokens are signed and checked again");
}

/// What is written now would not be served: it is refused, and what only reads is not.
async fn writes_are_refused(api: &Api) {
    let token = json!({ "name": "ci" });
    let bundle = json!({ "config": {} });
    for (method, path, body) in [
        (
            "POST",
            "/proxy/targets/",
            json!({ "proxy_hostname": "lost.localhost", "target_url": "http://10.0.0.5" }),
        ),
        ("DELETE", "/proxy/targets/app.localhost", Value::Null),
        ("POST", "/tokens/", token),
        ("POST", "/system/config/import", bundle.clone()),
    ] {
        let refused = api.call(method, path, body).await;
        let problem = refused.json();
        assert_eq!(
            (refused.status.as_u16(), &problem["code"]),
            (503, &json!("store_replaced")),
            "{path} {problem}"
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("portcullis system accept-store") && detail.contains("restore"), "{detail}");
    }
    assert_eq!(api.get("/proxy/targets/").await.status, 200);
    assert_eq!(api.call("POST", "/system/config/validate", bundle).await.status, 200);
}

async fn eventually_replaced(api: &Api) -> Value {
    eventually("health says `replaced`", || async {
        let health = health(api).await;
        (health["store"] == "replaced").then_some(health)
    })
    .await
}

async fn eventually_kept(daemon: &Daemon) {
    let copy = daemon.dir.path().join("data/configuration.sealed");
    let before = std::fs::metadata(&copy).map(|copy| copy.len()).unwrap_or_default();
    // Longer than before: the last host is in it.
    eventually("the copy is written", || async {
        std::fs::metadata(&copy).is_ok_and(|copy| copy.len() > before).then_some(())
    })
    .await;
}

/// A node that has served `app.localhost`, and kept it; then it was stopped.
async fn stopped_node(redis: &RedisServer, upstream: &Upstream) -> Arc<tempfile::TempDir> {
    let mut daemon = Daemon::start_with(on(redis));
    let api = Api::local(&daemon);
    let (target, kept) = (upstream.url(), eventually_kept(&daemon));
    let (created, ()) = tokio::join!(create(&api, "app.localhost", &target), kept);
    assert_eq!(created, 201);
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    Arc::clone(&daemon.dir)
}

async fn count_documents(redis: &RedisServer) -> usize {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd("EXISTS");
    for kind in ["revision", "proxy", "route", "key", "setting", "secret"] {
        command.arg(format!("{{portcullis}}:{kind}"));
    }
    command.query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_node_that_restarts_on_an_emptied_store_serves_what_it_served_last() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("up").await;
    let dir = stopped_node(&redis, &upstream).await;
    flush(&redis).await;
    // The second start finds the copy as the first one did: neither has replaced it.
    for _ in 0..2 {
        let mut node = Daemon::start_in(Arc::clone(&dir), on(&redis));
        let api = Api::local(&node);
        assert_eq!(status(node.http, "app.localhost").await, 200);
        let report = eventually_replaced(&api).await;
        assert_eq!((&report["status"], &report["from_copy"]), (&json!("degraded"), &json!(true)), "{report}");
        writes_are_refused(&api).await;
        assert_eq!(count_documents(&redis).await, 0, "nothing is written into the emptied store");
        assert!(!node.logged().contains("--setup "), "nobody may become the admin of it");
        node.signal("TERM");
        assert_eq!(node.ended(), Some(0));
    }
    let node = Daemon::start_in(dir, on(&redis));
    let api = Api::local(&node);
    node.run(&["system", "accept-store"]);
    assert_eq!(status(node.http, "app.localhost").await, 404);
    let report = eventually_healthy(&api, true).await;
    assert_eq!((&report["store"], &report["from_copy"]), (&json!("connected"), &json!(false)), "{report}");
    assert_eq!(create(&api, "new.localhost", &upstream.url()).await, 201);
    assert_eq!(status(node.http, "new.localhost").await, 200);
}

#[tokio::test]
async fn one_word_of_an_admin_is_heard_by_all_nodes() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("up").await;
    let asleep = stopped_node(&redis, &upstream).await;
    let (here, there) = (Daemon::start_with(on(&redis)), Daemon::start_with(on(&redis)));
    let (api, other) = (Api::local(&here), Api::local(&there));
    flush(&redis).await;
    eventually_replaced(&api).await;
    eventually_replaced(&other).await;
    // A new node makes a configuration of its own there: that is nobody's word.
    let fresh = Daemon::start_with(on(&redis));
    assert_eq!(create(&Api::local(&fresh), "fresh.localhost", &upstream.url()).await, 201);
    eventually_replaced(&other).await;
    assert_eq!(status(there.http, "app.localhost").await, 200);

    here.run(&["system", "accept-store"]);
    for node in [&here, &there] {
        eventually("it serves what the store holds", || async {
            (status(node.http, "fresh.localhost").await == 200).then_some(())
        })
        .await;
        assert_eq!(status(node.http, "app.localhost").await, 404);
    }
    eventually_healthy(&other, true).await;
    assert_eq!(create(&other, "late.localhost", &upstream.url()).await, 201);
    // Who slept meanwhile finds the word in the store.
    let awake = Daemon::start_in(asleep, on(&redis));
    assert_eq!(status(awake.http, "late.localhost").await, 200);
    assert_eq!(status(awake.http, "app.localhost").await, 404);
    assert_eq!(health(&Api::local(&awake)).await["status"], "healthy");
}

#[tokio::test]
async fn a_store_that_is_restored_needs_nobodys_word() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("up").await;
    let dir = stopped_node(&redis, &upstream).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("{portcullis}:*").query_async(&mut connection).await.unwrap();
    let mut backup = Vec::new();
    for key in keys {
        // What expires, leases above all, is over when a backup is brought back.
        let life: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
        let dumped: Option<Vec<u8>> =
            redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.unwrap();
        backup.extend(dumped.filter(|_| life < 0).map(|dumped| (key, dumped)));
    }
    flush(&redis).await;
    let node = Daemon::start_in(dir, on(&redis));
    let api = Api::local(&node);
    eventually_replaced(&api).await;
    for (key, dumped) in backup {
        // The node may have begun logs there already.
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(dumped).arg("REPLACE");
        restore.query_async::<()>(&mut connection).await.unwrap();
    }
    eventually_healthy(&api, true).await;
    assert_eq!(status(node.http, "app.localhost").await, 200);
    assert_eq!(create(&api, "late.localhost", &upstream.url()).await, 201);
    assert_eq!(status(node.http, "late.localhost").await, 200);
}

#[tokio::test]
async fn a_copy_that_can_not_be_read_does_not_make_way_for_an_empty_store() {
    let redis = RedisServer::start();
    let dir = stopped_node(&redis, &Upstream::start("up").await).await;
    flush(&redis).await;
    let copy = dir.path().join("data/configuration.sealed");
    let sealed = std::fs::read(&copy).unwrap();
    std::fs::write(&copy, &sealed[..sealed.len() / 2]).unwrap();
    let mut node = command(dir.path());
    on(&redis)(node.arg("serve"));
    let output = node.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("remove the copy"), "{text}");
    assert_eq!(count_documents(&redis).await, 0);
    std::fs::remove_file(&copy).unwrap();
    let node = Daemon::start_in(dir, on(&redis));
    assert_eq!(health(&Api::local(&node)).await["status"], "healthy");
}

/// Writes a document past all checks.
async fn write_by_hand(redis: &RedisServer, route: &str, document: &Value) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let stored: Vec<u8> =
        redis::cmd("HGET").arg("{portcullis}:route").arg(route).query_async(&mut connection).await.unwrap();
    let start = stored.iter().position(|byte| *byte == b'{').unwrap();
    let written = [&stored[..start], document.to_string().as_bytes()].concat();
    redis::cmd("HSET")
        .arg("{portcullis}:route")
        .arg(route)
        .arg(written)
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_route_that_can_not_be_read_opens_nothing() {
    let redis = RedisServer::start();
    let upstream = Upstream::start("up").await;
    let mut daemon = Daemon::start_with(on(&redis));
    let api = Api::local(&daemon);
    assert_eq!(create(&api, "app.localhost", &upstream.url()).await, 201);
    let route = json!({
        "route_id": "admin", "path_pattern": "/admin", "target_type": "url", "target_value": upstream.url(),
        "scope": "proxy", "proxy_hostnames": ["app.localhost"],
        "override_proxy_auth": true, "auth_config": { "auth_type": "bearer", "allowed_users": ["root"] },
    });
    assert_eq!(api.call("POST", "/routes/", route.clone()).await.status, 201);
    let at = async |daemon: &Daemon, path: &str| {
        plain(daemon.http, get("app.localhost", path)).await.status.as_u16()
    };
    assert_eq!((at(&daemon, "/admin/x").await, at(&daemon, "/").await), (401, 200));
    let changed = |field: &str, value: Value| {
        let mut document = route.clone();
        document[field] = value;
        document
    };
    // Each commit makes the nodes read everything.
    let mut times = 0;
    let mut reread = async || {
        times += 1;
        assert_eq!(create(&api, &format!("n{times}.localhost"), &upstream.url()).await, 201);
    };
    for (field, value) in
        [("auth_config", json!("bearer")), ("colour", json!(1)), ("priority", json!("high"))]
    {
        write_by_hand(&redis, "admin", &changed(field, value)).await;
        reread().await;
        assert_eq!((at(&daemon, "/admin/x").await, at(&daemon, "/").await), (503, 200), "{field}");
        let report = health(&api).await;
        assert_eq!(
            (&report["status"], &report["problems"][0]["id"]),
            (&json!("degraded"), &json!("admin")),
            "{report}"
        );
        let told = api.get("/routes/explain?host=app.localhost&path=/admin/x").await.json();
        assert_eq!((&told["decision"], &told["route_id"]), (&json!("unresolved"), &json!("admin")), "{told}");
    }
    write_by_hand(&redis, "admin", &route).await;
    reread().await;
    assert_eq!(at(&daemon, "/admin/x").await, 401);
    // Nobody knows what it matches: it stays as it was.
    write_by_hand(&redis, "admin", &changed("path_pattern", json!(7))).await;
    reread().await;
    assert_eq!((at(&daemon, "/admin/x").await, at(&daemon, "/").await), (401, 200));
    let report = health(&api).await;
    let message = report["problems"][0]["message"].as_str().unwrap();
    assert!(message.contains("last readable state is in force"), "{message}");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn the_issuer_of_a_store_changes_only_when_asked_to() {
    let issuer = |command: &mut Command, name: &str| {
        command.env("OAUTH_ISSUER", format!("https://{name}.localhost"));
    };
    let mut first = Daemon::start_with(|command| issuer(command, "one"));
    first.signal("TERM");
    assert_eq!(first.ended(), Some(0));
    let mut other = command(first.dir.path());
    issuer(other.arg("serve"), "two");
    let output = other.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(1),
        "no token was made yet, but it is immutable all the same: {text}"
    );
    assert!(text.contains("OAUTH_ISSUER") && text.contains("--accept-new-issuer"), "{text}");
    let second = Daemon::start_in(Arc::clone(&first.dir), |command| {
        issuer(command, "two");
        command.env("PORTCULLIS_ACCEPT_NEW_ISSUER", "true");
    });
    assert_eq!(second.run(&["system", "info"])["issuer"], "https://two.localhost");
}

#[tokio::test]
async fn a_node_with_another_secret_key_does_not_start() {
    let redis = RedisServer::start();
    let _first = Daemon::start_with(on(&redis));
    let dir = tempfile::tempdir().unwrap();
    let mut other = command(dir.path());
    on(&redis)(other.arg("serve"));
    let output = other.env("PORTCULLIS_SECRET_KEY", SECRET_KEY.to_uppercase()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("PORTCULLIS_SECRET_KEY"), "{text}");
}

#[test]
fn a_second_process_on_one_data_folder_is_refused() {
    let first = Daemon::start();
    let second = first.cli(&["serve"]);
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("PORTCULLIS_DATA") && text.contains("another portcullis"), "{text}");
    assert_eq!(first.run(&["system", "health"])["status"], "healthy", "the first one is not disturbed");
    // The lock of the store holds even where the socket is gone.
    std::fs::remove_file(first.dir.path().join("data/admin.sock")).unwrap();
    let third = first.cli(&["serve"]);
    let text = String::from_utf8_lossy(&third.stderr).into_owned();
    assert_eq!(third.status.code(), Some(1), "{text}");
    assert!(text.contains("PORTCULLIS_DATA") && text.contains(&first.pid().to_string()), "{text}");
}
