//! A proxy: a public host, where its requests go, and who may send them.

mod check;
pub mod mcp;
mod on_demand;
mod published;

use std::collections::BTreeMap;

use jiff::Timestamp;
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::{Builtin, HostPattern, Network, Target, TargetUrl};
use super::auth::{AuthMode, BearerMethod, ScopeRule, TrustedIssuer};
use super::balancing::{Balanced, First, HealthCheck, LoadBalancing, PassiveHealth, Retries, UpstreamUrl};
use super::field::FieldError;
use super::headers::{Cors, HeaderRules, HeaderValues};
use super::names::{
    CertName, EmailPattern, GithubClientId, Group, LabelPattern, Origin, PathPrefix, RouteId, Scope,
    UserPattern,
};
use super::upstream_tls::UpstreamTls;
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// What the names of cookies begin with that only the host itself can set.
pub(super) const HOST_COOKIE: &str = "__Host-";

/// Where the gateway's own MCP server answers.
pub const BUILTIN_MCP: &str = "/mcp";

/// What the names of the authorization server's own cookies begin with.
pub const OUR_COOKIES: &str = "__Host-portcullis-";

/// A public host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The public name: a host, or `*.parent` for every name one label below it.
    pub proxy_hostname: HostPattern,
    /// Where requests go: `http(s)://…`, `builtin:api`, `builtin:echo`, `builtin:mcp` (what `builtin_mcp` says, and
    /// nothing beside it), or `builtin:oauth` on the issuer's own host.
    pub target_url: Target,
    /// More upstreams of the same service, beside `target_url`, which is the first: URLs, or `{"url": …, "weight": …}`.
    /// With `target_url` among them they are all, and in this order.
    #[serde(default)]
    pub upstreams: Vec<UpstreamUrl>,
    /// How requests are spread over the upstreams.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// How the upstreams are asked whether they are well; absent: not at all.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// When an upstream gets nothing for a while because of what became of requests; absent: never.
    #[serde(default)]
    pub passive_health: Option<PassiveHealth>,
    /// When a request is sent to another upstream.
    #[serde(default)]
    pub retries: Retries,
    /// TLS towards the upstreams. Beside the target `service:NAME` it is for what that service says nothing of.
    #[serde(default)]
    pub upstream_tls: UpstreamTls,
    /// Speak HTTP/2 to the upstreams: by ALPN over TLS, with prior knowledge without it.
    #[serde(default)]
    pub upstream_http2: bool,
    /// Begin connections to the upstreams with a PROXY protocol header of this version.
    #[serde(default)]
    pub upstream_proxy_protocol: Option<ProxyProtocolVersion>,
    /// The certificate to serve; absent: any that covers the name.
    #[serde(default)]
    pub cert_name: Option<CertName>,
    /// Whether names below this wildcard get certificates of their own when they are first asked for. The first
    /// visitors of a name see the fallback. Needs `on_demand_names` or `on_demand_ask`; where both are set, both must
    /// allow a name.
    #[serde(default)]
    pub on_demand_certificates: bool,
    /// Which names get one, by the label in front of the wildcard's parent: `*` stands for any characters, e.g.
    /// `tenant-*`; absent: whatever `on_demand_ask` allows.
    #[serde(default)]
    pub on_demand_names: Option<Vec<LabelPattern>>,
    /// A URL, https or on this machine, that is asked with `?domain=NAME` whether a name gets one: 200 allows it,
    /// everything else, silence included, refuses it; absent: whatever `on_demand_names` allows.
    #[serde(default)]
    pub on_demand_ask: Option<TargetUrl>,
    /// Whether the host answers at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whether it answers on the HTTP port.
    #[serde(default = "yes")]
    pub enable_http: bool,
    /// Whether it answers on the HTTPS port.
    #[serde(default = "yes")]
    pub enable_https: bool,
    /// Whether HTTP requests are sent to HTTPS (308).
    #[serde(default)]
    pub https_redirect: HttpsRedirect,
    /// Whether the upstream sees the public name in `Host`, or its own.
    #[serde(default = "yes")]
    pub preserve_host_header: bool,
    /// Request headers to set: a shorthand for `request_headers.set`.
    #[serde(default)]
    pub custom_headers: HeaderValues,
    /// Response headers to set, on refusals too: a shorthand for `response_headers.set`.
    #[serde(default)]
    pub custom_response_headers: HeaderValues,
    /// Changes to the headers that the upstream sees.
    #[serde(default)]
    pub request_headers: HeaderRules,
    /// Changes to the headers that the client sees, on refusals too.
    #[serde(default)]
    pub response_headers: HeaderRules,
    /// Which other origins' pages may call this host.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// The client networks that may connect; absent: all; empty: none.
    #[serde(default)]
    pub allowed_networks: Option<Vec<Network>>,
    /// The largest request body, in bytes.
    #[serde(default)]
    pub max_body_bytes: Option<u64>,
    /// How long a connection to the upstream may take to be established.
    #[serde(default)]
    pub connect_timeout_seconds: Option<u32>,
    /// How long the upstream may take until its response head.
    #[serde(default)]
    pub request_timeout_seconds: Option<u32>,
    /// How long a body may stand still in one direction. Tunnels and event streams are exempt.
    #[serde(default)]
    pub idle_timeout_seconds: Option<u32>,

    /// Whether the gateway's own MCP server answers at `/mcp`, whatever the rest of the host is. It asks for a token
    /// with the scope `mcp`; whom this host's lists make `user` or `admin` may then read or change the gateway.
    #[serde(default)]
    pub builtin_mcp: bool,

    /// Whether requests need a token.
    #[serde(default)]
    pub auth_enabled: bool,
    /// The host of the authorization server: that of this deployment's issuer, or absent.
    #[serde(default)]
    pub auth_proxy: Option<HostName>,
    /// What happens to requests without a valid token.
    #[serde(default)]
    pub auth_mode: AuthMode,
    /// Who may pass: absent: everyone on one of the three scope lists; empty: nobody; `*`: everyone with a valid token.
    #[serde(default)]
    pub auth_required_users: Option<Vec<UserPattern>>,
    /// Which e-mail addresses may pass; absent: all.
    #[serde(default)]
    pub auth_required_emails: Option<Vec<EmailPattern>>,
    /// Which groups may pass; absent: all.
    #[serde(default)]
    pub auth_required_groups: Option<Vec<Group>>,
    /// Which scopes a token may have here; absent: those of `resource_scopes`.
    #[serde(default)]
    pub auth_allowed_scopes: Option<Vec<Scope>>,
    /// Further audiences that are accepted, beside this host's resource.
    #[serde(default)]
    pub auth_allowed_audiences: Option<Vec<String>>,
    /// Whether the upstream sees who calls.
    #[serde(default = "yes")]
    pub auth_pass_headers: bool,
    /// Whether the upstream gets proof of who calls: a short-lived JWT in the header `Identity` behind
    /// `auth_header_prefix`, which it verifies with the issuer's `/jwks`.
    #[serde(default)]
    pub auth_identity_jwt: bool,
    /// The cookie of browser sessions. Browsers have it with `__Host-` in front of the name.
    #[serde(default = "cookie_name")]
    pub auth_cookie_name: String,
    /// What the names of identity headers start with.
    #[serde(default = "header_prefix")]
    pub auth_header_prefix: String,
    /// Paths (and everything below them) that need no token.
    #[serde(default)]
    pub auth_excluded_paths: Option<Vec<PathPrefix>>,
    /// Scopes that every request needs, separated by blanks; 401 and 403 name them (RFC 6750's `scope`).
    #[serde(default)]
    pub auth_scope_required: Option<String>,
    /// Scopes that requests of some paths and methods need.
    #[serde(default)]
    pub auth_scope_rules: Vec<ScopeRule>,
    /// The realm in challenges; absent: the host of the authorization server, `auth_proxy` or that of the issuer.
    #[serde(default)]
    pub auth_realm: Option<String>,
    /// Whether challenges name the resource metadata (RFC 9728).
    #[serde(default = "yes")]
    pub auth_include_metadata_urls: bool,
    /// The description in challenges.
    #[serde(default)]
    pub auth_error_description: Option<String>,
    /// Further parameters of challenges.
    #[serde(default)]
    pub auth_additional_params: BTreeMap<String, String>,
    /// Other issuers whose tokens are accepted. Their users are named `ISSUER/NAME`, on lists and for the upstream.
    #[serde(default)]
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// Whether the upstream sees the `Authorization` header; absent: not on a protected host, nor by a route that
    /// asks for a token.
    #[serde(default)]
    pub forward_authorization: Option<bool>,

    /// Which routes apply.
    #[serde(default)]
    pub route_mode: RouteMode,
    /// The routes that apply in mode `selective`.
    #[serde(default)]
    pub enabled_routes: Vec<RouteId>,
    /// The routes that do not apply in mode `all`.
    #[serde(default)]
    pub disabled_routes: Vec<RouteId>,

    /// The path of the protected resource. Absent: the host is none of its own; if it needs tokens, its metadata say
    /// where they come from and no more.
    #[serde(default)]
    pub resource_endpoint: Option<PathPrefix>,
    /// The scopes that the resource publishes.
    #[serde(default)]
    pub resource_scopes: Option<Vec<Scope>>,
    /// Whether the host has the endpoints `/authorize`, `/token` and `/register` and the authorization server's metadata,
    /// for clients that look for them at the resource. They act for the issuer.
    #[serde(default = "yes")]
    pub resource_oauth_endpoints: bool,
    /// Which other origins' pages may call the resource, when the host has no `cors` of its own; its own origin always
    /// may. Requests of all other pages get 403 there; those without `Origin` pass.
    #[serde(default = "inspector")]
    pub resource_allowed_origins: Vec<Origin>,
    /// Whether the resource keeps sessions: `mcp_stateful` in its metadata, beside `resource_versions`.
    #[serde(default)]
    pub resource_stateful: bool,
    /// The MCP protocol versions that the resource speaks: `mcp_versions` in its metadata.
    #[serde(default)]
    pub resource_versions: Option<Vec<String>>,
    /// What the resource says of itself.
    #[serde(default)]
    pub resource_server_info: Option<Map<String, Value>>,
    /// Whether the metadata are what is said here and nothing else. Otherwise the upstream is asked for its own at the
    /// well-known paths, without a token and at most once in a minute, and what it says of the application is taken
    /// over: its name, its pages, further members, and which of `resource_scopes` it has. The resource, the issuers
    /// and everything about tokens is said here in any case.
    #[serde(default)]
    pub resource_override_backend: bool,
    /// Where tokens may stand, as published.
    #[serde(default)]
    pub resource_bearer_methods: Option<Vec<BearerMethod>>,
    /// The path of the documentation, after the resource's URI.
    #[serde(default)]
    pub resource_documentation_suffix: Option<PathPrefix>,
    /// Further members of the metadata.
    #[serde(default)]
    pub resource_custom_metadata: Option<Map<String, Value>>,

    /// What clients of the MCP server behind the host may do: which tools, with which arguments, how often. Absent: the
    /// host knows nothing of that protocol.
    #[serde(default)]
    pub mcp: Option<mcp::Mcp>,

    /// The issuer: that of this deployment, or absent.
    #[serde(default)]
    pub oauth_server_issuer: Option<String>,
    /// Scopes to publish in the authorization server's metadata on this host, beside its own.
    #[serde(default)]
    pub oauth_server_scopes: Option<Vec<Scope>>,
    /// The grant types to publish, of those that the authorization server has; only with
    /// `oauth_server_override_defaults`.
    #[serde(default)]
    pub oauth_server_grant_types: Option<Vec<String>>,
    /// The response types to publish: `code`, for there is no other.
    #[serde(default)]
    pub oauth_server_response_types: Option<Vec<String>>,
    /// The ways for clients to authenticate to publish, of those that the authorization server has; only with
    /// `oauth_server_override_defaults`. `none` stays where clients may be named by documents.
    #[serde(default)]
    pub oauth_server_token_auth_methods: Option<Vec<String>>,
    /// Claims to publish, beside those that ID tokens have.
    #[serde(default)]
    pub oauth_server_claims: Option<Vec<String>>,
    /// Whether the metadata say in a member of their own that PKCE is required: `code_challenge_methods_required`. It
    /// is required in any case, so this can't be `false`.
    #[serde(default)]
    pub oauth_server_pkce_required: Option<bool>,
    /// Further members of the metadata; none in place of those that are there.
    #[serde(default)]
    pub oauth_server_custom_metadata: Option<Map<String, Value>>,
    /// Whether the lists given here stand in place of the authorization server's: scopes and claims as they are here,
    /// grant types and ways to authenticate cut to those here.
    #[serde(default)]
    pub oauth_server_override_defaults: bool,
    /// Who has the scope `admin` here; absent: `OAUTH_ADMIN_USERS`.
    #[serde(default)]
    pub oauth_admin_users: Option<Vec<UserPattern>>,
    /// Who has the scope `user` here; absent: `OAUTH_USER_USERS`.
    #[serde(default)]
    pub oauth_user_users: Option<Vec<UserPattern>>,
    /// Who has the scope `mcp` here; absent: `OAUTH_MCP_USERS`.
    #[serde(default)]
    pub oauth_mcp_users: Option<Vec<UserPattern>>,
    /// Who has a scope of the host's own, e.g. `{"mcp:write": ["alice"]}`, of those that may use the host. Scopes that
    /// are not named here are for all of them.
    #[serde(default)]
    pub oauth_scope_users: BTreeMap<String, Vec<UserPattern>>,

    /// The client id of the GitHub app that people sign in through, instead of the deployment's. Its secret is sealed
    /// elsewhere, so the two are set together.
    #[serde(default)]
    pub github_client_id: Option<GithubClientId>,

    /// Whether the token that GitHub gives when somebody signs in to this host is kept, sealed, for what stands behind
    /// it, instead of being ended at once. There is one for each user; it ends with the session that began with it and
    /// everything that the user granted for this host.
    #[serde(default)]
    pub oauth_vault_upstream_token: bool,

    /// The container whose labels made it: `NODE/CONTAINER`.
    #[serde(default)]
    pub labelled_by: Option<String>,

    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocolVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// Whether HTTP requests are sent to HTTPS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpsRedirect {
    /// Once a trusted certificate serves the host.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Which routes apply to a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteMode {
    /// Global ones and its own, without `disabled_routes`.
    #[default]
    #[serde(alias = "denylist")]
    All,
    /// Only `enabled_routes`.
    #[serde(alias = "allowlist")]
    Selective,
    /// None.
    None,
}

const fn yes() -> bool {
    true
}

fn cookie_name() -> String {
    "unified_auth_token".to_owned()
}

/// Where the MCP inspector runs.
fn inspector() -> Vec<Origin> {
    ["http://localhost:6274", "http://127.0.0.1:6274"].map(|origin| origin.parse().expect("an origin")).into()
}

fn header_prefix() -> String {
    "X-Auth-".to_owned()
}

impl Proxy {
    /// A proxy with defaults everywhere else.
    pub fn new(proxy_hostname: &HostPattern, target_url: &Target) -> Self {
        let minimal = serde_json::json!({ "proxy_hostname": proxy_hostname, "target_url": target_url });
        serde_json::from_value(minimal).expect("every other field has a default")
    }

    /// What it says of its upstreams.
    pub fn balanced(&self) -> Balanced<'_> {
        Balanced {
            first: match &self.target_url {
                Target::Url(url) => First::Url(url),
                Target::Service(_) => First::Service,
                Target::Builtin(_) => First::Builtin,
            },
            field: "upstreams",
            more: &self.upstreams,
            load_balancing: &self.load_balancing,
            health_check: self.health_check.as_ref(),
            passive_health: self.passive_health.as_ref(),
            retries: &self.retries,
        }
    }

    /// The rules for request headers, shorthand included.
    pub fn request_rules(&self) -> HeaderRules {
        self.request_headers.with_set(&self.custom_headers)
    }

    /// The rules for response headers, shorthand included.
    pub fn response_rules(&self) -> HeaderRules {
        self.response_headers.with_set(&self.custom_response_headers)
    }

    /// Whether a route applies, going by its scope and this host's mode; whether it is enabled is another question.
    pub fn takes(&self, route: &super::Route) -> bool {
        if !route.is_for(&self.proxy_hostname) {
            return false;
        }
        match self.route_mode {
            RouteMode::All => !self.disabled_routes.contains(&route.route_id),
            RouteMode::Selective => self.enabled_routes.contains(&route.route_id),
            RouteMode::None => false,
        }
    }

    /// What stands behind the host's origin in the name of the resource: its endpoint, or nothing for `/`.
    pub fn resource_path(&self) -> &str {
        self.resource_endpoint.as_ref().map_or("", |path| path.as_str().trim_end_matches('/'))
    }

    /// Whether the gateway's own MCP server answers here.
    pub fn has_builtin_mcp(&self) -> bool {
        self.builtin_mcp || self.target_url == Target::Builtin(Builtin::Mcp)
    }

    /// What is there for programs that bring a token, and for no other site's pages: the resource, the MCP server behind
    /// the host, and the gateway's own. Empty for the whole host.
    pub fn program_paths(&self) -> impl Iterator<Item = &str> {
        let resource = self.resource_endpoint.is_some().then(|| self.resource_path());
        let server = self.mcp.as_ref().map(|_| self.mcp_endpoint()).filter(|_| resource.is_none());
        resource.into_iter().chain(server).chain(self.has_builtin_mcp().then_some(BUILTIN_MCP))
    }

    /// The name of the cookie in which browsers keep their session. The prefix keeps every other host and every
    /// plain-text connection from setting it.
    pub fn session_cookie(&self) -> String {
        let name = self.auth_cookie_name.strip_prefix(HOST_COOKIE).unwrap_or(&self.auth_cookie_name);
        format!("{HOST_COOKIE}{name}")
    }

    /// The name of the secret that goes with `github_client_id`.
    pub fn github_secret_id(host: &HostPattern) -> String {
        format!("github:{host}")
    }

    /// The scopes that every request needs.
    pub fn required_scopes(&self) -> Vec<Scope> {
        self.auth_scope_required
            .as_deref()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|scope| scope.parse().ok())
            .collect()
    }
}

impl Entity for Proxy {
    const KIND: Kind = Kind::Proxy;
    const NOUN: &'static str = "proxy";
    const ID: &'static str = "proxy_hostname";
    const REQUIRED: &'static [&'static str] = &["proxy_hostname", "target_url"];
    const ARGUMENTS: &'static [&'static str] = &["proxy_hostname", "target_url"];
    const HEADERS: &'static [&'static str] = &[
        "/custom_headers",
        "/custom_response_headers",
        "/request_headers/set",
        "/request_headers/append",
        "/response_headers/set",
        "/response_headers/append",
    ];
    const ELSEWHERE: &'static [(&'static str, &'static str)] = &[("github_client_id", "set_proxy_github")];
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        ("hostname", "proxy_hostname"),
        ("outlier", "passive_health"),
        ("mcp_endpoint", "resource_endpoint"),
        ("mcp_scopes", "resource_scopes"),
        ("mcp_stateful", "resource_stateful"),
        ("mcp_versions", "resource_versions"),
        ("mcp_server_info", "resource_server_info"),
        ("mcp_override_backend", "resource_override_backend"),
    ];

    fn id(&self) -> String {
        self.proxy_hostname.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if !self.enable_https && self.https_redirect == HttpsRedirect::On {
            problems.push(FieldError::new(
                "https_redirect",
                "on",
                "needs `enable_https`: expected `auto` or `off`",
            ));
        }
        if self.cors.as_ref().is_some_and(|cors| cors.origins.is_empty()) {
            problems.push(FieldError::bare("cors.origins", "expected at least one origin, or `*`"));
        }
        self.check_upstreams(&mut problems);
        self.check_on_demand(&mut problems);
        self.check_auth(&mut problems);
        self.check_published(&mut problems);
        self.check_mcp(&mut problems);
        self.check_builtin_mcp(&mut problems);
        problems
    }

    fn references(&self, config: &Config, problems: &mut Vec<FieldError>) -> Vec<Key> {
        let mut keys = Vec::new();
        if let Some(name) = &self.cert_name {
            match config.certificates.get(name) {
                None => problems.push(FieldError::new(
                    "cert_name",
                    name.as_str(),
                    "there is no such certificate: expected the name of one that exists",
                )),
                Some(certificate) if !certificate.covers(&self.proxy_hostname) => {
                    let names: Vec<_> = certificate.domains.iter().map(HostPattern::as_str).collect();
                    problems.push(FieldError::new(
                        "cert_name",
                        name.as_str(),
                        format!(
                            "covers {} only: expected a certificate for {}",
                            names.join(", "),
                            self.proxy_hostname
                        ),
                    ));
                }
                Some(_) => keys.push(Key::new(Kind::Certificate, name.as_str())),
            }
        }
        for (field, routes) in
            [("enabled_routes", &self.enabled_routes), ("disabled_routes", &self.disabled_routes)]
        {
            for (index, id) in routes.iter().enumerate() {
                if !config.routes.contains_key(id) {
                    problems.push(FieldError::new(
                        format!("{field}[{index}]"),
                        id.as_str(),
                        "there is no such route: expected the id of one that exists",
                    ));
                }
            }
        }
        if let super::Target::Service(name) = &self.target_url {
            match config.service_key(name) {
                Ok(key) => keys.push(key),
                Err(detail) => {
                    problems.push(FieldError::new("target_url", format!("service:{name}"), detail));
                }
            }
        }
        keys
    }
}
