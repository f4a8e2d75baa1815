//! Lets `/verify` see the headers by which another proxy tells of a request.
//!
//! The identity firewall removes them from all requests, for nothing that we serve may believe them. To `/verify`
//! they are the question itself. So they are put aside here, where only that endpoint finds them.

use std::task::{Context, Poll};

use portcullis_layers::Request;
use portcullis_services::oauth::endpoints::Original;
use portcullis_services::oauth::server::metadata::path;
use tower::{Layer, Service};

/// Applies [`ForwardAuth`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForwardAuthLayer;

impl<S> Layer<S> for ForwardAuthLayer {
    type Service = ForwardAuth<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ForwardAuth { inner }
    }
}

/// Puts an [`Original`] into the extensions of requests that may be for `/verify`, on whatever host.
#[derive(Debug, Clone)]
pub(crate) struct ForwardAuth<S> {
    inner: S,
}

impl<S: Service<Request>> Service<Request> for ForwardAuth<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if request.uri().path().ends_with(path::VERIFY)
            && let Some(original) = Original::of(request.headers())
        {
            request.extensions_mut().insert(original);
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_layers::{Body, BoxError};
    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn only_verify_is_told_of_another_request() {
        let inner = service_fn(async |request: Request| {
            Ok::<_, BoxError>(request.extensions().get::<Original>().is_some())
        });
        for (uri, header, told) in [
            ("/verify", "x-forwarded-host", true),
            ("/behind/verify?rd=1", "x-original-url", true),
            ("/verify", "x-forwarded-for", false),
            ("/verify/x", "x-forwarded-host", false),
            ("/", "x-forwarded-host", false),
        ] {
            let request =
                http::Request::get(uri).header(header, "app.example.com").body(Body::empty()).unwrap();
            assert_eq!(ForwardAuthLayer.layer(inner).oneshot(request).await.unwrap(), told, "{uri} {header}");
        }
    }
}
