//! What outlives its request: WebSockets over HTTP/1.1 and HTTP/2, and event streams.

mod support;

use bytes::Bytes;
use futures_util::SinkExt;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::json;
use support::PATIENCE;
use support::client::{self, get, handshake, plain};
use support::daemon::Daemon;
use support::handmade::{self, streamed};
use support::sockets::{Socket, over_http1, over_http2};
use support::upstream::Upstream;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// One of each way to a WebSocket.
async fn sockets(daemon: &Daemon, host: &str) -> [(&'static str, Socket); 3] {
    let tls = handshake(daemon.https, host, &[b"http/1.1"]).await.unwrap();
    [
        ("HTTP/1.1", over_http1(TcpStream::connect(daemon.http).await.unwrap(), host, "/ws").await),
        ("HTTPS", over_http1(tls, host, "/ws").await),
        ("HTTP/2", over_http2(daemon.https, host, "/ws").await.1),
    ]
}

#[tokio::test]
async fn a_websocket_carries_messages_of_every_kind_and_size() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    for (way, mut socket) in sockets(&daemon, "a.test").await {
        for message in [
            Message::text("hello"),
            Message::text(""),
            Message::binary(vec![0_u8; 1]),
            Message::binary(vec![7_u8; 1 << 20]),
        ] {
            assert_eq!(socket.echo(message.clone()).await, message, "{way}");
        }
        socket.stream.send(Message::Ping(Bytes::from("are you there"))).await.unwrap();
        assert_eq!(socket.next().await, Some(Message::Pong(Bytes::from("are you there"))), "{way}");
        let close = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
        socket.stream.send(Message::Close(Some(close))).await.unwrap();
        assert!(matches!(socket.next().await, Some(Message::Close(_))), "{way}");
        assert_eq!(socket.next().await, None, "{way}");
    }
}

#[tokio::test]
async fn many_websockets_share_an_http2_connection_with_requests() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    let (sender, first) = over_http2(daemon.https, "a.test", "/ws").await;
    let mut sockets = vec![first];
    for _ in 0..5 {
        sockets.push(support::sockets::on_http2(sender.clone(), "a.test", "/ws").await);
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        let message = Message::text(number.to_string());
        assert_eq!(socket.echo(message.clone()).await, message);
        let request = Request::get("https://a.test/").body(http_body_util::Full::<Bytes>::default()).unwrap();
        assert_eq!(sender.clone().send_request(request).await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_tunnel_is_in_the_log_when_it_has_closed() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    for (host, version) in [("one.test", "1.1"), ("two.test", "2")] {
        daemon.host(host, &upstream.url(), json!({})).await;
        let mut socket = match version {
            "2" => over_http2(daemon.https, host, "/ws").await.1,
            _ => over_http1(TcpStream::connect(daemon.http).await.unwrap(), host, "/ws").await,
        };
        socket.echo(Message::binary(vec![1; 10_000])).await;
        // A later request is there, the open tunnel is not.
        plain(daemon.http, get(host, "/later")).await;
        let search = format!("hostname={host}");
        daemon.record(&search, |record| record["request_path"] == "/later").await;
        let page =
            daemon.api(http::Method::GET, &format!("/logs/search?{search}"), serde_json::Value::Null).await;
        assert_eq!(page["total"], 1, "{page}");
        drop(socket);
        let record = daemon.record(&search, |record| record["tunnel"] == true).await;
        assert_eq!(
            (&record["http_version"], &record["request_path"]),
            (&json!(version), &json!("/ws")),
            "{record}"
        );
        let status = if version == "2" { 200 } else { 101 };
        assert_eq!(record["status_code"], status, "{record}");
        // Frames have a few bytes beside their message; those of the client are masked.
        for field in ["bytes_sent", "bytes_received"] {
            assert!((10_000..10_100).contains(&record[field].as_u64().unwrap()), "{field}: {record}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_is_refused_is_answered_like_a_request() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    daemon.host("closed.test", &upstream.url(), json!({ "auth_enabled": true })).await;
    daemon
        .host(
            "liar.test",
            &format!("http://{}", handmade::saying("HTTP/1.1 101 Yes\r\n\r\n").await),
            json!({}),
        )
        .await;
    for (host, path, status) in
        [("closed.test", "/ws", 401), ("a.test", "/status/403", 403), ("liar.test", "/ws", 502)]
    {
        let stream = TcpStream::connect(daemon.http).await.unwrap();
        let request = support::sockets::handshake_request(host, path);
        assert_eq!(client::open(stream, request).await.status(), status, "{host}{path}");
        let (mut sender, _connection) = client::http2(daemon.https, host).await;
        let request = support::sockets::connect_request(host, path);
        assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{host}{path} over HTTP/2");
    }
}

#[tokio::test]
async fn events_arrive_at_once_over_every_protocol() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    let tls = handshake(daemon.https, "a.test", &[b"http/1.1"]).await.unwrap();
    let (mut sender, _connection) = client::http2(daemon.https, "a.test").await;
    for response in [
        client::open(TcpStream::connect(daemon.http).await.unwrap(), get("a.test", "/events")).await,
        client::open(tls, get("a.test", "/events")).await,
        sender.send_request(get("a.test", "https://a.test/events")).await.unwrap(),
    ] {
        let version = response.version();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        let mut events = Vec::new();
        while !events.ends_with(b"data: two\n\n") {
            let frame =
                tokio::time::timeout(PATIENCE, body.frame()).await.expect("an event").unwrap().unwrap();
            events.extend_from_slice(&frame.into_data().unwrap());
        }
        assert_eq!(events, b"data: one\n\ndata: two\n\n", "{version:?}");
    }
}

#[tokio::test]
async fn silence_ends_a_body_but_no_event_stream_and_no_tunnel() {
    let daemon = Daemon::start();
    let (bodies, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let upstream = handmade::serve(false, move |request: Request<hyper::body::Incoming>| {
        let (sender, body) = streamed();
        sender.send(Frame::data(Bytes::from("begin\n"))).unwrap();
        bodies.send(sender).unwrap();
        let kind = if request.uri().path() == "/events" { "text/event-stream" } else { "text/plain" };
        async move { Response::builder().header("content-type", kind).body(body).unwrap() }
    })
    .await;
    let short = json!({ "idle_timeout_seconds": 1 });
    daemon.host("a.test", &format!("http://{upstream}"), short.clone()).await;
    daemon.host("ws.test", &Upstream::start("main").await.url(), short).await;
    let mut sockets = sockets(&daemon, "ws.test").await;
    let mut events =
        client::open(TcpStream::connect(daemon.http).await.unwrap(), get("a.test", "/events")).await;
    let events_sender = taken.recv().await.unwrap();
    // As long as an ordinary body is waited for, and that three times.
    for _ in 0..3 {
        let body = client::open(TcpStream::connect(daemon.http).await.unwrap(), get("a.test", "/body"))
            .await
            .into_body();
        let _open = taken.recv().await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, body.collect()).await.expect("the body is given up");
        assert!(ended.is_err(), "a body that stands still ended as if it were whole");
    }
    for (way, socket) in &mut sockets {
        assert_eq!(socket.echo(Message::text("still here")).await, Message::text("still here"), "{way}");
    }
    events_sender.send(Frame::data(Bytes::from("still here\n"))).unwrap();
    drop(events_sender);
    let all = events.body_mut().collect().await.expect("the stream was not cut").to_bytes();
    assert_eq!(all, "begin\nstill here\n");
}

/// The built-in echo is no upstream, but its tunnels end like those of one.
#[tokio::test]
async fn a_tunnel_to_the_echo_ends_with_its_host_and_is_in_the_log() {
    let daemon = Daemon::start();
    daemon.host("a.test", "builtin:echo", json!({})).await;
    let mut sockets = sockets(&daemon, "a.test").await;
    for (way, socket) in &mut sockets {
        assert_eq!(socket.echo(Message::text("hello")).await, Message::text("hello"), "{way}");
    }
    daemon.change("a.test", json!({ "enabled": false })).await;
    for (way, socket) in &mut sockets {
        assert_eq!(socket.next().await, None, "{way}: a host that is switched off takes its tunnels along");
    }
    for (version, status) in [("1.1", 101), ("2", 200)] {
        let search = format!("hostname=a.test&status={status}");
        let record = daemon.record(&search, |record| record["tunnel"] == true).await;
        assert_eq!(record["http_version"], version, "{record}");
        assert_eq!((&record["bytes_received"], &record["bytes_sent"]), (&json!(5), &json!(5)), "{record}");
    }
}

#[tokio::test]
async fn a_tunnel_to_the_echo_ends_when_its_token_is_revoked() {
    let daemon = Daemon::start();
    let rules = json!({ "auth_enabled": true, "auth_required_users": ["service:ci"] });
    daemon.host("a.test", "builtin:echo", rules).await;
    let token = daemon.token("ci", "a.test").await;
    let mut request = support::sockets::handshake_request("a.test", "/ws");
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = TcpStream::connect(daemon.http).await.unwrap();
    let mut socket = support::sockets::switched(stream, request).await;
    assert_eq!(socket.echo(Message::text("hello")).await, Message::text("hello"));
    daemon.api(http::Method::DELETE, "/tokens/ci", serde_json::Value::Null).await;
    assert_eq!(socket.next().await, None);
}
