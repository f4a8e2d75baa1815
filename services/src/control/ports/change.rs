//! Changing and releasing a port.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PortInfo, check_token, find, in_turn, is_given, refused, reveal, secrets, service_of};
use crate::config::port::{BindAddress, Port, PortProtocol};
use crate::config::{Config, Entity, FieldError, Network, PortName, ServiceName};
use crate::control::managed::{checks, put, remove};
use crate::control::operation::{delete, patch, put as put_at};
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation, Secret};
use crate::docker::ports::try_bind;
use crate::store::Expect;
use crate::vault::Vault;

/// Change a published port: what is not given stays.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct UpdatePort {
    /// The service.
    pub service_name: ServiceName,
    /// The port's name.
    pub port_name: PortName,
    /// Another port of the machine.
    #[serde(default, alias = "host", skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub host_port: Option<u16>,
    /// Another port of the containers.
    #[serde(default, alias = "container", skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub container_port: Option<u16>,
    /// Another address of the machine.
    #[serde(default, alias = "bind", skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub bind_address: Option<BindAddress>,
    /// What is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_enum)]
    pub protocol: Option<PortProtocol>,
    /// The networks that may connect, in place of those before; an empty list: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_delimiter = ',', num_args = 0..)]
    pub source_networks: Option<Vec<Network>>,
    /// Another token that requests have to bring.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "reveal")]
    #[arg(long, value_name = "TOKEN|@FILE", value_parser = Secret::from_argument)]
    pub source_token: Option<Secret>,
    /// From now on no token is needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long, conflicts_with = "source_token")]
    pub no_source_token: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub description: Option<String>,
}

impl Operation for UpdatePort {
    const NAME: &'static str = "update_port";
    const COMMAND: &'static [&'static str] = &["port", "update"];
    const HTTP: Endpoint = put_at("/services/{service_name}/ports/{port_name}");
    const ALIASES: &'static [Endpoint] = &[patch("/services/{service_name}/ports/{port_name}")];
    const SCOPE: Access = Access::Admin;
    type Output = PortInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<PortInfo, Error> {
        if let Some(token) = &self.source_token {
            check_token(token)?;
            if self.no_source_token {
                let detail = "expected either this or `source_token`";
                return Err(Error::invalid(FieldError::bare("no_source_token", detail)));
            }
        }
        in_turn(control, async |fence| {
            let config = control.config_now().await?;
            service_of(&config, &self.service_name)?;
            let before = find(&config, &self.service_name, &self.port_name)?;
            let mut port = self.apply(before);
            let problems = port.problems();
            if !problems.is_empty() {
                return Err(Error::Invalid(problems));
            }
            let mut writes = vec![fence];
            let moves = port.id() != before.id();
            if moves {
                self.check_free(control, &config, &port)?;
            } else if port.bind_address != before.bind_address {
                self.check_address(control, &config, &port)?;
            }
            port.updated_at = Some(Timestamp::now());
            if moves {
                writes.extend([remove(before), put(&port, Expect::Absent)]);
            } else {
                writes.push(put(&port, Expect::Version(before.config_version)));
            }
            writes.extend(checks(control.examine(&port, &config)?));
            if let Some(token) = &self.source_token {
                let sealed = control.vault.put(&port.secret_id(), token.expose().as_bytes(), Expect::Any);
                writes.push(sealed.map_err(Error::internal)?);
            } else if before.require_token && !port.require_token {
                writes.push(Vault::delete(&port.secret_id(), Expect::Any));
            }
            control.commit(writes).await?;
            port.config_version = if moves { 1 } else { before.config_version + 1 };
            Ok(control.port_info(&config, port))
        })
        .await
    }
}

impl UpdatePort {
    fn apply(&self, before: &Port) -> Port {
        let mut port = before.clone();
        port.host_port = self.host_port.unwrap_or(port.host_port);
        port.container_port = self.container_port.unwrap_or(port.container_port);
        port.bind_address = self.bind_address.unwrap_or(port.bind_address);
        port.protocol = self.protocol.unwrap_or(port.protocol);
        if let Some(networks) = &self.source_networks {
            port.source_networks.clone_from(networks);
        }
        port.require_token = !self.no_source_token && (port.require_token || self.source_token.is_some());
        if let Some(description) = &self.description {
            port.description.clone_from(description);
        }
        port
    }

    fn check_free(&self, control: &Control, config: &Config, port: &Port) -> Result<(), Error> {
        let (protocol, number) = (port.protocol, port.host_port);
        if let Some(given) = config.ports.get(&port.id()) {
            return Err(is_given(given));
        }
        control.ask_there(config, &self.service_name)?;
        if !control.has_service(config, &self.service_name) {
            return Ok(());
        }
        try_bind(port.bind_address.0, number, protocol).map_err(|error| {
            Error::Conflict(format!("{protocol} port {number} of {}: {}", port.bind_address, refused(&error)))
        })
    }

    /// Whether the machine has another address; our own listener has the port.
    fn check_address(&self, control: &Control, config: &Config, port: &Port) -> Result<(), Error> {
        control.ask_there(config, &self.service_name)?;
        if !control.has_service(config, &self.service_name) {
            return Ok(());
        }
        try_bind(port.bind_address.0, 0, port.protocol).map_err(|error| {
            let detail = refused(&error);
            Error::invalid(FieldError::new("bind_address", port.bind_address.to_string(), detail))
        })
    }
}

/// Release a published port of a service.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RemovePort {
    /// The service.
    pub service_name: ServiceName,
    /// The port's name.
    pub port_name: PortName,
}

impl Operation for RemovePort {
    const NAME: &'static str = "remove_port";
    const COMMAND: &'static [&'static str] = &["port", "remove"];
    const HTTP: Endpoint = delete("/services/{service_name}/ports/{port_name}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let config = control.config_now().await?;
        let id = find(&config, &self.service_name, &self.port_name)?.id();
        let port: Port = control.delete(ctx, &id, |port: &Port, _| Ok(secrets(port).collect())).await?;
        Ok(Done::new("deleted", format!("{}/{}", port.service_name, port.port_name)))
    }
}
