//! The metadata of a protected resource (RFC 9728), at its well-known URLs.
//!
//! Answers `/.well-known/oauth-protected-resource` and the same with the resource's path behind it
//! (section 3.1), for GET, HEAD and browsers' preflights, with CORS for everybody: the document is
//! public. The bytes are rendered once, when the layer is built; or, where the upstream may speak for itself
//! ([`ResourceMetadataLayer::joined`]), once in a minute, when somebody asks.
//!
//! It does not challenge (`auth` does, and points here) and does not sign metadata. It must stand
//! outside route and auth, so that nobody needs a token to learn where to get one.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::resource_metadata::{Metadata, ResourceMetadataLayer};
//! use portcullis_layers::{Body, BoxError};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let site = service_fn(|_: Request<()>| async { Err::<http::Response<Body>, BoxError>("no token".into()) });
//! let metadata = Metadata {
//!     resource: "https://mcp.example.com/mcp".into(),
//!     authorization_servers: vec!["https://auth.example.com".into()],
//!     ..Metadata::default()
//! };
//! let layer = ResourceMetadataLayer::new(&metadata, "/mcp");
//! let request = Request::get("/.well-known/oauth-protected-resource/mcp").body(())?;
//! assert_eq!(layer.layer(site).oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```

mod upstream;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tower_layer::Layer;
use tower_service::Service;

use self::upstream::Own;
pub use self::upstream::Published;
use crate::body::{BoxError, BoxFuture, HttpService};
use crate::names::HostName;
use crate::rejection::Rejection;

/// The well-known path (RFC 9728, section 3).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// Members that `extra` may not set even where we leave them out: a client acts on them.
const OURS: [&str; 7] = [
    "resource",
    "authorization_servers",
    "jwks_uri",
    "scopes_supported",
    "bearer_methods_supported",
    "resource_documentation",
    // Its claims would take precedence over the members beside it (section 2.2).
    "signed_metadata",
];

/// What is published of a resource (RFC 9728, section 2). What is empty is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// The resource's identifier: what a token's audience must name.
    pub resource: String,
    /// The issuers of tokens for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_servers: Vec<String>,
    /// The resource's own keys, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// The scopes that it knows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes_supported: Vec<String>,
    /// How it takes tokens: `header`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bearer_methods_supported: Vec<String>,
    /// A page for developers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_documentation: Option<String>,
    /// Any other members. They never overwrite the ones above.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Metadata {
    /// The document as published: no nulls, and no extra member in place of one of ours.
    pub fn to_json(&self) -> Bytes {
        let own = Self { extra: Map::new(), ..self.clone() };
        let Value::Object(mut document) =
            serde_json::to_value(own).expect("strings and lists are valid JSON")
        else {
            unreachable!("a struct is a JSON object");
        };
        for (name, value) in &self.extra {
            if !value.is_null() && !OURS.contains(&name.as_str()) {
                document.insert(name.clone(), value.clone());
            }
        }
        Value::Object(document).to_string().into()
    }
}

/// Applies [`ResourceMetadata`].
#[derive(Debug, Clone)]
pub struct ResourceMetadataLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    document: Bytes,
    /// The resource's path without a slash at its end; empty for the root.
    endpoint: String,
    /// What the upstream says of itself, where it is asked.
    own: Option<Own>,
}

impl ResourceMetadataLayer {
    /// Publishes the metadata of the resource at this path of the host, `/` or `/mcp`.
    pub fn new(metadata: &Metadata, endpoint: &str) -> Self {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { shared: Arc::new(Shared { document: metadata.to_json(), endpoint, own: None }) }
    }

    /// Publishes it with what the upstream says of itself at the same well-known URLs, if it does. It is asked as
    /// this host, without anything of the request at hand, by whoever comes first in a minute.
    pub fn joined(metadata: &Metadata, endpoint: &str, upstream: HttpService, host: &HostName) -> Self {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        // The name of a host is ASCII.
        let host = HeaderValue::from_str(host.as_str()).unwrap_or(HeaderValue::from_static(""));
        let own = Some(Own::new(metadata.clone(), Published::new(upstream, host, &endpoint)));
        Self { shared: Arc::new(Shared { document: metadata.to_json(), endpoint, own }) }
    }
}

impl<S> Layer<S> for ResourceMetadataLayer {
    type Service = ResourceMetadata<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResourceMetadata { inner, shared: self.shared.clone() }
    }
}

/// Answers for the well-known URLs and hands everything else on.
#[derive(Debug, Clone)]
pub struct ResourceMetadata<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> Service<http::Request<B>> for ResourceMetadata<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    R: From<Bytes>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if !self.shared.is_asked(request.uri().path()) {
            return ResponseFuture { state: State::Called { future: self.inner.call(request) } };
        }
        let method = request.method();
        let reads = *method == Method::GET || *method == Method::HEAD;
        let state = if reads && self.shared.own.is_some() {
            let (shared, method) = (Arc::clone(&self.shared), method.clone());
            State::Asked { future: Box::pin(async move { shared.answer_with_own(&method).await }) }
        } else {
            State::Answered { answer: Some(answer(method, &self.shared.document)) }
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`ResourceMetadata`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

type Answer = Result<http::Response<Bytes>, ResourceMetadataError>;

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Called { #[pin] future: F },
        Asked { future: BoxFuture<Answer> },
        Answered { answer: Option<Answer> },
    }
}

impl<F> fmt::Debug for State<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Called { .. } => "Called",
            Self::Asked { .. } => "Asked",
            Self::Answered { .. } => "Answered",
        })
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    E: Into<BoxError>,
    R: From<Bytes>,
{
    type Output = Result<http::Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.project().state.project() {
            StateProj::Called { future } => return future.poll(cx).map_err(Into::into),
            StateProj::Asked { future } => ready!(future.as_mut().poll(cx)),
            StateProj::Answered { answer } => {
                answer.take().expect("a future is not polled after it is ready")
            }
        };
        Poll::Ready(match answer {
            Ok(response) => Ok(response.map(R::from)),
            Err(error) => Err(Rejection::from(error).into()),
        })
    }
}

/// Why the document was not sent.
#[derive(Debug, thiserror::Error)]
pub enum ResourceMetadataError {
    /// Something else than GET, HEAD or OPTIONS.
    #[error("method not allowed for metadata")]
    Method,
}

impl From<ResourceMetadataError> for Rejection {
    fn from(error: ResourceMetadataError) -> Self {
        match error {
            ResourceMetadataError::Method => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This document can only be read.",
            )
            .with_header(ALLOW, METHODS)
            .with_header(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        }
    }
}

impl Shared {
    fn is_asked(&self, path: &str) -> bool {
        path.strip_prefix(WELL_KNOWN).is_some_and(|rest| {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            rest.is_empty() || rest == self.endpoint
        })
    }

    async fn answer_with_own(&self, method: &Method) -> Answer {
        let joined = match &self.own {
            Some(own) => own.document().await,
            None => None,
        };
        answer(method, joined.as_ref().unwrap_or(&self.document))
    }
}

fn answer(method: &Method, document: &Bytes) -> Answer {
    let mut headers = HeaderMap::with_capacity(8);
    let mut set = |name: HeaderName, value| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    let (status, body) = match *method {
        Method::GET | Method::HEAD => {
            set(CONTENT_TYPE, "application/json");
            // Short, so that a change of the host's scopes is seen soon.
            set(CACHE_CONTROL, "public, max-age=60");
            headers.insert(CONTENT_LENGTH, document.len().into());
            let body = if method == Method::GET { document.clone() } else { Bytes::new() };
            (StatusCode::OK, body)
        }
        Method::OPTIONS => {
            set(ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS");
            // MCP clients send their version with everything, which makes a simple request none.
            set(ACCESS_CONTROL_ALLOW_HEADERS, "accept, authorization, content-type, mcp-protocol-version");
            set(ACCESS_CONTROL_MAX_AGE, "86400");
            set(ALLOW, "GET, HEAD, OPTIONS");
            (StatusCode::NO_CONTENT, Bytes::new())
        }
        _ => return Err(ResourceMetadataError::Method),
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::{Body, Response};

    fn metadata() -> Metadata {
        Metadata {
            resource: "https://a.example/mcp".into(),
            authorization_servers: vec!["https://auth.example".into()],
            scopes_supported: vec!["read".into()],
            ..Metadata::default()
        }
    }

    async fn ask(method: Method, path: &str) -> Result<Response, Rejection> {
        let inner = service_fn(|_: http::Request<()>| async {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            Ok::<_, BoxError>(response)
        });
        let request = http::Request::builder().method(method).uri(path).body(()).expect("valid");
        ResourceMetadataLayer::new(&metadata(), "/mcp")
            .layer(inner)
            .oneshot(request)
            .await
            .map_err(Rejection::of)
    }

    #[tokio::test]
    async fn the_document_is_at_both_urls_and_nowhere_else() {
        for (path, status) in [
            ("/.well-known/oauth-protected-resource", 200),
            ("/.well-known/oauth-protected-resource/", 200),
            ("/.well-known/oauth-protected-resource/mcp", 200),
            ("/.well-known/oauth-protected-resource/mcp/", 200),
            ("/.well-known/oauth-protected-resource/mcp/x", 418),
            ("/.well-known/oauth-protected-resource//", 418),
            ("/.well-known/oauth-protected-resourcemcp", 418),
            ("/mcp", 418),
        ] {
            let response = ask(Method::GET, path).await.expect("an answer");
            assert_eq!(response.status().as_u16(), status, "{path}");
        }
    }

    #[tokio::test]
    async fn get_head_and_preflight_are_answered_and_the_rest_refused() {
        let response = ask(Method::GET, WELL_KNOWN).await.expect("an answer");
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let length = response.headers()[CONTENT_LENGTH].clone();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, metadata().to_json());

        let response = ask(Method::HEAD, WELL_KNOWN).await.expect("an answer");
        assert_eq!(response.headers()[CONTENT_LENGTH], length);
        assert!(response.into_body().collect().await.expect("a body").to_bytes().is_empty());

        let response = ask(Method::OPTIONS, WELL_KNOWN).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let allowed = response.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().expect("text");
        assert!(allowed.contains("mcp-protocol-version"));

        let refused = ask(Method::POST, WELL_KNOWN).await.expect_err("refused");
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers()[ALLOW], "GET, HEAD, OPTIONS");
    }

    #[test]
    fn extra_members_never_overwrite_and_nulls_are_left_out() {
        let extra = serde_json::json!({
            "resource": "https://evil.example", "jwks_uri": "https://evil.example/keys", "signed_metadata": "x",
            "resource_name": "A", "nothing": null,
        });
        let Value::Object(extra) = extra else { panic!("an object") };
        let document: Value =
            serde_json::from_slice(&Metadata { extra, ..metadata() }.to_json()).expect("JSON");
        let expected = serde_json::json!({
            "resource": "https://a.example/mcp", "authorization_servers": ["https://auth.example"],
            "scopes_supported": ["read"], "resource_name": "A",
        });
        assert_eq!(document, expected);
    }
}
