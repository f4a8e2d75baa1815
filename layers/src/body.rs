//! The body, request and response that the stacks speak, and the boxed service between them.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tower_service::Service;

use crate::rejection::Rejection;

/// The error that every layer between `respond` and the leaf speaks.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request inside the stacks.
pub type Request = http::Request<Body>;

/// A response inside the stacks.
pub type Response = http::Response<Body>;

/// The client's body failed, not the upstream: the answer is 4xx, and never 502.
///
/// `serve` makes these the errors of every request body. A client library wraps the errors of the
/// bodies that it sends, so look for them with [`find`](Self::find).
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// It broke its framing, or ended early.
    #[error("the request body is malformed or ended early")]
    Malformed(#[source] BoxError),
    /// It is larger than the limit, or says that it will be.
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The client was waited for too long.
    #[error("the request body made no progress for {0:?}")]
    Stalled(Duration),
}

impl RequestBodyError {
    /// The error of the client's body behind an error, if that was the cause.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }

    /// What it means to the client.
    pub fn rejection(&self) -> Rejection {
        let (status, code) = match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_request_body"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "request_body_too_large"),
            Self::Stalled(_) => (StatusCode::REQUEST_TIMEOUT, "request_body_timeout"),
        };
        Rejection::new(status, code, self.to_string())
    }
}

impl From<RequestBodyError> for Rejection {
    fn from(error: RequestBodyError) -> Self {
        error.rejection().with_source(error)
    }
}

type DynBody = dyn http_body::Body<Data = Bytes, Error = BoxError> + Send;

/// A streaming body. Nothing is ever gathered: frames flow as they come.
///
/// An enum, because the common bodies, what hyper reads and what we write ourselves, need no box.
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Boxed(Pin<Box<DynBody>>),
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self(Inner::Empty)
    }

    /// All of it, where it is here already; the body itself where it is still to come.
    pub fn into_whole(self) -> Result<Bytes, Self> {
        match self.0 {
            Inner::Empty => Ok(Bytes::new()),
            Inner::Full(bytes) => Ok(bytes),
            _ => Err(self),
        }
    }

    /// Any other body, boxed.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Inner::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self(Inner::Incoming(body))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() { Inner::Empty } else { Inner::Full(bytes) })
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Inner::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Full(_) => false,
            Inner::Incoming(body) => body.is_end_stream(),
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Incoming(body) => body.size_hint(),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Empty => "Body(empty)",
            Inner::Full(_) => "Body(full)",
            Inner::Incoming(_) => "Body(incoming)",
            Inner::Boxed(_) => "Body(boxed)",
        })
    }
}

/// A boxed future, as [`HttpService`] returns it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The box at the two seams, host and route: any HTTP stack behind one type.
///
/// Always ready, and a clone is one reference count: the concrete stack behind it is cloned for
/// the call (reference counts again) and asked for readiness inside the returned future.
#[derive(Clone)]
pub struct HttpService(Arc<dyn Erased>);

trait Erased: Send + Sync {
    fn call(&self, request: Request) -> BoxFuture<Result<Response, BoxError>>;
}

struct Concrete<S>(S);

struct Function<F>(F);

impl<F, Fut> Erased for Function<F>
where
    F: Fn(Request) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Response, BoxError>> + Send + 'static,
{
    fn call(&self, request: Request) -> BoxFuture<Result<Response, BoxError>> {
        Box::pin((self.0)(request))
    }
}

impl<S> Erased for Concrete<S>
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn call(&self, request: Request) -> BoxFuture<Result<Response, BoxError>> {
        match Ready::of(self.0.clone()) {
            // The usual case: the box holds neither the request nor the stack.
            Ready::Now(mut service) => {
                let future = service.call(request);
                Box::pin(async { future.await.map_err(Into::into) })
            }
            Ready::Later(service) => called_when_ready(service, request),
            Ready::Never(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

struct Flat<S>(S);

impl<S> Erased for Flat<S>
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Into<BoxFuture<Result<Response, BoxError>>> + Send,
{
    fn call(&self, request: Request) -> BoxFuture<Result<Response, BoxError>> {
        match Ready::of(self.0.clone()) {
            Ready::Now(mut service) => service.call(request).into(),
            Ready::Later(mut service) => Box::pin(async move {
                poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                service.call(request).into().await
            }),
            Ready::Never(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// What a service says of itself before its first call.
enum Ready<S> {
    Now(S),
    Later(S),
    Never(BoxError),
}

impl<S: Service<Request, Error: Into<BoxError>>> Ready<S> {
    fn of(mut service: S) -> Self {
        // Nobody is woken by this: a service that is not ready is asked again in the future.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Now(service),
            Poll::Ready(Err(error)) => Self::Never(error.into()),
            Poll::Pending => Self::Later(service),
        }
    }
}

fn called_when_ready<S>(mut service: S, request: Request) -> BoxFuture<Result<Response, BoxError>>
where
    S: Service<Request, Response = Response> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    Box::pin(async move {
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
        service.call(request).await.map_err(Into::into)
    })
}

impl HttpService {
    /// Boxes a stack.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self(Arc::new(Concrete(service)))
    }

    /// Boxes a stack whose future is a box already, alone or behind a [`Gate`](crate::future::Gate): it needs no second one.
    pub fn flat<S>(service: S) -> Self
    where
        S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Into<BoxFuture<Result<Response, BoxError>>> + Send,
    {
        Self(Arc::new(Flat(service)))
    }

    /// Boxes a function that answers requests: one allocation for a call, where a service whose
    /// future is boxed already would cost two.
    pub fn from_fn<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response, BoxError>> + Send + 'static,
    {
        Self(Arc::new(Function(answer)))
    }

    /// Calls the stack; no clone and no readiness needed from the caller.
    pub fn call(&self, request: Request) -> BoxFuture<Result<Response, BoxError>> {
        self.0.call(request)
    }
}

impl Service<Request> for HttpService {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.0.call(request)
    }
}

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpService")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] BoxError);

    #[test]
    fn the_fault_of_the_client_is_found_behind_other_errors() {
        let error = Wrapped(Box::new(Wrapped(Box::new(RequestBodyError::TooLarge { limit: 5 }))));
        let found = RequestBodyError::find(&error).map(RequestBodyError::rejection);
        assert_eq!(found.map(|rejection| rejection.status()), Some(StatusCode::PAYLOAD_TOO_LARGE));
        assert!(RequestBodyError::find(&Wrapped("other".into())).is_none());
    }
}
