use std::sync::Mutex;

use http::Request;
use smol_str::SmolStr;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::context::{CertNames, ClientAddr, Facts, TlsInfo};

/// Runs a request through the layer: the request as handed on, or the refusal.
async fn pass(settings: Settings, request: Request<()>) -> Result<Request<()>, Rejection> {
    let seen = Arc::new(Mutex::new(None));
    let store = seen.clone();
    let inner = service_fn(move |request: Request<()>| {
        *store.lock().expect("not poisoned") = Some(request);
        async { Ok::<(), BoxError>(()) }
    });
    match NormalizeLayer::new(settings).layer(inner).oneshot(request).await {
        Ok(()) => Ok(seen.lock().expect("not poisoned").take().expect("the inner service was called")),
        Err(error) => Err(Rejection::of(error)),
    }
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).header(HOST, "a.example").body(()).expect("valid")
}

fn connection(client: &str, sni: Option<&str>, names: &[&str]) -> Arc<Conn> {
    let client = ClientAddr(client.parse().expect("valid"));
    let local = "192.0.2.1:443".parse().expect("valid");
    let tls = TlsInfo {
        version: "TLSv1.3",
        sni: sni.map(|name| name.parse().expect("valid")),
        alpn: None,
        names: CertNames(names.iter().map(SmolStr::new).collect()),
    };
    Arc::new(Conn::new(local, client.0, client, Some(tls)))
}

fn on(conn: &Arc<Conn>, mut request: Request<()>) -> Request<()> {
    RequestContext::of(request.extensions_mut()).conn = Some(conn.clone());
    request
}

#[tokio::test]
async fn what_is_compared_is_what_is_handed_on() {
    for (uri, expected) in [
        ("/a/b?x=%2e%2e/#f", "/a/b?x=%2e%2e/"),
        ("/a/../b?q", "/b?q"),
        ("/%61", "/a"),
        ("/a/..?", "/?"),
        ("http://a.example/b", "/b"),
        ("http://a.example", "/"),
        ("http://a.example?q", "/?q"),
        ("http://a.example/%2e%2e/x?q", "/x?q"),
    ] {
        let request = pass(Settings::default(), get(uri)).await.expect(uri);
        assert_eq!(request.uri().to_string(), expected, "{uri}");
        assert_eq!(request.uri().authority(), None);
    }
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let connect = |uri: &str| Request::connect(uri).header(HOST, "a.example").body(()).expect("valid");
    let options = Request::options("*").header(HOST, "a.example").body(()).expect("valid");
    let two_hosts =
        Request::get("/").header(HOST, "a.example").header(HOST, "a.example").body(()).expect("valid");
    for (request, status, code) in [
        (get("/..;/admin"), 400, "invalid_path"),
        (get("/a%2fb"), 400, "invalid_path"),
        (get("http://b.example/"), 400, "invalid_host"),
        (two_hosts, 400, "invalid_host"),
        (Request::get("/").body(()).expect("valid"), 400, "invalid_host"),
        (get("*"), 400, "invalid_target"),
        (get("a.example"), 400, "invalid_target"),
        (options, 204, "server_options"),
        (connect("a.example:443"), 405, "connect_refused"),
        (connect("/chat"), 405, "connect_refused"),
        (get(&format!("/{}", "a".repeat(16 * 1024))), 414, "uri_too_long"),
    ] {
        let described = format!("{request:?}");
        let rejection = pass(Settings::default(), request).await.expect_err(&described);
        assert_eq!((rejection.status().as_u16(), rejection.code()), (status, code), "{described}");
    }
}

#[tokio::test]
async fn an_extended_connect_goes_on() {
    let request =
        Request::connect("https://a.example/chat/../x").version(Version::HTTP_2).body(()).expect("valid");
    let request = pass(Settings::default(), request).await.expect("RFC 8441");
    assert_eq!(request.uri().to_string(), "/x");
    assert_eq!(request.headers()[HOST], "a.example");
}

#[tokio::test]
async fn host_is_canonical_and_noted_for_the_log() {
    let facts = Arc::new(Facts::default());
    let mut request = Request::get("/").header(HOST, "A.Example.:8443").body(()).expect("valid");
    RequestContext::of(request.extensions_mut()).facts = Some(facts.clone());
    let mut request = pass(Settings::default(), request).await.expect("valid");
    assert_eq!(request.headers()[HOST], "a.example:8443");
    let host = RequestContext::of(request.extensions_mut()).host.clone();
    assert_eq!(host.as_ref().map(HostName::as_str), Some("a.example"));
    assert_eq!(facts.host.get(), host.as_ref());
}

#[tokio::test]
async fn a_connection_serves_the_hosts_of_its_certificate() {
    for (sni, names, expected) in [
        (Some("a.example"), &[][..], None),
        (Some("b.example"), &["a.example", "b.example"], None),
        (Some("b.example"), &["*.example"], None),
        (Some("b.example"), &["b.example"], Some(421)),
        (None, &[], None),
    ] {
        let conn = connection("1.2.3.4:5", sni, names);
        let status = pass(Settings::default(), on(&conn, get("/"))).await.err().map(|r| r.status().as_u16());
        assert_eq!(status, expected, "{sni:?} {names:?}");
    }
}

#[tokio::test]
async fn spoofed_headers_are_gone_and_nominations_with_them() {
    let mut request = get("/");
    for (name, value) in [
        ("x-auth-user", "admin"),
        ("x_auth_user", "admin"),
        ("x-forwarded-for", "1.1.1.1"),
        ("connection", "x-auth-user, close"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let request = pass(Settings::default(), request).await.expect("valid");
    let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(request.headers()["connection"], "close");
}

#[tokio::test]
async fn an_upgrade_is_left_as_it_is() {
    let mut request = get("/");
    request.headers_mut().insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
    request.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    let before = request.headers().clone();
    let request = pass(Settings::default(), request).await.expect("valid");
    assert_eq!(request.headers(), &before);
}

#[tokio::test]
async fn only_trusted_proxies_are_believed() {
    for (hop, client, scheme) in [
        ("10.0.0.1:9", Some("1.2.3.4"), Some("http")),
        ("[::ffff:10.0.0.1]:9", Some("1.2.3.4"), Some("http")),
        ("8.8.8.8:9", None, None),
    ] {
        let facts = Arc::new(Facts::default());
        let networks = ["10.0.0.0/8".parse().expect("valid")];
        let settings = Settings {
            trusted_proxies: TrustedProxies::new(networks, Source::XForwarded),
            ..Settings::default()
        };
        let mut request = on(&connection(hop, None, &[]), get("/"));
        RequestContext::of(request.extensions_mut()).facts = Some(facts.clone());
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 1.2.3.4"));
        request.headers_mut().insert("x-forwarded-proto", HeaderValue::from_static("http"));
        let mut request = pass(settings, request).await.expect("valid");
        assert!(!request.headers().contains_key("x-forwarded-for"), "{hop}");
        let context = RequestContext::of(request.extensions_mut());
        assert_eq!(context.client.map(|client| client.ip().to_string()).as_deref(), client, "{hop}");
        assert_eq!(context.scheme, scheme);
        assert_eq!(facts.client.get(), context.client.as_ref());
    }
}
