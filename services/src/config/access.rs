//! Who may use a host: documents turned into the policies of the `auth` and `allowlist` layers. Pure.

mod gate;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Uri;
use portcullis_layers::HostName;
use portcullis_layers::allowlist::{Allowlist, EmailPattern};
use portcullis_layers::auth::{
    Audience, Challenge, Grants, Login, Matcher, Mode, OFFLINE_ACCESS, OwnScope, PathPattern, Policy,
    ScopeRule, Session,
};
use portcullis_layers::resource_metadata::Metadata;
use portcullis_layers::users::Users;
use serde_json::{Map, Value};
use smol_str::SmolStr;

pub use self::gate::switched_off;
use super::address::Target;
use super::auth::{AuthMode, BearerMethod, RouteAuth, RouteAuthType, TrustedIssuer};
use super::names::{Scope, UserPattern};
use super::{Builtin, Proxy, Token};

/// The host where the API is by default.
pub const LOCALHOST: &str = "localhost";

/// What the API answers to everybody: nothing there depends on who asks. These paths and none below them:
/// `/setup` is for everybody, `/setup/tokens` is not.
const API_PUBLIC: [&str; 8] = [
    "/health",
    "/ready",
    "/system/health",
    "/system/ready",
    "/system/version",
    "/openapi.json",
    "/docs",
    "/setup",
];

/// Where the API answers.
const API_PREFIXES: [&str; 2] = ["", "/api/v1"];

/// What the deployment says about every host: the issuer, its public port, and who is who by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The issuer of our tokens.
    pub issuer: String,
    /// `:PORT` in public URLs, or nothing for 443.
    pub port_suffix: String,
    /// Users by scope, where a host has no list of its own.
    pub defaults: Lists,
    /// The same for `localhost`.
    pub localhost: Lists,
}

/// Users by scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// Users with scope `admin`.
    pub admin: Users,
    /// Users with scope `user`.
    pub user: Users,
    /// Users with scope `mcp`.
    pub mcp: Users,
}

/// What stands in front of a route.
#[derive(Debug, Clone)]
pub enum Access {
    /// Nobody is asked, except where networks are limited.
    Public(Option<Allowlist>),
    /// A token is asked for, and then the lists.
    Protected(Box<Policy>, Allowlist),
}

impl Site {
    /// The URL of a host (RFC 6454 origin), as clients see it.
    pub fn origin(&self, host: &str) -> String {
        format!("https://{host}{}", self.port_suffix)
    }

    /// The host of the authorization server.
    pub fn issuer_host(&self) -> &str {
        let rest = self.behind_scheme();
        let authority = rest.split('/').next().unwrap_or(rest);
        // An address of IPv6 has colons of its own.
        match authority.find(']') {
            Some(end) => &authority[..=end],
            None => authority.split(':').next().unwrap_or(authority),
        }
    }

    /// The path of the authorization server on its host, mostly empty.
    pub fn issuer_path(&self) -> &str {
        let rest = self.behind_scheme();
        rest.find('/').map_or("", |start| rest[start..].trim_end_matches('/'))
    }

    fn behind_scheme(&self) -> &str {
        self.issuer.split_once("://").map_or(self.issuer.as_str(), |(_, rest)| rest)
    }

    /// How browsers keep their session on a host.
    pub fn session(&self, proxy: &Proxy, host: &HostName) -> Session {
        Session::new(proxy.session_cookie(), self.origin(host.as_str()))
    }

    /// The resource that a host is, for tokens and metadata (RFC 8707, RFC 9728).
    pub fn resource(&self, proxy: &Proxy, host: &HostName) -> String {
        let endpoint = proxy.resource_path();
        format!("{}{endpoint}", self.origin(host.as_str()))
    }

    /// The lists of a host: its own, or those of the deployment.
    fn lists(&self, proxy: &Proxy, tokens: &[Arc<Token>]) -> Lists {
        let base = if proxy.proxy_hostname.as_str() == LOCALHOST { &self.localhost } else { &self.defaults };
        let own = |list: &Option<Vec<UserPattern>>, default: &Users| match list {
            Some(list) => users(list),
            None => default.clone(),
        };
        let mut lists = Lists {
            admin: own(&proxy.oauth_admin_users, &base.admin),
            user: own(&proxy.oauth_user_users, &base.user),
            mcp: own(&proxy.oauth_mcp_users, &base.mcp),
        };
        if is_api(proxy) {
            // Named tokens are made for the API, by its admins: the scopes that they were given hold there.
            lists.admin = with_tokens(&lists.admin, tokens, "admin");
            lists.user = with_tokens(&lists.user, tokens, "user");
            lists.mcp = with_tokens(&lists.mcp, tokens, "mcp");
        }
        lists
    }
}

/// Whether the host's own target is the API.
fn is_api(proxy: &Proxy) -> bool {
    proxy.target_url == Target::Builtin(Builtin::Api)
}

fn with_tokens(list: &Users, tokens: &[Arc<Token>], scope: &str) -> Users {
    let named = tokens
        .iter()
        .filter(|token| token.scopes.iter().any(|held| held.as_str() == scope))
        .map(|token| Token::subject(&token.name));
    let named = Users::parse(named).unwrap_or_default();
    Users::union([list, &named])
}

/// A list of a document; its entries were checked when it was read, and one that is no good lets nobody in.
fn users(list: &[UserPattern]) -> Users {
    Users::parse(list.iter().map(UserPattern::as_str)).unwrap_or_default()
}

/// Who may use a host, or one of its routes that says otherwise.
///
/// `host` is the name that was asked for, which matters for wildcards: each name is a resource of its own.
pub fn access(
    site: &Site,
    proxy: &Proxy,
    route: Option<&RouteAuth>,
    tokens: &[Arc<Token>],
    host: &HostName,
) -> Access {
    // Such a route needs a token whatever the host says: neither its mode nor its excepted paths open it.
    let strict = route.is_some_and(|auth| auth.auth_type == RouteAuthType::Bearer);
    let protected = match route.map(|auth| auth.auth_type) {
        Some(RouteAuthType::None) => false,
        Some(RouteAuthType::Bearer) => true,
        Some(RouteAuthType::Inherit) | None => proxy.auth_enabled,
    };
    let networks =
        proxy.allowed_networks.as_ref().map(|networks| networks.iter().map(|network| network.0).collect());
    if !protected {
        let list = networks.map(|networks| Allowlist { networks: Some(networks), ..Allowlist::default() });
        return Access::Public(list);
    }
    let lists = site.lists(proxy, tokens);
    let own = proxy.auth_required_users.as_deref().map(users);
    let of_route = route.and_then(|auth| auth.allowed_users.as_deref());
    let mut allowed = match (of_route, own) {
        (Some(list), _) => users(list),
        (None, Some(own)) => own,
        (None, None) => Users::union([&lists.admin, &lists.user, &lists.mcp]),
    };
    // Who is on the list of a route is for the route alone to say.
    if is_api(proxy) && of_route.is_none() {
        let named = tokens.iter().map(|token| Token::subject(&token.name));
        allowed = Users::union([&allowed, &Users::parse(named).unwrap_or_default()]);
    }
    let emails = route.and_then(|auth| auth.allowed_emails.as_ref()).or(proxy.auth_required_emails.as_ref());
    let groups = route.and_then(|auth| auth.allowed_groups.as_ref()).or(proxy.auth_required_groups.as_ref());
    let allowlist = Allowlist {
        users: Some(allowed.clone()),
        emails: emails
            .map(|list| list.iter().filter_map(|one| EmailPattern::parse(one.as_str()).ok()).collect()),
        groups: groups.map(|list| list.iter().map(|group| SmolStr::new(group.as_str())).collect()),
        networks,
    };
    let mut challenge = challenge(site, proxy, host);
    if let Some(scopes) = route.and_then(|auth| auth.challenged) {
        challenge = challenge.scope(scopes);
    }
    let mut policy = Policy::new(audiences(site, proxy, host), challenge);
    policy.issuer_resources = issuer_resources(proxy);
    policy.mode = match proxy.auth_mode {
        AuthMode::Forward => Mode::Reject,
        AuthMode::Redirect => Mode::Redirect,
        AuthMode::Passthrough if strict => Mode::Reject,
        AuthMode::Passthrough => Mode::Pass,
    };
    policy.excepted = if strict { Vec::new() } else { excepted(proxy) };
    // `health` tells more to whom it knows.
    policy.notes = is_api(proxy);
    policy.scopes = scope_rules(proxy, route);
    policy.any_scope = texts(proxy.auth_allowed_scopes.as_deref().unwrap_or_default());
    let Lists { admin, user, mcp } = lists;
    let free = free_scopes(proxy, &policy);
    policy.grants = Some(Arc::new(Grants { admin, user, mcp, allowed, free }));
    policy.login = login(site, proxy, host);
    // Nobody can get a session on the others.
    policy.session = (proxy.auth_mode == AuthMode::Redirect).then(|| site.session(proxy, host));
    // Nor has who calls the resource, unless it is the whole host.
    let programs = proxy.program_paths().filter(|path| !path.is_empty());
    policy.bearer_only = programs.map(|path| PathPattern::Prefix(path.into())).collect();
    Access::Protected(Box::new(policy), allowlist)
}

fn texts(scopes: &[Scope]) -> Vec<SmolStr> {
    scopes.iter().map(|scope| SmolStr::new(scope.as_str())).collect()
}

/// The scopes of the host's own: those that it publishes, that its rules ask for, or that have a list.
fn free_scopes(proxy: &Proxy, policy: &Policy) -> Vec<OwnScope> {
    let published = texts(proxy.resource_scopes.as_deref().unwrap_or_default());
    let listed = proxy.oauth_scope_users.keys().map(SmolStr::new);
    let asked = policy.scopes.iter().flat_map(|rule| rule.scopes.iter().cloned());
    let called =
        proxy.mcp.iter().flat_map(super::proxy::mcp::Mcp::scopes).map(|scope| SmolStr::new(scope.as_str()));
    let all: BTreeSet<_> = published
        .into_iter()
        .chain(asked)
        .chain(called)
        .chain(policy.any_scope.iter().cloned())
        .chain(listed)
        .collect();
    let own = all.into_iter().filter(|scope| !["admin", "user", "mcp"].contains(&scope.as_str()));
    own.map(|name| OwnScope {
        users: proxy.oauth_scope_users.get(name.as_str()).map(|list| users(list)),
        name,
    })
    .collect()
}

fn audiences(site: &Site, proxy: &Proxy, host: &HostName) -> Vec<Audience> {
    let own = site.resource(proxy, host);
    let listed = proxy.auth_allowed_audiences.iter().flatten().cloned();
    std::iter::once(own).chain(listed).map(|text| Audience::new(&text)).collect()
}

/// What other issuers call the host, each for its own tokens only.
fn issuer_resources(proxy: &Proxy) -> Vec<(SmolStr, Audience)> {
    let named = |issuer: &TrustedIssuer| {
        Some((issuer.issuer.as_str().into(), Audience::new(issuer.audience.as_ref()?)))
    };
    proxy.trusted_issuers.iter().filter_map(named).collect()
}

fn challenge(site: &Site, proxy: &Proxy, host: &HostName) -> Challenge {
    let server = proxy.auth_proxy.as_ref().map_or_else(|| site.issuer_host(), HostName::as_str);
    let mut challenge = Challenge::new(proxy.auth_realm.as_deref().unwrap_or(server));
    if proxy.auth_include_metadata_urls {
        let endpoint = proxy.resource_path();
        let well_known = portcullis_layers::resource_metadata::WELL_KNOWN;
        let url = format!("{}{well_known}{endpoint}", site.origin(host.as_str()));
        challenge = challenge.resource_metadata(&url);
    }
    if let Some(text) = &proxy.auth_error_description {
        challenge = challenge.description(text);
    }
    for (name, value) in &proxy.auth_additional_params {
        // A name that the challenge writes itself was refused with the document.
        challenge = challenge.clone().param(name, value).unwrap_or(challenge);
    }
    challenge
}

fn excepted(proxy: &Proxy) -> Vec<Matcher> {
    let listed = proxy.auth_excluded_paths.iter().flatten();
    let listed = listed.filter_map(|path| PathPattern::parse(path.as_str()).ok());
    let api = is_api(proxy).then(api_public).into_iter().flatten();
    listed.chain(api).map(Matcher::any_method).collect()
}

fn api_public() -> impl Iterator<Item = PathPattern> {
    let paths = API_PREFIXES.into_iter().flat_map(|prefix| {
        API_PUBLIC.into_iter().flat_map(move |path| [format!("{prefix}{path}"), format!("{prefix}{path}/")])
    });
    paths
        .map(|path| PathPattern::Exact(path.into()))
        .chain([PathPattern::Prefix(SmolStr::new_static("/.well-known"))])
}

fn scope_rules(proxy: &Proxy, route: Option<&RouteAuth>) -> Vec<ScopeRule> {
    let everywhere = || Matcher::any_method(PathPattern::Prefix("/".into()));
    let mut rules = Vec::new();
    let required = match route.and_then(|auth| auth.required_scopes.clone()) {
        Some(scopes) => scopes,
        None => proxy.required_scopes(),
    };
    if !required.is_empty() {
        rules.push(ScopeRule { on: everywhere(), scopes: texts(&required) });
    }
    for rule in &proxy.auth_scope_rules {
        let Ok(path) = PathPattern::parse(rule.path.as_str()) else { continue };
        let methods: Vec<_> = rule.methods.iter().filter_map(|method| method.as_str().parse().ok()).collect();
        let methods = (!methods.is_empty() && !rule.methods.iter().any(super::names::MethodName::is_every))
            .then_some(methods);
        rules.push(ScopeRule { on: Matcher { methods, path }, scopes: texts(&rule.scopes) });
    }
    rules
}

/// Whether a scope is no right at a resource, and so none that one publishes (Model Context Protocol, Authorization,
/// "Refresh Tokens"): clients would ask for it, and their users would be asked for consent each time.
fn is_offline(scope: &Scope) -> bool {
    scope.as_str() == OFFLINE_ACCESS
}

/// Where browsers sign in at the issuer.
pub const LOGIN_PATH: &str = "/login";

/// Where browsers sign in: at the issuer.
fn login(site: &Site, proxy: &Proxy, host: &HostName) -> Option<Login> {
    if proxy.auth_mode != AuthMode::Redirect {
        return None;
    }
    let page: Uri = format!("{}{LOGIN_PATH}", site.issuer).parse().ok()?;
    Some(Login { page, origin: site.origin(host.as_str()).into() })
}

/// The document that tells clients about a host that is a resource (RFC 9728, section 2). Where nothing of it is
/// protected there is no authorization server for it: who asked one would get no token.
pub fn metadata(site: &Site, proxy: &Proxy, host: &HostName, protected: bool) -> Option<Metadata> {
    if proxy.resource_endpoint.is_none() && !protected {
        return None;
    }
    let resource = site.resource(proxy, host);
    let documentation =
        proxy.resource_documentation_suffix.as_ref().map(|suffix| format!("{resource}{suffix}"));
    let foreign = proxy.trusted_issuers.iter().map(|issuer| issuer.issuer.to_string());
    let issuers = std::iter::once(site.issuer.clone()).chain(foreign);
    let methods = proxy.resource_bearer_methods.as_deref().unwrap_or(&[BearerMethod::Header]);
    let mut extra = mcp_members(proxy);
    extra.extend(proxy.resource_server_info.clone().unwrap_or_default());
    extra.extend(proxy.resource_custom_metadata.clone().unwrap_or_default());
    Some(Metadata {
        resource,
        authorization_servers: if protected { issuers.collect() } else { Vec::new() },
        jwks_uri: None,
        scopes_supported: match &proxy.resource_scopes {
            Some(scopes) => scopes.iter().filter(|one| !is_offline(one)).map(ToString::to_string).collect(),
            None => Vec::new(),
        },
        // Tokens are read from the header only, whatever an older document says (RFC 6750, section 2.1).
        bearer_methods_supported: if methods.contains(&BearerMethod::Header) {
            vec!["header".to_owned()]
        } else {
            Vec::new()
        },
        resource_documentation: documentation,
        extra,
    })
}

/// What is said of a resource that is an MCP server. No standard has these members.
fn mcp_members(proxy: &Proxy) -> Map<String, Value> {
    let versions = proxy.resource_versions.as_deref().unwrap_or_default();
    let mut members = Map::new();
    if !versions.is_empty() {
        members.insert("mcp_versions".to_owned(), versions.into());
    }
    if !versions.is_empty() || proxy.resource_stateful {
        members.insert("mcp_stateful".to_owned(), proxy.resource_stateful.into());
    }
    members
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::control::{self, Operation, Surface};

    fn site() -> Site {
        Site {
            issuer: "https://auth.example.com".to_owned(),
            port_suffix: String::new(),
            defaults: Lists::default(),
            localhost: Lists::default(),
        }
    }

    fn proxy(more: Value) -> Proxy {
        let mut fields = json!({ "proxy_hostname": "a.example.com", "target_url": "http://10.0.0.5", "auth_enabled": true });
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
        }
        serde_json::from_value(fields).expect("a proxy")
    }

    fn policy(proxy: &Proxy, route: Option<Value>, tokens: &[Arc<Token>]) -> (Policy, Allowlist) {
        let route: Option<RouteAuth> = route.map(|route| serde_json::from_value(route).expect("rules"));
        let host = "a.example.com".parse().expect("a host");
        match access(&site(), proxy, route.as_ref(), tokens, &host) {
            Access::Protected(policy, list) => (*policy, list),
            Access::Public(_) => panic!("open to everybody"),
        }
    }

    fn is_excepted(policy: &Policy, path: &str) -> bool {
        policy.excepted.iter().any(|rule| rule.covers(&Method::GET, path))
    }

    #[test]
    fn a_route_that_needs_a_token_is_not_opened_by_its_host() {
        let open = proxy(json!({ "auth_mode": "passthrough", "auth_excluded_paths": ["/public"] }));
        let (host, _) = policy(&open, None, &[]);
        assert!(host.mode == Mode::Pass && is_excepted(&host, "/public/admin"));
        let (route, _) = policy(&open, Some(json!({ "auth_type": "bearer" })), &[]);
        assert!(route.mode == Mode::Reject && !is_excepted(&route, "/public/admin"));
        let (route, _) = policy(&open, Some(json!({ "auth_type": "inherit" })), &[]);
        assert!(route.mode == Mode::Pass && is_excepted(&route, "/public/admin"));
    }

    #[test]
    fn no_resource_publishes_offline_access() {
        let proxy =
            proxy(json!({ "resource_endpoint": "/mcp", "resource_scopes": ["read", "offline_access"] }));
        let host = "a.example.com".parse().expect("a host");
        let published = metadata(&site(), &proxy, &host, true).expect("it is a resource").scopes_supported;
        assert_eq!(published, ["read"]);
    }

    #[test]
    fn a_route_of_the_api_host_lets_in_only_whom_it_names() {
        let token = json!({
            "name": "ci", "scopes": ["mcp"], "jti": "1", "audience": [],
            "issued_at": "2025-01-01T00:00:00Z", "expires_at": "2030-01-01T00:00:00Z",
        });
        let tokens: Vec<Arc<Token>> = vec![Arc::new(serde_json::from_value(token).expect("a token"))];
        let api = proxy(json!({ "target_url": "builtin:api" }));
        let named = portcullis_layers::Principal { subject: "service:ci".into(), ..Default::default() };
        let (_, list) = policy(&api, None, &tokens);
        assert!(list.check_identity(&named).is_ok(), "named tokens are made for the API");
        let route = json!({ "auth_type": "bearer", "allowed_users": ["alice"] });
        let (_, list) = policy(&api, Some(route), &tokens);
        assert!(list.check_identity(&named).is_err(), "it is not alice");
    }

    #[test]
    fn only_hosts_where_browsers_get_a_session_look_for_it() {
        for (mode, looks) in [("forward", false), ("redirect", true), ("passthrough", false)] {
            let (policy, _) = policy(&proxy(json!({ "auth_mode": mode })), None, &[]);
            let session = policy.session.map(|session| (session.cookie, session.origin, session.audience));
            let expected = (
                "__Host-unified_auth_token".into(),
                "https://a.example.com".into(),
                Audience::new("https://a.example.com/.portcullis/session"),
            );
            assert_eq!(session, looks.then_some(expected), "{mode}");
        }
        let named = proxy(json!({ "auth_cookie_name": "__Host-sid" }));
        assert_eq!(named.session_cookie(), "__Host-sid");
    }

    #[test]
    fn a_resource_says_which_versions_of_mcp_it_speaks() {
        let host = "a.example.com".parse().expect("a host");
        for (fields, expected) in [
            (json!({}), json!({})),
            (json!({ "resource_versions": [] }), json!({})),
            (json!({ "resource_stateful": true }), json!({ "mcp_stateful": true })),
            (
                json!({ "resource_versions": ["2025-06-18"] }),
                json!({ "mcp_versions": ["2025-06-18"], "mcp_stateful": false }),
            ),
            (
                json!({
                    "resource_versions": ["2025-06-18"], "resource_custom_metadata": { "mcp_versions": "all" },
                    "resource_server_info": { "resource_name": "A" },
                }),
                json!({ "mcp_versions": "all", "mcp_stateful": false, "resource_name": "A" }),
            ),
        ] {
            let published = metadata(&site(), &proxy(fields), &host, true).expect("published");
            assert_eq!(Value::Object(published.extra), expected);
        }
    }

    #[test]
    fn an_issuer_has_a_host_and_perhaps_a_path() {
        for (issuer, host, path) in [
            ("https://auth.example.com", "auth.example.com", ""),
            ("https://auth.example.com:8443", "auth.example.com", ""),
            ("https://auth.example.com:8443/a/b", "auth.example.com", "/a/b"),
            ("https://[::1]:8443/a", "[::1]", "/a"),
        ] {
            let site = Site { issuer: issuer.to_owned(), ..site() };
            assert_eq!((site.issuer_host(), site.issuer_path()), (host, path), "{issuer}");
        }
    }

    /// Compares the excepted paths with what the operations say of themselves.
    struct Gate(Policy);

    impl Surface for Gate {
        fn add<O: Operation>(&mut self) {
            for endpoint in std::iter::once(&O::HTTP).chain(O::ALIASES) {
                for prefix in API_PREFIXES {
                    let path = format!("{prefix}{}", endpoint.path);
                    let public = O::SCOPE == control::Access::Public;
                    assert_eq!(is_excepted(&self.0, &path), public, "{} at {path}", O::NAME);
                }
            }
        }
    }

    #[test]
    fn what_everybody_may_ask_of_the_api_is_what_its_operations_say() {
        let (policy, _) = policy(&proxy(json!({ "target_url": "builtin:api" })), None, &[]);
        for path in ["/docs", "/openapi.json", "/api/v1/docs/", "/.well-known/oauth-protected-resource"] {
            assert!(is_excepted(&policy, path), "{path}");
        }
        control::register(&mut Gate(policy));
    }
}
