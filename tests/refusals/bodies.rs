//! Bodies that break their framing, and what hides behind them.

use std::sync::{Arc, Mutex};

use http::Request;
use http_body::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::client::{get, http2, plain, raw, read, until_closed};
use super::support::daemon::Daemon;
use super::support::eventually;
use super::support::handmade::streamed;
use super::{GOOD, metric, statuses};

/// An upstream that keeps the bytes of each connection and answers when a request looks whole.
struct Recorder {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(record(stream, Arc::clone(&all)));
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Notes what came when the connection ends, or when the last chunk is there.
async fn record(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).await.unwrap_or(0);
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let last = body.starts_with("0\r\n") || body.contains("\r\n0\r\n");
        let whole = text.contains("\r\n\r\n") && (!chunked || (last && text.ends_with("\r\n\r\n")));
        if count == 0 || whole {
            seen.lock().unwrap().push(text);
            // Fails when nobody waits for it any more.
            let _sent =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            return;
        }
    }
}

async fn start(recorder: &Recorder) -> Daemon {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
    });
    daemon.proxy("open.test", &recorder.url, &json!({}));
    daemon.proxy("who.test", &recorder.url, &json!({ "auth_header_prefix": "X-Who-" }));
    daemon
}

#[tokio::test]
async fn half_a_request_never_looks_whole_to_the_upstream() {
    let recorder = Recorder::start().await;
    let daemon = start(&recorder).await;
    let head = "POST /half HTTP/1.1\r\nHost: open.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for (what, rest, code) in [
        ("a size that is none", "zz\r\nx\r\n0\r\n\r\n", "bad_chunk_size"),
        ("a size with a sign", "+1\r\nx\r\n0\r\n\r\n", "bad_chunk_size"),
        ("a size like in C", "0x1\r\nx\r\n0\r\n\r\n", "bad_chunk_size"),
        ("a size beyond everything", "fffffffffffffffff\r\nx\r\n0\r\n\r\n", "bad_chunk_size"),
        ("no size", "\r\nx\r\n0\r\n\r\n", "bad_chunk_size"),
        ("a bare LF behind a size", "1\nx\r\n0\r\n\r\n", "bare_lf"),
        ("more than the size says", "1\r\nxy\r\n0\r\n\r\n", "bad_chunk_end"),
        ("a bare LF behind the data", "1\r\nx\n0\r\n\r\n", "bare_lf"),
        ("NUL in an extension", "1;a=\0\r\nx\r\n0\r\n\r\n", "bad_chunk_extension"),
        ("a folded trailer", "0\r\nX: a\r\n b\r\n\r\n", "folded_header"),
        ("a trailer without a name", "0\r\n: a\r\n\r\n", "bad_header_name"),
    ] {
        let before = recorder.seen().len();
        let reason = format!("reason=\"{code}\"");
        let counted = metric(&daemon, "refused_requests_total", &reason).await;
        let text = until_closed(daemon.http, format!("{head}{rest}{GOOD}").as_bytes()).await;
        assert_eq!(statuses(&text), [400], "{what}: {text}");
        assert_eq!(metric(&daemon, "refused_requests_total", &reason).await, counted + 1, "{what}");
        // Whether the upstream saw a part of it is a matter of luck; a whole one it never sees.
        let seen = recorder.seen();
        let whole = seen[before.min(seen.len())..].iter().find(|text| text.ends_with("0\r\n\r\n"));
        assert_eq!(whole, None, "{what}");
    }
    // And when the client just goes.
    let mut stream = TcpStream::connect(daemon.http).await.unwrap();
    stream.write_all(head.replace("/half", "/gone").as_bytes()).await.unwrap();
    drop(stream);
    let gone = eventually("the upstream's end", || async {
        recorder.seen().into_iter().find(|text| text.starts_with("POST /gone"))
    })
    .await;
    assert!(!gone.contains("\r\n0\r\n"), "{gone}");
    let short = "POST /short HTTP/1.1\r\nHost: open.test\r\nContent-Length: 50\r\n\r\nhello";
    let mut stream = TcpStream::connect(daemon.http).await.unwrap();
    stream.write_all(short.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = super::support::client::until_quiet(&mut stream).await;
    assert!(statuses(&text).iter().all(|status| *status >= 400), "{text}");
}

#[tokio::test]
async fn trailers_carry_no_identity_and_no_framing() {
    let recorder = Recorder::start().await;
    let daemon = start(&recorder).await;
    let trailers = [
        ("X-Checksum", "1"),
        ("X-Auth-User", "root"),
        ("X_Auth_User", "root"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Authorization", "Bearer x"),
        ("Content-Length", "7"),
        ("Transfer-Encoding", "chunked"),
        ("Host", "evil.test"),
        ("Cookie", "a=1"),
        ("X-Who-User", "root"),
    ];
    let names = trailers.map(|(name, _)| name).join(", ");
    let lines = trailers.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    for host in ["open.test", "who.test"] {
        let request = format!(
            "POST /trailers HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nTrailer: {names}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n{lines}\r\n"
        );
        let text = raw(daemon.http, request.as_bytes()).await;
        assert_eq!(statuses(&text), [200], "{text}");
        let seen = recorder.seen().pop().unwrap();
        let (_, behind) = seen.split_once("hello\r\n0\r\n").unwrap_or_else(|| panic!("{seen}"));
        let mut left: Vec<_> = behind.lines().filter_map(|line| line.split_once(": ")).collect();
        // Only a host with that prefix of its own takes the last one for an identity.
        left.retain(|(name, _)| host == "who.test" || !name.eq_ignore_ascii_case("x-who-user"));
        assert_eq!(left.len(), 1, "{host}: {behind}");
        assert!(left[0].0.eq_ignore_ascii_case("x-checksum"), "{host}: {behind}");
    }
    assert!(
        metric(&daemon, "dropped_headers_total", "reason=\"underscored\"").await >= 2,
        "trailers count, too"
    );
    // Each time all but the checksum, and the host's own prefix, which is known only further inside.
    assert_eq!(metric(&daemon, "dropped_trailers_total", "").await, 16);
}

#[tokio::test]
async fn a_body_of_a_get_arrives_or_the_request_fails() {
    let recorder = Recorder::start().await;
    let daemon = start(&recorder).await;
    let request = "GET /get HTTP/1.1\r\nHost: open.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(statuses(&raw(daemon.http, request.as_bytes()).await), [200]);
    assert!(recorder.seen()[0].contains("hello"), "{:?}", recorder.seen());
    // Over HTTP/2 a body needs no length either.
    let (sender, body) = streamed();
    sender.send(Frame::data("hello".into())).unwrap();
    drop(sender);
    let (mut client, _connection) = http2(daemon.https, "open.test").await;
    let request = Request::get("https://open.test/get-over-http2").body(body).unwrap();
    assert_eq!(read(client.send_request(request).await.unwrap()).await.status, 200);
    let seen = recorder.seen().pop().unwrap();
    assert!(seen.starts_with("GET /get-over-http2 ") && seen.contains("hello"), "{seen}");
    assert_eq!(plain(daemon.http, get("open.test", "/")).await.status, 200);
}
