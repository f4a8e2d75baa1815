//! What authenticated requests cost the store: nothing.
//!
//! Redis itself tells what it is asked (`MONITOR`), so nothing is missed. Two classes of commands are told apart
//! from all others: log entries, which are written in batches a few times a second however many requests there are,
//! and what nodes ask anyway, which is counted before the load and may not become more often under it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::nodes::{get_as, nodes};
use super::world::{HOST, PORT, World};
use crate::support::PATIENCE;
use crate::support::client;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::redis::{PASSWORD, RedisServer};

const COOKIE: &str = "__Host-unified_auth_token";

/// As many requests as each class of credentials is measured with.
const REQUESTS: u64 = 1000;

/// How often a class of commands may come beside what is usual in the time: timers don't count exactly.
const STRAY: u128 = 6;

/// How nodes look for revocations.
const LOOK: &str = "XRANGE {portcullis:revocations}";

/// How many such looks are waited for: some seconds, in which every timer comes.
const LOOKS: u64 = 40;

/// A Redis that tells of every command.
struct Monitor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    _writer: OwnedWriteHalf,
    redis: redis::aio::MultiplexedConnection,
    marks: u64,
}

/// How often each class of commands came, by command and first key, and in which time.
#[derive(Debug)]
struct Count {
    commands: BTreeMap<String, u64>,
    time: Duration,
}

impl Monitor {
    async fn of(redis: &RedisServer) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        let (reader, mut writer) = stream.into_split();
        writer.write_all(format!("AUTH {PASSWORD}\r\nMONITOR\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        for _ in 0..2 {
            assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
        }
        let client = redis::Client::open(redis.url()).unwrap();
        let redis = client.get_multiplexed_async_connection().await.unwrap();
        Self { lines, _writer: writer, redis, marks: 0 }
    }

    /// Reads all commands up to now, by a mark of its own.
    async fn until_now(&mut self) -> BTreeMap<String, u64> {
        self.marks += 1;
        let mark = format!("mark-{}", self.marks);
        let _: String = redis::cmd("ECHO").arg(&mark).query_async(&mut self.redis).await.unwrap();
        let mut commands = BTreeMap::new();
        loop {
            let class = self.next().await;
            if class == format!("ECHO {mark}") {
                return commands;
            }
            *commands.entry(class).or_default() += 1;
        }
    }

    /// The class of the next command.
    async fn next(&mut self) -> String {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a command");
            let line = line.unwrap().expect("the monitor goes on");
            // `+TIME [DB ADDRESS] "COMMAND" "ARGUMENT" …`; what a script does inside Redis is no round trip.
            let (source, words) = line.split_once("] ").unwrap();
            if !source.ends_with("lua") {
                return class(words);
            }
        }
    }

    async fn count(&mut self, work: impl AsyncFnOnce()) -> Count {
        self.until_now().await;
        let began = Instant::now();
        work().await;
        let time = began.elapsed();
        Count { commands: self.until_now().await, time }
    }
}

/// The command and its first key; for a script, its first key alone.
fn class(words: &str) -> String {
    let words: Vec<_> = words.split(' ').map(|word| word.trim_matches('"')).collect();
    let command = words[0].to_ascii_uppercase();
    let key = match command.as_str() {
        // The hash, the number of keys, the keys.
        "EVALSHA" | "EVAL" => words.get(3),
        "XREAD" => words.iter().skip_while(|word| !word.eq_ignore_ascii_case("STREAMS")).nth(1),
        _ => words.get(1),
    };
    format!("{command} {}", key.copied().unwrap_or_default())
}

/// Logs are written in batches by a script on the stream's key.
fn is_log(class: &str) -> bool {
    ["requests", "diagnostics", "audit", "oauth", "mcp"]
        .iter()
        .any(|stream| class == format!("EVALSHA {{portcullis:{stream}}}"))
}

/// One request after the other, all on one connection, each with this header.
async fn ask(node: &Daemon, name: &str, value: &str) {
    let (mut sender, _connection) = client::http2::<Full<bytes::Bytes>>(node.https, HOST).await;
    for _ in 0..REQUESTS {
        let request = Request::get(format!("https://{HOST}:{PORT}/page")).header(name, value);
        let sent = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(client::read(sent).await.status, StatusCode::OK);
    }
}

/// What nodes ask while nobody asks them for anything: as long as they look for revocations so many times.
async fn idle(monitor: &mut Monitor) -> Count {
    monitor.until_now().await;
    let began = Instant::now();
    let mut commands: BTreeMap<String, u64> = BTreeMap::new();
    while commands.get(LOOK).is_none_or(|count| *count < LOOKS) {
        let class = monitor.next().await;
        *commands.entry(class).or_default() += 1;
    }
    Count { commands, time: began.elapsed() }
}

/// No class of commands may have come more often than in the same time without requests.
fn check(what: &str, idle: &Count, loaded: &Count) {
    eprintln!("measured: {what}: {REQUESTS} requests in {:?}: {:?}", loaded.time, loaded.commands);
    for (class, &count) in &loaded.commands {
        let most = if is_log(class) {
            // Each of two nodes ten times a second, as many requests as there may be.
            loaded.time.as_millis() / 50
        } else {
            let usual = u128::from(idle.commands.get(class).copied().unwrap_or_default());
            // Half as many again.
            usual * loaded.time.as_millis() * 3 / (idle.time.as_millis() * 2)
        };
        let most = most + STRAY;
        assert!(u128::from(count) <= most, "{what}: {class} came {count} times, {most} are usual at most");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authenticated_request_asks_the_store_nothing() {
    let redis = RedisServer::start();
    let (world, second) = nodes(&redis).await;
    world.daemon.change(HOST, json!({ "auth_mode": "redirect" })).await;
    let client = world.register(json!({})).await;
    let token = world.tokens(&client).await["access_token"].as_str().unwrap().to_owned();
    let cookie = session(&world).await;
    eventually("the host is on the second node", async || {
        (get_as(&second, "/mcp", &token).await.status == StatusCode::OK).then_some(())
    })
    .await;
    let mut monitor = Monitor::of(&redis).await;
    let idle = idle(&mut monitor).await;
    eprintln!("measured: without requests, in {:?}: {:?}", idle.time, idle.commands);
    let bearer = format!("Bearer {token}");
    for (what, name, value) in [("bearer", "authorization", &bearer), ("cookie", "cookie", &cookie)] {
        let loaded = monitor.count(async || ask(&second, name, value).await).await;
        check(what, &idle, &loaded);
    }
    // The requests were logged, and the batches are those that were seen.
    second.record(&format!("hostname={HOST}"), |record| record["status_code"] == 200).await;
}

/// The cookie of a browser that has signed in.
async fn session(world: &World) -> String {
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/"), "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    format!("{COOKIE}={}", visitor.cookie(HOST, COOKIE).expect("a session"))
}
