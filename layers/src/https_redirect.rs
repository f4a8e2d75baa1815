//! Sends plain requests to the same URL over HTTPS: 308 (RFC 9110, section 15.4.9), so that methods
//! and bodies stay what they are.
//!
//! Requests for `/.well-known/acme-challenge/` go on: a certificate authority asks over plain HTTP
//! (RFC 8555, section 8.3). A client that a trusted proxy says has used HTTPS goes on, too.
//!
//! It does not set HSTS and does not know whether a certificate serves; whoever builds the stack does.
//! It must stand behind [`normalize`](crate::normalize), as it sends the client where the request says.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::https_redirect::HttpsRedirectLayer;
//! use portcullis_layers::{BoxError, Rejection, RequestContext};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let site = service_fn(|_: Request<()>| async { Ok::<(), BoxError>(()) });
//! let mut request = Request::get("/a?b=c").body(())?;
//! RequestContext::of(request.extensions_mut()).host = Some("example.com".parse()?);
//! let refused = HttpsRedirectLayer::new(443).layer(site).oneshot(request).await.unwrap_err();
//! let redirect = Rejection::of(refused);
//! assert_eq!(redirect.headers()["location"], "https://example.com/a?b=c");
//! # Ok(())
//! # }
//! ```

use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::LOCATION;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::BoxError;
use crate::context::RequestContext;
use crate::future::Gate;
use crate::names::HostName;
use crate::rejection::Rejection;

const ACME_CHALLENGES: &str = "/.well-known/acme-challenge/";
const DEFAULT_PORT: u16 = 443;

/// Applies [`HttpsRedirect`].
#[derive(Debug, Clone, Copy)]
pub struct HttpsRedirectLayer {
    port: u16,
}

impl HttpsRedirectLayer {
    /// Redirects to this port, the one that clients see; it is left out of the URL when it is 443.
    pub const fn new(port: u16) -> Self {
        Self { port }
    }
}

impl Default for HttpsRedirectLayer {
    fn default() -> Self {
        Self::new(DEFAULT_PORT)
    }
}

impl<S> Layer<S> for HttpsRedirectLayer {
    type Service = HttpsRedirect<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpsRedirect { inner, port: self.port }
    }
}

/// Hands on what came over HTTPS.
#[derive(Debug, Clone)]
pub struct HttpsRedirect<S> {
    inner: S,
    port: u16,
}

impl<S, B> Service<http::Request<B>> for HttpsRedirect<S>
where
    S: Service<http::Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let context = RequestContext::of(request.extensions_mut());
        if context.scheme() == "https" {
            return Gate::pass(self.inner.call(request));
        }
        let host = context.host.clone();
        if request.uri().path().starts_with(ACME_CHALLENGES) {
            return Gate::pass(self.inner.call(request));
        }
        Gate::refuse(Rejection::from(match host.and_then(|host| location(&host, self.port, request.uri())) {
            Some(location) => HttpsRedirectError::Plain(location),
            None => HttpsRedirectError::Unset,
        }))
    }
}

/// Why a request was not handed on.
#[derive(Debug, thiserror::Error)]
pub enum HttpsRedirectError {
    /// It came over plain HTTP; here is where it should go.
    #[error("plain HTTP")]
    Plain(HeaderValue),
    /// The request has no host: a bug in how the stack is put together.
    #[error("the request has no host: normalize must stand outside https redirect")]
    Unset,
}

impl From<HttpsRedirectError> for Rejection {
    fn from(error: HttpsRedirectError) -> Self {
        match error {
            HttpsRedirectError::Plain(location) => {
                Self::new(StatusCode::PERMANENT_REDIRECT, "https_required", "This site is served over HTTPS.")
                    .with_header(LOCATION, location)
            }
            HttpsRedirectError::Unset => Self::of(error),
        }
    }
}

fn location(host: &HostName, port: u16, uri: &Uri) -> Option<HeaderValue> {
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let url = match port {
        DEFAULT_PORT => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    HeaderValue::from_maybe_shared(Bytes::from(url)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::context::{CertNames, ClientAddr, Conn, TlsInfo};

    /// Where the client is sent, or `None` if the request went on.
    async fn redirected(port: u16, uri: &str, prepare: impl FnOnce(&mut RequestContext)) -> Option<String> {
        let inner = service_fn(|_: http::Request<()>| async { Ok::<(), BoxError>(()) });
        let mut request = http::Request::post(uri).body(()).expect("valid");
        let context = RequestContext::of(request.extensions_mut());
        context.host = Some("a.example".parse().expect("valid"));
        prepare(context);
        let error = HttpsRedirectLayer::new(port).layer(inner).oneshot(request).await.err()?;
        let rejection = Rejection::of(error);
        assert_eq!(rejection.status(), StatusCode::PERMANENT_REDIRECT);
        Some(rejection.headers()[LOCATION].to_str().expect("text").to_owned())
    }

    #[tokio::test]
    async fn plain_requests_are_sent_to_the_public_port() {
        for (port, uri, expected) in [
            (443, "/", "https://a.example/"),
            (443, "/a/b?c=d&e", "https://a.example/a/b?c=d&e"),
            (8443, "/x", "https://a.example:8443/x"),
            (443, "//evil.example/", "https://a.example//evil.example/"),
            (443, "/.well-known/acme-challengex/", "https://a.example/.well-known/acme-challengex/"),
        ] {
            assert_eq!(redirected(port, uri, |_| {}).await.as_deref(), Some(expected));
        }
    }

    #[tokio::test]
    async fn challenges_and_https_go_on() {
        assert_eq!(redirected(443, "/.well-known/acme-challenge/token", |_| {}).await, None);
        assert_eq!(redirected(443, "/", |context| context.scheme = Some("https")).await, None);
        let over_tls = |context: &mut RequestContext| {
            let address = "192.0.2.1:443".parse().expect("valid");
            let tls = TlsInfo { version: "TLSv1.3", sni: None, alpn: None, names: CertNames::default() };
            context.conn = Some(Arc::new(Conn::new(address, address, ClientAddr(address), Some(tls))));
        };
        assert_eq!(redirected(443, "/", over_tls).await, None);
    }

    #[tokio::test]
    async fn a_trusted_proxy_that_was_asked_in_plain_is_redirected() {
        assert!(redirected(443, "/", |context| context.scheme = Some("http")).await.is_some());
    }
}
