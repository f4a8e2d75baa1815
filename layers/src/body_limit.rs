//! Refuses request bodies that are too large, before and while they arrive.
//!
//! A body that says how long it is is refused at once (413); one that does not is cut off with a
//! [`RequestBodyError::TooLarge`] when it has grown too long, which `forward` answers with 413. It does not
//! limit how slowly a body comes (`serve` does) and does not look at responses. It stands anywhere
//! outside `forward`; inside the host's stack the limit is the host's own.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::body_limit::BodyLimitLayer;
//! use portcullis_layers::{Body, BoxError};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let upstream = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(http::Response::new(())) });
//! let service = BodyLimitLayer::new(3).layer(upstream);
//! assert!(service.clone().oneshot(Request::new(Body::from("abc"))).await.is_ok());
//! assert!(service.oneshot(Request::new(Body::from("abcd"))).await.is_err());
//! # }
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::{Body, BoxError, RequestBodyError};
use crate::future::Gate;
use crate::rejection::Rejection;

/// Applies [`BodyLimit`].
#[derive(Debug, Clone, Copy)]
pub struct BodyLimitLayer {
    limit: u64,
}

impl BodyLimitLayer {
    /// Bodies of up to `limit` bytes.
    pub const fn new(limit: u64) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BodyLimit { inner, limit: self.limit }
    }
}

/// Refuses request bodies that are too large.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit<S> {
    inner: S,
    limit: u64,
}

impl<S, R> Service<http::Request<Body>> for BodyLimit<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = http::Response<R>;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let limit = self.limit;
        let hint = request.body().size_hint();
        if hint.lower() > limit {
            return Gate::refuse(Rejection::from(RequestBodyError::TooLarge { limit }));
        }
        // A body that says its length can't grow beyond it: the framing is checked below us.
        let bounded = hint.upper().is_some_and(|upper| upper <= limit);
        let request = if bounded {
            request
        } else {
            request.map(|body| Body::new(Limited { body, left: limit, limit }))
        };
        Gate::pass(self.inner.call(request))
    }
}

/// A body that fails when it is longer than it may be.
struct Limited {
    body: Body,
    left: u64,
    limit: u64,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    let limit = self.limit;
                    return Poll::Ready(Some(Err(RequestBodyError::TooLarge { limit }.into())));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_off() {
        let upstream = service_fn(async |request: http::Request<Body>| {
            let collected = request.into_body().collect().await;
            collected.map(|body| http::Response::new(body.to_bytes()))
        });
        let send = |pieces: &'static [&'static str]| {
            let frames = pieces
                .iter()
                .map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
            let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
            BodyLimitLayer::new(4).layer(upstream).oneshot(http::Request::new(body))
        };
        assert_eq!(send(&["ab", "cd"]).await.expect("fits").into_body(), "abcd");
        let error = send(&["ab", "cde"]).await.expect_err("is too long");
        assert!(matches!(RequestBodyError::find(&*error), Some(RequestBodyError::TooLarge { limit: 4 })));
    }
}
