use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use portcullis_layers::Body;
use portcullis_layers::context::{ClientAddr, Conn, Facts, RequestContext};
use portcullis_layers::forward::{Forward, PoolSettings, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn ok(_: Request<hyper::body::Incoming>) -> UpstreamResponse {
    UpstreamResponse::new(full("ok"))
}

fn answered() -> (StatusCode, String) {
    (StatusCode::OK, "ok".to_owned())
}

#[tokio::test]
async fn connections_are_reused() {
    let (address, connections) = upstream(false, ok).await;
    let proxy = proxy(target(address));
    for _ in 0..5 {
        assert_eq!(proxy.get("/").await, answered());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connections_survive_a_reload() {
    let (address, connections) = upstream(false, ok).await;
    let mut proxy = proxy(target(address));
    assert_eq!(proxy.get("/").await, answered());
    let mut changed = target(address);
    changed.preserve_host = false;
    proxy.forward = Forward::new(&proxy.client, changed, proxy.host.clone()).expect("valid");
    assert_eq!(proxy.get("/").await, answered());
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn http2_connections_are_shared_by_concurrent_requests() {
    let (address, connections) = upstream(true, ok).await;
    let mut target = target(address);
    target.upstreams[0].protocol = Protocol::Http2;
    let proxy = proxy(target);
    let requests = (0..20).map(|_| proxy.get("/"));
    for outcome in futures_util::future::join_all(requests).await {
        assert_eq!(outcome, answered());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Answers one request on each connection and closes it when the next has been read: what a
/// request meets that crosses the upstream's closing of an idle connection.
async fn forgetful(count: usize, mut tcp: TcpStream) {
    read_head(&mut tcp).await;
    say(&mut tcp, OK).await;
    if count == 0 {
        read_head(&mut tcp).await;
    } else {
        let mut rest = Vec::new();
        let _gone = tcp.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn a_repeatable_request_is_sent_again_when_a_used_connection_dies() {
    let proxy = proxy(target(scripted(forgetful).await));
    assert_eq!(proxy.get("/").await, answered());
    assert_eq!(proxy.get("/").await, answered());
}

#[tokio::test]
async fn a_post_is_not_sent_twice() {
    let posts = Arc::new(AtomicUsize::new(0));
    let address = scripted_with(&posts, |seen, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, OK).await;
        if read_head(&mut tcp).await.starts_with("post") {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = proxy(target(address));
    assert_eq!(proxy.get("/").await, answered());
    let post = Request::post("/").body(Body::empty()).expect("valid");
    assert_eq!(proxy.text(post).await, (StatusCode::BAD_GATEWAY, "upstream_closed".to_owned()));
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_is_not_repeated_once_an_answer_has_begun() {
    let gets = Arc::new(AtomicUsize::new(0));
    let address = scripted_with(&gets, |seen, mut tcp| async move {
        read_head(&mut tcp).await;
        seen.fetch_add(1, Ordering::SeqCst);
        say(&mut tcp, OK).await;
        read_head(&mut tcp).await;
        seen.fetch_add(1, Ordering::SeqCst);
        say(&mut tcp, "HTTP/1.1 20").await;
    })
    .await;
    let proxy = proxy(target(address));
    assert_eq!(proxy.get("/").await, answered());
    assert_eq!(proxy.get("/").await, (StatusCode::BAD_GATEWAY, "upstream_closed".to_owned()));
    assert_eq!(gets.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_new_connection_that_dies_is_no_reason_to_try_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let address = scripted_with(&tries, |seen, mut tcp| async move {
        read_head(&mut tcp).await;
        seen.fetch_add(1, Ordering::SeqCst);
    })
    .await;
    let proxy = proxy(target(address));
    assert_eq!(proxy.get("/").await, (StatusCode::BAD_GATEWAY, "upstream_closed".to_owned()));
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

/// Closes after each answer without having said so; even a POST must not meet the closed connection
/// when it had time to show.
#[tokio::test]
async fn a_connection_that_closed_while_idle_is_not_used() {
    let closed = Arc::new(tokio::sync::Semaphore::new(0));
    let address = scripted_with(&closed, |signal, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, OK).await;
        drop(tcp);
        signal.add_permits(1);
    })
    .await;
    let proxy = proxy(target(address));
    for _ in 0..3 {
        let post = Request::post("/").body(Body::empty()).expect("valid");
        assert_eq!(proxy.text(post).await, answered());
        closed.acquire().await.expect("open").forget();
        // The end of the stream has to come through the loop-back device.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_upstream_that_closes_is_not_pooled() {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok").await;
    })
    .await;
    let proxy = proxy(target(address));
    for _ in 0..3 {
        assert_eq!(proxy.get("/").await, answered());
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_time_and_beyond_their_number() {
    let open = Arc::new(AtomicUsize::new(0));
    let address = scripted_with(&open, |open, mut tcp| async move {
        open.fetch_add(1, Ordering::SeqCst);
        while !read_head(&mut tcp).await.is_empty() {
            say(&mut tcp, OK).await;
        }
        open.fetch_sub(1, Ordering::SeqCst);
    })
    .await;
    let settings = PoolSettings { max_idle: 2, idle_timeout: Duration::from_secs(1) };
    let proxy = proxy_with(target(address), settings);
    let requests = (0..6).map(|_| proxy.get("/"));
    for outcome in futures_util::future::join_all(requests).await {
        assert_eq!(outcome, answered());
    }
    until("closing what is too many", || open.load(Ordering::SeqCst) <= 2).await;
    until("closing what is too old", || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_connection_along() {
    let closed = Arc::new(tokio::sync::Semaphore::new(0));
    let address = scripted_with(&closed, |signal, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin").await;
        let _gone = tcp.read_u8().await;
        signal.add_permits(1);
    })
    .await;
    let proxy = proxy(target(address));
    let request = Request::get("/").header("host", "a").body(Body::empty()).expect("valid");
    drop(proxy.forward.send(request).await.expect("answered"));
    soon("closing the connection", closed.acquire()).await.expect("open").forget();
}

fn context(client: &str) -> RequestContext {
    let client: SocketAddr = client.parse().expect("valid");
    let local = "198.51.100.2:443".parse().expect("valid");
    let conn = Conn::new(local, client, ClientAddr(client), None);
    RequestContext { conn: Some(Arc::new(conn)), ..RequestContext::default() }
}

#[tokio::test]
async fn a_proxy_header_opens_each_connection_and_is_not_shared() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let address = scripted(move |_, mut tcp| {
        let sender = sender.clone();
        async move {
            let head = read_head(&mut tcp).await;
            sender.send(head.lines().next().unwrap_or_default().to_owned()).expect("the test listens");
            say(&mut tcp, OK).await;
            let _gone = tcp.read_u8().await;
        }
    })
    .await;
    let mut target = target(address);
    target.upstreams[0].proxy_header = Some(ProxyHeader::V1);
    let proxy = proxy(target);
    for client in ["192.0.2.1:1000", "192.0.2.9:2000"] {
        let request = Request::get("/").extension(context(client)).body(Body::empty()).expect("valid");
        assert_eq!(proxy.text(request).await, answered());
    }
    assert_eq!(seen.recv().await.as_deref(), Some("proxy tcp4 192.0.2.1 198.51.100.2 1000 443"));
    assert_eq!(seen.recv().await.as_deref(), Some("proxy tcp4 192.0.2.9 198.51.100.2 2000 443"));
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_the_first_is_away() {
    let (address, _) = upstream(false, ok).await;
    let mut target = target(nobody().await);
    target.upstreams.push(format!("http://{address}").parse().expect("valid"));
    let proxy = proxy(target);
    for _ in 0..3 {
        let body = Body::from("once");
        assert_eq!(proxy.text(Request::post("/").body(body).expect("valid")).await, answered());
    }
}

#[tokio::test]
async fn facts_tell_who_answered_and_how_fast() {
    let (address, _) = upstream(false, |request| async move {
        use http_body_util::BodyExt;
        let _body = request.into_body().collect().await.expect("a whole body");
        UpstreamResponse::new(full("ok"))
    })
    .await;
    let proxy = proxy(target(address));
    let facts = Arc::new(Facts::default());
    let context = RequestContext { facts: Some(Arc::clone(&facts)), ..RequestContext::default() };
    let request = Request::post("/").extension(context).body(Body::from("12345")).expect("valid");
    assert_eq!(proxy.text(request).await, answered());
    assert_eq!(facts.upstream.get().expect("noted").as_str(), format!("http://{address}"));
    assert!(facts.upstream_time().is_some());
    assert_eq!(facts.received.load(Ordering::Relaxed), 5);
}
