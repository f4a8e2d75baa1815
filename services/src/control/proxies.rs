//! Proxies: create, list, show, update, enable, disable, delete, headers.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certificates::of_host::{self, CertificateOfHost};
use super::certificates::{delete_steps, forget, needed_by};
use super::managed::{put as put_step, remove, replace};
use super::operation::{create, delete, get, patch, post, put as put_to, word};
use super::{Access, Changes, Context, Control, Done, Endpoint, Error, New, Operation, Surface, Table};
use crate::config::headers::{Cors, HeaderRules};
use crate::config::route::{RouteScope, RouteTarget};
use crate::config::tools::McpTools;
use crate::config::{CertName, Certificate, Config, FieldError, HostPattern, Proxy, Route, RouteId};
use crate::credentials::Kept;
use crate::store::{Expect, Write};
use crate::vault::Vault;

/// Adds the operations of proxies.
pub fn register(surface: &mut impl Surface) {
    surface.add::<CreateProxy>();
    surface.add::<ListProxies>();
    surface.add::<ShowProxy>();
    surface.add::<UpdateProxy>();
    surface.add::<EnableProxy>();
    surface.add::<DisableProxy>();
    surface.add::<DeleteProxy>();
    surface.add::<ShowProxyHeaders>();
    surface.add::<SetProxyHeaders>();
    surface.add::<ClearProxyHeaders>();
}

/// A proxy that was just created.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Created {
    /// The proxy.
    pub proxy_target: Proxy,
    /// Whether HTTPS has a certificate: `not_required`, HTTPS is off; `existing`, one covers the host; `Certificate
    /// generation started`, one is being issued, and the fallback serves until it is there; `self_signed`, the fallback
    /// serves, and nothing is being done about it.
    pub certificate_status: &'static str,
    /// The certificate that covers it, or will.
    pub cert_name: Option<CertName>,
}

/// Create a proxy: a public host and where its requests go. A certificate that covers the host serves it; where there
/// is none, one is issued if the host may have one.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct CreateProxy {
    /// How a certificate is issued if none covers the host.
    #[serde(flatten)]
    #[command(flatten)]
    pub certificate: CertificateOfHost,
    /// The proxy.
    #[serde(flatten)]
    #[command(flatten)]
    pub proxy: New<Proxy>,
}

impl Operation for CreateProxy {
    const NAME: &'static str = "create_proxy";
    const COMMAND: &'static [&'static str] = &["proxy", "create"];
    const HTTP: Endpoint = create("/proxy/targets/");
    const SCOPE: Access = Access::Admin;
    type Output = Created;

    fn subject(&self) -> Option<String> {
        let name = self.proxy.0.get("proxy_hostname").or_else(|| self.proxy.0.get("hostname"));
        name.and_then(|name| name.as_str()).map(str::to_owned)
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Created, Error> {
        let proxy = self.proxy.build()?;
        let config = control.config().await?;
        let wanted = self.certificate.wanted(&proxy, &config, control, ctx)?;
        // In one commit: whoever sees the host sees that it is about to have a certificate.
        let certificate = wanted.iter().map(|one| put_step(one, Expect::Absent)).collect();
        let proxy = control.create(ctx, proxy, certificate).await?;
        let (certificate_status, cert_name) = of_host::state(&proxy, wanted.as_ref(), &config);
        Ok(Created { proxy_target: proxy, certificate_status, cert_name })
    }
}

/// List all proxies.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListProxies {}

impl Operation for ListProxies {
    const NAME: &'static str = "list_proxies";
    const COMMAND: &'static [&'static str] = &["proxy", "list"];
    const HTTP: Endpoint = get("/proxy/targets/");
    const TABLE: Option<Table<Vec<Proxy>>> = Some(Table {
        path: "/proxy/targets/formatted",
        columns: &["Hostname", "Target URL", "Status", "Certificate", "Auth", "HTTP", "HTTPS"],
        rows: |proxies| proxies.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = Vec<Proxy>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Proxy>, Error> {
        control.list().await
    }
}

fn row(proxy: &Proxy) -> Vec<String> {
    vec![
        proxy.proxy_hostname.to_string(),
        proxy.target_url.to_string(),
        status(proxy.enabled).to_owned(),
        proxy.cert_name.as_ref().map(ToString::to_string).unwrap_or_default(),
        if proxy.auth_enabled { word(&proxy.auth_mode) } else { "off".to_owned() },
        switch(proxy.enable_http).to_owned(),
        switch(proxy.enable_https).to_owned(),
    ]
}

/// How tables say whether something is asked at all.
pub(super) const fn status(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

const fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Show a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxy {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowProxy {
    const NAME: &'static str = "show_proxy";
    const COMMAND: &'static [&'static str] = &["proxy", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}");
    const SCOPE: Access = Access::User;
    type Output = Proxy;

    async fn run(self, control: &Control, _: &Context) -> Result<Proxy, Error> {
        control.get(self.proxy_hostname.as_str()).await
    }
}

/// Change a proxy: what is not given stays, `null` brings back the default.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateProxy {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// What changes.
    #[serde(flatten)]
    #[command(flatten)]
    pub changes: Changes<Proxy>,
}

impl Operation for UpdateProxy {
    const NAME: &'static str = "update_proxy";
    const COMMAND: &'static [&'static str] = &["proxy", "update"];
    const HTTP: Endpoint = put_to("/proxy/targets/{proxy_hostname}");
    const ALIASES: &'static [Endpoint] = &[patch("/proxy/targets/{proxy_hostname}")];
    const SCOPE: Access = Access::Admin;
    type Output = Proxy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Proxy, Error> {
        control.edit(ctx, self.proxy_hostname.as_str(), |proxy, _| self.changes.apply(&proxy)).await
    }
}

/// Let a proxy answer.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct EnableProxy {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for EnableProxy {
    const NAME: &'static str = "enable_proxy";
    const COMMAND: &'static [&'static str] = &["proxy", "enable"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/enable");
    const ALIASES: &'static [Endpoint] = &[put_to("/proxy/targets/{proxy_hostname}/enable")];
    const SCOPE: Access = Access::Admin;
    type Output = Proxy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Proxy, Error> {
        set_enabled(control, ctx, &self.proxy_hostname, true).await
    }
}

/// Let a proxy answer 503, and close its tunnels.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DisableProxy {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for DisableProxy {
    const NAME: &'static str = "disable_proxy";
    const COMMAND: &'static [&'static str] = &["proxy", "disable"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/disable");
    const ALIASES: &'static [Endpoint] = &[put_to("/proxy/targets/{proxy_hostname}/disable")];
    const SCOPE: Access = Access::Admin;
    type Output = Proxy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Proxy, Error> {
        set_enabled(control, ctx, &self.proxy_hostname, false).await
    }
}

async fn set_enabled(
    control: &Control,
    ctx: &Context,
    host: &HostPattern,
    enabled: bool,
) -> Result<Proxy, Error> {
    control.edit(ctx, host.as_str(), |proxy: Proxy, _| Ok(Proxy { enabled, ..proxy })).await
}

/// Delete a proxy, and the routes that are for it alone.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteProxy {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Delete its certificate as well: the one that it names, or that is for its name only; not one that serves others.
    #[serde(default)]
    #[arg(long, alias = "delete-cert")]
    pub delete_certificate: bool,
}

impl Operation for DeleteProxy {
    const NAME: &'static str = "delete_proxy";
    const COMMAND: &'static [&'static str] = &["proxy", "delete"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        if self.proxy_hostname.as_str() == control.issuer().host.as_str() {
            return Err(Error::Conflict(format!(
                "the proxy {} is the host of the authorization server of this deployment: it can be changed, but not deleted",
                self.proxy_hostname
            )));
        }
        let with_certificate = self.delete_certificate;
        let config = control.config().await?;
        let proxy = control
            .delete(ctx, self.proxy_hostname.as_str(), |proxy: &Proxy, config| {
                let mut writes = going_with(proxy, config)?;
                let certificate = own_certificate(proxy, config, with_certificate);
                writes.extend(certificate.into_iter().flat_map(delete_steps));
                Ok(writes)
            })
            .await?;
        let mut done = Done::new("deleted", &proxy.proxy_hostname);
        done.also = left_behind(&proxy, &config).1;
        if let Some(container) = &proxy.labelled_by {
            done.also.push(format!("it comes back as long as the container {container} has its labels"));
        }
        if let Some(one) = own_certificate(&proxy, &config, with_certificate) {
            forget(control, &one.cert_name).await?;
            done.also.push(format!("certificate {} deleted", one.cert_name));
        }
        Ok(done)
    }
}

/// The steps that go with deleting a proxy, or why it must stay.
pub(super) fn going_with(proxy: &Proxy, config: &Config) -> Result<Vec<Write>, Error> {
    forbid_while_used(proxy, config)?;
    let (mut writes, _) = left_behind(proxy, config);
    if proxy.github_client_id.is_some() {
        let secret = Proxy::github_secret_id(&proxy.proxy_hostname);
        writes.push(Vault::delete(&secret, Expect::Any));
    }
    // There may be none; nobody has to know.
    writes.push(Vault::delete(&Kept::secret_id(&proxy.proxy_hostname), Expect::Any));
    writes.push(Write::Delete { key: McpTools::key(&proxy.proxy_hostname), expect: Expect::Any });
    Ok(writes)
}

/// Whatever sends requests here would have nowhere to send them.
fn forbid_while_used(proxy: &Proxy, config: &Config) -> Result<(), Error> {
    let host = &proxy.proxy_hostname;
    let routes = config.routes.values().filter(|route| {
        matches!(route.target(), Ok(RouteTarget::Host(target)) if target == *host)
            && !(route.scope == RouteScope::Proxy && route.proxy_hostnames == [host.clone()])
    });
    let resources = config.resources.values().filter(|resource| resource.proxy_target == *host);
    let users: Vec<_> = routes
        .map(|route| format!("route {}", route.route_id))
        .chain(resources.map(|resource| format!("resource {}", resource.uri)))
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "the proxy {host} is in use by {}: delete or change them first",
        users.join(", ")
    )))
}

/// What becomes of the routes of a proxy that goes: those of it alone go with it, others forget it.
fn left_behind(proxy: &Proxy, config: &Config) -> (Vec<Write>, Vec<String>) {
    let host = &proxy.proxy_hostname;
    let mut writes = Vec::new();
    let mut also = Vec::new();
    let mut gone = Vec::new();
    for route in config.routes.values().filter(|route| route.proxy_hostnames.contains(host)) {
        let mut route = Route::clone(route);
        route.proxy_hostnames.retain(|other| other != host);
        if route.proxy_hostnames.is_empty() {
            also.push(format!("route {} deleted", route.route_id));
            writes.push(remove(&route));
            gone.push(route.route_id);
        } else {
            also.push(format!("route {} changed", route.route_id));
            writes.push(replace(&route));
        }
    }
    writes.extend(forget_routes(config, &gone, Some(host)));
    (writes, also)
}

/// The certificate that goes with a proxy: the one that it names, or that is for its name only; none that serves others.
fn own_certificate<'a>(proxy: &Proxy, config: &'a Config, wanted: bool) -> Option<&'a Certificate> {
    if !wanted {
        return None;
    }
    let host = &proxy.proxy_hostname;
    let own = match &proxy.cert_name {
        Some(name) => config.certificates.get(name),
        // One that is for more names is not only its own.
        None => config.certificates.values().find(|one| *one.domains == [host.clone()]),
    }?;
    let now = Timestamp::now();
    let mut needing = needed_by(own, config, now).map(|other| &other.proxy_hostname);
    let covers = |other: &Proxy| other.cert_name.is_none() && own.covers(&other.proxy_hostname);
    let mut covered =
        config.proxies.values().filter(|other| covers(other)).map(|other| &other.proxy_hostname);
    let is_shared = needing.any(|other| other != host) || covered.any(|other| other != host);
    (!is_shared).then_some(own)
}

/// The header rules of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyHeaders {
    /// What the upstream sees, shorthand included.
    pub request: HeaderRules,
    /// What the client sees, shorthand included.
    pub response: HeaderRules,
    /// Which other origins' pages may call.
    pub cors: Option<Cors>,
}

impl From<&Proxy> for ProxyHeaders {
    fn from(proxy: &Proxy) -> Self {
        Self { request: proxy.request_rules(), response: proxy.response_rules(), cors: proxy.cors.clone() }
    }
}

/// Show the header rules of a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxyHeaders {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowProxyHeaders {
    const NAME: &'static str = "show_proxy_headers";
    const COMMAND: &'static [&'static str] = &["proxy", "headers", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/headers");
    const SCOPE: Access = Access::User;
    type Output = ProxyHeaders;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyHeaders, Error> {
        let proxy: Proxy = control.get(self.proxy_hostname.as_str()).await?;
        Ok((&proxy).into())
    }
}

/// Set header rules of a proxy: each part that is given replaces what was there.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetProxyHeaders {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// What the upstream sees: `{"set": {…}, "append": {…}, "remove": […]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<HeaderRules>)]
    pub request: Option<HeaderRules>,
    /// What the client sees, on refusals too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<HeaderRules>)]
    pub response: Option<HeaderRules>,
    /// Which other origins' pages may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<Cors>)]
    pub cors: Option<Cors>,
}

/// Reads a JSON argument, or the file that `@file` names.
pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let text = super::secret::text_or_file(text).map_err(|error| error.to_string())?;
    let value = serde_json::from_str(&text).map_err(|error| format!("is no JSON: {error}"))?;
    crate::config::field::read(&value).map_err(|error: FieldError| error.to_string())
}

impl Operation for SetProxyHeaders {
    const NAME: &'static str = "set_proxy_headers";
    const COMMAND: &'static [&'static str] = &["proxy", "headers", "set"];
    const HTTP: Endpoint = put_to("/proxy/targets/{proxy_hostname}/headers");
    const ALIASES: &'static [Endpoint] = &[post("/proxy/targets/{proxy_hostname}/headers")];
    const SCOPE: Access = Access::Admin;
    type Output = ProxyHeaders;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyHeaders, Error> {
        let change = |mut proxy: Proxy, _: &Config| {
            if let Some(rules) = &self.request {
                proxy.request_headers = rules.clone();
                proxy.custom_headers.clear();
            }
            if let Some(rules) = &self.response {
                proxy.response_headers = rules.clone();
                proxy.custom_response_headers.clear();
            }
            if let Some(cors) = &self.cors {
                proxy.cors = Some(cors.clone());
            }
            Ok(proxy)
        };
        Ok((&control.edit(ctx, self.proxy_hostname.as_str(), change).await?).into())
    }
}

/// Clear all header rules of a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearProxyHeaders {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ClearProxyHeaders {
    const NAME: &'static str = "clear_proxy_headers";
    const COMMAND: &'static [&'static str] = &["proxy", "headers", "clear"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/headers");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let change = |proxy: Proxy, _: &Config| {
            let none = Proxy::new(&proxy.proxy_hostname, &proxy.target_url);
            Ok(Proxy {
                request_headers: none.request_headers,
                response_headers: none.response_headers,
                custom_headers: none.custom_headers,
                custom_response_headers: none.custom_response_headers,
                cors: None,
                ..proxy
            })
        };
        let proxy = control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(Done::new("cleared", &proxy.proxy_hostname))
    }
}

/// The steps that make every proxy but one that goes forget routes.
pub(super) fn forget_routes(config: &Config, routes: &[RouteId], but: Option<&HostPattern>) -> Vec<Write> {
    let names = |proxy: &&Arc<Proxy>| {
        let mut listed = proxy.enabled_routes.iter().chain(&proxy.disabled_routes);
        Some(&proxy.proxy_hostname) != but && listed.any(|route| routes.contains(route))
    };
    let forget = |proxy: &Arc<Proxy>| {
        let mut next = Proxy::clone(proxy);
        next.enabled_routes.retain(|route| !routes.contains(route));
        next.disabled_routes.retain(|route| !routes.contains(route));
        replace(&next)
    };
    config.proxies.values().filter(names).map(forget).collect()
}
