//! What decides about the requests of each host: the gates that stand before its own requests
//! ([`Access::gate`]), chosen by the same documents, with nothing behind them but a yes.
//!
//! They are built from what the node has in memory when somebody asks about a host, and stay until the
//! configuration changes. No request asks the store.

#![expect(clippy::result_large_err, reason = "the error is the answer, made once and sent")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use http::header::{UPGRADE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use portcullis_layers::auth::{Mode, OFFLINE_ACCESS, Policy, TokenError, Verified, Verify};
use portcullis_layers::forward::Timeouts;
use portcullis_layers::headers::{HeadersLayer, Identity};
use portcullis_layers::route::readings::is_ambiguous;
use portcullis_layers::route::{RouteLayer, Routes};
use portcullis_layers::{
    Body, BoxError, Check, Facts, HeaderPrefix, HostName, HttpService, Principal, Rejection, Request,
    RequestContext, Response,
};
use smol_str::SmolStr;
use tower::util::option_layer;
use tower::{Layer, ServiceExt, service_fn};

use super::original::Stated;
use crate::config::access::{Access, Site, access, switched_off};
use crate::config::auth::{RouteAuth, RouteAuthType};
use crate::config::origins::origins;
use crate::config::resolve::{Addresses, Around, EffectiveHost, Globals, Previous, resolve};
use crate::config::{Config, HostPattern, Proxy};
use crate::oauth::server::scope::Scopes;
use crate::oauth::{AuthorizationServer, Judge};

/// The most gates that are kept ready. Below a wildcard anybody can name new ones.
const MAX_READY: usize = 4096;

/// What a token is judged by.
type Verifier = Arc<dyn Verify + Send + Sync>;

/// By the issuers that a host trusts.
struct OfHost {
    judge: Arc<dyn Judge>,
    proxy: Arc<Proxy>,
}

impl Verify for OfHost {
    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        self.judge.verify(&self.proxy, token)
    }
}

/// The verifier of a host.
fn verifier(server: &AuthorizationServer, proxy: &Arc<Proxy>) -> Verifier {
    match &server.judge {
        Some(judge) if !proxy.trusted_issuers.is_empty() => {
            Arc::new(OfHost { judge: Arc::clone(judge), proxy: Arc::clone(proxy) })
        }
        _ => Arc::clone(&server.verifier),
    }
}

/// What the answer to a proxy depends on beside the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Demands {
    /// Scopes that the request needs beside those of the host's rules.
    pub(super) scopes: Vec<SmolStr>,
    /// Whether a browser is to be sent to the login page.
    pub(super) redirect: bool,
}

/// What the gate of a host depends on. It is not which scopes are demanded: anybody may write any, and must not
/// push the gates of others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Manner {
    /// Whether a browser is to be sent to the login page.
    redirect: bool,
    /// Whether nobody passes without a token, because scopes are demanded.
    strict: bool,
}

impl Manner {
    const fn of(demands: &Demands) -> Self {
        Self { redirect: demands.redirect, strict: !demands.scopes.is_empty() }
    }
}

/// The scopes that a request to a strict gate needs beside those of the host's rules.
#[derive(Debug, Clone)]
struct Demanded(Vec<SmolStr>);

/// What another proxy asks.
#[derive(Debug)]
pub(super) struct Question {
    /// The request that it got.
    pub(super) stated: Stated,
    /// What it wants of the answer.
    pub(super) demands: Demands,
    /// The headers that it asks with, which are those of the request.
    pub(super) headers: HeaderMap,
    /// Where the question comes from.
    pub(super) context: RequestContext,
}

impl Demands {
    pub(super) fn new(scopes: Option<&Scopes>, redirect: bool) -> Self {
        Self { scopes: scopes.into_iter().flat_map(Scopes::iter).map(SmolStr::new).collect(), redirect }
    }
}

/// The hosts of the configuration that was asked last.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    known: ArcSwapOption<Known>,
    // Held while a configuration is read: who waits for it finds what came of it.
    reading: tokio::sync::Mutex<()>,
}

/// The hosts of one configuration.
#[derive(Debug)]
struct Known {
    config: Arc<Config>,
    hosts: BTreeMap<HostPattern, Arc<EffectiveHost>>,
    ready: Mutex<HashMap<(HostName, Manner), HttpService>>,
}

/// What was resolved before lends what did not change.
struct Before<'a>(Option<&'a Known>);

impl Previous for Before<'_> {
    fn globals(&self) -> Option<&Globals> {
        self.0?.hosts.values().next().map(|host| &host.globals)
    }

    fn host(&self, pattern: &HostPattern) -> Option<&Arc<EffectiveHost>> {
        self.0?.hosts.get(pattern)
    }
}

impl Hosts {
    /// Judges a request to a host: a yes is an answer with identity headers, a no is a rejection. Tells who asked as
    /// well, as far as that is known.
    pub(super) async fn judge(
        &self,
        server: &AuthorizationServer,
        config: &Arc<Config>,
        question: Question,
    ) -> (Result<Response, BoxError>, Option<Arc<Principal>>) {
        let Question { stated, demands, headers, context } = question;
        let known = self.known(config).await;
        let manner = Manner::of(&demands);
        let service = match known.service(server, &stated.host, manner) {
            Ok(service) => service,
            Err(unknown) => return (Err(unknown.into()), None),
        };
        // The log is about the question: of the request that it is about it is only to know who made it.
        let facts = Arc::new(Facts::default());
        let mut request = request(stated, headers, context, Arc::clone(&facts));
        request.extensions_mut().insert(Demanded(demands.scopes));
        let outcome = service.call(request).await;
        (outcome, facts.principal.get().cloned())
    }

    async fn known(&self, config: &Arc<Config>) -> Arc<Known> {
        let current = || self.known.load_full().filter(|known| Arc::ptr_eq(&known.config, config));
        if let Some(known) = current() {
            return known;
        }
        let _reading = self.reading.lock().await;
        if let Some(known) = current() {
            return known;
        }
        let before = self.known.load_full();
        let config = Arc::clone(config);
        // Compiling the routes of thousands of hosts takes a while: nothing else must wait for it.
        let read = tokio::task::spawn_blocking(move || Known::read(config, before.as_deref()));
        let known = Arc::new(read.await.expect("resolving does not panic"));
        self.known.store(Some(Arc::clone(&known)));
        known
    }
}

impl Known {
    fn read(config: Arc<Config>, before: Option<&Self>) -> Self {
        // Where requests go and how long they take is the other proxy's business.
        let (limits, services) = (Timeouts::default(), Addresses::new());
        let resolved = resolve(&config, Around { limits, services: &services }, &Before(before));
        let hosts =
            resolved.hosts.into_iter().map(|host| (host.proxy.proxy_hostname.clone(), host)).collect();
        Self { config, hosts, ready: Mutex::default() }
    }

    fn service(
        &self,
        server: &AuthorizationServer,
        host: &HostName,
        manner: Manner,
    ) -> Result<HttpService, Rejection> {
        let key = (host.clone(), manner);
        let ready = || self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = ready().get(&key) {
            return Ok(service.clone());
        }
        let unknown =
            || Rejection::new(StatusCode::FORBIDDEN, "no_such_host", "This host is not known here.");
        let proxy = self.config.proxy_of(host).ok_or_else(unknown)?;
        let effective = Arc::clone(self.hosts.get(&proxy.proxy_hostname).ok_or_else(unknown)?);
        let gates = Gates {
            verifier: verifier(server, proxy),
            effective,
            site: server.site.clone(),
            host: host.clone(),
            manner,
        };
        let service = gates.service()?;
        let mut ready = ready();
        if ready.len() >= MAX_READY {
            ready.clear();
        }
        ready.insert(key, service.clone());
        Ok(service)
    }
}

/// Builds what stands before the requests of one host.
struct Gates {
    effective: Arc<EffectiveHost>,
    site: Site,
    verifier: Verifier,
    host: HostName,
    manner: Manner,
}

impl Gates {
    fn service(self) -> Result<HttpService, Rejection> {
        let proxy = &self.effective.proxy;
        if !proxy.enabled {
            return Err(switched_off());
        }
        let (http, https) = (proxy.enable_http, proxy.enable_https);
        let ruled = !proxy.auth_scope_rules.is_empty() || !proxy.resource_path().is_empty();
        let routes = self.effective.routes.clone();
        let pages = origins(&self.site, proxy, &self.host).map_err(Rejection::of)?;
        let inherited = self.gate(None)?;
        let default = inherited.clone();
        let own: Arc<Mutex<BTreeMap<usize, HttpService>>> = Arc::default();
        let gates = Arc::new(self);
        let routes = RouteLayer::new(routes).layer(
            Routes::new(move |index| {
                let Some(auth) = gates.effective.route(index)?.route.own_auth() else {
                    return Some(inherited.clone());
                };
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(gate) = own.get(&index) {
                    return Some(gate.clone());
                }
                let gate = gates.gate(Some(auth)).ok()?;
                own.insert(index, gate.clone());
                Some(gate)
            })
            .with_default(Some(default)),
        );
        let routes = option_layer(pages).layer(routes);
        Ok(HttpService::from_fn(move |mut request: Request| {
            let is_https = RequestContext::of(request.extensions_mut()).scheme() == "https";
            // Rules for paths are no good for one that the upstream may take for another.
            let unclear = ruled && is_ambiguous(request.uri().path());
            let routes = routes.clone();
            async move {
                if unclear {
                    let detail = "The path can be read in two ways.";
                    return Err(Rejection::new(StatusCode::BAD_REQUEST, "ambiguous_path", detail).into());
                }
                if !(if is_https { https } else { http }) {
                    let detail = "This host is not served over this protocol.";
                    return Err(Rejection::new(StatusCode::FORBIDDEN, "protocol_disabled", detail).into());
                }
                routes.oneshot(request).await
            }
        }))
    }

    /// What stands between the choice of a route and its target.
    fn gate(&self, auth: Option<&RouteAuth>) -> Result<HttpService, Rejection> {
        let proxy = &self.effective.proxy;
        let of = |auth| access(&self.site, proxy, auth, &self.effective.tokens, &self.host);
        let strict = RouteAuth { auth_type: RouteAuthType::Bearer, ..RouteAuth::default() };
        let mut access = match of(auth) {
            // Whoever asks us does so because the host is to be protected: what is not is a mistake.
            Access::Public(_) if !proxy.auth_enabled => {
                return Ok(HttpService::from_fn(async |_| {
                    let detail = "Authentication is switched off for this host.";
                    Err(Rejection::new(StatusCode::FORBIDDEN, "not_protected", detail).into())
                }));
            }
            Access::Public(_) if self.manner.strict => of(Some(&strict)),
            access => access,
        };
        let mut leaf = self.leaf()?;
        if let Access::Protected(policy, _) = &mut access {
            self.demand(policy);
            if self.manner.strict {
                leaf = demanding(Policy::clone(policy), leaf);
            }
        }
        Ok(access.gate(|| Arc::clone(&self.verifier), leaf))
    }

    /// Adds what is demanded: never less than the host's own rules.
    fn demand(&self, policy: &mut Policy) {
        if !self.manner.redirect {
            policy.login = None;
        }
        if !self.manner.strict {
            return;
        }
        // Nobody has scopes who is not asked for a token.
        policy.excepted.clear();
        if policy.mode == Mode::Pass {
            policy.mode = Mode::Reject;
        }
    }

    /// Says yes, and who it is.
    fn leaf(&self) -> Result<HttpService, Rejection> {
        let proxy = &self.effective.proxy;
        if !proxy.auth_pass_headers {
            return Ok(HttpService::from_fn(async |_| Ok(Response::new(Body::empty()))));
        }
        let prefix: HeaderPrefix = proxy.auth_header_prefix.parse().map_err(Rejection::of)?;
        let announce = HeadersLayer::default().with_identity(Identity::new(prefix.clone()).detailed(true));
        Ok(HttpService::from_fn(move |mut request: Request| {
            let principal = RequestContext::of(request.extensions_mut()).principal.take();
            let (announce, prefix) = (announce.clone(), prefix.clone());
            async move {
                // An empty one: nothing that the client has sent comes back as an identity.
                let mut blank = http::Request::new(());
                RequestContext::of(blank.extensions_mut()).principal = principal;
                let written = service_fn(async |blank: http::Request<()>| {
                    Ok::<_, BoxError>(blank.into_parts().0.headers)
                });
                let mut headers = announce.layer(written).oneshot(blank).await?;
                as_oauth2_proxy(&prefix, &mut headers);
                let mut response = Response::new(Body::empty());
                *response.headers_mut() = headers;
                Ok(response)
            }
        }))
    }
}

/// Lets in who has the scopes that this question demands, once the host's own rules are fulfilled.
fn demanding(policy: Policy, inner: HttpService) -> HttpService {
    let policy = Arc::new(policy);
    HttpService::from_fn(move |mut request: Request| {
        let (policy, inner) = (Arc::clone(&policy), inner.clone());
        async move {
            let demanded = request.extensions_mut().remove::<Demanded>();
            let principal = RequestContext::of(request.extensions_mut()).principal.clone();
            let has = |scope: &SmolStr| principal.as_ref().is_some_and(|who| who.has_scope(scope));
            if demanded.as_ref().is_some_and(|Demanded(scopes)| scopes.iter().all(has)) {
                return inner.call(request).await;
            }
            let given = |scope: &SmolStr| {
                let grants = policy.grants.as_ref();
                grants.is_none_or(|grants| principal.as_ref().is_some_and(|who| grants.give(who, scope)))
            };
            if demanded.as_ref().is_some_and(|Demanded(scopes)| !scopes.iter().all(given)) {
                // No challenge: another token would not help.
                let detail = "Scope not authorized";
                let rejection = Rejection::new(StatusCode::FORBIDDEN, "access_denied", detail);
                return Err(rejection.with_check(Check::Scope).into());
            }
            let own = policy.required(request.method(), request.uri().path());
            let mut all: Vec<&str> = own.split(' ').filter(|scope| !scope.is_empty()).collect();
            for scope in demanded.iter().flat_map(|Demanded(scopes)| scopes) {
                if scope != OFFLINE_ACCESS && !all.contains(&scope.as_str()) {
                    all.push(scope);
                }
            }
            let challenge = policy.challenge.insufficient_scope(&all.join(" "));
            let detail = "The access token lacks a scope";
            let rejection = Rejection::new(StatusCode::FORBIDDEN, "insufficient_scope", detail);
            Err(rejection.with_check(Check::Scope).with_header(WWW_AUTHENTICATE, challenge).into())
        }
    })
}

/// Says the same under the names that `oauth2-proxy` has for it, which many examples copy.
fn as_oauth2_proxy(prefix: &HeaderPrefix, headers: &mut HeaderMap) {
    for (word, name) in [
        ("User", "x-auth-request-user"),
        ("User", "x-auth-request-preferred-username"),
        ("Email", "x-auth-request-email"),
        ("Groups", "x-auth-request-groups"),
    ] {
        if let Some(value) = headers.get(prefix.header(word)).cloned() {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The request that the other proxy got: its headers are those that it asks with.
fn request(stated: Stated, headers: HeaderMap, mut context: RequestContext, facts: Arc<Facts>) -> Request {
    let is_socket = headers.contains_key("sec-websocket-key");
    let mut request = Request::new(Body::empty());
    *request.method_mut() = stated.method;
    *request.uri_mut() = stated.uri;
    *request.headers_mut() = headers;
    if is_socket {
        // What makes it an upgrade is about one connection only, so the other proxy has not sent it on.
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    context.host = Some(stated.host);
    context.scheme = Some(if stated.https { "https" } else { "http" });
    context.route = None;
    context.principal = None;
    context.open = false;
    context.facts = Some(facts);
    request.extensions_mut().insert(context);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_demanded_does_not_multiply_the_gates_of_a_host() {
        let manner = |text: &str| {
            let scopes = Scopes::parse(text).expect("scopes");
            let demands = Demands::new(Some(&scopes), false);
            Manner::of(&demands)
        };
        assert_eq!(manner("a"), manner("b c"));
        assert_ne!(manner("a"), manner(""));
        assert_ne!(Manner::of(&Demands::new(None, true)), Manner::of(&Demands::new(None, false)));
    }
}
