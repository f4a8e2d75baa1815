//! Headers on whatever goes back: on answers of the inner service, and on refusals.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use pin_project_lite::pin_project;

use crate::body::BoxError;
use crate::rejection::Rejection;

/// Changes the headers of one answer.
pub trait Mark {
    /// Changes them.
    fn mark(&self, headers: &mut HeaderMap);
}

pin_project! {
    /// The future of a layer that changes the headers of answers and of refusals.
    #[derive(Debug)]
    pub struct Marked<F, M> {
        #[pin]
        future: F,
        mark: M,
    }
}

impl<F, M> Marked<F, M> {
    pub(super) const fn new(future: F, mark: M) -> Self {
        Self { future, mark }
    }
}

impl<F, M, R, E> Future for Marked<F, M>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    M: Mark,
    E: Into<BoxError>,
{
    type Output = Result<http::Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match std::task::ready!(this.future.poll(cx)) {
            Ok(mut response) => {
                this.mark.mark(response.headers_mut());
                Ok(response)
            }
            // An error without a meaning gets one here, or its answer would lack the headers.
            Err(error) => {
                let mut rejection = Rejection::of(error);
                this.mark.mark(rejection.headers_mut());
                Err(rejection.into())
            }
        })
    }
}
