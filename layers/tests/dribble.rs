//! PROXY protocol and TLS one above the other, with every byte arriving alone.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use portcullis_layers::accept::Accepted;
use portcullis_layers::prefixed::Prefixed;
use portcullis_layers::proxy_protocol::ProxyProtocolLayer;
use portcullis_layers::proxy_protocol::header::{Addresses, encode_v1, encode_v2};
use portcullis_layers::tls::{CertificateTable, Certified, Resolver, TlsLayer, TlsStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// A stream that gives and takes one byte at a time, and nothing at every other call.
struct Dribble {
    io: DuplexStream,
    pause: bool,
}

impl Dribble {
    /// Whether it is time for nothing; then the task is called again.
    fn pauses(&mut self, cx: &Context<'_>) -> bool {
        self.pause = !self.pause;
        if self.pause {
            cx.waker().wake_by_ref();
        }
        self.pause
    }
}

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pauses(cx) {
            return Poll::Pending;
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        let outcome = Pin::new(&mut self.io).poll_read(cx, &mut one);
        buf.put_slice(one.filled());
        outcome
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.pauses(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn header_and_handshake_survive_one_byte_at_a_time() {
    let key = rcgen::KeyPair::generate().expect("generates");
    let certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("valid");
    let certificate = certificate.self_signed(&key).expect("signs");
    let certified =
        Certified::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("loads");
    let mut table = CertificateTable::new(None);
    table.serve("a.example", Arc::new(certified)).expect("valid");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a certificate");
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));

    let source: SocketAddr = "192.0.2.7:40000".parse().expect("an address");
    let addresses = Addresses { source, destination: "198.51.100.1:443".parse().expect("an address") };
    let mut line = Vec::new();
    encode_v1(Some(&addresses), &mut line);
    let mut binary = Vec::new();
    encode_v2(Some(&addresses), &[], true, &mut binary).expect("fits");

    let proxy_protocol = ProxyProtocolLayer::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    let tls = TlsLayer::new(Resolver::new(table)).expect("random numbers");
    let counters = tls.counters();
    let service = ServiceBuilder::new().layer(proxy_protocol).layer(tls).service(service_fn(
        move |mut connection: Accepted<TlsStream<Prefixed<Dribble>>>| async move {
            assert_eq!(connection.client.0, source);
            let mut text = Vec::new();
            connection.io.read_to_end(&mut text).await.expect("reads");
            connection.io.write_all(&text).await.expect("writes");
            connection.io.shutdown().await.expect("closes");
            Ok::<_, Infallible>(())
        },
    ));
    for header in [line, binary] {
        let (ours, mut theirs) = tokio::io::duplex(16 * 1024);
        let ours = Dribble { io: ours, pause: false };
        let connector = connector.clone();
        let balancer = async move {
            theirs.write_all(&header).await.expect("writes");
            let mut io =
                connector.connect("a.example".try_into().expect("a name"), theirs).await.expect("connects");
            io.write_all(b"hello").await.expect("writes");
            io.shutdown().await.expect("closes");
            let mut text = String::new();
            io.read_to_string(&mut text).await.expect("reads");
            text
        };
        let address = |host| SocketAddr::from(([10, 0, 0, host], 443));
        let served = service.clone().oneshot(Accepted::new(ours, address(1), address(2)));
        let (text, outcome) = tokio::join!(balancer, served);
        outcome.expect("infallible");
        assert_eq!(text, "hello");
    }
    assert_eq!(counters.handshakes.load(Ordering::Relaxed), 2);
}
