//! The pure parts of the hot path: what a request costs before and after the network.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method, Version};
use portcullis_layers::access_log::Record;
use portcullis_layers::auth::{Issuer, JwtVerifier, KeySet, Keys, Revoked};
use portcullis_layers::normalize::path::{PathRules, normalize};
use portcullis_layers::proxy_protocol::header::{Addresses, encode_v1, encode_v2, parse};
use portcullis_layers::route::{Pattern, PatternKind, Route, RouteTable};
use portcullis_layers::strict::{Limits, Scanner};
use portcullis_layers::{ClientAddr, Principal, RequestId};
use serde_json::json;

/// In the year 2033.
const NOW: u64 = 2_000_000_000;

/// 1,000 routes: 450 exact ones, 450 prefixes, 100 expressions.
fn route_match(c: &mut Criterion) {
    let route = |at: usize| {
        let (kind, text) = match at % 20 {
            0..9 => (PatternKind::Exact, format!("/exact/{at}/page")),
            9..18 => (PatternKind::Prefix, format!("/api/v1/service{at}")),
            _ => (PatternKind::Regex, format!("/users{at}/[0-9]+/photos/[a-z]+")),
        };
        Route::new(format!("r{at}"), Pattern::new(kind, &text).expect("the pattern is valid"))
    };
    let table = RouteTable::new((0..1000).map(route).collect());
    let (method, headers) = (Method::GET, HeaderMap::new());
    let mut group = c.benchmark_group("route match, 1000 routes");
    for (name, path, hit) in [
        ("exact", "/exact/500/page", true),
        ("prefix", "/api/v1/service509/items/42", true),
        ("regex", "/users518/42/photos/cat", true),
        ("none", "/assets/app/main.css", false),
    ] {
        assert_eq!(table.find(path, &method, &headers).is_some(), hit, "{name}");
        group.bench_function(name, |b| b.iter(|| table.find(black_box(path), &method, &headers)));
    }
}

fn proxy_header(c: &mut Criterion) {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let addresses =
        Addresses { source: address("192.0.2.7:40000"), destination: address("198.51.100.1:443") };
    let (mut v1, mut v2) = (Vec::new(), Vec::new());
    encode_v1(Some(&addresses), &mut v1);
    encode_v2(Some(&addresses), &[], true, &mut v2).expect("it fits");
    c.bench_function("proxy header v1", |b| b.iter(|| parse(black_box(&v1))));
    c.bench_function("proxy header v2", |b| b.iter(|| parse(black_box(&v2))));
}

fn head_scan(c: &mut Criterion) {
    let head = b"GET /api/v1/items?page=2&sort=name HTTP/1.1\r\nHost: app.example.com\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
        Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
        Connection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
        Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n\r\n";
    let mut scanner = Scanner::new(Limits::default());
    c.bench_function("http/1 head scan", |b| {
        b.iter(|| {
            let scanned = scanner.scan(black_box(head));
            assert_eq!(scanned.good, head.len());
        });
    });
}

fn path_normalise(c: &mut Criterion) {
    let rules = PathRules::default();
    for (name, path) in [
        ("path, normal", "/api/v1/items/42/photos/cat%20in%20a%20box.jpg"),
        ("path, to be rebuilt", "/api/./v1/items/%34%32/../43/caf%c3%a9"),
    ] {
        c.bench_function(name, |b| b.iter(|| normalize(black_box(path), rules).map(|path| path.len())));
    }
}

/// Tokens of an issuer with an RSA key, as most have it.
fn tokens(count: usize) -> (Arc<Keys>, Vec<String>) {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("a key is generated");
    let public = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
    let [n, e] = [&public.n, &public.e].map(|number| URL_SAFE_NO_PAD.encode(number));
    let jwks = json!({ "keys": [{ "kty": "RSA", "alg": "RS256", "kid": "k1", "n": n, "e": e }] });
    let keys = Keys::new(KeySet::from_jwks(&jwks.to_string()).expect("the key set is valid"));
    let mint = |at: usize| {
        let header = json!({ "alg": "RS256", "kid": "k1", "typ": "at+jwt" }).to_string();
        let claims = json!({ "iss": "https://auth.example.com", "sub": at.to_string(), "username": "alice",
            "aud": ["https://app.example.com"], "scope": "user mcp:read", "jti": format!("token-{at}"),
            "client_id": "cli", "iat": NOW - 60, "exp": NOW + 3600 });
        let message = [header, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .expect("the message is signed");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    (keys, (0..count).map(mint).collect())
}

fn token_check(c: &mut Criterion) {
    let (keys, tokens) = tokens(16);
    let issuer = || [Issuer::own("https://auth.example.com", Arc::clone(&keys))];
    let verifier = JwtVerifier::new(issuer(), Arc::new(Revoked::default()), 1);
    c.bench_function("token check, cached", |b| {
        b.iter(|| assert!(verifier.verify_at(black_box(&tokens[0]), NOW).is_ok()));
    });
    // Far fewer places than tokens: in turn none of them is found.
    let forgetful = JwtVerifier::new(issuer(), Arc::new(Revoked::default()), 1).cached(2);
    let mut turn = tokens.iter().cycle();
    c.bench_function("token check, new", |b| {
        b.iter_batched(
            || turn.next().expect("the circle has no end"),
            |token| assert!(forgetful.verify_at(black_box(token), NOW).is_ok()),
            BatchSize::SmallInput,
        );
    });
}

fn record_encode(c: &mut Criterion) {
    let client: SocketAddr = "192.0.2.7:40000".parse().expect("an address");
    let principal = Principal {
        subject: "583231".into(),
        username: Some("octocat".into()),
        email: Some("octocat@example.com".into()),
        scopes: vec!["user".into(), "mcp:read".into()],
        ..Principal::default()
    };
    let record = Record {
        time: 1_760_000_000_000,
        id: RequestId(0x0123_4567_89ab_cdef, 42),
        client_request_id: None,
        client: Some(ClientAddr(client)),
        peer: Some(client),
        host: Some("app.example.com"),
        method: &Method::GET,
        path: "/api/v1/items/42",
        query: Some("page=2&sort=name"),
        version: Version::HTTP_11,
        tls: None,
        status: 200,
        code: None,
        cause: None,
        check: None,
        about: None,
        route: Some("api"),
        principal: Some(&principal),
        upstream: Some("http://10.0.0.7:8080"),
        attempts: None,
        upstream_time: Some(Duration::from_micros(1234)),
        first_byte: Some(Duration::from_micros(1300)),
        total: Duration::from_micros(2345),
        received: 0,
        sent: 5120,
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        referer: Some("https://app.example.com/items"),
        client_gone: false,
        body_failed: false,
        tunnel: false,
        call: None,
    };
    let mut out = Vec::with_capacity(2048);
    c.bench_function("record encode", |b| {
        b.iter(|| {
            out.clear();
            black_box(&record).encode(&mut out);
            out.len()
        });
    });
}

criterion_group!(benches, route_match, proxy_header, head_scan, path_normalise, token_check, record_encode);
criterion_main!(benches);
