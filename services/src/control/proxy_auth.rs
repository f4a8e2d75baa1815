//! The authentication of a proxy, as a part of its own.

use std::collections::BTreeMap;

use clap::Args;
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::changes::Form;
use super::operation::{delete, get, patch, post, put};
use super::{Access, Changes, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::auth::AuthMode;
use crate::config::names::{EmailPattern, Group, PathPrefix};
use crate::config::{Config, FieldError, HostPattern, Proxy, Scope, UserPattern};

/// Adds the operations of the authentication of proxies.
pub fn register(surface: &mut impl Surface) {
    surface.add::<EnableProxyAuth>();
    surface.add::<ShowProxyAuth>();
    surface.add::<UpdateProxyAuth>();
    surface.add::<DisableProxyAuth>();
}

/// A proxy whose authentication was changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuthDone {
    /// What was done.
    pub status: &'static str,
    /// The proxy.
    pub proxy_target: Proxy,
}

/// The authentication of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of the proxy, documented there")]
pub struct ProxyAuth {
    pub auth_enabled: bool,
    pub auth_proxy: Option<HostName>,
    pub auth_mode: AuthMode,
    pub auth_required_users: Option<Vec<UserPattern>>,
    pub auth_required_emails: Option<Vec<EmailPattern>>,
    pub auth_required_groups: Option<Vec<Group>>,
    pub auth_allowed_scopes: Option<Vec<Scope>>,
    pub auth_allowed_audiences: Option<Vec<String>>,
    pub auth_pass_headers: bool,
    pub auth_identity_jwt: bool,
    pub auth_cookie_name: String,
    pub auth_header_prefix: String,
    pub auth_excluded_paths: Option<Vec<PathPrefix>>,
}

impl From<Proxy> for ProxyAuth {
    fn from(proxy: Proxy) -> Self {
        Self {
            auth_enabled: proxy.auth_enabled,
            auth_proxy: proxy.auth_proxy,
            auth_mode: proxy.auth_mode,
            auth_required_users: proxy.auth_required_users,
            auth_required_emails: proxy.auth_required_emails,
            auth_required_groups: proxy.auth_required_groups,
            auth_allowed_scopes: proxy.auth_allowed_scopes,
            auth_allowed_audiences: proxy.auth_allowed_audiences,
            auth_pass_headers: proxy.auth_pass_headers,
            auth_identity_jwt: proxy.auth_identity_jwt,
            auth_cookie_name: proxy.auth_cookie_name,
            auth_header_prefix: proxy.auth_header_prefix,
            auth_excluded_paths: proxy.auth_excluded_paths,
        }
    }
}

/// The rules that a caller gives: the fields of the proxy without their prefix `auth_`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Whether a token is required at all.
    enabled: Option<bool>,
    /// Who may pass: logins, `service:NAME`, `*` for everyone with a valid token.
    required_users: Option<Vec<UserPattern>>,
    /// Which e-mail addresses may pass, e.g. `*@example.com`.
    required_emails: Option<Vec<EmailPattern>>,
    /// Which groups may pass.
    required_groups: Option<Vec<Group>>,
    /// Which scopes a token may have here.
    allowed_scopes: Option<Vec<Scope>>,
    /// Further audiences that are accepted.
    allowed_audiences: Option<Vec<String>>,
    /// Paths, and everything below them, that need no token.
    excluded_paths: Option<Vec<PathPrefix>>,
    /// Whether the upstream sees who calls.
    pass_headers: Option<bool>,
    /// Whether the upstream gets proof of who calls.
    identity_jwt: Option<bool>,
    /// The cookie of browser sessions.
    cookie_name: Option<String>,
    /// What the names of identity headers start with.
    header_prefix: Option<String>,
}

const PREFIX: &str = "auth_";

/// Changes a proxy by rules: a merge patch of its fields.
fn apply(rules: &Form<Rules>, mut proxy: Proxy) -> Result<Proxy, Error> {
    // For the names and types, so that complaints are about what was given.
    rules.read()?;
    let patch: Map<_, _> =
        rules.0.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone())).collect();
    let version = proxy.config_version;
    proxy = Changes::from(patch).apply(&proxy).map_err(|error| match error {
        Error::Invalid(errors) => Error::Invalid(errors.into_iter().map(unprefixed).collect()),
        other => other,
    })?;
    proxy.config_version = version;
    Ok(proxy)
}

fn unprefixed(error: FieldError) -> FieldError {
    let field = error.field.strip_prefix(PREFIX).unwrap_or(&error.field).to_owned();
    FieldError { field, ..error }
}

/// Brings everything about authentication back to its default.
fn clear(proxy: &mut Proxy) {
    let plain = Proxy::new(&proxy.proxy_hostname, &proxy.target_url);
    proxy.auth_enabled = false;
    proxy.auth_proxy = None;
    proxy.auth_mode = plain.auth_mode;
    proxy.auth_required_users = None;
    proxy.auth_required_emails = None;
    proxy.auth_required_groups = None;
    proxy.auth_allowed_scopes = None;
    proxy.auth_allowed_audiences = None;
    proxy.auth_pass_headers = plain.auth_pass_headers;
    proxy.auth_identity_jwt = plain.auth_identity_jwt;
    proxy.auth_cookie_name = plain.auth_cookie_name;
    proxy.auth_header_prefix = plain.auth_header_prefix;
    proxy.auth_excluded_paths = None;
    proxy.auth_scope_required = None;
    proxy.auth_scope_rules.clear();
    proxy.auth_realm = None;
    proxy.auth_include_metadata_urls = plain.auth_include_metadata_urls;
    proxy.auth_error_description = None;
    proxy.auth_additional_params = BTreeMap::new();
    proxy.trusted_issuers.clear();
    proxy.forward_authorization = None;
}

/// Require a token for a proxy. What is not given gets its default.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct EnableProxyAuth {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The host of the authorization server; it can only be this deployment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_proxy: Option<HostName>,
    /// What happens to requests without a valid token: `forward`, `redirect` or `passthrough`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// Who may pass, and what with.
    #[serde(flatten)]
    #[command(flatten)]
    pub rules: Form<Rules>,
}

impl Operation for EnableProxyAuth {
    const NAME: &'static str = "enable_proxy_auth";
    const COMMAND: &'static [&'static str] = &["proxy", "auth", "enable"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/auth");
    const SCOPE: Access = Access::Admin;
    type Output = AuthDone;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<AuthDone, Error> {
        let change = |proxy: Proxy, _: &Config| {
            let plain = Proxy::new(&proxy.proxy_hostname, &proxy.target_url);
            let proxy = Proxy {
                auth_enabled: true,
                auth_proxy: self.auth_proxy.clone(),
                auth_mode: self.mode.unwrap_or_default(),
                auth_required_users: plain.auth_required_users,
                auth_required_emails: plain.auth_required_emails,
                auth_required_groups: plain.auth_required_groups,
                auth_allowed_scopes: plain.auth_allowed_scopes,
                auth_allowed_audiences: plain.auth_allowed_audiences,
                auth_excluded_paths: plain.auth_excluded_paths,
                auth_pass_headers: plain.auth_pass_headers,
                auth_identity_jwt: plain.auth_identity_jwt,
                auth_cookie_name: plain.auth_cookie_name,
                auth_header_prefix: plain.auth_header_prefix,
                ..proxy
            };
            apply(&self.rules, proxy)
        };
        let proxy_target = control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(AuthDone { status: "Auth configured", proxy_target })
    }
}

/// Change the authentication of a proxy: what is not given stays, `null` brings back the default.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateProxyAuth {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// What happens to requests without a valid token: `forward`, `redirect` or `passthrough`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub mode: Option<AuthMode>,
    /// Who may pass, and what with.
    #[serde(flatten)]
    #[command(flatten)]
    pub rules: Form<Rules>,
}

impl Operation for UpdateProxyAuth {
    const NAME: &'static str = "update_proxy_auth";
    const COMMAND: &'static [&'static str] = &["proxy", "auth", "config"];
    const HTTP: Endpoint = put("/proxy/targets/{proxy_hostname}/auth");
    const ALIASES: &'static [Endpoint] = &[patch("/proxy/targets/{proxy_hostname}/auth")];
    const SCOPE: Access = Access::Admin;
    type Output = AuthDone;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<AuthDone, Error> {
        let change = |mut proxy: Proxy, _: &Config| {
            proxy.auth_mode = self.mode.unwrap_or(proxy.auth_mode);
            apply(&self.rules, proxy)
        };
        let proxy_target = control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(AuthDone { status: "Auth configured", proxy_target })
    }
}

/// Show the authentication of a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxyAuth {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowProxyAuth {
    const NAME: &'static str = "show_proxy_auth";
    const COMMAND: &'static [&'static str] = &["proxy", "auth", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/auth");
    const SCOPE: Access = Access::User;
    type Output = ProxyAuth;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyAuth, Error> {
        Ok(control.get::<Proxy>(self.proxy_hostname.as_str()).await?.into())
    }
}

/// Require no token for a proxy any longer, and forget all rules about it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DisableProxyAuth {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for DisableProxyAuth {
    const NAME: &'static str = "disable_proxy_auth";
    const COMMAND: &'static [&'static str] = &["proxy", "auth", "disable"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/auth");
    const SCOPE: Access = Access::Admin;
    type Output = AuthDone;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<AuthDone, Error> {
        let change = |mut proxy: Proxy, _: &Config| {
            clear(&mut proxy);
            Ok(proxy)
        };
        let proxy_target = control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(AuthDone { status: "Auth protection removed", proxy_target })
    }
}
