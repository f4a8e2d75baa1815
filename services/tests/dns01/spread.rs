//! Zones with more servers than the one that takes updates.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_services::acme::dns::DnsProvider;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use super::rfc2136::{NAME, VALUE, provider};
use crate::dns::Dns;

/// The type of TXT records.
const TXT: [u8; 2] = [0, 16];

/// A server of the zone at 127.0.0.1, where the name `ns` of each test's zone leads: it denies the first so many TXT records
/// with this answer code, and asks the real one about the others. How many were asked for is counted.
async fn server(real: SocketAddr, denied: usize, code: u8) -> (u16, Arc<AtomicUsize>, JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let serving = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let question = buffer[..length].to_vec();
            let kind = question.len().checked_sub(4).map(|at| [question[at], question[at + 1]]);
            if kind == Some(TXT) && count.fetch_add(1, Ordering::Relaxed) < denied {
                let mut answer = question;
                // An answer, with authority.
                answer[2] |= 0x84;
                answer[3] = code;
                socket.send_to(&answer, client).await.unwrap();
                continue;
            }
            let onward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
            onward.send_to(&question, real).await.unwrap();
            let length = onward.recv(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], client).await.unwrap();
        }
    });
    (port, asked, serving)
}

#[tokio::test]
async fn a_server_that_gets_the_zone_later_is_waited_for() {
    let dns = Dns::start(&["example.test"]);
    let (port, asked, serving) = server(dns.address(), 3, 0).await;
    provider(&dns).with_port(port).present(NAME, VALUE).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 4, "asked until it has the record");
    serving.abort();
}

#[tokio::test]
async fn a_real_secondary_has_it_too() {
    let (primary, secondary) = Dns::start_pair("example.test");
    let provider = provider(&primary).with_port(secondary.address().port());
    for value in ["one", "two", "three"] {
        provider.present(NAME, value).await.unwrap();
        assert!(secondary.texts("example.test", NAME).contains(&value.to_owned()), "{value}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_have_the_zone_is_not_waited_for() {
    let dns = Dns::start(&["example.test"]);
    // It refuses whatever it is asked.
    let (port, asked, serving) = server(dns.address(), usize::MAX, 5).await;
    provider(&dns).with_port(port).present(NAME, VALUE).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    serving.abort();
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for_long() {
    let dns = Dns::start(&["example.test"]);
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let present = provider(&dns).with_port(udp.local_addr().unwrap().port());
    let begun = std::time::Instant::now();
    present.present(NAME, VALUE).await.unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    let (length, _) = udp.recv_from(&mut [0; 4096]).await.unwrap();
    assert!(length > 0, "it was asked");
    drop(tcp);
}
