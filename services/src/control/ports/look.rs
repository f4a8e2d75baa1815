//! What ports there are, which are free, and how they do.

use std::net::IpAddr;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PortInfo, refused, service_of};
use crate::config::ServiceName;
use crate::config::port::{BindAddress, Port, PortProtocol, forbidden};
use crate::control::operation::{get, post, word};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Table};
use crate::docker::ports::{FreeRange, ranges, taken, try_bind};

/// List the published ports of all services.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListPorts {}

impl Operation for ListPorts {
    const NAME: &'static str = "list_ports";
    const COMMAND: &'static [&'static str] = &["service", "ports"];
    const HTTP: Endpoint = get("/services/ports");
    const ALIASES: &'static [Endpoint] = &[get("/ports/")];
    const TABLE: Option<Table<Vec<PortInfo>>> = Some(Table {
        path: "/services/ports/formatted",
        columns: &["Service", "Port", "Address", "Container", "Protocol", "Status"],
        rows: |ports| columns(ports),
    });
    const SCOPE: Access = Access::User;
    type Output = Vec<PortInfo>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<PortInfo>, Error> {
        let config = control.config().await?;
        Ok(control.port_infos(&config, |_| true))
    }
}

/// List the ports that can still be published, those side by side together.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListFreePorts {
    /// Of this protocol.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub protocol: PortProtocol,
}

impl Operation for ListFreePorts {
    const NAME: &'static str = "list_free_ports";
    const COMMAND: &'static [&'static str] = &["port", "available"];
    const HTTP: Endpoint = get("/services/ports/available");
    const ALIASES: &'static [Endpoint] = &[get("/ports/available")];
    const SCOPE: Access = Access::User;
    type Output = Vec<FreeRange>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<FreeRange>, Error> {
        Ok(ranges(&taken(&*control.config().await?, self.protocol)))
    }
}

/// Check whether a port could be published on this node's machine.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CheckPort {
    /// The port.
    pub port: u16,
    /// The address that it would be bound to.
    #[serde(default = "everywhere")]
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: BindAddress,
    /// What would be spoken.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub protocol: PortProtocol,
}

fn everywhere() -> BindAddress {
    BindAddress(IpAddr::from([0, 0, 0, 0]))
}

/// Whether a port could be published.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PortCheck {
    /// The port.
    pub port: u16,
    /// The address.
    pub bind_address: BindAddress,
    /// What would be spoken.
    pub protocol: PortProtocol,
    /// Whether it could.
    pub available: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Operation for CheckPort {
    const NAME: &'static str = "check_port";
    const COMMAND: &'static [&'static str] = &["port", "check"];
    const HTTP: Endpoint = post("/services/ports/check");
    const ALIASES: &'static [Endpoint] = &[post("/ports/check")];
    const SCOPE: Access = Access::User;
    type Output = PortCheck;

    async fn run(self, control: &Control, _: &Context) -> Result<PortCheck, Error> {
        let Self { port, bind_address, protocol } = self;
        let config = control.config().await?;
        let given = config.ports.get(&Port::id_of(protocol, port));
        let reason = match (forbidden(port), given) {
            (Some(why), _) => Some(why.to_owned()),
            (None, Some(given)) => Some(format!("is the port {} of {}", given.port_name, given.service_name)),
            (None, None) => try_bind(bind_address.0, port, protocol).err().map(|error| refused(&error)),
        };
        Ok(PortCheck { port, bind_address, protocol, available: reason.is_none(), reason })
    }
}

/// List the published ports of a service.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListServicePorts {
    /// The service.
    pub service_name: ServiceName,
}

impl Operation for ListServicePorts {
    const NAME: &'static str = "list_service_ports";
    const COMMAND: &'static [&'static str] = &["port", "list"];
    const HTTP: Endpoint = get("/services/{service_name}/ports");
    const SCOPE: Access = Access::User;
    type Output = Vec<PortInfo>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<PortInfo>, Error> {
        let config = control.config().await?;
        service_of(&config, &self.service_name)?;
        Ok(control.port_infos(&config, |port| port.service_name == self.service_name))
    }
}

fn columns(ports: &[PortInfo]) -> Vec<Vec<String>> {
    let row = |PortInfo { port, state }: &PortInfo| {
        vec![
            port.service_name.to_string(),
            port.port_name.to_string(),
            format!("{}:{}", port.bind_address, port.host_port),
            port.container_port.to_string(),
            word(&port.protocol),
            state.status.to_owned(),
        ]
    };
    ports.iter().map(row).collect()
}
