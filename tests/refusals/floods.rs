//! Clients that want to cost more than others: HTTP/2 floods and readers that don't read.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::support::PATIENCE;
use super::support::client::{get, handshake, plain};
use super::support::daemon::Daemon;
use super::{HOST, start_open};

/// A host whose upstream is not kept busy by the attack on the other one.
const OTHERS: &str = "others.test";

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
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A request head: `:method` and `:scheme` from the static table (RFC 7541, appendix A), the rest as literals.
fn head(method: u8, path: &str) -> Vec<u8> {
    let literal =
        |index: u8, text: &str| [&[index, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[method, 0x87][..], &literal(0x04, path), &literal(0x01, HOST)].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

async fn connect(daemon: &Daemon, settings: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = handshake(daemon.https, HOST, &[b"h2"]).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await.unwrap();
    stream
}

/// Sends until the server has enough of it, and reads until it has closed or time is over. True when it said GOAWAY or just closed.
async fn flood(daemon: &Daemon, most: Duration, next: &dyn Fn(u32) -> Vec<u8>) -> bool {
    let stream = connect(daemon, &[]).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            if head[3] == GOAWAY || reader.read_exact(&mut payload).await.is_err() {
                break;
            }
        }
    });
    let begun = Instant::now();
    for number in 0..200_000 {
        let sent = timeout(Duration::from_secs(5), writer.write_all(&next(number))).await;
        if reading.is_finished() || !matches!(sent, Ok(Ok(()))) || begun.elapsed() > most {
            break;
        }
    }
    timeout(most, reading).await.is_ok()
}

/// Kilobytes of memory that the daemon has.
fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Asks as any client does while something else goes on; the longest time that an answer took.
async fn meanwhile<T>(daemon: &Daemon, attack: impl Future<Output = T>) -> (T, Duration) {
    let mut attack = std::pin::pin!(attack);
    let mut longest = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let asked = async { assert_eq!(plain(daemon.http, get(OTHERS, "/")).await.status, 200) };
        tokio::select! {
            outcome = &mut attack => return (outcome, longest.max(begun.elapsed())),
            () = asked => longest = longest.max(begun.elapsed()),
        }
    }
}

#[tokio::test]
async fn http2_floods_end_their_connection_and_nobody_elses() {
    let (daemon, _upstream) = start_open().await;
    daemon.proxy(OTHERS, "builtin:echo", &json!({}));
    assert_eq!(plain(daemon.http, get(OTHERS, "/")).await.status, 200);
    let before = memory(&daemon);
    let odd = |number: u32| 2 * number + 1;
    let rapid_reset = |number: u32| {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, odd(number), &head(GET, "/slow?100"));
        [open, frame(RESET, 0, odd(number), &8_u32.to_be_bytes())].concat()
    };
    // Our own resets: a window that overflows on a stream is an error of the stream.
    let made_you_reset = |number: u32| {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, odd(number), &head(GET, "/slow?100"));
        [open, frame(WINDOW, 0, odd(number), &0_u32.to_be_bytes())].concat()
    };
    let continuation = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 1, &head(GET, "/")),
        _ => frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']),
    };
    let empty_continuation = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 1, &head(GET, "/")),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    let self_dependent = |number: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number, &head(GET, "/"));
    for (what, ends) in [
        ("rapid reset", flood_with(&daemon, 10, &rapid_reset).await),
        ("made you reset", flood_with(&daemon, 10, &made_you_reset).await),
        ("continuation", flood_with(&daemon, 10, &continuation).await),
        ("empty continuation", flood_with(&daemon, 10, &empty_continuation).await),
        ("even streams", flood_with(&daemon, 10, &self_dependent).await),
    ] {
        assert!(ends.0, "{what} was never cut off");
        assert!(ends.1 < Duration::from_secs(5), "{what} held others up for {:?}", ends.1);
    }
    // These are no errors; they only must not cost much, and hold nobody up.
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(50);
    let pings = |_| frame(PING, 0, 0, b"01234567").repeat(50);
    let empty_data = |number: u32| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &head(POST, "/slow?5000")),
        _ => frame(DATA, 0, 1, &[]).repeat(50),
    };
    for (what, outcome) in [
        ("settings", flood_with(&daemon, 1, &settings).await),
        ("pings", flood_with(&daemon, 1, &pings).await),
        ("empty data", flood_with(&daemon, 1, &empty_data).await),
    ] {
        assert!(outcome.1 < Duration::from_secs(5), "{what} held others up for {:?}", outcome.1);
    }
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 64 * 1024, "grew by {grown} KiB");
    let mut stream = connect(&daemon, &[]).await;
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(GET, "/after"))).await.unwrap();
    let answered = async {
        let mut answer = Vec::new();
        while !answer.windows(6).any(|part| part == b"/after") {
            answer.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(PATIENCE, answered).await.expect("an answer over HTTP/2");
}

async fn flood_with(daemon: &Daemon, most: u64, next: &dyn Fn(u32) -> Vec<u8>) -> (bool, Duration) {
    meanwhile(daemon, flood(daemon, Duration::from_secs(most), next)).await
}

// With threads, so that an upstream that is kept busy does not slow the test's own clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn clients_that_do_not_read_cost_bounded_memory() {
    let (daemon, _upstream) = start_open().await;
    daemon.proxy(OTHERS, "builtin:echo", &json!({}));
    assert_eq!(plain(daemon.http, get(HOST, "/big?1000000")).await.status, 200);
    let before = memory(&daemon);
    let big = 200 << 20;

    // Four connections with fifty streams each, which may send as much as they like.
    let window = [&[0, 4][..], &(i32::MAX as u32).to_be_bytes()].concat();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&daemon, &window).await;
        stream.write_all(&frame(WINDOW, 0, 0, &(1_u32 << 30).to_be_bytes())).await.unwrap();
        for number in 0..50 {
            let block = head(GET, &format!("/big?{big}"));
            stream
                .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block))
                .await
                .unwrap();
        }
        held.push(stream);
    }
    let mut slow = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(daemon.http).await.unwrap();
        stream
            .write_all(format!("GET /big?{big} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        slow.push(stream);
    }
    let ((), longest) = meanwhile(&daemon, tokio::time::sleep(Duration::from_secs(3))).await;
    let grown = memory(&daemon).saturating_sub(before) / 1024;
    assert!(grown < 100, "grew by {grown} MiB");
    assert!(longest < Duration::from_secs(5), "others waited {longest:?}");
}
