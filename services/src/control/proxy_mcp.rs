//! The protected resource of a proxy that is an MCP server: a shorter form with the defaults of such servers.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::operation::post;
use super::proxies::json;
use super::proxy_resource::{ProxyResource, SetProxyResource};
use super::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::names::PathPrefix;
use crate::config::{FieldError, HostPattern, Scope};

/// What the scopes of an MCP server begin with.
const PREFIX: &str = "mcp:";

/// Scopes about the person (OpenID Connect Core 1.0, section 5.4), which any resource may ask for.
const PERSONAL: [&str; 3] = ["openid", "profile", "email"];

/// Adds the operation.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetProxyMcp>();
}

/// Publish a proxy as an MCP server. Show and clear it as a resource.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetProxyMcp {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The path of the server.
    #[serde(default = "mcp")]
    #[arg(long, default_value = "/mcp")]
    pub endpoint: PathPrefix,
    /// The scopes that it knows: `mcp:…`, `openid`, `profile` or `email`.
    #[serde(default = "read_write")]
    #[arg(long, value_delimiter = ',', default_value = "mcp:read,mcp:write")]
    pub scopes: Vec<Scope>,
    /// Whether it keeps sessions: `mcp_stateful` in its metadata.
    #[serde(default)]
    #[arg(long)]
    pub stateful: bool,
    /// The protocol versions that it speaks: `mcp_versions` in its metadata.
    #[serde(default = "versions", alias = "versions")]
    #[arg(long, value_delimiter = ',', default_value = "2025-06-18")]
    pub mcp_versions: Vec<String>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<Map<String, Value>>)]
    pub server_info: Option<Map<String, Value>>,
    /// Take nothing over from the metadata that the upstream has of its own.
    #[serde(default)]
    #[arg(long)]
    pub override_backend: bool,
    /// The older form says here whether the server is published; it can only be true: clear the resource instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(skip)]
    pub enabled: Option<bool>,
}

fn mcp() -> PathPrefix {
    "/mcp".parse().expect("a path")
}

fn read_write() -> Vec<Scope> {
    ["mcp:read", "mcp:write"].map(|scope| scope.parse().expect("a scope")).into()
}

fn versions() -> Vec<String> {
    vec!["2025-06-18".to_owned()]
}

impl Operation for SetProxyMcp {
    const NAME: &'static str = "set_proxy_mcp";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "set"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/mcp");
    const SCOPE: Access = Access::Admin;
    type Output = ProxyResource;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyResource, Error> {
        let known = |scope: &Scope| scope.as_str().starts_with(PREFIX) || PERSONAL.contains(&scope.as_str());
        if let Some(at) = self.scopes.iter().position(|scope| !known(scope)) {
            let detail = "expected `mcp:…`, `openid`, `profile` or `email`";
            return Err(Error::invalid(FieldError::new(
                format!("scopes[{at}]"),
                self.scopes[at].as_str(),
                detail,
            )));
        }
        let resource = SetProxyResource {
            endpoint: self.endpoint,
            scopes: self.scopes,
            stateful: self.stateful,
            versions: self.mcp_versions,
            server_info: self.server_info,
            override_backend: self.override_backend,
            enabled: self.enabled,
            ..SetProxyResource::usual(self.proxy_hostname)
        };
        resource.run(control, ctx).await
    }
}
