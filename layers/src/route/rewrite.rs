//! Replaces the start of a path before the request is forwarded.
//!
//! It works on whole segments of the normalised path and leaves the query alone. It does not touch
//! redirects or links in the answer. It must stand inside auth, whose rules are about the path that
//! the client asked for, and outside forward.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::BoxError;
//! use portcullis_layers::route::{Rewrite, RewriteLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let upstream = service_fn(|request: Request<()>| async move { Ok::<_, BoxError>(request.uri().clone()) });
//! let service = RewriteLayer::new(Rewrite::strip("/api")?).layer(upstream);
//! assert_eq!(service.oneshot(Request::get("/api/users?page=2").body(())?).await?, "/users?page=2");
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use smol_str::SmolStr;
use tower_layer::Layer;
use tower_service::Service;

/// What the start of a path becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Without a slash at its end; empty for every path.
    from: SmolStr,
    /// Without a slash at its end.
    to: SmolStr,
}

/// Why a text can't be the start of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It must begin at the root.
    #[error("path {0:?} does not start with '/'")]
    Relative(String),
    /// A character that no path has, or a query.
    #[error("{0:?} is no path")]
    Invalid(String),
}

impl Rewrite {
    /// Takes a prefix away: `/api/x` becomes `/x`.
    pub fn strip(prefix: &str) -> Result<Self, RewriteError> {
        Self::replace(prefix, "/")
    }

    /// Puts one prefix in place of another: with `/api` and `/v2`, `/api/x` becomes `/v2/x`.
    pub fn replace(prefix: &str, by: &str) -> Result<Self, RewriteError> {
        Ok(Self { from: check(prefix)?, to: check(by)? })
    }

    /// The new path, or `None` if the path does not start so or stays what it is.
    pub fn path(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(&*self.from)?;
        if self.from == self.to || !(rest.is_empty() || rest.starts_with('/')) {
            return None;
        }
        let path = format!("{}{rest}", self.to);
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }

    /// The new URI, or `None` if it stays what it is.
    pub fn uri(&self, uri: &Uri) -> Option<Uri> {
        let mut target = self.path(uri.path())?;
        if let Some(query) = uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(target)).ok()?);
        Uri::from_parts(parts).ok()
    }
}

fn check(path: &str) -> Result<SmolStr, RewriteError> {
    if !path.starts_with('/') {
        return Err(RewriteError::Relative(path.to_owned()));
    }
    match path.parse::<PathAndQuery>() {
        Ok(parsed) if parsed.path() == path && path.is_ascii() => Ok(path.trim_end_matches('/').into()),
        _ => Err(RewriteError::Invalid(path.to_owned())),
    }
}

/// Applies [`RewriteService`].
#[derive(Debug, Clone)]
pub struct RewriteLayer {
    rewrite: Arc<Rewrite>,
}

impl RewriteLayer {
    /// Rewrites paths so.
    pub fn new(rewrite: Rewrite) -> Self {
        Self { rewrite: Arc::new(rewrite) }
    }
}

impl<S> Layer<S> for RewriteLayer {
    type Service = RewriteService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RewriteService { inner, rewrite: self.rewrite.clone() }
    }
}

/// Hands requests on with another path.
#[derive(Debug, Clone)]
pub struct RewriteService<S> {
    inner: S,
    rewrite: Arc<Rewrite>,
}

impl<S, B> Service<http::Request<B>> for RewriteService<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        if let Some(uri) = self.rewrite.uri(request.uri()) {
            *request.uri_mut() = uri;
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_on_segments() {
        for (from, to, uri, expected) in [
            ("/api", "/", "/api/x?q=1", Some("/x?q=1")),
            ("/api", "/", "/api", Some("/")),
            ("/api", "/", "/api?q", Some("/?q")),
            ("/api", "/", "/api/", Some("/")),
            ("/api/", "/", "/api/x", Some("/x")),
            ("/api", "/", "/apis", None),
            ("/api", "/", "/x/api", None),
            ("/api", "/", "/api//x", Some("//x")),
            ("/api", "/v2", "/api/x", Some("/v2/x")),
            ("/api", "/v2/", "/api", Some("/v2")),
            ("/", "/base", "/x", Some("/base/x")),
            ("/api", "/api", "/api/x", None),
            ("/api", "/", "https://a.example/api/x", Some("https://a.example/x")),
        ] {
            let rewrite = Rewrite::replace(from, to).expect("valid");
            let uri = rewrite.uri(&uri.parse().expect("valid")).map(|uri| uri.to_string());
            assert_eq!(uri.as_deref(), expected, "{from} {to}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["", "api", "/a?b", "/a b", "/a#b", "/é", "/a\r\n"] {
            assert!(Rewrite::strip(path).is_err(), "{path:?} was taken for a path");
        }
    }
}
