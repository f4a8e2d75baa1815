//! The registry of protected resources.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{create, delete, get, patch, put};
use super::{Access, Changes, Context, Control, Done, Endpoint, Error, New, Operation, Surface, Table};
use crate::config::{Resource, ResourceUri, Scope};

/// Adds the operations of the registry of resources.
pub fn register(surface: &mut impl Surface) {
    surface.add::<RegisterResource>();
    surface.add::<ListResources>();
    surface.add::<ShowResource>();
    surface.add::<UpdateResource>();
    surface.add::<DeleteResource>();
}

/// Register a protected resource: a URI that tokens can be asked for.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct RegisterResource {
    /// The resource.
    #[serde(flatten)]
    #[command(flatten)]
    pub resource: New<Resource>,
}

impl Operation for RegisterResource {
    const NAME: &'static str = "register_resource";
    const COMMAND: &'static [&'static str] = &["resource", "register"];
    const HTTP: Endpoint = create("/resources/");
    const SCOPE: Access = Access::Admin;
    type Output = Resource;

    fn subject(&self) -> Option<String> {
        self.resource.0.get("uri").and_then(|uri| uri.as_str()).map(str::to_owned)
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Resource, Error> {
        control.create(ctx, self.resource.build()?, Vec::new()).await
    }
}

/// All protected resources.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Resources {
    /// The resources.
    pub resources: Vec<Resource>,
    /// How many there are.
    pub total: usize,
}

/// List the protected resources.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListResources {}

impl Operation for ListResources {
    const NAME: &'static str = "list_resources";
    const COMMAND: &'static [&'static str] = &["resource", "list"];
    const HTTP: Endpoint = get("/resources/");
    const TABLE: Option<Table<Resources>> = Some(Table {
        path: "/resources/formatted",
        columns: &["URI", "Name", "Proxy", "Scopes"],
        rows: |all| all.resources.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = Resources;

    async fn run(self, control: &Control, _: &Context) -> Result<Resources, Error> {
        let resources: Vec<Resource> = control.list().await?;
        Ok(Resources { total: resources.len(), resources })
    }
}

fn row(resource: &Resource) -> Vec<String> {
    let scopes: Vec<_> = resource.scopes.iter().map(Scope::as_str).collect();
    vec![resource.uri.to_string(), resource.name.clone(), resource.proxy_target.to_string(), scopes.join(" ")]
}

/// Show a protected resource.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowResource {
    /// Its URI; `https://` is added when it has no scheme. In a path its slashes stand as they are:
    /// `/resources/app.example.com/mcp`.
    pub uri: ResourceUri,
}

impl Operation for ShowResource {
    const NAME: &'static str = "show_resource";
    const COMMAND: &'static [&'static str] = &["resource", "show"];
    const HTTP: Endpoint = get("/resources/{*uri}");
    const SCOPE: Access = Access::User;
    type Output = Resource;

    async fn run(self, control: &Control, _: &Context) -> Result<Resource, Error> {
        control.get(self.uri.as_str()).await
    }
}

/// Change a protected resource: what is not given stays. Its URI can't be changed.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateResource {
    /// Its URI.
    pub uri: ResourceUri,
    /// What changes.
    #[serde(flatten)]
    #[command(flatten)]
    pub changes: Changes<Resource>,
}

impl Operation for UpdateResource {
    const NAME: &'static str = "update_resource";
    const COMMAND: &'static [&'static str] = &["resource", "update"];
    const HTTP: Endpoint = put("/resources/{*uri}");
    const ALIASES: &'static [Endpoint] = &[patch("/resources/{*uri}")];
    const SCOPE: Access = Access::Admin;
    type Output = Resource;

    fn subject(&self) -> Option<String> {
        Some(self.uri.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Resource, Error> {
        control.edit(ctx, self.uri.as_str(), |resource, _| self.changes.apply(&resource)).await
    }
}

/// Delete a protected resource from the registry.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteResource {
    /// Its URI.
    pub uri: ResourceUri,
}

impl Operation for DeleteResource {
    const NAME: &'static str = "delete_resource";
    const COMMAND: &'static [&'static str] = &["resource", "delete"];
    const HTTP: Endpoint = delete("/resources/{*uri}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.uri.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let resource: Resource = control.delete(ctx, self.uri.as_str(), |_, _| Ok(Vec::new())).await?;
        Ok(Done::new("deleted", &resource.uri))
    }
}
