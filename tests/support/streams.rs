//! Event streams and WebSockets that stay open, over each protocol: whether they still deliver, and when they end.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio_tungstenite::tungstenite::Message;

use super::PATIENCE;
use super::client::{self, get, handshake};
use super::sockets::{Socket, connect_request, handshake_request, switched, tunnel};
use super::upstream::millis_now;

/// How a stream is asked for, always over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Server-sent events over HTTP/1.1.
    Events1,
    /// Server-sent events over HTTP/2.
    Events2,
    /// A WebSocket over HTTP/1.1.
    Socket1,
    /// A WebSocket over HTTP/2 (RFC 8441).
    Socket2,
}

/// All of them.
pub const WAYS: [Way; 4] = [Way::Events1, Way::Events2, Way::Socket1, Way::Socket2];

/// A header as tests write it.
pub type Header = (&'static str, String);

/// A stream that an [`Upstream`](super::upstream::Upstream) serves at `/ticks` or `/ws`.
pub struct Open {
    pub way: Way,
    stream: Stream,
    // The connection lives as long as one has this.
    _sender: Option<SendRequest<Full<Bytes>>>,
}

enum Stream {
    Events(Incoming),
    Socket(Box<Socket>),
}

impl Open {
    /// Asks for one, `below` a path; `host` has the public port. It has delivered something when it is returned.
    pub async fn begin(way: Way, https: SocketAddr, host: &str, below: &str, headers: &[Header]) -> Self {
        let name = host.split(':').next().unwrap();
        let (ticks, ws) = (format!("{below}/ticks"), format!("{below}/ws"));
        let (stream, sender) = match way {
            Way::Events1 => {
                let stream = handshake(https, name, &[b"http/1.1"]).await.unwrap();
                let response = client::open(stream, with(get(host, &ticks), headers)).await;
                (Stream::events(way, response), None)
            }
            Way::Events2 => {
                let (mut sender, _connection) = client::http2(https, name).await;
                let mut request = get(host, &format!("https://{host}{ticks}"));
                request.headers_mut().remove("host");
                let response = sender.send_request(with(request, headers)).await.unwrap();
                (Stream::events(way, response), Some(sender))
            }
            Way::Socket1 => {
                let stream = handshake(https, name, &[b"http/1.1"]).await.unwrap();
                let socket = switched(stream, with(handshake_request(host, &ws), headers)).await;
                (Stream::Socket(Box::new(socket)), None)
            }
            Way::Socket2 => {
                let (sender, _connection) = client::http2(https, name).await;
                let socket = tunnel(sender.clone(), with(connect_request(host, &ws), headers)).await;
                (Stream::Socket(Box::new(socket)), Some(sender))
            }
        };
        let mut open = Self { way, stream, _sender: sender };
        open.delivers().await;
        open
    }

    /// Waits for something that the upstream has sent after this call.
    pub async fn delivers(&mut self) {
        let now = millis_now();
        match &mut self.stream {
            Stream::Socket(socket) => {
                let message = Message::text(now.to_string());
                assert_eq!(socket.echo(message.clone()).await, message);
            }
            Stream::Events(body) => {
                let mut text = String::new();
                loop {
                    let piece = piece(body).await;
                    let piece = piece.unwrap_or_else(|| panic!("{:?}: the stream has ended", self.way));
                    text.push_str(&String::from_utf8_lossy(&piece));
                    let times = text.lines().filter_map(|line| line.strip_prefix("data: ")?.parse().ok());
                    if text.ends_with("\n\n") && times.max().is_some_and(|time: u128| time > now) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for its end, whatever it delivers before.
    pub async fn ended(mut self) -> Instant {
        match &mut self.stream {
            Stream::Socket(socket) => while socket.next().await.is_some() {},
            Stream::Events(body) => {
                let end = async { while piece(body).await.is_some() {} };
                let waited = tokio::time::timeout(PATIENCE, end).await;
                assert!(waited.is_ok(), "{:?}: the stream goes on", self.way);
            }
        }
        Instant::now()
    }
}

impl Stream {
    fn events(way: Way, response: http::Response<Incoming>) -> Self {
        assert_eq!(response.status(), 200, "{way:?}");
        Self::Events(response.into_body())
    }
}

/// The next bytes; none at the end, in whatever way it comes.
async fn piece(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("bytes, or the end")?.ok()?;
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}

fn with(mut request: Request<Full<Bytes>>, headers: &[Header]) -> Request<Full<Bytes>> {
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
    }
    request
}
