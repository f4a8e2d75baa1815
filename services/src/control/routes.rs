//! Routes: create, list, show, update, enable, disable, delete, explain.

use std::sync::Arc;

use aws_lc_rs::rand;
use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::explain::{Explanation, explain};
use super::operation::{create, delete, get, patch, post, put, word};
use super::proxies::{forget_routes, status};
use super::{Access, Changes, Context, Control, Done, Endpoint, Error, New, Operation, Surface, Table};
use crate::config::auth::RouteAuthType;
use crate::config::names::{MethodName, PathPrefix};
use crate::config::route::{RouteScope, RouteTarget};
use crate::config::{Config, HostPattern, Proxy, Route, RouteId};

/// A route as it was stored.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Written {
    /// The route.
    #[serde(flatten)]
    pub route: Route,
    /// What whoever wrote it may not have meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Written {
    async fn new(control: &Control, route: Route) -> Result<Self, Error> {
        let config = control.config().await?;
        let warnings = around_authentication(&config, &route).into_iter().collect();
        Ok(Self { route, warnings })
    }
}

/// A route to a host leads to that host's upstream under the rules of the host that was asked for: whoever protects
/// the one may not know that the other is a way in.
fn around_authentication(config: &Config, route: &Route) -> Option<String> {
    let Ok(RouteTarget::Host(target)) = route.target() else { return None };
    if !route.enabled || !config.proxies.get(&target)?.auth_enabled {
        return None;
    }
    let own = route.own_auth().map(|auth| auth.auth_type);
    let is_open = |proxy: &&Arc<Proxy>| match own {
        Some(RouteAuthType::Bearer) => false,
        Some(RouteAuthType::None) => true,
        Some(RouteAuthType::Inherit) | None => !proxy.auth_enabled,
    };
    let open: Vec<_> = config.proxies.values().filter(|proxy| proxy.takes(route)).filter(is_open).collect();
    let from = match route.scope {
        // A public host that is made tomorrow has this route, too.
        RouteScope::Global if own != Some(RouteAuthType::Bearer) => {
            "every host that has no authentication".to_owned()
        }
        _ if open.is_empty() => return None,
        _ => open.iter().map(|proxy| proxy.proxy_hostname.as_str()).collect::<Vec<_>>().join(", "),
    };
    Some(format!(
        "{target} is protected, but its authentication is not applied here: by this route {from} reaches its upstream \
         without a token. Set `override_proxy_auth` and an `auth_config` of type `bearer` to ask for one"
    ))
}

/// Adds the operations of routes.
pub fn register(surface: &mut impl Surface) {
    surface.add::<CreateRoute>();
    surface.add::<ListRoutes>();
    surface.add::<ShowRoute>();
    surface.add::<UpdateRoute>();
    surface.add::<EnableRoute>();
    surface.add::<DisableRoute>();
    surface.add::<DeleteRoute>();
    surface.add::<ExplainRoute>();
}

/// Create a route: which requests, and where they go.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct CreateRoute {
    /// The route. Without `route_id` it gets one, made from its pattern.
    #[serde(flatten)]
    #[command(flatten)]
    pub route: New<Route>,
}

impl Operation for CreateRoute {
    const NAME: &'static str = "create_route";
    const COMMAND: &'static [&'static str] = &["route", "create"];
    const HTTP: Endpoint = create("/routes/");
    const SCOPE: Access = Access::Admin;
    type Output = Written;

    fn subject(&self) -> Option<String> {
        let name = self.route.0.get("route_id").or_else(|| self.route.0.get("path_pattern"));
        name.and_then(|name| name.as_str()).map(str::to_owned)
    }

    async fn run(mut self, control: &Control, ctx: &Context) -> Result<Written, Error> {
        let fields = &mut self.route.0;
        if fields.get("route_id").is_none_or(serde_json::Value::is_null) {
            let pattern = fields.get("path_pattern").and_then(|pattern| pattern.as_str()).unwrap_or_default();
            let id = made_up_id(pattern);
            fields.insert("route_id".to_owned(), id.into());
        }
        let route = control.create(ctx, self.route.build()?, Vec::new()).await?;
        Written::new(control, route).await
    }
}

/// A readable id that is not taken: the letters of the pattern and 8 random digits.
fn made_up_id(pattern: &str) -> String {
    let words = pattern.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    slug.truncate(64);
    let mut random = [0; 4];
    rand::fill(&mut random).expect("the system has randomness");
    let random = u32::from_be_bytes(random);
    if slug.is_empty() { format!("root-{random:08x}") } else { format!("{slug}-{random:08x}") }
}

/// List all routes, disabled ones too, in the order in which they are asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListRoutes {
    /// Only those of a scope: `global` or `proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub scope: Option<RouteScope>,
    /// Only those that apply to a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub proxy: Option<HostPattern>,
}

impl Operation for ListRoutes {
    const NAME: &'static str = "list_routes";
    const COMMAND: &'static [&'static str] = &["route", "list"];
    const HTTP: Endpoint = get("/routes/");
    const TABLE: Option<Table<Vec<Route>>> = Some(Table {
        path: "/routes/formatted",
        columns: &["Route", "Path", "Target", "Priority", "Methods", "Scope", "Status"],
        rows: |routes| routes.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = Vec<Route>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Route>, Error> {
        let config = control.config().await?;
        let proxy = match &self.proxy {
            Some(host) => Some(
                config
                    .proxies
                    .get(host)
                    .ok_or_else(|| super::managed::not_found::<crate::config::Proxy>(host.as_str()))?,
            ),
            None => None,
        };
        let wanted = |route: &&Arc<Route>| {
            self.scope.is_none_or(|scope| route.scope == scope)
                && proxy.is_none_or(|proxy| proxy.takes(route))
        };
        let mut routes: Vec<_> =
            config.routes.values().filter(wanted).map(|route| Route::clone(route)).collect();
        routes.sort_by(Route::order);
        Ok(routes)
    }
}

fn row(route: &Route) -> Vec<String> {
    let methods: Vec<_> = route.methods.iter().flatten().map(MethodName::as_str).collect();
    let hosts: Vec<_> = route.proxy_hostnames.iter().map(HostPattern::as_str).collect();
    vec![
        route.route_id.to_string(),
        route.path_pattern.clone(),
        format!("{} {}", word(&route.target_type), word(&route.target_value)),
        route.priority.to_string(),
        if methods.is_empty() { "*".to_owned() } else { methods.join(" ") },
        if hosts.is_empty() { "global".to_owned() } else { hosts.join(" ") },
        status(route.enabled).to_owned(),
    ]
}

/// Show a route.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowRoute {
    /// The route.
    pub route_id: RouteId,
}

impl Operation for ShowRoute {
    const NAME: &'static str = "show_route";
    const COMMAND: &'static [&'static str] = &["route", "show"];
    const HTTP: Endpoint = get("/routes/{route_id}");
    const SCOPE: Access = Access::User;
    type Output = Route;

    async fn run(self, control: &Control, _: &Context) -> Result<Route, Error> {
        control.get(self.route_id.as_str()).await
    }
}

/// Change a route: what is not given stays, `null` brings back the default.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateRoute {
    /// The route.
    pub route_id: RouteId,
    /// What changes.
    #[serde(flatten)]
    #[command(flatten)]
    pub changes: Changes<Route>,
}

impl Operation for UpdateRoute {
    const NAME: &'static str = "update_route";
    const COMMAND: &'static [&'static str] = &["route", "update"];
    const HTTP: Endpoint = put("/routes/{route_id}");
    const ALIASES: &'static [Endpoint] = &[patch("/routes/{route_id}")];
    const SCOPE: Access = Access::Admin;
    type Output = Written;

    fn subject(&self) -> Option<String> {
        Some(self.route_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Written, Error> {
        let route = control.edit(ctx, self.route_id.as_str(), |route, _| self.changes.apply(&route)).await?;
        Written::new(control, route).await
    }
}

/// Let a route be asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct EnableRoute {
    /// The route.
    pub route_id: RouteId,
}

impl Operation for EnableRoute {
    const NAME: &'static str = "enable_route";
    const COMMAND: &'static [&'static str] = &["route", "enable"];
    const HTTP: Endpoint = put("/routes/{route_id}/enable");
    const ALIASES: &'static [Endpoint] = &[post("/routes/{route_id}/enable")];
    const SCOPE: Access = Access::Admin;
    type Output = Written;

    fn subject(&self) -> Option<String> {
        Some(self.route_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Written, Error> {
        let route = set_enabled(control, ctx, &self.route_id, true).await?;
        Written::new(control, route).await
    }
}

/// Let a route be asked no longer.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DisableRoute {
    /// The route.
    pub route_id: RouteId,
}

impl Operation for DisableRoute {
    const NAME: &'static str = "disable_route";
    const COMMAND: &'static [&'static str] = &["route", "disable"];
    const HTTP: Endpoint = put("/routes/{route_id}/disable");
    const ALIASES: &'static [Endpoint] = &[post("/routes/{route_id}/disable")];
    const SCOPE: Access = Access::Admin;
    type Output = Route;

    fn subject(&self) -> Option<String> {
        Some(self.route_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Route, Error> {
        set_enabled(control, ctx, &self.route_id, false).await
    }
}

async fn set_enabled(control: &Control, ctx: &Context, id: &RouteId, enabled: bool) -> Result<Route, Error> {
    control.edit(ctx, id.as_str(), |route: Route, _| Ok(Route { enabled, ..route })).await
}

/// Delete a route. Proxies that name it forget it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteRoute {
    /// The route.
    pub route_id: RouteId,
}

impl Operation for DeleteRoute {
    const NAME: &'static str = "delete_route";
    const COMMAND: &'static [&'static str] = &["route", "delete"];
    const HTTP: Endpoint = delete("/routes/{route_id}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.route_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let forget = |route: &Route, config: &Config| {
            Ok(forget_routes(config, std::slice::from_ref(&route.route_id), None))
        };
        let route: Route = control.delete(ctx, self.route_id.as_str(), forget).await?;
        Ok(Done::new("deleted", &route.route_id))
    }
}

/// Explain what becomes of a request: which route, which checks, which upstream, and why.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ExplainRoute {
    /// The host that is asked for.
    pub host: portcullis_layers::HostName,
    /// The path.
    pub path: PathPrefix,
    /// The method.
    #[serde(default = "get_method")]
    #[arg(default_value = "GET")]
    pub method: MethodName,
    /// Request headers, `name: value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long = "header", short = 'H')]
    pub headers: Vec<String>,
}

fn get_method() -> MethodName {
    "GET".parse().expect("a method")
}

impl Operation for ExplainRoute {
    const NAME: &'static str = "explain_route";
    const COMMAND: &'static [&'static str] = &["route", "explain"];
    const HTTP: Endpoint = get("/routes/explain");
    const ALIASES: &'static [Endpoint] = &[post("/routes/explain")];
    const SCOPE: Access = Access::User;
    type Output = Explanation;

    async fn run(self, control: &Control, _: &Context) -> Result<Explanation, Error> {
        let config = control.config().await?;
        explain(&config, control.issuer(), &self.host, self.path.as_str(), &self.method, &self.headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_ids_are_ids() {
        for pattern in ["/", "/api/v1", "^/x(y|z)+$", "/ü", &"/a".repeat(500)] {
            let id = made_up_id(pattern);
            assert!(id.parse::<RouteId>().is_ok(), "{id}");
        }
    }
}
