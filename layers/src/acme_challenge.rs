//! Answers the HTTP-01 challenges of a certificate authority (RFC 8555, section 8.3).
//!
//! A `GET` or `HEAD` below `/.well-known/acme-challenge/` is answered here, whatever host it is for: the key
//! authorization of a challenge that is pending, else 404. What the last part of the path must look like to be a token
//! at all is checked first, so that [`KeyAuthorizations`] is only asked for what an authority could have made.
//!
//! It does not talk to the authority. It must stand behind [`normalize`](crate::normalize), and outside hosts, redirects
//! and auth: a name may have no host yet, and the authority has no token.
//!
//! ```
//! use std::net::IpAddr;
//! use std::sync::Arc;
//!
//! use futures_util::future::{BoxFuture, FutureExt, ready};
//! use http::{Request, Response};
//! use portcullis_layers::acme_challenge::{AcmeChallengeLayer, KeyAuthorizations, Lookup};
//! use portcullis_layers::{Body, BoxError};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! struct One;
//!
//! impl KeyAuthorizations for One {
//!     fn key_authorization(&self, token: &str, _: Option<IpAddr>) -> BoxFuture<'static, Lookup> {
//!         let found = (token == "evaGxfADs6pSRb2LAv9IZf17").then(|| format!("{token}.thumbprint").into());
//!         ready(Ok(found)).boxed()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let site = service_fn(|_: Request<()>| async { Err::<Response<Body>, BoxError>("no host".into()) });
//! let service = AcmeChallengeLayer::new(Arc::new(One)).layer(site);
//! let request = Request::get("/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17").body(())?;
//! assert_eq!(service.oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use pin_project_lite::pin_project;
use smol_str::SmolStr;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::BoxError;
use crate::context::RequestContext;
use crate::rejection::Rejection;

/// Where challenges are asked for (RFC 8555, section 8.3).
pub const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// Tokens have at least 128 bits in base64url (RFC 8555, section 8.1), and authorities use 43 characters.
const TOKEN: std::ops::RangeInclusive<usize> = 22..=128;

/// The key authorization of a token, if it is pending; or that this can't be known now.
pub type Lookup = Result<Option<SmolStr>, Busy>;

/// Nobody can tell at the moment whether a challenge is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pending challenges can't be looked up now")]
pub struct Busy;

/// Knows the challenges that are pending.
pub trait KeyAuthorizations: Send + Sync + 'static {
    /// The key authorization for a token: three lines of a program of its own, or a look at what other nodes have put up.
    /// Who asks is told, so that strangers who try tokens can be slowed down.
    fn key_authorization(&self, token: &str, client: Option<IpAddr>) -> BoxFuture<'static, Lookup>;
}

impl<T: KeyAuthorizations + ?Sized> KeyAuthorizations for Arc<T> {
    fn key_authorization(&self, token: &str, client: Option<IpAddr>) -> BoxFuture<'static, Lookup> {
        (**self).key_authorization(token, client)
    }
}

/// Applies [`AcmeChallenge`].
#[derive(Clone)]
pub struct AcmeChallengeLayer {
    challenges: Arc<dyn KeyAuthorizations>,
}

impl AcmeChallengeLayer {
    /// Answers these challenges.
    pub fn new(challenges: impl KeyAuthorizations) -> Self {
        Self { challenges: Arc::new(challenges) }
    }
}

impl fmt::Debug for AcmeChallengeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcmeChallengeLayer")
    }
}

impl<S> Layer<S> for AcmeChallengeLayer {
    type Service = AcmeChallenge<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AcmeChallenge { inner, layer: self.clone() }
    }
}

/// Answers challenges and hands everything else on.
#[derive(Debug, Clone)]
pub struct AcmeChallenge<S> {
    inner: S,
    layer: AcmeChallengeLayer,
}

impl<S, B, R> Service<http::Request<B>> for AcmeChallenge<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    R: From<Bytes>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let state = match request.uri().path().strip_prefix(WELL_KNOWN) {
            Some(token) if reads => {
                let client = RequestContext::get(request.extensions()).and_then(RequestContext::client_addr);
                let client = client.map(|client| client.ip());
                let asked = is_token(token).then(|| self.layer.challenges.key_authorization(token, client));
                State::Asked { asked, head: *request.method() == Method::HEAD }
            }
            _ => State::Called { future: self.inner.call(request) },
        };
        ResponseFuture { state }
    }
}

fn is_token(text: &str) -> bool {
    TOKEN.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

pin_project! {
    /// The future of [`AcmeChallenge`].
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Called { #[pin] future: F },
        Asked { asked: Option<BoxFuture<'static, Lookup>>, head: bool },
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    E: Into<BoxError>,
    R: From<Bytes>,
{
    type Output = Result<http::Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (found, head) = match self.project().state.project() {
            StateProj::Called { future } => return future.poll(cx).map_err(Into::into),
            StateProj::Asked { asked: None, .. } => (Ok(None), false),
            StateProj::Asked { asked: Some(asked), head } => (ready!(asked.as_mut().poll(cx)), *head),
        };
        Poll::Ready(match found {
            Ok(Some(authorization)) => Ok(answer(&authorization, head)),
            Ok(None) => Err(Rejection::from(AcmeChallengeError::Unknown).into()),
            Err(Busy) => Err(Rejection::from(AcmeChallengeError::Busy).into()),
        })
    }
}

/// Why there is no key authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcmeChallengeError {
    /// No such challenge is pending.
    #[error("no such challenge")]
    Unknown,
    /// It can't be known now.
    #[error("challenges can't be looked up")]
    Busy,
}

impl From<AcmeChallengeError> for Rejection {
    fn from(error: AcmeChallengeError) -> Self {
        match error {
            AcmeChallengeError::Unknown => Self::new(
                StatusCode::NOT_FOUND,
                "no_such_challenge",
                "No challenge with this token is pending.",
            ),
            AcmeChallengeError::Busy => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "challenges_busy",
                "Pending challenges can't be looked up now.",
            ),
        }
    }
}

fn answer<R: From<Bytes>>(authorization: &SmolStr, head: bool) -> http::Response<R> {
    let body = if head { Bytes::new() } else { Bytes::copy_from_slice(authorization.as_bytes()) };
    let mut response = http::Response::new(R::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(authorization.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::future::FutureExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::Body;
    use crate::context::ClientAddr;

    const KNOWN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";

    struct Known;

    impl KeyAuthorizations for Known {
        fn key_authorization(&self, token: &str, client: Option<IpAddr>) -> BoxFuture<'static, Lookup> {
            let found = match token {
                KNOWN => Ok(Some("the.answer".into())),
                "busybusybusybusybusybusy" => Err(Busy),
                "whoaskswhoaskswhoaskswhoasks" => Ok(client.map(|client| client.to_string().into())),
                _ => Ok(None),
            };
            std::future::ready(found).boxed()
        }
    }

    async fn ask(method: Method, path: &str) -> Result<http::Response<Bytes>, BoxError> {
        let site = service_fn(|_: http::Request<()>| async {
            Ok::<_, BoxError>(http::Response::new(Bytes::from_static(b"the site")))
        });
        let request = http::Request::builder().method(method).uri(path).body(()).expect("valid");
        AcmeChallengeLayer::new(Arc::new(Known)).layer(site).oneshot(request).await
    }

    #[tokio::test]
    async fn a_pending_challenge_is_answered() {
        let response = ask(Method::GET, &format!("{WELL_KNOWN}{KNOWN}")).await.expect("answered");
        assert_eq!(response.body(), &Bytes::from_static(b"the.answer"));
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
        let response = ask(Method::HEAD, &format!("{WELL_KNOWN}{KNOWN}")).await.expect("answered");
        assert!(response.body().is_empty());
        assert_eq!(response.headers()[CONTENT_LENGTH], "10");
    }

    #[tokio::test]
    async fn what_is_not_pending_is_not_found() {
        let long = "a".repeat(129);
        for (token, status) in [
            ("unknownunknownunknownunknown", 404),
            ("busybusybusybusybusybusy", 503),
            ("", 404),
            ("short", 404),
            (long.as_str(), 404),
            ("evaGxfADs6pSRb2LAv9IZf17/x", 404),
            ("evaGxfADs6pSRb2LAv9IZf17%2F", 404),
            ("evaGxfADs6pSRb2LAv9IZf17.txt", 404),
        ] {
            let error = ask(Method::GET, &format!("{WELL_KNOWN}{token}")).await.expect_err("refused");
            assert_eq!(Rejection::of(error).status(), status, "{token:?}");
        }
    }

    #[tokio::test]
    async fn whoever_knows_the_challenges_is_told_who_asks() {
        let site =
            service_fn(|_: http::Request<()>| async { Ok::<_, BoxError>(http::Response::new(Bytes::new())) });
        let request = http::Request::get(format!("{WELL_KNOWN}whoaskswhoaskswhoaskswhoasks"));
        let client = ClientAddr(SocketAddr::from(([192, 0, 2, 1], 4711)));
        let context = RequestContext { client: Some(client), ..RequestContext::default() };
        let request = request.extension(context).body(()).expect("valid");
        let response = AcmeChallengeLayer::new(Arc::new(Known)).layer(site).oneshot(request).await;
        assert_eq!(response.expect("answered").body(), &Bytes::from_static(b"192.0.2.1"));
    }

    #[tokio::test]
    async fn everything_else_goes_on() {
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/.well-known/acme-challenge"),
            (Method::GET, "/x/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17"),
            (Method::POST, "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"),
        ] {
            let response = ask(method, path).await.expect("handed on");
            assert_eq!(response.body(), &Bytes::from_static(b"the site"), "{path}");
        }
    }

    #[tokio::test]
    async fn bodies_of_the_crate_fit() {
        let site = service_fn(|_: http::Request<Body>| async {
            Ok::<_, BoxError>(http::Response::new(Body::empty()))
        });
        let request = http::Request::get(format!("{WELL_KNOWN}{KNOWN}")).body(Body::empty()).expect("valid");
        let service = AcmeChallengeLayer::new(Known).layer(site);
        assert_eq!(service.oneshot(request).await.expect("answered").status(), 200);
    }
}
