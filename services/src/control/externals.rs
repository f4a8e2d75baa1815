//! External services: upstreams that are registered by name.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{create, delete, get, patch, put};
use super::proxies::status;
use super::{Access, Changes, Context, Control, Done, Endpoint, Error, New, Operation, Surface, Table};
use crate::config::{Config, External, ServiceName};
use crate::store::{Expect, Key, Kind, Write};

/// Adds the operations of external services.
pub fn register(surface: &mut impl Surface) {
    surface.add::<RegisterExternal>();
    surface.add::<ListExternals>();
    surface.add::<ShowExternal>();
    surface.add::<UpdateExternal>();
    surface.add::<UnregisterExternal>();
}

/// Register an upstream by name, so that routes can name it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct RegisterExternal {
    /// The service.
    #[serde(flatten)]
    #[command(flatten)]
    pub service: New<External>,
}

impl Operation for RegisterExternal {
    const NAME: &'static str = "register_external_service";
    const COMMAND: &'static [&'static str] = &["service", "external", "register"];
    const HTTP: Endpoint = create("/services/external");
    const ALIASES: &'static [Endpoint] = &[create("/instances/")];
    const SCOPE: Access = Access::Admin;
    type Output = External;

    fn subject(&self) -> Option<String> {
        let name = self.service.0.get("service_name").or_else(|| self.service.0.get("name"));
        name.and_then(|name| name.as_str()).map(str::to_owned)
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<External, Error> {
        let service: External = self.service.build()?;
        // Both kinds of services share their names.
        let other = Key::new(Kind::Service, service.service_name.as_str());
        control.create(ctx, service, vec![Write::Check { key: other, expect: Expect::Absent }]).await
    }
}

/// List the upstreams that are registered by name.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListExternals {}

impl Operation for ListExternals {
    const NAME: &'static str = "list_external_services";
    const COMMAND: &'static [&'static str] = &["service", "external", "list"];
    const HTTP: Endpoint = get("/services/external");
    const ALIASES: &'static [Endpoint] = &[get("/instances/")];
    const TABLE: Option<Table<Vec<External>>> = Some(Table {
        path: "/services/external/formatted",
        columns: &["Name", "Target URL", "Routing", "Description"],
        rows: |services| services.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = Vec<External>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<External>, Error> {
        control.list().await
    }
}

fn row(service: &External) -> Vec<String> {
    vec![
        service.service_name.to_string(),
        urls(service),
        status(service.routing_enabled).to_owned(),
        service.description.clone(),
    ]
}

/// All its upstreams, with the weights that say something.
fn urls(service: &External) -> String {
    let upstreams = service.balanced().upstreams();
    let text = upstreams.iter().map(|one| match one.weight {
        1 => one.url.to_string(),
        weight => format!("{} ({weight})", one.url),
    });
    text.collect::<Vec<_>>().join(", ")
}

/// Show an upstream that is registered by name.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowExternal {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for ShowExternal {
    const NAME: &'static str = "show_external_service";
    const COMMAND: &'static [&'static str] = &["service", "external", "show"];
    const HTTP: Endpoint = get("/services/external/{service_name}");
    const ALIASES: &'static [Endpoint] = &[get("/instances/{service_name}")];
    const SCOPE: Access = Access::User;
    type Output = External;

    async fn run(self, control: &Control, _: &Context) -> Result<External, Error> {
        control.get(self.service_name.as_str()).await
    }
}

/// Change an upstream that is registered by name: what is not given stays.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateExternal {
    /// Its name.
    pub service_name: ServiceName,
    /// What changes.
    #[serde(flatten)]
    #[command(flatten)]
    pub changes: Changes<External>,
}

impl Operation for UpdateExternal {
    const NAME: &'static str = "update_external_service";
    const COMMAND: &'static [&'static str] = &["service", "external", "update"];
    const HTTP: Endpoint = put("/services/external/{service_name}");
    const ALIASES: &'static [Endpoint] = &[
        patch("/services/external/{service_name}"),
        put("/instances/{service_name}"),
        patch("/instances/{service_name}"),
    ];
    const SCOPE: Access = Access::Admin;
    type Output = External;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<External, Error> {
        let change = |service: External, config: &Config| {
            let next = self.changes.apply(&service)?;
            if service.routing_enabled && !next.routing_enabled {
                forbid_while_used(&service, config)?;
            }
            Ok(next)
        };
        control.edit(ctx, self.service_name.as_str(), change).await
    }
}

/// Forget an upstream that is registered by name. Refused while a route names it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct UnregisterExternal {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for UnregisterExternal {
    const NAME: &'static str = "unregister_external_service";
    const COMMAND: &'static [&'static str] = &["service", "external", "unregister"];
    const HTTP: Endpoint = delete("/services/external/{service_name}");
    const ALIASES: &'static [Endpoint] = &[delete("/instances/{service_name}")];
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let unused =
            |service: &External, config: &Config| forbid_while_used(service, config).map(|()| Vec::new());
        let service: External = control.delete(ctx, self.service_name.as_str(), unused).await?;
        Ok(Done::new("deleted", &service.service_name))
    }
}

fn forbid_while_used(service: &External, config: &Config) -> Result<(), Error> {
    let name = &service.service_name;
    let users: Vec<_> = config.users_of(name).iter().map(ToString::to_string).collect();
    if users.is_empty() {
        return Ok(());
    }
    let users = users.join(", ");
    Err(Error::Conflict(format!("the service {name} is the target of {users}: delete or change them first")))
}
