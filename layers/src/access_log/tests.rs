use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::body::{Body, BoxError};
use crate::check::Check;
use crate::context::{ClientAddr, Conn, Principal, TunnelEnd};

/// Keeps records as the JSON that they become.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Value>>>);

impl Sink for Kept {
    fn emit(&self, record: &Record<'_>) {
        let mut line = Vec::new();
        record.encode(&mut line);
        self.0.lock().unwrap().push(serde_json::from_slice(&line).unwrap());
    }
}

impl Kept {
    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    fn one(&self) -> Value {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }
}

/// A body of scripted frames and of unknown length.
struct Script(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl Script {
    fn new(frames: impl IntoIterator<Item = Result<&'static str, &'static str>>) -> Self {
        let frames = frames.into_iter();
        Self(
            frames
                .map(|frame| frame.map(|text| Frame::data(Bytes::from(text))).map_err(Into::into))
                .collect(),
        )
    }
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// One request to a service that answers with `answer`.
async fn ask<R: http_body::Body>(
    kept: &Kept,
    request: Request<()>,
    answer: impl FnOnce(Request<()>) -> Response<R>,
) -> Response<LogBody<R, Kept>> {
    let mut answer = Some(answer);
    let service = service_fn(|request| {
        let response = answer.take().expect("asked once")(request);
        async move { Ok::<_, Infallible>(response) }
    });
    AccessLogLayer::new(kept.clone()).layer(service).oneshot(request).await.unwrap()
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

#[tokio::test]
async fn the_record_comes_when_the_body_has_ended() {
    let kept = Kept::default();
    let response = ask(&kept, get("/"), |_| Response::new(Script::new([Ok("abc"), Ok("de")]))).await;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        assert!(kept.all().is_empty());
        frame.unwrap();
    }
    let record = kept.one();
    assert_eq!(record["bytes_sent"], 5);
    assert_eq!(record["client_gone"], Value::Null);
    drop(body);
    assert_eq!(kept.all().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_dropped_early_says_that_the_client_left() {
    let kept = Kept::default();
    let response = ask(&kept, get("/"), |_| Response::new(Script::new([Ok("abc"), Ok("de")]))).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let record = kept.one();
    assert_eq!((&record["client_gone"], &record["bytes_sent"]), (&json!(true), &json!(3)));
    assert_eq!(record["status_code"], 200);
}

#[tokio::test]
async fn a_body_that_was_handed_over_in_full_may_be_dropped() {
    // As servers do with a known length: after the last byte nobody asks for the end.
    for headers in [false, true] {
        let kept = Kept::default();
        let response = ask(&kept, get("/"), |_| {
            let body = Body::new(Script::new([Ok("abc")]));
            let response = Response::builder();
            let response = if headers { response.header(header::CONTENT_LENGTH, 3) } else { response };
            response.body(if headers { body } else { Body::from("abc") }).unwrap()
        })
        .await;
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(kept.one()["client_gone"], Value::Null, "{headers}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_complete() {
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 200)]
    {
        let kept = Kept::default();
        let request = Request::builder().method(method.clone()).uri("/").body(()).unwrap();
        let empty = method == Method::GET && status == 200;
        let response = ask(&kept, request, |_| {
            let body = if empty { Body::empty() } else { Body::new(Script::new([Ok("never sent")])) };
            Response::builder().status(status).body(body).unwrap()
        })
        .await;
        drop(response);
        let record = kept.one();
        assert_eq!(
            (&record["client_gone"], &record["status_code"]),
            (&Value::Null, &json!(status)),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_body_that_fails_is_marked_with_its_cause() {
    let kept = Kept::default();
    let response =
        ask(&kept, get("/"), |_| Response::new(Script::new([Ok("abc"), Err("upstream reset")]))).await;
    assert!(response.into_body().collect().await.is_err());
    let record = kept.one();
    assert_eq!(record["body_failed"], true);
    assert_eq!(record["error"], "upstream reset");
    assert_eq!(record["client_gone"], Value::Null);
}

#[tokio::test]
async fn the_body_keeps_its_size_and_its_end() {
    let kept = Kept::default();
    let response = ask(&kept, get("/"), |_| Response::new(Body::from("abc"))).await;
    assert_eq!(response.body().size_hint().exact(), SizeHint::with_exact(3).exact());
    assert!(!response.body().is_end_stream());
    let response = ask(&kept, get("/"), |_| Response::new(Body::empty())).await;
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_answer_is_499() {
    let kept = Kept::default();
    let service = AccessLogLayer::new(kept.clone()).layer(service_fn(async |_: Request<()>| {
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    }));
    assert!(tokio::time::timeout(Duration::from_secs(2), service.oneshot(get("/slow"))).await.is_err());
    let record = kept.one();
    assert_eq!((&record["status_code"], &record["client_gone"]), (&json!(499), &json!(true)));
    assert_eq!(record["response_time_ms"], 2000.0);
    assert_eq!(record["first_byte_ms"], Value::Null);
}

#[tokio::test]
async fn a_service_that_fails_is_500() {
    let kept = Kept::default();
    let service = AccessLogLayer::new(kept.clone())
        .layer(service_fn(async |_: Request<()>| Err::<Response<Body>, _>("broken")));
    assert_eq!(service.oneshot(get("/")).await.unwrap_err(), "broken");
    let record = kept.one();
    assert_eq!((&record["status_code"], &record["error_type"]), (&json!(500), &json!("service_failed")));
}

#[tokio::test]
async fn a_tunnel_is_noted_when_it_ends() {
    let kept = Kept::default();
    let tunnel = OnTunnelEnd::default();
    let response = ask(&kept, get("/ws"), |_| {
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.extensions_mut().insert(tunnel.clone());
        response
    })
    .await;
    drop(response);
    assert!(kept.all().is_empty());
    tunnel.end(TunnelEnd { received: 7, sent: 9 });
    let record = kept.one();
    assert_eq!(record["tunnel"], true);
    assert_eq!((&record["bytes_received"], &record["bytes_sent"]), (&json!(7), &json!(9)));
    assert_eq!(record["status_code"], 101);
}

#[tokio::test]
async fn a_tunnel_that_never_ends_is_noted_when_it_is_forgotten() {
    let kept = Kept::default();
    let response = ask(&kept, get("/ws"), |_| {
        let mut response = Response::new(Empty::<Bytes>::new());
        response.extensions_mut().insert(OnTunnelEnd::default());
        response
    })
    .await;
    drop(response);
    assert_eq!(kept.one()["tunnel"], true);
}

#[tokio::test(start_paused = true)]
async fn what_inner_layers_learned_is_in_the_record() {
    let kept = Kept::default();
    let peer = "10.0.0.1:5000".parse().unwrap();
    let mut request = get("/p?token=s3cret");
    request.headers_mut().insert("x-request-id", "theirs".parse().unwrap());
    request.headers_mut().insert(header::HOST, "app.example.com".parse().unwrap());
    RequestContext::of(request.extensions_mut()).conn =
        Some(Arc::new(Conn::new("10.0.0.2:443".parse().unwrap(), peer, ClientAddr(peer), None)));
    let service = service_fn(async |mut request: Request<()>| {
        let context = RequestContext::of(request.extensions_mut());
        let facts = context.facts.clone().expect("the access log made it");
        facts.client.set(ClientAddr("192.0.2.7:0".parse().unwrap())).unwrap();
        facts.route.set("api".into()).unwrap();
        facts.principal.set(Arc::new(Principal { subject: "1".into(), ..Principal::default() })).unwrap();
        facts.code.set("insufficient_scope").unwrap();
        facts.check.set(Check::Scope).unwrap();
        facts.about.set("guarded.example.com".parse().unwrap()).unwrap();
        facts.upstream.set("http://up".into()).unwrap();
        facts.set_upstream_time(Duration::from_millis(3));
        facts.received.store(11, std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(40)).await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let response = AccessLogLayer::new(kept.clone()).layer(service).oneshot(request).await.unwrap();
    let id = response.headers()["x-correlation-id"].clone();
    drop(response);
    let record = kept.one();
    for (field, expected) in [
        ("trace_id", json!(id.to_str().unwrap())),
        ("client_request_id", json!("theirs")),
        ("client_ip", json!("192.0.2.7")),
        ("peer_ip", json!("10.0.0.1")),
        ("proxy_hostname", json!("app.example.com")),
        ("request_query", json!("token=[redacted]")),
        ("route_id", json!("api")),
        ("auth_user", json!("1")),
        ("error_type", json!("insufficient_scope")),
        ("auth_check", json!("scope_check")),
        ("auth_hostname", json!("guarded.example.com")),
        ("backend_url", json!("http://up")),
        ("upstream_ms", json!(3.0)),
        ("bytes_received", json!(11)),
    ] {
        assert_eq!(record[field], expected, "{field}");
    }
    assert!(record["first_byte_ms"].as_f64().unwrap() >= 40.0);
}

#[tokio::test]
async fn the_header_with_the_id_is_a_setting() {
    let service = || service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let name = HeaderName::from_static("x-id");
    let layer = AccessLogLayer::new(()).response_header(Some(name.clone()));
    let response = layer.layer(service()).oneshot(get("/")).await.unwrap();
    assert_eq!(response.headers()[name].len(), 32);
    let layer = AccessLogLayer::new(()).response_header(None);
    let response = layer.layer(service()).oneshot(get("/")).await.unwrap();
    assert!(response.headers().is_empty());
}

#[tokio::test]
async fn an_id_that_was_assigned_outside_is_kept() {
    let kept = Kept::default();
    let mut request = get("/");
    RequestContext::of(request.extensions_mut()).id = Some(crate::RequestId(1, 2));
    drop(ask(&kept, request, |_| Response::new(Body::empty())).await);
    assert_eq!(kept.one()["trace_id"], crate::RequestId(1, 2).to_string());
}

#[tokio::test]
async fn a_panic_below_is_500() {
    let kept = Kept::default();
    let service = AccessLogLayer::new(kept.clone()).layer(service_fn(
        async |_: Request<()>| -> Result<Response<Body>, Infallible> { panic!("by the test") },
    ));
    assert!(tokio::spawn(service.oneshot(get("/"))).await.is_err());
    let record = kept.one();
    assert_eq!((&record["status_code"], &record["error_type"]), (&json!(500), &json!("panicked")));
}
