//! An upstream that tells what it saw.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get};
use futures_util::{StreamExt, stream};
use serde_json::json;

/// An HTTP server on a free port, ended with the test's runtime.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
}

impl Upstream {
    /// Answers with its name, and everything that it saw of the request.
    pub async fn start(name: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/ws", get(websocket))
            .route("/events", get(events))
            .route("/ticks", get(ticks))
            .route("/{below}/ticks", get(ticks))
            .route("/{below}/ws", get(websocket))
            .route("/slow", any(slow))
            .route("/big", get(big))
            .route("/count", any(count))
            .route("/status/{code}", any(status))
            .fallback(show)
            .with_state(name);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn show(
    State(name): State<&'static str>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let seen = json!({
        "upstream": name,
        "method": method.as_str(),
        "uri": uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    ([("x-upstream", name)], Json(seen)).into_response()
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err()
            {
                return;
            }
        }
    })
}

/// Two events at once, and then nothing for ever: whoever buffers never shows them.
async fn events() -> impl IntoResponse {
    let begin = stream::iter(["one", "two"]).map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    Sse::new(begin.chain(stream::pending()))
}

/// An event every now and then, for ever: the time when it was sent, in milliseconds since 1970.
async fn ticks() -> impl IntoResponse {
    let beat = tokio::time::interval(Duration::from_millis(50));
    Sse::new(stream::unfold(beat, async |mut beat| {
        beat.tick().await;
        let event = Event::default().data(millis_now().to_string());
        Some((Ok::<_, Infallible>(event), beat))
    }))
}

/// Milliseconds since 1970.
pub fn millis_now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// Answers after as many milliseconds as the query says.
async fn slow(uri: Uri) -> &'static str {
    let millis = uri.query().and_then(|query| query.parse().ok()).unwrap_or(1000);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    "slow"
}

/// As many bytes as the query says.
async fn big(uri: Uri) -> Body {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 16 * 1024]);
    let total: usize = uri.query().and_then(|query| query.parse().ok()).unwrap_or(1 << 20);
    let pieces = (0..total.div_ceil(PIECE.len()))
        .map(move |index| Ok::<_, Infallible>(PIECE.slice(..PIECE.len().min(total - index * PIECE.len()))));
    Body::from_stream(stream::iter(pieces))
}

/// How many bytes the body has, which is read piece by piece.
async fn count(body: Body) -> String {
    let mut pieces = body.into_data_stream();
    let mut total = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        total += piece.len();
    }
    total.to_string()
}

async fn status(axum::extract::Path(code): axum::extract::Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}
