//! What upstreams see of us, and what clients see when an upstream fails.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use support::certificate::Authority;
use support::client::{get, plain, raw, secure};
use support::daemon::Daemon;
use support::eventually;
use support::handmade::{self, full};
use support::upstream::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn failures_are_told_in_the_format_that_the_client_accepts() {
    let daemon = Daemon::start();
    let silent = handmade::silent().await;
    let no_tls = handmade::scripted(|mut stream| async move {
        stream.read_u8().await.unwrap();
        let _said = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    for (host, target, more, status, code) in [
        ("refused.test", handmade::nobody(), json!({}), 502, "upstream_connect"),
        (
            "garbage.test",
            format!("http://{}", handmade::saying("220 hello\r\n\r\n").await),
            json!({}),
            502,
            "upstream_response",
        ),
        ("closing.test", format!("http://{}", handmade::saying("").await), json!({}), 502, "upstream_closed"),
        ("unnamed.test", "http://no-such-name.invalid".to_owned(), json!({}), 502, "upstream_dns"),
        ("no-tls.test", format!("https://{no_tls}"), json!({}), 502, "upstream_tls"),
        (
            "silent.test",
            format!("http://{silent}"),
            json!({ "request_timeout_seconds": 1 }),
            504,
            "upstream_timeout",
        ),
        ("off.test", handmade::nobody(), json!({ "enabled": false }), 503, "host_disabled"),
    ] {
        daemon.host(host, &target, more).await;
        let send = async |method: Method, accept: &str| {
            let request = Request::builder()
                .method(method)
                .uri("/secret?a=b")
                .header("host", host)
                .header("accept", accept);
            plain(daemon.http, request.body(Full::<Bytes>::default()).unwrap()).await
        };
        let (problem, page, text, head) = tokio::join!(
            send(Method::GET, "*/*"),
            send(Method::GET, "text/html,application/xhtml+xml,*/*;q=0.8"),
            send(Method::GET, "text/plain"),
            send(Method::HEAD, "*/*"),
        );
        for (answer, kind) in [
            (&problem, "application/problem+json"),
            (&page, "text/html; charset=utf-8"),
            (&text, "text/plain; charset=utf-8"),
            (&head, "application/problem+json"),
        ] {
            assert_eq!((answer.status.as_u16(), answer.header("content-type")), (status, kind), "{host}");
            assert_eq!(
                (answer.header("cache-control"), answer.header("x-content-type-options")),
                ("no-store", "nosniff")
            );
            let body = String::from_utf8_lossy(&answer.body);
            // Where it would have gone is nobody's business outside.
            assert!(
                !body.contains("127.0.0.1") && !body.contains("invalid") && !body.contains("secret"),
                "{body}"
            );
        }
        let told = problem.json();
        assert_eq!((&told["status"], &told["code"]), (&json!(status), &json!(code)), "{host}: {told}");
        assert_eq!(told["request_id"], problem.header("x-correlation-id"));
        assert!(
            page.body.starts_with(b"<!doctype html>") && page.headers.contains_key("content-security-policy")
        );
        assert!(text.body.starts_with(status.to_string().as_bytes()), "{text:?}");
        assert!(
            head.body.is_empty() && head.header("content-length") == problem.header("content-length"),
            "{head:?}"
        );
    }
    // The log says why, for whoever runs the gateway.
    let record = daemon.record("hostname=refused.test&status=502", |_| true).await;
    assert_eq!(record["error_type"], "upstream_connect");
    assert!(record["error"].as_str().unwrap().contains("refused"), "{record}");
}

#[tokio::test]
async fn what_the_upstream_says_is_passed_on_whatever_its_status() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    for status in [201, 204, 304, 401, 404, 418, 429, 500, 502, 503, 599] {
        let answer = plain(daemon.http, get("a.test", &format!("/status/{status}"))).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
        assert!(!answer.headers.contains_key("content-type"), "{answer:?}");
    }
}

#[tokio::test]
async fn the_next_upstream_takes_over_from_one_that_is_away() {
    let (daemon, second) = (Daemon::start(), Upstream::start("second").await);
    let more = json!({ "upstreams": [handmade::nobody(), second.url()] });
    daemon.host("a.test", &handmade::nobody(), more).await;
    for body in ["", "a body that nobody has read yet"] {
        let request = Request::post("/").header("host", "a.test").body(Full::from(body)).unwrap();
        let answer = plain(daemon.http, request).await;
        assert_eq!((answer.status, &answer.json()["body"]), (StatusCode::OK, &json!(body)));
    }
    let record = daemon.record("hostname=a.test", |_| true).await;
    assert!(record["backend_url"].as_str().unwrap().contains(&second.address.port().to_string()), "{record}");
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_in_the_meantime_costs_no_request() {
    let (daemon, connections) = (
        Daemon::start_with(|command| {
            command.env("PORTCULLIS_WORKERS", "1");
        }),
        Arc::new(AtomicUsize::new(0)),
    );
    let counted = Arc::clone(&connections);
    // Promises to keep the connection, and closes it when the next request is on its way.
    let upstream = handmade::scripted(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            handmade::read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            handmade::read_head(&mut stream).await;
        }
    })
    .await;
    daemon.host("a.test", &format!("http://{upstream}"), json!({})).await;
    for _ in 0..10 {
        let answer = plain(daemon.http, get("a.test", "/")).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn connections_to_an_upstream_are_used_again() {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_WORKERS", "1");
    });
    let accepted = Arc::new(AtomicUsize::new(0));
    let (target, counted) = (Upstream::start("main").await, Arc::clone(&accepted));
    let front = handmade::scripted(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut inner = tokio::net::TcpStream::connect(target.address).await.unwrap();
            let _ended = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
        }
    })
    .await;
    daemon.host("a.test", &format!("http://{front}"), json!({})).await;
    for _ in 0..20 {
        assert_eq!(plain(daemon.http, get("a.test", "/")).await.status, StatusCode::OK);
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn upstreams_that_ask_for_it_learn_the_client_from_a_proxy_header() {
    let daemon = Daemon::start();
    for version in ["v1", "v2"] {
        // Answers with what the connection began with, in hexadecimal.
        let upstream = handmade::scripted(|mut stream| async move {
            let mut begin = Vec::new();
            while !begin.windows(4).any(|bytes| bytes == b"\r\n\r\n")
                || !begin.windows(5).any(|bytes| bytes == b"GET /")
            {
                begin.push(stream.read_u8().await.unwrap());
            }
            let at = begin.windows(5).position(|bytes| bytes == b"GET /").unwrap();
            let hex: String = begin[..at].iter().map(|byte| format!("{byte:02x}")).collect();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{hex}", hex.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let host = format!("{version}.test");
        daemon
            .host(&host, &format!("http://{upstream}"), json!({ "upstream_proxy_protocol": version }))
            .await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut client = tokio::net::TcpStream::connect(daemon.http).await.unwrap();
        let (from, to) = (client.local_addr().unwrap().port(), daemon.http.port());
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let hex = answer.rsplit("\r\n").next().unwrap();
        let expected = match version {
            "v1" => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n")
                .bytes()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            _ => format!("0d0a0d0a000d0a515549540a2111000c7f0000017f000001{from:04x}{to:04x}"),
        };
        assert_eq!(hex, expected, "{version}: {answer}");
    }
}

#[tokio::test]
async fn an_http2_upstream_is_asked_over_one_connection() {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_WORKERS", "1");
    });
    let upstream = handmade::serve(true, async |request: Request<hyper::body::Incoming>| {
        let host = request.uri().authority().map_or("", |authority| authority.as_str());
        Response::new(full(format!("{:?} {host} {}", request.version(), request.uri().path())))
    })
    .await;
    daemon.host("a.test", &format!("http://{upstream}"), json!({ "upstream_http2": true })).await;
    let answers =
        futures_util::future::join_all((0..20).map(|_| plain(daemon.http, get("a.test", "/x")))).await;
    for answer in answers {
        assert_eq!(answer.body, "HTTP/2.0 a.test /x");
    }
    assert_eq!(secure(daemon.https, get("a.test", "/x")).await.body, "HTTP/2.0 a.test /x");
}

#[tokio::test]
async fn the_certificate_of_an_upstream_must_be_good_unless_nobody_cares() {
    let (daemon, inner) = (Daemon::start(), Daemon::start());
    let upstream = Upstream::start("main").await;
    inner.host("inner.test", &upstream.url(), json!({})).await;
    daemon.host("inner.test", &format!("https://{}", inner.https), json!({})).await;
    let answer = plain(daemon.http, get("inner.test", "/")).await;
    assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::BAD_GATEWAY, &json!("upstream_tls")));
    let lax = json!({ "upstream_tls": { "verify": false, "server_name": "inner.test" } });
    daemon.change("inner.test", lax).await;
    assert_eq!(plain(daemon.http, get("inner.test", "/")).await.header("x-upstream"), "main");
}

#[tokio::test]
async fn an_external_service_says_how_its_servers_are_spoken_to() {
    let (daemon, authority) = (Daemon::start(), Authority::new());
    let upstream = handmade::serve_tls(&authority.sign(&["inner.test"]), |request| async move {
        Response::new(full(format!("{:?} {}", request.version(), request.uri().path())))
    })
    .await;
    let own = handmade::nobody();
    daemon.host("a.test", &own, json!({})).await;
    daemon.host("b.test", &own, json!({ "upstream_tls": { "ca_pem": Authority::new().pem } })).await;
    let check = json!({ "path": "/healthz", "interval_seconds": 1, "unhealthy_threshold": 1, "healthy_threshold": 1,
                        "fail_when_all_unhealthy": true });
    let url = format!("https://{upstream}");
    let service = json!({ "service_name": "inner", "target_url": url, "health_check": check });
    daemon.api(Method::POST, "/services/external", service).await;
    let route = json!({ "route_id": "inner", "path_pattern": "/inner", "target_type": "service",
                        "target_value": "inner" });
    daemon.route(route).await;
    daemon.change("b.test", json!({ "target_url": "service:inner" })).await;

    let becomes = async |state: &str| {
        eventually(state, async || {
            let shown = daemon.api(Method::GET, "/upstreams/inner", json!(null)).await;
            let all = shown.as_array()?;
            let of_route = |one: &&Value| one["used_by"].to_string().contains("\"route\"");
            all.iter().find(of_route).filter(|one| one["state"] == state).cloned()
        })
        .await
    };
    let change = async |fields: Value| daemon.api(Method::PATCH, "/services/external/inner", fields).await;
    let ask = async |host: &str| plain(daemon.http, get(host, "/inner")).await;
    // The platform knows no such authority; the route has the service's check, which fails as its requests would.
    let shown = becomes("unhealthy").await;
    assert!(shown["health_check"]["error"].to_string().contains("TLS"), "{shown}");
    let refused = ask("a.test").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (503, &json!("no_healthy_upstream")));

    let tls = json!({ "ca_pem": authority.pem, "server_name": "inner.test" });
    let changed = change(json!({ "upstream_tls": tls })).await;
    assert_eq!(changed["upstream_tls"]["server_name"], "inner.test");
    becomes("healthy").await;
    assert_eq!(ask("a.test").await.body, "HTTP/1.1 /inner");
    // What the service says holds for hosts, too, whatever they say themselves.
    assert_eq!(plain(daemon.http, get("b.test", "/x")).await.body, "HTTP/1.1 /x");
    change(json!({ "upstream_http2": true })).await;
    becomes("healthy").await;
    assert_eq!(ask("a.test").await.body, "HTTP/2.0 /inner");

    change(json!({ "upstream_tls": { "server_name": "other.test" } })).await;
    becomes("unhealthy").await;
    change(json!({ "upstream_tls": { "verify": false } })).await;
    becomes("healthy").await;
    assert_eq!(ask("a.test").await.body, "HTTP/2.0 /inner");

    // Where the service says nothing, the host does.
    change(json!({ "upstream_tls": null, "health_check": null })).await;
    let refused = ask("a.test").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (502, &json!("upstream_tls")));
    daemon.change("b.test", json!({ "upstream_tls": { "ca_pem": null, "verify": false } })).await;
    assert_eq!(plain(daemon.http, get("b.test", "/x")).await.body, "HTTP/2.0 /x");

    let wrong = json!({ "upstream_tls": { "ca_pem": "hello" } });
    let refused = daemon.ask(Method::PATCH, "/services/external/inner", &wrong).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.json().to_string().contains("upstream_tls.ca_pem"), "{refused:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_ended_as_if_it_were_whole() {
    let daemon = Daemon::start();
    for (host, answer) in [
        ("length.test", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"),
        ("chunks.test", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"),
    ] {
        daemon.host(host, &format!("http://{}", handmade::saying(answer).await), json!({})).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let text = raw(daemon.http, request.as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("part"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
        let record = daemon.record(&format!("hostname={host}"), |_| true).await;
        assert_eq!(record["body_failed"], true, "{record}");
    }
}
