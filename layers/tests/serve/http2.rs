//! HTTP/2 by raw frames: floods, resets, unread streams, tunnels, orderly ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::support::{self, PATIENCE, Seen, Served, echo, endless, serve};
use portcullis_layers::body::{Body, BoxError};
use portcullis_layers::serve::Settings;
use portcullis_layers::strict::Violation;
use portcullis_layers::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{sleep, timeout};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A literal field without indexing (RFC 7541, section 6.2.2); names and values shorter than 127 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).expect("short");
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// `GET https://a/` and more fields.
fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x84, 0x41, 1, b'a'];
    fields.iter().for_each(|(name, value)| block.extend(field(name, value)));
    block
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

struct Client(DuplexStream);

impl Client {
    async fn connect(settings: &[(u16, u32)], (io, served): (DuplexStream, Served)) -> (Self, Served) {
        let mut client = Self(io);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await;
        (client, served)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("writes");
    }

    /// Fails when the server has closed, or takes nothing any more.
    async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(Duration::from_secs(5), self.0.write_all(bytes)).await?
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        timeout(PATIENCE * 100, self.0.read_exact(&mut head)).await.expect("in time").ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    async fn find(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("closed before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }
}

#[tokio::test]
async fn requests_are_served_and_their_trailers_cleaned() {
    let (mut client, served) =
        Client::connect(&[], serve(Some("h2"), Settings::default(), echo(&Seen::default()))).await;
    let post = [&[0x83, 0x87, 0x84, 0x41, 1, b'a'][..], &field("te", "trailers")].concat();
    client.send(&frame(HEADERS, END_HEADERS, 1, &post)).await;
    client.send(&frame(DATA, 0, 1, b"hi")).await;
    let trailers = [field("x-auth-user", "root"), field("x-sum", "1"), field("content-length", "7")].concat();
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers)).await;
    assert_eq!(client.find(HEADERS).await.payload[0], 0x88, "status 200");
    assert_eq!(client.find(DATA).await.payload, b"POST https://a/: hi +x-sum");
    assert_eq!(served.counters.dropped_trailers.get(), 2);
}

#[tokio::test]
async fn several_equal_lengths_are_refused() {
    let seen = Seen::default();
    let (mut client, served) =
        Client::connect(&[], serve(Some("h2"), Settings::default(), echo(&seen))).await;
    let block = get(&[("content-length", "0"), ("content-length", "0")]);
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    loop {
        // h2 may refuse it before us.
        let frame = client.next().await.expect("an answer");
        if frame.kind == RESET || (frame.kind == HEADERS && frame.payload[0] == 0x8c) {
            break;
        }
    }
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(refused(&served), 1);
}

fn refused(served: &Served) -> u64 {
    served.counters.refused.iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn malformed_requests_are_reset_and_counted() {
    let head = |path: &str, authority: &str, more: &[(&str, &str)]| {
        let pseudo = [(":path", path), (":authority", authority)];
        let fields: Vec<u8> =
            pseudo.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect();
        [&[0x82, 0x87][..], &fields].concat()
    };
    let cases = [
        ("<", head("/a<b>", "a", &[])),
        ("backtick", head("/`", "a", &[])),
        ("a quote in the query", head("/?\"", "a", &[])),
        ("a control character", head("/\u{1}", "a", &[])),
        ("a space", head("/a b", "a", &[])),
        ("no slash", head("a", "a", &[])),
        ("no path", head("", "a", &[])),
        ("a bad authority", head("/", "a<b", &[])),
        ("two colons", head("/", "a:1:2", &[])),
        ("Connection", head("/", "a", &[("connection", "close")])),
        ("Transfer-Encoding", head("/", "a", &[("transfer-encoding", "chunked")])),
        ("TE", head("/", "a", &[("te", "gzip")])),
        ("a capital letter", head("/", "a", &[("X-A", "1")])),
        ("a pseudo field at the end", head("/", "a", &[("x-a", "1"), (":path", "/")])),
        ("two paths", head("/", "a", &[(":path", "/")])),
        ("an unknown pseudo field", head("/", "a", &[(":nothing", "1")])),
        ("a length that is none", head("/", "a", &[("content-length", "x")])),
        ("a length without a body", head("/", "a", &[("content-length", "5")])),
        ("LF in a value", head("/", "a", &[("x-a", "1\n2")])),
        ("a protocol without CONNECT", head("/", "a", &[(":protocol", "websocket")])),
        ("no method", [&[0x87, 0x84][..], &field(":authority", "a")].concat()),
        ("no scheme", [&[0x82, 0x84][..], &field(":authority", "a")].concat()),
    ];
    for (what, block) in cases {
        let seen = Seen::default();
        let (mut client, served) =
            Client::connect(&[], serve(Some("h2"), Settings::default(), echo(&seen))).await;
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        loop {
            let frame = client.next().await.unwrap_or_else(|| panic!("{what}: closed"));
            if matches!(frame.kind, RESET | GOAWAY) {
                let code = frame.payload.len() - 4;
                assert_eq!(frame.payload[code..], [0, 0, 0, 1], "{what}: PROTOCOL_ERROR");
                assert_eq!(refused(&served), u64::from(frame.kind == RESET), "{what}");
                assert_eq!(served.counters.http2_errors.get(), u64::from(frame.kind == GOAWAY), "{what}");
                break;
            }
            assert!(!matches!(frame.kind, HEADERS | DATA), "{what} is answered");
        }
        assert!(seen.lock().unwrap().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_counted() {
    let limit = Settings::default().http2.header_list as usize;
    // What is far too large is refused by h2, before us.
    for (size, ours) in [(limit, true), (2 * limit, false)] {
        let seen = Seen::default();
        let (mut client, served) =
            Client::connect(&[], serve(Some("h2"), Settings::default(), echo(&seen))).await;
        let line = "x".repeat(100);
        let block = get(&vec![("x-a", line.as_str()); size / 130]);
        let (first, rest) = block.split_at(10_000);
        client.send(&frame(HEADERS, END_STREAM, 1, first)).await;
        let (rest, last) = rest.split_at(rest.len() / 2);
        client.send(&frame(CONTINUATION, 0, 1, rest)).await;
        client.send(&frame(CONTINUATION, END_HEADERS, 1, last)).await;
        let answer = client.find(HEADERS).await;
        assert_eq!(answer.payload[0], 0x48, "a status that is in no table");
        if ours {
            let body = client.find(DATA).await.payload;
            assert!(String::from_utf8_lossy(&body).contains(r#""code":"head_too_large""#));
        }
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(served.counters.refused.get(Violation::HeadTooLarge), 1, "{size}");
        assert_eq!(refused(&served), 1, "{size}");
    }
}

#[tokio::test]
async fn a_small_block_that_unfolds_into_a_large_head_is_refused() {
    let seen = Seen::default();
    let (mut client, served) =
        Client::connect(&[], serve(Some("h2"), Settings::default(), echo(&seen))).await;
    // A field of 100 bytes that is put into the table (RFC 7541, section 6.2.1), and ten thousand references
    // to it of a byte each.
    let stored = [&[0x40, 3][..], b"x-a", &[100], &[b'x'; 100]].concat();
    let block = [get(&[]), stored, vec![0xbe; 10_000]].concat();
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let answer = loop {
        let frame = client.next().await.expect("an answer");
        if matches!(frame.kind, HEADERS | RESET | GOAWAY) {
            break frame;
        }
    };
    assert!(answer.kind != HEADERS || answer.payload[0] == 0x48, "a status that is in no table");
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(refused(&served) + served.counters.http2_errors.get(), 1);
}

#[tokio::test]
async fn prior_knowledge_is_an_option_on_plain_connections() {
    let settings = Settings { h2c: true, ..Settings::default() };
    let (mut client, _served) =
        Client::connect(&[], serve(None, settings.clone(), echo(&Seen::default()))).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&[]))).await;
    assert_eq!(client.find(DATA).await.payload, b"GET https://a/: ");

    let (mut client, _served) = serve(None, settings, echo(&Seen::default()));
    client.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("writes");
    support::read_until(&mut client, "PUT /: ").await;
}

#[tokio::test(start_paused = true)]
async fn an_extended_connect_is_a_tunnel_that_may_be_silent() {
    let service = tower::service_fn(|mut request: Request| async move {
        let protocol = request.extensions().get::<hyper::ext::Protocol>().expect("extended CONNECT");
        assert_eq!(protocol.as_str(), "websocket");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = hyper_util::rt::TokioIo::new(upgrade.await.expect("upgrades"));
            let mut bytes = [0; 5];
            while io.read_exact(&mut bytes).await.is_ok() {
                io.write_all(&bytes).await.expect("writes");
                io.flush().await.expect("flushes");
            }
        });
        Ok::<_, BoxError>(Response::new(Body::empty()))
    });
    let settings = Settings {
        http2: portcullis_layers::serve::Http2 { ping: None, ..Default::default() },
        ..Settings::default()
    };
    let (mut client, served) = Client::connect(&[], serve(Some("h2"), settings, service)).await;
    assert!(
        client.find(SETTINGS).await.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]),
        "SETTINGS_ENABLE_CONNECT_PROTOCOL is announced"
    );
    let mut block = field(":method", "CONNECT");
    block.extend([0x87, 0x84, 0x41, 1, b'a']);
    block.extend(field(":protocol", "websocket"));
    client.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
    assert_eq!(client.find(HEADERS).await.payload[0], 0x88);
    for _ in 0..3 {
        sleep(Duration::from_secs(3600)).await;
        client.send(&frame(DATA, 0, 1, b"hello")).await;
        assert_eq!(client.find(DATA).await.payload, b"hello");
    }
    assert!(!served.connection.is_finished());
}

/// Larger than a piece of a stream, as from an upstream with a large read buffer.
const LARGE: usize = 100 * 1024;

#[tokio::test(start_paused = true)]
async fn unread_streams_cost_bounded_memory() {
    let taken = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..4 {
        // Windows as large as they get: only the server's own bounds are left.
        let served = serve(Some("h2"), Settings::default(), endless(&taken, LARGE));
        let (mut client, served) = Client::connect(&[(4, u32::MAX >> 1)], served).await;
        client.send(&frame(WINDOW, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await;
        for stream in 0..100 {
            client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &get(&[]))).await;
        }
        clients.push((client, served));
    }
    sleep(Duration::from_secs(30)).await;
    // The account of 1 MiB, and for each stream a piece and what is left of its last chunk, which
    // the upstream has sent already; and the pipe.
    let each = taken.load(Ordering::Relaxed) / clients.len();
    assert!(each >= 100 * 16 * 1024, "{each} bytes: every stream gets something");
    assert!(each <= 1024 * 1024 + 100 * (100 + 16) * 1024, "{each} bytes for each connection");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_window_stays_shut_is_reset_and_others_go_on() {
    let settings = Settings {
        http2: portcullis_layers::serve::Http2 { ping: None, ..Default::default() },
        ..Settings::default()
    };
    let (mut client, served) =
        Client::connect(&[(4, 0)], serve(Some("h2"), settings, endless(&Arc::default(), LARGE))).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&[]))).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get(&[]))).await;
    client.send(&frame(WINDOW, 0, 3, &10_u32.to_be_bytes())).await;
    for _ in 0..5 {
        sleep(Duration::from_secs(20)).await;
        client.send(&frame(WINDOW, 0, 3, &10_u32.to_be_bytes())).await;
    }
    let reset = client.find(RESET).await;
    assert_eq!(reset.stream, 1);
    assert_eq!(served.counters.stalled_streams.get(), 1);
    client.send(&frame(WINDOW, 0, 3, &10_u32.to_be_bytes())).await;
    loop {
        let frame = client.next().await.expect("the other stream goes on");
        assert_ne!(frame.kind, RESET);
        if frame.kind == DATA && frame.stream == 3 {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_says_goaway_and_ends() {
    let settings = Settings {
        http2: portcullis_layers::serve::Http2 { ping: None, ..Default::default() },
        ..Settings::default()
    };
    let (mut client, served) =
        Client::connect(&[], serve(Some("h2"), settings, echo(&Seen::default()))).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&[]))).await;
    client.find(DATA).await;
    client.find(GOAWAY).await;
    while client.next().await.is_some() {}
    assert_eq!(served.counters.idle.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_says_goaway_and_finishes_streams() {
    let service = tower::service_fn(|_: Request| async {
        sleep(Duration::from_secs(5)).await;
        Ok::<_, BoxError>(Response::new(Body::from("slow")))
    });
    let (mut client, served) = Client::connect(&[], serve(Some("h2"), Settings::default(), service)).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(&[]))).await;
    sleep(Duration::from_secs(1)).await;
    let late = tokio::spawn(served.drain.shutdown(Duration::from_secs(30)));
    client.find(GOAWAY).await;
    loop {
        let frame = client.next().await.expect("the stream is finished");
        match frame.kind {
            PING if frame.flags & 1 == 0 => client.send(&self::frame(PING, 1, 0, &frame.payload)).await,
            DATA => {
                assert_eq!(frame.payload, b"slow");
                break;
            }
            _ => {}
        }
    }
    while client.next().await.is_some() {}
    assert_eq!(late.await.expect("no panic"), 0);
}

/// Sends until the server ends the connection or stops reading; the answers are not read at first,
/// so what it queues for us is bounded, too. Returns how much it took.
async fn flood(client: &mut Client, served: &Served, mut next: impl FnMut(u32) -> Vec<u8>) -> usize {
    let mut sent = 0;
    for round in 0..200_000 {
        let bytes = next(round);
        sent += bytes.len();
        if client.try_send(&bytes).await.is_err() || served.connection.is_finished() {
            return sent;
        }
    }
    panic!("{sent} bytes of a flood were taken");
}

#[tokio::test(start_paused = true)]
async fn floods_are_cut_early() {
    type Round = fn(u32) -> Vec<u8>;
    let floods: [(&str, Round); 6] = [
        ("rapid reset", |round| {
            let stream = 2 * round + 1;
            [frame(HEADERS, END_HEADERS, stream, &get(&[])), frame(RESET, 0, stream, &8_u32.to_be_bytes())]
                .concat()
        }),
        ("continuation", |round| match round {
            0 => frame(HEADERS, 0, 1, &get(&[])),
            _ => frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100))),
        }),
        ("empty continuation", |round| match round {
            0 => frame(HEADERS, 0, 1, &get(&[])),
            _ => frame(CONTINUATION, 0, 1, &[]),
        }),
        ("settings", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("ping", |_| frame(PING, 0, 0, &[0; 8])),
        ("made you reset", |round| {
            let stream = 2 * round + 1;
            [
                frame(HEADERS, END_HEADERS, stream, &get(&[])),
                // A window update of zero is a stream error (RFC 9113, section 6.9).
                frame(WINDOW, 0, stream, &[0; 4]),
            ]
            .concat()
        }),
    ];
    for (name, round) in floods {
        let pending = tower::service_fn(|_: Request| std::future::pending());
        let (mut client, served) =
            Client::connect(&[], serve(Some("h2"), Settings::default(), pending)).await;
        let sent = flood(&mut client, &served, round).await;
        assert!(sent <= 1024 * 1024, "{name}: {sent} bytes");
        // What is cut only because its answers are not read is ended as every write that stalls.
        sleep(Duration::from_secs(70)).await;
        assert!(served.connection.is_finished(), "{name}: the connection is still there");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_row_of_empty_data_frames_keeps_nobody_busy_for_ever() {
    let seen = Seen::default();
    let (mut client, served) =
        Client::connect(&[], serve(Some("h2"), Settings::default(), echo(&seen))).await;
    client.send(&frame(HEADERS, END_HEADERS, 1, &[0x83, 0x87, 0x84, 0x41, 1, b'a'])).await;
    // One each second: no memory, but a stream that never ends.
    for _ in 0..60 {
        if client.try_send(&frame(DATA, 0, 1, &[])).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(served.counters.stalled_bodies.get(), 1);
}

#[tokio::test]
async fn no_more_streams_are_open_than_allowed() {
    let pending = tower::service_fn(|_: Request| std::future::pending());
    let (mut client, _served) = Client::connect(&[], serve(Some("h2"), Settings::default(), pending)).await;
    for stream in 0..101 {
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &get(&[]))).await;
    }
    let refused = client.find(RESET).await;
    assert_eq!((refused.stream, refused.payload), (201, vec![0, 0, 0, 7]), "REFUSED_STREAM");
}
