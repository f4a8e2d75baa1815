//! The gate before a target, in the one order that there is: who it is, then whether the lists let them in. The daemon
//! puts it before upstreams, and `/verify` before a yes.

use std::sync::Arc;

use http::StatusCode;
use portcullis_layers::allowlist::AllowlistLayer;
use portcullis_layers::auth::{AuthLayer, Verify};
use portcullis_layers::body::BoxFuture;
use portcullis_layers::{BoxError, HttpService, Rejection, Request, Response};
use tower::{Layer, Service};

use super::Access;

impl Access {
    /// Stands before a target. `verifier` is who judges tokens, where they are asked for.
    pub fn gate<V, S>(self, verifier: impl FnOnce() -> V, target: S) -> HttpService
    where
        V: Verify,
        S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Into<BoxFuture<Result<Response, BoxError>>> + Send,
    {
        match self {
            Self::Public(None) => HttpService::flat(target),
            Self::Public(Some(list)) => HttpService::flat(AllowlistLayer::new(list).layer(target)),
            Self::Protected(mut policy, list) => {
                let list = Arc::new(list);
                // So that nobody is told to get a scope whom the lists keep out.
                policy.members = Some(Arc::clone(&list));
                // The lists need to know who it is.
                let inner = AllowlistLayer::new(list).layer(target);
                HttpService::flat(AuthLayer::new(verifier(), *policy).layer(inner))
            }
        }
    }
}

/// A host that somebody has switched off: it exists, so that neither 404 nor a wildcard may answer for it.
pub fn switched_off() -> Rejection {
    Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "host_disabled", "This host is switched off.")
}
