//! Tells the upstream where a request came from: `X-Forwarded-*`, `X-Real-IP`, `X-Request-ID` and, where
//! it is asked for, `Forwarded` (RFC 7239).
//!
//! Every value is built from what we know of connection and request; what the client sent under these
//! names is replaced. `X-Forwarded-For` holds one address, the client's: the one of the connection, or the
//! one that trusted proxies in front of us gave ([`normalize`](crate::normalize) reads them, right to left).
//!
//! It removes no other spelling of the names, which normalize does. It must stand inside normalize and auth,
//! right before forward. Without a connection in the context it removes the headers and sets none.
//!
//! ```
//! use std::sync::Arc;
//! use http::Request;
//! use portcullis_layers::forwarded::ForwardedLayer;
//! use portcullis_layers::{BoxError, ClientAddr, Conn, RequestContext};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let upstream = service_fn(|request: Request<()>| async move { Ok::<_, BoxError>(request.into_parts().0.headers) });
//! let mut request = Request::get("/").header("host", "example.com").header("x-forwarded-for", "6.6.6.6").body(())?;
//! let client = "192.0.2.7:1234".parse()?;
//! let conn = Conn::new("192.0.2.1:80".parse()?, client, ClientAddr(client), None);
//! RequestContext::of(request.extensions_mut()).conn = Some(Arc::new(conn));
//! let headers = ForwardedLayer::new().layer(upstream).oneshot(request).await?;
//! assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
//! assert_eq!(headers["x-forwarded-proto"], "http");
//! # Ok(())
//! # }
//! ```

use std::net::IpAddr;
use std::task::{Context, Poll};

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_layer::Layer;
use tower_service::Service;

use crate::context::{Conn, RequestContext};

static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Applies [`Forwarded`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardedLayer {
    standard: bool,
}

impl ForwardedLayer {
    /// The `X-` headers only.
    pub const fn new() -> Self {
        Self { standard: false }
    }

    /// Whether to send `Forwarded`, too.
    #[must_use]
    pub const fn with_forwarded(self, standard: bool) -> Self {
        Self { standard }
    }
}

impl<S> Layer<S> for ForwardedLayer {
    type Service = Forwarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Forwarded { inner, standard: self.standard }
    }
}

/// Hands requests on with our word for where they came from.
#[derive(Debug, Clone)]
pub struct Forwarded<S> {
    inner: S,
    standard: bool,
}

impl<S, B> Service<http::Request<B>> for Forwarded<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let origin = Origin::of(RequestContext::of(request.extensions_mut()));
        let headers = request.headers_mut();
        let host = headers.get(HOST).cloned();
        let forwarded = if self.standard { origin.forwarded(host.as_ref()) } else { None };
        set(headers, &FORWARDED, forwarded);
        let proto = origin.client.is_some().then(|| HeaderValue::from_static(origin.scheme));
        let port = proto.is_some().then(|| port(host.as_ref(), origin.scheme));
        set(headers, &PROTO, proto);
        set(headers, &PORT, port);
        set(headers, &FORWARDED_HOST, host.filter(|_| origin.client.is_some()));
        set(headers, &FOR, origin.header.clone());
        set(headers, &REAL_IP, origin.header);
        set(headers, &REQUEST_ID, origin.id);
        self.inner.call(request)
    }
}

/// Where a request came from, as far as we believe it.
struct Origin {
    client: Option<IpAddr>,
    /// `client` as a header value; that of the connection is shared by all its requests.
    header: Option<HeaderValue>,
    scheme: &'static str,
    id: Option<HeaderValue>,
}

impl Origin {
    fn of(context: &RequestContext) -> Self {
        let client = context.client_addr().map(|client| client.ip());
        let shared = |conn: &Conn| (Some(conn.client.ip()) == client).then(|| conn.client_header.clone());
        let header = context.conn.as_deref().and_then(shared).or_else(|| client.map(address));
        Self {
            client,
            header,
            scheme: context.scheme(),
            id: context.id.map(crate::context::RequestId::to_header),
        }
    }

    /// One element (RFC 7239, section 4); IPv6 addresses and hosts with a port must be quoted.
    fn forwarded(&self, host: Option<&HeaderValue>) -> Option<HeaderValue> {
        let node = match self.client? {
            IpAddr::V4(address) => format!("for={address}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\""),
        };
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let host = host.and_then(|host| host.to_str().ok()).filter(|host| host.bytes().all(safe));
        let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
        HeaderValue::try_from(format!("{node}{host};proto={}", self.scheme)).ok()
    }
}

fn address(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).expect("an address is a valid header value")
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name.clone(), value),
        None => headers.remove(name),
    };
}

/// The port in `Host`, which is the one that the client sees, or its scheme's default.
fn port(host: Option<&HeaderValue>, scheme: &str) -> HeaderValue {
    let named = host.and_then(|host| host.to_str().ok()).and_then(|host| {
        let (_, port) = host.rsplit_once(':')?;
        port.parse::<u16>().ok()
    });
    match (named, scheme) {
        (Some(port), _) => HeaderValue::from(port),
        (None, "https") => HeaderValue::from_static("443"),
        (None, _) => HeaderValue::from_static("80"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::BoxError;
    use crate::context::{CertNames, ClientAddr, RequestId, TlsInfo};

    const ALL: [&str; 7] = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    ];

    async fn sent(host: &str, prepare: impl FnOnce(&mut RequestContext)) -> [Option<String>; 7] {
        let inner = service_fn(|request: http::Request<()>| async move {
            Ok::<_, BoxError>(request.into_parts().0.headers)
        });
        let mut request = http::Request::get("/").header(HOST, host).body(()).expect("valid");
        for name in ALL {
            for _ in 0..2 {
                request.headers_mut().append(name, HeaderValue::from_static("forged"));
            }
        }
        prepare(RequestContext::of(request.extensions_mut()));
        let headers = ForwardedLayer::new()
            .with_forwarded(true)
            .layer(inner)
            .oneshot(request)
            .await
            .expect("passed on");
        ALL.map(|name| {
            assert!(headers.get_all(name).iter().count() < 2, "{name} was appended");
            headers.get(name).map(|value| value.to_str().expect("text").to_owned())
        })
    }

    fn conn(client: &str, tls: bool) -> Option<Arc<Conn>> {
        let client = client.parse().expect("valid");
        let tls =
            tls.then(|| TlsInfo { version: "TLSv1.3", sni: None, alpn: None, names: CertNames::default() });
        Some(Arc::new(Conn::new("192.0.2.1:443".parse().expect("valid"), client, ClientAddr(client), tls)))
    }

    #[tokio::test]
    async fn everything_is_built_from_the_connection() {
        let got = sent("a.example", |context| {
            context.conn = conn("192.0.2.7:5", true);
            context.id = Some(RequestId(0, 1));
        })
        .await;
        let expected = [
            "for=192.0.2.7;host=\"a.example\";proto=https",
            "192.0.2.7",
            "a.example",
            "443",
            "https",
            "192.0.2.7",
            "00000000000000000000000000000001",
        ];
        assert_eq!(got, expected.map(|value| Some(value.to_owned())));
    }

    #[tokio::test]
    async fn a_client_behind_trusted_proxies_takes_the_place_of_the_connections() {
        let got = sent("a.example:8080", |context| {
            context.conn = conn("10.0.0.1:5", false);
            context.client = Some(ClientAddr("[2001:db8::7]:0".parse().expect("valid")));
            context.scheme = Some("https");
        })
        .await;
        let expected = [
            Some("for=\"[2001:db8::7]\";host=\"a.example:8080\";proto=https"),
            Some("2001:db8::7"),
            Some("a.example:8080"),
            Some("8080"),
            Some("https"),
            Some("2001:db8::7"),
            None,
        ];
        assert_eq!(got, expected.map(|value| value.map(str::to_owned)));
    }

    #[tokio::test]
    async fn without_a_connection_nothing_is_claimed() {
        assert_eq!(sent("a.example", |_| {}).await, [const { None }; 7]);
    }

    #[test]
    fn the_port_is_the_clients_view() {
        for (host, scheme, expected) in [
            (Some("a.example"), "https", "443"),
            (Some("a.example:8443"), "https", "8443"),
            (Some("[::1]"), "http", "80"),
            (Some("[::1]:81"), "http", "81"),
            (None, "http", "80"),
        ] {
            assert_eq!(port(host.map(HeaderValue::from_static).as_ref(), scheme), expected);
        }
    }
}
