//! What a proxy says in the authorization server's metadata that it serves, as a part of its own.
//!
//! It is the metadata of the one issuer: a host can name scopes and claims, list fewer grant types and ways to
//! authenticate, and add members. What would name another issuer, or promise what is not there, is refused.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::operation::{delete, get, post, put};
use super::proxies::json;
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::config::{Config, FieldError, HostPattern, Proxy, Scope};

/// Adds the operations of what proxies say of the authorization server.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetProxyOauthServer>();
    surface.add::<ShowProxyOauthServer>();
    surface.add::<ClearProxyOauthServer>();
    surface.add::<ListProxyOauthServers>();
}

/// Whether a proxy says something of the authorization server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OauthServerStatus {
    /// It does.
    Configured,
    /// The host serves the metadata as they are.
    NotConfigured,
}

/// What a proxy says of the authorization server.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of the proxy, documented there")]
pub struct ProxyOauthServer {
    /// Whether it says anything.
    pub status: OauthServerStatus,
    /// Whether the host serves the metadata at all: the issuer's own does, and those with `resource_endpoint` and
    /// `resource_oauth_endpoints`.
    pub served: bool,
    pub proxy_hostname: HostPattern,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_scopes: Option<Vec<Scope>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_grant_types: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_response_types: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_token_auth_methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_claims: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_pkce_required: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_server_custom_metadata: Option<Map<String, Value>>,
    pub oauth_server_override_defaults: bool,
}

impl ProxyOauthServer {
    fn of(proxy: Proxy, control: &Control) -> Self {
        let is_issuer = proxy.proxy_hostname.as_str() == control.issuer().host.as_str();
        Self {
            status: if says_something(&proxy) {
                OauthServerStatus::Configured
            } else {
                OauthServerStatus::NotConfigured
            },
            served: is_issuer || (proxy.resource_endpoint.is_some() && proxy.resource_oauth_endpoints),
            proxy_hostname: proxy.proxy_hostname,
            oauth_server_issuer: proxy.oauth_server_issuer,
            oauth_server_scopes: proxy.oauth_server_scopes,
            oauth_server_grant_types: proxy.oauth_server_grant_types,
            oauth_server_response_types: proxy.oauth_server_response_types,
            oauth_server_token_auth_methods: proxy.oauth_server_token_auth_methods,
            oauth_server_claims: proxy.oauth_server_claims,
            oauth_server_pkce_required: proxy.oauth_server_pkce_required,
            oauth_server_custom_metadata: proxy.oauth_server_custom_metadata,
            oauth_server_override_defaults: proxy.oauth_server_override_defaults,
        }
    }
}

fn says_something(proxy: &Proxy) -> bool {
    proxy.oauth_server_issuer.is_some()
        || proxy.oauth_server_scopes.is_some()
        || proxy.oauth_server_grant_types.is_some()
        || proxy.oauth_server_response_types.is_some()
        || proxy.oauth_server_token_auth_methods.is_some()
        || proxy.oauth_server_claims.is_some()
        || proxy.oauth_server_pkce_required.is_some()
        || proxy.oauth_server_custom_metadata.is_some()
        || proxy.oauth_server_override_defaults
}

/// Say something of the authorization server in the metadata that a proxy serves. What is not given is cleared.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetProxyOauthServer {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The issuer: it can only be this deployment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub issuer: Option<String>,
    /// Scopes, beside those that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub scopes: Option<Vec<Scope>>,
    /// The grant types to list, of those that are there; only with `override_defaults`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub grant_types: Option<Vec<String>>,
    /// The response types: `code`, for there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub response_types: Option<Vec<String>>,
    /// The ways for clients to authenticate to list, of those that are there; only with `override_defaults`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub token_auth_methods: Option<Vec<String>>,
    /// Claims, beside those that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub claims: Option<Vec<String>>,
    /// Say in a member of its own that PKCE is required (`code_challenge_methods_required`). It is in any case: `false`
    /// is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub pkce_required: Option<bool>,
    /// Further members; none in place of those that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<Map<String, Value>>)]
    pub custom_metadata: Option<Map<String, Value>>,
    /// Let the lists stand in place of those that are there, instead of beside them.
    #[serde(default)]
    #[arg(long)]
    pub override_defaults: bool,
}

impl Operation for SetProxyOauthServer {
    const NAME: &'static str = "set_proxy_oauth_server";
    const COMMAND: &'static [&'static str] = &["proxy", "oauth-server", "set"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/oauth-server");
    const ALIASES: &'static [Endpoint] = &[put("/proxy/targets/{proxy_hostname}/oauth-server")];
    const SCOPE: Access = Access::Admin;
    type Output = ProxyOauthServer;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyOauthServer, Error> {
        let listed = self.grant_types.is_some() || self.token_auth_methods.is_some();
        if listed && !self.override_defaults {
            let detail = "grant types and ways to authenticate can only be listed in place of those that are there: \
                          expected `override_defaults` with them";
            return Err(Error::invalid(FieldError::new("override_defaults", false, detail)));
        }
        let change = |proxy: Proxy, _: &Config| {
            Ok(Proxy {
                oauth_server_issuer: self.issuer.clone(),
                oauth_server_scopes: self.scopes.clone(),
                oauth_server_grant_types: self.grant_types.clone(),
                oauth_server_response_types: self.response_types.clone(),
                oauth_server_token_auth_methods: self.token_auth_methods.clone(),
                oauth_server_claims: self.claims.clone(),
                oauth_server_pkce_required: self.pkce_required,
                oauth_server_custom_metadata: self.custom_metadata.clone(),
                oauth_server_override_defaults: self.override_defaults,
                ..proxy
            })
        };
        let proxy = control.edit(ctx, self.proxy_hostname.as_str(), change).await.map_err(unprefixed)?;
        Ok(ProxyOauthServer::of(proxy, control))
    }
}

/// Complaints name the fields of the operation, not those of the proxy.
fn unprefixed(error: Error) -> Error {
    let Error::Invalid(mut errors) = error else { return error };
    for error in &mut errors {
        if let Some(own) = error.field.strip_prefix("oauth_server_") {
            error.field = own.to_owned();
        }
    }
    Error::Invalid(errors)
}

/// Show what a proxy says of the authorization server.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxyOauthServer {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowProxyOauthServer {
    const NAME: &'static str = "show_proxy_oauth_server";
    const COMMAND: &'static [&'static str] = &["proxy", "oauth-server", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/oauth-server");
    const SCOPE: Access = Access::User;
    type Output = ProxyOauthServer;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyOauthServer, Error> {
        Ok(ProxyOauthServer::of(control.get(self.proxy_hostname.as_str()).await?, control))
    }
}

/// Let a proxy serve the authorization server's metadata as they are.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearProxyOauthServer {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ClearProxyOauthServer {
    const NAME: &'static str = "clear_proxy_oauth_server";
    const COMMAND: &'static [&'static str] = &["proxy", "oauth-server", "clear"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/oauth-server");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let change = |proxy: Proxy, _: &Config| {
            Ok(Proxy {
                oauth_server_issuer: None,
                oauth_server_scopes: None,
                oauth_server_grant_types: None,
                oauth_server_response_types: None,
                oauth_server_token_auth_methods: None,
                oauth_server_claims: None,
                oauth_server_pkce_required: None,
                oauth_server_custom_metadata: None,
                oauth_server_override_defaults: false,
                ..proxy
            })
        };
        let proxy = control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(Done::new("cleared", &proxy.proxy_hostname))
    }
}

/// The proxies that say something of the authorization server.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyOauthServerList {
    /// How many there are.
    pub count: usize,
    /// Which ones.
    pub proxies: Vec<ProxyOauthServer>,
}

/// List the proxies that say something of the authorization server.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListProxyOauthServers {}

impl Operation for ListProxyOauthServers {
    const NAME: &'static str = "list_proxy_oauth_servers";
    const COMMAND: &'static [&'static str] = &["proxy", "oauth-server", "list"];
    const HTTP: Endpoint = get("/proxy/targets/oauth-servers/configured");
    const SCOPE: Access = Access::User;
    type Output = ProxyOauthServerList;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyOauthServerList, Error> {
        let all = control.list::<Proxy>().await?;
        let some = all.into_iter().filter(says_something);
        let proxies: Vec<_> = some.map(|proxy| ProxyOauthServer::of(proxy, control)).collect();
        Ok(ProxyOauthServerList { count: proxies.len(), proxies })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::control::proxies::CreateProxy;
    use crate::control::testing::{caller, control};

    const HOST: &str = "mcp.example.com";

    async fn with_proxy() -> (Arc<Control>, Context) {
        let (control, _) = control();
        let ctx = Context::of(caller("root", &["admin"]));
        let fields =
            json!({ "proxy_hostname": HOST, "target_url": "http://10.0.0.5", "resource_endpoint": "/mcp" });
        let create: CreateProxy = serde_json::from_value(fields).expect("valid");
        control.call(create, &ctx).await.expect("created");
        (control, ctx)
    }

    fn of_host<O: Operation>(mut fields: Value) -> O {
        fields["proxy_hostname"] = HOST.into();
        serde_json::from_value(fields).expect("valid")
    }

    async fn shown(control: &Control, ctx: &Context) -> Value {
        let shown = control.call(of_host::<ShowProxyOauthServer>(json!({})), ctx).await.expect("shown");
        serde_json::to_value(shown).expect("JSON")
    }

    #[tokio::test]
    async fn what_is_set_is_shown_listed_and_cleared() {
        let (control, ctx) = with_proxy().await;
        let plain = json!({
            "status": "not_configured", "served": true, "proxy_hostname": HOST, "oauth_server_override_defaults": false,
        });
        assert_eq!(shown(&control, &ctx).await, plain);
        let set = json!({
            "issuer": control.issuer().to_string(), "scopes": ["mcp:read"], "grant_types": ["authorization_code"],
            "response_types": ["code"], "token_auth_methods": ["none"], "claims": ["groups"], "pkce_required": true,
            "custom_metadata": { "op_policy_uri": "https://example.com/policy" }, "override_defaults": true,
        });
        let done = control.call(of_host::<SetProxyOauthServer>(set.clone()), &ctx).await.expect("set");
        let mut expected = json!({ "status": "configured", "served": true, "proxy_hostname": HOST });
        for (name, value) in set.as_object().expect("an object") {
            expected[format!("oauth_server_{name}")] = value.clone();
        }
        assert_eq!(serde_json::to_value(&done).expect("JSON"), expected);
        assert_eq!(shown(&control, &ctx).await, expected);
        let listed = control.call(ListProxyOauthServers {}, &ctx).await.expect("listed");
        assert_eq!((listed.count, listed.proxies.len()), (1, 1));
        control
            .call(of_host::<SetProxyOauthServer>(json!({ "claims": ["groups"] })), &ctx)
            .await
            .expect("set");
        let less = shown(&control, &ctx).await;
        assert_eq!(
            (&less["oauth_server_claims"], &less["oauth_server_scopes"]),
            (&json!(["groups"]), &Value::Null)
        );
        control.call(of_host::<ClearProxyOauthServer>(json!({})), &ctx).await.expect("cleared");
        assert_eq!(shown(&control, &ctx).await, plain);
        assert_eq!(control.call(ListProxyOauthServers {}, &ctx).await.expect("listed").count, 0);
    }

    #[tokio::test]
    async fn what_would_be_a_lie_is_refused_by_the_name_it_was_given_with() {
        let (control, ctx) = with_proxy().await;
        for (fields, wrong) in [
            (json!({ "issuer": "https://evil.example" }), "issuer"),
            (json!({ "pkce_required": false }), "pkce_required"),
            (json!({ "response_types": ["code", "id_token"] }), "response_types[1]"),
            (json!({ "grant_types": ["implicit"], "override_defaults": true }), "grant_types[0]"),
            (json!({ "grant_types": ["refresh_token"] }), "override_defaults"),
            (json!({ "token_auth_methods": ["none"] }), "override_defaults"),
        ] {
            let refused = control.call(of_host::<SetProxyOauthServer>(fields.clone()), &ctx).await;
            let Err(Error::Invalid(errors)) = refused else { panic!("{fields}: {refused:?}") };
            assert_eq!(errors[0].field, wrong, "{fields}");
        }
        assert_eq!(shown(&control, &ctx).await["status"], "not_configured");
        let user = Context::of(caller("eve", &["user"]));
        let refused = control.call(of_host::<SetProxyOauthServer>(json!({})), &user).await;
        assert!(matches!(refused, Err(Error::Forbidden { .. })));
    }
}
