//! Where the endpoints of the protocol are served: nobody has to set up routes for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use portcullis_layers::HostName;
use portcullis_layers::auth::SESSION_PATH;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::health::issuer_host;
use crate::config::auth::AuthMode;
use crate::config::{Config, FieldError, Proxy, Route};
use crate::control::operation::{get, post};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::AuthorizationServer;

/// The members of the metadata (RFC 8414) that are endpoints.
const ENDPOINTS: [&str; 9] = [
    "authorization_endpoint",
    "token_endpoint",
    "jwks_uri",
    "registration_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "device_authorization_endpoint",
    "userinfo_endpoint",
    "end_session_endpoint",
];

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<OauthSetupRoutes>();
    surface.add::<OauthSetupStatus>();
}

/// What a host has of the authorization server.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SetupStatus {
    /// `complete`, or `incomplete` when the issuer's host is missing or disabled.
    pub status: &'static str,
    /// The issuer.
    pub issuer: String,
    /// The host.
    pub domain: HostName,
    /// What the host is: `issuer`, `acts_for_issuer`, `signs_in_browsers` or `other`.
    pub role: &'static str,
    /// Always empty: the endpoints are a part of the gateway, and stand before all routes.
    pub routes_needed: Vec<String>,
    /// The URLs that the issuer publishes, by their names in its metadata.
    pub endpoints: BTreeMap<String, String>,
    /// What stands in the way, or what there is to know.
    pub message: String,
}

/// Whether a host has endpoints of the issuer for its resource.
fn acts(config: &Config, proxy: &Proxy) -> bool {
    let own = |route: &Arc<Route>| route.needs_token() && route.is_for(&proxy.proxy_hostname);
    let protected = proxy.auth_enabled || config.routes.values().any(own);
    proxy.enabled && protected && proxy.resource_endpoint.is_some() && proxy.resource_oauth_endpoints
}

fn status(
    server: &AuthorizationServer,
    config: &Config,
    domain: Option<HostName>,
) -> Result<SetupStatus, Error> {
    let issuer = issuer_host(server);
    let domain = domain
        .or_else(|| issuer.clone())
        .ok_or_else(|| Error::invalid(FieldError::bare("domain", "expected a host")))?;
    let at_issuer = issuer.as_ref() == Some(&domain);
    let role = match config.proxy_of(&domain) {
        _ if at_issuer => "issuer",
        Some(proxy) if acts(config, proxy) => "acts_for_issuer",
        Some(proxy) if proxy.enabled && proxy.auth_mode == AuthMode::Redirect => "signs_in_browsers",
        _ => "other",
    };
    let serves = issuer.as_ref().and_then(|host| config.proxy_of(host)).is_some_and(|proxy| proxy.enabled);
    let message = match role {
        _ if !serves => "the issuer's host has no proxy, or a disabled one: create or enable it".to_owned(),
        "issuer" => "all endpoints are served here, before any route".to_owned(),
        "acts_for_issuer" => "metadata, /authorize, /token and /register act for the issuer here".to_owned(),
        "signs_in_browsers" => format!("browsers get their session at {SESSION_PATH}"),
        _ => "nothing of the authorization server is served here".to_owned(),
    };
    let metadata: Value = serde_json::from_slice(&server.metadata.to_json()).map_err(Error::internal)?;
    let endpoints = ENDPOINTS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), metadata[*name].as_str()?.to_owned())))
        .collect();
    Ok(SetupStatus {
        status: if serves { "complete" } else { "incomplete" },
        issuer: server.issuer.as_str().to_owned(),
        domain,
        role,
        routes_needed: Vec::new(),
        endpoints,
        message,
    })
}

/// Set up routes for the authorization server: none are needed, so this changes nothing and says what is served.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct OauthSetupRoutes {
    /// The host that is meant; absent: that of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth_domain: Option<HostName>,
    /// Taken because older programs send it. It means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, num_args(0..=1), require_equals(true), default_missing_value = "true")]
    pub force: Option<bool>,
}

impl Operation for OauthSetupRoutes {
    const NAME: &'static str = "oauth_setup_routes";
    const COMMAND: &'static [&'static str] = &["oauth", "admin", "setup-routes"];
    const HTTP: Endpoint = post("/oauth/admin/setup-routes");
    const SCOPE: Access = Access::Admin;
    // It only reads.
    const WITH_REPLACED_STORE: bool = true;
    type Output = SetupStatus;

    fn subject(&self) -> Option<String> {
        self.oauth_domain.as_ref().map(ToString::to_string)
    }

    async fn run(self, control: &Control, _: &Context) -> Result<SetupStatus, Error> {
        let config = control.config().await?;
        status(control.oauth()?, &config, self.oauth_domain)
    }
}

/// Show which endpoints of the authorization server are served, and where.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct OauthSetupStatus {
    /// The host that is meant; absent: that of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub domain: Option<HostName>,
}

impl Operation for OauthSetupStatus {
    const NAME: &'static str = "oauth_setup_status";
    const COMMAND: &'static [&'static str] = &["oauth", "admin", "setup-status"];
    const HTTP: Endpoint = get("/oauth/admin/setup-status");
    const SCOPE: Access = Access::Admin;
    type Output = SetupStatus;

    async fn run(self, control: &Control, _: &Context) -> Result<SetupStatus, Error> {
        let config = control.config().await?;
        status(control.oauth()?, &config, self.domain)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::oauth::testing::{ISSUER, given};
    use crate::control::proxies::UpdateProxy;

    #[tokio::test]
    async fn no_routes_are_needed_and_it_is_said_what_is_served_where() {
        let given = given().await;
        let status = given.ask::<OauthSetupStatus>(json!({})).await;
        assert_eq!(
            (&status["status"], &status["domain"]),
            (&json!("incomplete"), &json!("auth.example.com"))
        );
        given.proxy("auth.example.com").await;
        given.proxy("app.example.com").await;
        let asked = json!({ "oauth_domain": "auth.example.com", "force": true });
        let status = given.ask::<OauthSetupRoutes>(asked).await;
        assert_eq!(
            (&status["status"], &status["role"], &status["routes_needed"]),
            (&json!("complete"), &json!("issuer"), &json!([]))
        );
        assert_eq!(status["endpoints"]["token_endpoint"], format!("{ISSUER}/token"));
        for (field, value, role) in [
            ("auth_mode", json!("redirect"), "signs_in_browsers"),
            ("resource_endpoint", json!("/mcp"), "acts_for_issuer"),
            ("enabled", json!(false), "other"),
        ] {
            given.ask::<UpdateProxy>(json!({ "proxy_hostname": "app.example.com", field: value })).await;
            let status = given.ask::<OauthSetupStatus>(json!({ "domain": "app.example.com" })).await;
            assert_eq!(status["role"], role, "{status}");
        }
    }
}
