//! Hosts that are not served over plain HTTP, or not over HTTPS: the other protocol answers 404.

use std::task::{Context, Poll};

use http::StatusCode;
use portcullis_layers::future::Gate;
use portcullis_layers::{BoxError, Rejection, Request, RequestContext, Response};
use tower::{Layer, Service};

/// Applies [`Schemes`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchemesLayer {
    pub(crate) http: bool,
    pub(crate) https: bool,
}

impl<S> Layer<S> for SchemesLayer {
    type Service = Schemes<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Schemes { inner, http: self.http, https: self.https }
    }
}

/// Refuses requests over a protocol that the host has switched off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schemes<S> {
    inner: S,
    http: bool,
    https: bool,
}

impl<S> Service<Request> for Schemes<S>
where
    S: Service<Request, Response = Response>,
    S::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let https = RequestContext::of(request.extensions_mut()).scheme() == "https";
        if if https { self.https } else { self.http } {
            return Gate::pass(self.inner.call(request));
        }
        let detail = if https {
            "This host is not served over HTTPS."
        } else {
            "This host is served over HTTPS only."
        };
        Gate::refuse(Rejection::new(StatusCode::NOT_FOUND, "protocol_disabled", detail))
    }
}
