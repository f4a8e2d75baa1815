//! An external service: an upstream that is registered by name, so that routes can name it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::TargetUrl;
use super::field::FieldError;
use super::names::ServiceName;
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// An upstream that is registered by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Its name.
    pub service_name: ServiceName,
    /// Where it is.
    pub target_url: TargetUrl,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Whether routes may name it.
    #[serde(default = "yes")]
    pub routing_enabled: bool,
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

const fn yes() -> bool {
    true
}

impl Entity for External {
    const KIND: Kind = Kind::External;
    const NOUN: &'static str = "external service";
    const ID: &'static str = "service_name";
    const REQUIRED: &'static [&'static str] = &["service_name", "target_url"];
    const ARGUMENTS: &'static [&'static str] = &["service_name", "target_url"];
    const ALIASES: &'static [(&'static str, &'static str)] = &[("name", "service_name")];

    fn id(&self) -> String {
        self.service_name.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        Vec::new()
    }

    fn references(&self, _: &Config, _: &mut Vec<FieldError>) -> Vec<Key> {
        Vec::new()
    }
}
