//! The server that Prometheus asks.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Metrics;
use crate::listen::BREATH;

const PATH: &str = "/metrics";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A few servers scrape; the others wait in the listener's queue.
const MAX_CONNECTIONS: usize = 32;

/// From the first byte of a scrape to its last; Prometheus itself gives up after ten.
const LIMIT: Duration = Duration::from_secs(30);

/// Answers `GET /metrics`, and 404 to everything else, until it is told to stop. One request per
/// connection; there is no access control, so that the listener should be out of clients' reach.
pub async fn serve(listener: TcpListener, metrics: Metrics, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, metrics.clone()));
                }
                Err(error) => {
                    warn!(%error, "can't accept connections for metrics");
                    tokio::time::sleep(BREATH).await;
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, metrics: Metrics) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection for metrics failed"),
        Err(_) => debug!("connection for metrics took too long"),
    }
}

fn answer<B>(request: &Request<B>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let found = request.method() == Method::GET && request.uri().path() == PATH;
    let (status, text) = if found {
        (StatusCode::OK, metrics.render())
    } else {
        (StatusCode::NOT_FOUND, "only GET /metrics is here\n".to_owned())
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}
