use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use portcullis_layers::body::RequestBodyError;
use portcullis_layers::forward::Protocol;
use portcullis_layers::{Body, BoxError, Rejection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn nobody_listens_502() {
    let proxy = proxy(target(nobody().await));
    assert_eq!(proxy.get("/").await, (StatusCode::BAD_GATEWAY, "upstream_connect".to_owned()));
}

#[tokio::test]
async fn an_unknown_name_is_502() {
    let mut target = target(nobody().await);
    target.upstreams[0].host = "no-such-name.invalid".parse().expect("valid");
    target.timeouts.connect = Duration::from_secs(15);
    let (status, code) = proxy(target).get("/").await;
    // A resolver that does not answer at all is possible where there is no network.
    assert!(
        (status == StatusCode::BAD_GATEWAY && code == "upstream_dns")
            || (status == StatusCode::GATEWAY_TIMEOUT && code == "upstream_connect_timeout"),
        "{status} {code}"
    );
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_504() {
    let mut target = target(silent().await);
    short(&mut target);
    assert_eq!(proxy(target).get("/").await, (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout".to_owned()));
}

/// The end of a chunked body comes by itself: from then on it is the upstream that is waited for.
#[tokio::test]
async fn an_upstream_that_says_nothing_after_a_pause_in_the_body_is_504() {
    let mut target = target(silent().await);
    short(&mut target);
    let frames = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x")))]);
    let end = stream::once(async {
        tokio::task::yield_now().await;
        Option::<Result<Frame<Bytes>, BoxError>>::None
    });
    let body = Body::new(StreamBody::new(frames.chain(end.filter_map(std::future::ready))));
    let request = Request::post("/").header("host", "a").body(body).expect("valid");
    let outcome = soon("an answer", proxy(target).text(request)).await;
    assert_eq!(outcome, (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout".to_owned()));
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_504() {
    let mut target = target(silent().await);
    short(&mut target);
    target.upstreams[0].scheme = portcullis_layers::forward::Scheme::Https;
    let expected = (StatusCode::GATEWAY_TIMEOUT, "upstream_connect_timeout".to_owned());
    assert_eq!(proxy(target).get("/").await, expected);
}

#[tokio::test]
async fn what_is_no_http_is_502() {
    for (answer, code) in [
        ("", "upstream_closed"),
        ("HTTP/1.1 200", "upstream_closed"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "upstream_response"),
        ("HTTP/1.1 2x0 OK\r\n\r\n", "upstream_response"),
        ("HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "upstream_response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "upstream_response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "upstream_response"),
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "upstream_upgrade"),
    ] {
        let address = scripted(move |_, mut tcp| async move {
            read_head(&mut tcp).await;
            say(&mut tcp, answer).await;
        })
        .await;
        let outcome = proxy(target(address)).get("/").await;
        assert_eq!(outcome, (StatusCode::BAD_GATEWAY, code.to_owned()), "{answer:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_no_http2_is_502() {
    let address = scripted(|_, mut tcp| async move {
        say(&mut tcp, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let mut rest = Vec::new();
        let _gone = tcp.read_to_end(&mut rest).await;
    })
    .await;
    let mut target = target(address);
    target.upstreams[0].protocol = Protocol::Http2;
    let (status, _) = soon("an answer", proxy(target).get("/")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn statuses_of_the_upstream_are_relayed_untouched() {
    for status in [200, 304, 401, 404, 429, 500, 502, 503] {
        let (address, _) = upstream(false, move |_| async move {
            let mut response = UpstreamResponse::new(full(if status == 304 { "" } else { "body" }));
            *response.status_mut() = StatusCode::from_u16(status).expect("valid");
            response
        })
        .await;
        let (got, body) = proxy(target(address)).get("/").await;
        assert_eq!((got.as_u16(), body.is_empty()), (status, status == 304));
    }
}

/// The bytes that reach the upstream until its connection ends.
async fn recorded(
    target_of: impl FnOnce(std::net::SocketAddr) -> portcullis_layers::forward::Target,
    body: Body,
) -> (StatusCode, String, String) {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let address = scripted(move |_, mut tcp: TcpStream| {
        let sender = sender.clone();
        async move {
            let mut all = Vec::new();
            let _gone = tcp.read_to_end(&mut all).await;
            sender.send(String::from_utf8_lossy(&all).into_owned()).expect("the test listens");
        }
    })
    .await;
    let proxy = proxy(target_of(address));
    let (status, code) = proxy.text(Request::post("/").body(body).expect("valid")).await;
    let seen = soon("the end of the connection", seen.recv()).await.expect("sent");
    (status, code, seen)
}

fn failing(error: impl Into<BoxError>) -> Body {
    let frames: [Result<Frame<Bytes>, BoxError>; 2] =
        [Ok(Frame::data(Bytes::from_static(b"half"))), Err(error.into())];
    Body::new(StreamBody::new(stream::iter(frames)))
}

#[tokio::test]
async fn half_a_request_is_400_and_never_a_whole_one() {
    let (status, code, seen) =
        recorded(target, failing(RequestBodyError::Malformed("bad chunk".into()))).await;
    assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "bad_request_body"));
    assert!(!seen.contains("0\r\n\r\n"), "the upstream saw the end of a body: {seen:?}");
}

#[tokio::test]
async fn a_limit_answers_with_its_own_rejection() {
    let limit = Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Too large.");
    let (status, code, _) = recorded(target, failing(limit)).await;
    assert_eq!((status, code.as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
}

#[tokio::test]
async fn a_client_that_stops_sending_is_408() {
    let frames = futures_util::StreamExt::chain(
        stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"half")))]),
        stream::pending(),
    );
    let body = Body::new(StreamBody::new(frames));
    let impatient = |address| {
        let mut target = target(address);
        short(&mut target);
        target
    };
    let (status, code, seen) = recorded(impatient, body).await;
    assert_eq!((status, code.as_str()), (StatusCode::REQUEST_TIMEOUT, "request_body_timeout"));
    assert!(!seen.contains("0\r\n\r\n"));
}

#[tokio::test]
async fn a_truncated_response_is_an_error_and_never_an_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\nzz\r\n",
    ] {
        let address = scripted(move |_, mut tcp| async move {
            read_head(&mut tcp).await;
            say(&mut tcp, answer).await;
        })
        .await;
        let proxy = proxy(target(address));
        let front = proxy.front(false).await;
        let mut client = TcpStream::connect(front).await.expect("connect");
        say(&mut client, "GET / HTTP/1.1\r\nhost: app.example\r\n\r\n").await;
        let mut all = Vec::new();
        let _reset = soon("an end", client.read_to_end(&mut all)).await;
        let text = String::from_utf8_lossy(&all);
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("begin"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "the client saw a whole response: {text}");
    }
}

#[tokio::test]
async fn an_upstream_that_stops_sending_is_cut_off() {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin").await;
        let _gone = tcp.read_u8().await;
    })
    .await;
    let mut target = target(address);
    short(&mut target);
    let request = Request::get("/").header("host", "a").body(Body::empty()).expect("valid");
    let response = proxy(target).forward.send(request).await.expect("a head");
    let outcome = soon("an end", response.into_body().collect()).await;
    assert!(outcome.is_err());
}

#[tokio::test]
async fn an_early_answer_is_relayed_though_the_upload_is_cut() {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 5\r\n\r\nlarge").await;
        // Closed with unread data in its buffer, which resets the connection.
        tcp.shutdown().await.expect("open");
    })
    .await;
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    for _ in 0..10 {
        let frames = stream::repeat_with({
            let chunk = chunk.clone();
            move || Ok::<_, BoxError>(Frame::data(chunk.clone()))
        });
        let body = Body::new(StreamBody::new(frames));
        let proxy = proxy(target(address));
        let request = Request::post("/").body(body).expect("valid");
        let outcome = soon("an answer", proxy.text(request)).await;
        assert_eq!(outcome, (StatusCode::PAYLOAD_TOO_LARGE, "large".to_owned()));
    }
}

#[tokio::test]
async fn lengths_that_disagree_are_refused() {
    let proxy = proxy(target(nobody().await));
    let request = Request::post("/")
        .header("content-length", "1")
        .header("content-length", "2")
        .body(Body::from("ab"))
        .expect("valid");
    assert_eq!(proxy.text(request).await, (StatusCode::BAD_REQUEST, "content_length".to_owned()));
}

#[tokio::test]
async fn connect_is_not_forwarded() {
    let proxy = proxy(target(nobody().await));
    let request = Request::connect("app.example:443").body(Body::empty()).expect("valid");
    assert_eq!(proxy.text(request).await, (StatusCode::NOT_IMPLEMENTED, "connect".to_owned()));
}

#[tokio::test]
async fn half_a_request_over_http2_is_reset_and_400() {
    let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let (address, _) = upstream(true, move |request| {
        let sender = sender.clone();
        async move {
            let whole = request.into_body().collect().await.is_ok();
            sender.send(whole).expect("the test listens");
            UpstreamResponse::new(full("whole"))
        }
    })
    .await;
    let mut target = target(address);
    target.upstreams[0].protocol = Protocol::Http2;
    let proxy = proxy(target);
    let body = failing(RequestBodyError::Malformed("bad chunk".into()));
    let outcome = soon("an answer", proxy.text(Request::post("/").body(body).expect("valid"))).await;
    assert_eq!(outcome, (StatusCode::BAD_REQUEST, "bad_request_body".to_owned()));
    assert_eq!(soon("the end", ends.recv()).await, Some(false), "the upstream saw a whole request");
}
