//! What becomes of a request, told step by step. Pure: it asks the configuration and the matcher of the
//! data path, and sends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_layers::HostName;
use portcullis_layers::route::{HostRoutes, Mode, RouteTable, Verdict};
use schemars::JsonSchema;
use serde::Serialize;

use super::Error;
use crate::config::auth::{AuthMode, RouteAuth, RouteAuthType, ScopeRule};
use crate::config::balancing::Balanced;
use crate::config::names::{MethodName, PathPrefix, Text};
use crate::config::proxy::RouteMode;
use crate::config::route::{RouteScope, RouteTarget};
use crate::config::{Config, FieldError, Proxy, Route, Target, TargetUrl};

/// What becomes of a request.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explanation {
    /// The host that was asked for.
    pub host: String,
    /// The path.
    pub path: String,
    /// The method.
    pub method: String,
    /// `route`, `proxy`, or why nothing answers: `no_such_host`, `disabled`, `unresolved`.
    pub decision: &'static str,
    /// The proxy that answers for the host.
    pub proxy: Option<String>,
    /// The route that is taken.
    pub route_id: Option<String>,
    /// What has to hold before the upstream is asked, in order.
    pub checks: Vec<Check>,
    /// Who is asked.
    pub upstream: Option<String>,
    /// The path that the upstream sees.
    pub upstream_path: Option<String>,
    /// Why, in sentences.
    pub reasons: Vec<String>,
    /// Every route that the host could take, in the order in which they are asked.
    pub considered: Vec<Considered>,
}

/// One condition.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Check {
    /// What looks: `networks`, `token`, `scopes`, `users`, `emails`, `groups`.
    pub check: &'static str,
    /// What it wants.
    pub wants: String,
    /// What a request gets that does not have it.
    pub otherwise: String,
}

/// A route and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Considered {
    /// The route.
    pub route_id: String,
    /// Its priority.
    pub priority: u16,
    /// Its pattern.
    pub path_pattern: String,
    /// Whether it is the one.
    pub chosen: bool,
    /// Why, or why not.
    pub why: String,
}

/// Explains a request.
pub fn explain(
    config: &Config,
    issuer: &TargetUrl,
    host: &HostName,
    path: &str,
    method: &MethodName,
    headers: &[String],
) -> Result<Explanation, Error> {
    let method: Method = method.as_str().parse().map_err(|_| {
        Error::invalid(FieldError::new("method", method.as_str(), "expected a request method such as GET"))
    })?;
    let headers = parse_headers(headers)?;
    let mut told = Explanation {
        host: host.to_string(),
        path: path.to_owned(),
        method: method.to_string(),
        decision: "no_such_host",
        proxy: None,
        route_id: None,
        checks: Vec::new(),
        upstream: None,
        upstream_path: None,
        reasons: Vec::new(),
        considered: Vec::new(),
    };
    let Some(proxy) = config.proxy_of(host) else {
        told.reasons.push(format!("no proxy answers for {host}, nor for a wildcard above it: 404"));
        return Ok(told);
    };
    let name = &proxy.proxy_hostname;
    told.proxy = Some(name.to_string());
    told.reasons.push(match name.wildcard_parent() {
        Some(_) => format!("the wildcard proxy {name} answers for {host}"),
        None => format!("the proxy {name} answers"),
    });
    if !proxy.enabled {
        told.decision = "disabled";
        told.reasons.push("it is disabled: 503".to_owned());
        return Ok(told);
    }
    let chosen = choose(config, proxy, path, &method, &headers, &mut told);
    told.checks = checks(proxy, chosen, path, &method, issuer);
    match chosen {
        Some(route) => {
            told.decision = "route";
            told.route_id = Some(route.route_id.to_string());
            told.reasons.push(format!("the route {} is the first that matches", route.route_id));
            match resolve(config, route) {
                Ok(upstream) => told.upstream = Some(upstream),
                Err(why) => {
                    told.decision = "unresolved";
                    told.reasons.push(format!("{why}: 503"));
                }
            }
            let rewrite = route.rewriter().ok().flatten();
            let rewritten = rewrite.and_then(|rewrite| rewrite.path(path));
            told.upstream_path = Some(rewritten.unwrap_or_else(|| path.to_owned()));
        }
        None => {
            told.decision = "proxy";
            told.reasons.push("no route matches: the proxy's own target is asked".to_owned());
            told.upstream = Some(proxy.target_url.to_string());
            told.upstream_path = Some(path.to_owned());
        }
    }
    Ok(told)
}

fn parse_headers(lines: &[String]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (index, line) in lines.iter().enumerate() {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            Some((HeaderName::try_from(name.trim()).ok()?, HeaderValue::try_from(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| {
            Error::invalid(FieldError::new(
                format!("headers[{index}]"),
                line.as_str(),
                "expected `name: value`",
            ))
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Asks the matcher of the data path, and notes what it says of every route.
fn choose<'a>(
    config: &'a Config,
    proxy: &Proxy,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
    told: &mut Explanation,
) -> Option<&'a Route> {
    let mut global = Vec::new();
    let mut own = Vec::new();
    let mut rest = Vec::new();
    for route in config.matched_routes() {
        if route.scope == RouteScope::Proxy && !route.is_for(&proxy.proxy_hostname) {
            continue;
        }
        match route.matcher() {
            Ok(matcher) if route.enabled => match route.scope {
                RouteScope::Global => global.push(matcher),
                RouteScope::Proxy => own.push(matcher),
            },
            Ok(_) => rest.push((route, "it is disabled".to_owned())),
            Err(error) => rest.push((route, error.to_string())),
        }
    }
    let hidden_own: Vec<_> = own
        .iter()
        .filter_map(|matcher| config.matched_route(matcher.id.as_str()))
        .filter(|route| !proxy.takes(route))
        .collect();
    rest.extend(hidden_own.into_iter().map(|route| (route, Verdict::Hidden.to_string())));
    let routes = HostRoutes::new(Arc::new(RouteTable::new(global)), own, &mode(proxy));
    let mut chosen = None;
    let mut told_of: BTreeMap<&str, Considered> = BTreeMap::new();
    for considered in routes.explain(path, method, headers) {
        let Some(route) = config.matched_route(considered.route.id.as_str()) else { continue };
        let is_chosen = considered.verdict == Verdict::Chosen;
        if is_chosen {
            chosen = Some(&**route);
        }
        told_of.insert(route.route_id.as_str(), entry(route, is_chosen, considered.verdict.to_string()));
    }
    for (route, why) in rest {
        told_of.entry(route.route_id.as_str()).or_insert_with(|| entry(route, false, why));
    }
    let mut order: Vec<_> = config.matched_routes().collect();
    order.sort_by(|a, b| a.order(b));
    told.considered = order.iter().filter_map(|route| told_of.remove(route.route_id.as_str())).collect();
    chosen
}

fn entry(route: &Route, chosen: bool, why: String) -> Considered {
    Considered {
        route_id: route.route_id.to_string(),
        priority: route.priority,
        path_pattern: route.path_pattern.clone(),
        chosen,
        why,
    }
}

/// The mode as the matcher has it.
fn mode(proxy: &Proxy) -> Mode {
    let ids = |routes: &[crate::config::RouteId]| routes.iter().map(|id| id.as_str().into()).collect();
    match proxy.route_mode {
        RouteMode::All => Mode::All { disabled: ids(&proxy.disabled_routes) },
        RouteMode::Selective => Mode::Selective { enabled: ids(&proxy.enabled_routes) },
        RouteMode::None => Mode::None,
    }
}

fn resolve(config: &Config, route: &Route) -> Result<String, String> {
    if config.closed.contains_key(&route.route_id) {
        return Err("the rest of its document can't be read".to_owned());
    }
    match route.target().map_err(|error| error.to_string())? {
        RouteTarget::Url(url) => Ok(url.to_string()),
        RouteTarget::Port(port) => Ok(format!("http://127.0.0.1:{port}")),
        RouteTarget::Builtin(builtin) => Ok(Target::Builtin(builtin).to_string()),
        RouteTarget::Service(name) => match config.externals.get(&name) {
            Some(external) if external.routing_enabled => Ok(urls(&external.balanced())),
            Some(_) => Err(format!("the service {name} is not open for routing")),
            None if config.services.contains_key(&name) => Ok(format!("service:{name}")),
            None => Err(format!("there is no service {name}")),
        },
        RouteTarget::Host(host) => match config.proxies.get(&host) {
            Some(proxy) if proxy.target_url.url().is_some() => Ok(urls(&proxy.balanced())),
            Some(proxy) => Ok(proxy.target_url.to_string()),
            None => Err(format!("there is no proxy {host}")),
        },
    }
}

/// The upstreams of a target, the first one first.
fn urls(balanced: &Balanced<'_>) -> String {
    balanced.upstreams().iter().map(|one| one.url.to_string()).collect::<Vec<_>>().join(", ")
}

fn joined<R>(words: &[Text<R>]) -> String {
    if words.is_empty() {
        return "nobody".to_owned();
    }
    words.iter().map(Text::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether a path is a prefix's or below it, on a segment boundary.
fn is_below(path: &str, prefix: &PathPrefix) -> bool {
    let prefix = prefix.as_str();
    match path.strip_prefix(prefix.trim_end_matches('/')) {
        Some("") => !prefix.ends_with('/') || prefix == "/",
        Some(rest) => rest.starts_with('/'),
        None => false,
    }
}

fn applies(rule: &ScopeRule, path: &str, method: &Method) -> bool {
    let methods = &rule.methods;
    is_below(path, &rule.path)
        && (methods.is_empty()
            || methods.iter().any(|name| name.is_every() || name.as_str() == method.as_str()))
}

fn checks(
    proxy: &Proxy,
    route: Option<&Route>,
    path: &str,
    method: &Method,
    issuer: &TargetUrl,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |check, wants: String, otherwise: &str| {
        checks.push(Check { check, wants, otherwise: otherwise.to_owned() });
    };
    if let Some(networks) = &proxy.allowed_networks {
        let wants: Vec<_> = networks.iter().map(ToString::to_string).collect();
        check(
            "networks",
            format!(
                "a client in {}",
                if wants.is_empty() { "no network".to_owned() } else { wants.join(", ") }
            ),
            "403",
        );
    }
    let own: Option<&RouteAuth> = route.and_then(Route::own_auth);
    let token = match own.map(|own| own.auth_type) {
        Some(RouteAuthType::None) => false,
        Some(RouteAuthType::Bearer) => true,
        Some(RouteAuthType::Inherit) | None => {
            proxy.auth_enabled
                && !proxy.auth_excluded_paths.iter().flatten().any(|prefix| is_below(path, prefix))
        }
    };
    if !token {
        return checks;
    }
    let otherwise = match proxy.auth_mode {
        AuthMode::Forward => "401",
        AuthMode::Redirect => "302 to the login for browsers, else 401",
        AuthMode::Passthrough => "it passes without an identity",
    };
    let issuers: Vec<_> = std::iter::once(issuer.to_string())
        .chain(proxy.trusted_issuers.iter().map(|one| one.issuer.to_string()))
        .collect();
    check("token", format!("a valid token of {} for this host", issuers.join(" or ")), otherwise);
    let mut scopes: Vec<String> = match own.and_then(|own| own.required_scopes.as_ref()) {
        Some(scopes) => scopes.iter().map(ToString::to_string).collect(),
        None => proxy.required_scopes().iter().map(ToString::to_string).collect(),
    };
    let rules = proxy.auth_scope_rules.iter().filter(|rule| applies(rule, path, method));
    scopes.extend(rules.flat_map(|rule| &rule.scopes).map(ToString::to_string));
    scopes.dedup();
    if !scopes.is_empty() {
        check("scopes", format!("all of {}", scopes.join(", ")), "403 insufficient_scope");
    }
    match own.and_then(|own| own.allowed_users.as_ref()).or(proxy.auth_required_users.as_ref()) {
        Some(users) if users.iter().any(crate::config::UserPattern::is_everyone) => {}
        Some(users) => check("users", joined(users), "403"),
        None => check("users", "everyone on the admin, user or mcp list".to_owned(), "403"),
    }
    if let Some(emails) =
        own.and_then(|own| own.allowed_emails.as_ref()).or(proxy.auth_required_emails.as_ref())
    {
        check("emails", joined(emails), "403");
    }
    if let Some(groups) =
        own.and_then(|own| own.allowed_groups.as_ref()).or(proxy.auth_required_groups.as_ref())
    {
        check("groups", joined(groups), "403");
    }
    checks
}
