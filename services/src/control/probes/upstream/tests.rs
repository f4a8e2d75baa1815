use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body as AxumBody;
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{PoolSettings, Tunnels};
use portcullis_layers::resource_metadata::WELL_KNOWN;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::config::access::Lists;

fn probes() -> Probes {
    Probes::new(Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default()), None)
}

/// A deployment that clients see at another port than usual.
fn site() -> Site {
    Site {
        issuer: "https://auth.example.com:8443".to_owned(),
        port_suffix: ":8443".to_owned(),
        defaults: Lists::default(),
        localhost: Lists::default(),
    }
}

/// A server with this answer, and how often it was asked.
async fn server(
    answer: impl Fn(&Method, &Uri, &HeaderMap) -> Response + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let router = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(answer(&method, &uri, &headers))
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, asked)
}

fn response(status: u16, kind: &str, body: impl Into<AxumBody>) -> Response {
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    response.body(body.into()).expect("an answer")
}

/// A body that goes on for ever.
fn endless(first: &'static str) -> AxumBody {
    let first = stream::once(std::future::ready(Ok::<_, std::io::Error>(first)));
    AxumBody::from_stream(first.chain(stream::pending()))
}

fn proxy(address: impl std::fmt::Display) -> Proxy {
    let target = format!("http://{address}").parse().expect("a target");
    Proxy::new(&"app.example.com".parse().expect("a name"), &target)
}

const ERROR: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Method not allowed."}}"#;

#[tokio::test]
async fn mcp_servers_show_themselves_in_each_way_that_there_is() {
    type Answers = fn(&Method) -> Response;
    let ways: [(&str, Answers); 5] = [
        ("answers a GET with a message of JSON-RPC", |_| response(405, "application/json", ERROR)),
        ("answers a GET with an event stream", |_| response(200, EVENTS, endless(""))),
        ("answers a GET with a challenge of a protected resource", |_| {
            let mut refusal = response(401, "text/plain", "");
            let challenge =
                "Bearer resource_metadata=\"http://10.0.0.5/.well-known/oauth-protected-resource\"";
            refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            refusal
        }),
        ("answers a ping with a message of JSON-RPC", |method| match *method {
            Method::POST => {
                response(200, "application/json", r#"{"jsonrpc":"2.0","id":"portcullis","result":{}}"#)
            }
            _ => response(405, "text/plain", ""),
        }),
        ("answers a ping with a message of JSON-RPC", |method| match *method {
            Method::POST => {
                let message = "event: message\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"portcullis\",\"result\":{}}\r\n\r\n";
                response(200, EVENTS, endless(message))
            }
            _ => response(400, "text/plain", "no session"),
        }),
    ];
    for (says, answers) in ways {
        let (address, _) = server(move |method, uri, headers| {
            assert_eq!(headers[HOST], "app.example.com:8443", "as everybody asks it");
            if uri.path() == "/mcp" { answers(method) } else { response(404, "text/plain", "") }
        })
        .await;
        let found = probes().upstream(&site(), &proxy(address)).await;
        assert_eq!(found.seen, Some(Seen { itself: true, metadata: false }), "{says}: {found:?}");
        assert!(found.detail.contains(says) && found.at.is_some(), "{found:?}");
    }
    // The shape that is none: JSON, but no message.
    let (address, _) = server(|method, _, _| match *method {
        Method::POST => response(200, "application/json", r#"{"id":1,"result":{}}"#),
        _ => response(405, "text/plain", ""),
    })
    .await;
    let found = probes().upstream(&site(), &proxy(address)).await;
    assert_eq!(found.seen, Some(Seen { itself: false, metadata: false }), "{found:?}");
}

#[tokio::test]
async fn other_servers_are_none_and_are_sent_nothing_but_gets() {
    let (elsewhere, asked_elsewhere) = server(|_, _, _| response(405, "application/json", ERROR)).await;
    let location = HeaderValue::from_str(&format!("http://{elsewhere}/mcp")).expect("a URL");
    let redirect = move || {
        let mut answer = response(307, "text/plain", "");
        answer.headers_mut().insert("location", location.clone());
        answer
    };
    let long = "x".repeat(1 << 20);
    for (name, answer) in [
        (
            "a site",
            Box::new(|| response(404, "text/html", "<h1>no</h1>")) as Box<dyn Fn() -> Response + Send + Sync>,
        ),
        ("an answer to everything", Box::new(|| response(200, "application/json", r#"{"a":1}"#))),
        ("another machine", Box::new(redirect)),
        ("a flood", Box::new(move || response(200, "application/json", long.clone()))),
        (
            "no list of GET alone",
            Box::new(|| {
                let mut answer = response(405, "text/plain", "");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("PUT, DELETE"));
                answer
            }),
        ),
    ] {
        let answer: Arc<dyn Fn() -> Response + Send + Sync> = answer.into();
        let (address, _) = server(move |method, _, _| {
            assert_eq!(*method, Method::GET);
            answer()
        })
        .await;
        let found = probes().upstream(&site(), &proxy(address)).await;
        assert_eq!(found.seen, Some(Seen { itself: false, metadata: false }), "{name}: {found:?}");
    }
    assert_eq!(asked_elsewhere.load(Ordering::Relaxed), 0, "redirects lead nowhere");
}

#[tokio::test]
async fn metadata_are_found_at_both_places_and_say_enough() {
    for place in [WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/tools")] {
        let document = json!({ "resource": "http://10.0.0.5/tools" }).to_string();
        let (address, _) = server(move |_, uri, _| {
            if uri.path() == place {
                response(200, "application/json", document.clone())
            } else {
                response(404, "text/plain", "")
            }
        })
        .await;
        let mut proxy = proxy(address);
        proxy.resource_endpoint = Some("/tools".parse().expect("a path"));
        let found = probes().upstream(&site(), &proxy).await;
        assert_eq!(found.seen, Some(Seen { itself: false, metadata: true }), "{found:?}");
    }
}

#[tokio::test]
async fn an_upstream_is_looked_at_once_in_a_minute_and_another_one_at_once() {
    let (address, asked) = server(|_, _, _| response(405, "application/json", ERROR)).await;
    let (probes, mut proxy) = (probes(), proxy(address));
    let site = site();
    let (one, two) = tokio::join!(probes.upstream(&site, &proxy), probes.upstream(&site, &proxy));
    assert_eq!((one.at, one.seen), (two.at, two.seen));
    let before = asked.load(Ordering::Relaxed);
    probes.upstream(&site, &proxy).await;
    assert_eq!(asked.load(Ordering::Relaxed), before);
    proxy.resource_endpoint = Some("/other".parse().expect("a path"));
    probes.upstream(&site, &proxy).await;
    assert!(asked.load(Ordering::Relaxed) > before);
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    proxy.target_url = format!("http://{gone}").parse().expect("a target");
    let away = probes.upstream(&site, &proxy).await;
    assert_eq!(away.seen, None);
    assert!(away.detail.contains("can't be reached") && away.at.is_some(), "{away:?}");
}

#[tokio::test]
async fn what_has_no_upstream_or_no_name_is_not_asked() {
    let mut proxy = proxy("127.0.0.1:9");
    proxy.target_url = "builtin:echo".parse().expect("a target");
    let found = probes().upstream(&site(), &proxy).await;
    assert_eq!((found.seen, found.at, found.detail.as_str()), (None, None, "its target is built in"));
    proxy.target_url = "http://127.0.0.1:9".parse().expect("a target");
    proxy.proxy_hostname = "*.example.com".parse().expect("a pattern");
    let found = probes().upstream(&site(), &proxy).await;
    assert_eq!((found.seen, found.at), (None, None), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_holds_nobody_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let found =
        tokio::time::timeout(LIMIT * 2, probes().upstream(&site(), &proxy(address))).await.expect("in time");
    assert_eq!(found.seen, None, "{found:?}");
    drop(listener);
}
