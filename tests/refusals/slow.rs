//! Clients that send a byte now and then: each is ended by the deadline of what it is about to send.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::support::client::{self, get, handshake};
use super::support::{PATIENCE, eventually};
use super::{HOST, metric, start};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sends the beginning at once, and then a byte every fifth of a second, for as long as anybody takes them. What came
/// back, and how long it took.
async fn drip(stream: impl AsyncRead + AsyncWrite + Unpin, begin: &[u8], bytes: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(begin).await.unwrap();
    let sending = async {
        for byte in bytes.iter().cycle() {
            // Fails when we were cut off.
            if writer.write_all(&[*byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let reading = async {
        // A reset is an end, too.
        let _end = reader.read_to_end(&mut answer).await;
    };
    let ended = async {
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
    };
    timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("still open: {}", begin.escape_ascii()));
    (String::from_utf8_lossy(&answer).into_owned(), begun.elapsed())
}

async fn from(address: &str, to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn a_byte_now_and_then_keeps_no_connection() {
    let (daemon, _upstream) = start(
        |command| {
            command.env("PORTCULLIS_HEAD_TIMEOUT", "1").env("PORTCULLIS_BODY_IDLE_TIMEOUT", "1");
            command.env("PROXY_PROTOCOL_TRUSTED", "127.0.0.3/32");
        },
        json!({}),
    )
    .await;
    let (http, https) = (daemon.http, daemon.https);
    let post = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n");
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
    let sized = format!("{post}Content-Length: 9999\r\n\r\n");
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n");
    // A ClientHello of which most is still to come.
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    // SETTINGS, and HEADERS of 255 bytes on stream 1 of which none has come.
    let frames = [PREFACE, b"\0\0\0\x04\0\0\0\0\0", b"\0\0\xff\x01\x05\0\0\0\x01"].concat();
    // The same with all of HEADERS: POST, https, `/`, the host; and then nothing but DATA of one byte.
    let name = u8::try_from(HOST.len()).unwrap();
    let request = [b"\x83\x87\x84\x41", &[name][..], HOST.as_bytes()].concat();
    let length = u8::try_from(request.len()).unwrap();
    let fields = [&[0, 0, length, 1, 4, 0, 0, 0, 1], &request[..]].concat();
    let body = [PREFACE, b"\0\0\0\x04\0\0\0\0\0", &fields].concat();
    let h2 = || async { handshake(https, HOST, &[b"h2"]).await.unwrap() };
    let h1 = || async { handshake(https, HOST, &[b"http/1.1"]).await.unwrap() };
    let tcp = |to| async move { TcpStream::connect(to).await.unwrap() };
    let outcomes = tokio::join!(
        async { ("head", drip(tcp(http).await, b"", head.as_bytes()).await) },
        async { ("head over TLS", drip(h1().await, b"", head.as_bytes()).await) },
        async { ("chunked body", drip(tcp(http).await, chunked.as_bytes(), b"1\r\nx\r\n").await) },
        async { ("sized body", drip(tcp(http).await, sized.as_bytes(), b"x").await) },
        async { ("ClientHello", drip(tcp(https).await, hello, b"\x01").await) },
        async { ("PROXY header", drip(from("127.0.0.3:0", http).await, b"", b"PROXY TCP4 ").await) },
        async {
            (
                "PROXY header, binary",
                drip(from("127.0.0.3:0", https).await, b"", b"\r\n\r\n\0\r\nQUIT\n").await,
            )
        },
        async { ("preface", drip(h2().await, b"", PREFACE).await) },
        async { ("frame", drip(h2().await, &frames, b"\x40\x01x\x01y").await) },
        async { ("stream", drip_stream(h2().await, &body).await) },
    );
    let (a, b, c, d, e, f, g, h, i, j) = outcomes;
    for (what, (answer, took)) in [a, b, c, d, e, f, g, h, i, j] {
        // A second by a coarse clock; two for the client to notice, and a busy machine.
        assert!(took >= Duration::from_millis(500), "{what} ended after {took:?}: {answer}");
        assert!(took < Duration::from_secs(15), "{what} went on for {took:?}");
        if what.contains("head") && !what.contains("PROXY") || what.contains("body") {
            assert!(answer.starts_with("HTTP/1.1 408 "), "{what}: {answer}");
        } else {
            assert!(!answer.contains("HTTP/1.1"), "{what}: {answer}");
        }
    }
    for (name, label, least) in [
        ("refused_requests_total", "reason=\"request_timeout\"", 2),
        ("tls_handshakes_total", "result=\"timed_out\"", 1),
        ("proxy_protocol_connections_total", "result=\"timed_out\"", 2),
        ("ended_connections_total", "reason=\"stalled_body\"", 3),
        ("ended_connections_total", "reason=\"silent\"", 2),
    ] {
        eventually(label, || async { (metric(&daemon, name, label).await >= least).then_some(()) }).await;
    }
    assert_eq!(client::plain(http, get(HOST, "/")).await.status, 200);
}

/// Sends DATA of one byte now and then, until the stream is answered.
async fn drip_stream(mut stream: impl AsyncRead + AsyncWrite + Unpin, begin: &[u8]) -> (String, Duration) {
    const HEADERS: u8 = 1;
    let begun = Instant::now();
    stream.write_all(begin).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        while writer.write_all(b"\0\0\x01\0\0\0\0\0\x01x").await.is_ok() && writer.flush().await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    let reading = async {
        let mut head = [0; 9];
        while head[3] != HEADERS {
            reader.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            reader.read_exact(&mut payload).await.unwrap();
        }
    };
    let ended = async {
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
    };
    timeout(PATIENCE, ended).await.expect("an answer to the stream");
    (String::new(), begun.elapsed())
}
