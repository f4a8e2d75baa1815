//! Joins the documents: each host with its routes and with what their targets stand for. Pure.
//!
//! What comes out is compared with what came out before: an equal host keeps its stack.

use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::forward::{Protocol, ProxyHeader, Scheme, Target, Timeouts, TlsOptions, Upstream};
use portcullis_layers::headers::{Op, RulesError};
use portcullis_layers::route::{self, HostRoutes, RouteTable};
use smol_str::SmolStr;

use super::headers::HeaderRules;
use super::proxy::{ProxyProtocolVersion, RouteMode};
use super::route::{RouteScope, RouteTarget};
use super::{Builtin, Config, Problem, Proxy, Route, TargetUrl, Token};

/// How long exchanges may take where a host does not say.
pub type Limits = Timeouts;

/// A host and everything that decides what happens there.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveHost {
    /// The host's document.
    pub proxy: Proxy,
    /// Where requests go that match no route.
    pub destination: Destination,
    /// The host's own routes, and those of its routes that ask for other access than the host.
    pub routes: HostRoutes,
    /// The own routes with their destinations, in the order of the table.
    pub own: Vec<EffectiveRoute>,
    /// The routes of all hosts.
    pub globals: Globals,
    /// The named tokens, where the host is the API: what they may do there.
    pub tokens: Arc<[Token]>,
}

/// A route with what its target stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveRoute {
    /// The route's document.
    pub route: Route,
    /// Where its requests go.
    pub destination: Destination,
}

/// The routes of all hosts: compiled once and shared.
#[derive(Debug, Clone)]
pub struct Globals {
    /// What finds them.
    pub table: Arc<RouteTable>,
    /// In the order of the table.
    pub routes: Arc<[EffectiveRoute]>,
}

impl PartialEq for Globals {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.routes, &other.routes) || self.routes == other.routes
    }
}

/// Where requests go in the end.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// To upstreams.
    Upstream(Box<Target>),
    /// To something that is built in.
    Builtin(Builtin),
    /// Nowhere, as long as what is named is not there; the text says why.
    Unavailable(String),
}

/// All hosts of a configuration, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The hosts; those that are disabled, too, because a wildcard must not answer for them.
    pub hosts: Vec<EffectiveHost>,
    /// What could not be made of documents, beside the problems of the configuration itself.
    pub problems: Vec<Problem>,
}

/// Joins a configuration. `previous` lends its global routes when they are the same as before.
pub fn resolve(config: &Config, limits: Limits, previous: Option<&Globals>) -> Resolved {
    let mut problems = Vec::new();
    let (global, own): (Vec<_>, Vec<_>) = config
        .routes
        .values()
        .filter(|route| route.enabled)
        .partition(|route| route.scope == RouteScope::Global);
    let globals = globals(config, &global, limits, &mut problems);
    let globals = match previous {
        Some(previous) if *previous == globals => previous.clone(),
        _ => globals,
    };
    let tokens: Arc<[Token]> = config.tokens.values().cloned().collect();
    let mut hosts = Vec::new();
    for proxy in config.proxies.values() {
        let mine: Vec<_> = own.iter().copied().filter(|route| route.is_for(&proxy.proxy_hostname)).collect();
        let own = compile(config, &mine, limits, &mut problems);
        let (table, own): (Vec<_>, Vec<_>) = own.into_iter().unzip();
        let ids = |list: &[super::RouteId]| list.iter().map(|id| SmolStr::new(id.as_str())).collect();
        let mode = match proxy.route_mode {
            RouteMode::All => route::Mode::All { disabled: ids(&proxy.disabled_routes) },
            RouteMode::Selective => route::Mode::Selective { enabled: ids(&proxy.enabled_routes) },
            RouteMode::None => route::Mode::None,
        };
        let routes = HostRoutes::new(Arc::clone(&globals.table), table, &mode);
        let own = in_order(routes.own(), own);
        hosts.push(EffectiveHost {
            destination: of_proxy(proxy, limits),
            proxy: proxy.clone(),
            routes,
            own,
            globals: globals.clone(),
            // Other hosts do not care, and keep their stacks when a token comes or goes.
            tokens: if proxy.target_url == super::Target::Builtin(Builtin::Api) {
                Arc::clone(&tokens)
            } else {
                Arc::default()
            },
        });
    }
    Resolved { hosts, problems }
}

fn globals(config: &Config, routes: &[&Route], limits: Limits, problems: &mut Vec<Problem>) -> Globals {
    let (table, effective): (Vec<_>, Vec<_>) = compile(config, routes, limits, problems).into_iter().unzip();
    let table = RouteTable::new(table);
    let routes = in_order(&table, effective).into();
    Globals { table: Arc::new(table), routes }
}

/// The effective routes in the order of the compiled table, so that an index means the same in both.
fn in_order(table: &RouteTable, mut routes: Vec<EffectiveRoute>) -> Vec<EffectiveRoute> {
    let place = |one: &EffectiveRoute| table.position(one.route.route_id.as_str());
    routes.retain(|one| place(one).is_some());
    routes.sort_by_key(place);
    routes
}

fn compile(
    config: &Config,
    routes: &[&Route],
    limits: Limits,
    problems: &mut Vec<Problem>,
) -> Vec<(route::Route, EffectiveRoute)> {
    let mut compiled = Vec::new();
    for one in routes {
        match one.matcher() {
            Ok(matcher) => {
                let destination = of_route(config, one, limits);
                compiled.push((matcher, EffectiveRoute { route: (*one).clone(), destination }));
            }
            Err(error) => problems.push(Problem::new(&super::Entity::key(*one), &error)),
        }
    }
    compiled
}

/// Where the requests of a host go that match no route.
pub fn of_proxy(proxy: &Proxy, limits: Limits) -> Destination {
    match proxy.target_url {
        super::Target::Builtin(builtin) => Destination::Builtin(builtin),
        super::Target::Url(_) => {
            let upstreams = proxy.all_upstreams().map(|url| upstream(url, Some(proxy))).collect();
            Destination::Upstream(Box::new(target(upstreams, Some(proxy), limits)))
        }
    }
}

/// Where the requests of a route go.
pub fn of_route(config: &Config, route: &Route, limits: Limits) -> Destination {
    let plain = |url: &TargetUrl| {
        let mut target = target(vec![upstream(url, None)], None, limits);
        target.preserve_host = false;
        Destination::Upstream(Box::new(target))
    };
    match route.target() {
        Err(error) => Destination::Unavailable(error.to_string()),
        Ok(RouteTarget::Builtin(builtin)) => Destination::Builtin(builtin),
        Ok(RouteTarget::Url(url)) => plain(&url),
        Ok(RouteTarget::Port(port)) => match format!("http://127.0.0.1:{port}").parse() {
            Ok(url) => plain(&url),
            Err(_) => Destination::Unavailable(format!("port {port} is no target")),
        },
        Ok(RouteTarget::Service(name)) => match config.externals.get(&name) {
            Some(service) if service.routing_enabled => plain(&service.target_url),
            Some(_) => Destination::Unavailable(format!("service {name:?} is not open for routing")),
            None => Destination::Unavailable(format!("there is no service {name:?}")),
        },
        Ok(RouteTarget::Host(host)) => match config.proxies.get(&host) {
            Some(proxy) if proxy.enabled => of_proxy(proxy, limits),
            Some(_) => Destination::Unavailable(format!("host {host} is disabled")),
            None => Destination::Unavailable(format!("there is no host {host}")),
        },
    }
}

fn target(upstreams: Vec<Upstream>, proxy: Option<&Proxy>, limits: Limits) -> Target {
    let seconds = |own: Option<u32>, default| own.map_or(default, |own| Duration::from_secs(own.into()));
    let mut timeouts = limits;
    let mut prefix = SmolStr::new_static("x-auth-");
    if let Some(proxy) = proxy {
        timeouts.connect = seconds(proxy.connect_timeout_seconds, limits.connect);
        timeouts.head = seconds(proxy.request_timeout_seconds, limits.head);
        if let Some(idle) = proxy.idle_timeout_seconds {
            timeouts.body_idle = Some(Duration::from_secs(idle.into()));
        }
        prefix = proxy.auth_header_prefix.to_ascii_lowercase().into();
    }
    Target {
        upstreams,
        preserve_host: proxy.is_none_or(|proxy| proxy.preserve_host_header),
        timeouts,
        protected: vec![prefix],
    }
}

fn upstream(url: &TargetUrl, proxy: Option<&Proxy>) -> Upstream {
    let tls = proxy.map(|proxy| &proxy.upstream_tls);
    let http2 = proxy.is_some_and(|proxy| proxy.upstream_http2);
    Upstream {
        scheme: if url.https { Scheme::Https } else { Scheme::Http },
        host: url.host.clone(),
        port: url.port,
        base_path: url.path.clone(),
        tls: tls.map_or_else(TlsOptions::default, |tls| TlsOptions {
            verify: tls.verify,
            ca: tls.ca_pem.as_deref().map(Into::into),
            server_name: tls.server_name.clone(),
        }),
        protocol: match (http2, url.https) {
            (true, true) => Protocol::Negotiate,
            (true, false) => Protocol::Http2,
            (false, _) => Protocol::Http1,
        },
        proxy_header: proxy.and_then(|proxy| proxy.upstream_proxy_protocol).map(|version| match version {
            ProxyProtocolVersion::V1 => ProxyHeader::V1,
            ProxyProtocolVersion::V2 => ProxyHeader::V2,
        }),
    }
}

/// Header rules as the layers want them: first what is removed, then what is set, then what is added.
pub fn header_ops(rules: &HeaderRules) -> Result<Vec<Op>, RulesError> {
    let removed = rules.remove.iter().map(|name| Op::remove(name.as_str()));
    let set = rules.set.iter().map(|(name, value)| Op::set(name.as_str(), value.as_str()));
    let added = rules.append.iter().map(|(name, value)| Op::append(name.as_str(), value.as_str()));
    removed.chain(set).chain(added).collect()
}
