//! A route's own rules of authentication, as a part of its own.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::Form;
use super::operation::{delete, get, put};
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::config::auth::RouteAuth;
use crate::config::{Route, RouteId};

/// Adds the operations of routes' rules of authentication.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ShowRouteAuth>();
    surface.add::<SetRouteAuth>();
    surface.add::<ClearRouteAuth>();
}

/// The rules of a route.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Rules {
    /// The route.
    pub route_id: RouteId,
    /// Whether they stand in place of the host's.
    pub override_proxy_auth: bool,
    /// The rules.
    pub auth_config: Option<RouteAuth>,
}

impl From<Route> for Rules {
    fn from(route: Route) -> Self {
        Self {
            route_id: route.route_id,
            override_proxy_auth: route.override_proxy_auth,
            auth_config: route.auth_config,
        }
    }
}

/// Show a route's own rules of authentication.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowRouteAuth {
    /// The route.
    pub route_id: RouteId,
}

impl Operation for ShowRouteAuth {
    const NAME: &'static str = "show_route_auth";
    const COMMAND: &'static [&'static str] = &["route", "auth", "show"];
    const HTTP: Endpoint = get("/routes/{route_id}/auth");
    const SCOPE: Access = Access::User;
    type Output = Rules;

    async fn run(self, control: &Control, _: &Context) -> Result<Rules, Error> {
        Ok(control.get::<Route>(self.route_id.as_str()).await?.into())
    }
}

/// Set a route's own rules of authentication: they stand in place of the host's, and of those that the route had.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct SetRouteAuth {
    /// The route.
    pub route_id: RouteId,
    /// The rules.
    #[serde(flatten)]
    #[command(flatten)]
    pub rules: Form<RouteAuth>,
}

impl Operation for SetRouteAuth {
    const NAME: &'static str = "set_route_auth";
    const COMMAND: &'static [&'static str] = &["route", "auth", "set"];
    const HTTP: Endpoint = put("/routes/{route_id}/auth");
    const SCOPE: Access = Access::Admin;
    type Output = Rules;

    fn subject(&self) -> Option<String> {
        Some(self.route_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Rules, Error> {
        let rules = self.rules.read()?;
        let change = |route: Route, _: &_| {
            Ok(Route { auth_config: Some(rules.clone()), override_proxy_auth: true, ..route })
        };
        Ok(control.edit(ctx, self.route_id.as_str(), change).await?.into())
    }
}

/// Clear a route's own rules of authentication: those of the host hold again.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearRouteAuth {
    /// The route.
    pub route_id: RouteId,
}

impl Operation for ClearRouteAuth {
    const NAME: &'static str = "clear_route_auth";
    const COMMAND: &'static [&'static str] = &["route", "auth", "clear"];
    const HTTP: Endpoint = delete("/routes/{route_id}/auth");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.route_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let change =
            |route: Route, _: &_| Ok(Route { auth_config: None, override_proxy_auth: false, ..route });
        let route = control.edit(ctx, self.route_id.as_str(), change).await?;
        Ok(Done::new("cleared", &route.route_id))
    }
}
