//! Gives an upstream the credential that it knows its callers by, in place of anything that a client has sent.

use std::sync::Arc;

use http::{HeaderName, StatusCode};
use portcullis_layers::body::BoxFuture;
use portcullis_layers::{BoxError, HttpService, Rejection, Request, RequestContext, Response};
use portcullis_services::config::Proxy;
use portcullis_services::config::proxy::mcp::McpCredentials;
use portcullis_services::credentials::Credentials;

use crate::runtime::Runtime;

/// Whose credentials, and where they stand.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamCredentials {
    kept: Arc<Credentials>,
    of_users: bool,
    header: HeaderName,
}

/// What a host's upstream gets; `None`: nothing of its own.
pub(crate) fn layer(runtime: &Runtime, proxy: &Proxy) -> Result<Option<UpstreamCredentials>, BoxError> {
    let Some(mcp) = &proxy.mcp else { return Ok(None) };
    let of_users = match mcp.credentials {
        McpCredentials::None => return Ok(None),
        McpCredentials::Shared => false,
        McpCredentials::User => true,
    };
    let host = proxy.proxy_hostname.clone();
    let kept = Credentials::new(runtime.mirror.clone(), Arc::clone(&runtime.vault), host);
    let header = mcp.credential_header.as_str().parse()?;
    Ok(Some(UpstreamCredentials { kept: Arc::new(kept), of_users, header }))
}

impl UpstreamCredentials {
    /// In front of the upstream.
    pub(crate) fn layer(self, inner: HttpService) -> HttpService {
        HttpService::from_fn(move |request| self.call(request, &inner))
    }

    fn call(&self, mut request: Request, inner: &HttpService) -> BoxFuture<Result<Response, BoxError>> {
        let principal = || request.extensions().get::<RequestContext>()?.principal.clone();
        let credential = if self.of_users {
            principal().and_then(|principal| self.kept.of(&principal))
        } else {
            self.kept.shared()
        };
        let Some(credential) = credential else {
            return Box::pin(std::future::ready(Err(self.missing().into())));
        };
        request.headers_mut().insert(self.header.clone(), credential);
        inner.call(request)
    }

    fn missing(&self) -> Rejection {
        if self.of_users {
            let detail =
                "You have no credential for this server: keep one with `portcullis proxy credential set`.";
            return Rejection::new(StatusCode::FORBIDDEN, "no_upstream_credential", detail);
        }
        let detail = "There is no credential for this server: an admin can keep one for it.";
        Rejection::new(StatusCode::BAD_GATEWAY, "no_upstream_credential", detail)
    }
}
