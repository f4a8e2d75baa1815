//! The built-in target `echo`: shows what an upstream would see. For the demo, and for trying routes.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use portcullis_layers::RequestContext;
use portcullis_layers::forward::HeldTunnel;
use serde_json::{Value, json};

use crate::builtin::Streams;

/// How often `/events` says something.
const BEAT: Duration = Duration::from_secs(1);

/// `/ws` echoes WebSocket messages, `/events` streams one event a second, all else answers the request as JSON.
pub(crate) fn router(streams: Streams) -> Router {
    Router::new()
        // Over HTTP/2 a WebSocket begins with CONNECT (RFC 8441).
        .route("/ws", any(websocket))
        .route("/events", get(events))
        .fallback(show)
        .with_state(streams)
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

/// Listed like the tunnels of upstreams, so that it ends like them and is in the log when it has ended.
async fn websocket(
    State(streams): State<Streams>,
    Extension(context): Extension<RequestContext>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let held = streams.tunnels.hold_tunnel(&context, &streams.ticker);
    let on_end = held.on_end();
    let mut response = upgrade.on_upgrade(|socket| echo(socket, held)).into_response();
    response.extensions_mut().insert(on_end);
    response
}

async fn echo(mut socket: WebSocket, mut held: HeldTunnel) {
    loop {
        let message = tokio::select! {
            () = held.closed() => return,
            message = socket.recv() => message,
        };
        let Some(Ok(message)) = message else { return };
        let size = match &message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
            Message::Close(_) => return,
            // Pings are answered by the protocol's implementation.
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        held.moved(size as u64, 0);
        // Whoever takes nothing must not keep it open.
        let sent = tokio::select! {
            () = held.closed() => return,
            sent = socket.send(message) => sent,
        };
        if sent.is_err() {
            return;
        }
        held.moved(0, size as u64);
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
