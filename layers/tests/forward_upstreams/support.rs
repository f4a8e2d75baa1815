//! Upstreams, a proxy in front of them, and what tests say to them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Client, Forward, PoolSettings, Target, Timeouts, Tunnels};
use portcullis_layers::{Body, BoxError, Rejection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) type UpstreamBody = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type UpstreamResponse = Response<UpstreamBody>;

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An address that nobody listens on.
pub(crate) async fn nobody() -> SocketAddr {
    listen().await.1
}

pub(crate) fn full(text: impl Into<Bytes>) -> UpstreamBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Runs hyper over a connection, as an upstream.
pub(crate) async fn serve_http<I, F, Fut>(io: I, h2: bool, answer: F)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = UpstreamResponse> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer.clone()(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(io);
    // How an upstream's connection ends is for the test to see from the other side.
    let _ended = if h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
    };
}

/// An upstream that answers every request with `answer`; counts its connections.
pub(crate) async fn upstream<F, Fut>(h2: bool, answer: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = UpstreamResponse> + Send + 'static,
{
    let (listener, address) = listen().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_http(tcp, h2, answer.clone()));
        }
    });
    (address, connections)
}

/// An upstream whose connections are played by `script`, which learns how many came before.
pub(crate) async fn scripted<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(script(count, tcp));
            count += 1;
        }
    });
    address
}

/// The same with something that all connections share.
pub(crate) async fn scripted_with<T, F, Fut>(shared: &T, script: F) -> SocketAddr
where
    T: Clone + Send + 'static,
    F: Fn(T, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let shared = shared.clone();
    scripted(move |_, tcp| script(shared.clone(), tcp)).await
}

/// Reads up to the empty line.
pub(crate) async fn read_head<I: AsyncRead + Unpin>(io: &mut I) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("ASCII").to_lowercase()
}

pub(crate) async fn say<I: AsyncWrite + Unpin>(io: &mut I, text: &str) {
    io.write_all(text.as_bytes()).await.expect("the other side reads");
}

/// An upstream that reads and never says a word.
pub(crate) async fn silent() -> SocketAddr {
    scripted(|_, mut tcp| async move {
        let mut rest = Vec::new();
        let _gone = tcp.read_to_end(&mut rest).await;
    })
    .await
}

pub(crate) fn target(address: SocketAddr) -> Target {
    Target::new(format!("http://{address}").parse().expect("valid"))
}

pub(crate) fn short(target: &mut Target) {
    target.timeouts = Timeouts {
        connect: Duration::from_millis(200),
        head: Duration::from_millis(300),
        body_idle: Some(Duration::from_millis(300)),
    };
}

pub(crate) struct Proxy {
    pub(crate) forward: Forward,
    pub(crate) client: Client,
    pub(crate) host: CancellationToken,
}

pub(crate) fn proxy(target: Target) -> Proxy {
    proxy_with(target, PoolSettings::default())
}

pub(crate) fn proxy_with(target: Target, settings: PoolSettings) -> Proxy {
    let client = Client::new(1, Ticker::new(1), Tunnels::new(1), settings);
    let host = CancellationToken::new();
    let forward = Forward::new(&client, target, host.clone()).expect("a valid target");
    Proxy { forward, client, host }
}

impl Proxy {
    /// A GET, answered with status and body.
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        self.text(http::Request::get(path).body(Body::empty()).expect("valid")).await
    }

    /// The answer's status and body; of a rejection the code.
    pub(crate) async fn text(&self, mut request: http::Request<Body>) -> (StatusCode, String) {
        request.headers_mut().entry("host").or_insert(HeaderValue::from_static("app.example"));
        match self.forward.send(request).await {
            Ok(response) => {
                let status = response.status();
                let body = response.into_body().collect().await.expect("a whole body").to_bytes();
                (status, String::from_utf8(body.into()).expect("text"))
            }
            Err(error) => {
                let rejection = error.downcast::<Rejection>().expect("every error is a rejection");
                (rejection.status(), rejection.code().to_owned())
            }
        }
    }

    /// Serves the leaf on a socket, as the edge would.
    pub(crate) async fn front(&self, h2: bool) -> SocketAddr {
        let (listener, address) = listen().await;
        let leaf = self.forward.clone().into_service();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let leaf = leaf.clone();
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let answer = leaf.call(request.map(Body::from));
                    async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(refusal)) }
                });
                tokio::spawn(async move {
                    let io = TokioIo::new(tcp);
                    let _ended = if h2 {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .enable_connect_protocol()
                            .serve_connection(io, service)
                            .await
                    } else {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .with_upgrades()
                            .await
                    };
                });
            }
        });
        address
    }
}

fn refusal(error: BoxError) -> Response<Body> {
    let rejection = error.downcast::<Rejection>().expect("every error is a rejection");
    let mut response = Response::new(Body::from(rejection.code()));
    *response.status_mut() = rejection.status();
    response
}

/// Fails the test when something takes too long to be still on its way.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen"),
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
