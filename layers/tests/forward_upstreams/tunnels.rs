use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_layers::Body;
use portcullis_layers::context::{OnTunnelEnd, Principal, RequestContext, TunnelEnd};
use portcullis_layers::forward::{Client, Forward, PoolSettings, StreamKind, Tunnels};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::*;

/// An upstream that echoes WebSocket messages.
async fn echoing() -> std::net::SocketAddr {
    scripted(|_, tcp| async move {
        if let Ok(mut socket) = tokio_tungstenite::accept_async(tcp).await {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    })
    .await
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    for length in [5, 5_000, 500_000] {
        let message = Message::binary(vec![7; length]);
        socket.send(message.clone()).await.expect("open");
        let answer = soon("an echo", socket.next()).await.expect("open").expect("valid");
        assert_eq!(answer, message);
    }
}

#[tokio::test]
async fn websockets_pass_over_http1() {
    let proxy = proxy(target(echoing().await));
    let front = proxy.front(false).await;
    let tcp = TcpStream::connect(front).await.expect("connect");
    let (mut socket, response) =
        tokio_tungstenite::client_async(format!("ws://{front}/chat"), tcp).await.expect("a handshake");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    converse(&mut socket).await;
    assert_eq!(proxy.client.tunnels().len(), 1);
    socket.close(None).await.expect("open");
    while let Some(Ok(_)) = soon("the end", socket.next()).await {}
    drop(socket);
    until("leaving the list", || proxy.client.tunnels().is_empty()).await;
}

async fn connect_h2(
    front: std::net::SocketAddr,
    protocol: &'static str,
) -> hyper::Result<http::Response<Incoming>> {
    let io = TokioIo::new(TcpStream::connect(front).await.expect("connect"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
    tokio::spawn(connection);
    // The server's settings have to be here first (RFC 8441, section 3).
    sender.ready().await.expect("open");
    let plain = Request::get(format!("http://{front}/")).body(Empty::<bytes::Bytes>::new()).expect("valid");
    let _settings_are_here = sender.send_request(plain).await?;
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(format!("http://{front}/chat"))
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static(protocol))
        .body(Empty::new())
        .expect("valid");
    sender.send_request(request).await
}

#[tokio::test]
async fn websockets_pass_over_http2() {
    let proxy = proxy(target(echoing().await));
    let front = proxy.front(true).await;
    let response = connect_h2(front, "websocket").await.expect("answered");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let io = TokioIo::new(hyper::upgrade::on(response).await.expect("a tunnel"));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    converse(&mut socket).await;
}

#[tokio::test]
async fn other_protocols_over_connect_are_not_understood() {
    let proxy = proxy(target(echoing().await));
    let front = proxy.front(true).await;
    let response = connect_h2(front, "connect-udp").await.expect("answered");
    assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
}

const ASK: &str = "GET / HTTP/1.1\r\nhost: app.example\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";

#[tokio::test]
async fn bytes_that_came_with_the_101_are_not_lost_and_halves_close_alone() {
    let address = scripted(|_, mut tcp| async move {
        let head = read_head(&mut tcp).await;
        assert!(head.contains("upgrade: raw") && head.contains("connection: upgrade"), "{head}");
        say(&mut tcp, &format!("{SWITCH}early")).await;
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.expect("open");
        assert_eq!(all, b"last words");
        say(&mut tcp, " late").await;
    })
    .await;
    let front = proxy(target(address)).front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    say(&mut client, ASK).await;
    assert!(soon("101", read_head(&mut client)).await.starts_with("http/1.1 101"));
    say(&mut client, "last words").await;
    client.shutdown().await.expect("open");
    let mut all = String::new();
    soon("the end", client.read_to_string(&mut all)).await.expect("text");
    assert_eq!(all, "early late");
}

#[tokio::test]
async fn a_handshake_that_is_refused_is_an_ordinary_answer() {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    })
    .await;
    let front = proxy(target(address)).front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    say(&mut client, ASK).await;
    let head = soon("an answer", read_head(&mut client)).await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
}

#[tokio::test]
async fn a_switch_to_another_protocol_is_502() {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, &SWITCH.replace("raw", "other")).await;
    })
    .await;
    let front = proxy(target(address)).front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    say(&mut client, ASK).await;
    let head = soon("an answer", read_head(&mut client)).await;
    assert!(head.starts_with("http/1.1 502"), "{head}");
}

#[tokio::test]
async fn cleartext_http2_is_never_switched_to() {
    let address = scripted(|_, mut tcp| async move {
        let head = read_head(&mut tcp).await;
        assert!(!head.contains("h2c") && !head.contains("http2-settings"), "{head}");
        say(&mut tcp, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let front = proxy(target(address)).front(false).await;
    let mut client = TcpStream::connect(front).await.expect("connect");
    say(
        &mut client,
        "GET / HTTP/1.1\r\nhost: app.example\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    assert!(soon("an answer", read_head(&mut client)).await.starts_with("http/1.1 200"));
}

/// A tunnel through a leaf whose requests are those of a principal; tells how it ended.
async fn tunnel_of(principal: Principal) -> (TcpStream, Tunnels, tokio::sync::oneshot::Receiver<TunnelEnd>) {
    let address = scripted(|_, mut tcp| async move {
        read_head(&mut tcp).await;
        say(&mut tcp, SWITCH).await;
        say(&mut tcp, "hello").await;
        let _gone = tcp.read_u8().await;
    })
    .await;
    let tunnels = Tunnels::new(1);
    let ticker = portcullis_layers::deadline::Ticker::new(1);
    let client = Client::new(1, ticker, tunnels.clone(), PoolSettings::default());
    let host = tokio_util::sync::CancellationToken::new();
    let forward = Forward::new(&client, target(address), host).expect("valid");
    let principal = Arc::new(principal);
    let (sender, ended) = tokio::sync::oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let (listener, front) = listen().await;
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a client");
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (forward, principal, sender) = (forward.clone(), Arc::clone(&principal), Arc::clone(&sender));
            async move {
                let mut request = request.map(Body::from);
                RequestContext::of(request.extensions_mut()).principal = Some(principal);
                let response = forward.send(request).await.expect("a tunnel");
                let on_end = response.extensions().get::<OnTunnelEnd>().expect("it is a tunnel");
                let sender = sender.lock().expect("no panic").take().expect("one request");
                on_end.set(move |end| sender.send(end).expect("the test listens"));
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(tcp), service)
            .with_upgrades()
            .await
            .expect("no error");
    });
    let mut tcp = TcpStream::connect(front).await.expect("connect");
    say(&mut tcp, ASK).await;
    assert!(soon("101", read_head(&mut tcp)).await.starts_with("http/1.1 101"));
    let mut hello = [0; 5];
    tcp.read_exact(&mut hello).await.expect("open");
    (tcp, tunnels, ended)
}

#[tokio::test]
async fn a_revoked_token_closes_its_tunnels_and_their_bytes_are_told() {
    let principal = Principal { token_id: Some("jti-1".into()), ..Principal::default() };
    let (mut tcp, tunnels, ended) = tunnel_of(principal).await;
    let revoked = |id: &'static str| {
        move |stream: &portcullis_layers::forward::LiveStream| {
            assert_eq!(stream.kind, StreamKind::Tunnel);
            stream.principal.as_ref().is_some_and(|principal| principal.token_id.as_deref() == Some(id))
        }
    };
    assert_eq!(tunnels.close_where(revoked("jti-2")), 0);
    assert_eq!(tunnels.close_where(revoked("jti-1")), 1);
    assert_eq!(soon("the end", tcp.read(&mut [0; 1])).await.expect("a clean end"), 0);
    let end = soon("the count", ended).await.expect("told");
    assert_eq!(end, TunnelEnd { received: 0, sent: 5 });
}

#[tokio::test]
async fn an_expired_token_closes_its_tunnel() {
    let (mut tcp, _tunnels, ended) = tunnel_of(Principal { expires_at: 1, ..Principal::default() }).await;
    assert_eq!(soon("the end", tcp.read(&mut [0; 1])).await.expect("a clean end"), 0);
    soon("the count", ended).await.expect("told");
}

#[tokio::test]
async fn the_end_of_the_process_closes_all() {
    let (mut tcp, tunnels, _ended) = tunnel_of(Principal::default()).await;
    tunnels.close_all();
    assert_eq!(soon("the end", tcp.read(&mut [0; 1])).await.expect("a clean end"), 0);
    soon("the last tunnel's end", tunnels.closed()).await;
}
