//! PROXY protocol from a load balancer in front of the built daemon.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_layers::proxy_protocol::header::{Addresses, encode_v1, encode_v2};
use portcullis_layers::proxy_protocol::tlv::Tlv;
use serde_json::{Value, json};
use support::client::{Answer, get, handshake, open, plain, read, until_closed};
use support::daemon::Daemon;
use support::eventually;
use support::upstream::Upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const HOST: &str = "app.test";
const CLIENT: &str = "192.0.2.7:40000";

/// Trusts this machine's first loopback address, and no other.
async fn start() -> (Daemon, Upstream) {
    let daemon = Daemon::start_with(|command| {
        command.env("PROXY_PROTOCOL_TRUSTED", "127.0.0.1/32").env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
    });
    let upstream = Upstream::start("app").await;
    daemon.proxy(HOST, &upstream.url(), &json!({}));
    (daemon, upstream)
}

fn addresses(client: &str) -> Addresses {
    let destination = if client.starts_with('[') { "[2001:db8::1]:443" } else { "198.51.100.1:443" };
    Addresses { source: client.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn v1(client: &str) -> Vec<u8> {
    let mut header = Vec::new();
    encode_v1(Some(&addresses(client)), &mut header);
    header
}

fn v2(client: &str, checksum: bool) -> Vec<u8> {
    let mut header = Vec::new();
    let tlvs = [Tlv::Authority("balancer.test"), Tlv::UniqueId(b"0123456789")];
    encode_v2(Some(&addresses(client)), &tlvs, checksum, &mut header).unwrap();
    header
}

async fn connect(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(header).await.unwrap();
    stream
}

/// The very same connection, from an address that is not trusted.
async fn connect_untrusted(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

async fn ask(stream: TcpStream, path: &str) -> Answer {
    read(open(stream, get(HOST, path)).await).await
}

async fn count(daemon: &Daemon, result: &str) -> u64 {
    let text = plain(daemon.metrics(), get("localhost", "/metrics")).await.body;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| {
        line.contains("proxy_protocol_connections_total{") && line.contains(&format!("result=\"{result}\""))
    });
    line.unwrap_or_else(|| panic!("{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_client_of_a_trusted_balancer_is_the_one_that_it_names() {
    let (daemon, _upstream) = start().await;
    let mut unknown = Vec::new();
    encode_v1(None, &mut unknown);
    let mut local = Vec::new();
    encode_v2(None, &[], false, &mut local).unwrap();
    for (what, header, client) in [
        ("v1", v1(CLIENT), "192.0.2.7"),
        ("v1-tcp6", v1("[2001:db8::7]:40000"), "2001:db8::7"),
        ("v1-unknown", unknown, "127.0.0.1"),
        ("v2", v2(CLIENT, false), "192.0.2.7"),
        ("v2-tcp6", v2("[2001:db8::7]:40000", false), "2001:db8::7"),
        ("v2-crc", v2(CLIENT, true), "192.0.2.7"),
        ("v2-local", local, "127.0.0.1"),
    ] {
        let answer = ask(connect(daemon.http, &header).await, &format!("/{what}")).await;
        assert_eq!(answer.seen("x-forwarded-for"), [client], "{what}");
        assert_eq!(answer.seen("x-real-ip"), [client], "{what}");

        // One byte at a time, and what the client says of itself changes nothing.
        let mut stream = TcpStream::connect(daemon.http).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in &header {
            stream.write_all(std::slice::from_ref(byte)).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut request = get(HOST, &format!("/{what}-slow"));
        request.headers_mut().insert("x-forwarded-for", "203.0.113.5".parse().unwrap());
        let answer = read(open(stream, request).await).await;
        assert_eq!(answer.seen("x-forwarded-for"), [client], "{what}");

        let found = eventually("the log", || async {
            let page = daemon.run(&["log", "search", &format!("--path=/{what}")]);
            entry(&page, &format!("/{what}-slow"))
        });
        assert_eq!(found.await["client_ip"], client, "{what}");
    }
    assert_eq!(count(&daemon, "accepted").await, 14);
    assert_eq!(count(&daemon, "malformed").await, 0);
}

#[tokio::test]
async fn nobody_behind_a_balancer_is_a_local_admin() {
    let daemon = Daemon::start_with(|command| {
        command.env("PROXY_PROTOCOL_TRUSTED", "127.0.0.1/32").env("PORTCULLIS_LOCAL_ADMIN", "loopback");
    });
    let (mut unknown, mut local) = (Vec::new(), Vec::new());
    encode_v1(None, &mut unknown);
    encode_v2(None, &[], false, &mut local).unwrap();
    let list = async |stream: TcpStream| {
        read(open(stream, get("localhost", "/proxy/targets/")).await).await.status.as_u16()
    };
    for (what, header) in [("UNKNOWN", unknown), ("LOCAL", local), ("TCP4", v1("127.0.0.1:40000"))] {
        assert_eq!(list(connect(daemon.http, &header).await).await, 401, "{what}");
    }
    assert_eq!(list(connect_untrusted(daemon.http).await).await, 200, "whoever comes directly is");
}

/// The record of a path on a page of the log.
fn entry(page: &Value, path: &str) -> Option<Value> {
    page["logs"].as_array()?.iter().find(|record| record["request_path"] == path).cloned()
}

#[tokio::test]
async fn it_stands_before_tls() {
    let (daemon, _upstream) = start().await;
    for header in [v1(CLIENT), v2(CLIENT, true)] {
        // A relay that writes the header, as a load balancer does.
        let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay.local_addr().unwrap();
        let https = daemon.https;
        tokio::spawn(async move {
            let (mut client, _) = relay.accept().await.unwrap();
            let mut server = connect(https, &header).await;
            // Ends with an error when one side just goes.
            let _done = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
        let stream = handshake(address, HOST, &[b"http/1.1"]).await.unwrap();
        let answer = read(open(stream, get(HOST, "/")).await).await;
        assert_eq!(answer.seen("x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(answer.seen("x-forwarded-proto"), ["https"]);
    }
}

#[tokio::test]
async fn whatever_else_a_trusted_balancer_sends_closes_the_connection() {
    let (daemon, _upstream) = start().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut wrong_sum = v2(CLIENT, true);
    *wrong_sum.last_mut().unwrap() ^= 1;
    let mut version = v2(CLIENT, false);
    version[12] = 0x31;
    let mut family = v2(CLIENT, false);
    family[13] = 0x51;
    let mut short = v2(CLIENT, false);
    short[15] = 4;
    let mut tlv = v2(CLIENT, false);
    let last = tlv.len() - 11;
    tlv[last] = 200;
    let long = format!("PROXY TCP4 {}\r\n", "1".repeat(120));
    let begun = count(&daemon, "malformed").await;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no header", Vec::new()),
        ("lower case", b"proxy TCP4 192.0.2.7 198.51.100.1 40000 443\r\n".into()),
        ("too many spaces", b"PROXY  TCP4 192.0.2.7 198.51.100.1 40000 443\r\n".into()),
        ("LF alone", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n".into()),
        ("an address that is none", b"PROXY TCP4 192.0.2.777 198.51.100.1 40000 443\r\n".into()),
        ("an address of the other family", b"PROXY TCP4 2001:db8::1 198.51.100.1 40000 443\r\n".into()),
        ("leading zeros", b"PROXY TCP4 192.0.2.007 198.51.100.1 40000 443\r\n".into()),
        ("a port that is none", b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n".into()),
        ("a port with a sign", b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n".into()),
        ("a field less", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n".into()),
        ("a field more", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 1\r\n".into()),
        ("another protocol", b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 443\r\n".into()),
        ("too long", long.into_bytes()),
        ("v2 with a wrong checksum", wrong_sum),
        ("v2 of another version", version),
        ("v2 of an unknown family", family),
        ("v2 shorter than its addresses", short),
        ("v2 with a TLV that goes on behind it", tlv),
    ];
    let number = cases.len() as u64;
    for (what, mut bytes) in cases {
        bytes.extend_from_slice(request.as_bytes());
        assert_eq!(until_closed(daemon.http, &bytes).await, "", "{what}");
    }
    assert_eq!(count(&daemon, "malformed").await - begun, number);
    assert_eq!(ask(connect(daemon.http, &v1(CLIENT)).await, "/").await.status, 200);
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let daemon = Daemon::start_with(|command| {
        command.env("PROXY_PROTOCOL_TRUSTED", "127.0.0.1/32").env("PORTCULLIS_HEAD_TIMEOUT", "0.3");
        command.env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
    });
    for begin in [&b""[..], b"PROXY TCP4 192.0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"] {
        assert_eq!(until_closed(daemon.http, begin).await, "");
    }
    assert_eq!(count(&daemon, "timed_out").await, 3);
}

#[tokio::test]
async fn nobody_else_is_believed_or_even_asked() {
    let (daemon, _upstream) = start().await;
    let answer = ask(connect_untrusted(daemon.http).await, "/").await;
    assert_eq!(answer.seen("x-forwarded-for"), ["127.0.0.2"]);
    for header in [v1(CLIENT), v2(CLIENT, true)] {
        let mut stream = connect_untrusted(daemon.http).await;
        stream.write_all(&header).await.unwrap();
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end, too.
        let _end =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        // To us it is a request that is none.
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(!answer.contains("x-upstream"), "{answer}");
    }
    assert_eq!((count(&daemon, "direct").await, count(&daemon, "accepted").await), (3, 0));
}
