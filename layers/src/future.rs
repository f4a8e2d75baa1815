//! The future of a layer that decides at once: pass to the inner service, or fail.

use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::body::{BoxError, BoxFuture, Response};

pin_project! {
    /// Either the inner service's future or an error that is ready.
    #[derive(Debug)]
    pub struct Gate<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Pass { #[pin] future: F },
        Refuse { error: Option<BoxError> },
    }
}

impl<F> Gate<F> {
    /// The request went on to the inner service.
    pub const fn pass(future: F) -> Self {
        Self { state: State::Pass { future } }
    }

    /// The request was refused here.
    pub fn refuse(error: impl Into<BoxError>) -> Self {
        Self { state: State::Refuse { error: Some(error.into()) } }
    }
}

impl<F> From<Gate<F>> for BoxFuture<Result<Response, BoxError>>
where
    F: Into<Self>,
{
    /// A boxed future behind any number of gates, without another box.
    fn from(gate: Gate<F>) -> Self {
        match gate.state {
            State::Pass { future } => future.into(),
            State::Refuse { error } => {
                Box::pin(std::future::ready(Err(error.expect("the future was not polled yet"))))
            }
        }
    }
}

impl<F, T, E> Future for Gate<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Pass { future } => future.poll(cx).map_err(Into::into),
            StateProj::Refuse { error } => {
                Poll::Ready(Err(error.take().expect("a future is not polled after it is ready")))
            }
        }
    }
}
