//! WebSockets, over HTTP/1.1 and HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request};
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::PATIENCE;
use super::client::{http2, open};

/// The client's end of a WebSocket.
pub struct Socket {
    pub stream: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
}

impl Socket {
    async fn of<B>(response: http::Response<B>) -> Self {
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        Self { stream: WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await }
    }

    /// The next message; none when the socket has ended, in whatever way.
    pub async fn next(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a message, or the end");
        next.and_then(Result::ok)
    }

    /// Sends a message and waits for the answer.
    pub async fn echo(&mut self, message: Message) -> Message {
        self.stream.send(message).await.unwrap();
        self.next().await.expect("an echo")
    }
}

/// A handshake (RFC 6455, section 4.1).
pub fn handshake_request(host: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path)
        .header("host", host)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    let request =
        request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    request.body(Full::default()).unwrap()
}

/// The handshake of HTTP/2 (RFC 8441, section 5).
pub fn connect_request(host: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::CONNECT).uri(format!("https://{host}{path}"));
    let request = request.extension(Protocol::from_static("websocket")).header("sec-websocket-version", "13");
    request.body(Full::default()).unwrap()
}

pub async fn over_http1<I>(stream: I, host: &str, path: &str) -> Socket
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    switched(stream, handshake_request(host, path)).await
}

/// A WebSocket by a handshake of the test's own.
pub async fn switched<I>(stream: I, request: Request<Full<Bytes>>) -> Socket
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let response = open(stream, request).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    Socket::of(response).await
}

/// The connection stays open as long as one has the sender or the socket.
pub async fn over_http2(address: SocketAddr, host: &str, path: &str) -> (SendRequest<Full<Bytes>>, Socket) {
    let (sender, _connection) = http2(address, host).await;
    let socket = on_http2(sender.clone(), host, path).await;
    (sender, socket)
}

pub async fn on_http2(sender: SendRequest<Full<Bytes>>, host: &str, path: &str) -> Socket {
    tunnel(sender, connect_request(host, path)).await
}

/// The same by a request of the test's own.
pub async fn tunnel(mut sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Socket {
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    Socket::of(response).await
}
