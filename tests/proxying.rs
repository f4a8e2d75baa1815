//! What becomes of requests and answers on their way: headers, bodies, trailers, hosts, protocols.

mod support;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::json;
use support::client::{self, Answer, get, http2, plain, read, secure};
use support::daemon::Daemon;
use support::handmade::{self, full, streamed};
use support::upstream::Upstream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Far more than all buffers on the way together.
const LARGE: usize = 24 << 20;

#[tokio::test]
async fn forged_identity_and_forwarding_headers_never_reach_the_upstream() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    daemon.host("b.test", &upstream.url(), json!({ "auth_header_prefix": "X-Who-" })).await;
    let forged = [
        "X-Auth-User",
        "x-auth-scopes",
        "X-AUTH-EMAIL",
        "X_Auth_User",
        "X-Auth_User",
        "Forwarded",
        "X-Forwarded-User",
        "x_forwarded_for",
        "X-Original-URL",
        "X-Rewrite-URL",
        "Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Remote-User",
        "X-Remote-User",
        "SSL-Client-S-DN",
        "X-SSL-Client-Cert",
        "Client-Cert",
        "Proxy",
    ];
    let rebuilt = [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Real-IP",
        "X-Request-ID",
    ];
    for host in ["a.test", "b.test"] {
        let mut request =
            Request::get("/").header("host", host).header("x-who-user", "root").header("x-own", "kept");
        for name in forged.iter().chain(&rebuilt) {
            // Twice, and nominated for removal, which must not take away what we say ourselves.
            request = request.header(*name, "forged").header(*name, "again").header("connection", *name);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        for (answer, proto, port) in [
            (plain(daemon.http, request.clone()).await, "http", "80"),
            (secure(daemon.https, request.clone()).await, "https", "443"),
        ] {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, StatusCode::OK, "{text}");
            assert!(!text.contains("forged") && !text.contains("again"), "{text}");
            for name in forged {
                assert!(answer.seen(&name.to_lowercase()).is_empty(), "{name}: {text}");
            }
            for (name, value) in [
                ("x-forwarded-for", "127.0.0.1"),
                ("x-real-ip", "127.0.0.1"),
                ("x-forwarded-proto", proto),
                ("x-forwarded-host", host),
                ("x-forwarded-port", port),
                ("x-own", "kept"),
            ] {
                assert_eq!(answer.seen(name), [value], "{name}: {text}");
            }
            assert_eq!(answer.seen("x-request-id"), [answer.header("x-correlation-id")]);
            // The prefix of the host's own choice is as safe as the default.
            assert_eq!(answer.seen("x-who-user").is_empty(), host == "b.test", "{text}");
        }
    }
}

#[tokio::test]
async fn the_upstream_sees_the_public_host_or_its_own() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("public.test", &upstream.url(), json!({})).await;
    daemon.host("own.test", &upstream.url(), json!({ "preserve_host_header": false })).await;
    assert_eq!(plain(daemon.http, get("public.test", "/")).await.seen("host"), ["public.test"]);
    let own = plain(daemon.http, get("own.test", "/")).await;
    assert_eq!(own.seen("host"), [upstream.address.to_string()]);
    assert_eq!(own.seen("x-forwarded-host"), ["own.test"]);
    // A base path of the target stands before the path that was asked for; the query stays.
    daemon.host("base.test", &format!("{}/base", upstream.url()), json!({})).await;
    assert_eq!(
        plain(daemon.http, get("base.test", "/a%20b?c=d%26")).await.json()["uri"],
        "/base/a%20b?c=d%26"
    );
}

#[tokio::test]
async fn header_rules_hold_for_requests_answers_and_refusals() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    let nobody = handmade::nobody();
    for (host, target, more) in [
        ("open.test", upstream.url(), json!({})),
        ("closed.test", upstream.url(), json!({ "auth_enabled": true })),
        ("small.test", upstream.url(), json!({ "max_body_bytes": 1 })),
        ("away.test", nobody, json!({})),
        ("secure.test", upstream.url(), json!({ "https_redirect": "on" })),
        ("tls.test", upstream.url(), json!({ "enable_http": false })),
        ("off.test", upstream.url(), json!({ "enabled": false })),
        ("net.test", upstream.url(), json!({ "allowed_networks": ["203.0.113.0/24"] })),
    ] {
        let mut rules = json!({
            "custom_headers": { "X-Added": "yes" },
            "request_headers": { "remove": ["X-Secret"], "append": { "X-More": "ours" } },
            "custom_response_headers": { "X-Frame-Options": "DENY" },
            "response_headers": { "remove": ["X-Upstream"], "append": { "Vary": "Origin" } },
        });
        rules.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.host(host, &target, rules).await;
    }
    for (host, status) in [
        ("open.test", 200),
        ("closed.test", 401),
        ("small.test", 413),
        ("away.test", 502),
        ("secure.test", 308),
        ("tls.test", 404),
        ("off.test", 503),
        ("net.test", 403),
    ] {
        let request =
            Request::post("/").header("host", host).header("x-secret", "s").header("x-more", "theirs");
        let answer = plain(daemon.http, request.body(Full::from("body")).unwrap()).await;
        assert_eq!(answer.status, status, "{host}");
        assert_eq!((answer.header("x-frame-options"), answer.header("vary")), ("DENY", "Origin"), "{host}");
        assert_eq!(answer.header("x-upstream"), "", "{host}");
        assert_ne!(answer.header("x-correlation-id"), "", "{host}");
        if status == 200 {
            assert_eq!((answer.seen("x-added"), answer.seen("x-secret")), (vec!["yes".to_owned()], vec![]));
            assert_eq!(answer.seen("x-more"), ["theirs", "ours"]);
        }
    }
}

#[tokio::test]
async fn bodies_over_the_limit_of_their_host_are_refused() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({ "max_body_bytes": 10 })).await;
    for (length, status) in [(10, 200), (11, 413), (100_000, 413)] {
        let body = Bytes::from(vec![b'x'; length]);
        let known = Request::post("/count").header("host", "a.test").body(Full::new(body.clone())).unwrap();
        let answer = plain(daemon.http, known).await;
        assert_eq!(answer.status, status, "{length} bytes");
        assert!(status == 200 || answer.json()["code"] == "request_body_too_large", "{answer:?}");
        let (sender, unknown) = streamed();
        sender.send(Frame::data(body)).unwrap();
        drop(sender);
        let chunked = Request::post("/count").header("host", "a.test").body(unknown).unwrap();
        assert_eq!(plain(daemon.http, chunked).await.status, status, "{length} bytes in chunks");
    }
}

#[tokio::test]
async fn a_head_is_answered_like_a_get_without_its_body() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    for (host, path) in [("a.test", "/x"), ("nobody.test", "/"), ("a.test", "/status/404")] {
        let whole = plain(daemon.http, get(host, path)).await;
        let head = Request::head(path).header("host", host).body(Full::<Bytes>::default()).unwrap();
        let answer = plain(daemon.http, head).await;
        assert_eq!((answer.status, answer.body.len()), (whole.status, 0), "{host}{path}");
        assert_eq!(answer.header("content-type"), whole.header("content-type"), "{host}{path}");
        let length = |answer: &Answer| answer.headers.contains_key("content-length");
        assert_eq!(length(&answer), length(&whole), "{host}{path}: {answer:?} {whole:?}");
    }
    // The next request of the connection finds it in order.
    let both = "HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\nGET /count HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answers = client::raw(daemon.http, both.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.ends_with("\r\n\r\n0"), "{answers}");
}

/// Sends the body and the trailers of a request back, and its version.
async fn echo(request: Request<hyper::body::Incoming>) -> Response<handmade::Body> {
    let version = format!("{:?}", request.version());
    let collected = request.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let (sender, body) = streamed();
    let mut response = Response::builder().header("x-version", version);
    sender.send(Frame::data(collected.to_bytes())).unwrap();
    if let Some(mut trailers) = trailers {
        for name in trailers.keys() {
            response = response.header("trailer", name.as_str());
        }
        let seen = trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>().join(" ");
        response = response.header("x-seen", seen);
        trailers.insert("x-answer", "end".parse().unwrap());
        response = response.header("trailer", "x-answer");
        sender.send(Frame::trailers(trailers)).unwrap();
    }
    response.body(body).unwrap()
}

fn with_trailers(uri: &str, host: &str) -> Request<impl client::Payload + use<>> {
    let mut trailers = HeaderMap::new();
    for (name, value) in
        [("x-sum", "6"), ("x-auth-user", "root"), ("x-forwarded-for", "6.6.6.6"), ("cookie", "a=b")]
    {
        trailers.insert(name, value.parse().unwrap());
    }
    let frames = [Frame::data(Bytes::from("abc")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>)));
    let request = Request::post(uri)
        .header("te", "trailers")
        .header("trailer", "x-sum, x-auth-user, x-forwarded-for, cookie");
    if host.is_empty() { request } else { request.header("host", host).header("connection", "te") }
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn trailers_pass_both_ways_but_for_those_that_somebody_would_believe() {
    let daemon = Daemon::start();
    for (upstream_http2, host) in [(false, "one.test"), (true, "two.test")] {
        let upstream = handmade::serve(upstream_http2, echo).await;
        daemon.host(host, &format!("http://{upstream}"), json!({ "upstream_http2": upstream_http2 })).await;
        let version = if upstream_http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        let stream = TcpStream::connect(daemon.http).await.unwrap();
        let over_http1 = client::open(stream, with_trailers("/", host)).await;
        let (mut sender, _connection) = http2(daemon.https, host).await;
        let over_http2 = sender.send_request(with_trailers(&format!("https://{host}/"), "")).await.unwrap();
        for response in [over_http1, over_http2] {
            let case = format!("{:?} to {version}", response.version());
            assert_eq!(response.headers()["x-version"], version, "{case}");
            assert_eq!(response.headers()["x-seen"], "x-sum", "{case}");
            let collected = response.into_body().collect().await.unwrap();
            let trailers = collected.trailers().cloned().unwrap_or_default();
            assert_eq!(
                (&trailers["x-sum"], &trailers["x-answer"]),
                (&"6".parse().unwrap(), &"end".parse().unwrap()),
                "{case}"
            );
            assert_eq!(collected.to_bytes(), "abc", "{case}");
        }
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_over_every_protocol() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    let body = Full::from(vec![b'x'; LARGE]);
    let upload = |uri: &str| Request::post(uri).header("host", "a.test").body(body.clone()).unwrap();
    let path = format!("/big?{LARGE}");
    let check = |answer: Answer, what: &str| {
        let right = answer.body.len() == LARGE && answer.body.iter().all(|byte| *byte == b'x');
        assert!(answer.status == 200 && right, "{what}: {} {}", answer.status, answer.body.len());
    };
    check(plain(daemon.http, get("a.test", &path)).await, "HTTP/1.1");
    check(secure(daemon.https, get("a.test", &path)).await, "HTTPS");
    assert_eq!(plain(daemon.http, upload("/count")).await.body, LARGE.to_string());
    assert_eq!(secure(daemon.https, upload("/count")).await.body, LARGE.to_string());
    let (mut sender, _connection) = http2(daemon.https, "a.test").await;
    let down = Request::get(format!("https://a.test{path}")).body(Full::default()).unwrap();
    check(read(sender.send_request(down).await.unwrap()).await, "HTTP/2");
    let up = Request::post("https://a.test/count").body(body.clone()).unwrap();
    assert_eq!(read(sender.send_request(up).await.unwrap()).await.body, LARGE.to_string());
}

#[tokio::test]
async fn an_http2_client_has_many_requests_at_once_on_one_connection() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    let (sender, _connection) = http2(daemon.https, "a.test").await;
    let requests = (0..50).map(|number| {
        let mut sender = sender.clone();
        async move {
            let request = Request::post(format!("https://a.test/{number}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2");
            let response = sender
                .send_request(request.body(Full::from(format!("body {number}"))).unwrap())
                .await
                .unwrap();
            assert_eq!(response.version(), Version::HTTP_2);
            let answer = read(response).await;
            let seen = answer.json();
            assert_eq!(
                (&seen["uri"], &seen["body"]),
                (&json!(format!("/{number}")), &json!(format!("body {number}")))
            );
            assert_eq!(
                (answer.seen("host"), answer.seen("cookie")),
                (vec!["a.test".to_owned()], vec!["a=1; b=2".to_owned()])
            );
        }
    });
    futures_util::future::join_all(requests).await;
}

#[tokio::test]
async fn hosts_are_found_by_name_wildcard_and_protocol() {
    let daemon = Daemon::start();
    let (main, wild) = (Upstream::start("main").await, Upstream::start("wild").await);
    for (host, target, more) in [
        ("a.test", main.url(), json!({ "https_redirect": "off" })),
        ("*.wild.test", wild.url(), json!({})),
        ("own.wild.test", main.url(), json!({})),
        ("off.wild.test", main.url(), json!({ "enabled": false })),
        ("http.test", main.url(), json!({ "enable_https": false })),
        ("https.test", main.url(), json!({ "enable_http": false })),
        ("to-https.test", main.url(), json!({ "https_redirect": "on" })),
    ] {
        daemon.host(host, &target, more).await;
    }
    let port = daemon.https.port();
    for (host, over_http, over_https) in [
        ("a.test", "200 main", "200 main"),
        ("A.TEST", "200 main", "200 main"),
        ("a.test:80", "200 main", "200 main"),
        ("other.test", "404 no_such_host", "no such name"),
        ("x.wild.test", "200 wild", "200 wild"),
        ("own.wild.test", "200 main", "200 main"),
        ("off.wild.test", "503 host_disabled", "503 host_disabled"),
        ("x.y.wild.test", "404 no_such_host", "no such name"),
        ("wild.test", "404 no_such_host", "no such name"),
        ("http.test", "200 main", "no such name"),
        ("https.test", "404 protocol_disabled", "200 main"),
        ("to-https.test", "308 https_required", "200 main"),
    ] {
        let outcome = |answer: Answer| {
            let json = answer.json();
            let word = json["upstream"].as_str().or(json["code"].as_str()).unwrap_or_default();
            format!("{} {word}", answer.status.as_u16())
        };
        assert_eq!(outcome(plain(daemon.http, get(host, "/")).await), over_http, "http://{host}");
        // A name that nobody serves over TLS is refused in the handshake already.
        let name = host.split(':').next().unwrap();
        let over_tls = match client::handshake(daemon.https, name, &[b"http/1.1"]).await {
            Ok(stream) => outcome(read(client::open(stream, get(host, "/")).await).await),
            Err(_) => "no such name".to_owned(),
        };
        assert_eq!(over_tls, over_https, "https://{host}");
    }
    let post = Request::post("/a%20b?c=d").header("host", "to-https.test").body(Full::from("x")).unwrap();
    let redirect = plain(daemon.http, post).await;
    assert_eq!(redirect.header("location"), format!("https://to-https.test:{port}/a%20b?c=d"));
    let challenge = plain(daemon.http, get("to-https.test", "/.well-known/acme-challenge/token")).await;
    assert_eq!(challenge.status, StatusCode::NOT_FOUND, "authorities are answered before the redirect");
    // A host that is switched on again is there at once.
    daemon.api(Method::POST, "/proxy/targets/off.wild.test/enable", json!({})).await;
    assert_eq!(plain(daemon.http, get("off.wild.test", "/")).await.header("x-upstream"), "main");
}

#[tokio::test]
async fn an_upload_is_not_asked_for_before_it_is_wanted() {
    let (daemon, upstream) = (Daemon::start(), Upstream::start("main").await);
    daemon.host("a.test", &upstream.url(), json!({})).await;
    daemon.host("closed.test", &upstream.url(), json!({ "auth_enabled": true })).await;
    for (host, first) in
        [("a.test", "HTTP/1.1 100 Continue\r\n\r\n"), ("closed.test", "HTTP/1.1 401 Unauthorized\r\n")]
    {
        let mut stream = TcpStream::connect(daemon.http).await.unwrap();
        let head = format!(
            "POST /count HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; first.len()];
        tokio::time::timeout(
            support::PATIENCE,
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer),
        )
        .await
        .unwrap()
        .unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), first);
        if host == "a.test" {
            stream.write_all(b"abc").await.unwrap();
            let rest = client::until_quiet(&mut stream).await;
            assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.ends_with("\r\n\r\n3"), "{rest}");
        }
    }
}

#[tokio::test]
async fn an_answer_begins_before_the_upstream_has_ended_it() {
    let daemon = Daemon::start();
    let (sender, body) = streamed();
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let upstream = handmade::serve(false, move |_| {
        let body = body.lock().unwrap().take().unwrap_or_else(|| full("none"));
        async move { Response::new(body) }
    })
    .await;
    daemon.host("a.test", &format!("http://{upstream}"), json!({})).await;
    sender.send(Frame::data(Bytes::from("first"))).unwrap();
    let mut response = client::open(TcpStream::connect(daemon.http).await.unwrap(), get("a.test", "/")).await;
    let first =
        tokio::time::timeout(support::PATIENCE, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    sender.send(Frame::data(Bytes::from("second"))).unwrap();
    drop(sender);
    assert_eq!(read(response).await.body, "second");
}
