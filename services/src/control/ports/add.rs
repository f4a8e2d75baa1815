//! Giving a port away.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PortInfo, check_token, find, in_turn, is_given, refused, reveal, service_of};
use crate::config::port::{BindAddress, Port, PortProtocol, forbidden};
use crate::config::{Config, Entity, FieldError, Network, PortName, ServiceName};
use crate::control::managed::{put, sign};
use crate::control::operation::create;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Secret};
use crate::docker::ports::{free, taken, try_bind};
use crate::store::{Expect, Write};

/// Publish a port of a Docker service: a listener of our own on its node, in front of its containers.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct AddPort {
    /// The service.
    pub service_name: ServiceName,
    /// The port of the machine: 14000 to 65535. Default: the lowest one that is free.
    #[serde(default, alias = "host", skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Its name among the ports of the service. Default: protocol and number, e.g. `tcp-14000`.
    #[serde(default, alias = "name", skip_serializing_if = "Option::is_none")]
    #[arg(long, visible_alias = "name")]
    pub port_name: Option<PortName>,
    /// The port that the containers listen on. Default: the one that hosts send requests to.
    #[serde(default, alias = "container", skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub container_port: Option<u16>,
    /// The address of the machine that it is bound to; `0.0.0.0` is all of them.
    #[serde(default, alias = "bind")]
    #[arg(long, default_value_t)]
    pub bind_address: BindAddress,
    /// What is spoken.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub protocol: PortProtocol,
    /// The networks that may connect. Default: all that can reach the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',')]
    pub source_networks: Vec<Network>,
    /// A token that requests have to bring in `X-Source-Token`: 16 to 512 visible characters; itself, or `@file` or `@-`
    /// on a command line. The port speaks HTTP only, then.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "reveal")]
    #[arg(long, value_name = "TOKEN|@FILE", value_parser = Secret::from_argument)]
    pub source_token: Option<Secret>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[arg(long, default_value_t)]
    pub description: String,
}

impl Operation for AddPort {
    const NAME: &'static str = "add_port";
    const COMMAND: &'static [&'static str] = &["port", "add"];
    const HTTP: Endpoint = create("/services/{service_name}/ports");
    const SCOPE: Access = Access::Admin;
    type Output = PortInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<PortInfo, Error> {
        if let Some(token) = &self.source_token {
            check_token(token)?;
        }
        in_turn(control, async |fence| {
            let config = control.config_now().await?;
            let mut port = self.place(control, &config)?;
            sign(&mut port, ctx);
            let mut writes = vec![fence, put(&port, Expect::Absent)];
            control.examine(&port, &config)?;
            // Not one that begins to go at the same moment.
            let service = service_of(&config, &self.service_name)?;
            let unchanged = Expect::Version(service.config_version);
            writes.push(Write::Check { key: service.key(), expect: unchanged });
            if let Some(token) = &self.source_token {
                let sealed = control.vault.put(&port.secret_id(), token.expose().as_bytes(), Expect::Any);
                writes.push(sealed.map_err(Error::internal)?);
            }
            control.commit(writes).await?;
            port.config_version = 1;
            Ok(control.port_info(&config, port))
        })
        .await
    }
}

impl AddPort {
    /// The port as it will be.
    fn place(&self, control: &Control, config: &Config) -> Result<Port, Error> {
        let service = service_of(config, &self.service_name)?;
        control.ask_there(config, &self.service_name)?;
        let is_here = control.has_service(config, &self.service_name);
        let (address, protocol) = (self.bind_address.0, self.protocol);
        let taken = taken(config, protocol);
        let bound = |port| if is_here { try_bind(address, port, protocol) } else { Ok(()) };
        let host_port = match self.host_port {
            Some(port) => {
                if let Some(given) = config.ports.get(&Port::id_of(protocol, port)) {
                    return Err(is_given(given));
                }
                if forbidden(port).is_none() {
                    bound(port).map_err(|error| {
                        Error::Conflict(format!("{protocol} port {port} of {address}: {}", refused(&error)))
                    })?;
                }
                port
            }
            None => {
                // An address that is not here is no matter of the port.
                let port = free(&taken).find_map(|port| match bound(port) {
                    Ok(()) => Some(Ok(port)),
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
                    Err(error) => Some(Err(error)),
                });
                let none = || Error::Conflict("no port is free: remove one first".to_owned());
                port.ok_or_else(none)?.map_err(|error| {
                    let detail = refused(&error);
                    Error::invalid(FieldError::new("bind_address", address.to_string(), detail))
                })?
            }
        };
        let name = match &self.port_name {
            Some(name) => name.clone(),
            None => Port::id_of(protocol, host_port).parse().map_err(Error::internal)?,
        };
        if find(config, &self.service_name, &name).is_ok() {
            return Err(Error::Conflict(format!(
                "{} has a port {name} already: update it, or choose another name",
                self.service_name
            )));
        }
        let port = Port {
            service_name: self.service_name.clone(),
            port_name: name,
            host_port,
            container_port: self.container_port.unwrap_or_else(|| control.listens_on(service)),
            bind_address: self.bind_address,
            protocol,
            source_networks: self.source_networks.clone(),
            require_token: self.source_token.is_some(),
            description: self.description.clone(),
            created_by: None,
            created_at: None,
            updated_at: None,
            config_version: 0,
        };
        let problems = port.problems();
        if problems.is_empty() { Ok(port) } else { Err(Error::Invalid(problems)) }
    }
}
