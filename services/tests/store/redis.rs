use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use portcullis_layers::access_log::{AccessLogLayer, RedisStreams};
use portcullis_services::store::redis::{Options, RedisStore};
use portcullis_services::store::{
    Error, Expect, Keep, Kind, Range, RecordKey, RecordKind, RecordWrite, Revision, Store, Stream,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::{ServiceBuilder, ServiceExt};

use crate::conformance::{self, ALL, entry, eventually, key, now, put};
use crate::support::redis::{PASSWORD, RedisServer, URL_PASSWORD, free_port};

const KEEP: Keep = Keep { entries: 10_000, age: Duration::from_secs(3600) };

fn open(url: String) -> Arc<RedisStore> {
    Arc::new(RedisStore::new(&Options::new(url.into())).expect("a good URL"))
}

/// A store for each case, in keys of its own.
fn stores(options: Options) -> impl Fn(usize) -> Arc<dyn Store> {
    move |number| {
        let options = Options { prefix: format!("case-{number}"), ..options.clone() };
        Arc::new(RedisStore::new(&options).expect("a good URL"))
    }
}

fn is_unavailable<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unavailable(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_conforms() {
    let server = RedisServer::start();
    conformance::run(stores(Options::new(server.url().into()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_conforms() {
    let server = RedisServer::start();
    let url = format!("unix://{}", server.socket().display());
    let options = Options { password: Some(PASSWORD.into()), ..Options::new(url.into()) };
    conformance::run(stores(options)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_conforms() {
    let server = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let () = server.admin(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.expect("slots");
    eventually("the cluster is ready", async || {
        let info: String = server.admin(&["CLUSTER", "INFO"]).await.expect("told");
        info.contains("cluster_state:ok")
    })
    .await;
    let url = format!("redis+cluster://:{URL_PASSWORD}@127.0.0.1:{}", server.port());
    conformance::run(stores(Options::new(url.into()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_verified() {
    let authority = rcgen::KeyPair::generate().expect("a key");
    let mut names = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).expect("names");
    names.is_ca = rcgen::IsCa::ExplicitNoCa;
    let ca = {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        rcgen::CertifiedIssuer::self_signed(params, authority).expect("an authority")
    };
    let leaf_key = rcgen::KeyPair::generate().expect("a key");
    let leaf = names.signed_by(&leaf_key, &ca).expect("a certificate");
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (cert, key_file) = (file("cert", &leaf.pem()), file("key", &leaf_key.serialize_pem()));
    let ca_file = file("ca", &ca.pem());
    let port = free_port().to_string();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key_file,
        "--tls-ca-cert-file",
        &ca_file,
        "--tls-auth-clients",
        "no",
    ]);
    let options = Options::new(format!("rediss://:{URL_PASSWORD}@127.0.0.1:{port}").into());
    let trusting = Options { ca: Some(ca.pem().into_bytes()), ..options.clone() };
    RedisStore::new(&trusting).expect("a good URL").ping().await.expect("the authority is trusted");
    let refused = RedisStore::new(&options).expect("a good URL").ping().await;
    assert!(is_unavailable(&refused), "nobody else vouches for it");
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_lead_to_the_new_master() {
    let mut master = RedisServer::start();
    let replica = RedisServer::start_with(&[
        "--replicaof",
        &format!("127.0.0.1 {}", master.port()),
        "--repl-diskless-sync-delay",
        "0",
    ]);
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let config = dir.path().join("sentinel.conf");
    let settings = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nlogfile {}\nsentinel monitor main 127.0.0.1 {} 1\n\
         sentinel auth-pass main {PASSWORD}\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 2000\n",
        dir.path().display(),
        dir.path().join("log").display(),
        master.port(),
    );
    std::fs::write(&config, settings).expect("written");
    let mut sentinel = std::process::Command::new("redis-server")
        .arg(&config)
        .arg("--sentinel")
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a sentinel");
    let store = open(format!("redis+sentinel://:{URL_PASSWORD}@127.0.0.1:{port}/main"));
    eventually("the sentinel answers", async || store.ping().await.is_ok()).await;
    let first = store.commit(vec![put("a", json!(1), Expect::Any)]).await.expect("committed");
    let mut changes = store.changes(first.clone());
    assert!(timeout(Duration::from_millis(50), changes.next()).await.is_err());
    eventually("the replica follows, and the sentinel knows it", async || {
        let copied: Option<String> = replica.admin(&["HGET", "{portcullis}:proxy", "a"]).await.expect("read");
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("connected");
        let replicas: Vec<redis::Value> = redis::cmd("SENTINEL")
            .arg("REPLICAS")
            .arg("main")
            .query_async(&mut connection)
            .await
            .expect("told");
        copied.is_some() && replicas.len() == 1
    })
    .await;
    master.kill();
    let mut second = None;
    eventually("the replica is the master", async || {
        second = store.commit(vec![put("a", json!(2), Expect::Any)]).await.ok();
        second.is_some()
    })
    .await;
    let second = second.expect("committed");
    assert_eq!((&second.epoch, second.n), (&first.epoch, 2));
    eventually("the feed has followed", async || changes.next().await == Some(second.clone())).await;
    sentinel.kill().expect("killed");
    sentinel.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_survived_by_itself() {
    let mut server = RedisServer::start();
    let store = open(server.url());
    let first = store.commit(vec![put("a", json!(1), Expect::Any)]).await.expect("committed");
    store.append(Stream::Requests, vec![entry(now(), "{}", &[])], KEEP).await.expect("appended");
    let mut changes = store.changes(first.clone());
    assert!(timeout(Duration::from_millis(50), changes.next()).await.is_err());

    server.kill();
    assert!(is_unavailable(&store.commit(vec![put("a", json!(2), Expect::Any)]).await));
    assert!(is_unavailable(&store.load().await));
    assert!(is_unavailable(&store.ping().await));
    assert!(is_unavailable(&store.append(Stream::Requests, vec![entry(now(), "{}", &[])], KEEP).await));
    assert!(is_unavailable(&store.range(Stream::Requests, &ALL).await));
    assert!(timeout(Duration::from_millis(50), changes.next()).await.is_err(), "the feed waits");

    server.restart();
    let hint = timeout(Duration::from_secs(5), changes.next()).await.expect("a hint after the reconnect");
    assert_eq!(hint, Some(first.clone()), "in case something was missed");
    eventually("it works again", async || store.ping().await.is_ok()).await;
    assert_eq!(store.load().await.expect("loaded").0, first, "nothing was lost");
    assert_eq!(store.range(Stream::Requests, &ALL).await.expect("read").len(), 1);
    let second = store.commit(vec![put("a", json!(2), Expect::Any)]).await.expect("committed");
    assert_eq!(timeout(Duration::from_secs(1), changes.next()).await.expect("within a second"), Some(second));
}

#[tokio::test]
async fn a_store_opens_while_its_server_is_away() {
    let mut server = RedisServer::start();
    server.kill();
    let store = open(server.url());
    let mut changes = store.changes(Revision { epoch: String::new(), n: 0 });
    assert!(is_unavailable(&store.load().await));
    assert!(timeout(Duration::from_millis(100), changes.next()).await.is_err());
    server.restart();
    let hint = timeout(Duration::from_secs(5), changes.next()).await.expect("a hint");
    assert_eq!(hint.expect("not over").n, 0);
    eventually("it works", async || store.load().await.is_ok()).await;
}

#[tokio::test]
async fn killed_connections_cost_no_error_and_one_hint() {
    let server = RedisServer::start();
    let store = open(server.url());
    let mut current = store.commit(vec![put("a", json!(0), Expect::Any)]).await.expect("committed");
    let mut changes = store.changes(current.clone());
    for n in 1..5 {
        assert!(timeout(Duration::from_millis(50), changes.next()).await.is_err());
        let _: i64 =
            server.admin(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.expect("killed");
        let hint = timeout(Duration::from_secs(5), changes.next()).await.expect("a hint after the reconnect");
        assert_eq!(hint, Some(current.clone()));
        current = store.commit(vec![put("a", json!(n), Expect::Any)]).await.expect("at the first attempt");
        assert_eq!(changes.next().await, Some(current.clone()));
    }
}

#[tokio::test]
async fn a_store_that_comes_back_empty_has_another_epoch() {
    let mut server = RedisServer::start();
    let store = open(server.url());
    let old = store.commit(vec![put("a", json!(1), Expect::Any)]).await.expect("committed");
    let mut changes = store.changes(old.clone());

    // Emptied under the feed, without a lost connection.
    let () = server.admin(&["FLUSHALL"]).await.expect("emptied");
    let empty = timeout(Duration::from_secs(10), changes.next()).await.expect("noticed").expect("not over");
    assert_eq!((empty.epoch.as_str(), empty.n), ("", 0));
    let new = store.commit(vec![put("a", json!(1), Expect::Absent)]).await.expect("committed");
    assert_eq!(new.n, 1);
    assert_ne!(new.epoch, old.epoch);
    assert_eq!(timeout(Duration::from_secs(1), changes.next()).await.expect("a hint"), Some(new.clone()));

    // Lost with the server's files.
    server.kill();
    server.lose_data();
    server.restart();
    let empty = timeout(Duration::from_secs(10), changes.next()).await.expect("noticed").expect("not over");
    assert_eq!(empty.epoch, "");
    eventually("it works again", async || store.ping().await.is_ok()).await;
    let newest = store.commit(vec![put("a", json!(1), Expect::Absent)]).await.expect("committed");
    assert!(newest.epoch != new.epoch && newest.epoch != old.epoch);
}

#[tokio::test]
async fn a_revision_that_was_deleted_leaves_no_stale_feed() {
    let server = RedisServer::start();
    let store = open(server.url());
    for n in 0..5 {
        store.commit(vec![put("a", json!(n), Expect::Any)]).await.expect("committed");
    }
    let _: i64 = server.admin(&["DEL", "{portcullis}:revision"]).await.expect("deleted");
    let revision = store.commit(vec![put("a", json!(9), Expect::Any)]).await.expect("committed");
    assert_eq!(revision.n, 1);
    let next = store.commit(vec![put("a", json!(9), Expect::Any)]).await.expect("committed");
    let mut changes = store.changes(revision);
    assert_eq!(timeout(Duration::from_secs(1), changes.next()).await.expect("a hint"), Some(next));
}

#[tokio::test]
async fn a_frozen_server_is_given_up_in_time() {
    let server = RedisServer::start();
    let options = Options { timeout: Duration::from_millis(300), ..Options::new(server.url().into()) };
    let store = RedisStore::new(&options).expect("a good URL");
    store.ping().await.expect("it answers");
    server.signal("STOP");
    for _ in 0..2 {
        let start = Instant::now();
        assert!(is_unavailable(&store.load().await));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    server.signal("CONT");
    eventually("it works again", async || store.load().await.is_ok()).await;
}

#[tokio::test]
async fn a_wrong_password_is_unavailable_and_not_told() {
    let server = RedisServer::start();
    let store = open(format!("redis://:wrong-word@127.0.0.1:{}", server.port()));
    let Err(Error::Unavailable(source)) = store.ping().await else { panic!("the password is wrong") };
    let mut shown = format!("{source} {source:?}");
    let mut cause = source.source();
    while let Some(error) = cause {
        shown += &format!(" {error} {error:?}");
        cause = error.source();
    }
    assert!(shown.contains("127.0.0.1") && !shown.contains("wrong-word"), "{shown}");
}

#[tokio::test]
async fn what_a_hand_has_written_is_served_and_can_be_replaced() {
    let server = RedisServer::start();
    let store = open(server.url());
    store.commit(vec![put("good", json!(1), Expect::Any)]).await.expect("committed");
    for (id, text) in [("plain", "{\"a\":1}"), ("broken", "{\"a\":")] {
        let _: i64 = server.admin(&["HSET", "{portcullis}:proxy", id, text]).await.expect("written");
    }
    let listed = store.list(Kind::Proxy).await.expect("one bad document does not hide the others");
    let found: Vec<_> = listed.iter().map(|d| (d.key.id.as_str(), d.version, d.value.clone())).collect();
    let broken = json!("{\"a\":");
    assert_eq!(found, [("broken", 0, broken), ("good", 1, json!(1)), ("plain", 0, json!({ "a": 1 }))]);
    store.commit(vec![put("plain", json!(2), Expect::Version(0))]).await.expect("replaced");
    assert_eq!(store.get(&key("plain")).await.expect("read").expect("there").version, 1);

    let _: i64 = server.admin(&["DEL", "{portcullis}:route"]).await.expect("deleted");
    let () = server.admin(&["SET", "{portcullis}:route", "not a hash"]).await.expect("written");
    assert!(store.load().await.is_err(), "an error, no panic");
}

#[tokio::test]
async fn what_the_sink_of_the_layers_wrote_is_read_like_our_own() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a good URL");
    let log = RedisStreams::new(client, "{portcullis:requests}");
    let stop = CancellationToken::new();
    let writing = tokio::spawn(log.clone().run(stop.clone()));
    let logged = ServiceBuilder::new()
        .layer(AccessLogLayer::new(log.clone()))
        .service_fn(async |_: http::Request<String>| Ok::<_, Infallible>(http::Response::new(String::new())));
    for path in ["/1", "/2"] {
        let request = http::Request::get(path).body(String::new()).expect("a request");
        drop(logged.clone().oneshot(request).await.expect("an answer"));
    }
    assert!(log.flush(Duration::from_secs(20)).await);

    let store = open(server.url());
    store
        .append(Stream::Requests, vec![entry(now(), r#"{"request_path":"/3"}"#, &[])], KEEP)
        .await
        .expect("appended");
    let found = store.range(Stream::Requests, &ALL).await.expect("read");
    let path = |record: &[u8]| {
        let record: serde_json::Value = serde_json::from_slice(record).expect("JSON");
        record["request_path"].clone()
    };
    assert_eq!(found.iter().map(|logged| path(&logged.record)).collect::<Vec<_>>(), ["/1", "/2", "/3"]);
    let newest = Range { newest_first: true, limit: 1, since: now() - 60_000, ..ALL };
    let found = store.range(Stream::Requests, &newest).await.expect("read");
    assert_eq!(found.iter().map(|logged| path(&logged.record)).collect::<Vec<_>>(), ["/3"]);
    stop.cancel();
    writing.await.expect("it ends");
}

/// A way to the server on which answers can be lost.
async fn lossy(port: u16) -> (u16, Arc<AtomicBool>) {
    let lose = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("its address").port();
    let shared = lose.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
            let lose = shared.clone();
            tokio::spawn(async move {
                let (mut ask, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
                loop {
                    tokio::select! {
                        read = client.read(&mut ask) => match read {
                            Ok(length) if length > 0 => server.write_all(&ask[..length]).await.expect("sent"),
                            _ => return,
                        },
                        read = server.read(&mut answer) => match read {
                            Ok(length) if length > 0 && !lose.swap(false, Ordering::SeqCst) => {
                                client.write_all(&answer[..length]).await.expect("sent");
                            }
                            _ => return,
                        },
                    }
                }
            });
        }
    });
    (own, lose)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_once() {
    let server = RedisServer::start();
    let (port, lose) = lossy(server.port()).await;
    let store = open(format!("redis://:{URL_PASSWORD}@127.0.0.1:{port}/0"));
    store.commit(vec![put("a", json!(1), Expect::Absent)]).await.expect("committed");
    lose.store(true, Ordering::SeqCst);
    let revision = store.commit(vec![put("a", json!(2), Expect::Version(1))]).await.expect("found out");
    assert!(!lose.load(Ordering::SeqCst), "an answer was lost");
    assert_eq!(revision.n, 2);
    assert_eq!(store.get(&key("a")).await.expect("read").expect("there").version, 2);

    // Else a code would be taken for a replay of itself.
    let record = RecordKey::new(RecordKind::Code, "a");
    let write = |expect| RecordWrite::put(record.clone(), &1, None, expect, Vec::new()).expect("JSON");
    store.commit_records(vec![write(Expect::Absent)]).await.expect("committed");
    lose.store(true, Ordering::SeqCst);
    store.commit_records(vec![write(Expect::Version(1))]).await.expect("found out");
    assert!(!lose.load(Ordering::SeqCst), "an answer was lost");
    assert_eq!(store.get_record(&record).await.expect("read").expect("there").version, 2);
}
