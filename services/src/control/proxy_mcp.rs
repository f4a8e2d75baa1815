//! The protected resource of a proxy that is an MCP server: a shorter form with the defaults of such servers, and what
//! the upstream shows of itself.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::operation::{get, post};
use super::probes::{Finding, Seen};
use super::proxies::json;
use super::proxy_resource::{ProxyResource, SetProxyResource};
use super::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::names::PathPrefix;
use crate::config::{FieldError, HostPattern, Proxy, Scope};

/// What the scopes of an MCP server begin with.
const PREFIX: &str = "mcp:";

/// Scopes about the person (OpenID Connect Core 1.0, section 5.4), which any resource may ask for.
const PERSONAL: [&str; 3] = ["openid", "profile", "email"];

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetProxyMcp>();
    surface.add::<ShowProxyMcp>();
}

/// Publish a proxy as an MCP server. Clear it as a resource.
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

/// The protected resource of a proxy, and what its upstream shows of itself.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyMcp {
    /// What the proxy publishes.
    #[serde(flatten)]
    pub resource: ProxyResource,
    /// Whether the upstream shows that it is an MCP server or a protected resource: at the endpoint, `/mcp` where none
    /// is set, or by metadata of its own. Absent when it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_detected: Option<bool>,
    /// Whether the upstream has metadata of its own (RFC 9728). Absent when it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_implements: Option<bool>,
    /// When it was asked, or that was tried: at most once in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checked: Option<Timestamp>,
    /// What it answered, or why it was not asked.
    pub check: String,
}

/// Show what a proxy publishes as an MCP server, and what its upstream shows of itself: that is asked once in a minute,
/// by a GET of the endpoint, a ping of MCP where that is refused, and GETs of its metadata (RFC 9728).
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxyMcp {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

/// Whether a host has lists of who may ask it.
const fn is_for_some(proxy: &Proxy) -> bool {
    proxy.allowed_networks.is_some() || proxy.auth_enabled
}

impl Operation for ShowProxyMcp {
    const NAME: &'static str = "show_proxy_mcp";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/mcp");
    const SCOPE: Access = Access::User;
    type Output = ProxyMcp;

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyMcp, Error> {
        let proxy = control.get::<Proxy>(self.proxy_hostname.as_str()).await?;
        let Finding { seen, at, detail } = match &control.probes {
            // Whom its lists keep away must not make us ask it, so only who sets them may.
            _ if is_for_some(&proxy) && !ctx.caller.may(Access::Admin) => {
                Finding::none("only an admin can have an upstream asked that is not for everybody")
            }
            Some(probes) => probes.upstream(&control.site, &proxy).await,
            None => Finding::none("this node calls nobody"),
        };
        Ok(ProxyMcp {
            resource: proxy.into(),
            auto_detected: seen.map(|Seen { itself, metadata }| itself || metadata),
            backend_implements: seen.map(|seen| seen.metadata),
            last_checked: at,
            check: detail,
        })
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::proxies::CreateProxy;
    use crate::control::testing::{caller, control};

    #[tokio::test]
    async fn whom_a_host_is_not_for_can_not_have_it_asked() {
        let (control, _) = control();
        let as_of = |scope: &str| Context { caller: caller("somebody", &[scope]), ..Context::default() };
        for (host, more) in [
            ("open.example.com", json!({})),
            ("login.example.com", json!({ "auth_enabled": true, "auth_required_users": ["alice"] })),
            ("near.example.com", json!({ "allowed_networks": ["10.0.0.0/8"] })),
        ] {
            let mut fields = json!({ "proxy_hostname": host, "target_url": "http://10.0.0.1" });
            fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let create: CreateProxy = serde_json::from_value(fields).expect("an input");
            control.call(create, &as_of("admin")).await.expect("created");
            let show = async |scope| {
                let input = json!({ "proxy_hostname": host });
                let show: ShowProxyMcp = serde_json::from_value(input).expect("an input");
                control.call(show, &as_of(scope)).await.expect("shown").check
            };
            // Here nobody is ever called: what stands in the way before that is told.
            assert!(show("admin").await.contains("calls nobody"));
            let refused = show("user").await.contains("only an admin");
            assert_eq!(refused, host != "open.example.com", "{host}");
        }
    }
}
