//! A protected resource of the registry: a URI that tokens can be asked for.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::HostPattern;
use super::field::FieldError;
use super::names::{ResourceUri, Scope};
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// A protected resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// What tokens name as their audience.
    pub uri: ResourceUri,
    /// A name for people.
    pub name: String,
    /// The proxy that serves it.
    pub proxy_target: HostPattern,
    /// The scopes that it knows.
    #[serde(default = "mcp_scopes")]
    pub scopes: Vec<Scope>,
    /// Where its metadata is; absent: the well-known place (RFC 9728, section 3.1).
    #[serde(default)]
    pub metadata_url: Option<ResourceUri>,
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

fn mcp_scopes() -> Vec<Scope> {
    ["mcp:read", "mcp:write"].map(|scope| scope.parse().expect("a scope")).into()
}

impl Entity for Resource {
    const KIND: Kind = Kind::Resource;
    const NOUN: &'static str = "resource";
    const ID: &'static str = "uri";
    const REQUIRED: &'static [&'static str] = &["uri", "name", "proxy_target"];
    const ARGUMENTS: &'static [&'static str] = &["uri", "proxy_target", "name"];
    const ALIASES: &'static [(&'static str, &'static str)] = &[];

    fn id(&self) -> String {
        self.uri.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if self.name.trim().is_empty() || self.name.len() > 200 {
            problems.push(FieldError::new("name", self.name.as_str(), "expected 1 to 200 characters"));
        }
        problems
    }

    fn references(&self, config: &Config, problems: &mut Vec<FieldError>) -> Vec<Key> {
        if config.proxies.contains_key(&self.proxy_target) {
            return vec![Key::new(Kind::Proxy, self.proxy_target.as_str())];
        }
        problems.push(FieldError::new(
            "proxy_target",
            self.proxy_target.as_str(),
            "there is no such proxy: expected the host name of one that exists",
        ));
        Vec::new()
    }
}
