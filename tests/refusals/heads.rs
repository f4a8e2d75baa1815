//! Heads that could be read in two ways.

use serde_json::json;

use super::support::client::{self, get, raw, until_closed};
use super::support::eventually;
use super::{GOOD, HOST, metric, start, start_open, statuses};

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_ends_the_connection() {
    let (daemon, _upstream) = start_open().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: open.test\r\n\r\n", "x".repeat(9000));
    let large = format!("GET / HTTP/1.1\r\nHost: open.test\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: open.test\r\n{}\r\n", "X: y\r\n".repeat(150));
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: open.test\r\n{fields}\r\n{body}");
    let with = |field: &str| format!("GET / HTTP/1.1\r\nHost: open.test\r\n{field}\r\n\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (request, status, code) in [
        (post(&format!("Content-Length: 5\r\n{chunked}"), "0\r\n\r\n"), 400, "length_and_encoding"),
        (post(&format!("{chunked}Content-Length: 0\r\n"), "0\r\n\r\n"), 400, "length_and_encoding"),
        (post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), 400, "several_content_lengths"),
        (post("Content-Length: 5\r\ncontent-length: 6\r\n", "hello"), 400, "several_content_lengths"),
        (post("Content-Length: 5, 5\r\n", "hello"), 400, "several_content_lengths"),
        (post("Content-Length: +5\r\n", "hello"), 400, "bad_content_length"),
        (post("Content-Length: -5\r\n", "hello"), 400, "bad_content_length"),
        (post("Content-Length: 0x5\r\n", "hello"), 400, "bad_content_length"),
        (post("Content-Length: 5 5\r\n", "hello"), 400, "bad_content_length"),
        (post("Content-Length: five\r\n", "hello"), 400, "bad_content_length"),
        (post("Content-Length:\r\n", "hello"), 400, "bad_content_length"),
        (post("Content-Length: 18446744073709551617\r\n", "h"), 400, "bad_content_length"),
        (post("Transfer-Encoding: gzip\r\n", ""), 400, "bad_transfer_encoding"),
        (post("Transfer-Encoding: identity\r\n", ""), 400, "bad_transfer_encoding"),
        (post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400, "bad_transfer_encoding"),
        (post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), 400, "bad_transfer_encoding"),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
            400,
            "bad_transfer_encoding",
        ),
        (post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400, "bad_header_value"),
        (post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400, "space_before_colon"),
        (post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, "unsupported_transfer_coding"),
        (
            "POST / HTTP/1.0\r\nHost: open.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
            "encoding_in_http10",
        ),
        ("GET / HTTP/1.1\nHost: open.test\n\n".into(), 400, "bare_lf"),
        ("GET / HTTP/1.1\r\nHost: open.test\n\r\n".into(), 400, "bare_lf"),
        (with("X: a\nY: b"), 400, "bare_lf"),
        (with("X: a\rY: b"), 400, "bare_cr"),
        (with("X: a\r\r\nY: b"), 400, "bare_cr"),
        (with("X: a\r\n folded"), 400, "folded_header"),
        (with("X: a\r\n\tfolded"), 400, "folded_header"),
        ("GET / HTTP/1.1\r\n Host: open.test\r\n\r\n".into(), 400, "folded_header"),
        (with("X : a"), 400, "space_before_colon"),
        (with("Content-Length\t: 0"), 400, "space_before_colon"),
        (with("X: a\0b"), 400, "bad_header_value"),
        (with("X\0: a"), 400, "bad_header_name"),
        (with("X: a\x7fb"), 400, "bad_header_value"),
        (with(": a"), 400, "bad_header_name"),
        (with("X(y): a"), 400, "bad_header_name"),
        (with("Host: open.test"), 400, "several_hosts"),
        (with("hOST: other.test"), 400, "several_hosts"),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400, "missing_host"),
        ("GET  / HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_line"),
        ("GET /a b HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_line"),
        ("GET /#x HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_line"),
        ("GET / HTTP/1.1 \r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_line"),
        ("GET\t/\tHTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_line"),
        ("GET /\r\n\r\n".into(), 400, "bad_request_line"),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".into(), 400, "bad_request_line"),
        ("GET /a<b> HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_target"),
        ("GET /` HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_target"),
        ("GET /?a=\"b\" HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_target"),
        ("GET open.test/ HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_target"),
        ("GET http://open.test:1:2/ HTTP/1.1\r\nHost: open.test\r\n\r\n".into(), 400, "bad_request_target"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505, "unsupported_version"),
        ("GET / HTTP/1.2\r\nHost: open.test\r\n\r\n".into(), 505, "unsupported_version"),
        (long, 414, "target_too_long"),
        (large, 431, "head_too_large"),
        (many, 431, "too_many_headers"),
    ] {
        let case = request[..request.len().min(120)].to_owned();
        let reason = format!("reason=\"{code}\"");
        let before = metric(&daemon, "refused_requests_total", &reason).await;
        // What follows is smuggled, and must not be answered.
        let text = until_closed(daemon.http, format!("{request}{GOOD}").as_bytes()).await;
        assert_eq!(statuses(&text), [status], "{case:?}: {text}");
        assert!(text.contains(&format!(r#""code":"{code}""#)), "{case:?}: {text}");
        assert!(text.to_lowercase().contains("connection: close\r\n"), "{case:?}: {text}");
        assert!(!text.contains("x-upstream"), "{case:?}: {text}");
        assert_eq!(metric(&daemon, "refused_requests_total", &reason).await, before + 1, "{case:?}");
    }
}

#[tokio::test]
async fn good_requests_before_a_bad_one_are_answered_first() {
    let (daemon, _upstream) = start_open().await;
    let bad = "GET /bad HTTP/1.1\r\nHost: open.test\r\nX : y\r\n\r\n";
    let slow = "GET /slow?300 HTTP/1.1\r\nHost: open.test\r\n\r\n";
    let text = until_closed(daemon.http, format!("{slow}{GOOD}{bad}{GOOD}").as_bytes()).await;
    assert_eq!(statuses(&text), [200, 200, 400], "{text}");
    assert!(text.contains("/good") && text.find("slow") < text.find("/good"), "{text}");
    let after_body = format!("POST /a HTTP/1.1\r\nHost: open.test\r\nContent-Length: 5\r\n\r\nhello{bad}");
    assert_eq!(statuses(&until_closed(daemon.http, after_body.as_bytes()).await), [200, 400]);
}

#[tokio::test]
async fn a_request_has_exactly_one_valid_host() {
    let (daemon, _upstream) = start_open().await;
    for (target, host, status, code) in [
        ("/", "open.test", 200, ""),
        ("/", "OPEN.test:80", 200, ""),
        ("/", "open.test.", 200, ""),
        ("http://open.test/", "open.test", 200, ""),
        ("http://OPEN.test:80/", "open.test", 200, ""),
        ("/", "", 400, "invalid_host"),
        ("/", "open.test:abc", 400, "invalid_host"),
        ("/", "open.test:0", 400, "invalid_host"),
        ("/", "open.test:65536", 400, "invalid_host"),
        ("/", "open.test:+80", 400, "invalid_host"),
        ("/", "user@open.test", 400, "invalid_host"),
        ("/", "open.test, other.test", 400, "invalid_host"),
        ("/", "open.test/x", 400, "invalid_host"),
        ("/", "open.test#x", 400, "invalid_host"),
        ("/", "open%2etest", 400, "invalid_host"),
        ("/", "open..test", 400, "invalid_host"),
        ("/", "[::1", 400, "invalid_host"),
        ("/", "ö.test", 400, "invalid_host"),
        ("http://other.test/", "open.test", 400, "invalid_host"),
        ("http://open.test:81/", "open.test", 400, "invalid_host"),
        ("http://open.test@other.test/", "open.test", 400, "invalid_host"),
        ("http://other.test/", "other.test", 404, ""),
        ("/", "nobody.test", 404, ""),
        ("open.test/", "open.test", 400, "bad_request_target"),
        ("*", "open.test", 400, ""),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let text = raw(daemon.http, request.as_bytes()).await;
        assert_eq!(statuses(&text), [status], "{target} {host}: {text}");
        if !code.is_empty() {
            assert!(text.contains(&format!(r#""code":"{code}""#)), "{target} {host}: {text}");
        }
    }
    for (line, status) in [("CONNECT open.test:443", 405), ("CONNECT other.test:22", 400), ("OPTIONS *", 204)]
    {
        let request = format!("{line} HTTP/1.1\r\nHost: open.test\r\nConnection: close\r\n\r\n");
        let text = raw(daemon.http, request.as_bytes()).await;
        assert!(
            statuses(&text)[0] == status || (line.starts_with("CONNECT") && statuses(&text)[0] == 405),
            "{line}: {text}"
        );
    }
}

#[tokio::test]
async fn the_upstream_gets_the_path_that_was_compared_or_none() {
    let (daemon, _upstream) = start_open().await;
    for (target, forwarded) in [
        ("/a/b?c=%2e%2e/d", Some("/a/b?c=%2e%2e/d")),
        ("/%61/./b/../%c3%a9", Some("/a/%C3%A9")),
        ("/a%20b/", Some("/a%20b/")),
        ("/../../a", Some("/a")),
        ("/a/..", Some("/")),
        ("/a//b;c=d", Some("/a//b;c=d")),
        ("/a\"{b}", Some("/a%22%7Bb%7D")),
        ("/a%2fb", None),
        ("/a%5Cb", None),
        ("/a\\b", None),
        ("/a%", None),
        ("/a%2", None),
        ("/a%zz", None),
        ("/a%00b", None),
        ("/a%0d%0aHost:%20x", None),
        ("/a/..;/b", None),
        ("/a/%252e%252e/b", None),
        ("/%c0%ae", None),
        ("/a[b]", None),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: open.test\r\nConnection: close\r\n\r\n");
        let text = raw(daemon.http, request.as_bytes()).await;
        match forwarded {
            Some(uri) => assert!(
                text.contains(&format!(r#""uri":"{}""#, uri.replace('"', "\\\""))),
                "{target}: {text}"
            ),
            None => {
                assert_eq!(statuses(&text), [400], "{target}: {text}");
                assert!(text.contains(r#""code":"invalid_path""#), "{target}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn headers_that_others_would_believe_are_dropped_and_counted() {
    let (daemon, _upstream) = start_open().await;
    let underscored = "reason=\"underscored\"";
    let spoofed = "reason=\"spoofed\"";
    let lines = [
        "X_Auth_User: root",
        "x_forwarded_for: 1.2.3.4",
        "My_Header: 1",
        "X-Auth-User: root",
        "x-AUTH-scopes: admin",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Proto: https",
        "Forwarded: for=1.2.3.4",
        "X-Real-IP: 1.2.3.4",
        "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin",
        "X-HTTP-Method-Override: DELETE",
        "Proxy: http://evil.test",
        "True-Client-IP: 1.2.3.4",
        "Client-Cert: x",
        "X-Fine: 1",
        "X-Secret: 1",
        "Keep-Alive: 5",
        "Connection: close, x-secret, x-forwarded-for, host",
    ];
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n\r\n", lines.join("\r\n"));
    let text = raw(daemon.http, request.as_bytes()).await;
    let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let mut names: Vec<_> =
        body["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap().to_owned()).collect();
    names.sort();
    let ours = [
        "forwarded",
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    ];
    for name in &names {
        let fine = ours.contains(&name.as_str())
            || name.starts_with("x-fine")
            || name.starts_with("x-http-method")
            || name == "via";
        assert!(fine, "{name}: {body}");
    }
    assert!(
        names.iter().any(|name| name == "x-fine") && names.iter().any(|name| name == "x-forwarded-for"),
        "{body}"
    );
    let said = body.to_string();
    for value in ["1.2.3.4", "root", "evil.test", "/admin"] {
        assert!(!said.contains(value), "{value}: {said}");
    }
    assert_eq!(metric(&daemon, "dropped_headers_total", underscored).await, 3);
    assert_eq!(metric(&daemon, "dropped_headers_total", spoofed).await, 11);
}

#[tokio::test]
async fn slow_and_silent_clients_are_cut_off_while_others_are_served() {
    let (daemon, _upstream) = start(
        |command| {
            command.env("PORTCULLIS_HEAD_TIMEOUT", "1");
        },
        json!({}),
    )
    .await;
    use tokio::io::AsyncWriteExt;
    let http = daemon.http;
    let dribble = async {
        let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}", "X: y\r\n".repeat(100));
        for byte in head.bytes() {
            // Fails when we were cut off, which is what we wait for.
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        client::until_quiet(&mut stream).await
    };
    let begin = std::time::Instant::now();
    let silent = until_closed(http, b"");
    let partial = until_closed(http, b"GET / HTTP/1.1\r\nHost: open.te");
    let handshake = until_closed(daemon.https, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
    let nothing = until_closed(daemon.https, b"");
    let others = async {
        while begin.elapsed() < std::time::Duration::from_secs(2) {
            assert_eq!(client::plain(http, get(HOST, "/")).await.status, 200);
        }
    };
    let (_, silent, partial, handshake, nothing, ()) =
        tokio::join!(dribble, silent, partial, handshake, nothing, others);
    assert!(silent.is_empty() || statuses(&silent) == [408], "{silent}");
    assert_eq!(statuses(&partial), [408], "{partial}");
    assert!(!handshake.contains("HTTP") && !nothing.contains("HTTP"));
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
    eventually("the count", || async {
        (metric(&daemon, "tls_handshakes_total", "result=\"timed_out\"").await == 2).then_some(())
    })
    .await;
}
