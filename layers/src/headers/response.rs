//! Response rules: on what the upstream answers and on what we answer instead.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderMap;
use tower_layer::Layer;
use tower_service::Service;

use super::marked::{Mark, Marked};
use super::rules::{self, Op, RulesError};
use crate::body::BoxError;

/// Applies [`ResponseRules`].
#[derive(Debug, Clone)]
pub struct ResponseRulesLayer {
    ops: Arc<[Op]>,
}

impl ResponseRulesLayer {
    /// Applies these rules to responses, in this order.
    pub fn new(ops: Vec<Op>) -> Result<Self, RulesError> {
        rules::check(&ops)?;
        Ok(Self { ops: ops.into() })
    }
}

impl<S> Layer<S> for ResponseRulesLayer {
    type Service = ResponseRules<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResponseRules { inner, ops: self.ops.clone() }
    }
}

/// Edits the headers of answers and of refusals.
#[derive(Debug, Clone)]
pub struct ResponseRules<S> {
    inner: S,
    ops: Arc<[Op]>,
}

impl<S, B, R> Service<http::Request<B>> for ResponseRules<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Marked<S::Future, Arc<[Op]>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Marked::new(self.inner.call(request), self.ops.clone())
    }
}

impl Mark for Arc<[Op]> {
    fn mark(&self, headers: &mut HeaderMap) {
        rules::apply(self, headers);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request, Response, StatusCode};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::rejection::Rejection;

    fn layer() -> ResponseRulesLayer {
        let ops = [Op::set("X-HackerOne-Research", "me"), Op::remove("Server"), Op::append("Link", "</a>")];
        ResponseRulesLayer::new(ops.into_iter().collect::<Result<_, _>>().expect("valid")).expect("valid")
    }

    #[tokio::test]
    async fn answers_are_edited() {
        let inner = service_fn(|_: Request<()>| async {
            let response = Response::builder().header("server", "x").header("link", "</b>").body(());
            Ok::<_, BoxError>(response.expect("valid"))
        });
        let response = layer().layer(inner).oneshot(Request::new(())).await.expect("answered");
        assert_eq!(response.headers()["x-hackerone-research"], "me");
        assert!(!response.headers().contains_key("server"));
        assert_eq!(response.headers().get_all("link").iter().count(), 2);
    }

    #[tokio::test]
    async fn refusals_and_unknown_errors_are_edited_too() {
        for (error, status) in [
            (BoxError::from(Rejection::new(StatusCode::FORBIDDEN, "not_allowed", "")), 403),
            (BoxError::from("broken"), 500),
        ] {
            let mut error = Some(error);
            let inner = service_fn(move |_: Request<()>| {
                let error = error.take().expect("called once");
                async move { Err::<Response<()>, _>(error) }
            });
            let error = layer().layer(inner).oneshot(Request::new(())).await.expect_err("refused");
            let rejection = Rejection::of(error);
            assert_eq!(rejection.status().as_u16(), status);
            assert_eq!(rejection.headers()["x-hackerone-research"], HeaderValue::from_static("me"));
        }
    }
}
