//! Several upstreams behind one leaf: who is asked, who is asked instead, and who is left alone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use portcullis_layers::Body;
use portcullis_layers::forward::{
    Balancing, Checker, HealthCheck, PassiveHealth, Policy, Retries, Target, UpstreamState, UpstreamStatus,
};
use tokio_util::sync::CancellationToken;

use crate::support::*;

fn targets(addresses: &[SocketAddr], balancing: Balancing) -> Target {
    let mut all = target(addresses[0]);
    all.upstreams =
        addresses.iter().map(|address| format!("http://{address}").parse().expect("valid")).collect();
    all.balancing = Balancing { observed: true, ..balancing };
    all
}

fn round_robin() -> Balancing {
    Balancing { policy: Policy::RoundRobin, ..Balancing::default() }
}

/// An upstream that says its name.
async fn named(name: &'static str) -> SocketAddr {
    upstream(false, move |_| async move { full(name).into_response() }).await.0
}

trait IntoResponse {
    fn into_response(self) -> UpstreamResponse;
}

impl IntoResponse for UpstreamBody {
    fn into_response(self) -> UpstreamResponse {
        http::Response::new(self)
    }
}

/// An upstream whose status and whose count of requests the test has in hand.
async fn counted(status: u16) -> (SocketAddr, Arc<AtomicU16>, Arc<AtomicUsize>) {
    let (status, count) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
    let (says, counts) = (Arc::clone(&status), Arc::clone(&count));
    let (address, _) = upstream(false, move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        let mut response = full("counted").into_response();
        *response.status_mut() = StatusCode::from_u16(says.load(Ordering::SeqCst)).expect("valid");
        async move { response }
    })
    .await;
    (address, status, count)
}

fn status(proxy: &Proxy, target: &Target, index: usize) -> UpstreamStatus {
    proxy
        .client
        .upstream_status(&target.upstreams[index], target.balancing.check.as_ref())
        .expect("it is there")
}

async fn state_becomes(proxy: &Proxy, target: &Target, index: usize, state: UpstreamState) {
    until(state.as_str(), || status(proxy, target, index).state == state).await;
}

#[tokio::test]
async fn requests_are_spread_by_weight() {
    let mut target = targets(&[named("a").await, named("b").await], round_robin());
    target.upstreams[0].weight = 3;
    let proxy = proxy(target.clone());
    let mut seen = String::new();
    for _ in 0..8 {
        seen.push_str(&proxy.get("/").await.1);
    }
    assert_eq!(seen.matches('a').count(), 6, "{seen}");
    let counts = status(&proxy, &target, 0).counts.expect("it is one of several");
    assert_eq!((counts.requests, counts.in_flight, counts.failures), (6, 0, 0));
}

#[tokio::test]
async fn a_request_is_on_its_way_until_the_last_byte_of_its_answer() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let slow = scripted_with(&receiver, |receiver, mut tcp| async move {
        let receiver = receiver.lock().expect("a lock").take();
        read_head(&mut tcp).await;
        say(&mut tcp, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await;
        if let Some(receiver) = receiver {
            let _told = receiver.await;
        }
        say(&mut tcp, "b").await;
    })
    .await;
    let balancing = Balancing { policy: Policy::LeastConnections, ..Balancing::default() };
    let target = targets(&[slow, named("quick").await], balancing);
    let proxy = proxy(target.clone());
    let request = http::Request::get("/").header("host", "a").body(Body::empty()).expect("valid");
    let response = proxy.forward.send(request).await.expect("its head is here");
    assert_eq!(status(&proxy, &target, 0).counts.expect("counted").in_flight, 1);
    assert_eq!(proxy.get("/").await.1, "quick");
    assert_eq!(proxy.get("/").await.1, "quick");
    sender.send(()).expect("it waits");
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    assert_eq!(body, "ab");
    assert_eq!(status(&proxy, &target, 0).counts.expect("counted").in_flight, 0);
}

/// Takes a connection, reads a request and closes.
async fn closing() -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let address = scripted_with(&count, |count, mut tcp| async move {
        read_head(&mut tcp).await;
        count.fetch_add(1, Ordering::SeqCst);
    })
    .await;
    (address, count)
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_to_another_upstream() {
    let (closing, heard) = closing().await;
    let target = targets(&[closing, named("well").await], Balancing::default());
    let proxy = proxy(target.clone());
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let request = http::Request::builder().method(method).uri("/").body(Body::empty()).expect("valid");
        assert_eq!(proxy.text(request).await, (StatusCode::OK, "well".to_owned()));
    }
    assert_eq!(heard.load(Ordering::SeqCst), 3);
    assert_eq!(proxy.client.retries().sent(), 3);
    // What may not: a POST, and what has a body.
    for (method, body) in [(Method::POST, ""), (Method::POST, "x"), (Method::PUT, "x")] {
        let request = http::Request::builder().method(method).uri("/").body(Body::from(body)).expect("valid");
        assert_eq!(proxy.text(request).await, (StatusCode::BAD_GATEWAY, "upstream_closed".to_owned()));
    }
    assert_eq!((heard.load(Ordering::SeqCst), proxy.client.retries().sent()), (6, 3));
    let status = status(&proxy, &target, 0);
    assert_eq!(status.counts.expect("counted").failures, 6);
    assert!(status.last_failure.expect("noted").1.contains("closed the connection"));
}

#[tokio::test]
async fn what_never_left_goes_elsewhere_with_its_body() {
    let target = targets(&[nobody().await, named("well").await], Balancing::default());
    let proxy = proxy(target.clone());
    let request = http::Request::post("/").body(Body::from("a body")).expect("valid");
    assert_eq!(proxy.text(request).await, (StatusCode::OK, "well".to_owned()));
    assert_eq!(status(&proxy, &target, 0).state, UpstreamState::Unreachable);
    assert_eq!(proxy.get("/").await.1, "well");
    assert_eq!(proxy.client.retries().sent(), 1, "nobody is asked first any more");
}

#[tokio::test]
async fn a_bad_answer_is_as_good_as_none_where_that_is_said() {
    let ((bad, says, heard), well) = (counted(503).await, named("well").await);
    let answers = Balancing {
        retries: Retries { statuses: vec![502, 503, 504], ..Retries::default() },
        ..Balancing::default()
    };
    let proxy_of = |balancing: Balancing| proxy(targets(&[bad, well], balancing));
    let usual = proxy_of(Balancing::default());
    assert_eq!(usual.get("/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let again = proxy_of(answers.clone());
    assert_eq!(again.get("/x").await, (StatusCode::OK, "well".to_owned()));
    let post = || http::Request::post("/").body(Body::from("x")).expect("valid");
    assert_eq!(again.text(post()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    says.store(500, Ordering::SeqCst);
    assert_eq!(again.get("/").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    says.store(504, Ordering::SeqCst);
    // There is nobody else, or nothing left: the answer is passed on.
    for retries in [
        Retries { attempts: Some(0), ..answers.retries.clone() },
        Retries { percent: 0, per_second: 0, ..answers.retries.clone() },
    ] {
        let never = proxy_of(Balancing { retries, ..Balancing::default() });
        assert_eq!(never.get("/").await, (StatusCode::GATEWAY_TIMEOUT, "counted".to_owned()));
    }
    assert_eq!(heard.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_late_answer_is_not_asked_for_twice() {
    let mut target = targets(&[silent().await, named("well").await], Balancing::default());
    short(&mut target);
    let proxy = proxy(target);
    assert_eq!(proxy.get("/").await, (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout".to_owned()));
    assert_eq!(proxy.client.retries().sent(), 0);
}

#[tokio::test]
async fn an_upstream_that_keeps_failing_is_left_alone() {
    let ((closing, heard), well) = (closing().await, named("well").await);
    let passive = PassiveHealth { consecutive_failures: 2, ..PassiveHealth::default() };
    let balancing = Balancing { passive: Some(passive), ..round_robin() };
    let target = targets(&[closing, well], balancing);
    let proxy = proxy(target.clone());
    for _ in 0..20 {
        assert_eq!(proxy.get("/").await, (StatusCode::OK, "well".to_owned()));
    }
    assert_eq!(heard.load(Ordering::SeqCst), 2);
    let ejected = status(&proxy, &target, 0);
    assert_eq!((ejected.state, ejected.counts.expect("counted").ejections), (UpstreamState::Ejected, 1));
    assert!(ejected.ejected_until.is_some());
}

#[tokio::test]
async fn over_http2_other_upstreams_are_asked_by_the_same_rules() {
    let closing = scripted(|_, tcp| async move { drop(tcp) }).await;
    let (well, _) = upstream(true, |_| async { full("well").into_response() }).await;
    let mut target = targets(&[closing, well], Balancing::default());
    for upstream in &mut target.upstreams {
        upstream.protocol = portcullis_layers::forward::Protocol::Http2;
    }
    let proxy = proxy(target);
    assert_eq!(soon("an answer", proxy.get("/")).await, (StatusCode::OK, "well".to_owned()));
}

fn quick() -> HealthCheck {
    HealthCheck {
        path: Some("/healthz".into()),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        ..HealthCheck::default()
    }
}

fn checked(proxy: &Proxy) -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn(Checker::new(proxy.client.clone()).run(stop.clone()));
    stop
}

/// Answers checks with a status in the test's hand, everything else with its name.
async fn examined(name: &'static str) -> (SocketAddr, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let says = Arc::clone(&health);
    let (address, _) = upstream(false, move |request| {
        let is_check = request.uri().path() == "/healthz" && request.headers()["host"] == "check.test";
        let status = if is_check { says.load(Ordering::SeqCst) } else { 200 };
        let mut response = full(name).into_response();
        *response.status_mut() = StatusCode::from_u16(status).expect("valid");
        async move { response }
    })
    .await;
    (address, health)
}

#[tokio::test]
async fn what_checks_find_decides_who_is_asked() {
    let ((a, a_health), (b, _)) = (examined("a").await, examined("b").await);
    let check = HealthCheck { host: Some("check.test".into()), statuses: vec![(200, 299)], ..quick() };
    let target = targets(&[a, b], Balancing { check: Some(check), ..Balancing::default() });
    let proxy = proxy(target.clone());
    assert_eq!(status(&proxy, &target, 0).state, UpstreamState::Unknown);
    assert_eq!(proxy.get("/").await.1, "a", "nothing is known against it");
    let _stop = checked(&proxy).drop_guard();
    state_becomes(&proxy, &target, 0, UpstreamState::Healthy).await;
    for bad in [503, 301, 404] {
        a_health.store(bad, Ordering::SeqCst);
        state_becomes(&proxy, &target, 0, UpstreamState::Unhealthy).await;
        assert_eq!(proxy.get("/").await.1, "b");
        let check = status(&proxy, &target, 0).check.expect("it is checked");
        assert!(check.error.is_some_and(|error| error.contains(&bad.to_string())) && check.next.is_some());
        a_health.store(204, Ordering::SeqCst);
        state_becomes(&proxy, &target, 0, UpstreamState::Healthy).await;
        assert_eq!(proxy.get("/").await.1, "a");
    }
}

#[tokio::test]
async fn a_check_without_a_path_wants_a_connection_only() {
    let (silent, gone) = (silent().await, nobody().await);
    let check = HealthCheck { path: None, ..quick() };
    let target = targets(&[gone, silent], Balancing { check: Some(check), ..Balancing::default() });
    let proxy = proxy(target.clone());
    let _stop = checked(&proxy).drop_guard();
    state_becomes(&proxy, &target, 0, UpstreamState::Unhealthy).await;
    state_becomes(&proxy, &target, 1, UpstreamState::Healthy).await;
    assert!(status(&proxy, &target, 0).check.and_then(|check| check.error).expect("why").contains("refused"));
}

#[tokio::test]
async fn while_all_are_unhealthy_all_are_asked_or_nobody() {
    let (address, health) = examined("a").await;
    health.store(500, Ordering::SeqCst);
    let check = HealthCheck { host: Some("check.test".into()), ..quick() };
    for fail in [false, true] {
        let balancing =
            Balancing { check: Some(check.clone()), fail_when_all_unhealthy: fail, ..Balancing::default() };
        let target = targets(&[address], balancing);
        let proxy = proxy(target.clone());
        let _stop = checked(&proxy).drop_guard();
        state_becomes(&proxy, &target, 0, UpstreamState::Unhealthy).await;
        let expected = if fail {
            (StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream".to_owned())
        } else {
            (StatusCode::OK, "a".to_owned())
        };
        assert_eq!(proxy.get("/").await, expected);
    }
}

#[tokio::test]
async fn one_that_has_to_prove_itself_gets_nothing_before() {
    let ((a, a_health), b) = (examined("a").await, named("b").await);
    a_health.store(500, Ordering::SeqCst);
    let check = HealthCheck { host: Some("check.test".into()), initially_healthy: false, ..quick() };
    let balancing = Balancing { check: Some(check), fail_when_all_unhealthy: true, ..Balancing::default() };
    let target = targets(&[a, b], balancing);
    let proxy = proxy(target.clone());
    assert_eq!(proxy.get("/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let _stop = checked(&proxy).drop_guard();
    state_becomes(&proxy, &target, 1, UpstreamState::Healthy).await;
    assert_eq!(proxy.get("/").await.1, "b");
    a_health.store(200, Ordering::SeqCst);
    state_becomes(&proxy, &target, 0, UpstreamState::Healthy).await;
    assert_eq!(proxy.get("/").await.1, "a");
}

#[tokio::test]
async fn checks_end_with_the_last_target_that_wants_them() {
    let (address, asked) = {
        let (address, _, asked) = counted(200).await;
        (address, asked)
    };
    let target = targets(&[address], Balancing { check: Some(quick()), ..Balancing::default() });
    let first = proxy(target.clone());
    let _stop = checked(&first).drop_guard();
    state_becomes(&first, &target, 0, UpstreamState::Healthy).await;
    // A reload: the same target, built once more, finds what was known.
    let second =
        portcullis_layers::forward::Forward::new(&first.client, target.clone(), CancellationToken::new());
    let client = first.client.clone();
    drop(first);
    let state = client.upstream_status(&target.upstreams[0], target.balancing.check.as_ref());
    assert_eq!(state.expect("it is kept").state, UpstreamState::Healthy);
    drop(second);
    until("the end", || client.upstream_status(&target.upstreams[0], None).is_none()).await;
    let after = asked.load(Ordering::SeqCst);
    // Longer than the interval, with somebody else's check in between.
    let (other, _, others) = counted(200).await;
    let target = targets(&[other], Balancing { check: Some(quick()), ..Balancing::default() });
    let _other = portcullis_layers::forward::Forward::new(&client, target, CancellationToken::new());
    until("checks of another", || others.load(Ordering::SeqCst) > 3).await;
    assert!(asked.load(Ordering::SeqCst) <= after + 1);
}
