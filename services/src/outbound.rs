//! Calls to servers of others: over TLS or on this machine, within a time and a size.
//!
//! Redirects are answers like any other: nothing here follows them, so that a request with a secret
//! goes where it was sent to and nowhere else. It does not retry, and it judges no status.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use portcullis_layers::forward::{Client, Forward, InvalidTarget, InvalidUpstream, Target, Upstream};
use portcullis_layers::{Body, BoxError};
use tokio_util::sync::CancellationToken;

use crate::config::TargetUrl;

/// Some servers refuse requests that don't say who asks.
const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// What one call may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From looking the name up until the last byte.
    pub time: Duration,
    /// The longest body, in bytes.
    pub body: usize,
}

/// Why a server can't be called at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// What is sent or believed would be open to everybody on the way.
    #[error("{0} is neither https nor on this machine")]
    Insecure(TargetUrl),
    /// It is no upstream.
    #[error("not a URL that can be called")]
    Upstream(#[source] InvalidUpstream),
    /// TLS can't be set up.
    #[error("the server can't be called")]
    Target(#[source] InvalidTarget),
}

/// Why there is no whole answer. Nothing of the request is in here.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, or no answer on it.
    #[error("no answer")]
    NoAnswer(#[source] BoxError),
    /// It took too long.
    #[error("no whole answer within {0:?}")]
    Slow(Duration),
    /// It is too long.
    #[error("answer is longer than {0} bytes")]
    TooLong(usize),
    /// It ended in the middle.
    #[error("answer broke off")]
    BrokeOff(#[source] BoxError),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Of an answer that is no success: what could be read of it, or nothing.
    pub(crate) body: Bytes,
}

/// One server of somebody else. A clone is a reference count.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    forward: Forward,
    limits: Limits,
}

impl Outbound {
    /// A server; requests have paths below the path of its URL. Its certificate must be good for
    /// the platform's authorities, or for those in `ca` (PEM) alone.
    pub(crate) fn new(
        client: &Client,
        url: &TargetUrl,
        ca: Option<Arc<str>>,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        if !(url.https || url.is_loopback()) {
            return Err(SetupError::Insecure(url.clone()));
        }
        Self::open(client, url, ca, limits)
    }

    /// A server that is told no secrets, and whose answers are believed for their signatures only: over plain HTTP, too.
    #[cfg(feature = "acme")]
    pub(crate) fn for_signed_answers(
        client: &Client,
        url: &TargetUrl,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        Self::open(client, url, None, limits)
    }

    fn open(
        client: &Client,
        url: &TargetUrl,
        ca: Option<Arc<str>>,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        let mut upstream: Upstream = url.to_string().parse().map_err(SetupError::Upstream)?;
        upstream.tls.ca = ca;
        let target = Target { preserve_host: false, ..Target::new(upstream) };
        let forward = Forward::new(client, target, CancellationToken::new()).map_err(SetupError::Target)?;
        Ok(Self { forward, limits })
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, mut request: http::Request<Body>) -> Result<Answer, CallError> {
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let call = self.call(request);
        tokio::time::timeout(self.limits.time, call).await.map_err(|_| CallError::Slow(self.limits.time))?
    }

    async fn call(&self, request: http::Request<Body>) -> Result<Answer, CallError> {
        let response = self.forward.send(request).await.map_err(CallError::NoAnswer)?;
        let (parts, body) = response.into_parts();
        let body = match Limited::new(body, self.limits.body).collect().await {
            Ok(body) => body.to_bytes(),
            // The status says what is wrong; its page is of no interest.
            Err(_) if !parts.status.is_success() => Bytes::new(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(CallError::TooLong(self.limits.body));
            }
            Err(error) => return Err(CallError::BrokeOff(error)),
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}
