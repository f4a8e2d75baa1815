//! A served connection and raw clients for it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use portcullis_layers::accept::Accepted;
use portcullis_layers::body::{Body, BoxError, RequestBodyError};
use portcullis_layers::context::{CertNames, TlsInfo};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::drain::Drain;
use portcullis_layers::serve::{Counters, ServeLayer, Settings};
use portcullis_layers::{Rejection, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream};
use tokio::task::JoinHandle;
use tower::{Layer, Service};

/// Longer than anything that is waited for on a real clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Served {
    pub(crate) counters: Arc<Counters>,
    pub(crate) drain: Drain,
    pub(crate) connection: JoinHandle<Result<(), BoxError>>,
}

/// Serves one connection over any I/O.
pub(crate) fn serve_on<I, S, F>(io: I, alpn: Option<&'static str>, settings: Settings, service: S) -> Served
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request, Response = Response, Error = BoxError, Future = F> + Clone + Send + 'static,
    F: Future<Output = Result<Response, BoxError>> + Send + 'static,
{
    let drain = Drain::new();
    let layer = ServeLayer::new(settings, Ticker::new(1), drain.clone());
    let addr = SocketAddr::from(([192, 0, 2, 1], 4711));
    let mut accepted = Accepted::new(io, addr, addr);
    accepted.tls = alpn.map(|alpn| TlsInfo {
        version: "TLSv1.3",
        sni: None,
        alpn: Some(alpn),
        names: CertNames::default(),
    });
    let connection = drain.spawn(layer.layer(service).call(accepted));
    Served { counters: layer.counters(), drain, connection }
}

/// Serves one end of a pipe and returns the other.
pub(crate) fn serve<S, F>(
    alpn: Option<&'static str>,
    settings: Settings,
    service: S,
) -> (DuplexStream, Served)
where
    S: Service<Request, Response = Response, Error = BoxError, Future = F> + Clone + Send + 'static,
    F: Future<Output = Result<Response, BoxError>> + Send + 'static,
{
    let (client, server) = tokio::io::duplex(64 * 1024);
    (client, serve_on(server, alpn, settings, service))
}

/// What reached the service.
pub(crate) type Seen = Arc<Mutex<Vec<String>>>;

/// Notes method, target, body and trailers, and answers `METHOD target: body`, or what the error
/// of the body means.
pub(crate) fn echo(
    seen: &Seen,
) -> impl Service<Request, Response = Response, Error = BoxError, Future: Send> + Clone + Send + 'static + use<>
{
    let seen = seen.clone();
    tower::service_fn(move |request: Request| {
        let seen = seen.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let collected = match request.into_body().collect().await {
                Ok(collected) => collected,
                Err(error) => {
                    seen.lock().expect("no test panicked").push(format!("{line}: {error}"));
                    let rejection = RequestBodyError::find(&*error).expect("the client's fault").rejection();
                    return Ok(answer(&rejection));
                }
            };
            let trailers: String = collected
                .trailers()
                .map(|trailers| trailers.keys().map(|name| format!(" +{name}")).collect())
                .unwrap_or_default();
            let text = format!("{line}: {}{trailers}", String::from_utf8_lossy(&collected.to_bytes()));
            seen.lock().expect("no test panicked").push(text.clone());
            Ok(Response::new(Body::from(text)))
        }
    })
}

pub(crate) fn answer(rejection: &Rejection) -> Response {
    let mut response = Response::new(Body::from(rejection.code()));
    *response.status_mut() = rejection.status();
    response
}

/// A body that never ends.
struct Endless {
    taken: Arc<AtomicUsize>,
    piece: Bytes,
}

/// Answers everything with a body of such pieces that never ends, and counts what was taken of it.
pub(crate) fn endless(
    taken: &Arc<AtomicUsize>,
    piece: usize,
) -> impl Service<Request, Response = Response, Error = BoxError, Future: Send> + Clone + Send + 'static + use<>
{
    let (taken, piece) = (taken.clone(), Bytes::from(vec![b'x'; piece]));
    tower::service_fn(move |_: Request| {
        let body = Endless { taken: taken.clone(), piece: piece.clone() };
        async { Ok::<_, BoxError>(Response::new(Body::new(body))) }
    })
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.taken.fetch_add(self.piece.len(), Ordering::Relaxed);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(self.piece.clone()))))
    }
}

/// Everything until the connection closes. A reset counts as an error.
pub(crate) async fn read_all(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE * 1000, io.read_to_end(&mut bytes)).await.expect("in time").expect("reads");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until the text ends so.
pub(crate) async fn read_until(io: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        match tokio::time::timeout(PATIENCE * 1000, io.read_u8()).await {
            Ok(Ok(byte)) => bytes.push(byte),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The statuses in a stream of responses.
pub(crate) fn statuses(text: &str) -> Vec<StatusCode> {
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}
