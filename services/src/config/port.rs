//! A published port: a listener of our own on the node of a Docker service, in front of its containers.
//!
//! Its document is named by protocol and number, so that no two nodes can give the same one away.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Network;
use super::field::FieldError;
use super::names::{Expected, PortName, ServiceName, parsed};
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// The ports that may be published.
pub const RANGE: RangeInclusive<u16> = 14_000..=65_535;

/// Ports of well-known servers, which nobody should find something else behind.
pub const RESTRICTED: [u16; 9] = [22, 25, 53, 80, 443, 3306, 5432, 6379, 27017];

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The service that it leads to.
    pub service_name: ServiceName,
    /// Its name among the ports of the service.
    pub port_name: PortName,
    /// The port of the machine: 14000 to 65535.
    #[schemars(range(min = 14_000, max = 65_535))]
    pub host_port: u16,
    /// The port that the containers listen on.
    #[schemars(range(min = 1))]
    pub container_port: u16,
    /// The address of the machine that it is bound to; `0.0.0.0` is all of them.
    #[serde(default)]
    pub bind_address: BindAddress,
    /// What is spoken.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The networks that may connect. Default: those that can reach the address.
    #[serde(default)]
    pub source_networks: Vec<Network>,
    /// Whether requests have to bring the port's token in `X-Source-Token`. Then the port speaks HTTP only.
    #[serde(default)]
    pub require_token: bool,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

impl Port {
    /// The name of the document of a port.
    pub fn id_of(protocol: PortProtocol, host_port: u16) -> String {
        format!("{protocol}-{host_port}")
    }

    /// The name of its sealed token.
    pub fn secret_id(&self) -> String {
        format!("port-token:{}/{}", self.service_name, self.port_name)
    }
}

/// Why a port may not be published.
pub fn forbidden(port: u16) -> Option<&'static str> {
    if RESTRICTED.contains(&port) {
        Some("is the port of a well-known server: expected another one")
    } else if !RANGE.contains(&port) {
        Some("expected 14000 to 65535")
    } else {
        None
    }
}

impl Entity for Port {
    const KIND: Kind = Kind::Port;
    const NOUN: &'static str = "port";
    const ID: &'static str = "host_port";
    const REQUIRED: &'static [&'static str] = &["service_name", "port_name", "host_port", "container_port"];
    const GENERATED: &'static [&'static str] = &["port_name", "host_port", "container_port"];
    const ELSEWHERE: &'static [(&'static str, &'static str)] = &[];
    const ARGUMENTS: &'static [&'static str] = &[];
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        ("name", "port_name"),
        ("host", "host_port"),
        ("container", "container_port"),
        ("bind", "bind_address"),
    ];

    fn id(&self) -> String {
        Self::id_of(self.protocol, self.host_port)
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if let Some(why) = forbidden(self.host_port) {
            problems.push(FieldError::new("host_port", self.host_port, why));
        }
        if self.container_port == 0 {
            problems.push(FieldError::new("container_port", 0, "expected 1 to 65535"));
        }
        if self.require_token && self.protocol == PortProtocol::Udp {
            let detail = "only HTTP has headers: expected tcp, or no token";
            problems.push(FieldError::new("protocol", "udp", detail));
        }
        problems
    }

    fn references(&self, config: &Config, problems: &mut Vec<FieldError>) -> Vec<Key> {
        match config.services.get(&self.service_name) {
            Some(service) => vec![service.key()],
            None => {
                let detail = "there is no such service: expected the name of a Docker service";
                problems.push(FieldError::new("service_name", self.service_name.as_str(), detail));
                Vec::new()
            }
        }
    }
}

/// What is spoken at a port.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[derive(clap::ValueEnum)]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// An address of the machine. Those that mean the same are the same: `localhost` and `::1` are `127.0.0.1`, and `::` is
/// `0.0.0.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BindAddress(pub IpAddr);

impl Default for BindAddress {
    fn default() -> Self {
        Self(Ipv4Addr::LOCALHOST.into())
    }
}

impl FromStr for BindAddress {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::default());
        }
        let address: IpAddr = text
            .parse()
            .map_err(|_| Expected("an address of this machine, e.g. 127.0.0.1, or 0.0.0.0 for all"))?;
        Ok(Self(match address.to_canonical() {
            IpAddr::V6(v6) if v6.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv4Addr::UNSPECIFIED.into(),
            other => other,
        }))
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for BindAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BindAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl JsonSchema for BindAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BindAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "BindAddress",
            "description": "an address of the machine; 0.0.0.0 is all of them"
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn port(more: Value) -> Result<Port, Vec<FieldError>> {
        let mut fields =
            json!({ "service_name": "web", "port_name": "http", "host_port": 14_000, "container_port": 80 });
        let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) else { panic!("objects") };
        fields.extend(more);
        Port::from_fields(std::mem::take(fields))
    }

    #[test]
    fn a_port_is_named_by_protocol_and_number() {
        assert_eq!(port(json!({})).expect("valid").id(), "tcp-14000");
        assert_eq!(port(json!({ "protocol": "udp" })).expect("valid").id(), "udp-14000");
    }

    #[test]
    fn addresses_that_mean_the_same_are_the_same() {
        for (text, expected) in [
            ("localhost", "127.0.0.1"),
            ("::1", "127.0.0.1"),
            ("::", "0.0.0.0"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            let bound = port(json!({ "bind_address": text })).expect(text).bind_address;
            assert_eq!(bound.to_string(), expected);
        }
        assert_eq!(port(json!({})).expect("valid").bind_address.to_string(), "127.0.0.1");
    }

    #[test]
    fn what_can_not_be_published_is_refused_by_name() {
        for (more, field) in [
            (json!({ "host_port": 80 }), "host_port"),
            (json!({ "host_port": 13_999 }), "host_port"),
            (json!({ "host_port": 27_017 }), "host_port"),
            (json!({ "host_port": 70_000 }), "host_port"),
            (json!({ "container_port": 0 }), "container_port"),
            (json!({ "bind_address": "eth0" }), "bind_address"),
            (json!({ "protocol": "sctp" }), "protocol"),
            (json!({ "protocol": "udp", "require_token": true }), "protocol"),
            (json!({ "source_networks": ["10.0.0.0/33"] }), "source_networks[0]"),
            (json!({ "port_name": "a b" }), "port_name"),
            (json!({ "exposed": true }), "exposed"),
        ] {
            let problems = port(more.clone()).expect_err("refused");
            assert_eq!(problems[0].field, field, "{more}");
        }
    }
}
