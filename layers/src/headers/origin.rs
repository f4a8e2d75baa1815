//! Refuses what pages of other origins ask of a resource that is not theirs to ask.
//!
//! Servers of the Model Context Protocol have to (Streamable HTTP, "Security warning"): a page could otherwise have its
//! visitor's browser call a server that only the visitor can reach. A request without `Origin` passes, because no page
//! has made it. Of the others those pass whose origin is listed, or that of the request itself: its scheme and its
//! `Host`, as far as that is the host that it was let in for.
//!
//! It answers no preflights and marks no answers: that is [`CorsLayer`](super::CorsLayer), which stands outside. It has
//! to stand inside `normalize` and `hosts`, or nothing but the list counts.
//!
//! ```
//! use portcullis_layers::headers::OriginLayer;
//! use portcullis_layers::{Body, BoxError, Rejection};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio_test::block_on(async {
//! let layer = OriginLayer::new(["https://app.example"])?.below("/mcp");
//! let service = ServiceBuilder::new().layer(layer).service(service_fn(
//!     async |_: http::Request<Body>| Ok::<_, Rejection>(http::Response::new("hello")),
//! ));
//! for (origin, welcome) in [("https://app.example", true), ("https://evil.example", false)] {
//!     let request = http::Request::post("/mcp").header("origin", origin).body(Body::empty())?;
//!     assert_eq!(service.clone().oneshot(request).await.is_ok(), welcome);
//! }
//! # Ok::<_, BoxError>(())
//! # }).expect("served");
//! ```

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{HOST, ORIGIN, VARY};
use http::{HeaderValue, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use super::cors::{CorsError, parse_origin};
use crate::body::BoxError;
use crate::context::RequestContext;
use crate::future::Gate;
use crate::glob;
use crate::readings;
use crate::rejection::Rejection;

/// Applies [`OriginService`].
#[derive(Debug, Clone)]
pub struct OriginLayer {
    rules: Arc<Rules>,
}

#[derive(Debug, Clone)]
struct Rules {
    /// The rules are for these paths and those below them; for all when there are none.
    below: Vec<String>,
    /// But not for this one and those below it.
    except: Option<String>,
    allowed: Vec<HeaderValue>,
}

impl OriginLayer {
    /// Lets pages of these origins in, written as browsers do: `https://app.example.com`.
    ///
    /// # Errors
    ///
    /// The first one that no browser would send.
    pub fn new<T: AsRef<str>>(allowed: impl IntoIterator<Item = T>) -> Result<Self, CorsError> {
        let allowed = allowed.into_iter().map(|origin| parse_origin(origin.as_ref()));
        let allowed = allowed.collect::<Result<_, _>>()?;
        Ok(Self { rules: Arc::new(Rules { below: Vec::new(), except: None, allowed }) })
    }

    /// Other paths than this one and those below it, and those of which this was said before, are for everybody. A
    /// slash at its end does not matter.
    #[must_use]
    pub fn below(self, path: &str) -> Self {
        let mut rules = Arc::unwrap_or_clone(self.rules);
        rules.below.push(path.trim_end_matches('/').to_owned());
        Self { rules: Arc::new(rules) }
    }

    /// This path and those below it are for everybody.
    #[must_use]
    pub fn except(self, path: &str) -> Self {
        let except = Some(path.trim_end_matches('/').to_owned());
        Self { rules: Arc::new(Rules { except, ..Arc::unwrap_or_clone(self.rules) }) }
    }
}

impl<S> Layer<S> for OriginLayer {
    type Service = OriginService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OriginService { inner, rules: Arc::clone(&self.rules) }
    }
}

/// Refuses requests of other origins' pages.
#[derive(Debug, Clone)]
pub struct OriginService<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S, B, R> Service<http::Request<B>> for OriginService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if self.rules.admit(&request) {
            return Gate::pass(self.inner.call(request));
        }
        Gate::refuse(refusal())
    }
}

impl Rules {
    fn admit<B>(&self, request: &http::Request<B>) -> bool {
        let mut origins = request.headers().get_all(ORIGIN).iter();
        let (Some(origin), other) = (origins.next(), origins.next()) else { return true };
        !self.are_for(request.uri().path())
            || (other.is_none() && (self.allowed.contains(origin) || is_own(origin, request)))
    }

    fn are_for(&self, path: &str) -> bool {
        let at_or_below = |start: &str| glob::starts_path(start, path);
        // Upstreams read some paths in more than one way.
        let may_be = |start: &str| {
            at_or_below(start)
                || readings::is_ambiguous(path)
                    && readings::others(path).iter().any(|other| glob::starts_path(start, other))
        };
        (self.below.is_empty() || self.below.iter().any(|start| may_be(start)))
            && !self.except.as_deref().is_some_and(at_or_below)
    }
}

/// Whether the page is of the very origin that is asked, which may be another port than the public one.
fn is_own<B>(origin: &HeaderValue, request: &http::Request<B>) -> bool {
    let own = || {
        let context = RequestContext::get(request.extensions())?;
        let authority = request.headers().get(HOST)?.as_bytes();
        // Where somebody asks about another host than the one that he calls, `Host` says nothing.
        let port = authority.strip_prefix(context.host.as_ref()?.as_str().as_bytes())?;
        let named = origin.as_bytes().strip_prefix(context.scheme().as_bytes())?.strip_prefix(b"://")?;
        Some((port.is_empty() || port.starts_with(b":")) && named == authority)
    };
    own().unwrap_or(false)
}

/// That of a preflight from there.
pub(super) fn refusal() -> Rejection {
    let detail = "This origin may not use this site.";
    Rejection::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail)
        .with_header(VARY, HeaderValue::from_static("origin"))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn passes(path: &str, origins: &[&str], context: Option<RequestContext>) -> bool {
        let layer = OriginLayer::new(["https://app.example", "http://localhost:6274"]).expect("origins");
        let layer = layer.below("/mcp/").except("/mcp/.well-known/");
        let inner = service_fn(async |_: Request<()>| Ok::<_, BoxError>(http::Response::new(())));
        let mut request = Request::post(path).header(HOST, "mcp.example:8443").body(()).expect("a request");
        if let Some(context) = context {
            request.extensions_mut().insert(context);
        }
        for origin in origins {
            request.headers_mut().append(ORIGIN, origin.parse().expect("a value"));
        }
        match layer.layer(inner).oneshot(request).await {
            Ok(_) => true,
            Err(error) => {
                let refusal = Rejection::of(error);
                assert_eq!((refusal.status().as_u16(), refusal.code()), (403, "origin_not_allowed"));
                assert_eq!(refusal.headers()[VARY], "origin");
                false
            }
        }
    }

    #[tokio::test]
    async fn only_pages_of_listed_origins_may_ask() {
        for (path, origins, expected) in [
            ("/mcp", &[][..], true),
            ("/mcp", &["https://app.example"], true),
            ("/mcp/x", &["http://localhost:6274"], true),
            ("/mcp", &["https://evil.example"], false),
            ("/mcp/", &["https://evil.example"], false),
            ("/mcp/x?y", &["https://app.example.evil"], false),
            ("/mcp", &["http://app.example"], false),
            ("/mcp", &["https://app.example:444"], false),
            ("/mcp", &["HTTPS://app.example"], false),
            ("/mcp", &["null"], false),
            ("/mcp", &[""], false),
            ("/mcp", &["https://app.example", "https://app.example"], false),
            ("/mcp", &["https://app.example", "https://evil.example"], false),
            // Without a context nothing but the list counts.
            ("/mcp", &["https://mcp.example:8443"], false),
            ("/mcpx", &["https://evil.example"], true),
            ("/", &["https://evil.example"], true),
            ("/mcp/.well-known/x", &["https://evil.example"], true),
        ] {
            assert_eq!(passes(path, origins, None).await, expected, "{path} {origins:?}");
        }
    }

    #[tokio::test]
    async fn a_page_may_ask_its_own_origin() {
        let context = |host: &str, scheme| RequestContext {
            host: Some(host.parse().expect("a host")),
            scheme: Some(scheme),
            ..RequestContext::default()
        };
        for (origin, context, expected) in [
            ("https://mcp.example:8443", context("mcp.example", "https"), true),
            ("http://mcp.example:8443", context("mcp.example", "http"), true),
            ("http://mcp.example:8443", context("mcp.example", "https"), false),
            ("https://mcp.example", context("mcp.example", "https"), false),
            ("https://mcp.example:8444", context("mcp.example", "https"), false),
            // The request is about another host than the one that was called.
            ("https://mcp.example:8443", context("other.example", "https"), false),
            ("https://mcp.example:8443", context("mcp.exampl", "https"), false),
        ] {
            let shown = format!("{origin} {:?} {:?}", context.host, context.scheme);
            assert_eq!(passes("/mcp", &[origin], Some(context)).await, expected, "{shown}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_not_listed() {
        for origin in ["", "*", "app.example", "https://app.example/", "https://App.example"] {
            assert!(OriginLayer::new([origin]).is_err(), "{origin:?}");
        }
    }
}
