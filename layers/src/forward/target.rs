//! What to call and how: pure data, compared to tell whether a reload changed anything.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use smol_str::SmolStr;

use crate::names::{HostName, InvalidHostName};

use super::balance::Balancing;
use super::preface::ProxyHeader;

/// Where a route's requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The upstreams, best first.
    pub upstreams: Vec<Upstream>,
    /// How requests are spread over them.
    pub balancing: Balancing,
    /// Whether the upstream sees the `Host` that the client asked for, instead of its own authority.
    pub preserve_host: bool,
    /// How long the parts of an exchange may take.
    pub timeouts: Timeouts,
    /// Lower-case prefixes of header names that a `Connection` header can't remove, beside the
    /// essential ones: those under which identity is handed to the upstream.
    pub protected: Vec<SmolStr>,
}

impl Target {
    /// One upstream and defaults.
    pub fn new(upstream: Upstream) -> Self {
        Self {
            upstreams: vec![upstream],
            balancing: Balancing::default(),
            preserve_host: true,
            timeouts: Timeouts::default(),
            protected: vec![SmolStr::new_static("x-auth-")],
        }
    }
}

/// How long the parts of an exchange may take. Tunnels and event streams have no limit once they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From looking up the name until the connection stands, TLS included.
    pub connect: Duration,
    /// From the last byte of the request that moved until the head of the response.
    pub head: Duration,
    /// How long a body may stand still while its reader is ready, for each direction; `None`: forever.
    pub body_idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            head: Duration::from_secs(120),
            body_idle: Some(Duration::from_secs(120)),
        }
    }
}

/// One server that answers requests, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// A name, looked up when a connection is made, or an address.
    pub host: HostName,
    /// The port.
    pub port: u16,
    /// What stands before the path of every request; no trailing slash.
    pub base_path: SmolStr,
    /// Its share of the requests, compared with the others'; 0: it gets no new ones.
    pub weight: u16,
    /// How the certificate is checked; without meaning for `http`.
    pub tls: TlsOptions,
    /// Which version of HTTP is spoken.
    pub protocol: Protocol,
    /// The PROXY protocol header that opens a connection. Such connections serve one request.
    pub proxy_header: Option<ProxyHeader>,
}

/// Plain or TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Which version of HTTP an upstream is spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// What ALPN settles (RFC 7301), HTTP/2 preferred; HTTP/1.1 without TLS.
    Negotiate,
    /// HTTP/2, with prior knowledge (RFC 9113, section 3.3) where there is no TLS.
    Http2,
}

/// How the certificate of an upstream is checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// `false` accepts any certificate: the connection is encrypted, but not to anybody known.
    pub verify: bool,
    /// Certificates, as PEM, of the authorities to trust instead of the platform's.
    pub ca: Option<Arc<str>>,
    /// The name to ask for and to find in the certificate, instead of the upstream's host.
    pub server_name: Option<HostName>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { verify: true, ca: None, server_name: None }
    }
}

impl Upstream {
    /// What its connections depend on, and nothing else.
    #[must_use]
    pub fn connected(&self) -> Self {
        Self { base_path: SmolStr::default(), weight: 1, ..self.clone() }
    }

    /// `scheme://host:port`, as in logs.
    pub fn label(&self) -> SmolStr {
        smol_str::format_smolstr!("{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }

    /// The authority as a `Host` header has it: without the port where it is the scheme's own.
    pub(super) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.label(), self.base_path)
    }
}

/// Why a text is no [`Upstream`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUpstream {
    /// No URL at all.
    #[error("{0:?} is no URL")]
    Url(String),
    /// Another scheme than `http` and `https`.
    #[error("{0:?} does not start with http:// or https://")]
    Scheme(String),
    /// Credentials, a query: an upstream has none.
    #[error("{0:?} has more than scheme, host, port and path")]
    Extra(String),
    /// The host is none.
    #[error("{url:?} has no valid host")]
    Host {
        /// What was given.
        url: String,
        /// What is wrong with it.
        #[source]
        source: InvalidHostName,
    },
}

impl FromStr for Upstream {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| InvalidUpstream::Url(text.to_owned()))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(InvalidUpstream::Scheme(text.to_owned())),
        };
        let authority = uri.authority().ok_or_else(|| InvalidUpstream::Url(text.to_owned()))?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(InvalidUpstream::Extra(text.to_owned()));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => scheme.default_port(),
            _ => authority.port_u16().ok_or_else(|| InvalidUpstream::Url(text.to_owned()))?,
        };
        let host = authority
            .host()
            .parse()
            .map_err(|source| InvalidUpstream::Host { url: text.to_owned(), source })?;
        Ok(Self {
            scheme,
            host,
            port,
            base_path: SmolStr::new(uri.path().trim_end_matches('/')),
            weight: 1,
            tls: TlsOptions::default(),
            protocol: Protocol::default(),
            proxy_header: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_scheme_host_port_and_path() {
        for (text, expected, authority) in [
            ("http://backend", "http://backend:80", "backend"),
            ("https://Backend.example/", "https://backend.example:443", "backend.example"),
            ("http://127.0.0.1:8080/api/v1/", "http://127.0.0.1:8080/api/v1", "127.0.0.1:8080"),
            ("http://[::1]:3000", "http://[::1]:3000", "[::1]:3000"),
            ("http://my_service:80", "http://my_service:80", "my_service"),
        ] {
            let upstream: Upstream = text.parse().expect(text);
            assert_eq!((upstream.to_string().as_str(), upstream.authority().as_str()), (expected, authority));
        }
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        for text in [
            "",
            "backend",
            "backend:80",
            "ftp://backend",
            "http://user@backend",
            "http://backend/?q",
            "http://backend/#f",
            "http://",
            "http://back end",
            "http://backend:abc",
            "http://backend:",
            "http://backend:70000",
            "http://-backend",
        ] {
            assert!(text.parse::<Upstream>().is_err(), "{text:?} was taken for an upstream");
        }
    }
}
