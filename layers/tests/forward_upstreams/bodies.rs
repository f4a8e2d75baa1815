use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use portcullis_layers::forward::Protocol;
use portcullis_layers::{Body, BoxError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use crate::support::*;

/// Tells what it was sent.
async fn echo(request: Request<Incoming>) -> UpstreamResponse {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a whole body");
    let trailers = body.trailers().cloned().unwrap_or_default();
    let mut response = UpstreamResponse::new(full(body.to_bytes()));
    for (name, value) in parts.headers.iter().chain(trailers.iter()) {
        response
            .headers_mut()
            .append(http::HeaderName::try_from(format!("echo-{name}")).expect("valid"), value.clone());
    }
    let uri = HeaderValue::try_from(parts.uri.to_string()).expect("valid");
    response.headers_mut().insert("echo-uri", uri);
    response
}

fn stream_of(chunks: Vec<&'static str>, trailers: Option<HeaderMap>) -> Body {
    let data = chunks.into_iter().map(|chunk| Frame::data(Bytes::from_static(chunk.as_bytes())));
    let frames: Vec<Result<Frame<Bytes>, BoxError>> =
        data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    Body::new(StreamBody::new(stream::iter(frames)))
}

#[tokio::test]
async fn the_body_of_a_get_is_not_lost() {
    for h2 in [false, true] {
        let (address, _) = upstream(h2, echo).await;
        let mut target = target(address);
        target.upstreams[0].protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
        let proxy = proxy(target);
        let request = Request::get("/").body(stream_of(vec!["a", "b"], None)).expect("valid");
        assert_eq!(proxy.text(request).await, (StatusCode::OK, "ab".to_owned()));
    }
}

#[tokio::test]
async fn hop_by_hop_headers_stay_here_and_cookies_become_one() {
    let (address, _) = upstream(false, echo).await;
    let request = Request::get("https://app.example/x?y")
        .version(Version::HTTP_2)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("connection", "x-nominated")
        .header("x-nominated", "1")
        .header("x-kept", "1")
        .body(Body::empty())
        .expect("valid");
    let response = proxy(target(address)).forward.send(request).await.expect("answered");
    let headers = response.headers();
    assert_eq!(headers["echo-cookie"], "a=1; b=2");
    assert_eq!(headers["echo-host"], "app.example");
    assert_eq!(headers["echo-uri"], "/x?y");
    assert!(headers.contains_key("echo-x-kept") && !headers.contains_key("echo-x-nominated"));
    assert!(!headers.contains_key("connection"));
}

#[tokio::test]
async fn the_upstreams_base_path_and_own_host() {
    let (address, _) = upstream(false, echo).await;
    let mut target = target(address);
    target.upstreams[0] = format!("http://{address}/base/").parse().expect("valid");
    target.preserve_host = false;
    let request = Request::get("/x").header("host", "app.example").body(Body::empty()).expect("valid");
    let response = proxy(target).forward.send(request).await.expect("answered");
    assert_eq!(response.headers()["echo-uri"], "/base/x");
    assert_eq!(response.headers()["echo-host"], address.to_string().as_str());
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for h2 in [false, true] {
        let (address, _) = upstream(h2, |request| async move {
            let body = request.into_body().collect().await.expect("a whole body");
            let mut got = body.trailers().cloned().expect("trailers of the request");
            for name in ["content-type", "set-cookie"] {
                got.insert(name, HeaderValue::from_static("never a trailer"));
            }
            let frames =
                [Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"data"))), Ok(Frame::trailers(got))];
            let mut response = UpstreamResponse::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
            response
        })
        .await;
        let mut target = target(address);
        target.upstreams[0].protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))]);
        let request = Request::post("/")
            .header("host", "app.example")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(stream_of(vec!["x"], Some(trailers.clone())))
            .expect("valid");
        let response = proxy(target).forward.send(request).await.expect("answered");
        let body = response.into_body().collect().await.expect("whole");
        assert_eq!(body.trailers(), Some(&trailers), "h2: {h2}");
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let address = scripted(|_, mut tcp| async move {
        loop {
            let head = read_head(&mut tcp).await;
            let answer = match head.split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 9\r\n\r\n",
                Some("/head") => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
                Some("/chunked") => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                _ => return,
            };
            say(&mut tcp, answer).await;
        }
    })
    .await;
    let proxy = proxy(target(address));
    let front = proxy.front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    for (method, path, field) in [
        (Method::GET, "/204", None),
        (Method::GET, "/304", Some("etag: \"x\"")),
        (Method::HEAD, "/head", Some("content-length: 9")),
        (Method::HEAD, "/chunked", None),
        (Method::GET, "/204", None),
    ] {
        say(&mut client, &format!("{method} {path} HTTP/1.1\r\nhost: app.example\r\n\r\n")).await;
        let head = soon("a head", read_head(&mut client)).await;
        let status = if path.starts_with("/2") || path.starts_with("/3") { &path[1..] } else { "200" };
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path}: {head}");
        if let Some(field) = field {
            assert!(head.contains(field), "{path}: {head}");
        }
    }
}

#[tokio::test]
async fn http_1_0_upstreams_and_double_framing_are_written_anew() {
    for answer in [
        "HTTP/1.0 200 OK\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ] {
        let address = scripted(move |_, mut tcp| async move {
            read_head(&mut tcp).await;
            say(&mut tcp, answer).await;
        })
        .await;
        let front = proxy(target(address)).front(false).await;
        let mut client = TcpStream::connect(front).await.expect("connect");
        say(&mut client, "GET / HTTP/1.1\r\nhost: app.example\r\nconnection: close\r\n\r\n").await;
        let mut all = String::new();
        soon("an end", client.read_to_string(&mut all)).await.expect("text");
        assert!(all.starts_with("HTTP/1.1 200") && all.contains("chunked"), "{all}");
        assert!(!all.to_lowercase().contains("content-length"), "{all}");
        assert!(all.ends_with("4\r\nbody\r\n0\r\n\r\n"), "{all}");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_continue() {
    let (address, _) = upstream(false, echo).await;
    let front = proxy(target(address)).front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    say(
        &mut client,
        "POST / HTTP/1.1\r\nhost: app.example\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
    )
    .await;
    assert!(soon("100", read_head(&mut client)).await.starts_with("http/1.1 100"));
    say(&mut client, "body").await;
    let head = soon("an answer", read_head(&mut client)).await;
    assert!(head.starts_with("http/1.1 200") && !head.contains("echo-expect"), "{head}");
}

#[tokio::test]
async fn a_client_that_expects_100_keeps_its_body_when_nobody_is_there() {
    let front = proxy(target(nobody().await)).front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    say(
        &mut client,
        "POST / HTTP/1.1\r\nhost: app.example\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
    )
    .await;
    assert!(soon("an answer", read_head(&mut client)).await.starts_with("http/1.1 502"));
}

#[tokio::test]
async fn the_first_event_arrives_before_the_stream_ends() {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let (address, _) = upstream(false, move |_| {
        let receiver = receiver.lock().expect("no panic").take().expect("one request");
        async move {
            let frames = stream::unfold(receiver, |mut receiver| async move {
                let event = receiver.recv().await?;
                Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(event.as_bytes()))), receiver))
            });
            let mut response = UpstreamResponse::new(StreamBody::new(frames).boxed_unsync());
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert("content-type", kind);
            response
        }
    })
    .await;
    let mut target = target(address);
    short(&mut target);
    let proxy = proxy(target);
    let front = proxy.front(false).await;
    let mut client = BufReader::new(TcpStream::connect(front).await.expect("connect"));
    say(&mut client, "GET / HTTP/1.1\r\nhost: app.example\r\n\r\n").await;
    let mut line = String::new();
    for event in ["data: one\n", "data: two\n"] {
        sender.send(event).expect("the upstream waits");
        soon("the event", async {
            while line != event {
                line.clear();
                client.read_line(&mut line).await.expect("open");
            }
        })
        .await;
        // Longer than the idle limit of ordinary bodies.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    assert_eq!(proxy.client.tunnels().len(), 1);
    proxy.host.cancel();
    let mut rest = String::new();
    soon("the end", async {
        while !rest.ends_with("0\r\n\r\n") {
            assert_ne!(client.read_line(&mut rest).await.expect("open"), 0, "{rest:?}");
        }
    })
    .await;
    until("leaving the list", || proxy.client.tunnels().is_empty()).await;
}

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 512;

#[tokio::test]
async fn a_slow_reader_slows_the_upstream_down() {
    for h2 in [false, true] {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let (address, _) = upstream(h2, move |_| {
            let counted = Arc::clone(&counted);
            async move {
                let frames = stream::iter(0..CHUNKS).map(move |_| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; CHUNK])))
                });
                UpstreamResponse::new(StreamBody::new(frames).boxed_unsync())
            }
        })
        .await;
        let mut target = target(address);
        target.upstreams[0].protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
        let request = Request::get("/").header("host", "a").body(Body::empty()).expect("valid");
        let response = proxy(target).forward.send(request).await.expect("answered");
        // Nobody reads: what is on its way fits into buffers, of the sockets above all.
        let mut before = 0;
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let now = made.load(Ordering::SeqCst);
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
        assert!(before < CHUNKS / 2, "{before} of {CHUNKS} chunks were made for nobody (h2: {h2})");
        let body = soon("the rest", response.into_body().collect()).await.expect("whole");
        assert_eq!(body.to_bytes().len(), CHUNK * CHUNKS);
    }
}

#[tokio::test]
async fn large_bodies_stream_up_and_down_at_once() {
    for h2 in [false, true] {
        let (address, _) = upstream(h2, |request| async move {
            let frames = request.into_body().map_err(BoxError::from).boxed_unsync();
            UpstreamResponse::new(frames)
        })
        .await;
        let mut target = target(address);
        target.upstreams[0].protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
        let proxy = proxy(target);
        let frames = stream::iter(0..CHUNKS)
            .map(|n| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![n as u8; CHUNK]))));
        let request =
            Request::put("/").header("host", "a").body(Body::new(StreamBody::new(frames))).expect("valid");
        let mut body = proxy.forward.send(request).await.expect("answered").into_body();
        let (mut length, mut sum) = (0, 0_u64);
        while let Some(frame) = soon("a frame", body.frame()).await {
            let data = frame.expect("whole").into_data().expect("no trailers");
            length += data.len();
            sum += data.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        let expected: u64 = (0..CHUNKS).map(|n| u64::from(n as u8) * CHUNK as u64).sum();
        assert_eq!((length, sum), (CHUNK * CHUNKS, expected), "h2: {h2}");
    }
}
