//! Which routes apply to a proxy.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{get, patch, post, put};
use super::{Access, Context, Control, Endpoint, Error, Managed, Operation, Surface};
use crate::config::proxy::RouteMode;
use crate::config::{Config, HostPattern, Proxy, Route, RouteId};

/// Adds the operations of the routes of proxies.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListProxyRoutes>();
    surface.add::<SetProxyRoutes>();
    surface.add::<EnableProxyRoute>();
    surface.add::<DisableProxyRoute>();
}

/// The routes of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyRoutes {
    /// Which apply.
    pub route_mode: RouteMode,
    /// Those that apply in mode `selective`.
    pub enabled_routes: Vec<RouteId>,
    /// Those that do not apply in mode `all`.
    pub disabled_routes: Vec<RouteId>,
    /// Those that do apply, in the order in which they are asked.
    pub applicable_routes: Vec<Route>,
}

impl ProxyRoutes {
    fn of(proxy: &Proxy, config: &Config) -> Self {
        let taken = config.routes.values().filter(|route| route.enabled && proxy.takes(route));
        let mut routes: Vec<_> = taken.map(|route| Route::clone(route)).collect();
        routes.sort_by(Route::order);
        Self {
            route_mode: proxy.route_mode,
            enabled_routes: proxy.enabled_routes.clone(),
            disabled_routes: proxy.disabled_routes.clone(),
            applicable_routes: routes,
        }
    }
}

/// List the routes of a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListProxyRoutes {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ListProxyRoutes {
    const NAME: &'static str = "list_proxy_routes";
    const COMMAND: &'static [&'static str] = &["proxy", "routes", "list"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/routes");
    const SCOPE: Access = Access::User;
    type Output = ProxyRoutes;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyRoutes, Error> {
        let config = control.config().await?;
        let id = self.proxy_hostname.as_str();
        let proxy = Proxy::find(&config, id).ok_or_else(|| super::managed::not_found::<Proxy>(id))?;
        Ok(ProxyRoutes::of(proxy, &config))
    }
}

/// Set which routes apply to a proxy. What is not given stays.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetProxyRoutes {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Which apply: `all`, `selective` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_parser = mode)]
    pub route_mode: Option<RouteMode>,
    /// Those that apply in mode `selective`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub enabled_routes: Option<Vec<RouteId>>,
    /// Those that do not apply in mode `all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',')]
    pub disabled_routes: Option<Vec<RouteId>>,
}

fn mode(text: &str) -> Result<RouteMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected `all`, `selective` or `none`".to_owned())
}

impl Operation for SetProxyRoutes {
    const NAME: &'static str = "set_proxy_routes";
    const COMMAND: &'static [&'static str] = &["proxy", "routes", "update"];
    const HTTP: Endpoint = put("/proxy/targets/{proxy_hostname}/routes");
    const ALIASES: &'static [Endpoint] = &[patch("/proxy/targets/{proxy_hostname}/routes")];
    const SCOPE: Access = Access::Admin;
    type Output = ProxyRoutes;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyRoutes, Error> {
        change(control, ctx, &self.proxy_hostname, |proxy| {
            proxy.route_mode = self.route_mode.unwrap_or(proxy.route_mode);
            if let Some(routes) = &self.enabled_routes {
                proxy.enabled_routes.clone_from(routes);
            }
            if let Some(routes) = &self.disabled_routes {
                proxy.disabled_routes.clone_from(routes);
            }
            Ok(())
        })
        .await
    }
}

/// Let a route apply to a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct EnableProxyRoute {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The route.
    pub route_id: RouteId,
}

impl Operation for EnableProxyRoute {
    const NAME: &'static str = "enable_proxy_route";
    const COMMAND: &'static [&'static str] = &["proxy", "routes", "enable"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/routes/{route_id}/enable");
    const ALIASES: &'static [Endpoint] = &[put("/proxy/targets/{proxy_hostname}/routes/{route_id}/enable")];
    const SCOPE: Access = Access::Admin;
    type Output = ProxyRoutes;

    fn subject(&self) -> Option<String> {
        Some(format!("{} {}", self.proxy_hostname, self.route_id))
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyRoutes, Error> {
        let _: Route = control.get(self.route_id.as_str()).await?;
        toggle(control, ctx, &self.proxy_hostname, &self.route_id, true).await
    }
}

/// Let a route no longer apply to a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DisableProxyRoute {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The route.
    pub route_id: RouteId,
}

impl Operation for DisableProxyRoute {
    const NAME: &'static str = "disable_proxy_route";
    const COMMAND: &'static [&'static str] = &["proxy", "routes", "disable"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/routes/{route_id}/disable");
    const ALIASES: &'static [Endpoint] = &[put("/proxy/targets/{proxy_hostname}/routes/{route_id}/disable")];
    const SCOPE: Access = Access::Admin;
    type Output = ProxyRoutes;

    fn subject(&self) -> Option<String> {
        Some(format!("{} {}", self.proxy_hostname, self.route_id))
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyRoutes, Error> {
        let _: Route = control.get(self.route_id.as_str()).await?;
        toggle(control, ctx, &self.proxy_hostname, &self.route_id, false).await
    }
}

async fn toggle(
    control: &Control,
    ctx: &Context,
    host: &HostPattern,
    route: &RouteId,
    enable: bool,
) -> Result<ProxyRoutes, Error> {
    change(control, ctx, host, |proxy| {
        let (list, listed) = match proxy.route_mode {
            RouteMode::All => (&mut proxy.disabled_routes, !enable),
            RouteMode::Selective => (&mut proxy.enabled_routes, enable),
            RouteMode::None => {
                return Err(Error::Conflict(format!(
                    "no route applies to {host}, because its route_mode is none: set it to all or selective first"
                )));
            }
        };
        list.retain(|other| other != route);
        if listed {
            list.push(route.clone());
        }
        Ok(())
    })
    .await
}

async fn change(
    control: &Control,
    ctx: &Context,
    host: &HostPattern,
    edit: impl Fn(&mut Proxy) -> Result<(), Error> + Send + Sync,
) -> Result<ProxyRoutes, Error> {
    let edit = |mut proxy: Proxy, _: &Config| edit(&mut proxy).map(|()| proxy);
    let proxy = control.edit(ctx, host.as_str(), edit).await?;
    let config = control.config().await?;
    Ok(ProxyRoutes::of(&proxy, &config))
}
