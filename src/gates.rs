//! What stands between the choice of a route and its target: who may pass, what is said of them, and which calls.

use std::sync::Arc;

use portcullis_layers::auth::Policy;
use portcullis_layers::body::BoxFuture;
use portcullis_layers::forwarded::ForwardedLayer;
use portcullis_layers::headers::{Attest, Credentials, HeadersLayer, Identity, IdentityToken};
use portcullis_layers::mcp::pins::Pins;
use portcullis_layers::mcp::{self, McpLayer};
use portcullis_layers::mcp_bridge::McpBridgeLayer;
use portcullis_layers::{BoxError, HostName, HttpService, Request, Response};
use portcullis_services::config::access::{Access, access};
use portcullis_services::config::auth::RouteAuth;
use portcullis_services::config::proxy::OUR_COOKIES;
use portcullis_services::config::proxy::mcp::{Mcp, McpPinning};
use portcullis_services::config::resolve::{EffectiveHost, header_ops};
use tower::{Layer, Service, ServiceBuilder};

use crate::cors;
use crate::runtime::Runtime;

/// Builds the gates of a host.
#[derive(Debug, Clone)]
pub(crate) struct Gates {
    pub(crate) effective: Arc<EffectiveHost>,
    pub(crate) runtime: Arc<Runtime>,
}

impl Gates {
    /// The route stack without its leaf, boxed.
    pub(crate) fn gate<S>(
        &self,
        auth: Option<&RouteAuth>,
        host: &HostName,
        inner: S,
    ) -> Result<HttpService, BoxError>
    where
        S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Into<BoxFuture<Result<Response, BoxError>>> + Send,
    {
        self.gate_with(auth, host, inner, None)
    }

    /// The same, perhaps with a bridge to a server of another era.
    pub(crate) fn gate_with<S>(
        &self,
        auth: Option<&RouteAuth>,
        host: &HostName,
        inner: S,
        bridge: Option<McpBridgeLayer>,
    ) -> Result<HttpService, BoxError>
    where
        S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Into<BoxFuture<Result<Response, BoxError>>> + Send,
    {
        let Self { effective, runtime } = self;
        let proxy = &effective.proxy;
        let mut access = access(&runtime.site, proxy, auth, &effective.tokens, host);
        let mut headers = HeadersLayer::new(header_ops(&proxy.request_rules())?)?;
        if proxy.auth_pass_headers {
            headers = headers.with_identity(Identity::new(proxy.auth_header_prefix.parse()?).detailed(true));
        }
        let is_protected = matches!(access, Access::Protected(..));
        if proxy.auth_identity_jwt && is_protected {
            let attest = Arc::clone(&runtime.identity) as Arc<dyn Attest>;
            let (prefix, audience) = (proxy.auth_header_prefix.parse()?, runtime.site.resource(proxy, host));
            let token = IdentityToken::new(&prefix, audience, attest, runtime.workers);
            headers = headers.with_identity_token(Arc::new(token));
        }
        // Browsers send their session to open routes and after a host was opened, too: no upstream may have it.
        let mut credentials = Credentials {
            authorization: false,
            cookies: vec![proxy.session_cookie().into()],
            cookie_prefixes: vec![OUR_COOKIES.into()],
        };
        // The same holds for the token, and for the cookie of older clients, unless the host says otherwise.
        if (is_protected || proxy.auth_enabled) && !proxy.forward_authorization.unwrap_or(false) {
            credentials.authorization = true;
            credentials.cookies.push(proxy.auth_cookie_name.as_str().into());
        }
        headers = headers.without(credentials);
        // Headers after the allowlist: only who may pass is announced. Forwarded last: nobody edits it.
        let inner = ServiceBuilder::new().layer(headers).layer(ForwardedLayer::new()).service(inner);
        if let Access::Protected(policy, _) = &mut access {
            policy.readable = cors::are_refusals_readable(proxy);
        }
        let verifier = || runtime.verifiers.of(proxy);
        Ok(match (self.mcp(&access), bridge) {
            // Behind the lists: only calls of who may use the host at all are judged, and written down.
            (Some(mcp), Some(bridge)) => access.gate(verifier, mcp.layer(bridge.layer(inner))),
            (Some(mcp), None) => access.gate(verifier, mcp.layer(inner)),
            (None, _) => access.gate(verifier, inner),
        })
    }

    /// What judges calls, on a host that knows of the protocol.
    fn mcp(&self, access: &Access) -> Option<McpLayer> {
        let Self { effective, runtime } = self;
        let mcp = effective.proxy.mcp.as_ref()?;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Some(McpLayer::new(mcp::Policy {
            other_paths: mcp.other_paths,
            rules: mcp.rules(),
            limits: mcp.limits().into(),
            pins: self.pins(mcp),
            max_request: bytes(mcp.max_request_bytes),
            max_answer: bytes(mcp.max_answer_bytes),
            list_attainable: mcp.list_attainable,
            auth: match access {
                Access::Protected(policy, _) => Some(Arc::new(Policy::clone(policy))),
                Access::Public(_) => None,
            },
            buckets: Arc::clone(&runtime.buckets),
            sink: Arc::clone(&runtime.calls),
            with_requests: true,
            ..mcp::Policy::new(effective.proxy.mcp_endpoint())
        }))
    }

    /// Which of the server's tools are approved, where somebody looks at them.
    fn pins(&self, mcp: &Mcp) -> Option<Arc<Pins>> {
        let tools = self.effective.tools.as_ref()?;
        let strict = mcp.pinning == McpPinning::Strict || tools.unreadable;
        let (notes, host) = (self.runtime.tools.clone(), self.effective.proxy.proxy_hostname.clone());
        let report = Arc::new(move |seen| notes.take(&host, seen));
        let memory = self.runtime.pins.of(&self.effective.proxy.proxy_hostname);
        Some(Arc::new(Pins::new(strict, tools.known(), memory, report)))
    }
}
