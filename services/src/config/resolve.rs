//! Joins the documents: each host with its routes and with what their targets stand for. Pure.
//!
//! What comes out is compared with what came out before: an equal host keeps its stack.

mod builtin_mcp;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::forward::{
    Balancing, Protocol, ProxyHeader, Scheme, Target, Timeouts, TlsOptions, Upstream,
};
use portcullis_layers::headers::{Op, RulesError};
use portcullis_layers::route::{self, HostRoutes, Place, RouteTable};
use smol_str::SmolStr;

use super::balancing::UpstreamUrl;
use super::headers::HeaderRules;
use super::proxy::mcp::McpPinning;
use super::proxy::{ProxyProtocolVersion, RouteMode};
use super::route::{RouteScope, RouteTarget};
use super::tools::McpTools;
use super::upstream_tls::UpstreamTls;
use super::{Builtin, Config, External, HostPattern, Problem, Proxy, Route, ServiceName, TargetUrl, Token};

/// How long exchanges may take where a host does not say.
pub type Limits = Timeouts;

/// Where the ready containers of services are.
pub type Addresses = BTreeMap<ServiceName, Vec<SocketAddr>>;

/// What is not in the configuration, but decides where requests go.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// See [`Limits`].
    pub limits: Limits,
    /// See [`Addresses`].
    pub services: &'a Addresses,
}

/// A host and everything that decides what happens there.
#[derive(Debug, PartialEq)]
pub struct EffectiveHost {
    /// The host's document.
    pub proxy: Arc<Proxy>,
    /// Where requests go that match no route.
    pub destination: Destination,
    /// The host's own routes, and those of its routes that ask for other access than the host.
    pub routes: HostRoutes,
    /// The own routes with their destinations, in the order of the table.
    pub own: Vec<EffectiveRoute>,
    /// The routes of all hosts.
    pub globals: Globals,
    /// The named tokens, where the host is the API: what they may do there.
    pub tokens: Arc<[Arc<Token>]>,
    /// The tools of the MCP server behind it, where somebody looks at them.
    pub tools: Option<Arc<McpTools>>,
}

impl EffectiveHost {
    /// Whether some of it needs a token: the host, or one of its routes.
    pub fn is_protected(&self) -> bool {
        let EffectiveHost { proxy, own, globals, routes, .. } = self;
        let shown = globals.routes.iter().enumerate().filter(|(at, _)| routes.shows(*at)).map(|(_, one)| one);
        proxy.auth_enabled || own.iter().chain(shown).any(|one| one.route.needs_token())
    }

    /// The route that the table knows by an index.
    pub fn route(&self, index: usize) -> Option<&EffectiveRoute> {
        match self.routes.place(index) {
            Place::Global(place) => self.globals.routes.get(place),
            Place::Own(place) => self.own.get(place),
        }
    }
}

/// A route with what its target stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveRoute {
    /// The route's document.
    pub route: Arc<Route>,
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
    Upstream(Arc<Target>),
    /// To something that is built in.
    Builtin(Builtin),
    /// Nowhere, as long as what is named is not there; the text says why.
    Unavailable(String),
}

/// All hosts of a configuration, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The hosts; those that are disabled, too, because a wildcard must not answer for them. One that is
    /// the same as before is the same object.
    pub hosts: Vec<Arc<EffectiveHost>>,
    /// What could not be made of documents, beside the problems of the configuration itself.
    pub problems: Vec<Problem>,
}

/// What was made of a configuration before: what is the same is taken from there.
pub trait Previous {
    /// The routes of all hosts.
    fn globals(&self) -> Option<&Globals>;

    /// A host.
    fn host(&self, pattern: &HostPattern) -> Option<&Arc<EffectiveHost>>;
}

/// There was nothing before.
impl Previous for () {
    fn globals(&self) -> Option<&Globals> {
        None
    }

    fn host(&self, _: &HostPattern) -> Option<&Arc<EffectiveHost>> {
        None
    }
}

/// Joins a configuration.
pub fn resolve(config: &Config, around: Around<'_>, previous: &impl Previous) -> Resolved {
    let mut problems = Vec::new();
    let routes = config.matched_routes().filter(|route| route.enabled);
    let (global, own): (Vec<_>, Vec<_>) = routes.partition(|route| route.scope == RouteScope::Global);
    let globals = globals(config, &global, around, previous.globals(), &mut problems);
    let mut own_of: HashMap<&str, Vec<&Arc<Route>>> = HashMap::new();
    for route in own {
        let hosts: BTreeSet<&str> = route.proxy_hostnames.iter().map(HostPattern::as_str).collect();
        for host in hosts {
            own_of.entry(host).or_default().push(route);
        }
    }
    let tokens: Arc<[Arc<Token>]> = config.tokens.values().cloned().collect();
    let no_tokens: Arc<[Arc<Token>]> = Arc::default();
    // What most hosts have: no routes of their own, and all global ones.
    let usual = HostRoutes::new(Arc::clone(&globals.table), Vec::new(), &route::Mode::default());
    let mut hosts = Vec::with_capacity(config.proxies.len());
    for proxy in config.proxies.values() {
        let own = own_of.get(proxy.proxy_hostname.as_str()).map(Vec::as_slice).unwrap_or_default();
        let before = previous.host(&proxy.proxy_hostname);
        let tools = &tools(config, proxy);
        // Other hosts do not care, and keep their stacks when a token comes or goes.
        let is_api = proxy.target_url == super::Target::Builtin(Builtin::Api);
        let tokens = if is_api { &tokens } else { &no_tokens };
        if let Some(before) = before
            && own.is_empty()
            && before.own.is_empty()
            && Arc::ptr_eq(&before.proxy, proxy)
            && Arc::ptr_eq(&before.globals.routes, &globals.routes)
            // Its containers come and go.
            && !matches!(proxy.target_url, super::Target::Service(_))
            && before.tokens == *tokens
            && before.tools == *tools
        {
            hosts.push(Arc::clone(before));
            continue;
        }
        let known = before.map(|before| Known { table: before.routes.own(), routes: &before.own });
        let mut own = compile(config, own, around, known, &mut problems);
        let builtin_mcp = builtin_mcp::of(proxy);
        let has_mcp = builtin_mcp.is_some();
        own.extend(builtin_mcp);
        let (table, own): (Vec<_>, Vec<_>) = own.into_iter().unzip();
        let ids = |list: &[super::RouteId]| list.iter().map(|id| SmolStr::new(id.as_str())).collect();
        let mode = match proxy.route_mode {
            RouteMode::All => route::Mode::All { disabled: ids(&proxy.disabled_routes) },
            RouteMode::Selective => route::Mode::Selective { enabled: ids(&proxy.enabled_routes) },
            RouteMode::None => route::Mode::None,
        };
        let mode = if has_mcp { builtin_mcp::shown(mode) } else { mode };
        let routes = if table.is_empty() && mode == route::Mode::default() {
            usual.clone()
        } else {
            HostRoutes::new(Arc::clone(&globals.table), table, &mode)
        };
        let own = in_order(routes.own(), own);
        let host = EffectiveHost {
            destination: of_host(config, proxy, around),
            proxy: Arc::clone(proxy),
            routes,
            own,
            globals: globals.clone(),
            tokens: Arc::clone(tokens),
            tools: tools.clone(),
        };
        hosts.push(match before {
            Some(before) if **before == host => Arc::clone(before),
            _ => Arc::new(host),
        });
    }
    Resolved { hosts, problems }
}

/// The tools of a host that are looked at.
fn tools(config: &Config, proxy: &Proxy) -> Option<Arc<McpTools>> {
    let pinned = proxy.mcp.as_ref().is_some_and(|mcp| mcp.pinning != McpPinning::Off);
    pinned.then(|| config.tools.get(proxy.proxy_hostname.as_str()).cloned().unwrap_or_default())
}

fn globals(
    config: &Config,
    routes: &[&Arc<Route>],
    around: Around<'_>,
    previous: Option<&Globals>,
    problems: &mut Vec<Problem>,
) -> Globals {
    let known = previous.map(|previous| Known { table: &previous.table, routes: &previous.routes });
    let compiled = compile(config, routes, around, known, problems);
    let (table, effective): (Vec<_>, Vec<_>) = compiled.into_iter().unzip();
    let table = RouteTable::new(table);
    let routes = in_order(&table, effective).into();
    let globals = Globals { table: Arc::new(table), routes };
    match previous {
        Some(previous) if *previous == globals => previous.clone(),
        _ => globals,
    }
}

/// The effective routes in the order of the compiled table, so that an index means the same in both.
fn in_order(table: &RouteTable, mut routes: Vec<EffectiveRoute>) -> Vec<EffectiveRoute> {
    let place = |one: &EffectiveRoute| table.position(one.route.route_id.as_str());
    routes.retain(|one| place(one).is_some());
    routes.sort_by_key(place);
    routes
}

/// Routes that were compiled before, in the order of their table.
#[derive(Clone, Copy)]
struct Known<'a> {
    table: &'a RouteTable,
    routes: &'a [EffectiveRoute],
}

impl Known<'_> {
    /// What matches a route, if it was compiled from the very same document.
    fn matcher(self, route: &Arc<Route>) -> Option<route::Route> {
        let place = self.table.position(route.route_id.as_str())?;
        let is_same = Arc::ptr_eq(&self.routes.get(place)?.route, route);
        is_same.then(|| self.table.routes()[place].clone())
    }
}

fn compile(
    config: &Config,
    routes: &[&Arc<Route>],
    around: Around<'_>,
    known: Option<Known<'_>>,
    problems: &mut Vec<Problem>,
) -> Vec<(route::Route, EffectiveRoute)> {
    let mut compiled = Vec::with_capacity(routes.len());
    for one in routes {
        // Compiling expressions is what takes time here.
        match known.and_then(|known| known.matcher(one)).map_or_else(|| one.matcher(), Ok) {
            Ok(matcher) => {
                let destination = of_route(config, one, around);
                compiled.push((matcher, EffectiveRoute { route: Arc::clone(one), destination }));
            }
            Err(error) => problems.push(Problem::new(&super::Entity::key(&***one), &error)),
        }
    }
    compiled
}

/// Where the requests of a host go that match no route.
pub fn of_host(config: &Config, proxy: &Proxy, around: Around<'_>) -> Destination {
    let super::Target::Service(name) = &proxy.target_url else { return of_proxy(proxy, around.limits) };
    match of_service(config, name, around) {
        Ok((urls, balancing)) => {
            let manner = Manner { proxy: Some(proxy), external: config.externals.get(name).map(Arc::as_ref) };
            let upstreams = urls.iter().map(|url| upstream(url, manner)).collect();
            let balanced = proxy.balanced();
            let says = config.services.contains_key(name) && balanced.is_said();
            let own = says.then(|| balanced.balancing());
            let target = target(upstreams, Some(proxy), around.limits);
            Destination::Upstream(Arc::new(Target { balancing: own.unwrap_or(balancing), ..target }))
        }
        Err(why) => Destination::Unavailable(why),
    }
}

/// Where a service is, and how requests are spread: over each of its ready containers, or over the URLs of an external
/// one.
fn of_service(
    config: &Config,
    name: &ServiceName,
    around: Around<'_>,
) -> Result<(Vec<UpstreamUrl>, Balancing), String> {
    if let Some(external) = config.externals.get(name) {
        let balanced = external.balanced();
        return match external.routing_enabled {
            true => Ok((balanced.upstreams(), balanced.balancing())),
            false => Err(format!("service {name:?} is not open for routing")),
        };
    }
    let Some(service) = config.services.get(name) else {
        return Err(format!("there is no service {name:?}"));
    };
    let addresses = around.services.get(name).map(Vec::as_slice).unwrap_or_default();
    let urls = addresses.iter().filter_map(|at| format!("http://{at}").parse::<TargetUrl>().ok());
    let urls: Vec<_> = urls.map(UpstreamUrl::from).collect();
    if urls.is_empty() {
        Err(format!("service {name:?} has no container that is ready"))
    } else {
        Ok((urls, service.balanced().balancing()))
    }
}

/// The same for a target that is no service: where those are is not in their documents.
pub fn of_proxy(proxy: &Proxy, limits: Limits) -> Destination {
    match proxy.target_url {
        super::Target::Builtin(builtin) => Destination::Builtin(builtin),
        super::Target::Service(ref name) => {
            Destination::Unavailable(format!("its target is the service {name}"))
        }
        super::Target::Url(_) => {
            let balanced = proxy.balanced();
            let upstreams = balanced.upstreams();
            let manner = Manner { proxy: Some(proxy), external: None };
            let upstreams = upstreams.iter().map(|one| upstream(one, manner)).collect();
            let target = target(upstreams, Some(proxy), limits);
            Destination::Upstream(Arc::new(Target { balancing: balanced.balancing(), ..target }))
        }
    }
}

/// Where the requests of a route go.
pub fn of_route(config: &Config, route: &Route, around: Around<'_>) -> Destination {
    let plain = |url: TargetUrl| without_host(&[url.into()], None, Balancing::default(), around);
    if config.closed.contains_key(&route.route_id) {
        return Destination::Unavailable(format!("the document of route {} can't be read", route.route_id));
    }
    match route.target() {
        Err(error) => Destination::Unavailable(error.to_string()),
        Ok(RouteTarget::Builtin(builtin)) => Destination::Builtin(builtin),
        Ok(RouteTarget::Url(url)) => plain(url),
        Ok(RouteTarget::Port(port)) => match format!("http://127.0.0.1:{port}").parse() {
            Ok(url) => plain(url),
            Err(_) => Destination::Unavailable(format!("port {port} is no target")),
        },
        Ok(RouteTarget::Service(name)) => of_named(config, &name, around),
        Ok(RouteTarget::Host(host)) => match config.proxies.get(&host) {
            Some(proxy) if proxy.enabled => of_host(config, proxy, around),
            Some(_) => Destination::Unavailable(format!("host {host} is disabled")),
            None => Destination::Unavailable(format!("there is no host {host}")),
        },
    }
}

/// Where the requests of routes to a service go.
pub fn of_named(config: &Config, name: &ServiceName, around: Around<'_>) -> Destination {
    match of_service(config, name, around) {
        Ok((urls, balancing)) => {
            without_host(&urls, config.externals.get(name).map(Arc::as_ref), balancing, around)
        }
        Err(why) => Destination::Unavailable(why),
    }
}

/// Where an external service is, whether or not routes may name it.
pub fn of_external(service: &External, around: Around<'_>) -> Destination {
    let balanced = service.balanced();
    without_host(&balanced.upstreams(), Some(service), balanced.balancing(), around)
}

/// What no host's document says anything about.
fn without_host(
    urls: &[UpstreamUrl],
    external: Option<&External>,
    balancing: Balancing,
    around: Around<'_>,
) -> Destination {
    let manner = Manner { proxy: None, external };
    let upstreams = urls.iter().map(|url| upstream(url, manner)).collect();
    let target = target(upstreams, None, around.limits);
    Destination::Upstream(Arc::new(Target { balancing, preserve_host: false, ..target }))
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
        balancing: Balancing::default(),
        preserve_host: proxy.is_none_or(|proxy| proxy.preserve_host_header),
        timeouts,
        protected: vec![prefix],
    }
}

/// Who says how upstreams are spoken to.
#[derive(Debug, Clone, Copy)]
struct Manner<'a> {
    proxy: Option<&'a Proxy>,
    external: Option<&'a External>,
}

impl Manner<'_> {
    /// An external service knows its own servers; a host that names it fills in where it says nothing.
    fn tls(self) -> TlsOptions {
        let service = self.external.map(|external| &external.upstream_tls);
        let host = self.proxy.map(|proxy| &proxy.upstream_tls);
        let said = service.filter(|tls| **tls != UpstreamTls::default());
        said.or(host).map(UpstreamTls::options).unwrap_or_default()
    }

    fn http2(self) -> bool {
        self.external.is_some_and(|external| external.upstream_http2)
            || self.proxy.is_some_and(|proxy| proxy.upstream_http2)
    }
}

fn upstream(UpstreamUrl { url, weight }: &UpstreamUrl, manner: Manner<'_>) -> Upstream {
    let header = manner.proxy.and_then(|proxy| proxy.upstream_proxy_protocol);
    Upstream {
        scheme: if url.https { Scheme::Https } else { Scheme::Http },
        host: url.host.clone(),
        port: url.port,
        base_path: url.path.clone(),
        weight: *weight,
        tls: manner.tls(),
        protocol: match (manner.http2(), url.https) {
            (true, true) => Protocol::Negotiate,
            (true, false) => Protocol::Http2,
            (false, _) => Protocol::Http1,
        },
        proxy_header: header.map(|version| match version {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::view::View;
    use crate::store::{Document, Key, Kind, Raw, Revision};

    struct Before(Resolved);

    impl Previous for Before {
        fn globals(&self) -> Option<&Globals> {
            Some(&self.0.hosts.first()?.globals)
        }

        fn host(&self, pattern: &HostPattern) -> Option<&Arc<EffectiveHost>> {
            self.0.hosts.iter().find(|host| host.proxy.proxy_hostname == *pattern)
        }
    }

    fn raw(kind: Kind, id: &str, value: Value) -> Raw {
        Raw::from(&Document { key: Key::new(kind, id), version: 1, value })
    }

    fn host(id: &str, port: u16) -> Raw {
        let target = format!("http://10.0.0.5:{port}");
        raw(Kind::Proxy, id, json!({ "proxy_hostname": id, "target_url": target }))
    }

    fn route(id: &str, pattern: &str, more: Value) -> Raw {
        let mut fields = json!({ "route_id": id, "path_pattern": pattern, "is_regex": true });
        let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) else { panic!("objects") };
        fields.extend(more);
        raw(Kind::Route, id, Value::Object(std::mem::take(fields)))
    }

    fn own_route(more: Value) -> Raw {
        let mut fields = json!({ "target_type": "hostname", "target_value": "a.example", "scope": "proxy",
                                 "proxy_hostnames": ["c.example"] });
        let (Value::Object(to_a), Value::Object(more)) = (&mut fields, more) else { panic!("objects") };
        to_a.extend(more);
        route("own", "/own/[0-9]+", fields)
    }

    fn documents(port: u16, global: &str) -> Vec<Raw> {
        let everywhere = json!({ "target_type": "port", "target_value": 9000 });
        vec![
            host("a.example", port),
            host("b.example", 80),
            host("c.example", 80),
            own_route(json!({})),
            route("global", global, everywhere),
        ]
    }

    #[test]
    fn hosts_that_nothing_changed_for_are_the_same_object() {
        let view = |documents, before: Option<&View>| {
            View::new(Revision { epoch: "e".into(), n: 1 }, documents, before)
        };
        let services = Addresses::new();
        let limits = Around { limits: Limits::default(), services: &services };
        let first = view(documents(80, "/[a-z]"), None);
        let before = Before(resolve(&first.config, limits, &()));
        assert_eq!(first.config.problems, []);
        assert_eq!(before.0.problems, []);
        let (a, b, c) = (0, 1, 2);
        let kept = |now: &Resolved, at: usize| Arc::ptr_eq(&before.0.hosts[at], &now.hosts[at]);

        let same = resolve(&view(documents(80, "/[a-z]"), Some(&first)).config, limits, &before);
        assert!([a, b, c].into_iter().all(|at| kept(&same, at)));

        let moved = resolve(&view(documents(81, "/[a-z]"), Some(&first)).config, limits, &before);
        assert!(!kept(&moved, a) && kept(&moved, b), "only a has another target");
        assert!(!kept(&moved, c), "c has a route that leads to a");
        let Destination::Upstream(target) = &moved.hosts[c].own[0].destination else { panic!("an upstream") };
        assert_eq!(target.upstreams[0].port, 81);

        let mut odd = documents(80, "/[a-z]");
        odd[3] = own_route(json!({ "target_type": "color" }));
        let odd = resolve(&view(odd, Some(&first)).config, limits, &before);
        assert!(kept(&odd, a) && kept(&odd, b) && !kept(&odd, c), "the rest of c's route can't be read");
        assert!(matches!(odd.hosts[c].own[0].destination, Destination::Unavailable(_)));

        let mut lost = documents(80, "/[a-z]");
        lost[3] = own_route(json!({ "path_pattern": 1 }));
        let mut lost = Config::clone(&view(lost, Some(&first)).config);
        assert_eq!((lost.lost.len(), lost.closed.len(), lost.problems.len()), (1, 0, 1));
        lost.keep_last_good(&first.config.routes);
        let lost = resolve(&lost, limits, &before);
        assert!([a, b, c].into_iter().all(|at| kept(&lost, at)), "what was read before is in force");

        let other = resolve(&view(documents(80, "/[0-9]"), Some(&first)).config, limits, &before);
        assert!([a, b, c].into_iter().all(|at| !kept(&other, at)), "the global route is for all");
        assert!(other.hosts.iter().all(|host| host.globals == other.hosts[0].globals));
    }
}
