//! Lets requests in that bring a token in a header: a key for a door, not an identity.
//!
//! The header is [`SOURCE_TOKEN`]. A request without the token, with another one, or with two is refused with 401; the
//! header goes no further. Tokens are compared in constant time, by digests, so that not even their length shows.
//!
//! It does not know who asks and knows no scopes: see [`auth`](crate::auth) for that. It stands in front of whatever
//! may read the body, behind [`respond`](crate::respond).
//!
//! ```
//! use http::{Request, Response};
//! use portcullis_layers::source_token::{SOURCE_TOKEN, SourceToken, SourceTokenLayer};
//! use portcullis_layers::{Body, BoxError};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let site = service_fn(|request: Request<()>| async move {
//!     assert!(!request.headers().contains_key(SOURCE_TOKEN));
//!     Ok::<_, BoxError>(Response::new(Body::empty()))
//! });
//! let service = SourceTokenLayer::new(SourceToken::new("open sesame")).layer(site);
//! let request = Request::get("/").header(SOURCE_TOKEN, "open sesame").body(())?;
//! assert_eq!(service.clone().oneshot(request).await?.status(), 200);
//! assert!(service.oneshot(Request::get("/").body(())?).await.is_err());
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::task::{Context, Poll};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::BoxError;
use crate::check::Check;
use crate::future::Gate;
use crate::rejection::Rejection;

/// The header that brings the token.
pub const SOURCE_TOKEN: HeaderName = HeaderName::from_static("x-source-token");

/// A token, as far as it takes to recognise it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SourceToken([u8; SHA256_OUTPUT_LEN]);

impl SourceToken {
    /// What recognises a token.
    pub fn new(token: &str) -> Self {
        let mut sum = [0; SHA256_OUTPUT_LEN];
        sum.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(sum)
    }

    fn matches(&self, value: &HeaderValue) -> bool {
        let given = digest(&SHA256, value.as_bytes());
        verify_slices_are_equal(&self.0, given.as_ref()).is_ok()
    }
}

impl fmt::Debug for SourceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceToken")
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceTokenError {
    /// There is no token.
    #[error("the request has no source token")]
    Missing,
    /// It is another one, or there are several.
    #[error("the request has another source token")]
    Wrong,
}

impl From<SourceTokenError> for Rejection {
    fn from(error: SourceTokenError) -> Self {
        let (code, detail) = match error {
            SourceTokenError::Missing => {
                ("source_token_required", "This port takes requests with its token in `X-Source-Token` only.")
            }
            SourceTokenError::Wrong => {
                ("source_token_invalid", "The token in `X-Source-Token` is not this port's.")
            }
        };
        // A 401 names a scheme (RFC 9110, section 11.6.1); there is no registered one for a plain key.
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
            .with_check(Check::Token)
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Source-Token"))
    }
}

/// Applies [`RequireSourceToken`].
#[derive(Debug, Clone)]
pub struct SourceTokenLayer {
    token: SourceToken,
}

impl SourceTokenLayer {
    /// Requires this token.
    pub const fn new(token: SourceToken) -> Self {
        Self { token }
    }
}

impl<S> Layer<S> for SourceTokenLayer {
    type Service = RequireSourceToken<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireSourceToken { inner, token: self.token }
    }
}

/// Hands on requests that bring the token, without it.
#[derive(Debug, Clone)]
pub struct RequireSourceToken<S> {
    inner: S,
    token: SourceToken,
}

impl<S, B> Service<http::Request<B>> for RequireSourceToken<S>
where
    S: Service<http::Request<B>, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let values = request.headers().get_all(SOURCE_TOKEN);
        // All of them: which one counts is nobody's guess, and how many there are is no secret.
        let judged = match values.iter().count() {
            0 => Err(SourceTokenError::Missing),
            1 if values.iter().all(|value| self.token.matches(value)) => Ok(()),
            _ => Err(SourceTokenError::Wrong),
        };
        match judged {
            Ok(()) => {
                request.headers_mut().remove(SOURCE_TOKEN);
                Gate::pass(self.inner.call(request))
            }
            Err(error) => Gate::refuse(Rejection::from(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn ask(tokens: &[&str]) -> Result<bool, Rejection> {
        let site = service_fn(|request: Request<()>| async move {
            Ok::<_, BoxError>(Response::new(request.headers().contains_key(SOURCE_TOKEN)))
        });
        let mut request = Request::get("/");
        for token in tokens {
            request = request.header(SOURCE_TOKEN, *token);
        }
        let request = request.body(()).expect("valid");
        let service = SourceTokenLayer::new(SourceToken::new("a token of some length")).layer(site);
        service.oneshot(request).await.map(Response::into_body).map_err(Rejection::of)
    }

    #[tokio::test]
    async fn the_token_opens_the_door_and_stays_there() {
        assert!(!ask(&["a token of some length"]).await.expect("let in"));
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for (tokens, code) in [
            (&[][..], "source_token_required"),
            (&[""], "source_token_invalid"),
            (&["A token of some length"], "source_token_invalid"),
            (&["a token of some length "], "source_token_invalid"),
            (&["a token of some length", "a token of some length"], "source_token_invalid"),
            (&["x", "a token of some length"], "source_token_invalid"),
        ] {
            // What is around a value is none of it (RFC 9110, section 5.5); the server below takes it away.
            let refused = ask(tokens).await.expect_err("refused");
            assert_eq!((refused.status(), refused.code()), (StatusCode::UNAUTHORIZED, code), "{tokens:?}");
        }
        assert_eq!(format!("{:?}", SourceToken::new("secret")), "SourceToken");
    }
}
