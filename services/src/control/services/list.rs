//! Services as they are listed and shown: what is wanted and how it goes.

use std::collections::BTreeMap;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::{Service, ServiceName};
use crate::control::operation::{get, word};
use crate::control::{Access, Context, Control, Endpoint, Operation, Table};
use crate::docker::Known;

/// A service, and how it goes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ServiceInfo {
    /// The service.
    #[serde(flatten)]
    pub service: Service,
    /// How it goes.
    pub state: Known,
}

/// Where a service comes from.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum ServiceType {
    // Without a text each: all pages of tools have a size.
    #[default]
    All,
    Docker,
    External,
}

/// A service in a list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Listed {
    /// Its name.
    pub name: ServiceName,
    /// Where it comes from.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// How it goes.
    pub status: String,
    /// Its image, its container or its URL.
    pub target: String,
    /// Of ready containers.
    pub addresses: Vec<String>,
    /// The node that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What it is for.
    pub description: String,
    /// Who created it.
    #[serde(skip)]
    pub created_by: Option<String>,
}

/// The services.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ServiceList {
    /// By name.
    pub services: Vec<Listed>,
    /// How many.
    pub total: usize,
    /// How many of each type.
    pub by_type: BTreeMap<ServiceType, usize>,
}

/// List the services that hosts and routes can name.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListServices {
    /// Only this type.
    #[serde(default, rename = "type", alias = "service_type")]
    #[arg(long = "type", value_enum, default_value_t)]
    pub kind: ServiceType,
    /// Only the caller's own.
    #[serde(default)]
    #[arg(long)]
    pub owned_only: bool,
}

impl Operation for ListServices {
    const NAME: &'static str = "list_services";
    const COMMAND: &'static [&'static str] = &["service", "list"];
    const HTTP: Endpoint = get("/services/");
    const ALIASES: &'static [Endpoint] = &[get("/services/unified")];
    const TABLE: Option<Table<ServiceList>> = Some(Table {
        path: "/services/formatted",
        columns: &["Name", "Type", "Status", "Target", "Node", "Description"],
        rows: |list| list.services.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = ServiceList;

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceList, Error> {
        let config = control.config().await?;
        let mut services = Vec::new();
        if self.kind != ServiceType::External {
            services.extend(config.services.values().map(|service| docker(control, ctx, service)));
        }
        if self.kind != ServiceType::Docker {
            services.extend(config.externals.values().map(|service| Listed {
                name: service.service_name.clone(),
                kind: ServiceType::External,
                status: if service.routing_enabled { "registered" } else { "closed" }.to_owned(),
                target: service.target_url.to_string(),
                addresses: Vec::new(),
                node: None,
                last_error: None,
                description: service.description.clone(),
                created_by: service.created_by.clone(),
            }));
        }
        let caller = ctx.caller.name();
        services.retain(|one| !self.owned_only || one.created_by.as_deref() == caller.as_deref());
        services.sort_by(|one, other| one.name.cmp(&other.name));
        let mut by_type = BTreeMap::new();
        for one in &services {
            *by_type.entry(one.kind).or_default() += 1;
        }
        Ok(ServiceList { total: services.len(), services, by_type })
    }
}

fn docker(control: &Control, ctx: &Context, service: &Service) -> Listed {
    let known = known(control, ctx, service);
    Listed {
        name: service.service_name.clone(),
        kind: ServiceType::Docker,
        status: word(&known.status),
        target: service.runs(),
        addresses: known.addresses.iter().map(ToString::to_string).collect(),
        node: service.node.as_ref().map(ToString::to_string),
        last_error: known.last_error,
        description: service.description.clone(),
        created_by: service.created_by.clone(),
    }
}

/// What this node knows of a service. What its programs and its build have said is for admins.
fn known(control: &Control, ctx: &Context, service: &Service) -> Known {
    let board = control.docker.as_ref().and_then(|docker| docker.board().of(&service.service_name));
    let mut known = board.map(|known| Known::clone(&known)).unwrap_or_default();
    if !ctx.caller.may(Access::Admin) {
        known.last_error = known.last_error.map(|_| "admins are shown what went wrong".to_owned());
        known.containers.iter_mut().for_each(|one| one.health_output = None);
    }
    known
}

fn row(one: &Listed) -> Vec<String> {
    vec![
        one.name.to_string(),
        word(&one.kind),
        one.status.clone(),
        one.target.clone(),
        one.node.clone().unwrap_or_default(),
        one.description.clone(),
    ]
}

/// Show a Docker service: what is wanted, and how it goes with its containers.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowService {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for ShowService {
    const NAME: &'static str = "show_service";
    const COMMAND: &'static [&'static str] = &["service", "show"];
    const HTTP: Endpoint = get("/services/{service_name}");
    const SCOPE: Access = Access::User;
    type Output = ServiceInfo;

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        let mut service: Service = control.get(self.service_name.as_str()).await?;
        if !ctx.caller.may(Access::Admin) {
            // What programs are told may be meant for them alone.
            let hide = |value: &mut String| "(admins are shown this)".clone_into(value);
            service.environment.values_mut().chain(service.build_args.values_mut()).for_each(hide);
            service.command.iter_mut().for_each(hide);
        }
        let state = known(control, ctx, &service);
        Ok(ServiceInfo { service, state })
    }
}
