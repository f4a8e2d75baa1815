//! One fetch of one key set, within bounds.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use portcullis_layers::Body;
use portcullis_layers::auth::{JwksError, KeySet};
use portcullis_layers::forward::Client;
use smol_str::SmolStr;

use crate::config::TargetUrl;
use crate::outbound::{CallError, Limits, Outbound, SetupError};

/// The largest providers send about ten kilobytes.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), body: 256 * 1024 };

/// A good answer.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) document: String,
    pub(super) set: KeySet,
    /// For how long the issuer says that it is good.
    pub(super) max_age: Option<Duration>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("not an https URL, nor one of this machine")]
    Insecure,
    #[error("the issuer can't be called")]
    Setup(#[source] SetupError),
    #[error(transparent)]
    Call(CallError),
    #[error("answered {0} instead of 200")]
    Status(StatusCode),
    #[error("answer is not UTF-8")]
    NotText,
    #[error("answer can't be used")]
    Keys(#[source] JwksError),
}

/// Fetches a key set. Redirects are refused like every other answer than 200.
pub(super) async fn fetch(client: &Client, ca: Option<Arc<str>>, uri: &str) -> Result<Fetched, FetchError> {
    let (server, path) = place(uri)?;
    let server = Outbound::new(client, &server, ca, LIMITS).map_err(FetchError::Setup)?;
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = path;
    let accept = HeaderValue::from_static("application/json, application/jwk-set+json");
    request.headers_mut().insert(header::ACCEPT, accept);
    let answer = server.send(request).await.map_err(FetchError::Call)?;
    if answer.status != StatusCode::OK {
        return Err(FetchError::Status(answer.status));
    }
    let max_age = max_age(&answer.headers);
    let document = String::from_utf8(answer.body.into()).map_err(|_| FetchError::NotText)?;
    let set = KeySet::from_jwks(&document).map_err(FetchError::Keys)?;
    Ok(Fetched { document, set, max_age })
}

/// Whom to call, and for what. Keys decide who may pass, so they come over TLS or from this machine.
fn place(uri: &str) -> Result<(TargetUrl, Uri), FetchError> {
    let url: TargetUrl = uri.parse().map_err(|_| FetchError::Insecure)?;
    if !(url.https || url.is_loopback()) {
        return Err(FetchError::Insecure);
    }
    // As it was written: `TargetUrl` drops a slash at the end.
    let whole: Uri = uri.parse().map_err(|_| FetchError::Insecure)?;
    let path = whole.path().parse().map_err(|_| FetchError::Insecure)?;
    Ok((TargetUrl { path: SmolStr::default(), ..url }, path))
}

/// RFC 9111, section 5.2.2.1.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let mut directives =
        values.flat_map(|value| value.split(',')).filter_map(|one| one.trim().split_once('='));
    let (_, seconds) = directives.find(|(name, _)| name.eq_ignore_ascii_case("max-age"))?;
    Some(Duration::from_secs(seconds.trim_matches('"').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for (uri, server, path) in [
            ("https://issuer.example/keys", "https://issuer.example", "/keys"),
            ("https://issuer.example", "https://issuer.example", "/"),
            ("https://issuer.example:8443/a/", "https://issuer.example:8443", "/a/"),
            ("http://localhost:3000/jwks", "http://localhost:3000", "/jwks"),
            ("http://127.0.0.1:3000/jwks", "http://127.0.0.1:3000", "/jwks"),
            ("http://[::1]/jwks", "http://[::1]", "/jwks"),
        ] {
            let (url, target) = place(uri).expect(uri);
            assert_eq!((url.to_string().as_str(), target.to_string().as_str()), (server, path));
        }
        for uri in [
            "http://issuer.example/keys",
            "http://10.0.0.1/keys",
            "http://127.0.0.1.evil.example/keys",
            "http://localhost@evil.example/keys",
            "ftp://localhost/keys",
            "issuer.example",
            "",
        ] {
            assert!(matches!(place(uri), Err(FetchError::Insecure)), "{uri:?}");
        }
    }

    #[test]
    fn the_issuer_says_how_long_its_keys_are_good() {
        for (values, seconds) in [
            (&["max-age=300"][..], Some(300)),
            (&["public, Max-Age=\"60\", must-revalidate"], Some(60)),
            (&["no-transform", "max-age=5"], Some(5)),
            (&["no-store"], None),
            (&["max-age=soon"], None),
            (&["max-age=-1"], None),
            (&["s-maxage=5"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(value));
            }
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{values:?}");
        }
    }
}
