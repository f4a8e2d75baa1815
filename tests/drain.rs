//! The end of the daemon: what is under way ends well, and nothing is forgotten.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::json;
use support::client::{self, Answer, get, handshake, plain, read, secure};
use support::daemon::Daemon;
use support::handmade::{self, full, streamed};
use support::sockets::{over_http1, over_http2};
use support::upstream::Upstream;
use support::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;

/// An upstream whose answers wait until they are let go.
struct Gate {
    url: String,
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    async fn start() -> Self {
        let (arrived, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (arrive, wait) = (Arc::clone(&arrived), Arc::clone(&open));
        let address = handmade::serve(false, move |_| {
            let (arrive, wait) = (Arc::clone(&arrive), Arc::clone(&wait));
            async move {
                arrive.add_permits(1);
                wait.acquire().await.unwrap().forget();
                Response::new(full("late"))
            }
        })
        .await;
        Self { url: format!("http://{address}"), arrived, open }
    }

    /// Waits until so many requests are here.
    async fn holds(&self, requests: u32) {
        let arrived = tokio::time::timeout(PATIENCE, self.arrived.acquire_many(requests)).await;
        arrived.expect("the requests arrive").unwrap().forget();
    }
}

async fn refuses_connections(daemon: &Daemon) {
    for address in [daemon.http, daemon.https] {
        eventually("new connections are refused", async || TcpStream::connect(address).await.err()).await;
    }
}

#[tokio::test]
async fn requests_that_are_under_way_are_answered_and_nobody_new_gets_in() {
    let (mut daemon, gate) = (Daemon::start(), Gate::start().await);
    daemon.host("a.test", &gate.url, json!({})).await;
    let (mut sender, connection) = client::http2(daemon.https, "a.test").await;
    let over_http2 = sender.send_request(get("a.test", "https://a.test/"));
    let (http, https) = (daemon.http, daemon.https);
    let waiting = tokio::spawn(async move {
        tokio::join!(plain(http, get("a.test", "/")), secure(https, get("a.test", "/")), async {
            read(over_http2.await.unwrap()).await
        })
    });
    gate.holds(3).await;
    let idle = TcpStream::connect(daemon.http).await.unwrap();
    daemon.signal("TERM");
    daemon.wait_for_log("stopping");
    refuses_connections(&daemon).await;
    gate.open.add_permits(3);
    let (one, two, three): (Answer, Answer, Answer) = waiting.await.unwrap();
    for answer in [&one, &two, &three] {
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"late"[..]));
    }
    assert_eq!((one.header("connection"), two.header("connection")), ("close", "close"));
    connection.await.unwrap().expect("the connection ends in order");
    assert_eq!(daemon.ended(), Some(0));
    drop(idle);
}

#[tokio::test]
async fn a_node_that_drains_is_not_ready_and_says_why() {
    let (mut daemon, gate) = (Daemon::start(), Gate::start().await);
    daemon.host("a.test", &gate.url, json!({})).await;
    let ask = async |path: &str| daemon.ask(http::Method::GET, path, &serde_json::Value::Null).await;
    assert_eq!(
        (ask("/ready").await.status.as_u16(), ask("/health").await.json()["status"].clone()),
        (200, json!("healthy"))
    );
    let http = daemon.http;
    let waiting = tokio::spawn(async move { plain(http, get("a.test", "/")).await });
    gate.holds(1).await;
    daemon.signal("TERM");
    daemon.wait_for_log("stopping: not ready");
    let ready = ask("/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["code"]), (503, &json!("draining")));
    assert!(ready.json()["detail"].as_str().unwrap().contains("stopping"), "{}", ready.json());
    assert_eq!(ask("/health").await.json()["status"], "draining");
    gate.open.add_permits(1);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(daemon.ended(), Some(0));
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
async fn frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("a frame").unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
}

#[tokio::test]
async fn an_http2_connection_is_told_which_streams_will_still_be_answered() {
    const DATA: u8 = 0;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let (mut daemon, gate) = (Daemon::start(), Gate::start().await);
    daemon.host("a.test", &gate.url, json!({})).await;
    let mut stream = handshake(daemon.https, "a.test", &[b"h2"]).await.unwrap();
    let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // HEADERS with END_STREAM and END_HEADERS on stream 1: GET, https, `/`, `a.test` (RFC 7541, appendix A).
    begin.extend(b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x87\x84\x41\x06a.test");
    stream.write_all(&begin).await.unwrap();
    gate.holds(1).await;
    daemon.signal("TERM");
    let mut last = Vec::new();
    let (mut body, mut data_after_goaway) = (Vec::new(), false);
    loop {
        let (kind, flags, _, payload) = frame(&mut stream).await;
        match kind {
            SETTINGS if flags & 1 == 0 => stream.write_all(b"\0\0\0\x04\x01\0\0\0\0").await.unwrap(),
            // A ping that measures how long the client's last requests may be on their way.
            PING if flags & 1 == 0 => {
                let pong = [&b"\0\0\x08\x06\x01\0\0\0\0"[..], &payload].concat();
                stream.write_all(&pong).await.unwrap();
            }
            GOAWAY => {
                assert_eq!(payload[4..8], [0; 4], "no error");
                last.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                if last.len() == 1 {
                    gate.open.add_permits(1);
                }
            }
            DATA => {
                body.extend_from_slice(&payload);
                data_after_goaway = !last.is_empty();
                if flags & 1 != 0 && last.last() == Some(&1) {
                    break;
                }
            }
            _ => {}
        }
        if body == b"late" && last.last() == Some(&1) {
            break;
        }
    }
    assert!(data_after_goaway, "the stream was answered before GOAWAY");
    assert_eq!(body, b"late");
    assert_eq!(daemon.ended(), Some(0));
}

#[tokio::test]
async fn tunnels_and_event_streams_are_closed_at_once() {
    let (mut daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    let mut sockets = [
        over_http1(TcpStream::connect(daemon.http).await.unwrap(), "a.test", "/ws").await,
        over_http2(daemon.https, "a.test", "/ws").await.1,
    ];
    for socket in &mut sockets {
        socket.echo(Message::text("hello")).await;
    }
    let mut events =
        client::open(TcpStream::connect(daemon.http).await.unwrap(), get("a.test", "/events")).await;
    events.body_mut().frame().await.unwrap().unwrap();
    let begun = Instant::now();
    daemon.signal("TERM");
    for socket in &mut sockets {
        while socket.next().await.is_some() {}
    }
    tokio::time::timeout(PATIENCE, events.into_body().collect()).await.expect("the stream ends").ok();
    assert_eq!(daemon.ended(), Some(0));
    // Long before the grace period of 25 seconds: nothing had to be killed.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!daemon.logged().contains("did not end by themselves"));
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let mut daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_HEAD_TIMEOUT", "600").env("PROXY_PROTOCOL_TRUSTED", "127.0.0.3/32");
    });
    let upstream = Upstream::start("main").await;
    daemon.host("a.test", &upstream.url(), json!({})).await;
    let mut kept = TcpStream::connect(daemon.http).await.unwrap();
    kept.write_all(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    assert!(kept.read(&mut [0; 1024]).await.unwrap() > 0);
    let fresh = TcpStream::connect(daemon.http).await.unwrap();
    let mut halves = Vec::new();
    for (from, address, sent) in [
        ("127.0.0.1:0", daemon.https, &b""[..]),
        ("127.0.0.1:0", daemon.https, b"\x16\x03\x01"),
        ("127.0.0.1:0", daemon.http, b"GET / HTTP/1.1\r\nHost: a.te"),
        ("127.0.0.3:0", daemon.http, b""),
        ("127.0.0.3:0", daemon.https, b"PROXY TCP4"),
    ] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        let mut half = socket.connect(address).await.unwrap();
        half.write_all(sent).await.unwrap();
        halves.push(half);
    }
    let mut silent = handshake(daemon.https, "a.test", &[b"h2"]).await.unwrap();
    let (mut sender, _connection) = client::http2(daemon.https, "a.test").await;
    read(sender.send_request(get("a.test", "https://a.test/")).await.unwrap()).await;
    let begun = Instant::now();
    daemon.signal("INT");
    assert_eq!(daemon.ended(), Some(0));
    // Less than the grace period of 25 seconds: nothing had to be killed.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!daemon.logged().contains("did not end by themselves"));
    for half in &mut halves {
        let end = half.read(&mut [0; 64]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let _frames = silent.read(&mut [0; 1024]).await;
    drop((kept, fresh));
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_after_the_grace_period() {
    let mut daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_SHUTDOWN_GRACE", "0.5");
    });
    let gate = Gate::start().await;
    daemon.host("a.test", &gate.url, json!({})).await;
    let stream = TcpStream::connect(daemon.http).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = tokio::spawn(sender.send_request(get("a.test", "/")));
    gate.holds(1).await;
    daemon.signal("TERM");
    assert!(answer.await.unwrap().is_err(), "nobody can have answered");
    assert_eq!(daemon.ended(), Some(0));
    daemon.wait_for_log("did not end by themselves");
}

#[tokio::test]
async fn a_second_start_finds_configuration_and_logs_of_the_first() {
    let upstream = Upstream::start("main").await;
    let mut first = Daemon::start();
    first.host("a.test", &upstream.url(), json!({ "custom_response_headers": { "x-kept": "yes" } })).await;
    first.route(json!({ "route_id": "kept", "path_pattern": "/r", "target_type": "url", "target_value": upstream.url() })).await;
    let token = first.token("robot", "localhost").await;
    let mut socket = over_http1(TcpStream::connect(first.http).await.unwrap(), "a.test", "/ws").await;
    socket.echo(Message::text("hello")).await;
    for number in 0..50 {
        plain(first.http, get("a.test", &format!("/r/{number}"))).await;
    }
    first.signal("TERM");
    assert_eq!(first.ended(), Some(0));
    // The certificate's key is of the first start, too; the ports may be others.
    let second = Daemon::start_in(Arc::clone(&first.dir), |command| {
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", first.https.port().to_string());
    });
    let answer = plain(second.http, get("a.test", "/again")).await;
    assert_eq!((answer.header("x-upstream"), answer.header("x-kept")), ("main", "yes"));
    assert_eq!(secure(second.https, client::get_as("localhost", "/tokens/info", &token)).await.status, 200);
    let page = second
        .api(http::Method::GET, "/logs/search?hostname=a.test&route=kept", serde_json::Value::Null)
        .await;
    assert_eq!(page["total"], 50, "{page}");
    second.record("hostname=a.test", |record| record["tunnel"] == true && record["bytes_sent"] != 0).await;
    let page = second
        .api(http::Method::GET, "/logs/search?log=diagnostics&q=stopping", serde_json::Value::Null)
        .await;
    assert_ne!(page["total"], 0, "{page}");
}

#[tokio::test]
async fn a_body_that_is_under_way_is_sent_to_its_end() {
    let mut daemon = Daemon::start();
    let (sender, body) = streamed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let upstream = handmade::serve(false, move |_: Request<hyper::body::Incoming>| {
        let body = body.lock().unwrap().take().unwrap_or_else(|| full("none"));
        async move { Response::new(body) }
    })
    .await;
    daemon.host("a.test", &format!("http://{upstream}"), json!({})).await;
    sender.send(Frame::data(Bytes::from("first "))).unwrap();
    let mut response = client::open(TcpStream::connect(daemon.http).await.unwrap(), get("a.test", "/")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    daemon.signal("TERM");
    refuses_connections(&daemon).await;
    sender.send(Frame::data(Bytes::from("last"))).unwrap();
    drop(sender);
    assert_eq!(read(response).await.body, "last");
    assert_eq!(daemon.ended(), Some(0));
}
