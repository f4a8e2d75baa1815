//! One fetch of one key set, within bounds.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use portcullis_layers::auth::{JwksError, KeySet};
use portcullis_layers::forward::{Client, Forward, InvalidTarget, InvalidUpstream, Target, Upstream};
use portcullis_layers::{Body, BoxError};
use tokio_util::sync::CancellationToken;

use crate::config::TargetUrl;

/// From looking the name up until the last byte.
const LIMIT: Duration = Duration::from_secs(10);

/// The largest providers send about ten kilobytes.
const MAX_BODY: usize = 256 * 1024;

/// Some servers refuse requests that don't say who asks.
const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

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
    #[error("not a URL that can be called")]
    Upstream(#[source] InvalidUpstream),
    #[error("the issuer can't be called")]
    Setup(#[source] InvalidTarget),
    #[error("no answer")]
    Call(#[source] BoxError),
    #[error("no whole answer within {LIMIT:?}")]
    Slow,
    #[error("answered {0} instead of 200")]
    Status(StatusCode),
    #[error("answer is longer than {MAX_BODY} bytes")]
    TooLong,
    #[error("answer broke off")]
    BrokeOff(#[source] BoxError),
    #[error("answer is not UTF-8")]
    NotText,
    #[error("answer can't be used")]
    Keys(#[source] JwksError),
}

/// Fetches a key set. Redirects are refused like every other answer than 200.
pub(super) async fn fetch(client: &Client, ca: Option<Arc<str>>, uri: &str) -> Result<Fetched, FetchError> {
    let (upstream, path) = place(uri, ca)?;
    let target = Target { preserve_host: false, ..Target::new(upstream) };
    let forward = Forward::new(client, target, CancellationToken::new()).map_err(FetchError::Setup)?;
    tokio::time::timeout(LIMIT, call(&forward, path)).await.map_err(|_| FetchError::Slow)?
}

/// Whom to call, and for what. Keys decide who may pass, so they come over TLS or from this machine.
fn place(uri: &str, ca: Option<Arc<str>>) -> Result<(Upstream, Uri), FetchError> {
    let url: TargetUrl = uri.parse().map_err(|_| FetchError::Insecure)?;
    if !(url.https || url.is_loopback()) {
        return Err(FetchError::Insecure);
    }
    let scheme = if url.https { "https" } else { "http" };
    let mut upstream: Upstream =
        format!("{scheme}://{}:{}", url.host, url.port).parse().map_err(FetchError::Upstream)?;
    upstream.tls.ca = ca;
    // As it was written: `TargetUrl` drops a slash at the end.
    let whole: Uri = uri.parse().map_err(|_| FetchError::Insecure)?;
    let path = whole.path().parse().map_err(|_| FetchError::Insecure)?;
    Ok((upstream, path))
}

async fn call(forward: &Forward, path: Uri) -> Result<Fetched, FetchError> {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = path;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let response = forward.send(request).await.map_err(FetchError::Call)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let max_age = max_age(response.headers());
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { FetchError::TooLong } else { FetchError::BrokeOff(error) }
    })?;
    let document = String::from_utf8(body.to_bytes().into()).map_err(|_| FetchError::NotText)?;
    let set = KeySet::from_jwks(&document).map_err(FetchError::Keys)?;
    Ok(Fetched { document, set, max_age })
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
        for (uri, label, path) in [
            ("https://issuer.example/keys", "https://issuer.example:443", "/keys"),
            ("https://issuer.example", "https://issuer.example:443", "/"),
            ("https://issuer.example:8443/a/", "https://issuer.example:8443", "/a/"),
            ("http://localhost:3000/jwks", "http://localhost:3000", "/jwks"),
            ("http://127.0.0.1:3000/jwks", "http://127.0.0.1:3000", "/jwks"),
            ("http://[::1]/jwks", "http://[::1]:80", "/jwks"),
        ] {
            let (upstream, target) = place(uri, None).expect(uri);
            assert_eq!((upstream.label().as_str(), target.to_string().as_str()), (label, path));
            assert!(upstream.tls.verify);
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
            assert!(matches!(place(uri, None), Err(FetchError::Insecure)), "{uri:?}");
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
