//! Making a connection to an upstream: look the name up, connect, PROXY header, TLS, HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::http1::Connection;
use super::io::UpstreamIo;
use super::target::{Protocol, Scheme, Upstream};
use super::tls::TlsClient;
use super::upload::RequestBody;

/// How long one address may take before the next is tried beside it (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Bytes of a request that wait in a stream, and the longest response head.
const MAX_BUFFER: usize = 64 * 1024;

/// What an HTTP/2 upstream may send ahead on one stream, and how many streams a connection takes:
/// their product bounds what slow clients leave unread in memory, and no stream starves another.
const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const MAX_STREAMS: u32 = 100;

/// Which HTTP a new connection has to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Any,
    Http1,
}

/// A connection that is ready for its first request.
pub(super) enum Dialed {
    H1(Box<Connection>),
    H2(http2::SendRequest<RequestBody>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("name lookup failed")]
    Resolve(#[source] io::Error),
    #[error("connect failed")]
    Connect(#[source] io::Error),
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("HTTP handshake failed")]
    Http(#[source] hyper::Error),
}

/// Makes a connection. Deadlines are the caller's.
pub(super) async fn dial(
    upstream: &Upstream,
    tls: Option<&TlsClient>,
    want: Want,
    preface: Option<Vec<u8>>,
) -> Result<Dialed, DialError> {
    let addresses = resolve(upstream).await.map_err(DialError::Resolve)?;
    let mut tcp = race(addresses).await.map_err(DialError::Connect)?;
    tune(&tcp);
    if let Some(preface) = preface {
        tcp.write_all(&preface).await.map_err(DialError::Connect)?;
    }
    let (io, negotiated) = match (upstream.scheme, tls) {
        (Scheme::Https, Some(tls)) => {
            let config = if want == Want::Http1 { &tls.http1 } else { &tls.any };
            let stream = TlsConnector::from(Arc::clone(config))
                .connect(tls.name.clone(), tcp)
                .await
                .map_err(DialError::Tls)?;
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            if upstream.protocol == Protocol::Http2 && want == Want::Any && !h2 {
                let problem = io::Error::new(io::ErrorKind::Unsupported, "upstream does not speak HTTP/2");
                return Err(DialError::Tls(problem));
            }
            (UpstreamIo::tls(stream), h2)
        }
        _ => {
            let h2 = upstream.protocol == Protocol::Http2 && want == Want::Any;
            (UpstreamIo::plain(tcp), h2)
        }
    };
    if negotiated { http2_connection(io).await } else { Ok(Dialed::H1(Box::new(Connection::new(io)))) }
}

async fn http2_connection(io: UpstreamIo) -> Result<Dialed, DialError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
        .max_send_buf_size(MAX_BUFFER)
        .max_header_list_size(MAX_BUFFER as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(io))
        .await
        .map_err(DialError::Http)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "upstream connection ended");
        }
    });
    Ok(Dialed::H2(sender))
}

async fn resolve(upstream: &Upstream) -> io::Result<Vec<SocketAddr>> {
    let host = upstream.host.as_str();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, upstream.port)]);
    }
    let found: Vec<_> = tokio::net::lookup_host((host, upstream.port)).await?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(interleave(found))
}

/// IPv6 and IPv4 in turn, the resolver's first choice first (RFC 8305, section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    preferred.reverse();
    other.reverse();
    let mut turns = Vec::with_capacity(preferred.len() + other.len());
    while !(preferred.is_empty() && other.is_empty()) {
        turns.extend(preferred.pop());
        turns.extend(other.pop());
    }
    turns
}

/// The first address that answers; each gets a head start over the next.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    let mut rest = addresses.into_iter();
    let mut failure = None;
    loop {
        attempts.extend(rest.next().map(TcpStream::connect));
        let outcome = if rest.len() == 0 {
            attempts.next().await
        } else {
            match tokio::time::timeout(STAGGER, attempts.next()).await {
                Ok(outcome) => outcome,
                Err(_) => continue,
            }
        };
        match outcome {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failure = Some(error),
            None => return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
        }
    }
}

/// Small writes go at once; a peer that is gone is noticed even where nothing else would.
fn tune(tcp: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    if let Err(error) = tcp.set_nodelay(true).and_then(|()| SockRef::from(tcp).set_tcp_keepalive(&keepalive))
    {
        tracing::debug!(%error, "socket options of an upstream connection were not taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("valid")).collect()
    }

    #[test]
    fn families_take_turns() {
        assert_eq!(
            interleave(addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"])),
            addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"])
        );
        assert_eq!(interleave(Vec::new()), []);
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_to_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let open = listener.local_addr().expect("bound");
        let closed = {
            let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            other.local_addr().expect("bound")
        };
        let stream = race(vec![closed, open]).await.expect("one of them answers");
        assert_eq!(stream.peer_addr().expect("connected"), open);
        let error = race(vec![closed]).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
