//! The built-in target `echo`: shows what an upstream would see. For the demo, and for trying routes.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};

/// How often `/events` says something.
const BEAT: Duration = Duration::from_secs(1);

/// `/ws` echoes WebSocket messages, `/events` streams one event a second, all else answers the request as JSON.
pub(crate) fn router() -> Router {
    Router::new().route("/ws", get(websocket)).route("/events", get(events)).fallback(show)
}

async fn show(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let mut shown = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        shown.insert(name.to_string(), json!(values.join(", ")));
    }
    Json(json!({
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": shown,
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo).into_response()
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let done = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.is_err(),
            Message::Close(_) => true,
            // Pings are answered by the protocol's implementation.
            Message::Ping(_) | Message::Pong(_) => false,
        };
        if done {
            return;
        }
    }
}

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let beats = futures_util::stream::unfold(0_u64, |beat| async move {
        if beat > 0 {
            tokio::time::sleep(BEAT).await;
        }
        Some((beat, beat + 1))
    });
    Sse::new(beats.map(|beat| Ok(Event::default().id(beat.to_string()).data(format!("beat {beat}")))))
        .keep_alive(KeepAlive::default())
}
