//! One call of the HTTP service, from readiness to its response.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::{BoxError, Request};
use crate::rejection::Rejection;

pin_project! {
    #[project = CallProj]
    pub(super) enum Call<S: Service<Request>> {
        Waiting { service: S, request: Option<Request> },
        Called { #[pin] future: S::Future },
        Refused { rejection: Option<Rejection> },
        Failed { error: Option<BoxError> },
    }
}

const NOT_AGAIN: &str = "a future is not polled after it is ready";

/// What became of a call.
pub(super) enum Outcome<R> {
    Answered(R),
    Refused(Rejection),
}

impl<S> Call<S>
where
    S: Service<Request> + Clone,
    S::Error: Into<BoxError>,
{
    /// Calls a service that is ready at once, as most are, without moving it or the request.
    pub(super) fn begin(service: &RefCell<S>, request: Request) -> Self {
        let mut service = service.borrow_mut();
        // Nobody is woken by this: a service that is not ready is asked again in the future.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called { future: service.call(request) },
            Poll::Ready(Err(error)) => Self::Failed { error: Some(error.into()) },
            Poll::Pending => {
                // The clone stays behind; the one that was asked goes along.
                let clone = service.clone();
                let service = std::mem::replace(&mut *service, clone);
                Self::Waiting { service, request: Some(request) }
            }
        }
    }
}

impl<S> Call<S>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
{
    pub(super) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Outcome<S::Response>, BoxError>> {
        loop {
            let future = match self.as_mut().project() {
                CallProj::Waiting { service, request } => {
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    service.call(request.take().expect("the request is kept until the service is ready"))
                }
                CallProj::Called { future } => {
                    return future.poll(cx).map_ok(Outcome::Answered).map_err(Into::into);
                }
                CallProj::Refused { rejection } => {
                    let rejection = rejection.take().expect(NOT_AGAIN);
                    return Poll::Ready(Ok(Outcome::Refused(rejection)));
                }
                CallProj::Failed { error } => return Poll::Ready(Err(error.take().expect(NOT_AGAIN))),
            };
            self.set(Self::Called { future });
        }
    }
}

/// The answer to what no layer will see, in the form of RFC 9457.
pub(super) fn problem(rejection: &Rejection) -> http::Response<Bytes> {
    let status = rejection.status();
    // Codes and details of refusals are our own constants: nothing in them needs an escape.
    let text = format!(
        r#"{{"type":"about:blank","title":"{}","status":{},"code":"{}","detail":"{}"}}"#,
        status.canonical_reason().unwrap_or_default(),
        status.as_u16(),
        rejection.code(),
        rejection.detail(),
    );
    let mut response = http::Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
