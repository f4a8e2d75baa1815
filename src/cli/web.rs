//! Plain HTTP(S) calls to absolute URLs: what the API's client and the OAuth flows send goes through here.
//!
//! It follows no redirect and keeps no connection: each caller sees exactly what was answered.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client::ClientError;

/// The largest answer that is read: documents about OAuth are small.
const MAX_ANSWER: usize = 1 << 20;

/// What may stand in a query or a form as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Calls URLs.
#[derive(Debug)]
pub(crate) struct Web {
    timeout: Duration,
    /// Further roots to trust.
    cacert: Option<PathBuf>,
    tls: OnceLock<Arc<rustls::ClientConfig>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// A header, if it is there once and is text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// The answer as JSON, if it says that it is.
    pub(crate) fn json(&self) -> Option<Value> {
        let kind = self.header(CONTENT_TYPE)?.split(';').next()?.trim();
        let json = kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json");
        json.then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }
}

impl Web {
    pub(crate) fn new(timeout: Duration, cacert: Option<PathBuf>) -> Self {
        Self { timeout, cacert, tls: OnceLock::new() }
    }

    /// Asks for a document.
    pub(crate) async fn get(&self, url: &Uri) -> Result<Reply, ClientError> {
        self.send(Method::GET, url, &[(ACCEPT, "application/json")], Bytes::new()).await
    }

    /// Posts a form (RFC 6749, appendix B).
    pub(crate) async fn post(&self, url: &Uri, form: &[(&str, &str)]) -> Result<Reply, ClientError> {
        let headers = [(ACCEPT, "application/json"), (CONTENT_TYPE, "application/x-www-form-urlencoded")];
        self.send(Method::POST, url, &headers, encode(form).into()).await
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Result<Reply, ClientError> {
        let authority = url.authority().ok_or_else(|| ClientError::Url(url.clone()))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority.as_str());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| ClientError::Broken(error.into()))?;
        let call = async {
            let response = self.open(url, request).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(ClientError::Broken)?;
            Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(self.timeout, call).await.map_err(|_| ClientError::Timeout(self.timeout))?
    }

    /// Sends a request to the host of a URL, and leaves the answer's body to the caller.
    pub(crate) async fn open(
        &self,
        url: &Uri,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let Place { tls, host, port } = Place::of(url).ok_or_else(|| ClientError::Url(url.clone()))?;
        let authority = format!("{host}:{port}");
        let bare = host.trim_matches(['[', ']']);
        // `*.localhost` is this machine (RFC 6761, section 6.3), also where the resolver does not know it.
        let reach = if is_localhost(host) { "127.0.0.1" } else { bare };
        let stream = TcpStream::connect((reach, port))
            .await
            .map_err(|source| ClientError::Connect { authority: authority.clone(), source })?;
        if !tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| ClientError::Url(url.clone()))?;
        let connector = tokio_rustls::TlsConnector::from(self.tls()?);
        let stream =
            connector.connect(name, stream).await.map_err(|source| ClientError::Tls { authority, source })?;
        exchange(stream, request).await
    }

    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, ClientError> {
        if let Some(known) = self.tls.get() {
            return Ok(Arc::clone(known));
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.cacert {
            for certificate in read_roots(path)? {
                roots.add(certificate).map_err(|error| bad_roots(path, error))?;
            }
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

/// Where the host of a URL listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) tls: bool,
    /// As in the URL: IPv6 addresses in brackets.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
}

impl<'a> Place<'a> {
    /// Reads it from an absolute URL of HTTP or HTTPS.
    pub(crate) fn of(url: &'a Uri) -> Option<Self> {
        let tls = match url.scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: url.host()?, port })
    }

    /// Whether it is this machine.
    pub(crate) fn is_here(&self) -> bool {
        let bare = self.host.trim_matches(['[', ']']);
        is_localhost(self.host) || bare.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Names and values as a form or a query.
pub(crate) fn encode(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect::<Vec<_>>()
        .join("&")
}

/// The names and values of a query; `None` when it is not UTF-8.
pub(crate) fn decode(query: &str) -> Option<Vec<(String, String)>> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().map(std::borrow::Cow::into_owned).ok()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// Puts parameters behind a URL that may have some.
pub(crate) fn with_query(url: &str, pairs: &[(&str, &str)]) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{}", encode(pairs))
}

fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let roots = read.map_err(|error| bad_roots(path, error))?;
    if roots.is_empty() { Err(bad_roots(path, "no certificate in the file")) } else { Ok(roots) }
}

fn bad_roots(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Roots { path: path.to_owned(), source: source.into() }
}

/// One request over a connection of its own.
pub(crate) async fn exchange<I>(
    stream: I,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| ClientError::Broken(error.into());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // What goes wrong on the connection shows in the exchange, too.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_survives_its_encoding() {
        let pairs = [("a", "x y&z=ä+"), ("b", "")];
        let text = encode(&pairs);
        assert_eq!(text, "a=x%20y%26z%3D%C3%A4%2B&b=");
        let read = decode(&text).unwrap();
        assert_eq!(read, [("a".to_owned(), "x y&z=ä+".to_owned()), ("b".to_owned(), String::new())]);
        assert_eq!(decode("a=1+2").unwrap()[0].1, "1 2");
        assert_eq!(decode("a=%ff"), None);
        assert_eq!(with_query("https://a/b?c=d", &[("e", "f")]), "https://a/b?c=d&e=f");
    }

    #[test]
    fn a_url_says_where_to_connect() {
        let place = |text: &str| {
            let url: Uri = text.parse().unwrap();
            Place::of(&url).map(|place| (place.tls, place.port, place.is_here()))
        };
        assert_eq!(place("https://a.example/x"), Some((true, 443, false)));
        assert_eq!(place("http://[::1]:8080"), Some((false, 8080, true)));
        assert_eq!(place("https://auth.LOCALHOST:8443"), Some((true, 8443, true)));
        assert_eq!(place("ftp://a.example"), None);
        assert_eq!(place("/path"), None);
    }
}
