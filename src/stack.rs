//! A host's document turned into the services that answer its requests, in order.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use portcullis_layers::allowlist::{Allowlist, AllowlistLayer};
use portcullis_layers::body::BoxFuture;
use portcullis_layers::body_limit::BodyLimitLayer;
use portcullis_layers::forward::{Forward, InvalidTarget, LiveStream, Target};
use portcullis_layers::header_prefix::HeaderPrefix;
use portcullis_layers::headers::{IdentityStripLayer, ResponseRulesLayer};
use portcullis_layers::https_redirect::HttpsRedirectLayer;
use portcullis_layers::mcp_bridge::{McpBridgeLayer, Settings};
use portcullis_layers::resource_metadata::ResourceMetadataLayer;
use portcullis_layers::route::{HostRoutes, Place, RewriteLayer, RouteLayer, Routes};
use portcullis_layers::{BoxError, HostName, HttpService, Principal, Rejection, Request, Response};
use portcullis_services::config::access::{Access, access, metadata, switched_off};
use portcullis_services::config::auth::RouteAuth;
use portcullis_services::config::origins::origins;
use portcullis_services::config::resolve::{Destination, EffectiveHost, EffectiveRoute, Globals, header_ops};
use portcullis_services::config::route::RESERVED;
use portcullis_services::config::{Proxy, Route};
use portcullis_services::control::Caller;
use tokio_util::sync::CancellationToken;
use tower::util::option_layer;
use tower::{Layer, ServiceBuilder};

use crate::cors;
use crate::gates::Gates;
use crate::mcp_upstream;
use crate::oauth_paths::{OAuthPathsLayer, Paths};
use crate::recent::Recent;
use crate::runtime::Runtime;
use crate::scheme::SchemesLayer;

/// A host as it is served.
#[derive(Debug)]
pub struct HostStack {
    /// What it was made of: an equal one is kept.
    pub effective: Arc<EffectiveHost>,
    /// Whether plain requests are sent to HTTPS.
    pub redirect: bool,
    /// The snapshot that it was built for.
    pub serial: u64,
    runtime: Arc<Runtime>,
    behind: Behind,
    service: Served,
}

/// What is behind all checks: the same for each name below a wildcard.
#[derive(Debug)]
struct Behind {
    fallback: Fallback,
    leaves: Arc<Leaves>,
}

/// Where requests go that match no route.
#[derive(Debug)]
enum Fallback {
    Upstream(Forward),
    Builtin(HttpService),
    /// What is named is not there now.
    Away,
    Nothing,
}

/// The services of a host: one, or, below a wildcard, one for each name, because each is a resource of its own.
#[derive(Debug)]
enum Served {
    One(HttpService),
    Each(Box<Recent<HostName, HttpService>>),
}

/// The leaves of the routes of all hosts, built once.
#[derive(Debug)]
pub struct GlobalLeaves {
    globals: Globals,
    leaves: Vec<Option<HttpService>>,
}

impl GlobalLeaves {
    /// Builds them, or lends those of before when nothing changed.
    pub fn build(globals: &Globals, runtime: &Runtime, previous: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(previous) = previous
            && previous.globals == *globals
        {
            return Arc::clone(previous);
        }
        let leaves = globals.routes.iter().map(|route| leaf(route, runtime)).collect();
        Arc::new(Self { globals: globals.clone(), leaves })
    }
}

impl GlobalLeaves {
    /// What they were made of.
    pub const fn source(&self) -> &Globals {
        &self.globals
    }
}

impl Behind {
    fn build(
        effective: &EffectiveHost,
        globals: Arc<GlobalLeaves>,
        runtime: &Runtime,
    ) -> Result<Self, BoxError> {
        let routes = effective.routes.clone();
        if !effective.proxy.enabled {
            let leaves = Arc::new(Leaves { routes, globals, own: Vec::new() });
            return Ok(Self { fallback: Fallback::Nothing, leaves });
        }
        let fallback = match &effective.destination {
            Destination::Upstream(target) => Fallback::Upstream(forward(target, runtime)?),
            Destination::Builtin(builtin) => {
                runtime.builtin(*builtin).map_or(Fallback::Nothing, Fallback::Builtin)
            }
            Destination::Unavailable(_) => Fallback::Away,
        };
        let own = effective.own.iter().map(|route| leaf(route, runtime)).collect();
        Ok(Self { fallback, leaves: Arc::new(Leaves { routes, globals, own }) })
    }
}

impl HostStack {
    /// Builds a host's stack.
    ///
    /// # Errors
    ///
    /// When a value of the document is nothing that the layers take.
    pub fn build(
        effective: Arc<EffectiveHost>,
        redirect: bool,
        serial: u64,
        globals: Arc<GlobalLeaves>,
        runtime: Arc<Runtime>,
    ) -> Result<Self, BoxError> {
        let service = Served::Each(Box::default());
        let behind = Behind::build(&effective, globals, &runtime)?;
        let mut stack = Self { effective, redirect, serial, runtime, behind, service };
        match stack.effective.proxy.proxy_hostname.host() {
            Some(host) => stack.service = Served::One(stack.stack(&host)?),
            // Shows now what would go wrong for any name.
            None => drop(stack.stack(&"any.invalid".parse()?)?),
        }
        Ok(stack)
    }

    /// The service that answers for a name.
    pub fn service(&self, host: &HostName) -> Option<HttpService> {
        match &self.service {
            Served::One(service) => Some(service.clone()),
            Served::Each(services) => services.get_or_build(host, || self.stack(host).ok()),
        }
    }

    /// Whether the same host would now be another stack.
    pub fn is(&self, effective: &Arc<EffectiveHost>, redirect: bool) -> bool {
        self.redirect == redirect && Arc::ptr_eq(&self.effective, effective)
    }

    /// Whether a tunnel or event stream that began under other rules may go on under the present ones.
    pub fn allows(&self, stream: &LiveStream, host: &HostName) -> bool {
        let proxy = &self.effective.proxy;
        if !proxy.enabled {
            return false;
        }
        // Its route is in no document, and the host's own rules say nothing of it.
        if stream.route.as_deref() == Some(RESERVED) && !proxy.has_builtin_mcp() {
            return false;
        }
        let auth = stream.route.as_deref().and_then(|route| self.route(route)).and_then(Route::own_auth);
        match access(&self.runtime.site, proxy, auth, &self.effective.tokens, host) {
            Access::Public(list) => list.is_none_or(|list| list.check_network(stream.client).is_ok()),
            Access::Protected(policy, list) => {
                let asked = stream.asked.as_ref();
                // Whoever must be known is looked for on the lists; where anybody may ask, only networks count.
                let open = policy.allows(asked, None);
                let known = || {
                    let who = stream.principal.as_ref();
                    who.is_some_and(|who| is_trusted(proxy, who) && list.check_identity(who).is_ok())
                        && policy.allows(asked, who)
                };
                list.check_network(stream.client).is_ok() && (open || known())
            }
        }
    }

    /// What the names of identity headers start with that are sent from here: the host's own, and those of
    /// the hosts to whose upstreams its routes lead. The firewall in front of all hosts knows the usual one only.
    fn prefixes(&self) -> Result<HashSet<HeaderPrefix>, BoxError> {
        let EffectiveHost { proxy, own, globals, routes, .. } = &*self.effective;
        let shown = globals.routes.iter().enumerate().filter(|(at, _)| routes.shows(*at)).map(|(_, one)| one);
        let mut prefixes: HashSet<HeaderPrefix> = HashSet::from([proxy.auth_header_prefix.parse()?]);
        for one in own.iter().chain(shown) {
            if let Destination::Upstream(target) = &one.destination {
                for prefix in &target.protected {
                    prefixes.insert(prefix.parse()?);
                }
            }
        }
        prefixes.remove(&HeaderPrefix::default());
        Ok(prefixes)
    }

    /// The route of a name, as far as it is in use.
    fn route(&self, id: &str) -> Option<&Route> {
        let all = self.effective.own.iter().chain(self.effective.globals.routes.iter());
        all.map(|one| &*one.route).find(|route| route.route_id.as_str() == id)
    }

    /// The host stack: one for each host, boxed.
    fn stack(&self, host: &HostName) -> Result<HttpService, BoxError> {
        let Self { effective, runtime, .. } = self;
        let proxy = &effective.proxy;
        if !proxy.enabled {
            let rules = ResponseRulesLayer::new(header_ops(&proxy.response_rules())?)?;
            return Ok(HttpService::new(
                rules.layer(HttpService::from_fn(async |_| Err(switched_off().into()))),
            ));
        }
        let prefixes = self.prefixes()?;
        Ok(HttpService::new(
            ServiceBuilder::new()
                // Outermost: rules hold for refusals, too.
                .layer(ResponseRulesLayer::new(header_ops(&proxy.response_rules())?)?)
                // The firewall in front of all hosts knows the usual prefix only.
                .layer(option_layer((!prefixes.is_empty()).then(|| IdentityStripLayer::all(prefixes))))
                // Each endpoint has its own rules about other origins and bodies.
                .layer(option_layer(self.oauth(host)))
                // Before anybody asks for a token, which a preflight never carries.
                .layer(option_layer(cors::cors(&runtime.site, proxy, host)?))
                // Behind the answers to preflights, before anything that a page could do harm with.
                .layer(option_layer(origins(&runtime.site, proxy, host)?))
                .layer(self.schemes())
                .layer(option_layer(self.https_redirect()))
                .layer(BodyLimitLayer::new(proxy.max_body_bytes.unwrap_or(runtime.max_body)))
                // Before authentication: it tells clients how to get a token.
                .layer(option_layer(self.metadata(host)))
                // Authentication needs to know the route.
                .layer(RouteLayer::new(effective.routes.clone()))
                .service(self.dispatch(host)?),
        ))
    }

    /// What the host publishes of itself as a resource. Its upstream may add to that, unless the host says otherwise.
    fn metadata(&self, host: &HostName) -> Option<ResourceMetadataLayer> {
        let proxy = &self.effective.proxy;
        let metadata = metadata(&self.runtime.site, proxy, host, self.effective.is_protected())?;
        let endpoint = proxy.resource_endpoint.as_ref().map_or("/", |path| path.as_str());
        Some(match &self.behind.fallback {
            Fallback::Upstream(forward)
                // In front of the gate: who may not come to the upstream must not make us ask it.
                if proxy.resource_endpoint.is_some()
                    && !proxy.resource_override_backend
                    && proxy.allowed_networks.is_none() =>
            {
                let upstream = forward.clone().into_service();
                ResourceMetadataLayer::joined(&metadata, endpoint, upstream, host)
            }
            _ => ResourceMetadataLayer::new(&metadata, endpoint),
        })
    }

    fn schemes(&self) -> SchemesLayer {
        let proxy = &self.effective.proxy;
        SchemesLayer { http: proxy.enable_http, https: proxy.enable_https }
    }

    fn https_redirect(&self) -> Option<HttpsRedirectLayer> {
        self.redirect.then(|| HttpsRedirectLayer::new(self.runtime.public_https_port))
    }

    /// Hands what is for the authorization server to it, by the rules of the host that are about connections.
    fn oauth(&self, host: &HostName) -> Option<OAuthPathsLayer> {
        let Self { effective, runtime, .. } = self;
        let service = runtime.oauth.clone()?;
        let paths = Paths::of(&runtime.site, &effective.proxy, effective.is_protected(), host)?;
        let networks = networks(&effective.proxy);
        let service = ServiceBuilder::new()
            .layer(self.schemes())
            .layer(option_layer(self.https_redirect()))
            .layer(option_layer(networks.map(AllowlistLayer::new)))
            .service(service);
        Some(OAuthPathsLayer::new(HttpService::new(service), paths))
    }

    /// Everything below the choice of a route.
    fn dispatch(&self, host: &HostName) -> Result<HttpService, BoxError> {
        let leaves = &self.behind.leaves;
        let fallback = match &self.behind.fallback {
            Fallback::Upstream(forward) => Some(self.upstream(host, forward.clone())?),
            Fallback::Builtin(service) => {
                Some(unless_local(self.gates().gate(None, host, service.clone())?, service.clone()))
            }
            Fallback::Away => Some(self.gates().gate(None, host, tower::service_fn(away))?),
            Fallback::Nothing => None,
        };
        if let Some(fallback) = &fallback
            && leaves.own.is_empty()
            && leaves.globals.leaves.is_empty()
        {
            return Ok(fallback.clone());
        }
        let inherited = {
            let leaves = Arc::clone(leaves);
            self.gates().gate(None, host, Routes::new(move |index| leaves.at(index)))?
        };
        let overrides = Arc::new(self.overrides(host, leaves)?);
        let dispatch = Routes::new(move |index| match overrides.gates.get(&index) {
            Some(gate) => overrides.service(gate),
            None => Some(inherited.clone()),
        });
        Ok(HttpService::flat(dispatch.with_default(fallback)))
    }

    /// The host's own upstream.
    fn upstream(&self, host: &HostName, forward: Forward) -> Result<HttpService, BoxError> {
        let Self { effective, runtime, .. } = self;
        let Some(mcp) = &effective.proxy.mcp else { return self.gates().gate(None, host, forward) };
        let resource = format!("{}{}", runtime.site.origin(host.as_str()), effective.proxy.mcp_endpoint());
        let upstream = mcp_upstream::service(runtime, effective, &resource, forward)?;
        if !mcp.bridge {
            return self.gates().gate(None, host, upstream);
        }
        // What is known of one target, and what is sealed for it, is nothing to the next one.
        let upstreams = match &effective.destination {
            Destination::Upstream(target) => &target.upstreams[..],
            _ => &[],
        };
        let name = upstreams.iter().fold(resource, |name, one| format!("{name} {}", one.label()));
        let most = mcp.max_request_bytes.max(mcp.max_answer_bytes);
        let settings = Settings {
            max_message: usize::try_from(most).unwrap_or(usize::MAX),
            ..Settings::new(effective.proxy.mcp_endpoint(), name)
        };
        let bridge = McpBridgeLayer::new(runtime.bridge.clone(), settings);
        self.gates().gate_with(None, host, upstream, Some(bridge))
    }

    /// The gates of routes that ask for other access than their host. Those of global routes are built when
    /// they are first used: a thousand hosts must not hold a gate for each of a thousand routes.
    fn overrides(&self, host: &HostName, leaves: &Arc<Leaves>) -> Result<Overrides, BoxError> {
        let mut overrides = HashMap::new();
        let globals =
            self.effective.globals.routes.iter().enumerate().map(|(index, one)| (index, one, false));
        let first = self.effective.globals.routes.len();
        let own = self.effective.own.iter().enumerate().map(|(index, one)| (first + index, one, true));
        for (index, one, own) in globals.chain(own) {
            let Some(auth) = one.route.own_auth() else { continue };
            let gate = Lazy {
                service: OnceLock::new(),
                host: host.clone(),
                auth: auth.clone(),
                leaf: leaves.at(index),
            };
            if own {
                let _built = gate.service.set(self.lazy(&gate)?);
            }
            overrides.insert(index, gate);
        }
        let builder = self.gates();
        Ok(Overrides { gates: overrides, builder })
    }

    fn lazy(&self, gate: &Lazy) -> Result<Option<HttpService>, BoxError> {
        gate.leaf.clone().map(|leaf| self.gates().gate(Some(&gate.auth), &gate.host, leaf)).transpose()
    }

    fn gates(&self) -> Gates {
        Gates { effective: Arc::clone(&self.effective), runtime: Arc::clone(&self.runtime) }
    }
}

/// The networks that may connect to a host, if it says.
fn networks(proxy: &Proxy) -> Option<Allowlist> {
    let networks = proxy.allowed_networks.as_ref()?.iter().map(|network| network.0).collect();
    Some(Allowlist { networks: Some(networks), ..Allowlist::default() })
}

/// Whether tokens of the principal's issuer are still taken.
fn is_trusted(proxy: &Proxy, principal: &Principal) -> bool {
    let is_its = |issuer: &str| principal.issuer == issuer;
    !principal.foreign || proxy.trusted_issuers.iter().any(|trusted| is_its(trusted.issuer.as_str()))
}

/// What this machine asks of the API needs no token where `PORTCULLIS_LOCAL_ADMIN` says so: `local` marks it.
fn unless_local(gated: HttpService, service: HttpService) -> HttpService {
    HttpService::from_fn(move |request: Request| {
        let local = matches!(request.extensions().get::<Caller>(), Some(Caller::Local));
        if local { service.call(request) } else { gated.call(request) }
    })
}

/// Finds the leaf of a route.
#[derive(Debug)]
struct Leaves {
    routes: HostRoutes,
    globals: Arc<GlobalLeaves>,
    own: Vec<Option<HttpService>>,
}

impl Leaves {
    fn at(&self, index: usize) -> Option<HttpService> {
        match self.routes.place(index) {
            Place::Global(place) => self.globals.leaves.get(place)?.clone(),
            Place::Own(place) => self.own.get(place)?.clone(),
        }
    }
}

/// Gates of routes with access rules of their own, by the routes' indexes.
#[derive(Debug)]
struct Overrides {
    gates: HashMap<usize, Lazy>,
    builder: Gates,
}

#[derive(Debug)]
struct Lazy {
    service: OnceLock<Option<HttpService>>,
    host: HostName,
    auth: RouteAuth,
    leaf: Option<HttpService>,
}

impl Overrides {
    /// The gate of a route, built now if nobody asked for it before.
    fn service(&self, gate: &Lazy) -> Option<HttpService> {
        let build = || self.builder.gate(Some(&gate.auth), &gate.host, gate.leaf.clone()?).ok();
        gate.service.get_or_init(build).clone()
    }
}

/// The leaf of a route: what is behind all checks.
fn leaf(one: &EffectiveRoute, runtime: &Runtime) -> Option<HttpService> {
    let target = match &one.destination {
        Destination::Upstream(target) => forward(target, runtime).ok()?.into_service(),
        Destination::Builtin(builtin) => runtime.builtin(*builtin)?,
        Destination::Unavailable(_) => return None,
    };
    match one.route.rewriter().ok()? {
        Some(rewrite) => Some(HttpService::new(RewriteLayer::new(rewrite).layer(target))),
        None => Some(target),
    }
}

/// Answers for what is not there now: a service without a container that is ready.
fn away(_: Request) -> BoxFuture<Result<Response, BoxError>> {
    let detail = "What serves this host is not available.";
    let rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, "no_target", detail);
    Box::pin(std::future::ready(Err(rejection.into())))
}

/// Tunnels are not closed with a stack, but when their host goes or no longer lets them in: see `live`.
fn forward(target: &Arc<Target>, runtime: &Runtime) -> Result<Forward, InvalidTarget> {
    Forward::new(&runtime.client, Arc::clone(target), CancellationToken::new())
}
