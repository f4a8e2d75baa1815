use std::collections::BTreeMap;

use http::Version;
use portcullis_layers::access_log::Queue;
use portcullis_layers::{RequestId, proxy_protocol, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

fn record() -> Record<'static> {
    Record {
        time: 1,
        id: RequestId(1, 2),
        client_request_id: None,
        client: None,
        peer: None,
        host: Some("app.example.com"),
        method: &Method::GET,
        path: "/",
        query: None,
        version: Version::HTTP_11,
        tls: None,
        status: 200,
        code: None,
        cause: None,
        check: None,
        about: None,
        route: None,
        principal: None,
        upstream: None,
        attempts: None,
        upstream_time: None,
        first_byte: None,
        total: Duration::from_millis(3),
        received: 0,
        sent: 0,
        user_agent: None,
        referer: None,
        client_gone: false,
        body_failed: false,
        tunnel: false,
        call: None,
    }
}

/// Reads the text as Prometheus does, and checks on the way what its format demands.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut helped, mut family, mut kind) = (String::new(), String::new(), "");
    let mut families = Vec::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty(), "{line}");
            name.clone_into(&mut helped);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, rest) = rest.split_once(' ').expect("a type");
            assert!(name == helped && !families.contains(&name), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
            assert_eq!(rest == "counter", name.ends_with("_total"), "{line}");
            families.push(name);
            name.clone_into(&mut family);
            kind = rest;
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let name = series.split('{').next().expect("a name");
        assert!(name.starts_with("portcullis_"), "{line}");
        let suffix = name.strip_prefix(family.as_str()).expect("samples stand below their type");
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line}");
        let value = value.parse().expect("a number");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{line} comes twice");
    }
    samples
}

#[test]
fn requests_of_all_workers_are_counted() {
    let metrics = Metrics::new(2);
    metrics.set_hosts(["app.example.com", "*.example.org"]);
    let put = Method::PUT;
    let odd = Method::from_bytes(b"BREW").unwrap();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (metrics, put, odd) = (&metrics, &put, &odd);
            scope.spawn(move || {
                portcullis_layers::per_worker::enter_worker(worker);
                metrics.emit(&Record { received: 5, sent: 7, ..record() });
                metrics.emit(&Record {
                    method: put,
                    status: 403,
                    code: Some("insufficient_scope"),
                    ..record()
                });
                metrics.emit(&Record { method: odd, status: 502, host: Some("a.example.org"), ..record() });
                metrics.emit(&Record { status: 799, host: Some("evil.example"), ..record() });
                metrics.emit(&Record { status: 499, host: None, client_gone: true, ..record() });
            });
        }
    });
    let samples = parse(&metrics.render());
    for (series, value) in [
        ("requests_total{method=\"GET\",status=\"2xx\"}", 2.0),
        ("requests_total{method=\"PUT\",status=\"4xx\"}", 2.0),
        ("requests_total{method=\"other\",status=\"5xx\"}", 2.0),
        ("requests_total{method=\"GET\",status=\"other\"}", 2.0),
        ("requests_total{method=\"GET\",status=\"4xx\"}", 2.0),
        ("requests_total{method=\"POST\",status=\"2xx\"}", 0.0),
        ("rejections_total{code=\"insufficient_scope\"}", 2.0),
        ("host_requests_total{host=\"app.example.com\"}", 4.0),
        ("host_requests_total{host=\"*.example.org\"}", 2.0),
        ("host_errors_total{host=\"*.example.org\"}", 2.0),
        ("host_requests_total{host=\"other\"}", 4.0),
        ("received_bytes_total", 10.0),
        ("sent_bytes_total", 14.0),
        ("client_gone_total", 2.0),
        ("request_duration_seconds_count", 10.0),
        ("request_duration_seconds_bucket{le=\"0.0025\"}", 0.0),
        ("request_duration_seconds_bucket{le=\"0.005\"}", 10.0),
        ("request_duration_seconds_bucket{le=\"+Inf\"}", 10.0),
        ("request_duration_seconds_sum", 0.03),
        ("upstream_duration_seconds_count", 0.0),
    ] {
        assert_eq!(samples[&format!("portcullis_{series}")], value, "{series}");
    }
}

#[test]
fn a_duration_counts_up_to_its_bound() {
    let mut histogram = Histogram::default();
    for (duration, bucket) in [
        (Duration::ZERO, 0),
        (Duration::from_millis(1), 0),
        (Duration::from_micros(1001), 1),
        (Duration::from_secs(60), 14),
        (Duration::MAX, 15),
    ] {
        let before = histogram.buckets[bucket];
        histogram.note(duration);
        assert_eq!(histogram.buckets[bucket], before + 1, "{duration:?}");
    }
}

#[test]
fn tunnels_are_no_slow_requests() {
    let metrics = Metrics::new(1);
    let upstream_time = Some(Duration::from_millis(2));
    metrics.emit(&Record { tunnel: true, total: Duration::from_secs(3600), upstream_time, ..record() });
    let samples = parse(&metrics.render());
    assert_eq!(samples["portcullis_tunnels_total"], 1.0);
    assert_eq!(samples["portcullis_request_duration_seconds_count"], 0.0);
    assert_eq!(samples["portcullis_upstream_duration_seconds_count"], 1.0);
}

#[test]
fn the_number_of_series_is_bounded() {
    let metrics = Metrics::new(1);
    metrics.set_hosts(["z.example"]);
    metrics.emit(&Record { host: Some("z.example"), ..record() });
    let many: Vec<_> = (0..MAX_HOSTS + 10).map(|n| format!("h{n:05}.example")).collect();
    metrics.set_hosts(many.iter().map(String::as_str).chain(["z.example"]));
    for n in 0..MAX_CODES + 10 {
        metrics.emit(&Record { code: Some(&format!("code{n}")), host: Some(&format!("x{n}")), ..record() });
    }
    let text = metrics.render();
    let samples = parse(&text);
    let count = |name: &str| samples.keys().filter(|series| series.starts_with(name)).count();
    assert_eq!(count("portcullis_host_requests_total"), MAX_HOSTS + 1);
    assert_eq!(count("portcullis_rejections_total"), MAX_CODES + 1);
    assert_eq!(samples["portcullis_rejections_total{code=\"other\"}"], 10.0);
    assert_eq!(samples["portcullis_host_requests_total{host=\"z.example\"}"], 1.0, "it keeps its place");
    assert_eq!(samples["portcullis_host_requests_total{host=\"other\"}"], (MAX_CODES + 10) as f64);
    metrics.set_hosts([""; 0]);
    assert!(!metrics.render().contains("z.example"));
}

#[test]
fn what_others_count_is_read_at_each_scrape() {
    use std::sync::atomic::Ordering::Relaxed;

    let metrics = Metrics::new(1);
    let (proxy, handshakes) =
        (Arc::new(proxy_protocol::Counters::default()), Arc::new(tls::Counters::default()));
    metrics.register(sources::proxy_protocol(Arc::clone(&proxy)));
    metrics.register(sources::tls(Arc::clone(&handshakes)));
    let queue = Queue::new(1, 1 << 20);
    metrics.register(sources::logs([("requests", queue.clone())]));
    metrics.register(sources::dropped_headers(Arc::default()));
    metrics.register(sources::certificates(|| [("a \"quoted\" name", 1_900_000_000)]));
    metrics.register(sources::gauge("store_up", "Whether the store is reachable.", || Some(true)));
    metrics.register(sources::gauge("config_revision", "The revision that is served.", || None::<u64>));
    metrics.register(sources::counter("connections_total", "Accepted connections.", || 3_u64));
    proxy.malformed.store(4, Relaxed);
    handshakes.handshakes.store(5, Relaxed);
    queue.emit(&record());
    let samples = parse(&metrics.render());
    for (series, value) in [
        ("proxy_protocol_connections_total{result=\"malformed\"}", 4.0),
        ("tls_handshakes_total{result=\"ok\"}", 5.0),
        ("tls_resumed_total", 0.0),
        ("log_records_total{log=\"requests\",result=\"written\"}", 0.0),
        ("dropped_headers_total{reason=\"spoofed\"}", 0.0),
        ("certificate_expiry_timestamp_seconds{certificate=\"a \\\"quoted\\\" name\"}", 1_900_000_000.0),
        ("store_up", 1.0),
        ("connections_total", 3.0),
    ] {
        assert_eq!(samples[&format!("portcullis_{series}")], value, "{series}");
    }
    assert!(!samples.contains_key("portcullis_config_revision"));
    proxy.malformed.store(6, Relaxed);
    let series = "portcullis_proxy_protocol_connections_total{result=\"malformed\"}";
    assert_eq!(parse(&metrics.render())[series], 6.0);
}

async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    let all = stream.read_to_string(&mut response);
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("an answer and its end").unwrap();
    response
}

#[tokio::test]
async fn the_server_answers_scrapes_and_nothing_else() {
    let metrics = Metrics::new(1);
    metrics.emit(&record());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, metrics, stop.clone()));
    let response = ask(address, "GET /metrics HTTP/1.1\r\nhost: node:9464\r\n\r\n").await;
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert_eq!(parse(body)["portcullis_requests_total{method=\"GET\",status=\"2xx\"}"], 1.0);
    for request in ["GET / HTTP/1.1", "POST /metrics HTTP/1.1", "GET /metrics/ HTTP/1.1"] {
        let response = ask(address, &format!("{request}\r\nhost: node\r\ncontent-length: 0\r\n\r\n")).await;
        assert!(response.starts_with("HTTP/1.1 404 "), "{request}: {response}");
    }
    // Who says nothing keeps nobody from being served.
    let _silent = TcpStream::connect(address).await.unwrap();
    assert!(ask(address, "GET /metrics HTTP/1.0\r\n\r\n").await.contains("portcullis_build_info"));
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.expect("ended").unwrap();
}
