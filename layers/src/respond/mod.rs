//! Turns errors into responses, in one place.
//!
//! Every layer further in fails with an error that knows its HTTP meaning ([`Rejection`]); this layer
//! writes the bytes: `application/problem+json` (RFC 9457), a small HTML page or plain text, by what
//! the client accepts. Anything that is no [`Rejection`] is a 500 whose text the client never sees.
//!
//! It does not change what the upstream answered, whatever its status, and it does not log requests:
//! it only notes the code and the cause in [`Facts`]. It must stand inside the access log and outside
//! everything that refuses.
//!
//! ```
//! use http::{Request, StatusCode};
//! use portcullis_layers::respond::RespondLayer;
//! use portcullis_layers::{BoxError, Rejection};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let inner = service_fn(|_: Request<()>| async {
//!     let rejection = Rejection::new(StatusCode::NOT_FOUND, "no_such_host", "No site has this name.");
//!     Err::<http::Response<String>, BoxError>(rejection.into())
//! });
//! let response = RespondLayer::new().layer(inner).oneshot(Request::new(())).await.unwrap();
//! assert_eq!(response.status(), StatusCode::NOT_FOUND);
//! assert_eq!(response.headers()["content-type"], "application/problem+json");
//! assert!(response.body().contains(r#""code":"no_such_host""#));
//! # }
//! ```

mod accept;
mod page;

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::accept::Format;
use crate::body::BoxError;
use crate::context::{Facts, RequestContext, RequestId};
use crate::rejection::Rejection;

/// A cause longer than this says nothing more to a reader of logs.
const MAX_CAUSE: usize = 2048;

/// Applies [`Respond`].
#[derive(Debug, Clone, Copy, Default)]
pub struct RespondLayer(());

impl RespondLayer {
    /// The layer; it has no settings.
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Respond { inner, failed: None }
    }
}

/// Answers for an inner service that fails.
#[derive(Debug)]
pub struct Respond<S> {
    inner: S,
    /// Why the inner service would not become ready; answered by the next call.
    failed: Option<BoxError>,
}

impl<S: Clone> Clone for Respond<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), failed: None }
    }
}

impl<S, B, R> Service<http::Request<B>> for Respond<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    R: From<String>,
{
    type Response = http::Response<R>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.failed.is_none()
            && let Err(error) = std::task::ready!(self.inner.poll_ready(cx))
        {
            self.failed = Some(error.into());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let head = request.method() == Method::HEAD;
        let accept = request.headers().get(ACCEPT).cloned();
        let context = RequestContext::of(request.extensions_mut());
        let asker = Asker { head, accept, id: context.id, facts: context.facts.clone() };
        let state = match self.failed.take() {
            Some(error) => State::Failed { error: Some(error) },
            None => State::Called { future: self.inner.call(request) },
        };
        ResponseFuture { state, asker }
    }
}

pin_project! {
    /// The future of [`Respond`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        asker: Asker,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Called { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    E: Into<BoxError>,
    R: From<String>,
{
    type Output = Result<http::Response<R>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            StateProj::Called { future } => match std::task::ready!(future.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(error) => error.into(),
            },
            StateProj::Failed { error } => error.take().expect("a future is not polled after it is ready"),
        };
        Poll::Ready(Ok(answer(&Rejection::of(error), this.asker).map(R::from)))
    }
}

/// What an answer depends on of a request that is gone by then.
#[derive(Debug)]
struct Asker {
    head: bool,
    accept: Option<HeaderValue>,
    id: Option<RequestId>,
    facts: Option<Arc<Facts>>,
}

fn answer(rejection: &Rejection, asker: &Asker) -> http::Response<String> {
    note(rejection, asker);
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let body = if bodiless(rejection.status()) {
        String::new()
    } else if let Some(body) = rejection.body() {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        body.to_owned()
    } else {
        let format = accept::choose(asker.accept.as_ref());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let id = asker.id.map(|id| id.to_string());
        match format {
            Format::Problem => page::problem(rejection, id.as_deref()),
            Format::Text => page::text(rejection, id.as_deref()),
            Format::Html => {
                headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
                page::html(rejection, id.as_deref())
            }
        }
    };
    // What the rejection says of its answer beats our defaults.
    for name in rejection.headers().keys() {
        headers.remove(name);
    }
    headers.extend(rejection.headers().clone());
    let body = if asker.head {
        // The length that a GET would have had (RFC 9110, section 9.3.2).
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        String::new()
    } else {
        body
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = rejection.status();
    *response.headers_mut() = headers;
    response
}

/// Leaves code and cause for the access log; what nobody gave a meaning is worth a warning, too.
fn note(rejection: &Rejection, asker: &Asker) {
    let cause = rejection.source().map(chain);
    if rejection.status() == StatusCode::INTERNAL_SERVER_ERROR {
        let id = asker.id.map(tracing::field::display);
        let (code, detail) = (rejection.code(), rejection.detail());
        tracing::warn!(id, code, detail, cause, "request failed inside the gateway");
    }
    if let Some(facts) = &asker.facts {
        // Written once: the first answer is the one that the client sees.
        let _ = facts.code.set(rejection.code());
        if let Some(check) = rejection.check() {
            let _ = facts.check.set(check);
        }
        if let Some(cause) = cause {
            let _ = facts.cause.set(cause);
        }
    }
}

/// Statuses that have no body (RFC 9110, section 6.4.1).
fn bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next
        && text.len() < MAX_CAUSE
    {
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    if text.len() > MAX_CAUSE {
        text.truncate(text.floor_char_boundary(MAX_CAUSE));
    }
    text
}

#[cfg(test)]
mod tests {
    use http::header::{ALLOW, LOCATION};
    use http::{Request, Response};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::check::Check;

    #[tokio::test]
    async fn a_body_of_the_rejections_own_is_the_answers() {
        let service = RespondLayer::new().layer(service_fn(|_: Request<()>| async {
            let kind = HeaderValue::from_static("a/b");
            Err::<Response<String>, _>(rejection().with_body("{}").with_header(CONTENT_TYPE, kind))
        }));
        let request = Request::get("/").header(ACCEPT, "text/html").body(()).expect("valid");
        let answer = service.oneshot(request).await.expect("infallible");
        assert_eq!((answer.status(), answer.body().as_str()), (StatusCode::FORBIDDEN, "{}"));
        assert_eq!(answer.headers()[CONTENT_TYPE], "a/b");
        assert!(!answer.headers().contains_key(CONTENT_SECURITY_POLICY));
    }

    fn rejection() -> Rejection {
        Rejection::new(StatusCode::FORBIDDEN, "not_allowed", "You <may> not.").with_source("the list says so")
    }

    async fn answer_to(request: Request<()>, fail: impl Fn() -> BoxError + Clone + Send) -> Response<String> {
        let inner = service_fn(move |_: Request<()>| {
            let error = fail();
            async move { Err::<Response<String>, _>(error) }
        });
        let Ok(response) = RespondLayer::new().layer(inner).oneshot(request).await;
        response
    }

    fn accepting(accept: &str) -> Request<()> {
        Request::builder().header(ACCEPT, accept).body(()).expect("valid")
    }

    #[tokio::test]
    async fn the_format_is_what_the_client_accepts() {
        for (accept, content_type, start) in [
            (
                "*/*",
                "application/problem+json",
                "{\"type\":\"about:blank\",\"title\":\"Forbidden\",\"status\":403,",
            ),
            ("text/html,*/*;q=0.8", "text/html; charset=utf-8", "<!doctype html>"),
            ("text/plain", "text/plain; charset=utf-8", "403 Forbidden\nYou <may> not."),
        ] {
            let response = answer_to(accepting(accept), || rejection().into()).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(response.headers()[CONTENT_TYPE], content_type, "{accept}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert!(response.body().starts_with(start), "{}", response.body());
            assert!(!response.body().contains("the list says so"), "a cause is for logs");
        }
    }

    #[tokio::test]
    async fn code_and_cause_land_in_the_facts() {
        let facts = Arc::new(Facts::default());
        let mut request = Request::new(());
        let context = RequestContext::of(request.extensions_mut());
        context.facts = Some(facts.clone());
        context.id = Some(RequestId(1, 2));
        let response = answer_to(request, || {
            let inner = std::io::Error::other("connection reset");
            Rejection::new(StatusCode::BAD_GATEWAY, "bad_gateway", "The site is away.")
                .with_check(Check::User)
                .with_source(inner)
                .into()
        })
        .await;
        assert_eq!((facts.code.get(), facts.check.get()), (Some(&"bad_gateway"), Some(&Check::User)));
        assert_eq!(facts.cause.get().map(String::as_str), Some("connection reset"));
        assert!(response.body().contains(r#""request_id":"00000000000000010000000000000002""#));
    }

    #[tokio::test]
    async fn an_unknown_error_is_a_500_and_keeps_its_text_inside() {
        let response = answer_to(Request::new(()), || "password is hunter2".into()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.body().contains(r#""code":"internal_error""#));
        assert!(!response.body().contains("hunter2"));
    }

    #[tokio::test]
    async fn head_gets_the_length_and_no_body() {
        let full = answer_to(Request::new(()), || rejection().into()).await;
        let request = Request::builder().method(Method::HEAD).body(()).expect("valid");
        let response = answer_to(request, || rejection().into()).await;
        assert_eq!(response.body(), "");
        assert_eq!(response.headers()[CONTENT_LENGTH], full.body().len().to_string());
    }

    #[tokio::test]
    async fn headers_of_the_rejection_win_and_204_has_no_body() {
        let response = answer_to(Request::new(()), || {
            Rejection::new(StatusCode::NO_CONTENT, "preflight", "")
                .with_header(ALLOW, HeaderValue::from_static("GET"))
                .with_header(ALLOW, HeaderValue::from_static("HEAD"))
                .with_header(CACHE_CONTROL, HeaderValue::from_static("max-age=5"))
                .into()
        })
        .await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.body(), "");
        assert!(!response.headers().contains_key(CONTENT_TYPE));
        assert_eq!(response.headers()[CACHE_CONTROL], "max-age=5");
        assert_eq!(response.headers().get_all(ALLOW).iter().count(), 2);
    }

    #[tokio::test]
    async fn an_upstreams_answer_is_left_alone() {
        let inner = service_fn(|_: Request<()>| async {
            Ok::<_, BoxError>(
                Response::builder()
                    .status(500)
                    .header(LOCATION, "/x")
                    .body(String::from("own"))
                    .expect("valid"),
            )
        });
        let Ok(response) = RespondLayer::new().layer(inner).oneshot(Request::new(())).await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (500, "own"));
        assert!(!response.headers().contains_key(CACHE_CONTROL));
    }

    #[tokio::test]
    async fn a_service_that_never_becomes_ready_is_answered_for() {
        #[derive(Clone)]
        struct Broken;
        impl Service<Request<()>> for Broken {
            type Response = Response<String>;
            type Error = Rejection;
            type Future = std::future::Pending<Result<Response<String>, Rejection>>;
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
                Poll::Ready(Err(rejection()))
            }
            fn call(&mut self, _: Request<()>) -> Self::Future {
                std::future::pending()
            }
        }
        let Ok(response) = RespondLayer::new().layer(Broken).oneshot(Request::new(())).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_long_cause_is_cut() {
        let cause = chain(&std::io::Error::other("ü".repeat(MAX_CAUSE)));
        assert!(cause.len() <= MAX_CAUSE);
    }
}
