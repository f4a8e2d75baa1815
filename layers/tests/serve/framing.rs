//! Raw requests over HTTP/1: what is refused, what passes, and in which order answers come.

use std::net::Ipv4Addr;

use super::support::{Seen, echo, read_all, read_until, serve, serve_on, statuses};
use portcullis_layers::body::{Body, BoxError};
use portcullis_layers::serve::Settings;
use portcullis_layers::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const GET: &str = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_are_refused_over_a_real_socket() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    for (request, status, code) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "length_and_encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
            "length_and_encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            400,
            "several_content_lengths",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\nhello",
            400,
            "several_content_lengths",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400, "several_content_lengths"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400, "bad_content_length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", 400, "bad_content_length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", 400, "bad_content_length"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
            400,
            "bad_content_length",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "bad_transfer_encoding"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            "unsupported_transfer_coding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            400,
            "bad_transfer_encoding",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400, "bad_transfer_encoding"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            400,
            "bad_transfer_encoding",
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "encoding_in_http10",
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", 400, "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare_lf"),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n", 400, "bare_cr"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "folded_header"),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "folded_header"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "space_before_colon"),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400, "space_before_colon"),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400, "bad_header_name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400, "space_before_colon"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX(): b\r\n\r\n", 400, "bad_header_name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", 400, "bad_header_name"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "bad_header_value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", 400, "bad_header_value"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "several_hosts"),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400, "several_hosts"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "missing_host"),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "bad_request_line"),
        ("GET /\r\n\r\n", 400, "bad_request_line"),
        ("GET / HTTP/1.1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
        ("\x16\x03\x01\x02", 400, "bad_request_line"),
        ("GET /a<b> HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_target"),
        ("GET /?\" HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_target"),
        ("GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_target"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported_version"),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "unsupported_version"),
        (long.as_str(), 414, "target_too_long"),
        (large.as_str(), 431, "head_too_large"),
        (many.as_str(), 431, "too_many_headers"),
    ] {
        let name = &request[..request.len().min(100)];
        let mut client = TcpStream::connect(address).await.expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        let seen = Seen::default();
        let served = serve_on(server, None, Settings::default(), echo(&seen));
        // Whatever follows is smuggled: it must not be answered either.
        client.write_all(format!("{request}{GET}").as_bytes()).await.expect("writes");
        let text = read_all(&mut client).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{name:?}: {text}");
        assert_eq!(statuses(&text).len(), 1, "{name:?}: {text}");
        assert!(text.contains("connection: close\r\n"), "{name:?}: {text}");
        assert!(text.contains("content-type: application/problem+json\r\n"), "{name:?}: {text}");
        assert!(text.contains(&format!(r#""code":"{code}""#)), "{name:?}: {text}");
        assert!(seen.lock().unwrap().is_empty(), "{name:?} reached the service");
        let counted: Vec<_> = served.counters.refused.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(code, 1)], "{name:?}");
        drop(client);
        served.connection.await.expect("no panic").expect("ends well");
    }
}

/// Each byte at each place of a head: answered by the service or refused by us, and then counted. Never
/// refused by hyper, of whose answers nobody hears.
#[tokio::test]
async fn no_byte_anywhere_in_a_head_gets_an_answer_that_is_not_ours() {
    let places = [
        ("", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("G", "T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET ", " HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET ", "/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET /", " HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET /?", " HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET http://a", "/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET h", "tp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("CONNECT a", ":1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("GET / HTTP/1.", "\r\nHost: a\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost", ": a\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost:", "a\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: ", "\r\n\r\n"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", "\r\n\r\n0\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: ", "\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: ", "\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: ", "\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "\r\n\r\n"),
    ];
    for (before, after) in places {
        for byte in 0..=255 {
            let request = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            let name = request.escape_ascii();
            let seen = Seen::default();
            let (mut client, served) = serve(None, Settings::default(), echo(&seen));
            client.write_all(&request).await.expect("writes");
            client.shutdown().await.expect("shuts down");
            let text = read_all(&mut client).await;
            let refused: u64 = served.counters.refused.iter().map(|(_, count)| count).sum();
            let answers = statuses(&text).len() as u64;
            assert_eq!(answers, refused + seen.lock().unwrap().len() as u64, "{name}: {text}");
            assert_eq!(text.matches("application/problem+json").count() as u64, refused, "{name}: {text}");
        }
    }
}

#[tokio::test]
async fn what_is_in_order_passes() {
    let many = format!("GET /many HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99));
    for (request, expected) in [
        (GET, "GET /good: "),
        (many.as_str(), "GET /many: "),
        ("\r\nGET /good HTTP/1.1\r\nHost: a\r\n\r\n", "GET /good: "),
        ("GET /old HTTP/1.0\r\n\r\n", "GET /old: "),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *: "),
        ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/b: "),
        ("GET /\"{}?`{}|[] HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\"{}?`{}|[]: "),
        ("POST / HTTP/1.1\r\nhOsT:a\r\nCONTENT-LENGTH:\t5 \r\n\r\nhello", "POST /: hello"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST /: "),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
            "POST /: hello!",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{fc}\tb\r\n\r\n", "GET /: "),
    ] {
        let (mut client, _served) = serve(None, Settings::default(), echo(&Seen::default()));
        client.write_all(request.as_bytes()).await.expect("writes");
        let text = read_until(&mut client, expected).await;
        assert!(text.contains(" 200 OK\r\n"), "{request:?}: {text}");
    }
}

#[tokio::test]
async fn trailers_lose_identity_and_framing() {
    let (mut client, served) = serve(None, Settings::default(), echo(&Seen::default()));
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
        X-Auth-User: root\r\nx_auth_user: root\r\nContent-Length: 7\r\nAuthorization: no\r\n\
        X-Forwarded-For: ::1\r\nx.auth.user: root\r\nX-Real-IP: ::1\r\nX-Checksum: 1\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("writes");
    read_until(&mut client, "POST /: hi +x-checksum").await;
    assert_eq!(served.counters.dropped_trailers.get(), 7);
}

#[tokio::test]
async fn a_refusal_comes_after_the_answers_to_earlier_requests_however_bytes_are_cut() {
    let text = format!(
        "{GET}POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /bad HTTP/1.1\r\nHost: a\nX: y\r\n\r\n{GET}"
    );
    for cut in 1..text.len() {
        let seen = Seen::default();
        let (mut client, _served) = serve(None, Settings::default(), echo(&seen));
        client.write_all(&text.as_bytes()[..cut]).await.expect("writes");
        tokio::task::yield_now().await;
        client.write_all(&text.as_bytes()[cut..]).await.expect("writes");
        client.shutdown().await.expect("shuts down");
        let answers = read_all(&mut client).await;
        assert_eq!(
            statuses(&answers).iter().map(http::StatusCode::as_u16).collect::<Vec<_>>(),
            [200, 200, 400],
            "cut at {cut}: {answers}"
        );
        assert_eq!(*seen.lock().unwrap(), ["GET /good: ", "POST /two: hi"], "cut at {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_waits_for_an_answer_that_takes_long() {
    let service = tower::service_fn(|_: Request| async {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        Ok::<_, BoxError>(Response::new(Body::from("slow")))
    });
    let (mut client, _served) = serve(None, Settings::default(), service);
    client.write_all(format!("{GET}GET / HTTP/1.1\r\n\r\n").as_bytes()).await.expect("writes");
    let answers = read_all(&mut client).await;
    assert_eq!(statuses(&answers).len(), 2, "{answers}");
    assert!(answers.find("slow") < answers.find("missing_host"), "{answers}");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let mut client = TcpStream::connect(listener.local_addr().expect("is bound")).await.expect("connects");
    let (server, _) = listener.accept().await.expect("accepts");
    let _served = serve_on(server, None, Settings::default(), echo(&Seen::default()));
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n").await.expect("writes");
    client.write_all(&[b'x'; 100_000]).await.expect("writes");
    let text = read_all(&mut client).await;
    assert!(text.contains("bad_content_length"), "{text}");
}

#[tokio::test]
async fn a_broken_body_is_the_fault_of_the_client() {
    for (body, status) in [
        ("Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", 400),
        ("Content-Length: 2000000000\r\n\r\nhello", 413),
    ] {
        let seen = Seen::default();
        let (mut client, _served) = serve(None, Settings::default(), echo(&seen));
        client
            .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}{GET}").as_bytes())
            .await
            .expect("writes");
        client.shutdown().await.expect("shuts down");
        let text = read_all(&mut client).await;
        assert_eq!(
            statuses(&text).iter().map(http::StatusCode::as_u16).collect::<Vec<_>>(),
            [status],
            "{body:?}: {text}"
        );
        assert_eq!(seen.lock().unwrap().len(), 1, "{body:?}: what followed was taken for a request");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_not_taken_for_a_whole_one() {
    for body in ["Content-Length: 9\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n9\r\nhello"] {
        let seen = Seen::default();
        let (mut client, served) = serve(None, Settings::default(), echo(&seen));
        client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}").as_bytes()).await.expect("writes");
        drop(client);
        let _ = served.connection.await.expect("no panic");
        let seen = seen.lock().unwrap();
        assert!(seen.len() <= 1 && !seen.iter().any(|line| line.contains("hello")), "{seen:?}");
    }
}

#[tokio::test]
async fn a_chunked_body_is_counted_while_it_comes() {
    let settings = Settings { body_limit: Some(10), ..Settings::default() };
    let (mut client, served) = serve(None, settings, echo(&Seen::default()));
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello!\r\n6\r\nhello!\r\n0\r\n\r\n").await.expect("writes");
    read_until(&mut client, "request_body_too_large").await;
    assert_eq!(served.counters.large_bodies.get(), 1);
}

#[tokio::test]
async fn continue_is_sent_when_the_body_is_read_and_not_when_it_is_too_large() {
    let (mut client, _served) = serve(None, Settings::default(), echo(&Seen::default()));
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await
        .expect("writes");
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(format!("hi{GET}").as_bytes()).await.expect("writes");
    read_until(&mut client, "POST /: hi").await;
    read_until(&mut client, "GET /good: ").await;

    let settings = Settings { body_limit: Some(1), ..Settings::default() };
    let (mut client, _served) = serve(None, settings, echo(&Seen::default()));
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        .await
        .expect("writes");
    let text = read_until(&mut client, "request_body_too_large").await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}

/// Accepts an upgrade to `echo`, declines all others.
fn upgrading()
-> impl tower::Service<Request, Response = Response, Error = BoxError, Future: Send> + Clone + Send + 'static
{
    tower::service_fn(|mut request: Request| async move {
        if request.headers().get("upgrade").is_none_or(|value| value != "echo") {
            return Ok::<_, BoxError>(Response::new(Body::from("plain")));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = hyper_util::rt::TokioIo::new(upgrade.await.expect("upgrades"));
            let mut byte = [0; 1];
            while io.read_exact(&mut byte).await.is_ok() {
                io.write_all(&byte).await.expect("writes");
                io.flush().await.expect("flushes");
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        Ok(response)
    })
}

#[tokio::test]
async fn a_tunnel_carries_bytes_that_are_no_http() {
    for ahead in ["", "\0ahead\n\n"] {
        let (mut client, served) = serve(None, Settings::default(), upgrading());
        let request =
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n{ahead}");
        client.write_all(request.as_bytes()).await.expect("writes");
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client.write_all(b"\r\n\0raw").await.expect("writes");
        read_until(&mut client, &format!("{ahead}\r\n\0raw")).await;
        served.connection.await.expect("no panic").expect("the connection is done");
    }
}

#[tokio::test]
async fn after_a_declined_upgrade_requests_are_followed_again() {
    let (mut client, served) = serve(None, Settings::default(), upgrading());
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
    client
        .write_all(format!("{request}{request}{GET}GET / HTTP/1.1\r\nHost : a\r\n\r\n").as_bytes())
        .await
        .expect("writes");
    let text = read_all(&mut client).await;
    assert_eq!(
        statuses(&text).iter().map(http::StatusCode::as_u16).collect::<Vec<_>>(),
        [200, 200, 200, 400],
        "{text}"
    );
    drop(client);
    served.connection.await.expect("no panic").expect("ends well");
}

#[tokio::test]
async fn an_upgrade_behind_another_request_is_decided_by_its_own_answer() {
    let (mut client, _served) = serve(None, Settings::default(), upgrading());
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    client.write_all(format!("{GET}{upgrade}\0raw").as_bytes()).await.expect("writes");
    let text = read_until(&mut client, "\0raw").await;
    assert_eq!(
        statuses(&text).iter().map(http::StatusCode::as_u16).collect::<Vec<_>>(),
        [200, 101],
        "{text}"
    );
}
