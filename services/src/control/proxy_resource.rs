//! The protected resource that a proxy publishes (RFC 9728), as a part of its own.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::operation::{delete, get, post};
use super::proxies::json;
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::config::auth::BearerMethod;
use crate::config::names::{HeaderText, Origin, PathPrefix};
use crate::config::{Config, FieldError, HostPattern, Proxy, Scope};

/// Adds the operations of the resources of proxies.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetProxyResource>();
    surface.add::<ShowProxyResource>();
    surface.add::<ClearProxyResource>();
    surface.add::<ListProxyResources>();
}

/// The protected resource of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of the proxy, documented there")]
pub struct ProxyResource {
    /// Whether there is one.
    pub configured: bool,
    pub proxy_hostname: HostPattern,
    pub resource_endpoint: Option<PathPrefix>,
    pub resource_scopes: Option<Vec<Scope>>,
    pub resource_oauth_endpoints: bool,
    pub resource_allowed_origins: Vec<Origin>,
    pub resource_stateful: bool,
    pub resource_versions: Option<Vec<String>>,
    pub resource_server_info: Option<Map<String, Value>>,
    pub resource_override_backend: bool,
    pub resource_bearer_methods: Option<Vec<BearerMethod>>,
    pub resource_documentation_suffix: Option<PathPrefix>,
    pub resource_custom_metadata: Option<Map<String, Value>>,
}

impl From<Proxy> for ProxyResource {
    fn from(proxy: Proxy) -> Self {
        Self {
            configured: proxy.resource_endpoint.is_some(),
            proxy_hostname: proxy.proxy_hostname,
            resource_endpoint: proxy.resource_endpoint,
            resource_scopes: proxy.resource_scopes,
            resource_oauth_endpoints: proxy.resource_oauth_endpoints,
            resource_allowed_origins: proxy.resource_allowed_origins,
            resource_stateful: proxy.resource_stateful,
            resource_versions: proxy.resource_versions,
            resource_server_info: proxy.resource_server_info,
            resource_override_backend: proxy.resource_override_backend,
            resource_bearer_methods: proxy.resource_bearer_methods,
            resource_documentation_suffix: proxy.resource_documentation_suffix,
            resource_custom_metadata: proxy.resource_custom_metadata,
        }
    }
}

/// Publish a proxy as a protected resource, e.g. an MCP server.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetProxyResource {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The path of the resource.
    #[serde(default = "api")]
    #[arg(long, default_value = "/api")]
    pub endpoint: PathPrefix,
    /// The scopes that it knows.
    #[serde(default = "read_write")]
    #[arg(long, value_delimiter = ',', default_value = "read,write")]
    pub scopes: Vec<Scope>,
    /// Whether it keeps sessions: `mcp_stateful` in its metadata.
    #[serde(default)]
    #[arg(long)]
    pub stateful: bool,
    /// The MCP protocol versions that it speaks: `mcp_versions` in its metadata. None for what is no MCP server.
    #[serde(default = "versions", alias = "mcp_versions")]
    #[arg(long, value_delimiter = ',', default_value = "2025-06-18")]
    pub versions: Vec<String>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<Map<String, Value>>)]
    pub server_info: Option<Map<String, Value>>,
    /// Take nothing over from the metadata that the upstream has of its own.
    #[serde(default)]
    #[arg(long)]
    pub override_backend: bool,
    /// Where tokens may stand, as published.
    #[serde(default = "header")]
    #[arg(long, value_delimiter = ',', default_value = "header", value_parser = bearer_method)]
    pub bearer_methods: Vec<BearerMethod>,
    /// The path of its documentation, after its URI.
    #[serde(default = "docs")]
    #[arg(long, alias = "doc-suffix", default_value = "/docs")]
    pub documentation_suffix: PathPrefix,
    /// Further members of its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<Map<String, Value>>)]
    pub custom_metadata: Option<Map<String, Value>>,
    /// A value for the response header `X-HackerOne-Research`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub hacker_one_research_header: Option<HeaderText>,
    /// The older form says here whether the resource is published; it can only be true: clear it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(skip)]
    pub enabled: Option<bool>,
}

impl SetProxyResource {
    /// With what holds where nobody says anything else.
    pub(super) fn usual(proxy_hostname: HostPattern) -> Self {
        Self {
            proxy_hostname,
            endpoint: api(),
            scopes: read_write(),
            stateful: false,
            versions: versions(),
            server_info: None,
            override_backend: false,
            bearer_methods: header(),
            documentation_suffix: docs(),
            custom_metadata: None,
            hacker_one_research_header: None,
            enabled: None,
        }
    }
}

fn api() -> PathPrefix {
    "/api".parse().expect("a path")
}

fn docs() -> PathPrefix {
    "/docs".parse().expect("a path")
}

fn read_write() -> Vec<Scope> {
    ["read", "write"].map(|scope| scope.parse().expect("a scope")).into()
}

fn versions() -> Vec<String> {
    vec!["2025-06-18".to_owned()]
}

fn header() -> Vec<BearerMethod> {
    vec![BearerMethod::Header]
}

fn bearer_method(text: &str) -> Result<BearerMethod, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "expected `header`, `body` or `query`".to_owned())
}

impl Operation for SetProxyResource {
    const NAME: &'static str = "set_proxy_resource";
    const COMMAND: &'static [&'static str] = &["proxy", "resource", "set"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/resource");
    const SCOPE: Access = Access::Admin;
    type Output = ProxyResource;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyResource, Error> {
        if self.enabled == Some(false) {
            let detail = "expected true; to publish it no longer, delete the resource";
            return Err(Error::invalid(FieldError::new("enabled", false, detail)));
        }
        let change = |mut proxy: Proxy, _: &Config| {
            proxy.resource_endpoint = Some(self.endpoint.clone());
            proxy.resource_scopes = Some(self.scopes.clone());
            proxy.resource_stateful = self.stateful;
            proxy.resource_versions = Some(self.versions.clone());
            proxy.resource_server_info.clone_from(&self.server_info);
            proxy.resource_override_backend = self.override_backend;
            proxy.resource_bearer_methods = Some(self.bearer_methods.clone());
            proxy.resource_documentation_suffix = Some(self.documentation_suffix.clone());
            proxy.resource_custom_metadata.clone_from(&self.custom_metadata);
            if let Some(value) = &self.hacker_one_research_header {
                let name = "x-hackerone-research".parse().expect("a header name");
                proxy.custom_response_headers.insert(name, value.clone());
            }
            Ok(proxy)
        };
        Ok(control.edit(ctx, self.proxy_hostname.as_str(), change).await?.into())
    }
}

/// Show what a proxy publishes as a protected resource.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxyResource {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowProxyResource {
    const NAME: &'static str = "show_proxy_resource";
    const COMMAND: &'static [&'static str] = &["proxy", "resource", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/resource");
    const SCOPE: Access = Access::User;
    type Output = ProxyResource;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyResource, Error> {
        Ok(control.get::<Proxy>(self.proxy_hostname.as_str()).await?.into())
    }
}

/// List the proxies that publish a protected resource.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListProxyResources {}

impl Operation for ListProxyResources {
    const NAME: &'static str = "list_proxy_resources";
    const COMMAND: &'static [&'static str] = &["proxy", "resource", "list"];
    const HTTP: Endpoint = get("/proxy/targets/resources/configured");
    const SCOPE: Access = Access::User;
    type Output = Vec<ProxyResource>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<ProxyResource>, Error> {
        let all = control.list::<Proxy>().await?;
        Ok(all.into_iter().filter(|proxy| proxy.resource_endpoint.is_some()).map(Into::into).collect())
    }
}

/// Publish a proxy as a protected resource no longer.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearProxyResource {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ClearProxyResource {
    const NAME: &'static str = "clear_proxy_resource";
    const COMMAND: &'static [&'static str] = &["proxy", "resource", "clear"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/resource");
    const ALIASES: &'static [Endpoint] = &[delete("/proxy/targets/{proxy_hostname}/mcp")];
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let change = |proxy: Proxy, _: &Config| {
            let plain = Proxy::new(&proxy.proxy_hostname, &proxy.target_url);
            Ok(Proxy {
                resource_endpoint: None,
                resource_scopes: None,
                resource_oauth_endpoints: plain.resource_oauth_endpoints,
                resource_allowed_origins: plain.resource_allowed_origins,
                resource_stateful: false,
                resource_versions: None,
                resource_server_info: None,
                resource_override_backend: false,
                resource_bearer_methods: None,
                resource_documentation_suffix: None,
                resource_custom_metadata: None,
                ..proxy
            })
        };
        let proxy = control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(Done::new("cleared", &proxy.proxy_hostname))
    }
}
