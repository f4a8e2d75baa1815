//! Headers that configuration sets and removes, and the identity of the caller for the upstream.
//!
//! | layer | where | what it edits |
//! |---|---|---|
//! | [`ResponseRulesLayer`] | outermost in the host's stack | answers and refusals |
//! | [`CorsLayer`] | beside it | answers preflights, marks answers for browsers |
//! | [`OriginLayer`] | inside of it | refuses requests of other origins' pages |
//! | [`IdentityStripLayer`] | first thing in the host's stack | requests: the host's own identity prefix |
//! | [`HeadersLayer`] | in the route's stack, behind auth and allowlist | requests: credentials, rules, identity |
//!
//! None of them touches framing or hop-by-hop headers: rules that would are refused when they are made.
//! None of them decides who the caller is: `auth` does. Without a `Principal` no identity header goes out.
//!
//! ```
//! use std::sync::Arc;
//! use http::Request;
//! use portcullis_layers::headers::{HeadersLayer, Identity, Op};
//! use portcullis_layers::{BoxError, Principal, RequestContext};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let upstream = service_fn(|request: Request<()>| async move { Ok::<_, BoxError>(request.into_parts().0.headers) });
//! let layer = HeadersLayer::new(vec![Op::set("X-Env", "prod")?])?.with_identity(Identity::default());
//! let mut request = Request::new(());
//! RequestContext::of(request.extensions_mut()).principal =
//!     Some(Arc::new(Principal { subject: "42".into(), username: Some("octocat".into()), ..Principal::default() }));
//! let headers = layer.layer(upstream).oneshot(request).await?;
//! assert_eq!(headers["x-env"], "prod");
//! assert_eq!(headers["x-auth-user"], "octocat");
//! # Ok(())
//! # }
//! ```

mod cors;
mod credentials;
mod identity;
mod identity_token;
mod marked;
mod origin;
mod response;
mod rules;

use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

pub use self::cors::{Allowed, Cors, CorsError, CorsLayer, CorsService, Origins, Permit};
pub use self::credentials::Credentials;
pub use self::identity::{Identity, IdentityStrip, IdentityStripLayer};
pub use self::identity_token::{Attest, Attestation, IdentityToken};
pub use self::marked::{Mark, Marked};
pub use self::origin::{OriginLayer, OriginService};
pub use self::response::{ResponseRules, ResponseRulesLayer};
pub use self::rules::{Op, Rules, RulesError};
use crate::context::RequestContext;

/// Applies [`Headers`].
#[derive(Debug, Clone, Default)]
pub struct HeadersLayer {
    settings: Arc<Settings>,
}

#[derive(Debug, Clone, Default)]
struct Settings {
    rules: Vec<Op>,
    identity: Option<Identity>,
    identity_token: Option<Arc<IdentityToken>>,
    credentials: Credentials,
}

impl HeadersLayer {
    /// Applies these rules to requests, in this order.
    pub fn new(rules: Vec<Op>) -> Result<Self, RulesError> {
        rules::check(&rules)?;
        Ok(Self { settings: Arc::new(Settings { rules, ..Settings::default() }) })
    }

    /// Tells the upstream who the caller is. It comes last: no rule can say otherwise.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Self {
        let settings = Settings { identity: Some(identity), ..Arc::unwrap_or_clone(self.settings) };
        Self { settings: Arc::new(settings) }
    }

    /// Proves to the upstream who the caller is.
    #[must_use]
    pub fn with_identity_token(self, token: Arc<IdentityToken>) -> Self {
        let settings = Settings { identity_token: Some(token), ..Arc::unwrap_or_clone(self.settings) };
        Self { settings: Arc::new(settings) }
    }

    /// Keeps these credentials from the upstream. It comes first: a rule may give it others.
    #[must_use]
    pub fn without(self, credentials: Credentials) -> Self {
        let settings = Settings { credentials, ..Arc::unwrap_or_clone(self.settings) };
        Self { settings: Arc::new(settings) }
    }
}

impl<S> Layer<S> for HeadersLayer {
    type Service = Headers<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Headers { inner, settings: self.settings.clone() }
    }
}

/// Hands requests on with other headers.
#[derive(Debug, Clone)]
pub struct Headers<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, B> Service<http::Request<B>> for Headers<S>
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
        let Settings { rules, identity, identity_token, credentials } = &*self.settings;
        credentials.strip(request.headers_mut());
        rules::apply(rules, request.headers_mut());
        if let Some(identity) = identity {
            let principal = RequestContext::of(request.extensions_mut()).principal.clone();
            identity.write(principal.as_deref(), request.headers_mut());
        }
        if let Some(token) = identity_token {
            let principal = RequestContext::of(request.extensions_mut()).principal.clone();
            token.write(principal.as_ref(), request.headers_mut());
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Request};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::BoxError;
    use crate::context::Principal;

    async fn sent(layer: HeadersLayer, request: Request<()>) -> HeaderMap {
        let inner =
            service_fn(
                |request: Request<()>| async move { Ok::<_, BoxError>(request.into_parts().0.headers) },
            );
        layer.layer(inner).oneshot(request).await.expect("passed on")
    }

    fn op(op: Result<Op, RulesError>) -> Op {
        op.expect("valid")
    }

    #[tokio::test]
    async fn credentials_go_before_rules_and_identity_comes_after() {
        let rules = vec![op(Op::set("Authorization", "Basic xyz")), op(Op::set("X-Auth-User", "rule"))];
        let layer = HeadersLayer::new(rules).expect("valid").with_identity(Identity::default()).without(
            Credentials { authorization: true, cookies: vec!["session".into()], ..Credentials::default() },
        );
        let mut request = Request::new(());
        request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer secret"));
        request.headers_mut().insert("cookie", HeaderValue::from_static("a=1; session=secret"));
        let principal =
            Principal { subject: "42".into(), username: Some("octocat".into()), ..Principal::default() };
        RequestContext::of(request.extensions_mut()).principal = Some(Arc::new(principal));
        let headers = sent(layer, request).await;
        assert_eq!(headers["authorization"], "Basic xyz");
        assert_eq!(headers["cookie"], "a=1");
        assert_eq!(headers["x-auth-user"], "octocat");
    }

    #[tokio::test]
    async fn without_a_principal_no_identity_goes_out() {
        let rules = vec![op(Op::set("X-Auth-User", "rule"))];
        let layer = HeadersLayer::new(rules).expect("valid").with_identity(Identity::default());
        let mut request = Request::new(());
        request.headers_mut().append("x-auth-scopes", HeaderValue::from_static("admin"));
        request.headers_mut().append("x-auth-scopes", HeaderValue::from_static("admin"));
        assert!(sent(layer, request).await.is_empty());
    }

    #[tokio::test]
    async fn framing_is_out_of_reach() {
        for name in ["Connection", "transfer-encoding", "Content-Length", "Host", "Upgrade", "TE", "Trailer"]
        {
            assert!(matches!(Op::set(name, "x"), Err(RulesError::Framing(_))), "{name}");
        }
    }
}
